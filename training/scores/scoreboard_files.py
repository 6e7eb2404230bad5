"""A scoreboard as files: JSON, Markdown, and a picture with a panel for each set and task."""

import io
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_catalog.charts import COLOURS, SERIES, picture_label
from data_catalog.storage.shards import write_bytes, write_json
from training.scores.encoders import PACKAGES
from training.scores.protocols import Protocol
from training.scores.score import Score
from training.scores.scoreboard import Scoreboard
from training.scores.scoreboard_tables import Section, markdown, sections, told_entries

JSON_FILE, MARKDOWN_FILE, PLOT_FILE = "scoreboard.json", "scoreboard.md", "scoreboard.png"
# What a panel shows of each task.
SHOWN = {"retrieval": "text_to_image_R@1", "zero-shot": "zero_shot_accuracy@1"}
_TITLES = {"retrieval": "text to image, R@1", "zero-shot": "zero-shot accuracy@1"}
_ROW_HEIGHT = 0.34  # inches
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # names may be a user's
}


def write_scoreboard(board: Scoreboard, protocols: Mapping[str, Protocol], folder: Path) -> list[Section]:
    """Write `scoreboard.json`, `scoreboard.md` and `scoreboard.png`; return what the second one shows.

    Args:
        protocols: by name of the set that is scored by it.
    """
    found = sections(board, protocols)
    made_with = {name: version(name) for name in PACKAGES}
    told = {"vernaclip": version("vernaclip"), "packages": made_with, **board.to_json()}
    write_json(folder / JSON_FILE, {**told, "protocols": {name: asdict(used) for name, used in protocols.items()}})
    write_bytes(folder / MARKDOWN_FILE, markdown(found).encode())
    write_scoreboard_plot(board, folder / PLOT_FILE)
    return found


def write_scoreboard_plot(board: Scoreboard, path: Path) -> None:
    """Draw a PNG with a panel for each set, one above the other, and a dot with its 95 % interval for each model."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(test_set, _rows(board, test_set.name, SHOWN[test_set.task])) for test_set in board.sets]
    heights = [_ROW_HEIGHT * len(rows) + 1.0 for _, rows in panels]
    with rc_context(_STYLE):
        figure = Figure(figsize=(8.5, sum(heights)), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for place, (test_set, rows) in zip(axes, panels, strict=True):
            title = f"{picture_label(test_set.name)}: {_TITLES[test_set.task]}, gallery {rows[0][1].gallery_size:,}"
            _draw(place, rows, title, [model.name for model in board.models])
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _rows(board: Scoreboard, test_set: str, name: str) -> list[tuple[str, Score]]:
    """Model and score of each line of a panel, the first at the top, models of one choice of captions together."""
    found = [entry for entry in told_entries(board, test_set) if entry.score.name == name]
    choices = list(dict.fromkeys((entry.score.captions, entry.score.images) for entry in found))
    ordered = sorted(found, key=lambda entry: choices.index((entry.score.captions, entry.score.images)))
    return [(entry.model, entry.score) for entry in ordered]


def _draw(axes: Any, rows: list[tuple[str, Score]], title: str, models: list[str]) -> None:
    labels = []
    for place, (model, score) in enumerate(rows):
        colour = COLOURS[SERIES[models.index(model) % len(SERIES)]]
        axes.plot([score.low, score.high], [place, place], "-", color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot([score.value], [place], "o", color=colour, markersize=6, clip_on=False, zorder=3)
        axes.plot([score.chance] * 2, [place - 0.38, place + 0.38], "-", color=COLOURS["soft"], linewidth=1.2)
        kinds = [score.captions, *([score.images] if score.images != "all" else [])]
        labels.append(f"{picture_label(model)} ({', '.join(kinds)})")
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    most = max(max(score.high, score.chance) for _, score in rows)
    axes.set_xlim(0, min(1.0, max(0.05, 1.15 * most)))
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("dot: score, line: 95 % interval, grey: chance", fontsize=8, color=COLOURS["soft"])
    axes.grid(axis="x", color=COLOURS["line"], linewidth=0.6)
    axes.set_axisbelow(True)
