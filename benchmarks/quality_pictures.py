"""Pictures of a model's quality: queries with the images found for each, as the paper shows them, and the curve."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from data_catalog.charts import COLOURS
from training.use.fonts import lettering_for

THUMBNAIL, GAP, MARGIN, LABEL = 148, 14, 28, 34
PAPER, INK, SOFT, RIGHT = "#ffffff", COLOURS["ink"], COLOURS["soft"], COLOURS["third"]


@dataclass(frozen=True, slots=True)
class Found:
    """A query, the encoded images found for it, best first, and which of them it is true of."""

    query: str
    note: str
    images: Sequence[bytes]
    fits: Sequence[bool]


def write_sheet(rows: Sequence[Found], path: Path) -> None:
    """One row a query; what the query is true of has a green frame."""
    columns = max(len(row.images) for row in rows)
    step = LABEL + THUMBNAIL + GAP
    width = 2 * MARGIN + columns * (THUMBNAIL + GAP) - GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + len(rows) * step - GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    lettering = lettering_for([text for row in rows for text in (row.query, row.note)])
    for number, row in enumerate(rows):
        top = MARGIN + number * step
        query, small = lettering.legible(row.query), lettering.font(13)
        room = width - 2 * MARGIN - GAP - draw.textlength(row.note, font=small)
        size = next((size for size in range(19, 9, -1) if draw.textlength(query, font=lettering.font(size)) <= room), 9)
        draw.text((MARGIN, top + 22), query, font=lettering.font(size), fill=INK, anchor="ls")
        draw.text((width - MARGIN, top + 22), row.note, font=small, fill=SOFT, anchor="rs")
        for column, (data, fits) in enumerate(zip(row.images, row.fits, strict=True)):
            _paste(sheet, draw, data, (MARGIN + column * (THUMBNAIL + GAP), top + LABEL), is_framed=fits)
    sheet.save(path, "PNG")


def _paste(sheet: Image.Image, draw: Any, data: bytes, corner: tuple[int, int], *, is_framed: bool) -> None:
    with Image.open(io.BytesIO(data)) as image:
        # Squashed, as the model has it: nothing is cut off.
        thumbnail = image.convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    sheet.paste(thumbnail, corner)
    left, top = corner
    border = 6 if is_framed else 1
    box = (left - border, top - border, left + THUMBNAIL + border - 1, top + THUMBNAIL + border - 1)
    draw.rectangle(box, outline=RIGHT if is_framed else COLOURS["line"], width=border)


def write_curve(history: Sequence[Mapping[str, Any]], test: Mapping[str, float], path: Path) -> None:
    """Validation loss and R@1 by images seen, with the final model's R@1 on the test gallery.

    Args:
        history: lines of `metrics.jsonl`; those of older runs have no `val_recall@1`.
        test: R@1 by name of the gallery.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}):
        figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        losses, recalls = figure.subplots(1, 2)
        seen = [line["samples_seen"] / 1000 for line in history]
        for name, colour in (("train", "first"), ("val", "second")):
            losses.plot(seen, [line[f"{name}_loss"] for line in history], ".-", color=COLOURS[colour], label=name)
        told = [line for line in history if line.get("val_recall@1") is not None]
        points = [line["samples_seen"] / 1000 for line in told], [line["val_recall@1"] for line in told]
        if told:
            recalls.plot(*points, ".-", color=COLOURS["second"], label=f"validation, of {told[0]['val_gallery']:,}")
        for (name, value), colour in zip(test.items(), ("third", "fourth", "fifth"), strict=False):
            recalls.plot(seen[-1:], [value], "D", color=COLOURS[colour], label=f"{name}: {value:.3f}")
        losses.set(xlabel="images seen, thousands", ylabel="contrastive loss", yscale="log")
        recalls.set(xlabel="images seen, thousands", ylabel="text to image, R@1", xlim=losses.get_xlim(), ylim=(0, 1))
        for axes in (losses, recalls):
            axes.grid(color=COLOURS["line"], linewidth=0.6)
            axes.legend(frameon=False)
        figure.savefig(path, format="png", metadata={"Software": None})
