"""`align demo`: the whole loop, from nothing to two aligned policies, by the commands that a user would type."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import resources
from pathlib import Path
from typing import Any

from alignment.console import note, progress_bar
from alignment.demo import notes
from alignment.demo.e2e import E2ETask
from alignment.demo.report import summarize, write_demo_report
from alignment.demo.task import Message, Task
from alignment.errors import AlignmentError, ConfigError
from alignment.files import write_json, write_text

CONFIGS = ("sft", "rollout", "judge", "reward", "dpo", "ppo", "eval")
REFERENCES, PROMPTS, TEST_PROMPTS = 15000, 3000, 256
PEOPLE_SHARE = 0.5  # of the comparisons, labelled by scripted annotators


def run_demo(
    folder: Path,
    *,
    task: str = "notes",
    data: Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Every step of the loop, then summary.json and report.html in `folder`. Returns the summary.

    Raises AlignmentError if a demo is there already and neither `overwrite` nor `resume` is given.
    """
    demo = Demo(folder, load_task(task, data), seed)
    demo.begin(overwrite=overwrite, resume=resume)
    demo.run()
    figures = summarize(folder, demo.done, task, seed)
    write_json(folder / "summary.json", figures)
    write_demo_report(folder, figures)
    return figures


def load_task(name: str, data: Path | None) -> Task:
    if name == "notes":
        if data:
            raise ConfigError("the notes task makes its own data: leave --data out, or give --task e2e")
        return notes
    if data is None:
        raise ConfigError(f"the task {name} needs its data: give --data PATH")
    return E2ETask(data)


