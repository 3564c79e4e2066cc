"""The page of ``clipzoo app``: inputs, tabs and their functions. The drawings are those of `clipzoo.show`."""

from __future__ import annotations

import html
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TypedDict

import gradio as gr

from clipzoo.app import mesh
from clipzoo.errors import ClipzooError
from clipzoo.models import Loaded
from clipzoo.pages.predictions import Predicted, heads_html, locates, predict, prompts_html
from clipzoo.runs.showing import independent, prompts_of
from clipzoo.tasks.depth import Depth
from clipzoo.types import decode_image

PROMPTS = 24
"""Most prompts of one picture."""

EMPTY = "<p class='note'>Drop a picture on the left.</p>"
NO_PROMPTS = "<p class='note'>Type prompts, separated by commas, and press Enter.</p>"
SCALE = (
    "Drag to rotate, scroll to zoom. The angle of view of the picture is assumed. Depth without a scale is drawn from "
    "1 to 3; gaps are jumps in depth."
)

SURFACES = 50
"""Most files of surfaces that are kept for browsers."""


class Upload(TypedDict):
    """An uploaded file, as Gradio describes it."""

    path: str | None


class Page:
    """The functions of the page.

    Attributes:
        models: name -> model.
        surfaces: text -> (model, column) of the heads that predict depth.
    """

    def __init__(self, models: Mapping[str, Loaded], folder: Path) -> None:
        self.models, self.folder = models, folder
        depths = [
            (model, column)
            for model, loaded in models.items()
            for column, spec in loaded.student.specs.items()
            if spec.task == "depth"
        ]
        self.surfaces = {f"{column}, {model}" if len(models) > 1 else column: (model, column)
                         for model, column in depths}  # fmt: skip

    def show(
        self, upload: Upload | None, text: str, surface: str | None, degrees: float
    ) -> tuple[str, str, str, str | None, Predicted | None]:
        """Return message, heads, prompts, file of the surface, and the predictions."""
        if upload is None:
            return "", EMPTY, EMPTY, None, None
        try:
            prompts = prompts_of(text)
            if len(prompts) > PROMPTS:
                raise ClipzooError(f"{len(prompts)} prompts are too many to show. Give at most {PROMPTS}")
            image = decode_image(Path(upload["path"] or "").read_bytes())
            predicted = predict("the picture", image, self.models, prompts)
            file = self.surface(predicted, surface, degrees)
        except ClipzooError as error:
            return _sentence(str(error)), EMPTY, EMPTY, None, None
        except OSError as error:
            return (
                _sentence(f"the picture is no longer there ({error.strerror}). Drop it again"),
                EMPTY,
                EMPTY,
                None,
                None,
            )
        names = list(self.models)
        found = prompts_html(predicted, names, independent(self.models)) if prompts else NO_PROMPTS
        return "", heads_html(predicted, names), found, file, predicted

    def surface(self, predicted: Predicted | None, surface: str | None, degrees: float) -> str | None:
        """Write the surface of one depth map, and return its path; None if there is no depth map."""
        wanted = self.surfaces.get(surface or "")
        for one in predicted.overlays if predicted is not None else ():
            if (one.model, one.column) == wanted and isinstance(one.label, Depth) and predicted is not None:
                file = self.folder / f"{uuid.uuid4().hex}.glb"
                file.write_bytes(mesh.glb(predicted.image, one.label, float(degrees)))
                for old in sorted(self.folder.glob("*.glb"), key=lambda one: one.stat().st_mtime)[:-SURFACES]:
                    old.unlink(missing_ok=True)
                return str(file)
        return None

    def turn(self, predicted: Predicted | None, surface: str | None, degrees: float) -> tuple[str, str | None]:
        """Return message and file of the surface after a change of the settings of the 3-D view."""
        try:
            return "", self.surface(predicted, surface, degrees)
        except ClipzooError as error:
            return _sentence(str(error)), None


