"""Probe models with pairs of captions that differ in one thing: is the true caption nearer to the image?"""

import hashlib
import io
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.base.errors import InputError
from data_catalog.disk.files import sha256_of
from data_catalog.rows.identities import name_identities
from data_catalog.sources.image_files import ImageFiles, check_images, open_images
from data_catalog.sources.json_documents import describe, open_json
from training.changes import KINDS, Change, ChangeRules
from training.config import EvaluateConfig
from training.data.features import Encoder, FeatureStore
from training.data.images import picture_or_reason
from training.data.pairs import Floats, Integers
from training.scores.evaluation import ALL, LEAK_FREE, wording
from training.scores.galleries import UNSTATED, Gallery
from training.scores.metrics import TIE_TOLERANCE, refuse_not_finite, share_interval
from training.scores.score import Estimate
from training.scores.scoreboard import ModelFacts, ModelToScore, SetFacts, model_facts, set_facts

logger = logging.getLogger(__name__)

CHANCE = 0.5
MOST_OF_KIND = 3  # changes of a caption
HALF = re.compile("[\ud800-\udfff]")  # surrogates, which JSON may contain but no model accepts
_BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
_COCO_DIGITS = 12
_EXPECTED = (
    "a JSON list of pairs: objects with image_path, true_caption and false_caption (as in ARO), objects with "
    "image_path and caption_options, the right one first, or lists of an image's number, the right caption and wrong "
    "ones (as in What'sUp)"
)


