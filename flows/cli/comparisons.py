"""The command scoreboard, which compares models."""

from flows.cli.output import say, say_json, say_table
from flows.options import DEFAULT_ROOT, Json, Root, ScoreboardConfig

_SCOREBOARD = ScoreboardConfig()


def scoreboard(
    recipe: str | None = None,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    config: ScoreboardConfig = _SCOREBOARD,
    json: Json = False,
) -> None:
    r"""Score several models side by side on test sets: your own and others'. A package translates the queries of any.

    --model DIR (a model folder), or --model NAME and one of:
      folder=DIR                      model that vernaclip trained
      open_clip=MODEL/PRETRAINED|DIR  model of open_clip, such as
                                      ViT-B-32/openai, or a folder in its
                                      hub layout
      transformers=NAME|DIR           dual encoder of Hugging Face, such as
                                      VisionTextDualEncoder

    Further settings of a translation engine, such as package=it_en.argosmodel or engine=argos, translate the texts to
    English before the model encodes them.

    --test-set NAME, kind=KIND, its settings as in [test_sets.NAME], and:
      images=DIR                      the images
      captions_by=human|machine       origin of the captions, if the files
                                      do not state it
      captions_in=LANG                their language, if it is not the one
                                      that models are scored in
      translate=true                  translate them from that language
                                      with the engine of the recipe

    --test-set NAME, kind=folders (classification), and:
      images=DIR                      one folder of images for each class,
                                      as in ImageNet
      class_names=FILE.json           names by folder, or a list in the
                                      order of the sorted folders
                                      (default: from the language pack)
      class_names_key=NAME            key of the list, if the file has several
      templates=FILE.json|bare        prompts, {c} for the class (default: from
                                      the language pack); the bare template,
                                      {c}, is always scored

    docs/scores.md describes the kinds of test sets.

    Examples:
      vernaclip scoreboard scenes --root demo-catalog
      vernaclip scoreboard italian --model english open_clip=ViT-B-32/openai package=it_en.argosmodel \
          --protocol clip-italian captions=captions_ita_devset_unvalidated.json.gz images=val2014 \
          imagenet=imagenet/val class_names=it_classnames.json
      vernaclip scoreboard --language it --model theirs transformers=clip-italian/clip-italian \
          --test-set xtd10 files='["XTD10/*.txt"]' images=coco

    All models are compared with the first one, which is the recipe's own model if a recipe is given. Leaks are checked
    only for models that vernaclip trained, as the training data of other models is unknown.

    Args:
        recipe: Score the model of this recipe, on the held-out images of its dataset and on its test sets.
    """
    from data_catalog.disk.files import read_json
    from flows.recipe.recipe import load_recipe
    from flows.scoreboard import make_scoreboard
    from training.scores.scoreboard_files import JSON_FILE

    loaded = None if recipe is None else load_recipe(recipe, root=root, overrides=config.overrides)
    folder, sections = make_scoreboard(loaded, root, config)
    if json:
        say_json({"folder": folder, **read_json(folder / JSON_FILE)})
        return
    for section in sections:
        say(f"\n{section.title}\n")
        if section.rows:
            say_table(section.rows)
        for note in section.notes:
            say(f"  {note}")
    say(f"\nFiles: {folder}")
