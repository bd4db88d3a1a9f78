"""The `align` command: a thin shell. Each command parses, loads its config and calls one function."""

from __future__ import annotations

import logging
import os
import sys

import typer

from alignment.cli import (
    data,
    demo,
    dpo,
    evaluate,
    judge,
    label,
    plan,
    ppo,
    reward,
    rollout,
    serve,
    sft,
    tune,
)
from alignment.errors import ConfigError

app = typer.Typer(
    name="align",
    help="Turn feedback into better language models. Start with: [bold]align demo[/bold]",
    epilog="Every command: --help shows an example; --debug shows the traceback of an error.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
INTERRUPTED = 130  # what typer makes of Ctrl-C
START, DATA, TRAIN, MEASURE = "Start here", "Prompts and labels", "Training", "Measuring"
app.command("demo", rich_help_panel=START)(demo.demo)
app.add_typer(data.app, name="data", rich_help_panel=DATA)
app.command("rollout", rich_help_panel=DATA)(rollout.rollout)
app.command("serve", rich_help_panel=DATA)(serve.serve)
app.add_typer(judge.app, name="judge", rich_help_panel=DATA)
app.add_typer(label.app, name="label", rich_help_panel=DATA)
app.command("plan", rich_help_panel=START)(plan.plan)
app.add_typer(tune.app, name="tune", rich_help_panel=TRAIN)
app.command("sft", rich_help_panel=TRAIN)(sft.sft)
app.add_typer(reward.app, name="reward", rich_help_panel=TRAIN)
app.command("dpo", rich_help_panel=TRAIN)(dpo.dpo)
app.command("ppo", rich_help_panel=TRAIN)(ppo.ppo)
app.command("eval", rich_help_panel=MEASURE)(evaluate.evaluate)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console script. Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """One `align` command in this process; returns its exit code."""
    from alignment.console import note

    quiet_environment()
    debug = "--debug" in argv
    try:
        result = app([a for a in argv if a != "--debug"], prog_name="align", standalone_mode=False)
        code = result if isinstance(result, int) else 0
        if code == INTERRUPTED:
            note("interrupted; what was finished is kept")
        return code
    except Exception as error:
        if debug:
            raise
        line, code = readable(error)
        if line:
            note(f"error: {line}")
        return code


def readable(error: Exception) -> tuple[str, int]:
    """An error as the line a user reads, and the exit code."""
    from alignment.errors import AlignmentError
    from labeling.errors import LabelingError
    from reward.errors import RewardError
    from rollout.errors import RolloutError

    if isinstance(error, ConfigError):
        return str(error), 2
    if isinstance(error, AlignmentError | LabelingError | RewardError | RolloutError):
        return str(error), 1
    if hasattr(error, "format_message"):  # wrong use, as click words it
        message = error.format_message()  # empty where the help was shown instead, for want of arguments
        return f"{message} (see --help)" if message else "", 2
    return (
        f"{type(error).__name__}: {' '.join(str(error).split())} (a fault in align? --debug shows where)",
        1,
    )


def quiet_environment() -> None:
    """Settings that libraries read on import: no telemetry, no chatter. A user's own settings win."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # its note that an optional CPU kernel is not installed, at every start
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    os.environ.setdefault("TQDM_DELAY", "2")  # libraries' own bars, only where they take seconds
