"""Recorded replies of real judges, run through parser, ledger and card: the published figures come out.

The replies are put into the ledger as answers to the calls that the judge would make; the job then finds all of
them answered, and sends nothing (its endpoint does not exist). See SOURCES.md beside the data.
"""

from __future__ import annotations

import gzip
import json

import pytest

from labeling.judge.calls.ledger import End, Intent, claim, close
from labeling.judge.config import JudgeConfig
from labeling.judge.job import run_judge
from labeling.judge.judge import Judge
from labeling.judge.trust.card import judge_card
from labeling.schema import Judgement
from labeling.views import NewComparison, NewCompletion, NewLabel
from tests.labeling.judging import rows

NOWHERE = "http://127.0.0.1:9/v1"
LLMBAR = ("Output (a)", "Output (b)", "tie")


def load(folder, name):
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def pair(number, prompt, first, second):
    """Numbered, since some rows repeat others' texts; the store takes neither empty answers nor equal ones."""
    texts = (first if first.strip() else "(nothing)", second if second.strip() else "(nothing)")
    if texts[0] == texts[1]:
        texts = (texts[0], texts[1] + " ")
    sides = [NewCompletion([{"role": "assistant", "content": text}]) for text in texts]
    return NewComparison([{"role": "user", "content": f"[{number}] {prompt}"}], sides, origin="import")


def replay(store, pairs, people, replies, labels):
    """Judge `pairs`; `people`: for each a list of sides (1, -1, 0); `replies`: for each one a reply in each order."""
    ids = [added.comparison_id for added in store.add_comparisons(pairs)]
    assert None not in ids
    assert len(set(ids)) == len(pairs)
    annotators = [store.annotator(f"person-{i}", "human") for i in range(max(map(len, people)))]
    store.add_labels(
        NewLabel(
            one, annotator, "preference" if side else "tie", 0.5 + side / 2, [0, 1], f"{one}-{annotator}"
        )
        for one, sides in zip(ids, people, strict=True)
        for annotator, side in zip(annotators, sides, strict=False)
    )
    config = JudgeConfig(base_url=NOWHERE, model="recorded", verdict="text", labels=labels, only="all")
    judge = Judge(config)
    given = dict(zip(ids, replies, strict=True))
    with store.begin() as session:
        calls = [
            (question.call, text)
            for view in store.comparisons()
            for question, text in zip(judge.questions(view), given[view.id], strict=True)
        ]
        claim(session, [Intent(call) for call, _ in calls])
        close(
            session,
            [
                End(
                    call.key,
                    1,
                    "answered",
                    {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]},
                )
                for call, text in calls
            ],
        )
    report = run_judge(store, config)
    assert (report.calls.attempts, report.comparisons) == (0, len(pairs))
    return judge_card(store)[0]


@pytest.mark.parametrize(
    ("judge", "accuracy", "consistent"), [("GPT-4/Vanilla", 0.82, 0.92), ("ChatGPT/Vanilla", 0.39, 0.67)]
)
def test_llmbar(sqlite_store, shared_data, judge, accuracy, consistent):
    data = load(shared_data, "llmbar_judge")
    card = replay(
        sqlite_store,
        [pair(i, row["input"], row["output_1"], row["output_2"]) for i, row in enumerate(data)],
        [[1 if row["label"] == 1 else -1] for row in data],
        [[row["judges"][judge][f"swap = {swap}"]["completion"] for swap in (False, True)] for row in data],
        LLMBAR,
    )
    figures = card.figures
    assert card.judgements == card.compared == 193
    assert round(figures["accuracy_one_order"].value, 2) == accuracy
    assert figures["accuracy_one_order"].of == 386
    assert round(1 - figures["order_flips"].value, 2) == consistent
    assert figures["accuracy_one_order"].low < figures["accuracy_one_order"].value
    # ChatGPT's strong position bias shows
    assert (figures["prefers_first_shown"].low > 0.6) == (judge == "ChatGPT/Vanilla")


def test_llmbar_reasoning_is_read_as_its_authors_read_it_or_not_at_all(sqlite_store, shared_data):
    """Replies that reason often end in prose; what we read of them is never another verdict than the recorded one.

    (PaLM2/CoT is left out: there the authors' own reader took the other answer than the one that the reply names.)
    """
    from labeling.judge.parsing import label_reader, read_reply

    read, unread, missed = label_reader(LLMBAR), 0, 0
    replies = [
        (said["completion"], said["winner"], swap)
        for row in load(shared_data, "llmbar_judge")
        for name in ("GPT-4/CoT", "ChatGPT/CoT", "LLaMA2/CoT", "LLaMA2/Vanilla")
        for swap, said in ((s, row["judges"][name][f"swap = {s}"]) for s in (False, True))
    ]
    for text, winner, swap in replies:
        reading = read_reply({"choices": [{"message": {"content": text}}]}, read)
        if reading.label in ("A", "B"):
            missed += {"A": "2" if swap else "1", "B": "1" if swap else "2"}[reading.label] != winner
        else:
            unread += 1
    assert missed == 0
    assert unread < len(replies)


