"""Export a searchable collection as static files: a page that finds images by text in the browser, without a server.

As for datasets, `export.json` is written last, and `vernaclip forget` removes sites of snapshots that are gone.
"""

import hashlib
import html
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch

from data_catalog.base.errors import DefectError, SettingsError
from data_catalog.base.plain_text import visible_text
from data_catalog.base.progress import Progress
from data_catalog.catalog.manifest import EXPORTS, MARKED, SPLITS, Snapshot
from data_catalog.disk.files import digest, sha256_of
from data_catalog.exports.export_folder import current_record, export_lock, record_of, resolve_export_folder
from data_catalog.exports.rights import policy_of, read_license
from data_catalog.exports.sinks import judged_shards, sample_key
from data_catalog.images.decoders import Decoder, Decoders
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.rows.fetch_reasons import NORMALISE_REASONS
from training.data.images import Features
from training.exports.browser import PACKAGES, packed, write_runtime
from training.exports.formats import Precision, SiteConfig
from training.exports.hugging_face import write_tokenizer
from training.exports.onnx_graphs import TEXT_FILE, Tower, metadata_of, require_packages, write_graph
from training.exports.trained_folder import TEXTS, TrainedFolder, open_trained, quiet_libraries
from training.towers.tokenizer import TOKENIZER_FILE
from training.towers.trained_models import pair_hashes
from training.use.search import Gallery

VERSION = 2  # raise it when the files of the same images, model and settings change
FORMAT = "site"
TOLERANCE = 1e-2  # of a number of a text's unit vector
_PAGE = files("training.exports") / "page"
_PARTS = "parts"  # folder of everything but the page and the thumbnails, followed by a hash: no cache mixes two exports
_THUMBNAIL = NormaliseConfig(
    resize_mode="keep_ratio_largest", image_size=560, encode_format="webp", encode_quality=78, min_image_size=1,
    max_aspect_ratio=1000, max_pixels=2**27, animated="first",
)  # fmt: skip
_AT_A_TIME = 64
_PAGE_OF_TILES = 30  # thumbnails that a search shows, at most
_LARGE = 4096  # numbers in a tensor that is stored short
_BLOCK = 32  # numbers with one scale in 8 bits


class Shown(NamedTuple):
    """An image to show: its place in the gallery, its name, its bytes or file, and what is said of it."""

    place: int
    name: str
    image: bytes | Path
    captions: Sequence[str]
    source: str = ""
    license: str = ""
    attribution: str = ""
    page: str = ""


@dataclass(kw_only=True)
class Collection:
    """Images to show, and why others are left out: source, reason and number."""

    name: str
    identity: Mapping[str, Any]  # dataset, snapshot and take-downs, for the record
    gallery: Gallery
    images: Iterator[Shown]
    total: int
    language: str = ""  # of the captions
    folder: Path | None = None  # of images of no dataset
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)


def dataset_collection(snapshot: Snapshot, gallery: Gallery, config: SiteConfig) -> Collection:
    """Return the images of a snapshot that may be passed on; `gallery` has all its pairs, in their order."""
    policy = policy_of(snapshot.manifest, config.pixels, allowed=frozenset(config.allowed))
    left_out: Counter[tuple[str, str]] = Counter()
    starts, start = dict[Path, int](), 0
    for path, entry in zip(pair_hashes(snapshot), snapshot.manifest["files"]["pairs"], strict=True):
        starts[path] = start
        start += entry["rows"]
        if entry["split"] == MARKED:
            left_out[snapshot.dataset, "they are marked as leaks of a test set"] += entry["rows"]

    def images() -> Iterator[Shown]:
        for shard in (shard for split in SPLITS for shard in judged_shards(snapshot, policy, split)):
            sources = shard.rows.column("source").to_pylist()
            left_out.update((source, why) for source, why in zip(sources, shard.reasons, strict=True) if why)
            places = iter(np.flatnonzero(shard.is_exported) + starts[shard.path])
            for row in (row for group in shard.pair_groups() for row in group.to_pylist()):
                yield Shown(
                    place=int(next(places)),
                    name=row["sample_id"],
                    image=row["image"]["bytes"],
                    captions=row["captions"],
                    source=row["source"],
                    license=policy.license(row) or "",
                    attribution=row["attribution"] or "",
                    page=row["page_url"] or "",
                )

    stones = snapshot.manifest["tombstones"]["digest"]
    identity = {"dataset": snapshot.dataset, "snapshot": snapshot.snapshot, "tombstones": stones}
    return Collection(
        name=snapshot.dataset,
        identity=identity,
        gallery=gallery,
        images=images(),
        total=start,
        language=str(snapshot.manifest["target_lang"]),
        left_out=left_out,
    )


