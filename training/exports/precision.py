"""Store the weights of an exported text tower in 16 or 8 bits, and measure what that costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    _write_shorter(graph, shorter, precision)
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


def _write_shorter(graph: Path, shorter: Path, precision: Precision) -> None:
    """Write a graph with weights in 16 bits; or in 7 of 8 bits, whose products no processor cuts off."""
    import onnx

    if precision == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        found = convert_float_to_float16(onnx.load(graph), keep_io_types=True)
    else:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(graph, shorter, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
        found = onnx.load(shorter)
    stated = onnx.load(graph, load_external_data=False)
    onnx.helper.set_model_props(found, {each.key: each.value for each in stated.metadata_props})
    found.producer_name = stated.producer_name
    onnx.save(found, shorter)
