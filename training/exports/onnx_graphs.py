"""A model's towers as two ONNX graphs, each from its inputs to unit features, checked against torch by onnxruntime.

torch's exporter by `torch.export` writes them: the older one, by tracing, fixed the length of a text in the graph.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from data_catalog.errors import InputError, extra_to_install
from data_catalog.storage.shards import TEMPORARY_PREFIX
from training.exports.probe import TEXTS, Probe, quiet_libraries, require_same_ids, require_same_scores
from training.exports.processors import write_image_processor, write_tokenizer
from training.exports.source import TrainedFolder
from training.towers.tokenizer import TOKENIZER_FILE

OPSET = 18
IMAGE_FILE, TEXT_FILE = "image.onnx", "text.onnx"
# A protocol buffer ends at 2 GiB; with more weights than this they lie in a file beside the graph.
MAX_BYTES_INSIDE = 1_800_000_000


def require_onnx() -> None:
    """Make sure that what writes and runs graphs is installed.

    Raises:
        InputError: it is not.
    """
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise InputError(f"the format onnx needs {', '.join(missing)}: {extra_to_install('onnx')}")


def write_onnx(trained: TrainedFolder, folder: Path) -> None:
    """Write `image.onnx`, `text.onnx`, the tokenizer and how images are prepared.

    `image.onnx` takes `pixel_values`, float32 of shape (batch, 3, size, size), normalised; `text.onnx` takes
    `input_ids`, int64 of shape (batch, length), filled up with padding. Both give unit features.
    """
    module, size = trained.loaded.module, trained.loaded.image_size
    batch = torch.export.Dim("batch")
    # Two tokens, start and end, are in every text.
    length = torch.export.Dim("length", min=2, max=trained.context_length)
    ids = trained.loaded.tokenizer(TEXTS)[:, : max(2, trained.context_length - 1)]
    _write_graph(
        _towers()["image"](module),
        {"pixel_values": torch.zeros(2, 3, size, size)},
        {0: batch},
        folder / IMAGE_FILE,
        _metadata(trained),
    )
    _write_graph(
        _towers()["text"](module), {"input_ids": ids}, {0: batch, 1: length}, folder / TEXT_FILE, _metadata(trained)
    )
    write_tokenizer(trained, folder)
    write_image_processor(trained, folder)


def _towers() -> dict[str, Any]:
    """Modules of one tower each; made here, since torch is loaded only when needed."""

    class ImageTower(nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.visual, self.encode = model.visual, model.encode_image

        def forward(self, pixel_values: Tensor) -> Tensor:
            features: Tensor = self.encode(pixel_values, normalize=True)
            return features

    class TextTower(nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.text, self.encode = model.text, model.encode_text

        def forward(self, input_ids: Tensor) -> Tensor:
            features: Tensor = self.encode(input_ids, normalize=True)
            return features

    return {"image": ImageTower, "text": TextTower}


def _metadata(trained: TrainedFolder) -> dict[str, str]:
    bias = trained.logit_bias
    return {
        "model_sha256": trained.loaded.sha256,
        "run_key": str(trained.run.get("key", "")),
        "logit_scale": repr(trained.logit_scale),
        **({} if bias is None else {"logit_bias": repr(bias)}),
        "context_length": str(trained.context_length),
        "image_size": str(trained.loaded.image_size),
    }


def _write_graph(
    tower: Any,
    inputs: Mapping[str, torch.Tensor],
    dynamic: Mapping[int, Any],
    path: Path,
    metadata: Mapping[str, str],
) -> None:
    import onnx

    size = sum(weight.numel() * weight.element_size() for weight in tower.state_dict().values())
    outside = size > MAX_BYTES_INSIDE
    with _quiet_exporter(), torch.no_grad():
        torch.onnx.export(
            tower.eval(),
            tuple(inputs.values()),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[f"{path.stem}_features"],
            dynamic_shapes=[dict(dynamic)],
            external_data=outside,
            verbose=False,
        )
    graph = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(graph, dict(metadata))
    graph.producer_name = "vernaclip"
    for node in graph.graph.node:
        del node.metadata_props[:]  # where in whose source a node stems from: paths of this machine
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    onnx.save(graph, temporary)
    temporary.replace(path)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter tells of its progress on standard output, and warns of its own parts."""
    with quiet_libraries(), redirect_stdout(StringIO()):
        yield


def check_onnx(trained: TrainedFolder, probe: Probe, folder: Path) -> float:
    """Run the graphs by onnxruntime, one by one and all at once, and compare; returns the largest difference.

    Raises:
        DefectError: they score otherwise.
    """
    from onnxruntime import InferenceSession

    encoded = Tokenizer.from_file(str(folder / TOKENIZER_FILE)).encode_batch(list(TEXTS))
    require_same_ids(probe, [text.ids for text in encoded], "the export to ONNX")
    image, text = (
        InferenceSession(str(folder / name), providers=["CPUExecutionProvider"]) for name in (IMAGE_FILE, TEXT_FILE)
    )
    pixels, ids = probe.pixels.numpy(), probe.ids.numpy()
    images = image.run(None, {"pixel_values": pixels})[0]
    texts = text.run(None, {"input_ids": ids})[0]
    worst = require_same_scores(probe, images, texts, "the export to ONNX")
    # Alone, and without the padding that the longest text brings.
    pad = trained.loaded.tokenizer(TEXTS[:1])
    alone = text.run(None, {"input_ids": pad.numpy()})[0]
    one = image.run(None, {"pixel_values": pixels[:1]})[0]
    again = require_same_scores(
        probe, np.concatenate([one, images[1:]]), np.concatenate([alone, texts[1:]]), "the export to ONNX"
    )
    return max(worst, again)