def folder_collection(folder: Path, gallery: Gallery) -> Collection:
    """Return the images of a folder, each called as its file is."""
    number = len(gallery.features)
    hits = gallery.hits(np.arange(number), np.zeros(number))
    images = (
        Shown(place, hit.name, hit.path, [re.sub(r"[\s_]+", " ", Path(hit.name).stem)])
        for place, hit in enumerate(hits)
        if hit.path is not None
    )
    name = folder.resolve().name  # the record is public: it has no path of this machine
    return Collection(
        name=name,
        identity={"dataset": None, "snapshot": digest([hit.name for hit in hits]), "tombstones": None},
        gallery=gallery,
        images=images,
        total=number,
        folder=folder,
        left_out=Counter((name, reason) for _, reason in gallery.unreadable),
    )


def export_site(
    collection: Collection, model: Path, config: SiteConfig, out: Path, *, root: Path
) -> tuple[dict[str, Any], bool]:
    """Write a site, unless it is up to date; return its record, and whether it was.

    Call it with the writer's lock of the root held, if a dataset is shown.
    """
    require_packages()
    place = resolve_export_folder(out, root)
    if collection.folder is not None:
        for inside in (root / EXPORTS, collection.folder):
            if place.is_relative_to(inside.resolve()):
                raise SettingsError(
                    f"{out} is inside {inside}, where `vernaclip forget` would remove it, or the next site would show "
                    "its thumbnails: choose another --out"
                )
    trained = open_trained(model)
    with export_lock(place):
        record = record_of(place)
        if record is not None and record["format"] != FORMAT:
            raise SettingsError(f"{out} contains another export, which the site would replace: choose another --out")
        wanted = {
            **collection.identity,
            "format": FORMAT,
            "model_sha256": trained.loaded.sha256,
            "features": hashlib.sha256(collection.gallery.features.tobytes()).hexdigest(),
            "settings": json.loads(json.dumps(asdict(config))),
            "version": VERSION,
        }
        return current_record(place, wanted, lambda folder: _write_site(collection, trained, config, folder))


