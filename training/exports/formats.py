"""List the formats that models are exported to, and the settings of an export. Torch is not imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from data_catalog.base.settings import OneOf

# The line of each format in the help, by the name that the Hugging Face hub uses for its library.
MODEL_FORMATS = {
    "open_clip": "open_clip's hub layout; with a Hugging Face text encoder, by the code in the card",
    "transformers": "AutoModel: VisionTextDualEncoderModel or CLIPModel; other architectures are refused",
    "onnx": "image.onnx and text.onnx, for ONNX Runtime; first run: pip install onnx onnxruntime onnxscript",
}
ALL = "all"  # every format that has an equivalent of the model's architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExportConfig:
    """Settings of an export, and the facts that the publisher of a model states.

    The `license` is an id of the hub, "other" with a `license_name`, or "" if none is stated. The hub names are those
    of the model and of its training dataset, if they are there. `replace`: also an export of another model, or with
    other settings.
    """

    name: str
    formats: tuple[Annotated[str, OneOf((*MODEL_FORMATS, ALL))], ...]
    license: str = ""
    license_name: str = ""
    license_link: str = ""
    hub_name: str | None = None
    dataset_hub_name: str | None = None
    scoreboards: tuple[Path, ...] = ()
    replace: bool = False

    @property
    def terms(self) -> str:
        """Return the license by the name that people know it by, or ""."""
        return self.license_name or self.license
