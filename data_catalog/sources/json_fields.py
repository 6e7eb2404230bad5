"""Values out of parsed JSON whose types nobody promises: ids that are numbers or quoted digits, texts that are null."""

from collections.abc import Iterator, Mapping

from data_catalog.sources.json_documents import JsonList

_MAX_ID_CHARS = 200
_MAX_NAMES_CHARS = 500
_EXCERPT_CHARS = 50


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
    if len(text) > _MAX_ID_CHARS:
        return None
    return (text.lstrip("0") or "0") if text.isascii() and text.isdigit() else text or None


def missing_id(record: Mapping[str, object], name: str) -> str:
    """Say why `id_field` found no id."""
    return f"no {name}" if record.get(name) is None else f"no {name} but {str(record[name])[:_EXCERPT_CHARS]}"


class Records:
    """The objects of a list; others in it are empty objects, so that numbering holds."""

    def __init__(self, items: list[object] | JsonList) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Mapping[str, object]]:
        return (item if isinstance(item, dict) else {} for item in self._items)

    @property
    def first_names(self) -> str:
        """The names of the first object's members, for a message."""
        return ", ".join(list(next(iter(self), {}))[:20])[:_MAX_NAMES_CHARS] or "none"


def records_of(value: object) -> Records | None:
    """The objects of a list; None for anything else."""
    return Records(value) if isinstance(value, list | JsonList) else None


def describe(value: object) -> str:
    """What a parsed JSON document is, for a message: its type, and its keys if it is an object."""
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(str, list(value)[:20])) or '(none)'}"
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