class Demo:
    """One demo in one folder. Each step leaves its result there, and its name and seconds in demo.json."""

    def __init__(self, folder: Path, task: Task, seed: int) -> None:
        self.folder = folder
        self.task = task
        self.seed = seed
        self.store = folder / "store.db"
        self.record = folder / "demo.json"
        self.done: dict[str, float] = {}

    def begin(self, *, overwrite: bool, resume: bool) -> None:
        """An empty folder, or with `resume` what is there of this very demo."""
        if self.folder.exists() and any(self.folder.iterdir()):
            if not self.record.exists():
                raise AlignmentError(f"{self.folder} is not empty and holds no demo: choose another --folder")
            before = json.loads(self.record.read_text(encoding="utf-8"))
            if overwrite:
                shutil.rmtree(self.folder)
            elif not resume:
                raise AlignmentError(
                    f"a demo is in {self.folder} already: --resume goes on with it, --overwrite starts again, "
                    "--folder puts another elsewhere"
                )
            elif (before["task"], before["seed"]) != (self.task.name, self.seed):
                raise AlignmentError(
                    f"the demo in {self.folder} is of task {before['task']} and seed {before['seed']}: "
                    "give the same to --resume it"
                )
            else:
                self.done = before["done"]
        self._save()

    def _save(self) -> None:
        write_json(self.record, {"task": self.task.name, "seed": self.seed, "done": self.done})

    def run(self) -> None:
        """Every step that is not done yet, in order."""
        steps: dict[str, tuple[str, Callable[[], None]]] = {
            "data": ("An instruction task, made up here: facts in, a note for a guest out", self.make_data),
            "sft": ("The base: a small model learns the mixed habits of the references", self.train_base),
            "rollout": ("The base answers each prompt twice", self.collect),
            "people": ("Scripted annotators, in place of people, label some of the pairs", self.ask_people),
            "judge": (
                "A judge labels over HTTP; here a stand-in server answers, no language model",
                self.ask_judge,
            ),
            "snapshot": ("The labels become a preference dataset", self.snapshot),
            "reward": ("A reward model learns from people and judge", self.train_reward),
            "dpo": ("DPO tunes the base on the labels", self.train_dpo),
            "ppo": ("PPO tunes the base on the reward model's scores", self.train_ppo),
            "eval": ("Base, DPO and PPO answer prompts that no step has seen", self.compare),
        }
        for number, (name, (about, step)) in enumerate(steps.items(), 1):
            if name in self.done:
                note(f"[{number}/{len(steps)}] {name}: done before, in {self.done[name]:.0f} s")
                continue
            note(f"\n[{number}/{len(steps)}] {about}")
            started = time.perf_counter()
            step()
            self.done[name] = time.perf_counter() - started
            self._save()

    def make_data(self) -> None:
        for name in CONFIGS:
            text = (resources.files("alignment.demo") / "configs" / f"{name}.yaml").read_text(
                encoding="utf-8"
            )
            text = text.replace("runs/demo", str(self.folder)).replace(
                "demo.notes:", f"demo.{self.task.name}:"
            )
            write_text(self.config(name), text)
        sizes = {
            "sft": self._write("sft", self.task.references(REFERENCES, self.seed)),
            "train": self._write("prompts", as_rows(self.task.prompts(PROMPTS, self.seed, "train"))),
            "test": self._write("test_prompts", as_rows(self.task.prompts(TEST_PROMPTS, self.seed, "test"))),
        }
        note(
            "data: {sft} reference answers, {train} prompts to learn on, {test} held out, in ".format(**sizes)
            + str(self.folder / "data")
        )

    def _write(self, name: str, rows: list[dict[str, Any]]) -> int:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(self.folder / "data" / f"{name}.jsonl", "".join(lines))
        return len(rows)

    def train_base(self) -> None:
        self.train("sft")

    def collect(self) -> None:
        self.command("rollout", "--config", self.config("rollout"), *self._seed())

    def ask_people(self) -> None:
        from alignment.demo.scripted import label_with_scripted_annotators
        from labeling.store import Store

        store = Store.open(str(self.store))
        with progress_bar("people", store.count_comparisons()) as advance:
            counts = label_with_scripted_annotators(
                store, self.quality, share=PEOPLE_SHARE, seed=self.seed, progress=advance
            )
        compared = counts.pop("comparisons")
        each = ", ".join(f"{name} {count}" for name, count in counts.items())
        note(f"people: {sum(counts.values())} scripted labels on {compared} comparisons ({each})")

    def ask_judge(self) -> None:
        from alignment.demo.stand_in_judge import StandInJudge

        with StandInJudge(self.quality, seed=self.seed) as server:
            address = f"base_url={server.base_url}"
            self.command("judge", "run", "--config", self.config("judge"), "--store", self.store, address)

    def quality(self, prompt: str, answer: str) -> float:
        """The oracle's view of an answer: asked for the labels and the final figures, never by a trainer."""
        return self.task.check([{"role": "user", "content": prompt}], answer)["quality"]

    def snapshot(self) -> None:
        shutil.rmtree(self.folder / "snapshot", ignore_errors=True)
        self.command("data", "snapshot", "--store", self.store, "--out", self.folder / "snapshot")

    def train_reward(self) -> None:
        self.train("reward", "train", f"data={self._snapshot()}")

    def train_dpo(self) -> None:
        self.train("dpo", f"data={self._snapshot()}")

    def train_ppo(self) -> None:
        begun = (self.folder / "ppo").exists()
        self.command("ppo", "--config", self.config("ppo"), *self._seed(), *(["--resume"] if begun else []))

    def compare(self) -> None:
        self.train("eval")

    def _snapshot(self) -> Path:
        return self.folder / "snapshot" / "latest"

    def config(self, name: str) -> Path:
        return self.folder / "configs" / f"{name}.yaml"

    def train(self, command: str, *arguments: str) -> None:
        """A command that fills the run folder of its name; what an interrupted one left there is replaced."""
        words = [a for a in arguments if "=" not in a]
        overrides = [a for a in arguments if "=" in a]
        leftover = ["--overwrite"] if (self.folder / command).exists() else []
        self.command(command, *words, "--config", self.config(command), *overrides, *self._seed(), *leftover)

    def _seed(self) -> list[str]:
        return [f"seed={self.seed}"] if self.seed else []

    def command(self, *words: str | Path) -> None:
        """Show an `align` command as one would type it, and run it. Raises AlignmentError if it fails."""
        from alignment.cli import INTERRUPTED, run

        argv = [str(word) for word in words]
        note(f"$ align {shlex.join(argv)}")
        with redirect_stdout(sys.stderr):  # standard output is for the demo's own result
            code = run(argv)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise AlignmentError(
                f"the demo stopped at `align {argv[0]}` for the reason above; "
                f"`align demo --folder {self.folder} --resume` goes on from there"
            )


def as_rows(prompts: list[list[Message]]) -> list[dict[str, Any]]:
    return [{"prompt": prompt} for prompt in prompts]
