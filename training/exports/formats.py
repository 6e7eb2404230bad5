"""List the formats that models are exported to, for the export command and its help.

Neither torch nor the library of a format is imported before its writer is requested.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.exports.trained_folder import ModelWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFormat:
    """A format that models are exported to.

    Args:
        help: what the format contains or which library reads it, in one line.
        writer: returns the object that writes and checks exports in this format.
    """

    help: str
    writer: Callable[[], "ModelWriter"]


def _open_clip() -> "ModelWriter":
    from training.exports.open_clip_hub import WRITER

    return WRITER


def _transformers() -> "ModelWriter":
    from training.exports.hugging_face import WRITER

    return WRITER


def _onnx() -> "ModelWriter":
    from training.exports.onnx_graphs import WRITER

    return WRITER


# By the name that the Hugging Face hub uses for the library.
MODEL_FORMATS = {
    "open_clip": ModelFormat(
        help="open_clip's hub layout; with a Hugging Face text encoder, the card has the code that opens the folder",
        writer=_open_clip,
    ),
    "transformers": ModelFormat(
        help="AutoModel: VisionTextDualEncoderModel or CLIPModel; models that are neither, with trust_remote_code=True",
        writer=_transformers,
    ),
    "onnx": ModelFormat(
        help="image.onnx and text.onnx, for ONNX Runtime; first run: pip install onnx onnxruntime onnxscript",
        writer=_onnx,
    ),
}
ALL = "all"  # every format that has an equivalent of the model's architecture
