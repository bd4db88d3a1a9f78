"""The record of `align rollout`: answers.jsonl in the run folder, what is made of it, and its tally.

A row a prompt, written in one go with the rest of its piece, and before the store is: whatever moment a kill
comes at, the next call finds out from the record alone what is left to do.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.answers import Answered
from alignment.console import note
from alignment.errors import AlignmentError
from alignment.files import write_text
from alignment.kept import FOR_SFT, answers_of, choose, count, preference_rows, sft_rows
from alignment.prompts import EncodedPrompt
from alignment.runs import RunFolder

if TYPE_CHECKING:
    from alignment.rollouts import RolloutConfig
    from labeling.store import Store
    from labeling.views import Added, NewComparison

ANSWERS = "answers.jsonl"


def open_run(config: RolloutConfig, *, overwrite: bool) -> RunFolder:
    """The run folder, new or begun before with the same config."""
    run = RunFolder(Path(config.run))
    if overwrite or not (run.path / "config.yaml").exists():
        return RunFolder.create(run.path, config, overwrite=overwrite)
    if changed := run.changed_keys(config):
        raise AlignmentError(
            f"{run.path} was begun with other settings ({', '.join(changed)} changed): "
            "choose another `run`, or start it again with --overwrite"
        )
    return run


def unfinished(run: RunFolder, pieces: Sequence[list[EncodedPrompt]]) -> list[list[EncodedPrompt]]:
    """The pieces that no earlier call finished; what a kill left of the last one is dropped from the record.

    Raises AlignmentError if the record is not of these prompts.
    """
    rows = run.rows(ANSWERS)
    prompts = {prompt.row: prompt.messages for piece in pieces for prompt in piece}
    if any(row["prompt"] != prompts.get(row["row"]) for row in rows):
        raise AlignmentError(
            f"the prompts are not those that {run.path} was begun with: start again with --overwrite"
        )
    there = {row["row"] for row in rows}
    left = [piece for piece in pieces if not there.issuperset(prompt.row for prompt in piece)]
    torn = there.intersection(prompt.row for piece in left for prompt in piece)
    run.keep_rows(len(rows) - len(torn), ANSWERS)
    return left


def record(config: RolloutConfig, run: RunFolder, store: Store | None, answered: Sequence[Answered]) -> None:
    """Write a piece to the record, in one go, and its comparisons to the store."""
    rows = [as_row(one, config) for one in answered]

    def append(added: Sequence[Added] = ()) -> None:
        outcomes = iter(added)
        for row in rows:
            if added and row["outcome"] == "added":
                row["outcome"] = next(outcomes).outcome
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with (run.path / ANSWERS).open("a", encoding="utf-8") as file:
            file.write(lines)

    if store is None:
        append()
    else:  # recorded before it is committed: what a kill leaves out of the store, the next call adds
        store.add_comparisons(comparisons(config, rows), before_commit=append)


def as_row(one: Answered, config: RolloutConfig) -> dict[str, Any]:
    outcome = "failed" if one.failure else choose(one.answers, config.keep, config.min_score)[1]
    return {
        "row": one.prompt.row,
        "prompt": one.prompt.messages,
        "answers": [asdict(answer) for answer in one.answers],
        "tokens": one.tokens,
        "outcome": outcome,
        **({"reason": one.failure} if one.failure else {}),
    }


def comparisons(config: RolloutConfig, rows: Iterable[dict[str, Any]]) -> list[NewComparison]:
    """What the store gets of these rows: a comparison for each that is "added"."""
    from labeling.views import NewComparison, NewCompletion

    shared = {"sampling": config.sampling.model_dump(), "seed": config.seed}
    return [
        NewComparison(
            prompt=row["prompt"],
            completions=[
                NewCompletion(
                    messages=[{"role": "assistant", "content": answer.text}],
                    model=config.name or config.policy.path,
                    policy_version=answer.policy_version,
                    finish_reason=answer.finish_reason,
                    meta={"tokens": answer.tokens, "score": answer.score, **shared},
                )
                for answer in choose(answers_of(row), config.keep, config.min_score)[0]
            ],
        )
        for row in rows
        if row["outcome"] == "added"
    ]


def finish(config: RolloutConfig, run: RunFolder) -> dict[str, Any]:
    """The record in the order of the prompts, what is made of it, and its figures."""
    rows = run.rows(ANSWERS)
    if rows != (ordered := sorted(rows, key=lambda row: int(row["row"]))):
        write_rows(run.path / ANSWERS, ordered)
    figures = count(ordered)
    if config.keep == "pair":
        write_rows(run.path / "pairs.jsonl", preference_rows(ordered))
    if config.keep in FOR_SFT:
        examples = sft_rows(ordered, config.keep, config.min_score)
        write_rows(run.path / "sft.jsonl", examples)
        figures["sft_rows"] = len(examples)
    for reason, times in Counter(row["reason"] for row in ordered if "reason" in row).most_common(5):
        note(f"rollout: {times} prompts without an answer: {reason}")
    return figures


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def made(config: RolloutConfig) -> str | None:
    """The file that is made of the answers beside the record, if any."""
    return {"all": None, "pair": "pairs.jsonl"}.get(config.keep, "sft.jsonl")


def in_words(config: RolloutConfig, figures: dict[str, Any]) -> str:
    """The figures as a line for people: every prompt is in it."""
    what = {
        "duplicate": "there already",
        "identical": "with identical answers",
        "empty": "with an empty answer",
        "tied": "with equal scores",
        "truncated": "with truncated answers only",
        "below": f"below {config.min_score}",
        "failed": "failed",
        "too_long": "too long",
        "repeated_prompts": "repeated",
    }
    left_out = [f"{figures[key]} {words}" for key, words in what.items() if figures[key]]
    of = f" ({', '.join(left_out)})" if left_out else ""
    rows = f", {figures['sft_rows']} rows for SFT" if "sft_rows" in figures else ""
    place = made(config) or ANSWERS
    return (
        f"{figures['added']} of {figures['prompts'] + figures['too_long'] + figures['repeated_prompts']} prompts "
        f"kept{of}{rows}; {figures['truncated_answers']} of {figures['answers']} answers truncated, "
        f"{figures['tokens_per_second']:.0f} tokens/s; see {config.run}/{place}"
    )