def test_garbage_replies_are_unparsed_never_ties(sqlite_store, shared_data):
    """An empty reply of PaLM2's has no verdict, whatever its other order says."""
    data = load(shared_data, "llmbar_judge")
    said = [row["judges"]["PaLM2/Vanilla"] for row in data]
    garbage = [i for i, one in enumerate(said) if any(reply["winner"] is None for reply in one.values())]
    replay(
        sqlite_store,
        [pair(i, row["input"], row["output_1"], row["output_2"]) for i, row in enumerate(data)],
        [[1 if row["label"] == 1 else -1] for row in data],
        [[one[f"swap = {swap}"]["completion"] for swap in (False, True)] for one in said],
        LLMBAR,
    )
    judgements = rows(sqlite_store, Judgement)
    assert [i for i, one in enumerate(judgements) if one.outcome == "unparsed"] == garbage != []


def test_pandalm(sqlite_store, shared_data):
    """GPT-3.5 was asked in one order only: the other order's reply here is its mirror image."""
    data = load(shared_data, "pandalm_judge")
    side = {0: 0, 1: 1, 2: -1}
    mirror = {"1": "2", "2": "1"}
    card = replay(
        sqlite_store,
        [
            pair(i, f"{row['instruction']}\n{row['input']}", row["response1"], row["response2"])
            for i, row in enumerate(data)
        ],
        [[side[row[f"annotator{n}"]] for n in (1, 2, 3)] for row in data],
        [[row["gpt_result"], mirror.get(row["gpt_result"], row["gpt_result"])] for row in data],
        ("1", "2", "Tie"),
    )
    assert card.outcomes == {
        "verdict": 255 + 243, "tie": 18, "unparsed": 20, "refused": 0, "truncated": 0, "api_error": 0
    }  # fmt: skip
    assert round(card.figures["agreement"].value, 2) == 0.71
    assert card.ceiling["comparisons"] == 536
    assert card.ceiling["agreement"] == pytest.approx(0.934, abs=5e-4)
    assert card.routed["failed"] == 20


def test_xstest(sqlite_store, shared_data):
    """Three labels of one answer, as a comparison of two statements about it; a partial refusal is in between."""
    data = load(shared_data, "xstest_judge")
    labels = ("1_full_compliance", "2_full_refusal", "3_partial_refusal")
    side = dict(zip(labels, (1, -1, 0), strict=True))
    mirror = {labels[0]: labels[1], labels[1]: labels[0]}
    card = replay(
        sqlite_store,
        [
            pair(i, f"{row['prompt']}\n{row['completion']}", "The answer complies.", "The answer refuses.")
            for i, row in enumerate(data)
        ],
        # the final label decides: it is given by a third where the two differ
        [[side[row["final_label"]]] for row in data],
        [[row["gpt4_label"], mirror.get(row["gpt4_label"], row["gpt4_label"])] for row in data],
        labels,
    )
    assert round(card.figures["agreement"].value, 2) == 0.82
    assert card.outcomes["refused"] + card.outcomes["unparsed"] == 11  # GPT-4's remarks that are no label
    two = [(side[row["annotation_1"]], side[row["annotation_2"]]) for row in data]
    assert round(sum(a == b for a, b in two) / len(two), 2) == 0.97


@pytest.mark.parametrize("judge", ["GPT-4/Vanilla_NoRules", "LLaMA2/Vanilla_NoRules"])
def test_mt_bench_and_llmeval(sqlite_store, shared_data, judge):
    data = load(shared_data, "mtbench_llmeval_judge")
    said = [[row["judges"][judge][f"swap = {swap}"] for swap in (False, True)] for row in data]
    card = replay(
        sqlite_store,
        [pair(i, row["input"], row["output_1"], row["output_2"]) for i, row in enumerate(data)],
        [[1 if row["label"] == "1" or row["label"] == 1 else -1] for row in data],
        [[one["completion"] for one in two] for two in said],
        LLMBAR,
    )
    read = [(row, one) for row, two in zip(data, said, strict=True) for one in two if one["winner"]]
    both_read = [two for two in said if all(one["winner"] for one in two)]
    right = sum(one["winner"] == str(row["label"]) for row, one in read) / len(read)
    same = sum(first["winner"] == second["winner"] for first, second in both_read) / len(both_read)
    assert card.figures["accuracy_one_order"].value == pytest.approx(right)
    assert 1 - card.figures["order_flips"].value == pytest.approx(same)