@dataclass(frozen=True, slots=True)
class CaptionPair:
    """A true caption of an image and a false one.

    Args:
        kind: what is changed.
        view: the image, by its place in `ProbedSet.views`.
        true: the true caption.
        false: the false one.
    """

    kind: str
    view: int
    true: str
    false: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedSet:
    """A test set with the pairs of captions of its images.

    Args:
        gallery: its images and true captions.
        pairs: the pairs of captions.
        views: names of the images that are compared: images of the gallery, or parts of them.
        owners: image of each view, by its place in the gallery.
        read: returns the bytes of a view by name, and raises OSError if there are none.
        left_out: number of pairs that were left out, by reason.
    """

    gallery: Gallery
    pairs: Sequence[CaptionPair]
    views: Sequence[str]
    owners: Sequence[int]
    read: Callable[[str], bytes]
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeScore(Estimate):
    """Share of the pairs of a kind in which a model finds the true caption nearer; ties count half.

    Args:
        model: name of the model.
        test_set: name of the set.
        kind: what is changed in the false caption.
        images: image choice, a key of `score.IMAGE_CHOICES`.
        chance: expected value for a random choice.
        num_pairs: number of pairs.
        num_images: number of images that they are of.
        num_ties: pairs in which both captions are equally near.
        difference: this score minus that of the first model, on the same pairs. None for the first model.
    """

    model: str
    test_set: str
    kind: str
    images: str
    chance: float
    num_pairs: int
    num_images: int
    num_ties: int
    difference: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Scores of all models on all sets.

    Args:
        settings: settings of the scoring.
        models: facts about each model.
        sets: facts about each set.
        left_out: number of pairs that were left out, by set and reason.
        scores: all scores, in the order of sets, image choices, kinds and models.
    """

    settings: Mapping[str, Any]
    models: tuple[ModelFacts, ...]
    sets: tuple[SetFacts, ...]
    left_out: Mapping[str, Mapping[str, int]]
    scores: tuple[ProbeScore, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def changed_captions(gallery: Gallery, rules: ChangeRules) -> ProbedSet:
    """Return a set's captions with changes of them by rule, at most `MOST_OF_KIND` of a kind for each caption.

    Captions are changed only into words that the set's own captions say. Left out are changed captions that another
    caption of the image says, or confirms: it says the new word, such as "blue", and not the old one.

    Raises:
        InputError: the rules change no caption.
    """
    rules = rules.within(gallery.captions)
    of_image: dict[int, list[str]] = {}
    for caption, owner in zip(gallery.captions, gallery.owners, strict=True):
        of_image.setdefault(owner, []).append(caption)
    left_out: Counter[str] = Counter()
    pairs: list[CaptionPair] = []
    for owner, captions in of_image.items():
        distinct = list(dict.fromkeys(captions))
        worded = {wording(caption) for caption in distinct}
        said = [rules.says(caption) for caption in distinct]
        for place, caption in enumerate(distinct):
            others = [things for other, things in enumerate(said) if other != place]
            kept: dict[str, list[Change]] = {}
            for change in rules.changes(caption):
                if wording(change.caption) in worded:
                    left_out["another caption of the image says the changed one"] += 1
                elif change.is_confirmed_by(others):
                    left_out["another caption of the image says the new word and not the old one"] += 1
                else:
                    kept.setdefault(change.kind, []).append(change)
            for kind, changes in kept.items():
                chosen = sorted(changes, key=lambda change: hashlib.sha256(change.caption.encode()).digest())
                pairs += [CaptionPair(kind, owner, caption, change.caption) for change in chosen[:MOST_OF_KIND]]
    if not pairs:
        raise InputError(
            f"no caption of {gallery.name} can be changed by the rules of its language: is it in another language? "
            "State it with captions_in"
        )
    return ProbedSet(
        gallery=gallery,
        pairs=pairs,
        views=gallery.images,
        owners=range(len(gallery.images)),
        read=gallery.read,
        left_out=left_out,
    )


@dataclass(frozen=True, slots=True)
class _Record:
    """A record of a file of pairs."""

    image: str
    box: tuple[float, float, float, float] | None
    kind: str
    true: str
    false: tuple[str, ...]


def read_pairs(path: Path, images: Path) -> tuple[ProbedSet, list[frozenset[str]]]:
    """Read pairs of captions from a JSON file of ARO's or What'sUp's form.

    A kind is the record's `kind`. Without one it is "relation" or "attribute" if the record names these, else
    "options". Parts of images (`bbox_x` ...) are cut out. An image is sought by its path, and by its name alone.

    Returns:
        The set, named after the file, and the identities of each image of its gallery.

    Raises:
        InputError: the file is not such a list, a record is incomplete, or the image folder cannot be read.
    """
    check_images(str(images))
    files = open_images(str(images))
    found: dict[str, str] = {}  # name in the folder, by the name in the file
    places: dict[str, int] = {}
    views: dict[tuple[str, Any], int] = {}
    pairs: dict[CaptionPair, None] = {}
    left_out: Counter[str] = Counter()
    items = open_json(path, expected=_EXPECTED, names=["caption_options"])
    if not isinstance(items, list):
        raise InputError(f"{path} is {describe(items)}: expected {_EXPECTED}")
    for number, item in enumerate(items, start=1):
        record = _record(item, f"record {number:,} of {path}")
        if record.image not in found:
            found[record.image] = _name_in(files, record.image)
        record = replace(record, image=found[record.image])
        places.setdefault(record.image, len(places))
        view = views.setdefault((record.image, record.box), len(views))
        for false in record.false:
            pair = CaptionPair(record.kind, view, record.true, false)
            if wording(false) == wording(record.true):
                left_out["both captions have the same words"] += 1
            elif pair in pairs:
                left_out["the pair is in the file twice"] += 1
            else:
                pairs[pair] = None
    if not pairs:
        raise InputError(f"{path} has no pair of different captions: expected {_EXPECTED}")
    named = {_view_name(image, box): (image, box) for image, box in views}
    true = {(places[image_of], pair.true): None for pair in pairs for image_of in [list(views)[pair.view][0]]}
    gallery = Gallery(
        name=path.name.split(".")[0],
        images=list(places),
        read=files.read,
        captions=[text for _, text in true],
        owners=[place for place, _ in true],
        made_by=[UNSTATED] * len(true),
        files=({"name": path.name, "sha256": sha256_of(path)},),
    )

    def read(name: str) -> bytes:
        image, box = named[name]
        raw = files.read(image)
        return raw if box is None else _cut(raw, box)

    probed = ProbedSet(
        gallery=gallery,
        pairs=list(pairs),
        views=list(named),
        owners=[places[image] for image, _ in views],
        read=read,
        left_out=left_out,
    )
    return probed, [name_identities(Path(name).name) for name in places]


def _record(item: object, where: str) -> _Record:
    """Return a record of a file of pairs. Raises `InputError` if it is incomplete."""
    if isinstance(item, list):
        image, *texts = item or [None]
        found: dict[str, object] = {"image_path": image, "caption_options": texts}
        if isinstance(image, int) and not isinstance(image, bool):
            found["image_path"] = f"{image}.jpg"
    elif isinstance(item, dict):
        found = item
    else:
        raise InputError(f"{where} is {describe(item)}: expected {_EXPECTED}")
    image = found.get("image_path")
    if not isinstance(image, str) or not image.strip():
        raise InputError(f"{where} has no image_path: expected {_EXPECTED}")
    options = found.get("caption_options", [found.get("true_caption"), found.get("false_caption")])
    if not isinstance(options, list) or len(options) < 2:
        raise InputError(f"{where} has fewer than two captions: expected {_EXPECTED}")
    for text in options:
        if not isinstance(text, str) or not text.strip() or HALF.search(text):
            raise InputError(f"{where} has a caption that is empty or no valid text: expected {_EXPECTED}")
    true, *false = map(str, options)
    return _Record(image, _box(found, where), _kind(found, where), true, tuple(false))


def _kind(found: Mapping[str, object], where: str) -> str:
    kind = found.get("kind")
    if kind is not None:
        if not isinstance(kind, str) or not kind.strip() or HALF.search(kind):
            raise InputError(f"{where} has a kind that is not a text")
        return " ".join(kind.split())
    if {"relation", "relation_name"} & found.keys():
        return "relation"
    return "attribute" if {"attribute", "attributes"} & found.keys() else "options"


def _box(found: Mapping[str, object], where: str) -> tuple[float, float, float, float] | None:
    """Return left, top, width and height of the part of the image, in pixels, or None for the whole image."""
    sides = [found.get(name) for name in _BOX]
    if sides == [None] * len(_BOX):
        return None
    numbers = [float(side) for side in sides if isinstance(side, int | float) and not isinstance(side, bool)]
    if len(numbers) < len(_BOX) or not all(map(math.isfinite, numbers)) or min(numbers[2:]) < 1:
        raise InputError(f"{where} has a wrong box: {', '.join(_BOX)} must be pixels, the last two at least 1")
    left, top, width, height = numbers
    return left, top, width, height


def _view_name(image: str, box: tuple[float, ...] | None) -> str:
    return image if box is None else f"{image} [{', '.join(f'{side:g}' for side in box)}]"


def _name_in(files: ImageFiles, name: str) -> str:
    """Return an image's path, its name alone, or its number with zeros, as COCO has it: the first that is there."""
    alone = Path(name).name
    stem, _, suffix = alone.rpartition(".")
    for each in (name, alone, *([f"{stem.zfill(_COCO_DIGITS)}.{suffix}"] if stem.isdigit() else [])):
        with suppress(OSError):
            files.size(each)
            return each
    return name


