"""Probe models with pairs of captions that differ in one thing: is the true caption nearer to the image?"""

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, MinLen
from pydantic import BeforeValidator, ConfigDict, Strict, StringConstraints, TypeAdapter

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.disk.files import sha256_of
from data_catalog.rows.identities import name_identities
from data_catalog.sources.image_files import ImageFiles, check_images, open_images
from data_catalog.sources.json_documents import open_json
from training.changes import KINDS, Change, ChangeRules
from training.config import EvaluateConfig
from training.data.features import FeatureStore, Read
from training.data.images import picture_or_reason
from training.data.pairs import Floats, Integers
from training.scores.evaluation import image_choices, read_images, wording
from training.scores.galleries import UNSTATED, Gallery
from training.scores.metrics import TIE_TOLERANCE, refuse_not_finite, share_interval
from training.scores.rows import Board, ScoreRow
from training.scores.scoreboard import ModelToScore, score_each, set_facts

METRIC, CHANCE = "pairs_accuracy", 0.5
MOST_OF_KIND = 3  # changes of a caption
_BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
_COCO_DIGITS = 12
_EXPECTED = (
    "a JSON list of pairs: objects with image_path, true_caption and false_caption (as in ARO), objects with "
    "image_path and caption_options, the right one first, or lists of an image's number, the right caption and wrong "
    "ones (as in What'sUp)"
)

Box = tuple[float, float, float, float]  # left, top, width and height in pixels


@dataclass(frozen=True, slots=True)
class CaptionPair:
    """A true caption of an image and a false one; `kind` is what is changed, `view` a place in `ProbedSet.views`."""

    kind: str
    view: int
    true: str
    false: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedSet(Gallery):
    """A gallery with pairs of captions of its images, or of parts of them, the views."""

    pairs: Sequence[CaptionPair]
    views: Sequence[tuple[str, int]]  # name, and place of the image
    read_view: Read  # by the view's name
    left_out: Mapping[str, int]  # pairs, by reason

    def __post_init__(self) -> None:
        if not self.pairs:
            raise InputError(
                f"{self.name} has no pair of different captions. If it is in another language than the rules that "
                "change captions, state it with captions_in"
            )


def changed_captions(gallery: Gallery, rules: ChangeRules) -> ProbedSet:
    """Return a set's captions with changes of them by rule, at most `MOST_OF_KIND` of a kind for each caption.

    Captions are changed only into words that the set's own captions say. Left out are changed captions that another
    caption of the image says, or confirms: it says the new word, such as "blue", and not the old one.
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
    return ProbedSet(
        **{field.name: getattr(gallery, field.name) for field in fields(Gallery)},
        pairs=pairs,
        views=[(name, place) for place, name in enumerate(gallery.images)],
        read_view=gallery.read,
        left_out=left_out,
    )


_Text = Annotated[str, StringConstraints(pattern=r"\S")]
_Pixels = Annotated[float, Strict()]
_Side = Annotated[_Pixels, Ge(1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """A record of a file of pairs; of the captions the first is true, and the box is the part of the image."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)

    image_path: _Text
    caption_options: Annotated[list[_Text], MinLen(2)]
    kind: _Text
    box: tuple[_Pixels, _Pixels, _Side, _Side] | None


def _as_record(item: Any) -> Any:
    """Return an item of ARO's or What'sUp's file with the fields of a record, not yet validated."""
    if isinstance(item, list):
        image, *texts = item or [None]
        item = {"image_path": f"{image}.jpg" if type(image) is int else image, "caption_options": texts}
    if not isinstance(item, dict):
        return item
    item = {name: value for name, value in item.items() if value is not None}
    kind = "attribute" if {"attribute", "attributes"} & item.keys() else "options"
    kind = "relation" if {"relation", "relation_name"} & item.keys() else kind
    captions = [item.get("true_caption"), item.get("false_caption")]
    box = tuple(item[name] for name in _BOX if name in item) or None
    return {"kind": kind, "caption_options": captions, **item, "box": box}


