"""A scoreboard as sections of plain tables, which a terminal shows and Markdown holds."""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from data_catalog.exports.markdown import bullets, one_line, table
from training.scores.model_outcomes import LEAK_FREE
from training.scores.protocols import Protocol, Published
from training.scores.score import CAPTION_MODES, IMAGE_CHOICES, Score, ScoreDifference
from training.scores.scoreboard import Entry, Scoreboard, SetFacts

CHANCE = "chance"
_OPENING = re.compile(r"[&<>|`*\\]|(?<!\w)_|_(?!\w)|\](?=\()")
# One column each: a title, and the measure of which way it shows.
WAYS: Mapping[str, tuple[str, ...]] = {
    "text_to_image": ("R@1", "R@5", "R@10", "MRR@10", "median_rank"),
    "image_to_text": ("R@1", "R@5", "R@10", "MRR@10", "median_rank"),
    "zero_shot": ("accuracy@1", "accuracy@5", "accuracy@10", "accuracy@100"),
}
# Where fewer captions than this share are shared by images, leaving those out says the same as keeping them.
_SHARED_WORTH_TELLING = 0.02
_TITLES = {"text_to_image": "text to image", "image_to_text": "image to text", "zero_shot": "zero-shot classification"}
_COMPARED = {
    "text_to_image": ("R@1", "R@10", "MRR@10"),
    "image_to_text": ("R@1", "R@10", "MRR@10"),
    "zero_shot": ("accuracy@1", "accuracy@5"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A piece of a scoreboard.

    Args:
        title: in plain words.
        rows: equal keys, in the order of the columns.
        notes: sentences below it.
    """

    title: str
    rows: Sequence[Mapping[str, str]]
    notes: Sequence[str] = ()


def sections(board: Scoreboard, protocols: Mapping[str, Protocol]) -> list[Section]:
    """Everything that a reader wants first; the JSON has the rest.

    Args:
        protocols: by name of the set that is scored by it.
    """
    found = [_models(board)]
    for test_set in board.sets:
        entries = told_entries(board, test_set.name)
        for way in WAYS:
            rows = list(_score_rows(entries, way))
            if rows:
                notes = _notes(test_set, way, entries)
                found.append(Section(title=f"{test_set.name}: {_TITLES[way]}", rows=rows, notes=notes))
        if test_set.name in protocols:
            found += _beside_published(entries, test_set, protocols[test_set.name])
        told = {(entry.score.captions, entry.score.images) for entry in entries}
        rows = list(_difference_rows(board, test_set.name, told))
        if rows:
            notes = [f"each model's score minus that of {board.models[0].name}, on the same queries"]
            found.append(Section(title=f"{test_set.name}: differences", rows=rows, notes=notes))
    return [*found, _legend(board)]


def told_entries(board: Scoreboard, test_set: str) -> list[Entry]:
    """Scores of a set without the first captions alone, and without captions of one image where nearly all are."""
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
    """The sections as a Markdown document."""
    parts = ["# Scoreboard"]
    for section in found:
        parts.append(f"## {_inert(section.title)}")
        if section.rows:
            cells = [[_inert(text) for text in row.values()] for row in section.rows]
            parts.append(table(list(section.rows[0]), cells))
        if section.notes:
            parts.append(bullets(_inert(note) for note in section.notes))
    return "\n\n".join(parts) + "\n"


def _inert(text: str) -> str:
    """A text of ours that may quote a name from a file, so that nothing in it opens a tag, a cell or a link."""
    return _OPENING.sub(lambda found: "".join(f"&#{ord(char)};" for char in found[0]), one_line(text))


def _models(board: Scoreboard) -> Section:
    rows = [{"model": model.name, "weights": model.origin, "trained on": model.trained_on} for model in board.models]
    return Section(title="Models", rows=rows)


def _score_rows(entries: Sequence[Entry], way: str) -> Iterator[dict[str, str]]:
    """A row for each choice of captions and images and each model, after one of what chance gives."""
    choices = dict.fromkeys(
        (entry.score.captions, entry.score.images) for entry in entries if entry.score.name.startswith(way)
    )
    models = list(dict.fromkeys(entry.model for entry in entries))
    for captions, images in choices:
        scores = {
            (entry.model, entry.score.name): entry.score
            for entry in entries
            if (entry.score.captions, entry.score.images) == (captions, images)
        }
        for model in (None, *models):
            of_model = [scores[model or models[0], f"{way}_{measure}"] for measure in WAYS[way]]
            numbers = (_chance(score) if model is None else _estimate(score) for score in of_model)
            yield {
                "captions": captions,
                "images": images,
                "model": model or CHANCE,
                **{measure.replace("_", " "): text for measure, text in zip(WAYS[way], numbers, strict=True)},
                "gallery": f"{of_model[0].gallery_size:,}",
                "queries": f"{of_model[0].num_queries:,}",
            }


def _estimate(score: Score) -> str:
    sign = " ~" if score.low <= score.chance <= score.high else ""
    return f"{_short(score, score.value)} [{_short(score, score.low)}, {_short(score, score.high)}]{sign}"


def _chance(score: Score) -> str:
    return _short(score, score.chance)


def _short(score: Score, value: float) -> str:
    return f"{value:.0f}" if score.name.endswith("_rank") else f"{value:.4f}"


def _notes(test_set: SetFacts, way: str, entries: Sequence[Entry]) -> list[str]:
    if way == "image_to_text":
        return []
    texts = "captions" if test_set.task == "retrieval" else "classes"
    notes = [f"{test_set.num_images:,} images, {test_set.num_texts:,} {texts}"]
    if test_set.num_missing:
        notes.append(
            f"{test_set.num_missing:,} images more are not there or do not decode: left out with their captions"
        )
    for model in test_set.compared:
        notes += _guard_notes(test_set, model)
    has_seen = any(names for told in (test_set.leaked, test_set.alike) for names in told.values())
    if has_seen and not any(entry.score.images == LEAK_FREE for entry in entries):
        kind = "image with a caption" if test_set.task == "retrieval" else "image"
        notes.append(f"no {kind} is left that is none of these, so there are no leak-free numbers")
    return [*notes, *test_set.notes]


def _listed(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _guard_notes(test_set: SetFacts, model: str) -> Iterator[str]:
    ways, leaked, alike = test_set.compared[model], test_set.leaked[model], test_set.alike[model]
    if not ways:
        yield f"whether {model} was trained on any of the images is not known: nothing was compared"
        return
    count = f"{len(leaked):,}" if leaked else "none"
    yield f"{count} of the images are among those that {model} was trained on, by {_listed(ways)}"
    if alike:
        name, why = next(iter(alike.items()))
        yield f"{len(alike):,} look like images that {model} was trained on, and may be others ({name}: {why})"


def _beside_published(entries: Sequence[Entry], test_set: SetFacts, protocol: Protocol) -> Iterator[Section]:
    """Published numbers and those of the models; where fewer images were scored, a note in the place of the numbers."""
    is_retrieval = test_set.task == "retrieval"
    published = protocol.retrieval if is_retrieval else protocol.zero_shot
    wanted = protocol.num_images if is_retrieval else protocol.num_class_images
    title = f"{test_set.name}: protocol {protocol.name}"
    if test_set.num_images != wanted:
        note = f"{test_set.num_images:,} images were scored, the protocol has {wanted:,}: nothing published compares"
        yield Section(title=title, rows=[], notes=[note, protocol.source])
        return
    rows = [
        {"model": f"{model} (published)", **_cells(published, [f"{value:.4f}" for value in values])}
        for model, values in published.values.items()
    ]
    for model in dict.fromkeys(entry.model for entry in entries):
        own = {
            entry.score.name: entry.score
            for entry in entries
            if (entry.model, entry.score.captions, entry.score.images) == (model, published.captions, "all")
        }
        found = [_estimate(own[f"{published.way}_{measure}"]) for measure in published.measures]
        rows.append({"model": model, **_cells(published, found)})
    yield Section(title=title, rows=rows, notes=[protocol.source])


def _cells(published: Published, values: Sequence[str]) -> dict[str, str]:
    return dict(zip(published.measures, values, strict=True))


def _difference_rows(board: Scoreboard, test_set: str, told: Set[tuple[str, str]]) -> Iterator[dict[str, str]]:
    found = [
        entry
        for entry in board.differences
        if entry.test_set == test_set and (entry.difference.captions, entry.difference.images) in told
    ]
    choices = dict.fromkeys(
        (entry.model, entry.difference.captions, entry.difference.images, way)
        for entry in found
        for way in _COMPARED
        if entry.difference.name.startswith(way)
    )
    for model, captions, images, way in choices:
        deltas = {
            entry.difference.name: entry.difference
            for entry in found
            if (entry.model, entry.difference.captions, entry.difference.images) == (model, captions, images)
        }
        cells = {measure: _difference(deltas[f"{way}_{measure}"]) for measure in _COMPARED[way]}
        titled = {"R@1": "", "R@10": "", "MRR@10": "", "accuracy@1": "", "accuracy@5": ""} | cells
        shown = {name: text for name, text in titled.items() if name in _used(choices)}
        yield {"model": model, "way": _TITLES[way], "captions": captions, "images": images, **shown}


def _used(choices: Mapping[tuple[str, str, str, str], None]) -> set[str]:
    return {measure for _, _, _, way in choices for measure in _COMPARED[way]}


def _difference(delta: ScoreDifference) -> str:
    return f"{delta.value:+.4f} [{delta.low:+.4f}, {delta.high:+.4f}]"


def _legend(board: Scoreboard) -> Section:
    told = [entry for test_set in board.sets for entry in told_entries(board, test_set.name)]
    captions = dict.fromkeys(entry.score.captions for entry in told)
    images = dict.fromkeys(entry.score.images for entry in board.entries)
    notes = [
        "[low, high]: 95 % interval by resampling images with all of their captions, never nearer to 0 or 1 than so "
        "few images can tell; chance: random order",
        "~: the interval holds what chance gives, so the model is not known to do anything here",
        "ranks count ties against the model; an image's captions all count as right, the best of them gives its rank",
        *(f"captions {mode}: {CAPTION_MODES[mode]}" for mode in captions),
        *(f"images {choice}: {IMAGE_CHOICES[choice]}" for choice in images),
    ]
    return Section(title="How to read it", rows=[], notes=notes)
