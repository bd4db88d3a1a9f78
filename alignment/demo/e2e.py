"""The demo's pipeline on real data: restaurant facts in, a description out (E2E; Novikova, Dusek, Rieser 2017).

The data is not part of the project; its path is given: JSON lines, gzipped or not, with `mr`, for example
`name[The Eagle], eatType[pub], area[riverside]`, and `ref`, what a person wrote. People leave facts out
now and then, so the references have a mixed habit by themselves.

The oracle asks whether every slot of the MR is worded in the answer and no slot otherwise than the MR has
it. Its wordings are regular expressions of ours, so unlike the notes task's it is not exact; how it rates
the human references says how far to trust it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from alignment.demo.task import Message, Split
from alignment.errors import AlignmentError

ASK = "Describe this place:"
SLOT = re.compile(r"([\w ]+)\[([^\]]*)\]")

_PRICE = r"(?:price|cost|pricing|charge)\w*"
_RATING = r"(?:rat(?:ed|ing|ings|e)|review\w*|customers?|stars?|recommend\w*|score\w*|satisfaction|quality)"
_KIDS = r"(?:famil(?:y|ies)|kids?|child(?:ren)?)"

# slot -> value -> how it is worded, in lower case; values on one line of PARAPHRASES also count as each other
WORDINGS: dict[str, dict[str, str]] = {
    "eatType": {
        "pub": r"\bpubs?\b|\bbar\b",
        "coffee shop": r"\bcoffee|\bcafe\b",
        "restaurant": r"\brestaurant|\beatery|\bdining|\bdiner|\bserv|\bfood",
    },
    "food": {
        "Japanese": r"\bjapan|\bsushi",
        "Italian": r"\bital|\bpasta|\bpizza|\bspaghetti",
        "Fast food": r"\bfast[- ]?foods?\b|\bburgers?\b|\bfries\b|\bquick",
        "French": r"\bfrench\b|\bfrance\b|\bwine",
        "Indian": r"\bindian?\b|\bcurr(?:y|ies)\b",
        "English": r"\benglish\b|\bbritish\b|\bengland\b|\btraditional\b|\bfish and chips",
        "Chinese": r"\bchin(?:a|ese)\b",
    },
    "priceRange": {
        "cheap": rf"\bcheap|\binexpensive|\baffordable|\bbudget|\blow[- ]*(?:\w+ )?{_PRICE}|\bbargain|"
        rf"\b{_PRICE}[^.]{{0,20}}\blow\b|\bvalue for money|\breasonabl|\blow price",
        "less than £20": r"\b(?:less|under|below|lower|cheaper|beneath|up to|no more|does ?n.t exceed|not exceed\w*)\b"
        r"[^.]{0,25}20\b|20 (?:pounds )?(?:or|and) (?:less|under|below)",
        "moderate": rf"\bmoderate|\bmid[- ]|\bmedium|\breasonabl|\bmid\w* {_PRICE}|\baverage(?:ly)?[- ]+(?:\w+ )?"
        rf"{_PRICE}|\b{_PRICE}[^.]{{0,20}}\baverage|\bfair(?:ly)?[- ]{_PRICE}|\baffordabl",
        "£20-25": r"20\D{1,12}25\b",
        "high": rf"\bexpensive|\bhigh(?:er|ly)?[- ]*(?:\w+ )?{_PRICE}|\b{_PRICE}[^.]{{0,25}}\bhigh|\bupscale|"
        rf"\bhigh[- ]end|\bpricey|\bcostly|\bluxur",
        "more than £30": r"\b(?:more|over|above|higher|upwards?|exceed\w*|starts?|from|starting|excess|least|minimum|"
        r"greater)\b[^.]{0,25}30\b|30 ?(?:pounds)? ?(?:\+|or more|and (?:up|over|above)|plus)",
    },
    "customer rating": {
        "low": rf"\b(?:low|poor|bad|terribl)\w*[- ]*(?:\w+ ){{0,3}}{_RATING}|\b{_RATING}\W[^.]{{0,25}}\b(?:low|poor|"
        rf"bad)|\bunpopular|\bnot (?:\w+ )?(?:recommended|well)",
        "1 out of 5": r"\b(?:1|one)(?: out)?(?: of|/| stars?)\b ?|\b(?:1|one)[- ]stars?|\b1 ?/ ?5",
        "average": rf"\baverage\w*[- ]*(?:\w+ ){{0,3}}{_RATING}|\b{_RATING}\W[^.]{{0,25}}\b(?:average|moderate|"
        rf"mediocre|okay|ok|decent)|\b(?:moderate|decent|mediocre)\w*[- ](?:\w+ )?{_RATING}|\baverage\b",
        "3 out of 5": r"\b(?:3|three)(?: out)?(?: of|/| stars?)\b ?|\b(?:3|three)[- ]stars?|\b3 ?/ ?5",
        "high": rf"\b(?:high|great|excellent|good|top|well|best|positive|outstanding)\w*[- ]*(?:\w+ ){{0,3}}{_RATING}|"
        rf"\b{_RATING}\W[^.]{{0,25}}\b(?:high|excellent|great|good)|\bpopular|\bhighly\b",
        "5 out of 5": r"\b(?:5|five)(?: out)?(?: of|/| stars?)\b ?|\b(?:5|five)[- ]stars?|\b5 ?/ ?5",
    },
    "area": {
        "riverside": r"\briver|\bwaterfront|\bwaterside|\bby the water",
        "city centre": r"\bcent(?:re|er)\b|\bcentral\b|\bdowntown|\bheart of the city|\bin the city",
    },
    "familyFriendly": {
        "no": rf"\b(?:no|not|non|n.t|never|isn.t|without|lacks?|un)\b[^.,;]{{0,45}}{_KIDS}|\badults?\b|"
        rf"\b{_KIDS}[- ]*(?:are|is)?[- ]*(?:not|n.t|un)|\bunfriendly|\bunsuitable|"
        r"\bfamil\w+ (?:free|should)|\bchild[- ]free",
        "yes": rf"\b{_KIDS}\b|\ball ages",
    },
}
PARAPHRASES = [
    {"cheap", "less than £20"},
    {"moderate", "£20-25"},
    {"high", "more than £30"},
    {"low", "1 out of 5"},
    {"average", "3 out of 5"},
    {"high", "5 out of 5"},
]
UNASKED = ("food", "priceRange", "customer rating", "area", "familyFriendly")  # telling of these needs the MR


class E2ETask:
    """The E2E data at a path as an `alignment.demo.task.Task`; `check` adds `coverage` and `wellformed`."""

    name = "e2e"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        return list(read(self.path))

    def references(self, n: int, seed: int) -> list[dict[str, Any]]:
        """Up to `n` rows {prompt, completion}, the completions written by people."""
        rows = [row for row in self.rows if split_of(row["mr"]) == "train"]
        chosen = random.Random(seed).sample(rows, min(n, len(rows)))
        return [
            {"prompt": to_prompt(row["mr"]), "completion": [{"role": "assistant", "content": row["ref"]}]}
            for row in chosen
        ]

    def prompts(self, n: int, seed: int, split: Split) -> list[list[Message]]:
        """Up to `n` distinct prompts of one split."""
        mrs = sorted({row["mr"] for row in self.rows if split_of(row["mr"]) == split})
        return [to_prompt(mr) for mr in random.Random(seed).sample(mrs, min(n, len(mrs)))]

    def check(self, prompt: list[Message], answer: str) -> dict[str, float]:
        return check(prompt, answer)


def read(path: Path) -> Iterator[dict[str, str]]:
    """The rows {mr, ref}. Raises AlignmentError with the line that does not fit."""
    if not path.is_file():
        raise AlignmentError(f"no E2E data at {path}: give the path of a JSONL file with `mr` and `ref`")
    with (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8") as lines
    ):
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                yield {"mr": row["mr"], "ref": row["ref"]}
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise AlignmentError(f"{path}, line {number}: not an object with `mr` and `ref`") from error


def split_of(mr: str) -> Split:
    """One MR in five is held out."""
    return "test" if hashlib.sha256(mr.encode()).digest()[0] < 51 else "train"


def to_prompt(mr: str) -> list[Message]:
    return [{"role": "user", "content": f"{ASK} {mr}"}]


def slots_of(prompt: list[Message]) -> dict[str, str]:
    """slot -> value. Raises AlignmentError if it is not one of this task's prompts."""
    text = prompt[-1]["content"] if prompt else ""
    slots = {slot.strip(): value for slot, value in SLOT.findall(text.removeprefix(ASK))}
    if not text.startswith(ASK) or not slots:
        raise AlignmentError(
            f"not a prompt of the E2E task: {text[:60]!r} (like: {ASK} name[The Eagle], food[French])"
        )
    return slots


