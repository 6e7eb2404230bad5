"""Store the weights of an exported text tower in 16 or 8 bits, and measure what that costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from data_catalog.base.boundary import about
from data_catalog.base.errors import SettingsError
from data_catalog.disk.files import TEMPORARY_PREFIX
from training.data.images import Features
from training.exports.apps import encode_texts
from training.exports.formats import Precision
from training.scores.metrics import METRIC_OF, text_to_image_ranks
from training.towers.model import LoadedModel

MIN_SHARE = 0.97  # of the R@1 with 32 bits
_ROUNDS = 1000
_LARGE = 4096  # numbers in a tensor that is stored short
_BLOCK = 32  # numbers with one scale in 8 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Queries, each with the place of its answer in a gallery of unit features, which a model may have to compute."""

    queries: Sequence[str]
    owners: Sequence[int]
    gallery: Callable[[LoadedModel], Features]
    what: str  # after "on", for people


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """R@1 before and after the weights were shortened, with the paired 95 % interval of the difference."""

    precision: Precision
    before: float
    after: float
    low: float
    high: float
    queries: int
    gallery: int
    what: str


def shorten(
    graph: Path, tokenizer: Tokenizer, precision: Precision, validation: Validation, model: LoadedModel, *, accept: bool
) -> Loss:
    """Replace a graph by one with shorter weights, and return the loss; refuse a large one unless it is accepted."""
    shorter = graph.with_name(f"{TEMPORARY_PREFIX}{graph.name}")
    write_shorter(graph, shorter, precision)
    gallery, owners = validation.gallery(model), np.array(validation.owners)
    with about(f"R@1 cannot be measured on {validation.what}", remedy="name the recipe of this model"):
        ranks = [
            text_to_image_ranks(encode_texts(path, tokenizer, validation.queries), gallery, owners)[:, None]
            for path in (graph, shorter)
        ]
    before, after = (float((found == 1).mean()) for found in ranks)
    if not (after >= MIN_SHARE * before or accept):
        raise SettingsError(
            f"with {precision} R@1 is {after:.4f} on {validation.what}, less than {MIN_SHARE} of {before:.4f} with "
            "fp32: choose another --precision, or add --accept-loss. Nothing was written"
        )
    _, low, high = METRIC_OF["text_to_image_R@1"].estimate(
        ranks[1], owners, gallery_size=len(gallery), rounds=_ROUNDS, seed=0, first=ranks[0]
    )
    graph.with_name(f"{graph.name}.data").unlink(missing_ok=True)
    shorter.replace(graph)
    sizes = {"queries": len(owners), "gallery": len(gallery)}
    return Loss(precision=precision, before=before, after=after, low=low, high=high, what=validation.what, **sizes)


def write_shorter(graph: Path, shorter: Path, precision: Precision) -> None:
    """Write a graph whose large weights are stored in 16 or 8 bits; a session makes 32 of them when it opens it."""
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
    onnx.save(model, shorter)


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