def _write_site(collection: Collection, trained: TrainedFolder, config: SiteConfig, folder: Path) -> dict[str, Any]:
    """Write all files of a site but its record; return what was counted."""
    parts, thumbs = folder / _PARTS, folder / "thumbs"
    parts.mkdir()
    _write_model(trained, config.precision, parts)
    shown, sizes = _write_thumbnails(collection, thumbs)
    left_out = [[*why, count] for why, count in sorted(collection.left_out.items())]
    if not shown:
        reasons = [f"{count:,} of {source} are left out, since {reason}" for source, reason, count in left_out]
        raise SettingsError(f"the site of {collection.name} would have no image: {'; '.join(reasons)}")
    _write_vectors(collection.gallery.features[[image.place for image in shown]], parts / "vectors.bin")
    (parts / "images.json.bin").write_bytes(packed(_json(_images_table(shown, sizes))))
    texts = json.loads((_PAGE / "texts.json").read_text(encoding="utf-8"))
    site = {
        "languages": config.languages,
        "language": collection.language,
        "credits": config.credits,
        "context_length": trained.loaded.tokenizer.context_length,
        "model_bytes": sum((parts / name).stat().st_size for name in ("ort.wasm.bin", f"{TEXT_FILE}.bin")),
        "texts": {code: texts[code] for code in config.interface or texts},
    }
    (parts / "site.json").write_bytes(_json(site))
    (parts / "licenses.txt").write_text(_licenses(trained), encoding="utf-8")
    for name in ("site.css", "site.js", "engine.js", "icon.svg"):
        (parts / name).write_bytes((_PAGE / name).read_bytes())
    name = f"{_PARTS}-{digest([sha256_of(path) for path in sorted(parts.iterdir())])[:12]}"
    parts.rename(folder / name)
    values = {"PARTS": name, "TITLE": html.escape(visible_text(config.title or collection.name))}
    page = (_PAGE / "index.html").read_text(encoding="utf-8")
    page = re.sub("@@([A-Z]+)@@", lambda match: values[match[1]], page)
    (folder / "index.html").write_text(page, encoding="utf-8")
    rest, thumbnails = (sum(path.stat().st_size for path in place.iterdir()) for place in (folder / name, thumbs))
    loaded = {
        "first search": rest + len(page.encode()),
        "thumbnails of a search": thumbnails * min(_PAGE_OF_TILES, len(shown)) // len(shown),
        "whole site": rest + len(page.encode()) + thumbnails,
    }
    return {"images": len(shown), "left_out": left_out, "loaded": loaded}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _write_model(trained: TrainedFolder, precision: Precision, parts: Path) -> None:
    """Write the text tower, its tokenizer and what runs them; refuse vectors that differ from the model's."""
    from onnxruntime import InferenceSession

    module, tokenizer, path = trained.loaded.module, trained.loaded.tokenizer, parts / TEXT_FILE
    with quiet_libraries(), torch.no_grad():
        axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2, max=tokenizer.context_length)}
        ids = tokenizer(TEXTS)
        inputs = {"input_ids": (ids[:, : max(2, tokenizer.context_length - 1)], axes)}
        write_graph(Tower(module.text, module.encode_text), inputs, path, metadata_of(trained))
        _shorten(path, precision)
        write_tokenizer(trained, parts, {})
        (found,) = InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input_ids": ids.numpy()})
        difference = float(np.abs(found - module.encode_text(ids, normalize=True).numpy()).max())
    if not difference <= TOLERANCE:
        raise DefectError(f"with {precision} the vectors of texts differ from the model's by {difference:.2g}")
    for packable in (path, parts / TOKENIZER_FILE):
        packable.with_name(f"{packable.name}.bin").write_bytes(packed(packable.read_bytes()))
        packable.unlink()
    write_runtime(parts)


