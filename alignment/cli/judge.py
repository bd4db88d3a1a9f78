"""`align judge`: AI labels through any OpenAI-compatible endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from alignment.cli import options

app = typer.Typer(help="Label comparisons with an AI judge.", no_args_is_help=True)


@app.callback()
def judge() -> None:
    """Label comparisons with an AI judge over any OpenAI-compatible endpoint, hosted or a vLLM server."""


@app.command()
def run(
    overrides: options.Overrides = None,
    config: options.Config = None,
    store: options.Store = options.DEFAULT_STORE,
    budget: Annotated[
        float | None,
        typer.Option(min=0, help="US dollars that this judge may cost in this store, all runs together."),
    ] = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="Through the endpoint's batch API: cheaper, and within a day.")
    ] = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Label every waiting comparison, each asked in both orders.

    A run that was stopped goes on where it was: what has been answered is not asked again.

    Example: [bold]align judge run --config configs/judge.yaml --store align.db --budget 5[/bold]
    """
    from alignment.config import load_config, to_yaml
    from alignment.console import note, print_json, progress_bar
    from labeling.judge.config import JudgeConfig
    from labeling.judge.job import run_judge
    from labeling.judge.plan import plan_judge
    from labeling.store import Store

    more = [] if budget is None else [f"budget={budget}"]
    resolved = load_config(JudgeConfig, config, [*(overrides or []), *more])
    opened = Store.open(store, create=False)
    plan = plan_judge(opened, resolved, batch=batch)
    if dry_run:
        note(to_yaml(resolved) + plan.as_text())
        if json:
            print_json(plan.as_dict())
        return
    figures: dict[str, object] = {}
    total = plan.comparisons + plan.not_pairs + plan.own
    with progress_bar("judging", total, below=lambda: figures_line(figures)) as advance:

        def progress(done: int, **so_far: object) -> None:
            figures.update(so_far)
            advance(done)

        report = run_judge(opened, resolved, progress=progress, batch=batch)
    note(report.as_text())
    if json:
        print_json(report.as_dict())


def figures_line(figures: dict[str, object]) -> str:
    """What came of the judging so far, for the line below the bar."""
    return "  ".join(f"{name} {value}" for name, value in figures.items())


@app.command()
def report(
    judge: Annotated[
        str | None, typer.Option("--judge", metavar="NAME", help="Which judge, where several have labelled.")
    ] = None,
    store: options.Store = options.DEFAULT_STORE,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the card.")] = Path("judge-card"),
    calibrate: Annotated[
        Literal["temperature", "isotonic", "none"] | None,
        typer.Option(help="Fit a calibration that snapshots apply from now on; none takes it away."),
    ] = None,
    imports: Annotated[
        bool, typer.Option("--imports", help="Count labels that came with imported data as people's.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Compare a judge with people's labels: accuracy, calibration, biases, by slice, with intervals.

    Writes card.md, card.json and reliability.svg.

    Example: [bold]align judge report --store align.db --out judge-card --calibrate temperature[/bold]
    """
    from alignment.console import note, output, print_json
    from alignment.files import write_json, write_text
    from labeling.judge.trust.calibration import store_calibration
    from labeling.judge.trust.card import judge_card
    from labeling.judge.trust.card_text import card_lines, card_markdown, reliability_svg
    from labeling.store import Store

    opened = Store.open(store, create=False)
    kind = None if calibrate == "none" else calibrate
    card, calibration = judge_card(opened, judge, imports=imports, calibrate=kind)
    write_json(out / "card.json", card.as_dict())
    write_text(out / "reliability.svg", reliability_svg(card))
    write_text(out / "card.md", card_markdown(card))
    if calibrate:
        store_calibration(opened, card.judge, calibration if kind else None)
    if json:
        print_json(card.as_dict())
        return
    output.print("\n".join(card_lines(card)), markup=False, soft_wrap=True)
    note(f"the whole card: {out / 'card.md'}")
