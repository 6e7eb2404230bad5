"""The command `ablate`: whether a recipe's filters help, each switched alone, by models of equal training."""

import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.ablations import FOLDER, RECORD_FILE
from data_catalog.storage.manifest import Snapshot, current_snapshot
from data_catalog.storage.shards import digest
from flows.ablation import (
    PAGE_FILE,
    PLOT_FILE,
    Ablation,
    AblationConfig,
    Variant,
    default_steps,
    run_ablation,
    sizes_of,
    variants_of,
)
from flows.commands.jobs_executor import with_executor
from flows.commands.output import say
from flows.dry_run import DryRun, dry_run
from flows.recipe.recipe import Recipe, load_recipe, what_settings
from flows.recipe.toggles import switches, toggles_of
from flows.tables import plain_table

_ROWS = 1000  # of each source, for what a variant would change
_PACE = 250  # samples a second of a small model on two cores: an order of magnitude


def ablate(options: Namespace) -> None:
    """Compare a recipe with and without filters, or say what there is to compare, or what it would take."""
    recipe = load_recipe(options.recipe, root=options.root, overrides=options.overrides)
    if options.list:
        say(
            plain_table([{"toggle": path, "now": "on" if value else "off"} for path, value in switches(recipe).items()])
        )
        return
    config = AblationConfig(
        toggles=toggles_of(options.toggles, recipe), steps=options.steps, seeds=options.seeds, split=options.split
    )
    variants = variants_of(options.recipe, root=options.root, overrides=options.overrides, toggles=config.toggles)
    if options.dry_run:
        _tell_plan(recipe, variants, config, options)
        return
    found = run_ablation(recipe, variants, config, root=options.root, jobs=_CommandJobs(options))
    _tell(found, options)


@dataclass(frozen=True, slots=True)
class _CommandJobs:
    """The jobs, by the executor that the command line names."""

    options: Namespace

    def build(self, overrides: Sequence[str]) -> Any:
        return self._do("build", overrides)

    def train(self, overrides: Sequence[str]) -> Any:
        return self._do("train", overrides)

    def _do(self, job: str, overrides: Sequence[str]) -> Any:
        given = {**vars(self.options), "overrides": list(overrides), "retry_failed": False}
        return with_executor(job, Namespace(**given))


def _tell(found: Ablation, options: Namespace) -> None:
    folder = options.root / FOLDER / found.key
    say(f"\nWhich filters help: {found.dataset}, snapshot {found.snapshot}\n")
    say(plain_table(found.rows()))
    say()
    for note in found.notes():
        say(note)
    say(f"\n{folder}: {PAGE_FILE} for the dataset's card, {RECORD_FILE}, {PLOT_FILE}")


def _tell_plan(recipe: Recipe, variants: Sequence[Variant], config: AblationConfig, options: Namespace) -> None:
    say(f"\nVariants of {recipe.name}: rows of a sample of each source ({_ROWS:,} at most) that the rules drop\n")
    judged = [dry_run(variant.recipe, root=options.root, num_rows=_ROWS, num_examples=0) for variant in variants]
    dropped = [_num_dropped(found) for found in judged]
    built = [_built(variant.recipe, options.root) for variant in variants]
    say(
        plain_table(
            [
                {
                    "dataset": variant.recipe.name,
                    "switched": variant.toggle.label if variant.toggle else "",
                    "now": _now(variant),
                    "dropped": count,
                    "change": count - dropped[0],
                    "images to train on": sizes_of(there).images if there else "not built yet",
                }
                for variant, count, there in zip(variants, dropped, built, strict=True)
            ]
        )
    )
    say("\nOnly rules that judge captions before their translation are counted, not those on translations and images.")
    steps = config.steps or (default_steps(recipe.train, sizes_of(built[0]).images) if built[0] else 0)
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


def _built(recipe: Recipe, root: Path) -> Snapshot | None:
    """The dataset of these settings; None where there is none, or one of others."""
    found = current_snapshot(root, recipe.name)
    is_of_these = found is not None and digest(found.manifest["settings"]) == digest(what_settings(recipe))
    return found if is_of_these else None


def _now(variant: Variant) -> str:
    if variant.toggle is None:
        return "as the recipe has it"
    return ", ".join(str(instead).lower() for _, instead in variant.toggle.settings.values())


def _num_dropped(found: DryRun) -> int:
    return sum(rule.num_rows for rule in found.dropped if not rule.is_mark)
