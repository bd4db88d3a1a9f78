"""`align dpo --rounds N`: the policy answers, a reward or a judge labels, DPO trains, and the new policy answers again.

Every round lies in the run folder as round-1, round-2, ...: its prompts.jsonl, a rollout run, with a judge its store
and snapshot, and a DPO run. Each of these goes on after a kill where it was, so the whole does. The reference of a
round is the policy that it began with (Xu et al. 2023, "Some things are more cringe"; Dong et al. 2024).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from alignment.console import note
from alignment.dpo.config import DPOConfig, Online
from alignment.dpo.run import train_dpo
from alignment.errors import AlignmentError
from alignment.files import whole_folder, write_text
from alignment.prompts import PromptStream, load_prompts
from alignment.runs import RunFolder


def train_in_rounds(config: DPOConfig, *, overwrite: bool = False, resume: bool = False) -> dict[str, Any]:
    """All rounds; the last policy lands in `run`/model. With `resume`, `rounds` may be higher than before.

    Returns the figures of summary.json: those of every round, and how many rounds. Raises AlignmentError for anything
    that the user can mend.
    """
    online = asked(config)
    prompts = load_prompts(online.prompts)
    path = Path(config.run)
    run = RunFolder.open(path, config, overwrite=overwrite, resume=resume, may_change=("rounds",))
    stream = PromptStream(prompts, config.seed)
    policy, rounds = config.policy.path, []
    for number in range(1, config.rounds + 1):
        some = stream.take(online.prompts_a_round or len(prompts))
        folder = run.path / f"round-{number}"
        if not (folder / "dpo" / "summary.json").exists():
            note(f"dpo: round {number} of {config.rounds}")
            write_prompts(folder / "prompts.jsonl", some)
            one_round(config, online, folder, policy, number)
        policy = str(folder / "dpo" / "model")
        rounds.append(figures(folder))
    with whole_folder(run.model) as aside:
        shutil.copytree(policy, aside, dirs_exist_ok=True)
    found = {"rounds": rounds, "steps": sum(one["steps"] for one in rounds)}
    run.summarize(found)
    return found


def asked(config: DPOConfig) -> Online:
    assert config.online is not None  # noqa: S101 (the config says so)
    return config.online


def write_prompts(path: Path, prompts: list[list[dict[str, str]]]) -> None:
    write_text(path, "".join(json.dumps({"prompt": p}, ensure_ascii=False) + "\n" for p in prompts))


def one_round(config: DPOConfig, online: Online, folder: Path, policy: str, number: int) -> None:
    data = answer_and_label(config, online, folder, policy, number)
    dpo = folder / "dpo"
    training = config.model_copy(
        update={
            "run": str(dpo),
            "policy": config.policy.model_copy(update={"path": policy}),
            "data": data,
            "seed": config.seed + number - 1,
            "rounds": 0,
            "online": None,
        }
    )
    train_dpo(training, resume=dpo.exists())


def answer_and_label(config: DPOConfig, online: Online, folder: Path, policy: str, number: int) -> str:
    """The preference data of a round: pairs by score, or a snapshot of what the judge said."""
    from alignment.rollouts import RolloutConfig, collect_rollouts

    store = None if online.judge is None else str(folder / "labels.db")
    rollout = RolloutConfig(
        run=str(folder / "rollout"),
        policy=config.policy.model_copy(update={"path": policy}),
        name=f"round-{number - 1}",
        prompts=str(folder / "prompts.jsonl"),
        completions=online.completions,
        reward=online.reward,
        keep="all" if online.judge else "pair",
        store=store,
        sampling=online.sampling,
        batch_size=online.batch_size,
        seed=config.seed + number - 1,
    )
    if not (Path(rollout.run) / "summary.json").exists():
        kept = collect_rollouts(rollout)["added"]
        note(f"dpo: round {number}: {kept} prompts with answers to compare")
        if not kept:
            raise AlignmentError(
                f"round {number}: no prompt has answers of unlike "
                + ("text" if online.judge else "score")
                + ": raise online.completions or online.sampling.temperature"
            )
    if store is None:
        return f"{rollout.run}/pairs.jsonl"
    return judged(online, store, folder / "snapshots")


def judged(online: Online, store: str, out: Path) -> str:
    """The snapshot of the store's comparisons, all of them labelled by the judge."""
    from labeling.judge.job import run_judge
    from labeling.snapshot import take_snapshot
    from labeling.store import Store

    assert online.judge is not None  # noqa: S101 (only then is there a store)
    opened = Store.open(store)
    note(run_judge(opened, online.judge).as_text())
    return str(take_snapshot(opened, out).path)


def figures(folder: Path) -> dict[str, Any]:
    """What a round came to: pairs trained on, steps, held-out accuracy and margin, the mean score of its answers."""
    dpo, rollout = (RunFolder(folder / name).summary for name in ("dpo", "rollout"))
    kept = ("train_pairs", "steps", "accuracy", "margin")
    return {name: dpo.get(name) for name in kept} | {"mean_score": rollout.get("mean_score")}


def plan_rounds(config: DPOConfig) -> dict[str, Any]:
    """What the rounds would take, for --dry-run."""
    online = asked(config)
    count = len(load_prompts(online.prompts))
    prompts = online.prompts_a_round or count
    answers = prompts * online.completions
    return {
        "rounds": config.rounds,
        "prompts a round": f"{prompts} of {count}",
        "answers a round": answers,
        "tokens to sample a round, at most": answers * online.sampling.max_new_tokens,
        "labelled by": online.judge.model if online.judge else online.reward,
    }
