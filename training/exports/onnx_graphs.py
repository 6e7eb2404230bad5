"""Export a model's towers as two ONNX graphs from inputs to unit features.

torch's exporter based on `torch.export` writes the graphs. The older exporter, based on tracing, fixes the length of a
text in the graph.
"""

from collections.abc import Callable, Mapping
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
from training.exports.hugging_face import write_processors
from training.exports.trained_folder import TEXTS, Encoded, TrainedFolder
from training.towers.tokenizer import TOKENIZER_FILE

OPSET = 18
IMAGE_FILE, TEXT_FILE = "image.onnx", "text.onnx"
# A protocol buffer is limited to 2 GiB. Larger weights go into a separate file beside the graph.
MAX_BYTES_INSIDE = 1_800_000_000


class Tower(nn.Module):
    """A tower of a model, from its inputs to unit features."""

    def __init__(self, tower: nn.Module, encode: Callable[..., Tensor]) -> None:
        super().__init__()
        self.tower, self.encode = tower, encode  # registers only the weights of this tower with the exporter

    def forward(self, inputs: Tensor) -> Tensor:
        """Return unit features."""
        return self.encode(inputs, normalize=True)


def why_not(_model_config: Mapping[str, Any], _encoder: Any) -> None:
    """Accept every architecture."""


def require_packages() -> None:
    """Refuse to work without the packages that write and run the graphs."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise InputError(f"an ONNX graph needs {', '.join(missing)}: {install_hint('onnx')}")


def write(trained: TrainedFolder, folder: Path, _hub_name: str | None) -> None:
    """Write both graphs, the tokenizer and the image preprocessing."""
    module, size, metadata = trained.loaded.module, trained.loaded.image_size, metadata_of(trained)
    context_length = trained.loaded.tokenizer.context_length
    batch = torch.export.Dim("batch")
    # Every text has at least two tokens, start and end.
    length = torch.export.Dim("length", min=2, max=context_length)
    pixels = torch.zeros(2, 3, size, size)
    ids = trained.loaded.tokenizer(TEXTS)[:, : max(2, context_length - 1)]
    inputs = {"pixel_values": (pixels, {0: batch})}
    write_graph(Tower(module.visual, module.encode_image), inputs, folder / IMAGE_FILE, metadata)
    inputs = {"input_ids": (ids, {0: batch, 1: length})}
    write_graph(Tower(module.text, module.encode_text), inputs, folder / TEXT_FILE, metadata)
    write_processors(trained, folder)


def metadata_of(trained: TrainedFolder) -> dict[str, str]:
    """Return what the metadata of a graph state of its model."""
    bias = trained.logit_bias
    return {
        "model_sha256": trained.loaded.sha256,
        "run_key": trained.result.key,
        "logit_scale": repr(trained.logit_scale),
        **({} if bias is None else {"logit_bias": repr(bias)}),
        "context_length": str(trained.loaded.tokenizer.context_length),
        "image_size": str(trained.loaded.image_size),
    }


def write_graph(
    tower: nn.Module, inputs: dict[str, tuple[Tensor, dict[int, Any]]], path: Path, metadata: dict[str, str]
) -> None:
    """Write the graph of one tower, from an example of each input and its axes of variable length."""
    import onnx

    size = sum(weight.numel() * weight.element_size() for weight in tower.state_dict().values())
    with redirect_stdout(StringIO()):  # the exporter prints its progress
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


def encode(folder: Path, pixels: Tensor) -> Encoded:
    """Encode texts and images with ONNX Runtime: the first alone, the text without padding, then the others."""
    from onnxruntime import InferenceSession

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    ids = [text.ids for text in tokenizer.encode_batch(list(TEXTS))]
    batches: dict[str, list[Any]] = {
        IMAGE_FILE: [pixels[:1], pixels[1:]],
        TEXT_FILE: [[tokenizer.encode(TEXTS[0]).ids], ids[1:]],
    }
    features = {}
    for name, inputs in batches.items():
        session = InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        (wanted,) = session.get_inputs()
        features[name] = np.concatenate([session.run(None, {wanted.name: np.array(each)})[0] for each in inputs])
    return Encoded(ids, features[IMAGE_FILE], features[TEXT_FILE])
