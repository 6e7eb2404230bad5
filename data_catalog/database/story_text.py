"""The story of a sample in words: each caption from its upstream line through every step, then its image."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from data_catalog.database.story import FILE, Story
from data_catalog.fetch.reasons import is_retryable
from data_catalog.plain_text import cell_text, decided_text
from data_catalog.schema import KEPT
from data_catalog.storage.manifest import MARKED

Row = Mapping[str, Any]

_WIDTH = 116


def story_lines(story: Story, *, asked: str, all_rules: bool = False) -> Iterator[str]:
    """Yield a story as lines of plain text, safe for a terminal.

    Args:
        story: what is told.
        asked: the id that was asked for: the caption of that id comes first.
        all_rules: tell the settings of every step, and not only of those that rejected something.
    """
    snapshot = story.snapshot
    yield f"{cell_text(story.sample_id)}  in dataset {snapshot.dataset}, snapshot {snapshot.snapshot}"
    yield from _facts("  ", _source(story))
    for row in sorted(story.captions, key=lambda row: row["caption_id"] != asked):
        yield ""
        yield from _caption(story, row, all_rules=all_rules)
    yield ""
    yield from _image(story, all_rules=all_rules)


def _source(story: Story) -> Row:
    first = story.captions[0]
    facts = story.snapshot.manifest["sources"][first["source"]]
    kept = sum(row["outcome"] == KEPT for row in story.captions)
    return {
        "source": first["source"],
        "license of the source": facts["license"],
        "captions": f"{len(story.captions)}, of which {kept} {'is' if kept == 1 else 'are'} kept",
    }


def _caption(story: Story, row: Row, *, all_rules: bool) -> Iterator[str]:
    kept = row["outcome"] == KEPT
    yield f"caption {cell_text(row['caption_id'])}: {'kept' if kept else 'rejected by ' + cell_text(row['step'])}"
    columns = story.snapshot.columns()
    for number, step in enumerate(_passed(story, row), start=1):
        rejects = step == row["step"]
        yield f"  {number} {step}: {_verdict(story, row) if rejects else 'passed'}"
        yield from _facts("      ", {name: row.get(name) for name in columns.get(step, ())})
        if rejects:
            yield from _facts("      ", {"meaning": _meaning(story, row), "detail": row["detail"]})
        if rejects or all_rules:
            yield from _rules("      ", story, step, row)
    yield f"  = {_end(story, row)}"


def _passed(story: Story, row: Row) -> list[str]:
    """Return the steps that a row came to: all of them, where it is kept."""
    steps = story.snapshot.steps
    if row["step"] is None:
        return steps
    # A step that the funnel does not know is told all the same.
    return [*steps[: steps.index(row["step"])], row["step"]] if row["step"] in steps else [row["step"]]


def _verdict(story: Story, row: Row) -> str:
    settings = decided_text(story.snapshot.decided_by(row["step"], row["drop_reason"]))
    return f"REJECTED, {cell_text(row['drop_reason'])}" + (f" ({settings})" if settings else "")


def _end(story: Story, row: Row) -> str:
    """Return a sentence on where a caption ended."""
    if row["outcome"] != KEPT:
        return f"not published; the row stands in {row[FILE]}"
    pair = story.pairs.get(row["merged_into"] or story.sample_id)
    if pair is None:
        return f"kept; the row stands in {row[FILE]}"
    of_other = f" with the image of {cell_text(row['merged_into'])}" if row["merged_into"] else ""
    marked = " (it holds something of a test set: in no split)" if pair["split"] == MARKED else ""
    return f"published{of_other}: split {pair['split']}{marked}, in {pair[FILE]}; the row stands in {row[FILE]}"


def _image(story: Story, *, all_rules: bool) -> Iterator[str]:
    image, first = story.image, story.captions[0]
    if image is None:
        yield "image: never asked for, since no caption came so far"
        yield from _facts("  ", {"url": first["url"], "path": first["path"]})
        return
    yield f"image {cell_text(image['url'] or image['path'])}: {_image_end(story)}"
    for step, names in story.snapshot.columns("image_columns").items():
        if step == "normalise" and image["step"] == "fetch":
            return
        rejects = image["step"] == step
        yield f"  {step}: {_verdict(story, image) if rejects else 'good'}"
        yield from _facts("      ", {name: image.get(name) for name in names})
        if step == "fetch":
            yield from _requests(story)
        if rejects:
            yield from _facts("      ", _loss(story, image))
        if rejects or all_rules:
            yield from _rules("      ", story, step, first)
    if story.guests:
        yield from _facts("  ", {"captions of others": story.guests})


def _loss(story: Story, image: Row) -> Row:
    again = "yes: vernaclip build RECIPE --retry-failed" if is_retryable(image["drop_reason"]) else "no, this is final"
    return {"meaning": _meaning(story, image), "detail": image["detail"], "can be tried again": again}


def _image_end(story: Story) -> str:
    image, pair = story.image, story.pairs.get(story.sample_id)
    if image is not None and image["step"]:
        return f"lost by {cell_text(image['step'])}"
    if pair is not None:
        return f"published, split {pair['split']}, {pair['width']} x {pair['height']} pixels, in {pair[FILE]}"
    merged = sorted({row["merged_into"] for row in story.captions if row["merged_into"]})
    if merged:
        return f"good, and not published: its captions are with {', '.join(map(cell_text, merged))}"
    return "good, and not published: no caption is left"


def _requests(story: Story) -> Iterator[str]:
    for row in story.requests:
        seconds = f"{row['asking_s'] or 0:.1f} s in requests and {row['waiting_s'] or 0:.1f} s between them"
        tries = f"{row['tries']} {'try' if row['tries'] == 1 else 'tries'}"
        asked_at = row.get("asked_at")  # older logs have none
        began = f"first at {asked_at:%Y-%m-%d %H:%M:%S} UTC, " if asked_at else ""
        yield from _facts("      ", {"asked": f"{tries}, {began}{seconds}: {row['drop_reason'] or 'bytes came'}"})


def _rules(indent: str, story: Story, step: str, row: Row) -> Iterator[str]:
    """Return the settings that a step judged by."""
    for section, values in story.snapshot.rules(step).items():
        if section == "sources":
            values = values.get(row["source"], {})
        told = ", ".join(f"{name} = {_setting(value)}" for name, value in sorted(values.items()))
        yield from _facts(indent, {f"rules of {section}": told or None})


def _setting(value: object) -> str:
    """Return a setting among others: lists in brackets, tables in braces, and a text of nothing as `""`."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name} = {_setting(item)}' for name, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{_value(value)}]"
    return _value(value) or '""'