_RECORDS = TypeAdapter(list[Annotated[_Record, BeforeValidator(_as_record)]])


def read_pairs(path: Path, images: Path) -> ProbedSet:
    """Read pairs of captions from a JSON file of ARO's or What'sUp's form. The set is named after the file.

    A kind is the record's `kind`. Without one it is "relation" or "attribute" if the record names these, else
    "options". Parts of images (`bbox_x` ...) are cut out. An image is sought by its path, and by its name alone.
    """
    check_images(str(images))
    files = open_images(str(images))
    names: dict[str, str] = {}  # name in the folder, by the name in the file
    places: dict[str, int] = {}
    views: dict[tuple[str, Box | None], int] = {}
    captions: dict[tuple[int, str], None] = {}
    pairs: dict[CaptionPair, None] = {}
    left_out: Counter[str] = Counter()
    with about(path, remedy=f"expected {_EXPECTED}"):
        records = _RECORDS.validate_python(open_json(path, expected=_EXPECTED, names=["caption_options"]))
    for record in records:
        if record.image_path not in names:
            names[record.image_path] = _name_in(files, record.image_path)
        name, (true, *wrong) = names[record.image_path], record.caption_options
        place = places.setdefault(name, len(places))
        view = views.setdefault((name, record.box), len(views))
        for false in wrong:
            pair = CaptionPair(" ".join(record.kind.split()), view, true, false)
            if wording(false) == wording(true):
                left_out["both captions have the same words"] += 1
            elif pair in pairs:
                left_out["the pair is in the file twice"] += 1
            else:
                pairs[pair] = captions[place, true] = None
    named = {name if box is None else f"{name} {list(box)}": (name, box) for name, box in views}

    def read_view(view: str) -> bytes:
        name, box = named[view]
        return files.read(name) if box is None else _cut(files.read(name), box)

    return ProbedSet(
        name=path.name.split(".")[0],
        images=list(places),
        read=files.read,
        identities=[name_identities(Path(name).name) for name in places],
        captions=[text for _, text in captions],
        owners=[place for place, _ in captions],
        made_by=[UNSTATED] * len(captions),
        files=({"name": path.name, "sha256": sha256_of(path)},),
        pairs=list(pairs),
        views=[(view, places[name]) for view, (name, _) in named.items()],
        read_view=read_view,
        left_out=left_out,
    )


def _name_in(files: ImageFiles, name: str) -> str:
    """Return an image's path, its name alone, or its number with zeros, as COCO has it: the first that is there."""
    alone = Path(name).name
    stem, _, suffix = alone.rpartition(".")
    for each in (name, alone, *([f"{stem.zfill(_COCO_DIGITS)}.{suffix}"] if stem.isdigit() else [])):
        with suppress(OSError):
            files.size(each)
            return each
    return name


def _cut(raw: bytes, box: Box) -> bytes:
    """Return a part of an image as PNG, or no bytes if the image does not decode or does not reach there."""
    found = picture_or_reason(raw, 0)  # `FeatureStore.images` calls this inside `quiet_decoders`
    left, top, width, height = box
    if isinstance(found, str):
        return b""
    edges = (max(0, left), max(0, top), min(found.width, left + width), min(found.height, top + height))
    left, top, right, bottom = map(round, edges)
    part = io.BytesIO()
    if left < right and top < bottom:
        found.image.crop((left, top, right, bottom)).save(part, "PNG")
    return part.getvalue()


