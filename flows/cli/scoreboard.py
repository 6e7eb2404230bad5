"""The command `scoreboard`: several models on several sets, as tables on the terminal and as files."""

import tempfile
from pathlib import Path

from flows.cli.options import DEFAULT_ROOT, Json, Root, ScoreboardOptions
from flows.cli.output import say, say_json, say_table

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
