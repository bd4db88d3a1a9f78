"""What is told of a PPO run while it goes: rows in the run folder, figures on the screen, alarms."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from alignment.console import note
from alignment.ppo.alarms import alarms, over_optimised
from alignment.ppo.config import PPOConfig
from alignment.ppo.probe import ROWS as PROBE
from alignment.ppo.probe import in_words, keep_best
from alignment.ppo.screen import screen
from alignment.runs import RunFolder
from alignment.trackers import tracking

if TYPE_CHECKING:
    from alignment.ppo.trainer import PPOTrainer

FILES = ("metrics.jsonl", "timings.jsonl", "samples.jsonl", "alarms.jsonl", PROBE)
SAMPLES = 4  # answers in samples.jsonl each time


class Watch:
    """Use as a context; call `iteration` after each, on every process: only one writes, and all hear the alarms."""

    def __init__(self, run: RunFolder, config: PPOConfig) -> None:
        self.run = run
        self.config = config
        self.rows, self.probes = run.rows(), run.rows(PROBE)
        self.shown: dict[str, Any] = {}  # what the screen has of the newest iteration
        self.ringing: set[str] = set()
        self.opened = ExitStack()

    def __enter__(self) -> Watch:
        before = list(zip(self.rows, self.run.rows("timings.jsonl"), strict=False))
        last = self.rows[-1]["iteration"] if self.rows else 0
        names = self.config.track if self.run.writes else []
        self.track = self.opened.enter_context(tracking(names, self.run, self.config, last))
        self.show = self.opened.enter_context(screen(before, self.config.iterations))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.opened.close()

    def iteration(self, trainer: PPOTrainer, metrics: Mapping[str, Any]) -> dict[str, str]:
        """Tell of an iteration that has just ended; returns its alarms in words, by name."""
        self.rows.append(dict(metrics))
        self.run.log(self.rows[-1])
        timing = timings(metrics, trainer.seconds, self.config.episodes)
        self.run.log(timing, "timings.jsonl")
        if trainer.iteration % self.config.sample_every == 0:
            for prompt, answer, score in trainer.answers[:SAMPLES]:
                row = {"iteration": trainer.iteration, "prompt": prompt, "answer": answer, "score": score}
                self.run.log(row, "samples.jsonl")
        groups = {
            "ppo": metrics,
            "seconds": timing["seconds"],
            "tokens_per_second": timing["tokens_per_second"],
        }
        for group, figures in groups.items():
            self.track(trainer.iteration, named(group, figures))
        self.shown = dict(metrics)
        self.show_gold()
        self.show(self.shown, timing)
        return self.ring(trainer.iteration)

    def has_probe(self, iteration: int) -> bool:
        return any(row["iteration"] == iteration for row in self.probes)

    def probe(self, trainer: PPOTrainer, row: Mapping[str, Any]) -> dict[str, str]:
        """Tell of a probe, and keep its policy if it is the best; returns the alarms as they are now."""
        self.probes.append(dict(row))
        self.run.log(self.probes[-1], PROBE)
        self.track(row["iteration"], named("probe", row))
        self.show_gold()
        note(in_words(row, keep_best(trainer, self.run, row)))
        return self.ring(row["iteration"])

    def show_gold(self) -> None:
        """The last probe's score beside the newest iteration's metrics, which the screen draws again and again."""
        if self.probes:
            self.shown["gold_mean"] = self.probes[-1]["gold_mean"]

    def ring(self, iteration: int) -> dict[str, str]:
        """The alarms of the rows so far; each is said and kept once, while it goes on."""
        found = alarms(self.rows, self.config.alarms) | over_optimised(self.probes)
        for name in found.keys() - self.ringing:
            note(f"PPO: iteration {iteration}: {found[name]}")
            self.run.log({"iteration": iteration, "alarm": name, "words": found[name]}, "alarms.jsonl")
        self.ringing = set(found)
        return found


def rewind(run: RunFolder, iteration: int) -> None:
    """Forget what was told after `iteration`: a resumed run tells it again."""
    for file in filter(lambda name: (run.path / name).exists(), FILES):
        run.keep_rows(sum(row["iteration"] <= iteration for row in run.rows(file)), file)


def timings(metrics: Mapping[str, Any], seconds: Mapping[str, float], episodes: int) -> dict[str, Any]:
    """A row of timings.jsonl: seconds by phase, and tokens of answers that pass through each phase a second."""
    tokens = round(metrics["response_length"] * episodes)
    total = sum(seconds.values())
    speeds = {phase: tokens / max(spent, 1e-9) for phase, spent in {**seconds, "all": total}.items()}
    return {
        "iteration": metrics["iteration"],
        "tokens": tokens,
        "seconds": dict(seconds),
        "tokens_per_second": speeds,
    }


def named(group: str, figures: Mapping[str, Any]) -> dict[str, float]:
    """Figures as trackers call them: `group/name`."""
    return {f"{group}/{name}": value for name, value in figures.items() if name != "iteration"}
