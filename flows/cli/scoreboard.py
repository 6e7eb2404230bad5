"""The command `scoreboard`: several models on several sets, as tables on the terminal and as files."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.options import DEFAULT_ROOT, Groups, Json, KeyValues, LanguagePacks, Overrides, Root
from flows.cli.output import say, say_json, say_table


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ScoreboardOptions:
    """Options of `scoreboard` beside recipe and root."""

    overrides: Overrides = ()
    """Override a setting of the recipe; without one, of [evaluate] only; may be given often."""
    language: str | None = None
    """Of captions and class names, where no recipe is given."""
    models: Annotated[Groups, Parameter(name="--model")] = ()
    """A model to score beside the recipe's; may be given often."""
    english: KeyValues | None = None
    """An English model as two baselines: asked in the target language as it is, and in translation."""
    test_sets: Annotated[Groups, Parameter(name="--test-set")] = ()
    """A set to score on beside the recipe's; may be given often."""
    protocol: Annotated[KeyValues | None, Parameter(metavar="NAME KEY=VALUE...")] = None
    """As a paper measured: clip-italian captions=FILE images=DIR imagenet=DIR class_names=FILE."""
    no_split: bool = False
    """Leave out the dataset's own held-out images (evaluate.split)."""
    report_anyway: bool = False
    """Where a model was trained on images of a set: score all images, and those that are left, side by side."""
    language_packs: LanguagePacks = ()
    """TOML file of a language's class names, templates and codes; may be given often."""
    out: Annotated[Path | None, Parameter(metavar="FOLDER")] = None
    """Where the files go (default: in the root)."""


_DEFAULTS = ScoreboardOptions()


def scoreboard(
    recipe: str | None = None,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    options: ScoreboardOptions = _DEFAULTS,
    json: Json = False,
) -> None:
    r"""Score models side by side: yours, others', an English one with translated queries; on any test set.

    models, each by one KEY=VALUE:
      folder=DIR                        a model that was trained here
      open_clip=MODEL/PRETRAINED|DIR    of open_clip, such as ViT-B-32/openai, or a folder in its hub layout
      transformers=NAME|DIR             a dual encoder of Hugging Face, such as VisionTextDualEncoder
      with settings of a translation engine, such as package=it_en.argosmodel or engine=argos, texts are translated
      into English before the model is asked

    test sets, kind=KIND and its settings as in a recipe's [test_sets.NAME] (docs/test-sets.md), with images=DIR;
      captions_by=human|machine         who made the captions, where the files do not say
      captions_in=LANG                  their language, where that is not the one that is scored
      translate=true                    translate them from that language with the recipe's engine; or
      kind=folders images=DIR           one folder of images a class, as ImageNet has them
      class_names=FILE.json             a list in the order of the sorted folders, or names by folder; default: of
                                        the language pack; class_names_key=NAME where the file has several
      templates=FILE.json|bare          likewise; the bare template, {c}, is scored in any case

    Examples:
      vernaclip scoreboard scenes --root demo-catalog
      vernaclip scoreboard italian --english open_clip=ViT-B-32/openai package=it_en.argosmodel \
          --protocol clip-italian captions=captions_ita_devset_unvalidated.json.gz images=val2014 \
          imagenet=imagenet/val class_names=it_classnames.json
      vernaclip scoreboard --language it --model theirs transformers=clip-italian/clip-italian \
          --test-set xtd10 files='["XTD10/*.txt"]' images=coco

    The first model, the recipe's own if there is one, is what the others are compared with. What others' models were
    trained on is not known here, so their leaks cannot be told.

    Args:
        recipe: Whose model is scored, on the held-out images of its dataset and on its test sets.
    """
    from data_catalog.storage.shards import read_json
    from flows.recipe.recipe import load_recipe
    from flows.scoreboard import make_scoreboard
    from training.scores.scoreboard_files import JSON_FILE

    loaded = None if recipe is None else load_recipe(recipe, root=root, overrides=options.overrides)
    with tempfile.TemporaryDirectory(prefix="vernaclip-") as cache:
        folder, sections = make_scoreboard(loaded, root, options, Path(cache))
    if json:
        say_json({"folder": folder, **read_json(folder / JSON_FILE)})
        return
    for section in sections:
        say(f"\n{section.title}\n")
        if section.rows:
            say_table(section.rows)
        for note in section.notes:
            say(f"  {note}")
    say(f"\nAs files: {folder}")
