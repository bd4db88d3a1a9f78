"""Answers of two policies as comparisons in a store, for judges and people to label.

Whoever labels sees neither names nor a fixed order: the store's queue draws the order, and a judge is asked in both.
comparisons.jsonl in the run folder says which comparison is of which answers.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignment.evaluation.config import EvalConfig
from alignment.evaluation.sampling import Answer
from alignment.files import write_text
from alignment.runs import RunFolder

if TYPE_CHECKING:
    from labeling.store import Store

FILE = "comparisons.jsonl"
HOW_TO_LABEL = "`align judge run` or people with `align label` label them"


def pairs(config: EvalConfig) -> list[tuple[str, str]]:
    """The policies that are compared: each with the reference, or every two."""
    names = list(config.policies)
    if config.comparisons and config.comparisons.pairs == "reference":
        return [(name, config.reference) for name in names if name != config.reference]
    return [(one, other) for i, one in enumerate(names) for other in names[:i]]


def add_comparisons(
    config: EvalConfig, run: RunFolder, store: Store, answers: Sequence[Answer]
) -> Counter[str]:
    """Puts each pair's answers into the store, sample by sample, and writes down what they are; counts outcomes."""
    from labeling.views import NewComparison, NewCompletion

    def completion(answer: Answer) -> NewCompletion:
        return NewCompletion(
            [{"role": "assistant", "content": answer.text}],
            model=config.policies[answer.policy],  # by which a judge knows answers of its own
            finish_reason=answer.completion.finish_reason,
            meta={"policy": answer.policy, "run": config.run, "seed": config.seed},
        )

    by_policy: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_policy[answer.policy].append(answer)
    matches = [
        match for one, other in pairs(config) for match in zip(by_policy[one], by_policy[other], strict=True)
    ]
    added = store.add_comparisons(
        NewComparison(a.prompt.messages, [completion(a), completion(b)], origin="eval") for a, b in matches
    )
    ids = [one.comparison_id for one in added if one.comparison_id]
    first = {view.id: view.sides[0][0][0]["content"] for view in store.comparisons(ids=ids)}
    rows = [
        {
            "one": a.policy,
            "other": b.policy,
            "row": a.prompt.row,
            "comparison_id": one.comparison_id,
            "outcome": one.outcome,
            "one_is_first": one.comparison_id is not None and first[one.comparison_id] == a.text,
            "lengths": [len(a.text), len(b.text)],
            "empty": [not a.text.strip(), not b.text.strip()],
        }
        for (a, b), one in zip(matches, added, strict=True)
    ]
    write_text(run.path / FILE, "".join(json.dumps(row) + "\n" for row in rows))
    return Counter(one.outcome for one in added)
