"""How the page looks: theme, style sheet, head line, and the grounds on which transparency is shown."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from lib_layerdiffusion.page import ID

GROUNDS = ("checkerboard", "light", "dark")
GROUND_CLASS = f"{ID}_grounded"
"""Pictures inside a component of this class are shown on the chosen ground."""
_SHOW_ON = "(ground) => { document.body.dataset.ground = ground }"


def theme() -> Any:
    """Plain font names: gradio's own theme has every browser fetch fonts from afar."""
    return gr.themes.Default(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        spacing_size="md",
        radius_size="md",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_500",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_border_color="*primary_600",
        button_primary_border_color_dark="*primary_600",
        button_primary_text_color="white",
        slider_color="*primary_500",
        slider_color_dark="*primary_500",
        button_secondary_background_fill="*background_fill_primary",
        button_border_width="1px",
        button_secondary_border_color="*border_color_primary",
        button_secondary_border_color_dark="*border_color_primary",
        button_secondary_background_fill_hover="*neutral_100",
    )


def head_line(model: str) -> Any:
    """Name of the program and of the model that it runs."""
    return gr.HTML(
        f'<header><span class="{ID}_mark" aria-hidden="true"></span><h1>LayerDiffusion</h1>'
        f"<p>Model: {html.escape(model)}</p></header>",
        elem_id=f"{ID}_head",
    )


def ground_choice() -> Any:
    """Chooses the ground of every picture on the page, in the browser alone."""
    ground = gr.Radio(
        GROUNDS, value=GROUNDS[0], label="Show on", show_label=False, container=False, elem_id=f"{ID}_ground"
    )
    ground.change(None, [ground], js=_SHOW_ON)
    return ground


def file_list(elem_id: str) -> Any:
    """Files to download."""
    return gr.File(
        label="Download", file_count="multiple", interactive=False, elem_id=elem_id, elem_classes=[f"{ID}_offered"]
    )


def style_sheet() -> str:
    """The page's own CSS as an element of its head, where gradio does not rewrite selectors.

    The gallery of gradio 4.40 scrolls inside a fixed height; here it grows with its pictures, whose own shape it keeps,
    so that the ground ends where the picture does.
    """
    return f"""<style>
.gradio-container {{ max-width: 1280px !important; margin: 0 auto; padding-top: 12px !important; }}
#{ID}_head {{ border: 0; padding: 0; background: none; }}
#{ID}_head header {{ display: flex; flex-wrap: wrap; align-items: center; gap: 4px 12px; padding: 4px 0; }}
#{ID}_head h1 {{ font-size: 1.35rem; font-weight: 650; margin: 0; color: var(--body-text-color); }}
#{ID}_head p {{ margin: 0; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }}
.{ID}_mark {{
    width: 28px; height: 28px; border-radius: 8px;
    background: radial-gradient(circle at 50% 55%, #4f46e5 0 38%, rgb(79 70 229 / 0.35) 52%, transparent 62%),
        repeating-conic-gradient(#ffffff 0 25%, #cbd5e1 0 50%) 0 0 / 14px 14px;
}}
#{ID}_gallery .fixed-height {{ max-height: none; min-height: 18rem; }}
#{ID}_gallery .grid-wrap {{ overflow: visible; padding: 0.5rem; }}
#{ID}_gallery .grid-container {{ grid-template-rows: none; grid-auto-rows: auto; align-items: start; }}
#{ID}_gallery .thumbnail-lg {{ aspect-ratio: auto; height: auto; min-height: 3rem; line-height: 0; }}
#{ID}_gallery .thumbnail-lg > img {{ height: auto; max-height: 75vh; object-fit: contain; }}
#{ID}_gallery .caption-label {{ line-height: 1.2; text-transform: capitalize; }}
#{ID}_gallery .image-button {{ align-items: center; justify-content: center; }}
#{ID}_gallery .image-button img {{ width: auto; max-width: 100%; }}
#{ID}_gallery .preview::before {{ opacity: 1; }}
#{ID}_gallery .preview {{ min-height: 18rem; }}
.{ID}_grounded img {{ background: repeating-conic-gradient(#c9ced6 0 25%, #eef0f3 0 50%) 0 0 / 24px 24px; }}
body[data-ground="light"] .{ID}_grounded img {{ background: #ffffff; }}
body[data-ground="dark"] .{ID}_grounded img {{ background: #1a1a1a; }}
.{ID}_grounded .image-frame {{ display: flex; align-items: center; justify-content: center; }}
.{ID}_grounded .image-frame img {{ width: auto; max-width: 100%; }}
.{ID}_bar {{ align-items: center; justify-content: space-between; gap: 8px !important; }}
.{ID}_bar > * {{ flex: 0 1 auto !important; width: auto !important; min-width: 0 !important; }}
.{ID}_steps {{ display: grid !important; grid-auto-flow: column; grid-auto-columns: 1fr; gap: 8px !important; }}
.{ID}_note {{
    border-left: 4px solid #d97706; border-radius: 6px; padding: 8px 12px; margin: 0 0 8px;
    background: rgb(217 119 6 / 0.12); color: var(--body-text-color);
}}
.{ID}_offered .label-clear-button {{ display: none; }}
.{ID}_offered .ext {{ margin-left: -0.28em; }}
.{ID}_offered .stem {{ white-space: normal !important; overflow-wrap: anywhere; }}
.{ID}_offered .filename {{ display: block !important; overflow: visible; }}
.{ID}_offered td.download {{ min-width: 5rem; }}
#{ID}_method input, #{ID}_sampler input {{ text-overflow: ellipsis; margin-right: 1.4rem; }}
#{ID}_summary p {{ margin: 0; }}
footer {{ display: none !important; }}
@media (min-width: 900px) {{
    #{ID}_right, #{ID}_composed_right {{ position: sticky; top: 12px; align-self: flex-start; }}
}}
@media (max-width: 899px) {{
    .gradio-container.app {{ padding: 8px 12px !important; }}
    .gradio-container .tabitem {{ padding: 10px 0; border: 0; }}
    .{ID}_steps button {{ padding-left: 4px; padding-right: 4px; }}
    #{ID}_weight, #{ID}_stop_at, #{ID}_method, #{ID}_example {{ min-width: 100% !important; }}
}}
</style>"""
