"""The formats that models are exported to: one entry each, from which the command and the export come.

The command line reads this table for its help: neither torch nor any library of a format is imported before its writer
is asked for.
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
        help: what is written or reads it, in a line.
        writer: returns what writes it, proves it, and tells the card how it is read.
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


# By name, which is also what the hub calls the library that reads it.
MODEL_FORMATS = {
    "open_clip": ModelFormat(
        help='open_clip\'s hub layout: open_clip.create_model_and_transforms("local-dir:FOLDER")',
        writer=_open_clip,
    ),
    "transformers": ModelFormat(
        help="VisionTextDualEncoderModel, or CLIPModel where the text tower is open_clip's own; no ResNets",
        writer=_transformers,
    ),
    "onnx": ModelFormat(
        help="image.onnx and text.onnx, for ONNX Runtime; needs, in a checkout: pip install -e '.[onnx]'",
        writer=_onnx,
    ),
}
ALL = "all"  # each of them that has an equivalent of the model's architecture
