"""Show boards as tables, and write a scoreboard as JSON, as Markdown and as a plot with a panel per test set."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_catalog.disk.files import write_bytes, write_json
from data_catalog.exports.markdown import bullets, one_line, table
from data_catalog.report.drawing import COLOURS, SERIES, picture_label, write_png
from training.data.features import PACKAGES
from training.scores.metrics import RETRIEVAL, ZERO_SHOT
from training.scores.protocols import Protocol
from training.scores.rows import ALL, CAPTION_MODES, IMAGE_CHOICES, LEAK_FREE, Board, ScoreRow, SetFacts

JSON_FILE, MARKDOWN_FILE, PLOT_FILE = "scoreboard.json", "scoreboard.md", "scoreboard.png"
_OPENING = re.compile(r"[&<>|`*\\]|(?<!\w)_|_(?!\w)|\](?=\()")
# If a smaller share of captions fits several images, scores without those captions are not shown.
_SHARED_WORTH_TELLING = 0.02
_TITLES = {"text_to_image": "text to image", "image_to_text": "image to text", "zero_shot": "zero-shot classification"}
_COLUMNS = {
    **dict.fromkeys(RETRIEVAL, ("R@1", "R@5", "R@10", "MRR@10", "nDCG@10", "median_rank")),
    **dict.fromkeys(ZERO_SHOT, ("accuracy@1", "accuracy@5", "accuracy@10", "accuracy@100")),
}
# Metric in the plot's panel for each task.
_PANELS = {
    "retrieval": ("text_to_image_R@1", "text to image, R@1"),
    "zero-shot": ("zero_shot_accuracy@1", "zero-shot accuracy@1"),
}
_ROW_HEIGHT = 0.34  # inches


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section of a scoreboard: its title, table rows with equal keys in the order of columns, and notes below."""

    title: str
    rows: Sequence[Mapping[str, str]] = ()
    notes: Sequence[str] = ()


def write_scoreboard(board: Board, protocols: Mapping[str, Protocol], folder: Path) -> list[Section]:
    """Write `scoreboard.json`, `.md` and `.png`, and return the sections of the Markdown; protocols are by test set."""
    found = sections(board, protocols)
    content = {
        "vernaclip": version("vernaclip"),
        "packages": {name: version(name) for name in PACKAGES},
        "protocols": {name: asdict(used) for name, used in protocols.items()},
        **board.to_json(),
    }
    write_json(folder / JSON_FILE, content)
    write_bytes(folder / MARKDOWN_FILE, markdown(found).encode())
    write_scoreboard_plot(board, folder / PLOT_FILE)
    return found


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


def sections(board: Board, protocols: Mapping[str, Protocol]) -> list[Section]:
    """Return the most important sections of a scoreboard, with protocols by their test set. The JSON has everything."""
    models = [{"model": model.name, "weights": model.origin, "trained on": model.trained_on} for model in board.models]
    found, legend = [Section(title="Models", rows=models)], list[ScoreRow]()
    for test_set in board.sets:
        shown = shown_rows(board, test_set.name)
        legend += shown.rows
        for way, title in _TITLES.items():
            if rows := list(_table(shown.where(minus=None), way)):
                notes = [] if way == "image_to_text" else list(set_notes(test_set, shown))
                found.append(Section(title=f"{test_set.name}: {title}", rows=rows, notes=notes))
        if test_set.name in protocols:
            found.append(_beside_published(shown.where(minus=None), test_set, protocols[test_set.name]))
        first = board.models[0].name
        for way, title in _TITLES.items():
            if rows := list(_table(shown.where(minus=first), way)):
                notes = [f"each model's score minus that of {first}, on the same queries"]
                found.append(Section(title=f"{test_set.name}: {title}, differences", rows=rows, notes=notes))
    return [*found, _legend(legend)]


def shown_rows(board: Board, test_set: str) -> Board:
    """Return the rows of a set without mode "one", and without mode "distinct" if it selects nearly all captions."""
    of_set, hidden = board.where(test_set=test_set), {"one"}
    queries = {row.captions: row.queries for row in of_set.where(metric="text_to_image_R@1", images=ALL).rows}
    if queries.get("distinct", 0) >= (1 - _SHARED_WORTH_TELLING) * queries.get(ALL, 0):
        hidden.add("distinct")
    return replace(of_set, rows=tuple(row for row in of_set.rows if row.captions not in hidden))


def _table(board: Board, way: str) -> Iterator[dict[str, str]]:
    """Yield a row per model for each choice of captions and images; before scores, one with the chance level."""
    names = {f"{way}_{name}": name.replace("_", " ") for name in _COLUMNS[way]}
    for captions, images in dict.fromkeys(row.choice for row in board.rows if row.metric.startswith(way)):
        by_model = board.where(captions=captions, images=images).pivot("model")
        lines = [(model, {name: found[name].estimate() for name in names}) for (model,), found in by_model.items()]
        first = next(iter(by_model.values()))
        one = first[next(iter(names))]
        if one.minus is None:
            lines.insert(0, ("chance", {name: first[name].shown(first[name].chance) for name in names}))
        for model, cells in lines:
            place = {"captions": captions, "images": images, "model": model}
            numbers = {names[name]: text for name, text in cells.items()}
            yield {**place, **numbers, "gallery": f"{one.gallery:,}", "queries": f"{one.queries:,}"}