def _cut(raw: bytes, box: tuple[float, float, float, float]) -> bytes:
    """Return a part of an image as PNG. Raises `OSError` if the image does not decode or does not reach there.

    `FeatureStore.images` calls it inside `quiet_decoders`.
    """
    found = picture_or_reason(raw, 0)
    if isinstance(found, str):
        raise OSError(found)
    left, top, width, height = box
    edges = (max(0, left), max(0, top), min(found.width, left + width), min(found.height, top + height))
    left, top, right, bottom = map(round, edges)
    if right <= left or bottom <= top:
        raise OSError("the part is outside of the image")
    part = io.BytesIO()
    found.image.crop((left, top, right, bottom)).save(part, "PNG")
    return part.getvalue()


def probe_models(
    models: Sequence[ModelToScore], sets: Sequence[ProbedSet], config: EvaluateConfig, *, cache: Path | None = None
) -> Probe:
    """Score every model on the pairs of every set, and compare the others with the first model on the same pairs.

    If a model was trained on images of a set, all models are scored on all images, and again without those images.

    Args:
        models: the models; the first one is the reference.
        sets: the sets.
        config: settings of scoring.
        cache: folder of the feature cache. None caches in memory only.

    Raises:
        InputError: a model cannot be loaded, its features are not finite, or no image of a set can be read.
    """
    facts: list[ModelFacts] = []
    found: dict[str, dict[str, Floats]] = {each.gallery.name: {} for each in sets}
    there: dict[str, dict[int, bytes]] = {}
    for model in models:
        encoder = model.open()
        facts.append(model_facts(model, encoder))
        store = FeatureStore(encoder, cache)
        for each in sets:
            name = each.gallery.name
            logger.info("%s: %s", name, model.name)
            found[name][model.name], there[name] = _wins(encoder, store, each, config.batch_size)
        del encoder, store  # free the memory before the next model is loaded
    return Probe(
        settings=asdict(config),
        models=tuple(facts),
        sets=tuple(
            set_facts(each.gallery, {each.owners[view]: sha256 for view, sha256 in there[each.gallery.name].items()})
            for each in sets
        ),
        left_out={each.gallery.name: _left_out(each, there[each.gallery.name].keys()) for each in sets},
        scores=tuple(
            score
            for each in sets
            for score in _scores(each, found[each.gallery.name], there[each.gallery.name].keys(), config)
        ),
    )


