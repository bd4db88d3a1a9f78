"""The judge card as Markdown, and its reliability diagram."""

from __future__ import annotations

from typing import Any

from labeling.figures.plots import COLORS, canvas, percents, svg
from labeling.judge.calls.prices import PICO, dollars
from labeling.judge.trust.card import Card
from labeling.judge.trust.measures import Figure

ABOUT = {
    "agreement": "says what most people say; failures and ties where people take a side count against it",
    "accuracy": "takes the side of most people, where both take one",
    "accuracy_one_order": "the same for each reply by itself, in one order",
    "kappa": "Cohen's kappa: agreement beyond chance",
    "ece": "expected calibration error",
    "brier": "Brier score: 0 is perfect, 0.25 is always saying a half",
    "ece_calibrated": "after calibration, on prompts that the fit has not seen",
    "brier_calibrated": "after calibration, on prompts that the fit has not seen",
    "order_flips": "the winner changed with the order",
    "prefers_first_shown": "replies that prefer the answer shown first; without bias a half",
    "prefers_longer": "prefers the longer answer",
    "people_prefer_longer": "people do, on the same comparisons",
    "prefers_own": "prefers the answer of its own model",
    "people_prefer_own": "people do, on the same comparisons",
}


def card_markdown(card: Card) -> str:
    """The whole card; the diagram is beside it as reliability.svg."""
    lines = [
        f"# {card.judge}",
        "",
        f"{card.judgements:,} pairs judged; on {card.compared:,} of them most people say the same, "
        "and the figures below compare the two. Intervals are 95 %, from a bootstrap over prompts.",
        "",
        "| figure | value | 95 % | of | |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {shown(f)} | {span(f)} | {f.of:,} | {ABOUT[name]} |"
            for name, f in card.figures.items()
            if f.value is not None
        ),
        "",
        "## People among themselves",
        "",
        among_people(card.ceiling),
        "",
        "## Outcomes",
        "",
        "| outcome | judgements | share |",
        "|---|---|---|",
        *(f"| {name} | {n:,} | {n / card.judgements:.1%} |" for name, n in card.outcomes.items()),
        "",
        f"Handed on to people: {counts(card.routed) or 'none'}.",
        f"Calls: {counts(card.calls) or 'not known'}"
        + (f"; cost {dollars(round(card.cost * PICO))}." if card.cost is not None else "."),
    ]
    if card.slices:
        lines += [
            "",
            "## Slices",
            "",
            "| by | slice | accuracy | 95 % | of | agreement | of |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {s.by} | {s.name} | {shown(s.accuracy)} | {span(s.accuracy)} | {s.accuracy.of:,} "
            f"| {shown(s.agreement)} | {s.agreement.of:,} |"
            for s in card.slices
        ]
    lines += [
        "",
        "## Reliability",
        "",
        "![How often people agree, by how sure the judge is](reliability.svg)",
    ]
    if card.calibration:
        lines += ["", calibration_line(card.calibration)]
    return "\n".join(lines) + "\n"


def card_lines(card: Card) -> list[str]:
    """The card's figures for a terminal."""
    lines = [f"{card.judge}: {card.judgements:,} pairs judged, {card.compared:,} compared with people"]
    for name, figure in card.figures.items():
        if figure.value is not None:
            lines.append(f"{name:<20} {figure.value:>6.3f}   {span(figure):<16} of {figure.of:,}")
    lines.append(among_people(card.ceiling))
    failed = {name: n for name, n in card.outcomes.items() if n and name not in ("verdict", "tie")}
    lines.append(f"failed: {counts(failed) or 'none'}; handed on to people: {counts(card.routed) or 'none'}")
    if card.calibration:
        lines.append(calibration_line(card.calibration))
    return lines


def among_people(ceiling: dict[str, Any]) -> str:
    if ceiling["agreement"] is None:
        return "Nothing was labelled by two people, so how far people agree is not known."
    alpha = "" if ceiling["alpha"] is None else f"; Krippendorff's alpha {ceiling['alpha']:.3f}"
    return (
        f"Two people say the same on {ceiling['agreement']:.3f} of pairs ({ceiling['comparisons']:,} comparisons that "
        f"several labelled){alpha}. No judge can be expected to agree with people more than they do."
    )


def calibration_line(calibration: dict[str, Any]) -> str:
    how = f" {calibration['temperature']:.3g}" if calibration["temperature"] is not None else ""
    return (
        f"Calibration: {calibration['kind']}{how}, fitted on {calibration['fitted_on']:,} comparisons; "
        "snapshots apply it to this judge's labels."
    )


def shown(figure: Figure) -> str:
    return "-" if figure.value is None else f"{figure.value:.3f}"


def span(figure: Figure) -> str:
    return "" if figure.low is None else f"{figure.low:.3f} to {figure.high:.3f}"


def counts(of: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(of.items()))


def reliability_svg(card: Card) -> str:
    """How often people agree against how sure the judge is; on the line the two are the same."""
    figure, axes = canvas()
    figure.set_size_inches(4.6, 4.0)
    axes.plot(
        [0.5, 1], [0.5, 1], color=COLORS[6], linewidth=1, linestyle=(0, (4, 3)), label="perfectly calibrated"
    )
    for name, bins, color in (
        ("as the judge says", card.reliability, COLORS[0]),
        ("after calibration", card.calibrated, COLORS[1]),
    ):
        if bins:
            total = sum(one.of for one in bins)
            x, y = [one.confidence for one in bins], [one.accuracy for one in bins]
            axes.plot(x, y, color=color, linewidth=1.2, alpha=0.6)
            axes.scatter(
                x, y, [20 + 280 * one.of / total for one in bins], color=color, label=name, alpha=0.85
            )
    axes.set_xlim(0.48, 1.02)
    axes.set_ylim(min([0.45, *(one.accuracy - 0.05 for one in card.reliability)]), 1.04)
    axes.set_xlabel("how sure the judge is of its winner")
    axes.set_ylabel("people agree")
    percents(axes.xaxis)
    percents(axes.yaxis)
    legend = axes.legend(frameon=False, fontsize=9, loc="upper left")
    for handle in legend.legend_handles[1:]:
        handle.set_sizes([40])
    return standalone(svg(figure, f"Reliability of {card.judge}"))


def standalone(drawn: str) -> str:
    """An inline SVG as a file of its own, legible on a light page and on a dark one."""
    style = "<style>svg{color:#222;background:#fff;font-family:sans-serif}</style>"
    return drawn.replace(">", ">" + style, 1) + "\n"
