"""`align ppo`: from a config to a tuned policy in a run folder, with checkpoints that continue bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.checkpoints import load_checkpoint
from alignment.console import note
from alignment.engines import build_engine
from alignment.errors import AlignmentError
from alignment.heap import hold_heap
from alignment.models import context_length, load_tokenizer
from alignment.ppo.config import PPOConfig
from alignment.ppo.failures import how_to_continue, one_line
from alignment.ppo.plan import require_parts
from alignment.ppo.probe import BEST, Probe, best_so_far, build_probe
from alignment.ppo.probe import ROWS as PROBE
from alignment.ppo.processes import barrier, is_main, together, world_size
from alignment.ppo.report import write_ppo_report
from alignment.ppo.saving import write_checkpoint, write_policy
from alignment.ppo.watch import Watch, rewind
from alignment.prompts import Message, encode_prompts
from alignment.runs import RunFolder
from alignment.scorers import load_scorer
from reward.errors import RewardError

if TYPE_CHECKING:
    from alignment.ppo.trainer import PPOTrainer

MAY_CHANGE_ON_RESUME = {
    *("iterations", "save_every", "keep_checkpoints", "microbatch", "shard", "alarms", "track", "vllm"),
}


@together()
def train_ppo(config: PPOConfig, *, overwrite: bool = False, resume: bool = False) -> dict[str, Any]:
    """Train, checkpointing as it goes; returns the figures of summary.json.

    Several processes of a launcher work as one: the main one writes, and what it writes is what one alone would.
    Raises AlignmentError for anything a user can mend; the last whole checkpoint then continues with `resume`.
    """
    prompts = require_parts(config)
    if config.engine != "transformers" and world_size() > 1:
        raise AlignmentError(
            f"engine={config.engine} works with one training process, and here are {world_size()}: use "
            "engine=transformers"
        )
    run = open_run(config, overwrite=overwrite, resume=resume)
    trainer = build_trainer(config, run, prompts)
    probe = build_probe(config, trainer, run)
    if resume:
        continue_from_checkpoint(trainer, run)
    with closing(trainer), one_line(trainer, run):
        stopped = train(trainer, run, probe)
        write_policy(trainer, run.model)
    figures = summarize(run, config)
    run.summarize(figures)
    if run.writes:
        write_ppo_report(run, figures)
    barrier()
    note(f"PPO: policy after {trainer.iteration} iterations in {run.model}")
    if best := figures.get("best"):
        first, last = figures["gold"]["first"], figures["gold"]["last"]
        note(
            f"PPO: best policy by the gold score: after iteration {best['iteration']}, {best['gold_mean']:.3g} "
            f"({first:.3g} at first, {last:.3g} at the end), in {run.path / BEST}"
        )
    if stopped:
        raise AlignmentError(f"{stopped}; {how_to_continue(run, options=' alarms.action=warn')}")
    return figures


def open_run(config: PPOConfig, *, overwrite: bool, resume: bool) -> RunFolder:
    """The run folder, made or checked by the main process, which alone writes in it."""
    path = Path(config.run)
    if is_main():
        RunFolder.open(path, config, overwrite=overwrite, resume=resume, may_change=MAY_CHANGE_ON_RESUME)
    barrier()
    return RunFolder(path, writes=is_main())


def train(trainer: PPOTrainer, run: RunFolder, probe: Probe | None = None) -> str | None:
    """Iterations until config.iterations, each told of as it ends, and a checkpoint now and then.

    Returns why it stopped before its end, if an alarm was told to stop it.
    """
    config = trainer.config
    with Watch(run, config) as watch:
        if (
            probe
            and probe.is_due(trainer.iteration, config.iterations)
            and not watch.has_probe(trainer.iteration)
        ):
            watch.probe(trainer, probe.measure(trainer))
        while trainer.iteration < config.iterations:
            with saving_what_is_whole(trainer, run):
                metrics = trainer.step()
            found = watch.iteration(trainer, metrics)
            if probe and probe.is_due(trainer.iteration, config.iterations):
                with saving_what_is_whole(trainer, run):
                    row = probe.measure(trainer)
                found = watch.probe(trainer, row)
            stopped = f"stopped by an alarm at iteration {trainer.iteration}: {'; '.join(found.values())}"
            if found and config.alarms.action == "rollback":
                roll_back(trainer, run)
                return stopped
            halts = bool(found) and config.alarms.action == "halt" and trainer.iteration < config.iterations
            if trainer.iteration % config.save_every == 0 or trainer.iteration == config.iterations or halts:
                write_checkpoint(trainer, run.checkpoints)
            if halts:
                return stopped
    return None


@contextmanager
def saving_what_is_whole(trainer: PPOTrainer, run: RunFolder) -> Iterator[None]:
    """Where the block fails for a cause from outside, the iterations before are not lost."""
    try:
        yield
    except (RewardError, OSError, KeyboardInterrupt):
        if trainer.whole:
            write_checkpoint(trainer, run.checkpoints)
        raise


def roll_back(trainer: PPOTrainer, run: RunFolder) -> None:
    """The policy of the last checkpoint, which was saved before any alarm; stays as it is if there is none."""
    state = load_checkpoint(run.checkpoints)
    if state is None:
        note("PPO: stopped; there is no checkpoint from before the alarm to go back to")
        return
    trainer.load_state_dict(state)
    note(f"PPO: stopped and went back to iteration {trainer.iteration}, the last checkpoint before the alarm")


def build_trainer(config: PPOConfig, run: RunFolder, prompts: Sequence[list[Message]]) -> PPOTrainer:
    """Models, engine, scorer and encoded prompts of a run, on the device that accelerate finds."""
    from accelerate import Accelerator

    from alignment.ppo.build import build_actor_critic, place
    from alignment.ppo.trainer import PPOTrainer

    device = Accelerator().device
    if device.type == "cpu":
        hold_heap()
    tokenizer = load_tokenizer(config.policy.path)
    models, line = build_actor_critic(config)
    note(f"PPO: {line}")
    place(models, config, device)
    policy = models.policy()
    engine = build_engine(
        config.engine,
        config.vllm,
        policy,
        tokenizer,
        config.policy.path,
        seed=config.seed,
        max_batch=config.episodes,
        value_head=models.value_head if config.asks_engine_for_values else None,
    )
    room = min(context_length(policy), engine.context) - config.sampling.max_new_tokens
    encoded = encode_prompts(prompts, tokenizer, room, run.path / "rejected_prompts.jsonl")
    scorer = load_scorer(config.reward, str(device))
    return PPOTrainer(config, models, engine, scorer, encoded, tokenizer, device)


def continue_from_checkpoint(trainer: PPOTrainer, run: RunFolder) -> None:
    state = load_checkpoint(run.checkpoints)
    if state is None:
        note("PPO: no checkpoint yet, starting at the beginning")
    else:
        trainer.load_state_dict(state)
        note(f"PPO: continuing after iteration {trainer.iteration}")
    rewind(run, trainer.iteration)
    barrier()


def summarize(run: RunFolder, config: PPOConfig) -> dict[str, Any]:
    """The last iteration's figures, what they were at first, and the mean seconds and tokens a second by phase."""
    rows, timings, probes = run.rows(), run.rows("timings.jsonl"), run.rows(PROBE)
    seconds = mean_seconds(timings)
    figures: dict[str, Any] = {
        "iterations": len(rows),
        "episodes": len(rows) * config.episodes,
        "first": rows[0],
        "last": rows[-1],
        "seconds": seconds,
        "tokens_per_second": sum(row["tokens"] for row in timings) / len(timings) / sum(seconds.values()),
    }
    if probes:
        gold = {"first": probes[0]["gold_mean"], "last": probes[-1]["gold_mean"]}
        figures |= {"gold": gold, "best": best_so_far(run)}
    return figures


def mean_seconds(timings: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds an iteration, by phase."""
    phases = dict.fromkeys(phase for row in timings for phase in row["seconds"])
    return {phase: sum(row["seconds"].get(phase, 0.0) for row in timings) / len(timings) for phase in phases}