def _shorten(graph: Path, precision: Precision) -> None:
    """Store the large weights of a graph in 16 or 8 bits; a session makes 32 of them when it opens it."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph)
    kept, nodes = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _LARGE:
            kept.append(tensor)
            continue
        stored, made = _short(tensor.name, values, precision)
        kept += [numpy_helper.from_array(array, name) for name, array in stored.items()]
        nodes += made
    nodes += model.graph.node
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    onnx.save(model, graph)


def _short(name: str, values: Any, precision: Precision) -> tuple[dict[str, Any], list[Any]]:
    """Return what is stored of a tensor, and the nodes that make it again."""
    from onnx import TensorProto, helper

    if precision == "fp16":
        cast = helper.make_node("Cast", [f"{name}.short"], [name], to=TensorProto.FLOAT)
        return {f"{name}.short": values.astype(np.float16)}, [cast]
    block = _BLOCK if values.size % _BLOCK == 0 else values.shape[-1]
    rows = values.reshape(-1, block)
    scales = np.maximum(np.abs(rows).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    stored = {
        f"{name}.short": np.rint(rows / scales).astype(np.int8),
        f"{name}.scales": scales,
        f"{name}.shape": np.array(values.shape, dtype=np.int64),
    }
    nodes = [
        helper.make_node("Cast", [f"{name}.short"], [f"{name}.whole"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.whole", f"{name}.scales"], [f"{name}.rows"]),
        helper.make_node("Reshape", [f"{name}.rows", f"{name}.shape"], [name]),
    ]
    return stored, nodes


def _write_thumbnails(collection: Collection, folder: Path) -> tuple[list[Shown], list[tuple[int, int]]]:
    """Write the thumbnails; return the images that decode, and the sizes of their thumbnails."""
    folder.mkdir()
    shown, sizes, cores = list[Shown](), list[tuple[int, int]](), len(os.sched_getaffinity(0))
    decoders, idle = Decoders(), SimpleQueue[Decoder]()

    def thumbnail(image: Shown) -> Mapping[str, Any]:
        raw = image.image if isinstance(image.image, bytes) else image.image.read_bytes()
        decoder = idle.get()
        try:
            found: Mapping[str, Any] = decoder.normalise(raw)
        finally:
            idle.put(decoder)
        if not found["drop_reason"]:
            (folder / f"{sample_key(image.name)}.webp").write_bytes(found["bytes"])
        return {name: found.get(name) for name in ("drop_reason", "width", "height")}

    with ExitStack() as stack:
        stack.callback(decoders.close)
        for _ in range(cores):
            idle.put(stack.enter_context(decoders.lend(_THUMBNAIL)))
        pool = stack.enter_context(ThreadPoolExecutor(cores))
        progress = stack.enter_context(Progress("make thumbnails", total=collection.total, unit="images"))
        while some := list(islice(collection.images, _AT_A_TIME)):
            for image, found in zip(some, pool.map(thumbnail, some), strict=True):
                if found["drop_reason"]:
                    why = NORMALISE_REASONS[found["drop_reason"]].meaning
                    collection.left_out[image.source or collection.name, why] += 1
                else:
                    shown.append(image._replace(image=b""))
                    sizes.append((found["width"], found["height"]))
            progress.advance(len(some))
    return shown, sizes


def _write_vectors(features: Features, path: Path) -> None:
    """Write vectors in 16 bits, little-endian: the scales of all images, then their numbers."""
    scales = np.abs(features).max(axis=1, keepdims=True) / 32767
    numbers = np.rint(features / np.maximum(scales, np.finfo(np.float32).tiny))
    path.write_bytes(scales.astype("<f4").tobytes() + numbers.astype("<i2").tobytes())


def _images_table(shown: Sequence[Shown], sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return the facts about the images by column; sources and licenses are listed once each, by place."""
    sources = {name: place for place, name in enumerate(sorted({image.source for image in shown}))}
    terms = {text: place for place, text in enumerate(sorted({image.license for image in shown}))}
    names = ((read_license(text), text) for text in terms)
    return {
        "keys": [sample_key(image.name) for image in shown],
        "sizes": sizes,
        "captions": [image.captions for image in shown],
        "source": [sources[image.source] for image in shown],
        "license": [terms[image.license] for image in shown],
        "by": [image.attribution for image in shown],
        "page": [image.page for image in shown],
        "sources": list(sources),
        "licenses": [[license.name if license else text, text] for license, text in names],
    }


def _licenses(trained: TrainedFolder) -> str:
    """Return the licenses of the software and of the weights in a site."""
    libraries = [f"{each.name} {each.version}: {each.license} ({each.url})" for each in PACKAGES]
    borrowed = [f"{each['tower']} tower, {each['weights']}: {each['license']}" for each in trained.lineage.borrowed]
    head = "This page was made with vernaclip (Apache-2.0). It contains:"
    mit = (_PAGE / "mit.txt").read_text(encoding="utf-8")
    return "\n".join([head, "", *libraries, *borrowed, "", mit])
