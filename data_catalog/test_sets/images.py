"""Images of test sets, put together from what the rows of their files say of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from data_catalog.sources.files import Held, text_trouble
from data_catalog.sources.rows import MalformedRow, Origin, refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class TestImage:
    """One image of a test set.

    Args:
        name: its file name, or its URL where it has none: by this its pixels are found in the set's `images`.
        identities: all that it is known by, as `identities.canonical_identities` spells them; may be empty.
        captions: as the files have them, in their order and as often; in whatever languages the files are.
        caption_files: the file that each caption stands in.
    """

    name: str
    identities: frozenset[str]
    captions: tuple[str, ...]
    caption_files: tuple[str, ...] = ()


class Sighting(NamedTuple):
    """What one row says of one image; all rows of a `name` are one image."""

    name: str
    identities: frozenset[str]
    caption: str | None = None
    upstream_file: str = ""


TestSetRow = Sighting | MalformedRow


@dataclass(frozen=True, slots=True, kw_only=True)
class GatheredImages:
    """The images of a test set in the order of their files, and the rows that could not be read."""

    images: tuple[TestImage, ...]
    malformed: tuple[MalformedRow, ...]


@dataclass(slots=True)
class _Growing:
    identities: set[str] = field(default_factory=set)
    captions: list[str] = field(default_factory=list)
    caption_files: list[str] = field(default_factory=list)


def sightings(origin: Origin, name: str, identities: Iterable[str], captions: Iterable[object]) -> Iterator[TestSetRow]:
    """What one record is worth: its image, whose pixels and identities count even where a caption is broken.

    Args:
        origin: where the record stands.
        name: of the image, by which records are of the same one; a record without one, or with one that no file can
            have, is malformed as a whole.
        identities: of the image.
        captions: of the record, any number; one that is no text, blank or not storable is a malformed row of its own.
    """
    if trouble := text_trouble(name):
        yield refuse(origin, *trouble)
        return
    if not name.strip():
        yield refuse(origin, "image_missing", "no image is named")
        return
    known = frozenset(identities)
    yield Sighting(name, known)
    for caption in captions:
        if not isinstance(caption, str) or not caption.strip():
            yield refuse(origin, "caption_missing", f"no caption: {caption!r}")
        elif trouble := text_trouble(caption):
            yield refuse(origin, *trouble)
        else:
            yield Sighting(name, known, caption, origin.upstream_file)


def gather(rows: Iterable[TestSetRow]) -> GatheredImages:
    """Put the rows of each image together."""
    growing: dict[str, _Growing] = {}
    malformed: list[MalformedRow] = []
    held = Held("a test set")
    for row in rows:
        if isinstance(row, MalformedRow):
            held.add(row.detail, row.raw)
            malformed.append(row)
            continue
        held.add(row.name, row.caption, *(() if row.name in growing else row.identities))
        image = growing.setdefault(row.name, _Growing())
        image.identities.update(row.identities)
        if row.caption is not None:
            image.captions.append(row.caption)
            image.caption_files.append(row.upstream_file)
    images = tuple(
        TestImage(
            name=name,
            identities=frozenset(image.identities),
            captions=tuple(image.captions),
            caption_files=tuple(image.caption_files),
        )
        for name, image in growing.items()
    )
    return GatheredImages(images=images, malformed=tuple(malformed))
