"""How Gradio's own parts look: fonts of the system (nothing is fetched) and the colours of style.css."""

from __future__ import annotations

import gradio as gr

SANS = ("system-ui", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "sans-serif")
MONO = ("ui-monospace", "Noto Sans Mono", "monospace")


def theme() -> gr.themes.Base:
    """For the `theme` of every mount."""
    both = {
        "body_background_fill": "var(--ground)",
        "body_text_color": "var(--ink)",
        "body_text_color_subdued": "var(--soft)",
        "background_fill_primary": "var(--surface)",
        "background_fill_secondary": "var(--raised)",
        "border_color_primary": "var(--line)",
        "block_background_fill": "var(--surface)",
        "block_border_color": "var(--line)",
        "block_label_text_color": "var(--soft)",
        "block_title_text_color": "var(--ink)",
        "block_info_text_color": "var(--soft)",
        "input_background_fill": "var(--surface)",
        "input_border_color": "var(--line)",
        "input_placeholder_color": "var(--soft)",
        "button_primary_background_fill": "var(--accent)",
        "button_primary_background_fill_hover": "var(--accent)",
        "button_primary_text_color": "var(--on-accent)",
        "button_primary_text_color_hover": "var(--on-accent)",
        "button_secondary_background_fill": "var(--surface)",
        "button_secondary_background_fill_hover": "var(--tint)",
        "button_secondary_border_color": "var(--line)",
        "button_secondary_text_color": "var(--ink)",
        "button_secondary_text_color_hover": "var(--ink)",
        "color_accent": "var(--accent)",
        "color_accent_soft": "var(--tint)",
    }
    dark = {f"{name}_dark": value for name, value in both.items() if name != "color_accent"}
    return gr.themes.Base(font=SANS, font_mono=MONO, radius_size="md").set(**both, **dark)
