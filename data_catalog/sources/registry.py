"""Registry of the kinds of sources: the values of `kind` in a recipe's source."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, starmap
from pathlib import Path
from typing import Any

from data_catalog.base.errors import InputError
from data_catalog.rows.origins import CaptionOrigin
from data_catalog.sources import files, flickr, mscoco, pairs, pixels, web_captions, wit
from data_catalog.sources.image_files import check_images
from data_catalog.sources.rows import MalformedRow, OpenFiles, Records, SourceRow, UpstreamRow, row_of

_CHECKED_ROWS = 100  # of each file


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """A kind of source: its settings, and the functions that read its files, which take an instance of them."""

    kind: str
    config_type: type[files.FilesConfig]
    # Yields each file with what is found in its records.
    open: Callable[[Any], OpenFiles]
    # The license that upstream states for the dataset; the license of a row is in the row.
    license: str
    # The languages that captions can be in, or None if only the rows state them.
    languages: Callable[[Any], frozenset[str] | None] = lambda config: frozenset({"en"})
    # The origin of a file's captions, given the file's path.
    origin: Callable[[Any, str], CaptionOrigin] = lambda config, upstream_file: CaptionOrigin()
    # The folder, zip or tar of local images, or a glob of them, or None if images have URLs.
    images: Callable[[Any], str | None] = lambda config: getattr(config, "images", None)
    # The files that rows are read from, sorted, without images.
    upstream_files: Callable[[Any], list[Path]] = files.upstream_files
    # Whether records may state splits of upstream.
    has_splits: Callable[[Any], bool] = lambda config: False
    # Whether the images are in the upstream files.
    has_pixels: bool = False
    # The one organisation that serves all images and asks for a contact address, if there is one.
    operator: str | None = None

    def check(self, config: Any) -> None:
        """Refuse images that cannot be opened, damaged files, and files whose first rows are all malformed."""
        if (location := self.images(config)) is not None:
            check_images(location)
        config.check_files(self.upstream_files(config))
        found: Path | None = None
        for found, records in self.open(config):
            _require_row(found, records, config.EXPECTED)
        if found is None:
            _require_row("files", iter(()), config.EXPECTED)

    def read(self, config: Any) -> Iterator[SourceRow]:
        """Yield one row for each upstream row, streaming."""
        for _, records in self.open(config):
            yield from starmap(row_of, records)

    def states_splits(self, config: Any) -> bool:
        """Return whether upstream states a split of any image; call it after `check`."""
        rows = self.read(config) if self.has_splits(config) else ()
        return any(isinstance(row, UpstreamRow) and row.split is not None for row in rows)


def _require_row(path: object, records: Records, expected: str) -> None:
    first = None
    for row in starmap(row_of, islice(records, _CHECKED_ROWS)):
        if not isinstance(row, MalformedRow):
            return
        first = first or row
    found = f"its first rows are malformed ({first})" if first else "it has no rows"
    raise InputError(f"{path} is not {expected}: {found}")


_COCO_LICENSE = "captions CC BY 4.0 (COCO Consortium); each image under its own license on Flickr"
_CONCEPTUAL_LICENSE = (
    "free for any purpose, credit to Google LLC appreciated, no warranty; images belong to third parties"
)
_OWN_LICENSE = "not stated: the files are the user's own"


def _stated_language(config: Any) -> frozenset[str] | None:
    """Return the language that a recipe states for all captions; None if rows state theirs."""
    return None if config.named("lang") or not config.lang else frozenset({config.lang})


_KINDS = (
    SourceKind(
        kind="wit",
        config_type=wit.WitConfig,
        open=wit.read_wit,
        license="text CC BY-SA 3.0 (Wikipedia, through WIT); each image under its own license on Wikimedia Commons",
        languages=lambda config: frozenset(config.languages),
        operator="Wikimedia",
    ),
    SourceKind(
        kind="mscoco",
        config_type=mscoco.MscocoConfig,
        open=partial(mscoco.read_mscoco, lang="en"),
        license=_COCO_LICENSE,
        origin=mscoco.mscoco_origin,
        has_splits=lambda config: True,
    ),
    SourceKind(
        kind="mscoco_it",
        config_type=mscoco.MscocoConfig,
        open=partial(mscoco.read_mscoco, lang="it"),
        license=f"MSCOCO-IT: research only; after MSCOCO, {_COCO_LICENSE}",
        languages=lambda config: frozenset({"it"}),
        origin=mscoco.mscoco_it_origin,
        has_splits=lambda config: True,
    ),
    *(
        SourceKind(
            kind=kind,
            config_type=web_captions.ConceptualCaptionsConfig,
            open=partial(web_captions.read_conceptual_captions, url_column=url_column),
            license=_CONCEPTUAL_LICENSE,
        )
        for kind, url_column in (("cc3m", 1), ("cc12m", 0))
    ),
    *(
        SourceKind(
            kind=kind,
            config_type=flickr.FlickrConfig,
            open=flickr.read_flickr,
            upstream_files=flickr.flickr_files,
            license="research and education only; images belong to their owners on Flickr",
            has_splits=lambda config: True,
        )
        for kind in ("flickr8k", "flickr30k")
    ),
    SourceKind(
        kind="sbu",
        config_type=web_captions.SbuConfig,
        open=web_captions.read_sbu,
        license="none stated for the captions; images belong to their owners on Flickr",
        operator="Flickr",
    ),
    SourceKind(
        kind="pairs",
        config_type=pairs.PairsConfig,
        open=pairs.read_pairs,
        license=_OWN_LICENSE,
        languages=_stated_language,
        origin=pairs.pairs_origin,
        images=pairs.pairs_images,
        has_splits=lambda config: config.split_column is not None,
    ),
    *(
        SourceKind(
            kind=kind,
            config_type=config_type,
            open=pixels.read_pixels,
            license=_OWN_LICENSE,
            languages=_stated_language,
            origin=pairs.pairs_origin,
            has_splits=pixels.has_splits,
            has_pixels=True,
        )
        for kind, config_type in (("webdataset", pixels.WebDatasetConfig), ("huggingface", pixels.HuggingFaceConfig))
    ),
)

SOURCE_KINDS: dict[str, SourceKind] = {kind.kind: kind for kind in _KINDS}
