"""The kinds of sources by name: what the `kind` of a recipe's source may be."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.sources import conceptual_captions, files, flickr, mscoco, pairs, sbu, wit
from data_catalog.sources.origins import CaptionOrigin
from data_catalog.sources.rows import SourceRow, UpstreamRow


def _no_images(config: Any) -> str | None:
    """Of sources whose images only the web has."""
    return None


def _images_setting(config: Any) -> str | None:
    """Of sources with a setting `images`."""
    images: str | None = config.images
    return images


def _english(config: Any) -> frozenset[str] | None:
    """Of datasets whose captions are all English."""
    return frozenset({"en"})


def _italian(config: Any) -> frozenset[str] | None:
    """Of datasets whose captions are all Italian."""
    return frozenset({"it"})


def _no_splits(config: Any) -> bool:
    """Of sources whose rows state no split."""
    return False


def _splits_of_rows(read: Callable[[Any], Iterator[SourceRow]]) -> Callable[[Any], bool]:
    """Of sources whose rows state a split or do not: the first that does decides."""
    return lambda config: any(isinstance(row, UpstreamRow) and row.split is not None for row in read(config))


def _selected(config: Any) -> frozenset[str] | None:
    """Of sources of which the settings select languages."""
    return frozenset(config.languages)


def _native(config: Any, upstream_file: str) -> CaptionOrigin:
    """Of datasets whose captions people wrote in the language that they are in."""
    return CaptionOrigin()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """How to read one family of upstream files.

    Args:
        kind: its name.
        config_type: the frozen dataclass of its settings; all functions take an instance of it.
        check: raises InputError, before work starts, if files are missing, empty, damaged or of another kind.
        read: yields one outcome for each upstream row, streaming.
        license: what upstream says of the dataset as a whole; a row's own license is in the row.
        languages: which languages its captions can be in, or None where only the rows tell.
        origin: who made the captions of a file, given the settings and the file's path.
        images: folder, zip or tar of local images, or a glob of them, or None where images come by URL.
        upstream_files: the files that rows are read from, sorted, without images.
        states_splits: whether upstream states a split of some image; the files are those that `check` has passed.
        operator: who serves the images and wants to know whom to write to, where that is one and the same for all.
    """

    kind: str
    config_type: type
    check: Callable[[Any], None]
    read: Callable[[Any], Iterator[SourceRow]]
    license: str
    languages: Callable[[Any], frozenset[str] | None] = _english
    origin: Callable[[Any, str], CaptionOrigin] = _native
    images: Callable[[Any], str | None] = _no_images
    upstream_files: Callable[[Any], list[Path]] = files.upstream_files
    states_splits: Callable[[Any], bool] = _no_splits
    operator: str | None = None


_COCO_LICENSE = "captions CC BY 4.0 (COCO Consortium); each image under its own license on Flickr"
_FLICKR_LICENSE = "research and education only; images belong to their owners on Flickr"

_KINDS = (
    SourceKind(
        kind="wit",
        config_type=wit.WitConfig,
        check=wit.check_wit,
        read=wit.read_wit,
        license="text CC BY-SA 3.0 (Wikipedia, through WIT); each image under its own license on Wikimedia Commons",
        languages=_selected,
        operator="Wikimedia",
    ),
    SourceKind(
        kind="mscoco",
        config_type=mscoco.MscocoConfig,
        check=mscoco.check_mscoco,
        read=mscoco.read_mscoco,
        states_splits=_splits_of_rows(mscoco.read_mscoco),
        license=_COCO_LICENSE,
        origin=mscoco.mscoco_origin,
        images=_images_setting,
    ),
    SourceKind(
        kind="mscoco_it",
        config_type=mscoco.MscocoConfig,
        check=mscoco.check_mscoco,
        read=mscoco.read_mscoco_it,
        states_splits=_splits_of_rows(mscoco.read_mscoco_it),
        license=f"MSCOCO-IT: research only; after MSCOCO, {_COCO_LICENSE}",
        languages=_italian,
        origin=mscoco.mscoco_it_origin,
        images=_images_setting,
    ),
    SourceKind(
        kind="cc3m",
        config_type=conceptual_captions.ConceptualCaptionsConfig,
        check=conceptual_captions.check_cc3m,
        read=conceptual_captions.read_cc3m,
        license="free for any purpose, credit to Google LLC appreciated, no warranty; images belong to third parties",
    ),
    SourceKind(
        kind="cc12m",
        config_type=conceptual_captions.ConceptualCaptionsConfig,
        check=conceptual_captions.check_cc12m,
        read=conceptual_captions.read_cc12m,
        license="free for any purpose, credit to Google LLC appreciated, no warranty; images belong to third parties",
    ),
    SourceKind(
        kind="flickr8k",
        config_type=flickr.FlickrConfig,
        check=flickr.check_flickr,
        read=flickr.read_flickr,
        upstream_files=flickr.flickr_files,
        states_splits=_splits_of_rows(flickr.read_flickr),
        license=_FLICKR_LICENSE,
        images=_images_setting,
    ),
    SourceKind(
        kind="flickr30k",
        config_type=flickr.FlickrConfig,
        check=flickr.check_flickr,
        read=flickr.read_flickr,
        upstream_files=flickr.flickr_files,
        states_splits=_splits_of_rows(flickr.read_flickr),
        license=_FLICKR_LICENSE,
        images=_images_setting,
    ),
    SourceKind(
        kind="sbu",
        config_type=sbu.SbuConfig,
        check=sbu.check_sbu,
        read=sbu.read_sbu,
        license="none stated for the captions; images belong to their owners on Flickr",
        operator="Flickr",
    ),
    SourceKind(
        kind="pairs",
        config_type=pairs.PairsConfig,
        check=pairs.check_pairs,
        read=pairs.read_pairs,
        license="not stated: the files are the user's own",
        languages=pairs.pairs_languages,
        origin=pairs.pairs_origin,
        states_splits=lambda config: bool(config.split_column),
        images=pairs.pairs_images,
    ),
)

SOURCE_KINDS: dict[str, SourceKind] = {kind.kind: kind for kind in _KINDS}
