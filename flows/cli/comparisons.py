"""Commands that compare models: ablate (one for each filter of a recipe), scoreboard (many models on many sets)."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from flows.cli.jobs import BuildOptions, Job, with_executor
from flows.cli.options import DEFAULT_ROOT, Json, Number, RecipeName, Root, ScoreboardOptions, Words
from flows.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    from pathlib import Path

    from flows.ablation import AblationConfig, Variant
    from flows.recipe.recipe import Recipe

_ROWS = 1000  # of each source, for what a variant would change
_PACE = 250  # samples a second of a small model on two cores: an order of magnitude


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AblateOptions(BuildOptions):
    """Options of `ablate` beside recipe and root."""

    toggles: Annotated[Words, Parameter(name="--toggle", metavar="FILTER")] = ()
    """A filter that one variant has switched the other way; may be given often."""
    lists: Annotated[bool, Parameter(name="--list")] = False
    """List what can be switched and what it is now, and end."""
    steps: Number = 0
    """Optimizer steps of every model (default: as many as the recipe's epochs have on its own dataset)."""
    seeds: Annotated[Number, Parameter(metavar="K")] = 3
    """Models of each variant; with one nobody knows what training anew would change."""
    split: Literal["val", "test"] | None = None
    """Whose images they are scored on (default: evaluate.split of the recipe)."""
    dry_run: bool = False
    """Print the variants, what they change and the cost."""


_DEFAULTS = AblateOptions()


def ablate(recipe: RecipeName, /, *, root: Root = DEFAULT_ROOT, options: AblateOptions = _DEFAULTS) -> None:
    """Say which filters of a recipe help: models with and without each, of equal training, compared.

    A filter is a switch of [clean], [check], [repeats], [duplicates] or [leaks], as check.proper_noun_check;
    `cleaning.NAME` finds the one of them that has NAME, `_check` may be left out (cleaning.proper_nouns), A+B switches
    both at once, and what is neither on nor off is given another value: check.min_words=0.

    Each variant is a dataset of its own in the same root, and none of their images is downloaded twice. All models get
    the same number of optimizer steps and are scored on the same held-out images, which none of them saw. The same
    command goes on where it was killed. The table, the record and a plot go to ROOT/ablations.

    Example:
      vernaclip ablate scenes --toggle clean.language+check.language --toggle cleaning.proper_nouns --steps 200
    """
    from data_catalog.report.ablations import FOLDER, RECORD_FILE
    from flows.ablation import AblationConfig, run_ablation, variants_of
    from flows.recipe.recipe import load_recipe
    from flows.recipe.toggles import switches, toggles_of
    from training.scores.ablation import PAGE_FILE, PLOT_FILE

    loaded = load_recipe(recipe, root=root, overrides=options.overrides)
    if options.lists:
        say_table([{"toggle": path, "now": "on" if value else "off"} for path, value in switches(loaded).items()])
        return
    toggles = toggles_of(options.toggles, loaded)
    config = AblationConfig(toggles=toggles, steps=options.steps, seeds=options.seeds, split=options.split or "")
    variants = variants_of(recipe, root=root, overrides=options.overrides, toggles=toggles)
    if options.dry_run:
        _tell_plan(loaded, variants, config, root)
        return
    job = Job(recipe=recipe, root=root, executor=options.executor, dask_address=options.dask_address)

    def do(name: str, overrides: Sequence[str]) -> Any:
        return with_executor(name, replace(job, overrides=tuple(overrides)))

    found = run_ablation(loaded, variants, config, root=root, do=do)
    say(f"\nWhich filters help: {found.dataset}, snapshot {found.snapshot}\n")
    say_table(found.rows())
    say()
    for note in found.notes():
        say(note)
    say(f"\n{root / FOLDER / found.key}: {PAGE_FILE} for the dataset's card, {RECORD_FILE}, {PLOT_FILE}")


def _tell_plan(recipe: "Recipe", variants: "Sequence[Variant]", config: "AblationConfig", root: "Path") -> None:
    from data_catalog.storage.manifest import current_snapshot
    from data_catalog.storage.shards import digest
    from flows.dry_run import dry_run
    from flows.recipe.recipe import what_settings
    from training.scores.ablation import default_steps, sizes_of
    from training.trained_models import pair_files

    say(f"\nVariants of {recipe.name}: rows of a sample of each source ({_ROWS:,} at most) that the rules drop\n")
    rows: list[dict[str, object]] = []
    dropped: list[int] = []
    num_images = 0  # of the recipe as it is, once that is built
    for variant in variants:
        judged = dry_run(variant.recipe, root=root, num_rows=_ROWS, num_examples=0)
        dropped.append(sum(rule.num_rows for rule in judged.dropped if not rule.is_mark))
        toggle, built = variant.toggle, current_snapshot(root, variant.recipe.name)
        count = None
        # A dataset of other settings is not this one.
        if built is not None and digest(built.manifest["settings"]) == digest(what_settings(variant.recipe)):
            count = sizes_of(pair_files(built))["images"]
            num_images = num_images if rows else count
        now = [str(instead).lower() for _, instead in toggle.settings.values()] if toggle else ["as the recipe has it"]
        rows.append(
            {
                "dataset": variant.recipe.name,
                "switched": toggle.label if toggle else "",
                "now": ", ".join(now),
                "dropped": dropped[-1],
                "change": dropped[-1] - dropped[0],
                "images to train on": "not built yet" if count is None else count,
            }
        )
    say_table(rows)
    say("\nOnly rules that judge captions before their translation are counted, not those on translations and images.")
    steps = config.steps or (default_steps(recipe.train, num_images) if num_images else 0)
    models = len(variants) * config.seeds
    if not steps:
        epochs = recipe.train.frozen_epochs + recipe.train.epochs
        say(
            f"{models} models, each of as many steps as {epochs} epochs of {variants[0].recipe.name}, once it is built."
        )
        return
    samples = models * steps * recipe.train.batch_size
    say(
        f"{models} models of {steps:,} steps of {recipe.train.batch_size} images: {samples:,} images through a model, "
        f"about {math.ceil(samples / _PACE / 60):,} min at {_PACE} a second."
    )


_AS_SHIPPED = ScoreboardOptions()


def scoreboard(
    recipe: str | None = None,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    options: ScoreboardOptions = _AS_SHIPPED,
    json: Json = False,
) -> None:
    r"""Score models side by side: yours, others', an English one with translated queries; on any test set.

    models, each by one KEY=VALUE:
      folder=DIR                        a model that was trained here
      open_clip=MODEL/PRETRAINED|DIR    of open_clip, such as ViT-B-32/openai, or a folder in its hub layout
      transformers=NAME|DIR             a dual encoder of Hugging Face, such as VisionTextDualEncoder
      with settings of a translation engine, such as package=it_en.argosmodel or engine=argos, texts are translated
      into English before the model is asked

    test sets, kind=KIND and its settings as in a recipe's [test_sets.NAME] (docs/scores.md), with images=DIR;
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
