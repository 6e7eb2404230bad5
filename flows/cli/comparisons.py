"""The commands ablate, which measures the filters of a recipe, and scoreboard, which compares models."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from data_catalog.base.errors import SettingsError
from flows.cli.jobs import BuildOptions, Request, with_executor
from flows.cli.output import say, say_json, say_table
from flows.options import DEFAULT_ROOT, AblationConfig, Json, RecipeName, Root, ScoreboardConfig

if TYPE_CHECKING:
    from flows.ablation import Variant
    from flows.recipe.recipe import Recipe

_ROWS = 1000  # sampled from each source to estimate what a variant changes
_ABLATION, _BUILD, _SCOREBOARD = AblationConfig(), BuildOptions(), ScoreboardConfig()


def ablate(
    recipe: RecipeName,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    config: AblationConfig = _ABLATION,
    options: BuildOptions = _BUILD,
    lists: Annotated[bool, Parameter(name="--list")] = False,
    dry_run: bool = False,
) -> None:
    """Measure which filters of a recipe help, by training and comparing models with and without each filter.

    A filter is an on/off setting of [clean], [check], [repeats], [duplicates] or [leaks], such as
    check.proper_noun_check. Write cleaning.NAME to search all these sections; `_check` may be left out
    (cleaning.proper_nouns). A+B switches two filters in one variant. Give other settings a new value:
    check.min_words=0.

    Each variant is a dataset of its own in the same root, and no image is fetched twice. All models are trained for
    the same number of optimizer steps, or aligned, and scored on the same held-out images, which none of them was
    trained on. After an interruption, run the same command again to resume. The table, the record and a plot are
    written to ROOT/ablations.

    Example:
      vernaclip ablate scenes --toggle clean.language+check.language --toggle cleaning.proper_nouns --steps 200

    Args:
        lists: List all filters with their current values, and exit.
        dry_run: Print the variants, their effects and the cost, and train nothing.
    """
    from data_catalog.report.ablations import FOLDER, RECORD_FILE
    from flows.ablation import run_ablation, variants_of
    from flows.recipe.recipe import load_recipe
    from flows.recipe.settings import OPTIONS, checked
    from flows.recipe.toggles import switches
    from training.scores.ablation import PAGE_FILE, PLOT_FILE

    loaded = load_recipe(recipe, root=root, overrides=options.overrides)
    if lists:
        say_table([{"toggle": path, "now": "on" if value else "off"} for path, value in switches(loaded).items()])
        return
    config = checked(config, OPTIONS)
    if config.align and config.steps:
        raise SettingsError("--steps is for models that are trained: --align has align.epochs instead")
    variants = variants_of(recipe, root=root, overrides=options.overrides, toggles=config.toggles)
    if dry_run:
        _print_plan(loaded, variants, config, root)
        return
    request = Request(recipe=recipe, root=root, executor=options.executor, dask_address=options.dask_address)

    def do(name: str, overrides: Sequence[str]) -> Any:
        return with_executor(name, replace(request, overrides=tuple(overrides)))

    found = run_ablation(loaded, variants, config, root=root, do=do)
    say(f"\nWhich filters help: {found.dataset}, snapshot {found.snapshot}\n")
    say_table(found.rows())
    say("\n".join(["", *found.notes()]))
    say(f"\n{root / FOLDER / found.key}: {PAGE_FILE} for the dataset's card, {RECORD_FILE}, {PLOT_FILE}")


def _print_plan(recipe: "Recipe", variants: "Sequence[Variant]", config: AblationConfig, root: Path) -> None:
    """Print the variants, how many sampled rows each drops, and the cost of training."""
    from data_catalog.catalog.manifest import current_snapshot
    from data_catalog.disk.files import digest
    from flows.dry_run import dry_run
    from flows.recipe.recipe import what_settings
    from training.data.pairs import pair_files
    from training.scores.ablation import default_steps, sizes_of

    say(f"\nVariants of {recipe.name}: rows that the rules drop in a sample of each source (at most {_ROWS:,} rows)\n")
    rows: list[dict[str, Any]] = []
    for variant in variants:
        judged = dry_run(variant.recipe, root=root, num_rows=_ROWS, num_examples=0)
        dropped = sum(rule.num_rows for rule in judged.dropped if not rule.is_mark)
        toggle, built = variant.toggle, current_snapshot(root, variant.recipe.name)
        # An existing dataset counts only if it was built with the same settings.
        is_built = built is not None and digest(built.manifest["settings"]) == digest(what_settings(variant.recipe))
        now = [str(instead).lower() for _, instead in toggle.settings.values()] if toggle else ["unchanged recipe"]
        rows.append(
            {
                "dataset": variant.recipe.name,
                "switched": toggle.label if toggle else "",
                "now": ", ".join(now),
                "dropped": dropped,
                "change": dropped - (rows[0]["dropped"] if rows else dropped),
                "images to train on": sizes_of(pair_files(built))["images"] if built and is_built else "not built yet",
            }
        )
    say_table(rows)
    say("\nOnly rules that check captions before translation are counted, not those for translations and images.")
    num_models, num_images = len(variants) * config.seeds, rows[0]["images to train on"]
    steps = config.steps or (default_steps(recipe.train, num_images) if isinstance(num_images, int) else None)
    if config.align:
        say(f"{num_models} models are aligned. The features of each image and caption are computed once.")
    elif steps is None:
        epochs, name = recipe.train.frozen_epochs + recipe.train.epochs, rows[0]["dataset"]
        say(f"{num_models} models, each trained for the steps of {epochs} epochs of {name}, when built.")
    else:
        say(f"{num_models} models, {steps:,} steps each with {recipe.train.batch_size} images a batch.")


def scoreboard(
    recipe: str | None = None,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    config: ScoreboardConfig = _SCOREBOARD,
    json: Json = False,
) -> None:
    r"""Score several models side by side on test sets: your own, others', and an English one with translated queries.

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
      vernaclip scoreboard italian --english open_clip=ViT-B-32/openai package=it_en.argosmodel \
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
