"""Live: type a prompt, the policy answers twice, say at once which answer is better."""

from __future__ import annotations

import secrets
from typing import Any

import gradio as gr

from labeling.app.answers import BOTH_BAD, on_scale
from labeling.app.form import hidden, untrusted
from labeling.app.lead.desk import Asking, Desk, Updates, heading
from labeling.app.live import Policy, ask_live
from labeling.app.render import render_answer
from labeling.app.texts import texts
from labeling.errors import LabelingError
from labeling.queue.submit import submit
from labeling.store import Store

WORDS = texts("en")
LONGEST_PROMPT = 20_000


def lay_out(store: Store, policy: Policy | None) -> None:
    if policy is None:
        heading(
            "Live",
            "Start the app with --policy and a model's folder, or --endpoint and --model, and the policy "
            "answers your prompts here.",
        )
        return
    desk = Desk.lay_out(store)
    prompt = gr.Textbox(label="Prompt", lines=3, max_lines=12)
    ask = gr.Button("Ask the policy twice", variant="primary")
    token, key = hidden("live-token"), hidden("live-key")
    with gr.Column(visible=False) as pair:
        with gr.Row(elem_classes="sides"):
            with gr.Column(elem_classes="card"):
                heading(WORDS.answer.format(letter="A"))
                first = untrusted()
            with gr.Column(elem_classes="card"):
                heading(WORDS.answer.format(letter="B"))
                second = untrusted()
        steps = [(step, value) for value, step in enumerate(WORDS.scale, start=1)]
        scale = gr.Radio([*steps, (WORDS.both_bad, BOTH_BAD)], label=WORDS.which)
        rationale = gr.Textbox(label=WORDS.rationale, max_lines=4)
        send = gr.Button(WORDS.submit, variant="primary")

    def ask_(asking: Asking, text: str) -> Updates:
        text = (text or "").strip()[:LONGEST_PROMPT]
        if not text:
            raise LabelingError("type a prompt first")
        assigned = ask_live(store, policy, [{"role": "user", "content": text}], asking.id)
        shown = [assigned.comparison.sides[position][0] for position in assigned.shown_order]
        return {
            pair: gr.update(visible=True),
            token: assigned.token,
            key: secrets.token_urlsafe(16),
            first: render_answer(shown[0], WORDS.roles),
            second: render_answer(shown[1], WORDS.roles),
            scale: None,
            rationale: "",
        }

    def send_(asking: Asking, token_: str, key_: str, step: Any, why: str) -> Updates:
        submit(store, str(token_), asking.id, on_scale(step, WORDS, rationale=why or ""), key=str(key_))
        return {pair: gr.update(visible=False), prompt: "", **desk.says("Saved. Ask the next one.")}

    parts = [pair, token, key, first, second, scale, rationale]
    desk.on(ask.click, ask_, [prompt], parts, slow=True)
    desk.on(send.click, send_, [token, key, scale, rationale], [pair, prompt])
