"""Write a scoreboard as JSON, as Markdown tables and as a plot with a panel per test set."""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

from data_catalog.disk.files import write_bytes, write_json
from data_catalog.exports.markdown import bullets, one_line, table
from data_catalog.report.drawing import COLOURS, SERIES, picture_label, write_png
from training.data.features import PACKAGES
from training.scores.evaluation import LEAK_FREE
from training.scores.metrics import METRIC_OF, METRICS, Metric
from training.scores.protocols import Protocol
from training.scores.score import CAPTION_MODES, IMAGE_CHOICES, Difference, Score
from training.scores.scoreboard import Entry, Scoreboard, SetFacts

JSON_FILE, MARKDOWN_FILE, PLOT_FILE = "scoreboard.json", "scoreboard.md", "scoreboard.png"
CHANCE = "chance"
_OPENING = re.compile(r"[&<>|`*\\]|(?<!\w)_|_(?!\w)|\](?=\()")
# If a smaller share of captions fits several images, scores without those captions are not shown.
_SHARED_WORTH_TELLING = 0.02
_TITLES = {"text_to_image": "text to image", "image_to_text": "image to text", "zero_shot": "zero-shot classification"}
# Metric in the plot's panel for each task.
_PANELS = {
    "retrieval": ("text_to_image_R@1", "text to image, R@1"),
    "zero-shot": ("zero_shot_accuracy@1", "zero-shot accuracy@1"),
}
_ROW_HEIGHT = 0.34  # inches


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section of a scoreboard.

    Args:
        title: heading.
        rows: table rows with equal keys, in the order of the columns.
        notes: sentences below the table.
    """

    title: str
    rows: Sequence[Mapping[str, str]]
    notes: Sequence[str] = ()


def sections(board: Scoreboard, protocols: Mapping[str, Protocol]) -> list[Section]:
    """Return the most important sections of a scoreboard. The JSON file contains everything.

    Args:
        board: the scoreboard.
        protocols: protocols by the name of the test set that they apply to.
    """
    models = [{"model": model.name, "weights": model.origin, "trained on": model.trained_on} for model in board.models]
    found = [Section(title="Models", rows=models)]
    for test_set in board.sets:
        entries = shown_entries(board, test_set.name)
        for way in _TITLES:
            rows = list(_score_rows(entries, way))
            if rows:
                has_others = any(entry.score.images == LEAK_FREE for entry in entries)
                notes = list(set_notes(test_set, has_leak_free=has_others)) if way != "image_to_text" else []
                found.append(Section(title=f"{test_set.name}: {_TITLES[way]}", rows=rows, notes=notes))
        if test_set.name in protocols:
            found.append(_beside_published(entries, test_set, protocols[test_set.name]))
        rows = list(_difference_rows(board, test_set.name, {_choice(entry.score) for entry in entries}))
        if rows:
            notes = [f"each model's score minus that of {board.models[0].name}, on the same queries"]
            found.append(Section(title=f"{test_set.name}: differences", rows=rows, notes=notes))
    return [*found, _legend(board)]


def shown_entries(board: Scoreboard, test_set: str) -> list[Entry]:
    """Return a set's scores without mode "one", and without mode "distinct" if it selects nearly all captions."""
    entries = [entry for entry in board.entries if entry.test_set == test_set]
    counts = {
        entry.score.captions: entry.score.num_queries
        for entry in entries
        if entry.score.name.startswith("text_to_image") and entry.score.images == "all"
    }
    hidden = {"one"}
    if counts.get("distinct", 0) >= (1 - _SHARED_WORTH_TELLING) * counts.get("all", 0):
        hidden.add("distinct")
    return [entry for entry in entries if entry.score.captions not in hidden]


def markdown(found: Sequence[Section]) -> str:
    """Return the sections as a Markdown document."""
    parts = ["# Scoreboard"]
    for section in found:
        parts.append(f"## {_escaped(section.title)}")
        if section.rows:
            cells = [[_escaped(text) for text in row.values()] for row in section.rows]
            parts.append(table(list(section.rows[0]), cells))
        if section.notes:
            parts.append(bullets(_escaped(note) for note in section.notes))
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    """Escape a text for Markdown, since it may quote a name from a file that contains tags or links."""
    return _OPENING.sub(lambda found: "".join(f"&#{ord(char)};" for char in found[0]), one_line(text))


