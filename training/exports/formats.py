"""List the formats that models are exported to, and the settings of an export. Torch is not imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Format = Literal["open_clip", "transformers", "onnx", "all"]
Precision = Literal["fp16", "int8"]
# The line of each format in the help, by the name that the Hugging Face hub uses for its library.
MODEL_FORMATS: dict[str, str] = {
    "open_clip": "open_clip's hub layout; with a Hugging Face text encoder, by the code in the card",
    "transformers": "AutoModel: VisionTextDualEncoderModel or CLIPModel; other architectures are refused",
    "onnx": "image.onnx and text.onnx, for ONNX Runtime; first run: pip install onnx onnxruntime onnxscript",
}
ALL = "all"  # of MODEL_FORMATS every one that has an equivalent of the model's architecture


@dataclass(frozen=True, kw_only=True)
class ModelExportConfig:
    """Settings of an export, and the facts that the publisher of a model states."""

    formats: tuple[Format, ...]
    """Format of the export; see the list above. Repeatable: each format then goes into its own subfolder of FOLDER."""
    name: str = ""
    """Name of the model in its card (default: its dataset and key)."""
    replace: bool = False
    """Replace an earlier export of a model in FOLDER, including files that were added to it."""
    license: str = ""
    """License for the model card by its identifier on the hub, such as cc-by-4.0, or other."""
    license_name: str = ""
    """With --license other: name of the license."""
    license_link: str = ""
    """With --license other: URL of its text, or LICENSE for a file of that name that you add to the export."""
    scoreboards: tuple[Path, ...] = ()
    """Add this model's scores from a scoreboard.json of `vernaclip scoreboard` to the card. Repeatable."""
    hub_name: str | None = None
    """Name of the model on the hub, to which open_clip's config refers."""
    dataset_hub_name: str | None = None
    """Name of the published dataset on the hub, to which the card then links."""

    @property
    def terms(self) -> str:
        """Return the license by the name that people know it by, or ""."""
        return self.license_name or self.license


@dataclass(frozen=True, kw_only=True)
class SiteConfig:
    """Settings of a site."""

    title: str = ""
    """Title of the page (default: the name of the dataset or folder)."""
    credits: str = ""
    """Who made the collection, for the foot of the page."""
    languages: tuple[str, ...] = ()
    """Language that the model reads, such as it (default: what it learned). Repeatable."""
    interface: tuple[Literal["en", "de", "it", "el", "ca"], ...] = ()
    """Language of the page's own texts (default: all, by the reader's browser). Repeatable."""
    precision: Precision = "fp16"
    """Weights of the text tower. int8 is half as large; images that match about equally then change places."""
    pixels: Literal["licensed", "noncommercial", "all"] = "licensed"
    """Images of a dataset to include: with a free license, also with one that forbids commercial use, or all."""
    allowed: tuple[str, ...] = ()
    """Include the images of this source, which you have the right to redistribute. Repeatable."""