def build(models: Mapping[str, Loaded], notes: Sequence[str], source: str, folder: Path) -> gr.Blocks:
    """Return the page of models (name -> model); files for the browser are written to ``folder``."""
    page = Page(models, folder)
    about = [*notes, *(f"{one}: no heat maps of prompts" for one, model in models.items() if not locates(model))]
    heads_of = sum(bool(model.columns) for model in models.values())
    several = ["pairs" if count > 1 else "" for count in (heads_of, len(models))]
    with gr.Blocks(title="clipzoo app", analytics_enabled=False) as blocks:
        gr.HTML(_header(source, list(models), about), elem_id="about", padding=False)
        state = gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                # preprocess=False below: Gradio 6.31 itself opens the file with Pillow and reports no reason
                picture = gr.Image(label="Picture", type="filepath", image_mode=None, sources=["upload", "clipboard"],
                                   height=280, elem_id="picture")  # fmt: skip
                prompts = gr.Textbox(label="Prompts", placeholder="a chair, a lamp", elem_id="prompts")
                button = gr.Button("Show predictions", variant="primary", elem_id="show")
                message = gr.HTML(elem_id="message", padding=False)
            with gr.Column(scale=3, min_width=320), gr.Tabs():
                with gr.Tab("Heads", visible=bool(heads_of)):
                    heads = gr.HTML(EMPTY, elem_id="heads", elem_classes=several[0], padding=False)
                with gr.Tab("Prompts"):
                    prompted = gr.HTML(EMPTY, elem_id="prompted", elem_classes=several[1], padding=False)
                with gr.Tab("Depth in 3-D", visible=bool(page.surfaces)) as tab:
                    scene = gr.Model3D(label="Depth", elem_id="scene", height=460, interactive=False,
                                       camera_position=(90, 75, None))  # fmt: skip
                    gr.HTML(f"<p class='note'>{SCALE}</p>", padding=False)
                    with gr.Row():
                        names = list(page.surfaces)
                        surface = gr.Radio(names, value=names[-1] if names else None, label="Depth map",
                                           visible=len(names) > 1)  # fmt: skip
                        degrees = gr.Slider(mesh.NARROW, mesh.WIDE, mesh.USUAL, step=1, label="Angle of view, degrees",
                                            elem_id="degrees")  # fmt: skip
        inputs, outputs = [picture, prompts, surface, degrees], [message, heads, prompted, scene, state]
        gr.on([picture.upload, picture.clear, prompts.submit, button.click], page.show, inputs, outputs,
              preprocess=False, api_visibility="private", concurrency_limit=1, concurrency_id="models")  # fmt: skip
        # tab.select: the viewer of Gradio 6.31 stays empty if the file arrives while its tab is hidden
        gr.on([surface.change, degrees.release, tab.select], page.turn, [state, surface, degrees], [message, scene],
              preprocess=False, api_visibility="private")  # fmt: skip
    return blocks


def launch(blocks: gr.Blocks, host: str, port: int | None, share: bool, max_file: int) -> Iterator[str]:
    """Start the server, and yield its addresses: the local one, then the public one if it is shared.

    Raises:
        ClipzooError: the address is in use, or cannot be used.
    """
    style = resources.files("clipzoo.app").joinpath("style.css").read_text(encoding="utf-8")
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none from the network
    try:
        _, local, public = blocks.launch(
            server_name=host, server_port=port, share=share, quiet=True, prevent_thread_lock=True, show_error=False,
            max_file_size=max_file, footer_links=[], run_history=False, enable_monitoring=False, ssr_mode=False,
            pwa=False, mcp_server=False, css=style, theme=gr.themes.Default(**fonts),
        )  # fmt: skip
    except OSError as error:
        raise ClipzooError(
            f"{host}:{port or 'any port from 7860'} cannot be used: {error}. Choose another address with --host and "
            "--port, or end the program that uses it"
        ) from error
    yield local
    if share and public:
        yield public


def _header(source: str, models: Sequence[str], notes: Sequence[str]) -> str:
    names = " next to ".join(html.escape(one) for one in models) if len(models) > 1 else ""
    about = "".join(f"<p class='note'>{html.escape(note)}</p>" for note in notes)
    return f"<h1>clip<b>zoo</b></h1><p class='note'>{html.escape(source)}{names and f': {names}'}</p>{about}"


def _sentence(text: str) -> str:
    return f"<p class='error' role='alert'>{html.escape(text[:1].upper() + text[1:])}.</p>"
