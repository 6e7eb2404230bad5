"""Charts: SVG to embed in an HTML page, in the page's fonts and light or dark colours; and PNG files."""

import html
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import bidirectional

from data_catalog.disk.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each colour is replaced by the page's CSS variable of that name, which differs in dark mode.
COLOURS = {
    "ink": "#1b2028",
    "soft": "#5a6472",
    "line": "#d5dae1",
    "card": "#fefefe",
    "first": "#1f5fbf",
    "second": "#b3560b",
    "third": "#1c7a4c",
    "fourth": "#8a3fa8",
    "fifth": "#0b7480",
    "sixth": "#b02a5b",
    "seventh": "#77690a",
    "eighth": "#6a6f78",
}
SERIES = tuple(COLOURS)[4:]  # colours of data series, in order of use
# Inches; on a phone, at most 25 rem wide, letters are then about as large as those of the page.
SIZE = (4.8, 3.1)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # labels may come from a dataset
    "axes.axisbelow": True,
    "axes.edgecolor": COLOURS["soft"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": COLOURS["soft"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.edgecolor": "none",
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 3.5,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
}
_RIGHT_TO_LEFT = frozenset({"R", "AL"})


def svg_chart(name: str, draw: Callable[["Figure"], None]) -> str:
    """Return a chart as one `svg` element; the same drawing gives the same element.

    `name` says for screen readers what the chart shows, and is unique within a page. `draw` draws on an empty figure
    with a constrained layout, in the colours of `COLOURS` only.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=SIZE, layout="constrained")
        draw(figure)
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        # `savefig` would draw twice.
        FigureCanvasSVG(figure).print_svg(file, metadata=no_metadata)  # type: ignore[no-untyped-call]
    # Remove what only a standalone file needs, and use the page's fonts and colours.
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to these ids, and they repeat in every chart
    svg = re.sub(r"font-family: [^;]*;", "", svg)
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    described = f'role="img" aria-label="{html.escape(name)}"'
    return re.sub(r'width="[^"]*" height="[^"]*"', lambda _: described, svg, count=1)


def write_png(path: Path, draw: Callable[["Figure"], None], *, size: tuple[float, float]) -> None:
    """Write a chart as PNG; `draw` draws it on an empty figure with a constrained layout; `size` is in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Labels may come from a user: a "$" in them starts no formula.
    style: dict[Any, Any] = {"axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False}
    with rc_context({"font.size": 10, **style}):
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        draw(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    write_bytes(path, file.getvalue())


def picture_label(text: str) -> str:
    """Return a text as a label of a PNG, at full length; letters that the font lacks or cannot join become escapes."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    return "".join(
        char
        if char.isprintable() and font.get_char_index(ord(char)) and bidirectional(char) not in _RIGHT_TO_LEFT
        else ascii(char)[1:-1]
        for char in text
    )
