"""What the annotators' pages say, in English and in Chinese."""

from __future__ import annotations

from dataclasses import dataclass

from labeling.people.person import Language


@dataclass(frozen=True)
class Texts:
    """Every text of the sign-in and annotator pages in one language. `{...}` is filled in by the caller."""

    html_lang: str
    # signing in
    sign_in: str
    name: str
    password: str
    password_again: str
    choose_password: str
    choose_password_hint: str
    passwords_differ: str
    first_admin: str
    first_admin_hint: str
    create_account: str
    link_ended: str
    sign_out: str
    not_for_you: str
    # the frame
    lead_page: str
    language: str
    theme: str
    themes: dict[str, str]
    signed_in_as: str
    signed_out: str
    unreachable: str
    # the item
    heading: str
    guidelines: str
    keys: str
    conversation: str
    roles: dict[str, str]
    answer: str
    ai_opinion: str
    ai_opinion_even: str
    # the verdict
    which: str
    scale: tuple[str, str, str, str, str, str, str]
    both_bad: str
    rank: str
    rank_hint: str
    all_bad: str
    aspects: str
    aspect_side: str
    rationale: str
    rationale_wanted: str
    rationale_hint: str
    # what can be done
    submit: str
    undo: str
    skip: str
    skip_why: str
    skip_reasons: dict[str, str]
    skip_note: str
    skip_confirm: str
    flag: str
    flag_why: str
    flag_confirm: str
    # what has happened
    saved: str
    saved_late: str
    skipped: str
    flagged: str
    undone: str
    nothing_to_undo: str
    choose_first: str
    rank_first: str
    rationale_first: str
    reason_first: str
    all_done: str
    # progress
    today: str
    left: str
    minutes: str
    hours: str
    key_help: tuple[tuple[str, str], ...]


EN = Texts(
    html_lang="en",
    sign_in="Sign in",
    name="Name",
    password="Password",  # noqa: S106
    password_again="The same again",  # noqa: S106
    choose_password="Choose a password",  # noqa: S106
    choose_password_hint="Welcome, {name}. At least {least} characters; a few words you remember are good.",  # noqa: S106
    passwords_differ="The two passwords differ.",
    first_admin="Welcome",
    first_admin_hint="This store has no accounts yet. Make the first one: it can invite everybody else.",
    create_account="Create account",
    link_ended="This link has been used or has run out. Ask your lead for a new one.",
    sign_out="Sign out",
    not_for_you="This page is for leads.",
    lead_page="Lead's page",
    language="中文",
    theme="Theme",
    themes={"light": "Light", "dark": "Dark", "system": "As the system"},
    signed_in_as="Signed in as {name}",
    signed_out="Your session has ended. Sign in in another tab, then go on here: nothing you typed is lost.",
    unreachable="The server does not answer. What you gave is kept here and sent as soon as it is back.",
    heading="Compare the answers",
    guidelines="Guidelines",
    keys="Keys",
    conversation="Conversation",
    roles={"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"},
    answer="Answer {letter}",
    ai_opinion="An AI judge prefers {letter} ({percent} %). Decide for yourself.",
    ai_opinion_even="An AI judge finds them about the same. Decide for yourself.",
    which="Which answer is better?",
    scale=(
        "A much better",
        "A better",
        "A slightly better",
        "About the same",
        "B slightly better",
        "B better",
        "B much better",
    ),
    both_bad="Both are bad",
    rank="Rank of {letter}",
    rank_hint="Rank the answers: 1 is the best, equal ranks are allowed.",
    all_bad="All are bad",
    aspects="How good is each, from 1 (poor) to 5 (excellent)?",
    aspect_side="{aspect}: {letter}",
    rationale="Why? (optional)",
    rationale_wanted="Why? (needed when the answers are close)",
    rationale_hint="What decided it",
    submit="Submit",
    undo="Undo",
    skip="Skip",
    skip_why="Why do you skip it?",
    skip_reasons={
        "cannot judge": "I cannot judge this",
        "unreadable": "Unreadable or broken",
        "harmful": "Harmful or private",
        "other": "Another reason",
    },
    skip_note="A note (optional)",
    skip_confirm="Skip this item",
    flag="Flag",
    flag_why="What should the lead look at?",
    flag_confirm="Flag this item",
    saved="Saved.",
    saved_late="Saved. You took longer than the lease, so it is kept as an extra label.",
    skipped="Skipped. You will not see it again.",
    flagged="Flagged for the lead. You can still answer it.",
    undone="Here is your last item again. The old answer stands until you submit a new one.",
    nothing_to_undo="There is nothing to undo.",
    choose_first="Choose a step of the scale first (keys 1 to 7, or B).",
    rank_first="Give every answer a rank first.",
    rationale_first="Please say why: these answers are close.",
    reason_first="Choose a reason first.",
    all_done="All done: there is nothing left for you to label. Thank you!",
    today="{count} today",
    left="{count} left",
    minutes="about {count} min to go",
    hours="about {count} h to go",
    key_help=(
        ("1 – 7", "the steps of the scale, from A to B"),
        ("← →", "one step to A or to B"),
        ("B", "both are bad"),
        ("Enter", "submit"),
        ("U", "undo: correct your last answer"),
        ("S", "skip, with a reason"),
        ("F", "flag for the lead"),
        ("W", "write why; Esc leaves the field, Ctrl+Enter submits"),
        ("G", "guidelines"),
        ("?", "these keys"),
        ("1 – 9", "when ranking: the rank of the marked answer; ← → mark another"),
    ),
)