def set_notes(test_set: SetFacts, scores: Board) -> Iterator[str]:
    """Yield the notes on a test set, given its scores. They are the same in both directions of a retrieval."""
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
    if has_seen and not scores.where(images=LEAK_FREE).rows:
        yield f"no {kind} remains without these, so there are no leak-free scores"
    yield from test_set.notes


def _beside_published(scores: Board, test_set: SetFacts, protocol: Protocol) -> Section:
    """Return published numbers with those of the models, or a note if another number of images was scored."""
    is_retrieval = test_set.task == "retrieval"
    published = protocol.retrieval if is_retrieval else protocol.zero_shot
    wanted = protocol.num_images if is_retrieval else protocol.num_class_images
    title = f"{test_set.name}: protocol {protocol.name}"
    if test_set.num_images != wanted:
        note = f"{test_set.num_images:,} images were scored, but the protocol has {wanted:,}: not comparable"
        return Section(title=title, notes=[note, protocol.source])
    cells = {f"{model} (published)": [f"{value:.4f}" for value in found] for model, found in published.values.items()}
    for (model,), found in scores.where(captions=published.captions, images=ALL).pivot("model").items():
        cells[model] = [found[f"{published.way}_{measure}"].estimate() for measure in published.measures]
    rows = [{"model": model, **dict(zip(published.measures, numbers, strict=True))} for model, numbers in cells.items()]
    return Section(title=title, rows=rows, notes=[protocol.source])


def _legend(rows: Sequence[ScoreRow]) -> Section:
    captions, images = (dict.fromkeys(getattr(row, name) for row in rows) for name in ("captions", "images"))
    notes = [
        "[low, high]: 95 % interval by resampling images with all their captions, never narrower than so few images "
        "allow; chance: random order",
        "~: the interval includes the chance level, so the score may be due to chance",
        "ranks count ties against the model; all captions of an image are right: the best one gives its rank, "
        "nDCG counts all",
        *(f"captions {mode}: {CAPTION_MODES[mode]}" for mode in captions),
        *(f"images {choice}: {IMAGE_CHOICES[choice]}" for choice in images),
    ]
    return Section(title="How to read it", notes=notes)


def write_scoreboard_plot(board: Board, path: Path) -> None:
    """Draw a PNG with one panel per test set, and a dot with its 95 % interval for each model."""
    colours = {model.name: COLOURS[SERIES[number % len(SERIES)]] for number, model in enumerate(board.models)}
    panels: list[tuple[str, list[tuple[str, str, ScoreRow]]]] = []  # title; label, colour and score of each line
    for test_set in board.sets:
        name, title = _PANELS[test_set.task]
        found = shown_rows(board, test_set.name).where(metric=name, minus=None).rows
        # The first model is on top, and models are grouped by the choice of captions and images.
        choices = list(dict.fromkeys(row.choice for row in found))
        rows = sorted(found, key=lambda row: choices.index(row.choice))
        lines = []
        for row in rows:
            kinds = [row.captions, *([row.images] if row.images != ALL else [])]
            lines.append((f"{picture_label(row.model)} ({', '.join(kinds)})", colours[row.model], row))
        panels.append((f"{picture_label(test_set.name)}: {title}, gallery {rows[0].gallery:,}", lines))
    heights = [_ROW_HEIGHT * len(lines) + 1.0 for _, lines in panels]

    def draw(figure: Any) -> None:
        places = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for axes, (title, lines) in zip(places, panels, strict=True):
            for place, (_, colour, row) in enumerate(lines):
                axes.plot([row.low, row.high], [place, place], "-", color=colour, linewidth=2.2, solid_capstyle="butt")
                axes.plot([row.value], [place], "o", color=colour, markersize=6, clip_on=False, zorder=3)
                axes.plot([row.chance] * 2, [place - 0.38, place + 0.38], "-", color=COLOURS["soft"], linewidth=1.2)
            axes.set_yticks(range(len(lines)), [label for label, _, _ in lines])
            axes.set_ylim(len(lines) - 0.4, -0.6)
            most = max(max(row.high, row.chance) for _, _, row in lines)
            axes.set_xlim(0, min(1.0, max(0.05, 1.15 * most)))
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_xlabel("dot: score, line: 95 % interval, grey: chance", fontsize=8, color=COLOURS["soft"])
            axes.grid(axis="x", color=COLOURS["line"], linewidth=0.6)
            axes.set_axisbelow(True)

    write_png(path, draw, size=(8.5, sum(heights)))
