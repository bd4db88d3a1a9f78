"""Words, scripts, duplicates and contamination: numbers worked by hand, and what must hold of any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.data_cleaning.contamination import Evaluation
from alignment.data_cleaning.duplicates import Place, Seen, bands
from alignment.data_cleaning.rules import CleaningRules, Examiner
from alignment.data_cleaning.words import plain, runs, script_shares, words
from alignment.errors import ConfigError
from labeling.importers.records import Answer, assistant, user

CHARACTERS = list("春眠不觉晓处处闻啼鸟夜来风雨声花落知多少白日依山尽黄河入海流欲穷千里目更上一层楼")
NUMBERS = [f"word{i}" for i in range(40)]


def row(asked: str, answered: str) -> Answer:
    return Answer([user(asked)], [assistant(answered)])


def test_words_of_both_kinds_of_script() -> None:
    assert words("Don't stop, １２ times!") == ("don", "t", "stop", "12", "times")
    assert words("我们GPT-4的，Straße") == ("我", "们", "gpt", "4", "的", "strasse")
    assert words("ありがとう 한국어 __") == ("あ", "り", "が", "と", "う", "한국어")
    assert words("... !?") == ()
    assert plain(" ａ \n\t b ") == "a b"


def test_runs_by_hand() -> None:
    assert list(runs("abcd", 3)) == [("a", "b", "c"), ("b", "c", "d")]
    assert list(runs("ab", 3)) == [("a", "b")]
    assert list(runs("", 3)) == []


@given(st.text(), st.integers(1, 5))
def test_any_text_has_runs_and_shares(text: str, length: int) -> None:
    found = words(text)
    assert len(list(runs(found, length))) == (max(1, len(found) - length + 1) if found else 0)
    shares = script_shares(text)
    assert not shares or sum(shares.values()) == pytest.approx(1)
    assert words(text + " ") == found


def test_script_shares_by_hand() -> None:
    assert script_shares("inn friend 12 河边") == {"latin": 0.5, "han": 0.5}
    assert script_shares("これは本") == {"kana": 0.75, "han": 0.25}
    assert script_shares("да ᚠ") == {"cyrillic": 0.5, "other": 0.5}
    assert script_shares("1 + 1 = 2") == {}


def test_the_same_words_are_an_exact_duplicate_whatever_their_spacing() -> None:
    seen = Seen(None)
    assert seen.add(["Where is it?", "Here."], Place("a", 1)) is None
    again = seen.add(["Where  is\nit？", "Here."], Place("b", 7))
    assert again
    assert (again.of, again.exact) == (Place("a", 1), True)
    assert seen.add(["Where is it?", "There."], Place("b", 8)) is None
    assert seen.add(["Where is", "it? Here."], Place("b", 9)) is None  # another answer to another prompt


@pytest.mark.parametrize(
    "texts",
    [
        NUMBERS,
        CHARACTERS,
    ],
)
def test_one_word_of_forty_makes_a_near_duplicate_and_five_do_not(texts: list[str]) -> None:
    """One word inside changes 3 of 38 shingles: 35 of 41 are shared, 0.85. Five apart change 15: 23 of 53, 0.43."""
    between = " " if len(texts[0]) > 1 else ""
    seen = Seen(0.8)
    assert seen.add([between.join(texts)], Place("a", 1)) is None
    other = [*texts[:20], "换", *texts[21:]]
    near = seen.add([between.join(other)], Place("a", 2))
    assert near
    assert (near.of, near.exact) == (Place("a", 1), False)
    assert near.similarity == pytest.approx(35 / 41, abs=0.1)
    far = [("换" if i in (5, 12, 19, 26, 33) else word) for i, word in enumerate(texts)]
    assert seen.add([between.join(far)], Place("a", 3)) is None


def test_a_lower_similarity_is_found_as_well() -> None:
    """Pairs of 40 words that share 30 of their 38 shingles: 30 of 46, 0.65. Each pair has words of its own."""
    assert bands(0.8) == (16, 8)  # 1 - (1 - 0.8^8)^16 = 0.947, and with 9 rows 0.867
    assert bands(0.5) == (42, 3)  # 0.996, and with 4 rows 0.873
    assert bands(0.9) == (9, 14)  # 0.904, and with 15 rows 0.829
    seen, found = Seen(0.5), 0
    for pair in range(100):
        own = [f"{word}x{pair}" for word in NUMBERS]
        assert seen.add([" ".join(own)], Place("a", pair)) is None
        again = seen.add([" ".join([*own[:32], *(f"new{i}x{pair}" for i in range(8))])], Place("b", pair))
        found += again is not None and again.of == Place("a", pair)
    assert found >= 95


def test_the_most_alike_row_is_named() -> None:
    seen = Seen(0.5)
    seen.add([" ".join(NUMBERS[:30])], Place("a", 1))
    seen.add([" ".join([*NUMBERS[10:], "x"])], Place("a", 2))  # shares 18 of 57 shingles with the first
    near = seen.add([" ".join(NUMBERS[10:])], Place("a", 3))
    assert near
    assert near.of == Place("a", 2)


def test_contamination_by_runs_of_13_and_of_8_words_and_by_whole_messages() -> None:
    evaluation = Evaluation(
        [
            (Place("test", 1), [" ".join(NUMBERS[:20])]),
            (Place("test", 2), ["one two three four five six seven eight nine"]),
            (Place("test", 3), ["Who wrote Hamlet?", "河边的旅店在哪里"]),
        ]
    )
    assert evaluation.find(["so " + " ".join(NUMBERS[3:16]) + " it is"]) == (
        Place("test", 1),
        " ".join(NUMBERS[3:16]),
    )
    assert evaluation.find([" ".join(NUMBERS[3:15]) + " it is"]) is None  # 12 words of a long text
    assert evaluation.find(["zero one two three, four five six seven EIGHT."]) == (
        Place("test", 2),
        "one two three four five six seven eight",
    )
    assert evaluation.find(["one two three four five six seven"]) is None
    assert evaluation.find(["who wrote hamlet"]) == (Place("test", 3), "who wrote hamlet")
    assert evaluation.find(["Tell me: who wrote Hamlet?"]) is None
    assert evaluation.find(["请问河边的旅店在哪里？"]) == (Place("test", 3), "河 边 的 旅 店 在 哪 里")


def test_a_phrase_that_all_evaluation_rows_share_does_not_count() -> None:
    asked = "Below is a question about something. Write down nothing but the right answer to it please."
    for rows, expected in ((10, True), (11, False)):
        evaluation = Evaluation([(Place("t", i), [f"{asked} {NUMBERS[i] * 2}"]) for i in range(rows)])
        assert bool(evaluation.find([asked])) is expected


def test_counting_is_no_contamination() -> None:
    count = " ".join(map(str, range(40)))
    assert Evaluation([(Place("t", 1), [count])]).find([count]) is None


def test_faults_come_in_order_and_what_left_is_no_original() -> None:
    examiner = Examiner(
        CleaningRules(min_words=3, max_words=30, scripts=("latin",)),
        Evaluation([(Place("t", 1), ["who wrote hamlet"])]),
    )
    reasons = []
    for number, item in enumerate(
        [
            row("hi", "ho"),
            row("hi there", "ho " * 30),
            row("河边的旅店在哪里", "在桥边 inn"),
            row("河边的旅店在哪里", "在桥边 inn"),  # left before: not a duplicate
            row("Who wrote Hamlet?", "Shakespeare."),
            row("1 + 1 = 2", "2 + 2 = 4"),
            row("1 + 1 = 2", "2 + 2 = 4"),
            row("Where is the inn?", "Near the bridge."),
        ],
        1,
    ):
        fault = examiner.fault(item, Place("a", number))
        reasons.append(fault and (fault.reason, fault.details))
    shares = {"shares": {"han": 0.917, "latin": 0.083}}
    assert reasons == [
        ("too short", {"words": 2}),
        ("too long", {"words": 32}),
        ("other script", shares),
        ("other script", shares),
        ("contaminated", {"by": {"file": "t", "row": 1}, "shared": "who wrote hamlet"}),
        None,
        ("exact duplicate", {"of": {"file": "a", "row": 6}, "similarity": 1.0}),
        None,
    ]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"near": 1.2}, "0.5 or more and less than 1"),
        ({"near": 0.1}, "0.5 or more and less than 1"),
        ({"min_words": 5, "max_words": 4}, "no row has"),
        ({"scripts": ("latn",)}, "did you mean 'latin'"),
        ({"scripts": ("zz",)}, "known: latin, han"),
    ],
)
def test_rules_that_make_no_sense(rules: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CleaningRules(**rules)  # type: ignore[arg-type]