ZH = Texts(
    html_lang="zh-CN",
    sign_in="登录",
    name="用户名",
    password="密码",  # noqa: S106
    password_again="再次输入密码",  # noqa: S106
    choose_password="设置密码",  # noqa: S106
    choose_password_hint="欢迎，{name}。密码至少 {least} 个字符，建议使用几个容易记住的词。",  # noqa: S106
    passwords_differ="两次输入的密码不一致。",
    first_admin="欢迎",
    first_admin_hint="这个标注库还没有账号。请创建第一个账号，之后可以由它邀请其他人。",
    create_account="创建账号",
    link_ended="此链接已被使用或已过期。请向负责人索取新的链接。",
    sign_out="退出登录",
    not_for_you="此页面仅供负责人使用。",
    lead_page="管理页面",
    language="English",
    theme="主题",
    themes={"light": "浅色", "dark": "深色", "system": "跟随系统"},
    signed_in_as="当前用户：{name}",
    signed_out="登录已失效。请在另一个标签页重新登录，然后在这里继续：已填写的内容不会丢失。",
    unreachable="服务器没有响应。已填写的内容保留在此页面，恢复后会自动提交。",
    heading="比较回答",
    guidelines="标注指南",
    keys="快捷键",
    conversation="对话",
    roles={"system": "系统", "user": "用户", "assistant": "助手", "tool": "工具"},
    answer="回答 {letter}",
    ai_opinion="AI 评审倾向于 {letter}（{percent} %）。请自行判断。",
    ai_opinion_even="AI 评审认为两者差不多。请自行判断。",
    which="哪个回答更好？",
    scale=("A 好得多", "A 更好", "A 略好", "差不多", "B 略好", "B 更好", "B 好得多"),
    both_bad="两个都不好",
    rank="{letter} 的名次",
    rank_hint="为回答排名：1 为最好，允许并列。",
    all_bad="全都不好",
    aspects="各方面评分：1（差）到 5（优秀）",
    aspect_side="{aspect}：{letter}",
    rationale="理由（选填）",
    rationale_wanted="理由（两者接近时必填）",
    rationale_hint="决定性的因素是什么",
    submit="提交",
    undo="撤销",
    skip="跳过",
    skip_why="为什么跳过？",
    skip_reasons={
        "cannot judge": "我无法判断",
        "unreadable": "无法阅读或内容损坏",
        "harmful": "有害内容或涉及隐私",
        "other": "其他原因",
    },
    skip_note="备注（选填）",
    skip_confirm="跳过此题",
    flag="标记",
    flag_why="需要负责人关注什么？",
    flag_confirm="标记此题",
    saved="已保存。",
    saved_late="已保存。由于超过了领取时限，此标注将作为额外标注保留。",
    skipped="已跳过。此题不会再出现。",
    flagged="已标记给负责人。你仍然可以作答。",
    undone="这是你的上一题。提交新答案之前，旧答案仍然有效。",
    nothing_to_undo="没有可以撤销的内容。",
    choose_first="请先选择一个等级（按键 1 到 7，或 B）。",
    rank_first="请先为每个回答给出名次。",
    rationale_first="请填写理由：这两个回答很接近。",
    reason_first="请先选择原因。",
    all_done="全部完成：目前没有需要你标注的内容。谢谢！",
    today="今日 {count} 条",
    left="剩余 {count} 条",
    minutes="约需 {count} 分钟",
    hours="约需 {count} 小时",
    key_help=(
        ("1 – 7", "从 A 到 B 的七个等级"),
        ("← →", "向 A 或向 B 移动一级"),
        ("B", "两个都不好"),
        ("Enter", "提交"),
        ("U", "撤销：修改上一个答案"),
        ("S", "跳过（需选择原因）"),
        ("F", "标记给负责人"),
        ("W", "填写理由；Esc 离开输入框，Ctrl+Enter 提交"),
        ("G", "标注指南"),
        ("?", "显示快捷键"),
        ("1 – 9", "排名时：当前回答的名次；← → 切换回答"),
    ),
)

LANGUAGES: tuple[Language, ...] = ("en", "zh")
TEXTS = {"en": EN, "zh": ZH}


def texts(language: str) -> Texts:
    """The texts in a language; in English for one that there are none in."""
    return TEXTS.get(language, EN)