def write_scoreboard(board: Scoreboard, protocols: Mapping[str, Protocol], folder: Path) -> list[Section]:
    """Write `scoreboard.json`, `scoreboard.md` and `scoreboard.png`, and return the sections of the Markdown file.

    Args:
        board: the scoreboard.
        protocols: protocols by the name of the test set that they apply to.
        folder: folder of the files.
    """
    found = sections(board, protocols)
    made_with = {name: version(name) for name in PACKAGES}
    content = {"vernaclip": version("vernaclip"), "packages": made_with, **board.to_json()}
    write_json(folder / JSON_FILE, {**content, "protocols": {name: asdict(used) for name, used in protocols.items()}})
    write_bytes(folder / MARKDOWN_FILE, markdown(found).encode())
    write_scoreboard_plot(board, folder / PLOT_FILE)
    return found


def _score_rows(entries: Sequence[Entry], way: str) -> Iterator[dict[str, str]]:
    """Yield a row with the chance level and one row per model, for each choice of captions and images."""
    models = list(dict.fromkeys(entry.model for entry in entries))
    names = [metric.name for metric in _columns(way)]
    for choice in dict.fromkeys(_choice(entry.score) for entry in entries if entry.score.name.startswith(way)):
        scores = {(entry.model, entry.score.name): entry.score for entry in entries if _choice(entry.score) == choice}
        for model in (None, *models):
            found = {name: scores[model or models[0], f"{way}_{name}"] for name in names}
            first = found[names[0]]
            yield {
                "captions": first.captions,
                "images": first.images,
                "model": model or CHANCE,
                **{
                    name.replace("_", " "): _short(score, score.chance) if model is None else _estimate(score)
                    for name, score in found.items()
                },
                "gallery": f"{first.gallery_size:,}",
                "queries": f"{first.num_queries:,}",
            }


def _columns(way: str) -> list[Metric]:
    """Return the metrics in the tables of a direction, in the order of their columns."""
    shown = [(metric.column, metric) for metric in METRICS if metric.column is not None and way in metric.ways]
    return [metric for _, metric in sorted(shown, key=itemgetter(0))]


def _choice(found: Score | Difference) -> tuple[str, str]:
    """Return the caption mode and image choice of a number."""
    return found.captions, found.images


def _estimate(score: Score) -> str:
    sign = " ~" if score.low <= score.chance <= score.high else ""
    return f"{_short(score, score.value)} [{_short(score, score.low)}, {_short(score, score.high)}]{sign}"


def _short(score: Score, value: float) -> str:
    return f"{value:.{METRIC_OF[score.name].board_digits}f}"


def set_notes(test_set: SetFacts, *, has_leak_free: bool) -> Iterator[str]:
    """Yield the notes on a test set. They are the same in both directions of a retrieval.

    Args:
        test_set: facts about the set.
        has_leak_free: there are scores on images that no model was trained on.
    """
    texts, kind = ("captions", "image with a caption") if test_set.task == "retrieval" else ("classes", "image")
    yield f"{test_set.num_images:,} images, {test_set.num_texts:,} {texts}"
    if test_set.num_missing:
        yield f"{test_set.num_missing:,} more images are missing or do not decode: they and their captions are left out"
    for model, ways in test_set.compared.items():
        leaked, alike = test_set.leaked[model], test_set.alike[model]
        listed = " and ".join(filter(None, (", ".join(ways[:-1]), *ways[-1:])))
        if ways or leaked:
            count = f"{len(leaked):,}" if leaked else "none"
            how = f", compared by {listed}" if listed else ""
            yield f"{count} of the images are among those that {model} was trained on{how}"
        if not ways:
            yield f"it is not known if {model} was trained on {'others' if leaked else 'any'} of the images"
        if alike:
            name, why = next(iter(alike.items()))
            yield f"{len(alike):,} look like training images of {model}, and may be others ({name}: {why})"
    has_seen = any(names for matches in (test_set.leaked, test_set.alike) for names in matches.values())
    if has_seen and not has_leak_free:
        yield f"no {kind} remains without these, so there are no leak-free scores"
    yield from test_set.notes


def _beside_published(entries: Sequence[Entry], test_set: SetFacts, protocol: Protocol) -> Section:
    """Return published numbers with those of the models, or a note if another number of images was scored."""
    is_retrieval = test_set.task == "retrieval"
    published = protocol.retrieval if is_retrieval else protocol.zero_shot
    wanted = protocol.num_images if is_retrieval else protocol.num_class_images
    title = f"{test_set.name}: protocol {protocol.name}"
    if test_set.num_images != wanted:
        note = f"{test_set.num_images:,} images were scored, but the protocol has {wanted:,}: not comparable"
        return Section(title=title, rows=[], notes=[note, protocol.source])
    cells = {f"{model} (published)": [f"{value:.4f}" for value in found] for model, found in published.values.items()}
    scores = {
        (entry.model, entry.score.name): entry.score
        for entry in entries
        if _choice(entry.score) == (published.captions, "all")
    }
    for model in dict.fromkeys(entry.model for entry in entries):
        cells[model] = [_estimate(scores[model, f"{published.way}_{measure}"]) for measure in published.measures]
    rows = [{"model": model, **dict(zip(published.measures, numbers, strict=True))} for model, numbers in cells.items()]
    return Section(title=title, rows=rows, notes=[protocol.source])


