"""Values out of parsed JSON whose types nobody promises: ids that are numbers or quoted digits, texts that are null."""

from collections.abc import Mapping


def text_field(record: Mapping[str, object], name: str) -> str | None:
    """A text, or None where the field is missing, null or of another type."""
    value = record.get(name)
    return value if isinstance(value, str) else None


def id_field(record: Mapping[str, object], name: str) -> str | None:
    """An id in one spelling: 391895, "391895" and " 000391895 " are "391895"; None where there is none."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value).strip()
    return str(int(text)) if text.isascii() and text.isdigit() else text or None


def records_of(value: object) -> list[Mapping[str, object]] | None:
    """A list of objects as it is, others in it as empty objects, so that numbering holds; None for anything else."""
    if not isinstance(value, list):
        return None
    return [item if isinstance(item, dict) else {} for item in value]


def describe(value: object) -> str:
    """What a parsed JSON document is, for a message: its type, and its keys if it is an object."""
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(str, list(value)[:20])) or '(none)'}"
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