def check(prompt: list[Message], answer: str) -> dict[str, float]:
    """The oracle: each slot that is missing, told otherwise or told unasked is a fault, bad form half a one."""
    slots = slots_of(prompt)
    text = plain(answer)
    for place in ("name", "near"):  # what a place is called says nothing of the other slots
        if place in slots:
            text = text.replace(plain(slots[place]), f"<{place}>")
    missing = sum(not says(slot, value, text) for slot, value in slots.items())
    wrong = sum(says_otherwise(slot, value, text) for slot, value in slots.items() if slot in WORDINGS)
    unasked = sum(
        any(re.search(wording, text) for wording in WORDINGS[slot].values())
        for slot in UNASKED
        if slot not in slots
    )
    wellformed = answer.rstrip().endswith((".", "!", "?")) and not repeats(text)
    faults = missing + wrong + unasked + 0.5 * (not wellformed)
    return {
        "success": float(faults == 0),
        "complete": float(missing == 0),
        "faithful": float(wrong + unasked == 0),
        "wellformed": float(wellformed),
        "coverage": 1 - missing / len(slots),
        "quality": 0.0 - faults,
    }


def plain(text: str) -> str:
    return " ".join(text.lower().replace("é", "e").replace("’", "'").split())


def says(slot: str, value: str, text: str) -> bool:
    """Whether the slot is worded, its paraphrases included. `text` as `check` prepares it."""
    if slot in ("name", "near"):
        return f"<{slot}>" in text
    wordings = WORDINGS.get(slot, {})
    if slot == "familyFriendly" and value == "yes":
        return bool(re.search(wordings["yes"], text)) and not re.search(wordings["no"], text)
    known = [w for v, w in wordings.items() if v == value or same(v, value)]
    return any(re.search(w, text) for w in known) if known else plain(value) in text


def says_otherwise(slot: str, value: str, text: str) -> bool:
    """Whether the slot is worded as another value and not as its own."""
    if slot == "eatType" or says(slot, value, text):
        return False
    return any(re.search(w, text) for v, w in WORDINGS[slot].items() if v != value and not same(v, value))


def same(a: str, b: str) -> bool:
    return any(a in group and b in group for group in PARAPHRASES)


def repeats(text: str, words: int = 4) -> bool:
    """Whether a run of so many words comes twice."""
    said = re.findall(r"[\w<>]+", text)
    runs = [tuple(said[i : i + words]) for i in range(len(said) - words + 1)]
    return len(runs) != len(set(runs))
