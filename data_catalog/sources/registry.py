"""Registry of the kinds of sources: the values of `kind` in a recipe's source."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any

from data_catalog.sources import conceptual_captions, files, flickr, mscoco, pairs, sbu, wit
from data_catalog.sources.image_files import check_images
from data_catalog.sources.origins import CaptionOrigin
from data_catalog.sources.rows import Records, SourceRow, UpstreamRow, row_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """A kind of source: its settings, and the functions that check and read its files.

    Args:
        kind: its name.
        config_type: the frozen dataclass of its settings; all functions take an instance of it.
        check_files: refuses files that are missing, empty, damaged or of another kind.
        records: yields what it finds in each upstream row.
        license: the license that upstream states for the dataset; the license of a row is in the row.
        languages: returns the languages that captions can be in, or None if only the rows state them.
        origin: returns the origin of a file's captions, given the settings and the file's path.
        images: returns the folder, zip or tar of local images, or a glob of them, or None if images have URLs.
        upstream_files: returns the files that rows are read from, sorted, without images.
        states_splits: returns whether upstream states a split of any image; call it after `check`.
        operator: the one organisation that serves all images and asks for a contact address, if there is one.
    """

    kind: str
    config_type: type[files.FilesConfig]
    check_files: Callable[[Any], None]
    records: Callable[[Any], Records]
    license: str
    languages: Callable[[Any], frozenset[str] | None] = lambda config: frozenset({"en"})
    origin: Callable[[Any, str], CaptionOrigin] = lambda config, upstream_file: CaptionOrigin()
    images: Callable[[Any], str | None] = lambda config: getattr(config, "images", None)
    upstream_files: Callable[[Any], list[Path]] = files.upstream_files
    states_splits: Callable[[Any], bool] = lambda config: False
    operator: str | None = None

    def check(self, config: Any) -> None:
        """Refuse, before work starts, images that cannot be opened and files that `check_files` refuses."""
        if (location := self.images(config)) is not None:
            check_images(location)
        self.check_files(config)

    def read(self, config: Any) -> Iterator[SourceRow]:
        """Yield one row for each upstream row, streaming."""
        return starmap(row_of, self.records(config))


def _splits_of(records: Callable[[Any], Records]) -> Callable[[Any], bool]:
    """Return a function for `states_splits` that reads rows until one states a split."""
    return lambda config: any(
        isinstance(row, UpstreamRow) and row.split is not None for row in starmap(row_of, records(config))
    )


_COCO_LICENSE = "captions CC BY 4.0 (COCO Consortium); each image under its own license on Flickr"

_KINDS = (
    SourceKind(
        kind="wit",
        config_type=wit.WitConfig,
        check_files=wit.check_wit,
        records=wit.read_wit,
        license="text CC BY-SA 3.0 (Wikipedia, through WIT); each image under its own license on Wikimedia Commons",
        languages=lambda config: frozenset(config.languages),
        operator="Wikimedia",
    ),
    SourceKind(
        kind="mscoco",
        config_type=mscoco.MscocoConfig,
        check_files=mscoco.check_mscoco,
        records=partial(mscoco.read_mscoco, lang="en"),
        license=_COCO_LICENSE,
        origin=mscoco.mscoco_origin,
        states_splits=_splits_of(mscoco.read_mscoco),
    ),
    SourceKind(
        kind="mscoco_it",
        config_type=mscoco.MscocoConfig,
        check_files=mscoco.check_mscoco,
        records=partial(mscoco.read_mscoco, lang="it"),
        license=f"MSCOCO-IT: research only; after MSCOCO, {_COCO_LICENSE}",
        languages=lambda config: frozenset({"it"}),
        origin=mscoco.mscoco_it_origin,
        states_splits=_splits_of(mscoco.read_mscoco),
    ),
    *(
        SourceKind(
            kind=columns.kind,
            config_type=conceptual_captions.ConceptualCaptionsConfig,
            check_files=partial(conceptual_captions.check_conceptual_captions, columns=columns),
            records=partial(conceptual_captions.read_conceptual_captions, columns=columns),
            license="free for any purpose, credit to Google LLC appreciated, no warranty; "
            "images belong to third parties",
        )
        for columns in (conceptual_captions.CC3M, conceptual_captions.CC12M)
    ),
    *(
        SourceKind(
            kind=kind,
            config_type=flickr.FlickrConfig,
            check_files=flickr.check_flickr,
            records=flickr.read_flickr,
            upstream_files=flickr.flickr_files,
            license="research and education only; images belong to their owners on Flickr",
            states_splits=_splits_of(flickr.read_flickr),
        )
        for kind in ("flickr8k", "flickr30k")
    ),
    SourceKind(
        kind="sbu",
        config_type=sbu.SbuConfig,
        check_files=sbu.check_sbu,
        records=sbu.read_sbu,
        license="none stated for the captions; images belong to their owners on Flickr",
        operator="Flickr",
    ),
    SourceKind(
        kind="pairs",
        config_type=pairs.PairsConfig,
        check_files=pairs.check_pairs,
        records=pairs.read_pairs,
        license="not stated: the files are the user's own",
        languages=pairs.pairs_languages,
        origin=pairs.pairs_origin,
        images=pairs.pairs_images,
        states_splits=lambda config: bool(config.split_column),
    ),
)

SOURCE_KINDS: dict[str, SourceKind] = {kind.kind: kind for kind in _KINDS}
