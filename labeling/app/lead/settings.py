"""The queue's settings as a form."""

from __future__ import annotations

from typing import Any

import gradio as gr
from pydantic import ValidationError

from labeling.app.lead.desk import Asking, Desk, Updates, heading
from labeling.errors import LabelingError
from labeling.people import audit
from labeling.queue.settings import QueueSettings, read_settings, save_settings
from labeling.store import Store

POLICIES = [
    ("Random", "random"),
    ("Where reward models or judges disagree most", "uncertainty"),
    ("Where the judge is least sure", "judge_doubt"),
]
RATIONALE = [
    ("Never", 0),
    ("When slightly better", 1),
    ("When slightly or clearly better", 2),
    ("Always", 3),
]


def lay_out(tab: gr.Tab, store: Store) -> None:
    desk = Desk.lay_out(store)
    form = fields()
    save = gr.Button("Save", variant="primary")

    def show(asking: Asking) -> Updates:
        settings = read_settings(store)
        values = settings.model_dump() | {"aspects": ", ".join(settings.aspects)}
        return {form[name]: value for name, value in values.items()}

    def keep(asking: Asking, *values: Any) -> Updates:
        before = read_settings(store).model_dump()
        settings = to_settings(dict(zip(form, values, strict=True)))
        save_settings(store, settings)
        changed = {name: value for name, value in settings.model_dump().items() if value != before[name]}
        audit.record(store, asking.id, "queue.settings", "queue", changed)
        return desk.says("Saved. It holds for every item that is given out from now on.")

    desk.on(tab.select, show, outputs=list(form.values()))
    desk.on(save.click, keep, list(form.values()))


def fields() -> dict[str, Any]:
    """One component for each setting, by the setting's name."""
    form: dict[str, Any] = {}
    about = {name: field.description for name, field in QueueSettings.model_fields.items()}

    def number(name: str, label: str, **more: Any) -> None:
        form[name] = gr.Number(label=label, info=about[name], **more)

    def share(name: str, label: str) -> None:
        number(name, label, minimum=0, maximum=1, step=0.01)

    heading("Who labels what")
    with gr.Row():
        number("overlap", "People per item", precision=0, minimum=1)
        number("lease_minutes", "Lease, in minutes", minimum=0)
        form["policy"] = gr.Dropdown(POLICIES, label="What comes next", info=about["policy"])
        number("seed", "Seed", precision=0)
    heading("Checks on quality")
    with gr.Row():
        share("gold_share", "Share of gold items")
        share("repeat_share", "Share of repeated items")
        number("repeat_after", "Repeat after so many labels", precision=0, minimum=1)
        share("show_ai_share", "Share of items that show the AI’s opinion")
    heading("What annotators are asked")
    with gr.Row():
        form["aspects"] = gr.Textbox(label="Aspects, with commas between", info=about["aspects"])
        form["rationale_below"] = gr.Dropdown(
            RATIONALE, label="A rationale is required", info=about["rationale_below"]
        )
    form["guidelines"] = gr.Textbox(
        label="Guidelines (Markdown)", info=about["guidelines"], lines=8, max_lines=24
    )
    return form


def to_settings(values: dict[str, Any]) -> QueueSettings:
    """The settings in the form. Raises LabelingError that names each field that will not do."""
    aspects = [name.strip() for name in str(values["aspects"] or "").split(",")]
    values = values | {
        "aspects": [name for name in aspects if name],
        "guidelines": values["guidelines"] or "",
    }
    try:
        return QueueSettings.model_validate(values)
    except ValidationError as error:
        raise LabelingError(
            "Not saved: "
            + "; ".join(
                f"{'.'.join(map(str, problem['loc'])).replace('_', ' ')}: {problem['msg'].lower()}"
                for problem in error.errors()
            )
        ) from None
