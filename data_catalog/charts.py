"""Charts as SVG to be put into an HTML page: its fonts, its colours (other ones in the dark), text that stays text."""

import html
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from unicodedata import bidirectional

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each colour stands for the page's CSS variable of that name, which is another one in the dark.
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
# Colours that tell series apart, in the order in which they are taken.
SERIES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
# Inches: on a telephone, where the width is 25 rem or less, letters are about as large as those of the page.
SIZE = (4.8, 3.1)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # labels may be dataset text
    "axes.axisbelow": True,
    "axes.edgecolor": COLOURS["soft"],
    "axes.grid": True,
    "axes.labelcolor": COLOURS["soft"],
    "axes.spines.right": False,
    "axes.spines.top": False,
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
_MAX_LABEL = 24
_RIGHT_TO_LEFT = frozenset({"R", "AL"})


def svg_chart(name: str, draw: Callable[["Figure"], None], *, size: tuple[float, float] = SIZE) -> str:
    """What `draw` draws on an empty figure with a constrained layout.

    Args:
        name: what the chart shows, for those who hear the page; charts of one page have different names.
        draw: uses the colours in `COLOURS` only, and passes labels from a dataset through `chart_label`.
        size: width and height in inches.

    Returns:
        One `svg` element, the same for the same drawing.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        return _inline_svg(figure, name)


def chart_label(text: str) -> str:
    """A text as a label: short, and in letters whose width is known; others as escapes."""
    plain = "".join(char if char.isprintable() and ord(char) < 0x250 else ascii(char)[1:-1] for char in text)
    return plain if len(plain) <= _MAX_LABEL else f"{plain[: _MAX_LABEL - 1]}…"


def picture_label(text: str) -> str:
    """A text as a label of a chart in pixels, whole: letters that its font lacks, or would not join, as escapes."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    return "".join(
        char
        if char.isprintable() and font.get_char_index(ord(char)) and bidirectional(char) not in _RIGHT_TO_LEFT
        else ascii(char)[1:-1]
        for char in text
    )


def _inline_svg(figure: "Figure", name: str) -> str:
    """The figure without what a file of its own needs, in the page's fonts and colours."""
    file = io.StringIO()
    unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=unsaid)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to groups, and all charts would have the same
    svg = re.sub(r"font-family: [^;]*;", "", svg)
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    described = f'role="img" aria-label="{html.escape(name)}"'
    return re.sub(r'width="[^"]*" height="[^"]*"', lambda _: described, svg, count=1)
