"""Export a model's towers as two ONNX graphs from inputs to unit features, and check them with ONNX Runtime.

The graphs are written by torch's exporter based on `torch.export`. The older exporter, based on tracing, fixes the
length of a text in the graph.
"""

from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from data_catalog.base.errors import InputError, install_hint
from data_catalog.disk.files import TEMPORARY_PREFIX
from training.exports.hugging_face import CLEANING, write_image_processor, write_tokenizer
from training.exports.trained_folder import (
    TEXTS,
    ModelWriter,
    Probe,
    TrainedFolder,
    quiet_libraries,
    require_same_ids,
    require_same_scores,
)
from training.towers.tokenizer import TOKENIZER_FILE

OPSET = 18
IMAGE_FILE, TEXT_FILE = "image.onnx", "text.onnx"
# A protocol buffer is limited to 2 GiB. Larger weights go into a separate file beside the graph.
MAX_BYTES_INSIDE = 1_800_000_000
_LOADING = """```python
from onnxruntime import InferenceSession
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoTokenizer

picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")  # upright, as EXIF says
pixels = AutoImageProcessor.from_pretrained("FOLDER", backend="pil")([picture], return_tensors="np")["pixel_values"]
ids = AutoTokenizer.from_pretrained("FOLDER")(["..."], padding=True, truncation=True, return_tensors="np")["input_ids"]
image_features = InferenceSession("FOLDER/image.onnx").run(None, {"pixel_values": pixels})[0]
text_features = InferenceSession("FOLDER/text.onnx").run(None, {"input_ids": ids})[0]
print(image_features @ text_features.T)
```

`image.onnx` takes `pixel_values`, float32 (batch, 3, size, size). `text.onnx` takes `input_ids`, int64 (batch, length).
Both return features of length 1. The operator set is 18. The metadata contains the sha256 of the weights and the
logit scale."""


class _Tower(nn.Module):
    """A tower of a model, from its inputs to unit features."""

    def __init__(self, tower: nn.Module, encode: Callable[..., Tensor]) -> None:
        super().__init__()
        self.tower, self.encode = tower, encode  # registers only the weights of this tower with the exporter

    def forward(self, inputs: Tensor) -> Tensor:
        return self.encode(inputs, normalize=True)


def require_onnx() -> None:
    """Check that the packages that write and run ONNX graphs are installed.

    Raises:
        InputError: a package is missing.
    """
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise InputError(f"the format onnx needs {', '.join(missing)}: {install_hint('onnx')}")


def write_onnx(trained: TrainedFolder, folder: Path, _hub_name: str | None) -> None:
    """Write `image.onnx`, `text.onnx`, the tokenizer and the image preprocessing.

    `image.onnx` takes `pixel_values`: normalised float32, shape (batch, 3, size, size). `text.onnx` takes `input_ids`:
    int64, shape (batch, length), padded. Both return unit features.
    """
    module, size, bias = trained.loaded.module, trained.loaded.image_size, trained.logit_bias
    metadata = {
        "model_sha256": trained.loaded.sha256,
        "run_key": trained.run["key"],
        "logit_scale": repr(trained.logit_scale),
        **({} if bias is None else {"logit_bias": repr(bias)}),
        "context_length": str(trained.context_length),
        "image_size": str(size),
    }
    batch = torch.export.Dim("batch")
    # Every text has at least two tokens, start and end.
    length = torch.export.Dim("length", min=2, max=trained.context_length)
    pixels = torch.zeros(2, 3, size, size)
    ids = trained.loaded.tokenizer(TEXTS)[:, : max(2, trained.context_length - 1)]
    inputs = {"pixel_values": (pixels, {0: batch})}
    _write_graph(_Tower(module.visual, module.encode_image), inputs, folder / IMAGE_FILE, metadata)
    inputs = {"input_ids": (ids, {0: batch, 1: length})}
    _write_graph(_Tower(module.text, module.encode_text), inputs, folder / TEXT_FILE, metadata)
    write_tokenizer(trained, folder)
    write_image_processor(trained, folder)


def _write_graph(
    tower: nn.Module, inputs: dict[str, tuple[Tensor, dict[int, Any]]], path: Path, metadata: dict[str, str]
) -> None:
    """Write the graph of one tower.

    Args:
        tower: the tower.
        inputs: an example and the axes of variable length, by input name.
        path: the ONNX file.
        metadata: entries of the graph's metadata.
    """
    import onnx

    size = sum(weight.numel() * weight.element_size() for weight in tower.state_dict().values())
    # The exporter prints its progress, and warns about its own modules.
    with quiet_libraries(), redirect_stdout(StringIO()), torch.no_grad():
        torch.onnx.export(
            tower.eval(),
            tuple(example for example, _ in inputs.values()),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[f"{path.stem}_features"],
            dynamic_shapes=[axes for _, axes in inputs.values()],
            external_data=size > MAX_BYTES_INSIDE,
            verbose=False,
        )
    graph = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(graph, metadata)
    graph.producer_name = "vernaclip"
    for node in graph.graph.node:
        del node.metadata_props[:]  # source locations of nodes, with paths of this machine
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    onnx.save(graph, temporary)
    temporary.replace(path)


def check_onnx(trained: TrainedFolder, probe: Probe, folder: Path) -> float:
    """Run the graphs with ONNX Runtime, singly and in a batch, and return the largest difference from the model.

    Raises:
        DefectError: their token ids or scores differ.
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
    # Run one image and one text alone, without the padding for the longest text.
    pad = trained.loaded.tokenizer(TEXTS[:1])
    alone = text.run(None, {"input_ids": pad.numpy()})[0]
    one = image.run(None, {"pixel_values": pixels[:1]})[0]
    again = require_same_scores(
        probe, np.concatenate([one, images[1:]]), np.concatenate([alone, texts[1:]]), "the export to ONNX"
    )
    return max(worst, again)


def how_to_read_onnx(_trained: TrainedFolder, _hub_name: str | None) -> str:
    """Return Markdown that explains how to load the folder."""
    return f"{_LOADING}\n\n{CLEANING}"


def why_not_onnx(model_config: dict[str, Any], _encoder: Any) -> str | None:
    """Return why a model cannot be one graph of pixels and one of token ids, or None if it can."""
    several = bool(model_config.get("joined_texts"))
    return "several text towers are joined in it, each with its own tokenizer" if several else None


WRITER = ModelWriter(
    write=write_onnx, check=check_onnx, how_to_read=how_to_read_onnx, require=require_onnx, why_not=why_not_onnx
)
