"""XTD10: 1,000 images of MSCOCO, by a list of their names and a list of captions in each language, line by line.

Source: Aggarwal and Kale, Towards Zero-shot Cross-lingual Image Retrieval (2020). The lists of STAIR (Japanese) and MIC
(German, French) that come with it have the same form.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_catalog.errors import InputError, SettingsError
from data_catalog.settings import PATH, how, path_setting
from data_catalog.sources.files import Held, Line, check_text_file, read_lines, upstream_files
from data_catalog.sources.rows import Origin, refuse
from data_catalog.test_sets.identities import name_identities
from data_catalog.test_sets.images import TestSetRow, sightings

_EXPECTED = "XTD10's test_image_names.txt, or test_1kcaptions_<language>.txt"
_IMAGE_NAME = re.compile(r"\S+\.(?:jpe?g|png)", re.IGNORECASE)
_CAPTIONS_NAME = re.compile(r"test_1kcaptions_(\w+)\.txt(?:\.gz)?", re.IGNORECASE)
_RENAMED_LANGS = {"jp": "ja"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Xtd10Config:
    """Lists of XTD10, and where the images are."""

    files: tuple[str, ...] = field(metadata=PATH)
    """Paths or globs of the one list of image names, and of lists of captions."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of the lists that are read. Left out of a recipe, it is the target language; an empty list takes
    all."""
    images: str | None = path_setting(None)
    """Folder, zip or tar of the images, or a glob of them, if they are here. Without it the set guards by identity and
    caption only."""
    num_images: int = how(1000)
    """Images that the set must have; with another number the build is refused before it starts. 0 takes any number."""

    def __post_init__(self) -> None:
        """Refuse a test set without files."""
        if not self.files:
            raise SettingsError("files must name XTD10's test_image_names.txt and its lists of captions")


def xtd10_rows(config: Xtd10Config) -> Iterator[TestSetRow]:
    """Yield what the lists say of each image."""
    names_path, captions_paths = _sorted_out(config)
    names = _lines(names_path)
    for line in names:
        yield from _rows(names_path, line, line, [])
    for path in captions_paths:
        captions = _lines(path)
        if len(captions) > len(names):  # the last lines may be blank, and a last blank line may be no line at all
            captions = captions[: len(names)] if not any(line.text for line in captions[len(names) :]) else captions
        if len(captions) != len(names):
            counts = f"{len(captions)} captions in {path}, {len(names)} images in {names_path}"
            raise InputError(f"{counts}: expected one caption an image; download both again")
        for name, caption in zip(names, captions, strict=True):
            yield from _rows(path, name, caption, [caption.text])


def _sorted_out(config: Xtd10Config) -> tuple[Path, list[Path]]:
    """The list of names, and those of captions in the languages wanted."""
    names: list[Path] = []
    captions: dict[Path, str] = {}
    for path in upstream_files(config):
        check_text_file(path, expected=_EXPECTED)
        if (language := _CAPTIONS_NAME.fullmatch(path.name)) is not None:
            captions[path] = _RENAMED_LANGS.get(language[1].lower(), language[1].lower())
        elif _lists_names(path):
            names.append(path)
        else:
            raise InputError(f"{path} is not {_EXPECTED}")
    if len(names) != 1:
        raise InputError(f"files has {len(names)} lists of image names: expected one, {_EXPECTED}")
    missing = sorted({*config.languages} - {*captions.values()})
    if missing:
        raise InputError(f"files has no list of captions in {', '.join(missing)}: add it, or leave it out of languages")
    wanted = config.languages or tuple(captions.values())
    return names[0], [path for path, language in captions.items() if language in wanted]


def _lists_names(path: Path) -> bool:
    first = next((line.text for line in read_lines(path) if line.text.strip()), "")
    return _IMAGE_NAME.fullmatch(first.strip()) is not None


def _lines(path: Path) -> list[Line]:
    """Lines by which lists are aligned: all but blank ones at the end of a list of names."""
    lines, held = [], Held(path)
    for line in read_lines(path):
        held.add(line.text)
        lines.append(line)
    while lines and not lines[-1].text.strip() and not _CAPTIONS_NAME.fullmatch(path.name):
        lines.pop()
    return lines


def _rows(path: Path, name: Line, line: Line, captions: list[str]) -> Iterator[TestSetRow]:
    origin = Origin(str(path), line.number, line.text)
    image = name.text.strip()
    if name.trouble or not _IMAGE_NAME.fullmatch(image):
        if line is name:  # reported once, not again with each language
            yield refuse(origin, *(name.trouble or ("image_missing", f"no name of an image: {image}")))
        return
    yield from sightings(origin, image, name_identities(image), captions if not line.trouble else [])
    if line.trouble:
        yield refuse(origin, *line.trouble)
