"""What `vernaclip search`, `classify` and `localize` take on the command line."""

import argparse
from pathlib import Path

from flows.job_options import add_root

SEARCH_EPILOG = """examples:
  vernaclip search "due cerchi rossi" --root demo-catalog
  vernaclip search "due cerchi rossi" --root demo-catalog --split test --top 5
  vernaclip search "un cane sulla spiaggia" --images ~/Pictures --root demo-catalog --json hits.json
  vernaclip search "un cane sulla spiaggia" --images ~/Pictures --model my-model --json -

The features of a folder's images are kept in it, in .vernaclip, or below the root where it cannot be written to; only
files that have changed are encoded again."""

CLASSIFY_EPILOG = """examples:
  vernaclip classify photo.jpg "un gatto" "un cane" "un cavallo" --root demo-catalog
  vernaclip classify photo.jpg --classes animals.txt --template "una foto di {c}" --root demo-catalog

Probabilities compare the given texts with each other only: one of them comes out on top even where none fits. Models
that were trained with the SigLIP loss judge each text by itself."""

LOCALIZE_EPILOG = """example:
  vernaclip localize photo.jpg "un gatto" --root demo-catalog

Squares of the image are covered one after the other, and each is shown alone. Where the cosine of image and text falls
most without a part, and rises most by it alone, there the text is. Something is hottest even where the text is not in
the image at all."""


def add_search_options(command: argparse.ArgumentParser) -> None:
    """What to look for, in which images, and where the result goes."""
    _add_epilog(command, SEARCH_EPILOG)
    command.add_argument("text", metavar="TEXT", help="in the language of the model")
    command.add_argument("--images", type=Path, metavar="FOLDER", help="search image files instead of a dataset")
    _add_model(command)
    command.add_argument(
        "--split", choices=("train", "val", "test"), help="only the images of one split of the dataset"
    )
    command.add_argument("--top", type=int, default=12, metavar="N", help="how many images (default: 12)")
    _add_results(command, "contact sheet")


def add_classify_options(command: argparse.ArgumentParser) -> None:
    """Which image, which texts, and where the result goes."""
    _add_epilog(command, CLASSIFY_EPILOG)
    command.add_argument("image", type=Path, metavar="IMAGE")
    command.add_argument("texts", nargs="*", metavar="TEXT", help="two or more, in the language of the model")
    command.add_argument("--classes", type=Path, metavar="FILE", help="more texts, one a line")
    command.add_argument(
        "--template", default="{c}", metavar="TEXT", help='what is made of each text, such as "una foto di {c}"'
    )
    _add_model(command)
    _add_results(command, "picture with bars")


def add_localize_options(command: argparse.ArgumentParser) -> None:
    """Which image, what to find in it, and where the result goes."""
    _add_epilog(command, LOCALIZE_EPILOG)
    command.add_argument("image", type=Path, metavar="IMAGE")
    command.add_argument("text", metavar="TEXT", help="in the language of the model")
    command.add_argument(
        "--method",
        choices=("both", "cover", "reveal"),
        default="both",
        help="cover squares, reveal them alone, or both (the default)",
    )
    _add_model(command)
    _add_results(command, "heat map")


def _add_epilog(command: argparse.ArgumentParser, text: str) -> None:
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, text


def _add_model(command: argparse.ArgumentParser) -> None:
    add_root(command)
    command.add_argument("--dataset", metavar="NAME", help="which dataset's model, where the root holds several")
    command.add_argument("--model", type=Path, metavar="FOLDER", help="a model's folder, instead of one of the root")


def _add_results(command: argparse.ArgumentParser, picture: str) -> None:
    command.add_argument(
        "--out",
        type=Path,
        metavar="FILE.png",
        help=f"where the {picture} goes (default: searches/ in the root; with --model, the working folder)",
    )
    command.add_argument("--json", metavar="FILE", help="the result as JSON; - for standard output, and nothing else")
