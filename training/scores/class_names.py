"""Class names and templates in JSON files, in the form of CLIP_benchmark's: a list, or several by their keys."""

import json
import re
from pathlib import Path
from typing import Any

from data_catalog.errors import InputError, SettingsError

_HALF = re.compile("[\ud800-\udfff]")  # which JSON may hold, and no model is asked


def read_names(path: Path, key: str | None) -> list[str] | dict[str, str]:
    """Class names of a JSON file: a list, or a table by folder; or of one of several such by its key.

    Raises:
        SettingsError: it has several tables and `key` names none.
        InputError: it is no such file, or a name is empty or no Unicode.
    """
    found = _entry(path, key, "class_names_key")
    if isinstance(found, dict):
        return dict(zip(found, _texts(list(found.values()), path), strict=True))
    return _texts(found, path)


def read_templates(path: Path, key: str | None) -> list[str]:
    """Templates of a JSON file: a list, or one of several by its key.

    Raises:
        SettingsError: it has several lists and `key` names none.
        InputError: it is no such file.
    """
    return _texts(_entry(path, key, "templates_key"), path)


def has_several(path: Path) -> bool:
    """Whether a file holds several lists or tables by their keys.

    Raises:
        InputError: it cannot be read.
    """
    return _is_several(_document(path))


def _entry(path: Path, key: str | None, option: str) -> Any:
    document = _document(path)
    if not _is_several(document):
        if key is not None:
            raise SettingsError(f"{path} is one list or table, and {option}={key} names one of several: leave it out")
        return document
    if key is None and len(document) == 1:
        return next(iter(document.values()))
    if key not in document:
        raise SettingsError(f"{path} has {', '.join(sorted(document))}: say which by {option}=NAME")
    return document[key]


def _document(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error


def _is_several(document: Any) -> bool:
    return isinstance(document, dict) and not all(isinstance(value, str) for value in document.values())


def _texts(found: Any, path: Path) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(text, str) and text.strip() for text in found):
        raise InputError(f"{path} must hold a list of texts, none of them empty")
    half = next((text for text in found if _HALF.search(text)), None)
    if half is not None:
        raise InputError(f"{path} holds {half!r}, which is no valid Unicode (half a surrogate pair): correct it")
    return list(found)