def probe_models(
    models: Sequence[ModelToScore], sets: Sequence[ProbedSet], config: EvaluateConfig, *, cache: Path | None = None
) -> Board:
    """Score every model on the pairs of every set, and compare the others with the first model on the same pairs.

    A score is the share of the pairs of a kind in which the true caption is nearer to the image; ties count half. If a
    model was trained on images of a set, all models are scored on all images, and again without those images.
    """
    facts, found = score_each(models, sets, partial(_wins, batch_size=config.batch_size), cache)
    rows, of_sets = list[ScoreRow](), []
    for each in sets:
        there = found[each.name, models[0].name][1]
        rows += _rows(each, {model.name: found[each.name, model.name][0] for model in models}, there, config)
        images = {each.views[view][1]: sha256 for view, sha256 in there.items()}
        left_out = dict(each.left_out)
        if num_missing := sum(pair.view not in there for pair in each.pairs):
            left_out["their image, or their part of it, is missing or does not decode"] = num_missing
        of_sets.append(replace(set_facts(each, images), left_out=left_out))
    return Board(rows=tuple(rows), models=facts, sets=tuple(of_sets), settings=asdict(config))


def _wins(store: FeatureStore, probed: ProbedSet, *, batch_size: int) -> tuple[Floats, dict[int, bytes]]:
    """Return 1 if the true caption is nearer, 0.5 for a tie, else 0, for each pair that has its view; and the views."""
    views = replace(probed, images=[name for name, _ in probed.views], read=probed.read_view)
    store, images, there = read_images(store, views, batch_size)
    row_of = {view: row for row, view in enumerate(there)}
    pairs = [pair for pair in probed.pairs if pair.view in row_of]
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.true, pair.false)))
    row_of_text = {text: row for row, text in enumerate(texts)}
    features = store.texts(texts, batch_size=batch_size)
    refuse_not_finite(images, features)
    rows = np.array([row_of[pair.view] for pair in pairs], dtype=np.int64)
    leads = np.zeros(len(pairs))
    for sign, chosen in ((1, [pair.true for pair in pairs]), (-1, [pair.false for pair in pairs])):
        of_texts = features[[row_of_text[text] for text in chosen]].astype(np.float64)
        leads += sign * np.einsum("ij,ij->i", images[rows].astype(np.float64), of_texts)
    values: Floats = np.where(np.abs(leads) <= TIE_TOLERANCE, CHANCE, (leads > 0).astype(np.float64))
    return values, there


def _rows(
    probed: ProbedSet, found: Mapping[str, Floats], there: Mapping[int, bytes], config: EvaluateConfig
) -> Iterator[ScoreRow]:
    """Yield the scores of each image choice, kind and model, and their differences from those of the first model."""
    pairs = [pair for pair in probed.pairs if pair.view in there]
    places = np.array([probed.views[pair.view][1] for pair in pairs], dtype=np.int64)
    kinds = np.array([pair.kind for pair in pairs])
    order = sorted(set(kinds.tolist()), key=lambda kind: (KINDS.index(kind) if kind in KINDS else len(KINDS), kind))
    first = next(iter(found))
    for images, chosen in image_choices(probed, places).items():
        for kind in order:
            some = chosen & (kinds == kind)
            if not some.any():
                continue
            same: dict[str, Any] = {
                "test_set": probed.name,
                "metric": METRIC,
                "captions": kind,
                "images": images,
                "gallery": len(np.unique(places[some])),
                "queries": int(some.sum()),
                "left_out": int((kinds == kind).sum() - some.sum()),
            }
            for model, values in found.items():
                numbers = _estimate(values[some], places[some], config)
                yield ScoreRow(model=model, chance=CHANCE, **same, **numbers)
                if model != first:
                    numbers = _estimate((values - found[first])[some], places[some], config, least=-1.0)
                    yield ScoreRow(model=model, minus=first, chance=0.0, **same, **numbers)


def _estimate(values: Floats, clusters: Integers, config: EvaluateConfig, *, least: float = 0.0) -> dict[str, Any]:
    low, high = share_interval(values, clusters, rounds=config.bootstrap_rounds, seed=config.seed, least=least)
    return {"value": float(values.mean()), "low": low, "high": high}