def _difference_rows(board: Scoreboard, test_set: str, choices_shown: Set[tuple[str, str]]) -> Iterator[dict[str, str]]:
    found = {
        (entry.model, *_choice(entry.difference), entry.difference.name): entry.difference
        for entry in board.differences
        if entry.test_set == test_set and _choice(entry.difference) in choices_shown
    }
    compared = {way: [metric for metric in _columns(way) if metric.is_compared] for way in _TITLES}
    ways = [way for way in compared if any(name.startswith(way) for *_, name in found)]
    shown = dict.fromkeys((metric.name.replace("_", " ") for way in ways for metric in compared[way]), "")
    choices = dict.fromkeys(key[:3] for key in found)
    for (model, captions, images), way in product(choices, ways):
        cells = {}
        for metric in compared[way]:
            delta, digits = found[model, captions, images, f"{way}_{metric.name}"], metric.board_digits
            cell = f"{delta.value:+.{digits}f} [{delta.low:+.{digits}f}, {delta.high:+.{digits}f}]"
            cells[metric.name.replace("_", " ")] = cell
        yield {"model": model, "way": _TITLES[way], "captions": captions, "images": images, **shown, **cells}


def _legend(board: Scoreboard) -> Section:
    entries = [entry for test_set in board.sets for entry in shown_entries(board, test_set.name)]
    captions = dict.fromkeys(entry.score.captions for entry in entries)
    images = dict.fromkeys(entry.score.images for entry in board.entries)
    notes = [
        "[low, high]: 95 % interval by resampling images with all their captions, never narrower than so few images "
        "allow; chance: random order",
        "~: the interval includes the chance level, so the score may be due to chance",
        "ranks count ties against the model; all captions of an image are right: the best one gives its rank, "
        "nDCG counts all",
        *(f"captions {mode}: {CAPTION_MODES[mode]}" for mode in captions),
        *(f"images {choice}: {IMAGE_CHOICES[choice]}" for choice in images),
    ]
    return Section(title="How to read it", rows=[], notes=notes)


def write_scoreboard_plot(board: Scoreboard, path: Path) -> None:
    """Draw a PNG with one panel per test set, and a dot with its 95 % interval for each model."""
    panels: list[tuple[str, list[Entry]]] = []
    for test_set in board.sets:
        name, title = _PANELS[test_set.task]
        found = [entry for entry in shown_entries(board, test_set.name) if entry.score.name == name]
        # The first model is on top, and models are grouped by the choice of captions and images.
        choices = dict.fromkeys(_choice(entry.score) for entry in found)
        rows = [entry for choice in choices for entry in found if _choice(entry.score) == choice]
        panels.append((f"{picture_label(test_set.name)}: {title}, gallery {rows[0].score.gallery_size:,}", rows))
    heights = [_ROW_HEIGHT * len(rows) + 1.0 for _, rows in panels]
    models = [model.name for model in board.models]
    colours = {name: COLOURS[SERIES[number % len(SERIES)]] for number, name in enumerate(models)}

    def draw(figure: Any) -> None:
        axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for place, (title, rows) in zip(axes, panels, strict=True):
            _draw_panel(place, rows, title, colours)

    write_png(path, draw, size=(8.5, sum(heights)))


def _draw_panel(axes: Any, entries: Sequence[Entry], title: str, colours: Mapping[str, str]) -> None:
    labels = []
    for place, entry in enumerate(entries):
        score, colour = entry.score, colours[entry.model]
        axes.plot([score.low, score.high], [place, place], "-", color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot([score.value], [place], "o", color=colour, markersize=6, clip_on=False, zorder=3)
        axes.plot([score.chance] * 2, [place - 0.38, place + 0.38], "-", color=COLOURS["soft"], linewidth=1.2)
        kinds = [score.captions, *([score.images] if score.images != "all" else [])]
        labels.append(f"{picture_label(entry.model)} ({', '.join(kinds)})")
    axes.set_yticks(range(len(entries)), labels)
    axes.set_ylim(len(entries) - 0.4, -0.6)
    most = max(max(entry.score.high, entry.score.chance) for entry in entries)
    axes.set_xlim(0, min(1.0, max(0.05, 1.15 * most)))
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("dot: score, line: 95 % interval, grey: chance", fontsize=8, color=COLOURS["soft"])
    axes.grid(axis="x", color=COLOURS["line"], linewidth=0.6)
    axes.set_axisbelow(True)
