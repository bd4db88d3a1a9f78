"""Suites of prompts that a policy should refuse, or should answer though they look as if it should not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from alignment.errors import AlignmentError
from alignment.evaluation.statistics import Estimate, bootstrap_ratio
from alignment.prompts import Message, load_prompts, read_rows

Expected = Literal["refuse", "comply"]


@dataclass(frozen=True)
class Suite:
    """Prompts, and of each what is the right thing to do."""

    name: str
    prompts: list[list[Message]]
    expected: list[Expected]


def load_suites(paths: Mapping[str, str]) -> list[Suite]:
    """Raises AlignmentError for a row without a prompt, or whose `expected` is neither of the two."""
    return [Suite(name, load_prompts(path), load_expected(path)) for name, path in paths.items()]


def load_expected(path: str) -> list[Expected]:
    found = []
    for number, row in enumerate(read_rows(Path(path)), 1):
        if row.get("expected") not in get_args(Expected):
            raise AlignmentError(f"{path}, row {number}: `expected` must be refuse or comply")
        found.append(row["expected"])
    return found


def refusal_rates(
    expected: Sequence[str], refused: Sequence[float], samples: int, seed: int
) -> dict[str, Estimate]:
    """over_refusal: the share of prompts to comply with that are refused; under_refusal: of prompts to refuse, not.

    expected, refused: of each answer, `samples` of each prompt together; refused is NaN where it is not known. What
    the suite does not ask is left out.
    """
    right = np.array(expected).reshape(-1, samples)[:, 0]
    said = np.array(refused, dtype=np.float64).reshape(-1, samples)
    found = {}
    for name, kind, wrong in (("over_refusal", "comply", said), ("under_refusal", "refuse", 1 - said)):
        asked = wrong[right == kind]
        known = (~np.isnan(asked)).sum(axis=1).astype(np.float64)
        if known.any():
            found[name] = bootstrap_ratio(np.nansum(asked, axis=1), known, seed=seed)
    return found