def _facts(indent: str, facts: Row) -> Iterator[str]:
    """Yield names and values, one a line, without those that are null; long ones go on below."""
    for name, value in facts.items():
        if value is None or value == []:
            continue
        label = f"{name}: "
        yield from textwrap.wrap(
            f"{label}{_value(value)}",
            width=_WIDTH,
            initial_indent=indent,
            subsequent_indent=indent + "  ",
            break_on_hyphens=False,
            break_long_words=False,
        )


def _value(value: object) -> str:
    if isinstance(value, Mapping):  # what it says, and then what is known of it
        first, *others = map(_value, value.values())
        return f"{first} ({', '.join(others)})" if others else first
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a line's number, a width: to be copied as it is
    return cell_text(value)


def story_values(story: Story) -> dict[str, Any]:
    """Return a story as JSON values: everything that the text tells, and every column."""
    return {
        "dataset": story.snapshot.dataset,
        "snapshot": story.snapshot.snapshot,
        "sample_id": story.sample_id,
        "source": {"name": story.captions[0]["source"], **_source_facts(story)},
        "steps": [_step_values(story, step) for step in story.snapshot.steps],
        "captions": [_explained(story, row) for row in story.captions],
        "image": None if story.image is None else _explained(story, story.image),
        "requests": story.requests,
        "pairs": list(story.pairs.values()),
        "captions_of_others": story.guests,
    }


def _source_facts(story: Story) -> dict[str, Any]:
    facts = story.snapshot.manifest["sources"][story.captions[0]["source"]]
    return {name: value for name, value in facts.items() if name != "rights"}


def _step_values(story: Story, step: str) -> dict[str, Any]:
    return {"step": step, "meaning": story.snapshot.meaning(step), "rules": story.snapshot.rules(step)}


def _explained(story: Story, row: Row) -> dict[str, Any]:
    reason = row["drop_reason"]
    settings = story.snapshot.decided_by(row["step"], reason) if reason else {}
    return {**row, "meaning": _meaning(story, row), "decided_by": settings}


def _meaning(story: Story, row: Row) -> str | None:
    return story.snapshot.meaning(row["step"], row["drop_reason"]) if row["drop_reason"] else None
