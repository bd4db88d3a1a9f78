"""How the labeling goes: figures that say whether it can be trusted, and plots."""

from __future__ import annotations

from html import escape

import gradio as gr

from labeling.app.lead.desk import Asking, Desk, Updates, ours, percent, table
from labeling.figures import plots
from labeling.figures.dashboard import Dashboard, read_dashboard
from labeling.figures.quality import EVERYONE
from labeling.figures.rates import Rate
from labeling.store import Store

MOST_PAIRS = 10


def lay_out(blocks: gr.Blocks, store: Store) -> None:
    desk = Desk.lay_out(store)
    refresh = gr.Button("Refresh", size="sm", elem_classes="quiet")
    figures = ours(elem_id="figures", sanitize_html=False)

    def show(asking: Asking) -> Updates:
        return {figures: page(read_dashboard(store))}

    desk.on(blocks.load, show, outputs=[figures])
    desk.on(refresh.click, show, outputs=[figures])


def page(of: Dashboard) -> str:
    return tiles(of) + drawings(of) + tables(of)


def tiles(of: Dashboard) -> str:
    people, judges = of.people, of.judges
    return '<div class="tiles">' + "".join(
        [
            tile("Labels by people", f"{sum(of.purposes.values()):,}", f"{of.today:,} today"),
            tile(
                "Comparisons finished",
                percent(of.finished / of.comparisons) if of.comparisons else "–",
                f"{of.finished:,} of {of.comparisons:,}",
            ),
            tile(
                "Time per item",
                f"{of.pace.median:.0f} s" if of.pace else "–",
                f"half take {of.pace.low:.0f} to {of.pace.high:.0f} s" if of.pace else "no label says",
            ),
            tile("Krippendorff’s alpha", plain(people.alpha), spread(people.interval, "two labels each needed")),
            tile("Right on gold", *rated(of.gold.get(EVERYONE), "no gold answered")),
            tile("Same when asked again", *rated(of.repeats.get(EVERYONE), "no repeats yet")),
            tile("Prefers the first shown", *rated(of.position.get(EVERYONE), "50 % is no bias")),
            tile(
                "Judge agrees with people",
                percent(judges.agreement),
                f"of {judges.compared:,} compared" if judges.compared else "nothing to compare",
            ),
        ]
    ) + "</div>"  # fmt: skip


def tile(name: str, value: str, below: str) -> str:
    return (
        f'<div class="tile"><span class="name">{escape(name)}</span><b>{escape(value)}</b>'
        f"<span>{escape(below)}</span></div>"
    )


def plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def spread(interval: tuple[float, float] | None, otherwise: str) -> str:
    return f"95 %: {interval[0]:.2f} to {interval[1]:.2f}" if interval else otherwise


def rated(rate: Rate | None, otherwise: str) -> tuple[str, str]:
    if rate is None or rate.interval is None:
        return "–", otherwise
    low, high = (100 * end for end in rate.interval)
    return percent(rate.share), f"95 %: {low:.0f} to {high:.0f} %, of {rate.of:,}"


def drawings(of: Dashboard) -> str:
    drawn = []
    if of.days:
        drawn.append(("Labels by day", plots.throughput(of.days)))
    if any(of.strength.values()):
        drawn.append(("How the scale is used", plots.histogram(of.strength)))
    if of.paces:
        drawn.append(("Time per item", plots.time_per_item(of.paces)))
    for name, rates, level in (
        ("Right on gold", of.gold, None),
        ("Same when asked again", of.repeats, None),
        ("Prefers the side shown first", of.position, 0.5),
    ):
        if rates:
            drawn.append((name, plots.shares(rates, f"{name}, by person", level=level)))
    figures = "".join(f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>" for name, svg in drawn)
    return f'<div class="plots">{figures}</div>' if drawn else ""


def tables(of: Dashboard) -> str:
    people = of.people
    agreement = [
        ("Krippendorff’s alpha, nominal", plain(people.alpha), spread(people.interval, "–")),
        (
            "Krippendorff’s alpha, seven-step scale",
            plain(people.ordinal),
            spread(people.ordinal_interval, "–"),
        ),
        ("Fleiss’ kappa", plain(people.fleiss), "–"),
    ]
    pairs = [
        (p.first, p.second, p.items, percent(p.agreement), plain(p.kappa)) for p in of.kappas[:MOST_PAIRS]
    ]
    gold, repeats, position = (
        {name: f"{percent(rate.share)} of {rate.of:,}" for name, rate in rates.items()}
        for rates in (of.gold, of.repeats, of.position)
    )
    totals: dict[str, int] = {}
    for day in of.days:
        totals[day.person] = totals.get(day.person, 0) + day.labels
    paces = {pace.person: pace for pace in of.paces}
    by_person = [
        (
            name,
            count,
            f"{paces[name].median:.0f} s" if name in paces else None,
            gold.get(name),
            repeats.get(name),
            position.get(name),
        )
        for name, count in sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    ]
    return (
        table(
            "People",
            ("Name", "Labels", "Median time", "Right on gold", "Same again", "Prefers first shown"),
            by_person,
            "Nobody has labelled anything yet.",
        )
        + table("Agreement among people", ("Coefficient", "Value", "Interval"), agreement)
        + table(
            f"Agreement of two (Cohen’s kappa), the {MOST_PAIRS} pairs with most in common",
            ("First", "Second", "Items", "Agree", "Kappa"),
            pairs,
            "Agreement of two shows once two people have labelled the same comparison.",
        )
    )
