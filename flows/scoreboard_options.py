"""Options and examples of `vernaclip scoreboard`."""

import argparse
from pathlib import Path

from flows.job_options import add_overrides, add_root

_EXAMPLES = """models, each by one KEY=VALUE:
  folder=DIR                        a model that was trained here
  open_clip=MODEL/PRETRAINED|DIR    of open_clip, such as ViT-B-32/openai, or a folder in its hub layout
  transformers=NAME|DIR             a dual encoder of Hugging Face, such as VisionTextDualEncoder
  with settings of a translation engine, such as package=it_en.argosmodel or engine=argos, texts are translated into
  English before the model is asked

test sets, kind=KIND and its settings as in a recipe's [test_sets.NAME] (docs/test-sets.md), with images=DIR;
  captions_by=human|machine         who made the captions, where the files do not say
  captions_in=LANG                  their language, where that is not the one that is scored; or
  kind=folders images=DIR           one folder of images a class, as ImageNet has them
  class_names=FILE.json             a list in the order of the sorted folders, or names by folder; default: of the
                                    language pack; class_names_key=NAME where the file has several
  templates=FILE.json|bare          likewise; the bare template, {c}, is scored in any case

examples:
  vernaclip scoreboard scenes --root demo-catalog
  vernaclip scoreboard italian --english open_clip=ViT-B-32/openai package=it_en.argosmodel \\
      --protocol clip-italian captions=captions_ita_devset_unvalidated.json.gz images=val2014 \\
      imagenet=imagenet/val class_names=it_classnames.json
  vernaclip scoreboard --language it --model theirs transformers=clip-italian/clip-italian \\
      --test-set xtd10 files='["XTD10/*.txt"]' images=coco

The first model, the recipe's own if there is one, is what the others are compared with. What others' models were
trained on is not known here, so their leaks cannot be told."""


def add_scoreboard_options(command: argparse.ArgumentParser) -> None:
    """Add all options, and examples that stand as they are."""
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    command.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help="whose model is scored, on the held-out images of its dataset and on its test sets",
    )
    add_root(command)
    add_overrides(command, "override a setting of the recipe; without one, of [evaluate] only; may be given often")
    command.add_argument("--language", metavar="LANG", help="of captions and class names, where no recipe is given")
    _add_contestants(command)
    _add_sets(command)
    command.add_argument(
        "--language-pack",
        action="append",
        default=[],
        dest="language_packs",
        metavar="FILE",
        help="TOML file of a language's class names, templates and codes; may be given often",
    )
    command.add_argument("--out", type=Path, metavar="FOLDER", help="where the files go (default: in the root)")


def _add_contestants(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        action="append",
        nargs="+",
        default=[],
        dest="models",
        metavar=("NAME", "KEY=VALUE"),
        help="a model to score beside the recipe's; may be given often",
    )
    command.add_argument(
        "--english",
        nargs="+",
        metavar="KEY=VALUE",
        help="an English model as two baselines: asked in the target language as it is, and in translation",
    )


def _add_sets(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--test-set",
        action="append",
        nargs="+",
        default=[],
        dest="test_sets",
        metavar=("NAME", "KEY=VALUE"),
        help="a set to score on beside the recipe's; may be given often",
    )
    command.add_argument(
        "--protocol",
        nargs="+",
        metavar=("NAME", "KEY=VALUE"),
        help="as a paper measured: clip-italian captions=FILE images=DIR imagenet=DIR class_names=FILE",
    )
    command.add_argument(
        "--no-split", action="store_true", help="leave out the dataset's own held-out images (evaluate.split)"
    )
    command.add_argument(
        "--report-anyway",
        action="store_true",
        help="where a model was trained on images of a set: score all images, and those that are left, side by side",
    )
