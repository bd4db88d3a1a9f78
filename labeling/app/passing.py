"""Gradio Blocks that pass their handlers' updates on to the browser, and remember nothing of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr


class PassingBlocks(gr.Blocks):
    """For a page that keeps no state on the server, whose handlers have several outputs and answer with a dict.

    Gradio itself makes each updated component anew, and its description twice, to remember them for the session:
    for the annotator's page that was half of all that an answer cost. What a handler is given is checked against
    the components as they were laid out.
    """

    async def postprocess_data(
        self, block_fn: Any, predictions: list[Any] | dict[Any, Any], state: Any
    ) -> list[Any]:
        if not isinstance(predictions, dict):
            raise TypeError(f"a handler of this page answers with a dict of updates, not {predictions!r}")
        return [
            passed(block, predictions[block]) if block in predictions else gr.skip()
            for block in block_fn.outputs
        ]


def passed(block: Any, update: Any) -> Any:
    """An update as the browser reads it: a value, or `gr.update(...)` with or without one."""
    if not (isinstance(update, Mapping) and update.get("__type__") == "update"):
        return block.postprocess(update)
    return {**update, "value": block.postprocess(update["value"])} if "value" in update else update
