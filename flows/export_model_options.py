"""What `vernaclip export-model` takes on the command line."""

import argparse
from pathlib import Path

from flows.job_options import add_root

EPILOG = """formats:
  open_clip     open_clip's hub layout: open_clip.create_model_and_transforms("local-dir:FOLDER")
  transformers  VisionTextDualEncoderModel, or CLIPModel where the text tower is open_clip's own; no ResNets
  onnx          image.onnx and text.onnx, for ONNX Runtime; needs, in a checkout: pip install -e '.[onnx]'
  all           each of them that has an equivalent of the model's architecture

Each is read back by the library that it is for, and must score as the model does, or nothing is written. README.md in
it is a model card: data, settings, scores, limits, time and energy. docs/export-models.md has more.

examples:
  vernaclip export-model scenes --root demo-catalog --format open_clip --out scenes-clip
  vernaclip export-model italian --format all --out clip-it --license cc-by-4.0
  vernaclip export-model italian --format open_clip --out clip-it-hub --hub-name somebody/clip-it
  vernaclip export-model --model catalog/models/italian/0123456789ab --format onnx --out clip-it-onnx
"""


def add_export_model_options(command: argparse.ArgumentParser) -> None:
    """Add the options of an export of a model."""
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    command.add_argument(
        "dataset",
        nargs="?",
        metavar="RECIPE_OR_DATASET",
        help="whose newest model: the name of a dataset, or of its recipe, or the recipe's TOML file",
    )
    add_root(command)
    command.add_argument(
        "--model",
        type=Path,
        metavar="FOLDER",
        help="a trained model's own folder instead; the card then cannot say what it was trained on",
    )
    command.add_argument(
        "--format",
        action="append",
        required=True,
        dest="formats",
        choices=("open_clip", "transformers", "onnx", "all"),
        help="may be given several times; several formats go into folders of these names in FOLDER",
    )
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where it goes")
    command.add_argument(
        "--force",
        action="store_true",
        help="replace an earlier export of a model that FOLDER holds, with whatever was added to it since",
    )
    _add_card_options(command)


def _add_card_options(command: argparse.ArgumentParser) -> None:
    """What the model card says, and under which name the export goes to a hub."""
    command.add_argument(
        "--license",
        default="",
        dest="licence",
        metavar="NAME",
        help="licence that the model card states, as the hub spells it, such as cc-by-4.0 (default: none); other: one "
        "that the hub has no word for",
    )
    command.add_argument(
        "--license-name", default="", dest="licence_name", metavar="NAME", help="of --license other: what it is called"
    )
    command.add_argument(
        "--license-link",
        default="",
        dest="licence_link",
        metavar="URL",
        help="of --license other: where its text is, or LICENSE for a file of that name that you add to the export",
    )
    command.add_argument(
        "--scores",
        action="append",
        default=[],
        type=Path,
        metavar="scoreboard.json",
        help="what `vernaclip scoreboard` wrote: its scores of this model go into the card, beside those of "
        "`vernaclip evaluate`; may be given often",
    )
    command.add_argument(
        "--hub-name",
        metavar="OWNER/NAME",
        help="name under which it goes to the Hugging Face hub; open_clip's config of a Hugging Face text encoder then "
        "names it, not FOLDER",
    )
    command.add_argument(
        "--dataset-hub-name",
        metavar="OWNER/NAME",
        help="name of the dataset on the hub, if you published it: the card then links it",
    )