def _left_out(probed: ProbedSet, there: Container[int]) -> dict[str, int]:
    """Return the numbers of pairs that were left out, by reason, with those whose image is not there."""
    num_missing = sum(pair.view not in there for pair in probed.pairs)
    missing = {"their image, or their part of it, is missing or does not decode": num_missing} if num_missing else {}
    return {**probed.left_out, **missing}


def _wins(encoder: Encoder, store: FeatureStore, probed: ProbedSet, batch_size: int) -> tuple[Floats, dict[int, bytes]]:
    """Return for each pair whose image is there 1 if the true caption is nearer, 0.5 for a tie, else 0; and the views.

    Features of images and captions of the catalog are not cached on disk, where a take-down would not find them.

    Returns:
        Values of the pairs, and the sha256 of the bytes of each view that exists and decodes.
    """
    if probed.gallery.of_catalog:
        store = FeatureStore(encoder)
    images, there = store.images(probed.views, probed.read, batch_size=batch_size)
    if not there:
        raise InputError(f"none of the {len(probed.views):,} images of {probed.gallery.name} can be found and decoded")
    row_of = {view: row for row, view in enumerate(there)}
    pairs = [pair for pair in probed.pairs if pair.view in row_of]
    texts = {text: None for pair in pairs for text in (pair.true, pair.false)}
    row_of_text = {text: row for row, text in enumerate(texts)}
    features = store.texts(list(texts), batch_size=batch_size)
    refuse_not_finite(images, features)
    rows = np.array([row_of[pair.view] for pair in pairs], dtype=np.int64)
    leads = np.zeros(len(pairs))
    for sign, chosen in ((1, [pair.true for pair in pairs]), (-1, [pair.false for pair in pairs])):
        of_texts = features[[row_of_text[text] for text in chosen]].astype(np.float64)
        leads += sign * np.einsum("ij,ij->i", images[rows].astype(np.float64), of_texts)
    values: Floats = np.where(np.abs(leads) <= TIE_TOLERANCE, CHANCE, (leads > 0).astype(np.float64))
    return values, there


def _scores(
    probed: ProbedSet, found: Mapping[str, Floats], there: Iterable[int], config: EvaluateConfig
) -> Iterator[ProbeScore]:
    """Yield the score of each image choice, kind and model."""
    known = set(there)
    pairs = [pair for pair in probed.pairs if pair.view in known]
    clusters: Integers = np.array([probed.owners[pair.view] for pair in pairs], dtype=np.int64)
    kinds = np.array([pair.kind for pair in pairs])
    seen = {place for guard in probed.gallery.guards.values() for place in guard.seen}
    is_new = ~np.isin(clusters, list(seen))
    choices = {ALL: np.ones(len(pairs), dtype=bool)}
    if 0 < is_new.sum() < len(pairs):
        choices[LEAK_FREE] = is_new
    order = sorted(set(kinds.tolist()), key=lambda kind: (KINDS.index(kind) if kind in KINDS else len(KINDS), kind))
    first = next(iter(found.values()))
    for images, chosen in choices.items():
        for kind in order:
            some = chosen & (kinds == kind)
            if not some.any():
                continue
            for model, values in found.items():
                yield ProbeScore(
                    model=model,
                    test_set=probed.gallery.name,
                    kind=kind,
                    images=images,
                    chance=CHANCE,
                    num_pairs=int(some.sum()),
                    num_images=len(np.unique(clusters[some])),
                    num_ties=int((values[some] == CHANCE).sum()),
                    difference=None
                    if values is first
                    else _estimate(values[some] - first[some], clusters[some], config, least=-1.0),
                    **asdict(_estimate(values[some], clusters[some], config)),
                )


def _estimate(values: Floats, clusters: Integers, config: EvaluateConfig, *, least: float = 0.0) -> Estimate:
    low, high = share_interval(values, clusters, rounds=config.bootstrap_rounds, seed=config.seed, least=least)
    return Estimate(value=float(values.mean()), low=low, high=high)
