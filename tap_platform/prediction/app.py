"""A small page: click on a picture, see the mask, the concept and the caption."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from tap_platform.objectives.prompts import BACKGROUND, FOREGROUND, Prompts
from tap_platform.prediction.drawing import draw_prediction, title
from tap_platform.prediction.predictor import TapPredictor
from tap_platform.prediction.prompts import read_prompts
from tap_platform.prediction.regions import Prediction

# Gradio would send statistics of its use home.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

INSIDE, OUTSIDE, CORNER = "Point inside", "Point outside", "Box: two corners"
_NO_CAPTION = "(no tokenizer: start with --tokenizer)"
_NO_CONCEPT = "(started without concepts)"
_SYSTEM_FONTS = ("system-ui", "sans-serif")

Shown = tuple[Image.Image | None, str, str, str]
"""The picture of the answer, the concept, the caption and the mask's score."""
NOTHING: Shown = (None, "", "", "")


@dataclass
class Session:
    """One visitor's picture and the region that is being pointed at."""

    predictor: TapPredictor
    points: list[tuple[int, int]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    corners: list[tuple[int, int]] = field(default_factory=list)

    def click(self, place: tuple[int, int], meaning: str) -> None:
        """Take a click in; a third corner begins another box."""
        if meaning == CORNER:
            self.corners = [*self.corners, place] if len(self.corners) < 2 else [place]
        else:
            self.points.append(place)
            self.labels.append(FOREGROUND if meaning == INSIDE else BACKGROUND)

    def forget(self) -> None:
        """Begin another region on the same picture."""
        self.points, self.labels, self.corners = [], [], []

    @property
    def prompts(self) -> Prompts | None:
        """The prompt so far; None before the first point or the second corner."""
        box = _box(self.corners) if len(self.corners) == 2 else None
        if box is None and not self.points:
            return None
        return read_prompts(self.points or None, self.labels or None, box)

    def answer(self) -> Shown:
        """What the model says about the region that is pointed at."""
        prompts = self.prompts
        if prompts is None:
            return NOTHING
        found = self.predictor.answer(prompts)
        picture = draw_prediction(self.predictor.image, found, prompts)
        return picture, *_told(found)


def build_page(predictor: TapPredictor, example: Path | None = None) -> gr.Blocks:
    """The page of a model.

    Args:
        predictor: its model, concepts and tokenizer are shared by all visitors.
        example: an image to begin with.
    """

    def click(
        session: Session | None, file: str, meaning: str, event: gr.SelectData
    ) -> tuple[Session, Any, Any, Any, Any]:
        try:
            session = session or Session(predictor.copy().set_image(file))
        except ValueError as error:
            raise gr.Error(str(error)) from error
        session.click((event.index[0], event.index[1]), meaning)
        if len(session.corners) == 1:
            gr.Info("Now click on the opposite corner.")
        return session, *session.answer()

    def forget(session: Session | None) -> Shown:
        if session is not None:
            session.forget()
        return NOTHING

    def change_picture() -> tuple[None, Any, Any, Any, Any]:
        return None, *NOTHING

    with gr.Blocks(title="TAP: tokenize anything via prompting") as page:
        session = gr.State(None, time_to_live=3600)
        gr.Markdown("## Click on a picture: TAP segments, names and describes what you mean")
        with gr.Row():
            with gr.Column():
                file = str(example) if example else None
                picture = gr.Image(
                    file,
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    label="Picture",
                    elem_id="picture",
                )
                meaning = gr.Radio(
                    [INSIDE, OUTSIDE, CORNER], value=INSIDE, label="A click is a", elem_id="meaning"
                )
                button = gr.Button("Another region", elem_id="forget")
            with gr.Column():
                answer = gr.Image(
                    label="Answer",
                    interactive=False,
                    format="png",
                    buttons=["download", "fullscreen"],
                    elem_id="answer",
                )
                with gr.Row():
                    concept = gr.Textbox(label="Concept", elem_id="concept")
                    score = gr.Textbox(label="Mask score", elem_id="score")
                caption = gr.Textbox(label="Caption", elem_id="caption")
        shown = [answer, concept, caption, score]
        # The picture is encoded at the first click: what is encoded is what is clicked on.
        picture.change(change_picture, None, [session, *shown])
        picture.select(click, [session, picture, meaning], [session, *shown])
        button.click(forget, session, shown)
    return page


def serve(predictor: TapPredictor, host: str, port: int, example: Path | None = None) -> None:
    """Show the page until it is interrupted.

    Raises:
        ValueError: if the port is taken.
    """
    page = build_page(predictor, example)
    # Fonts of the system: the page needs nothing from the network.
    theme = gr.themes.Default(font=_SYSTEM_FONTS, font_mono=("monospace",))
    Console().print(f"http://{host}:{port} (Ctrl-C ends it)")
    try:
        page.launch(server_name=host, server_port=port, theme=theme, footer_links=[], quiet=True)
    except OSError as error:
        raise ValueError(f"cannot listen at {host}:{port}: choose another --port") from error


def _box(corners: list[tuple[int, int]]) -> list[int]:
    (x, y), (other_x, other_y) = corners
    return [min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y)]


def _told(found: Prediction) -> tuple[str, str, str]:
    concept = title(found, 0) if found.concepts is not None else _NO_CONCEPT
    caption = str(found.captions[0]) if found.captions is not None else _NO_CAPTION
    return concept, caption, f"{found.iou[0]:.2f}"
