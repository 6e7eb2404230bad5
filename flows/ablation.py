"""Ablation of a recipe: build its dataset with and without each filter, train models alike, compare their scores."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.base.errors import InputError
from data_catalog.base.settings import what_values
from data_catalog.catalog.manifest import Snapshot, current_snapshot
from data_catalog.disk.files import digest
from data_catalog.disk.lock import writer_lock
from data_catalog.report.ablations import FOLDER
from data_catalog.report.page import write_report
from flows.models import require_ready
from flows.options import AblationConfig
from flows.recipe.recipe import Recipe, load_recipe, require_sources
from flows.recipe.toggles import Toggle, toggles_of
from training.data.pairs import pair_files, split_to_score
from training.scores.ablation import (
    ROUNDS,
    Ablation,
    Filter,
    Scored,
    compare,
    default_steps,
    gallery_of,
    model_outcomes,
    sizes_of,
    write_ablation,
)
from training.scores.rows import ModelFacts
from training.towers.trained_models import pair_hashes

logger = logging.getLogger(__name__)

# Runs a job of `flows.jobs` ("build", "train" or "align") with these overrides of the recipe, and returns its report.
RunJob = Callable[[str, Sequence[str]], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The unchanged recipe, or the recipe with one toggle switched by overrides: a dataset of its own."""

    recipe: Recipe
    overrides: tuple[str, ...]
    toggle: Toggle | None


def variants_of(recipe: str, *, root: Path, overrides: Sequence[str], toggles: Sequence[str]) -> list[Variant]:
    """Return the variant with the unchanged recipe, then one variant for each toggle.

    No variant fetches images whose outcome the root knows.
    """
    base = load_recipe(recipe, root=root, overrides=overrides)
    found = []
    for toggle in (None, *toggles_of(toggles, base)):
        own = f"{base.name}-ablation" if toggle is None else f"{base.name}-ablation-{toggle.slug}"
        every = (*overrides, *(toggle.overrides if toggle else ()), f'name="{own}"')
        loaded = load_recipe(recipe, root=root, overrides=every)
        require_sources(loaded)
        found.append(Variant(recipe=loaded, overrides=every, toggle=toggle))
    return found


def run_ablation(
    recipe: Recipe, variants: Sequence[Variant], config: AblationConfig, *, root: Path, do: RunJob
) -> Ablation:
    """Build and train all variants, score them on the same queries, and write the results.

    The same call resumes after an interruption: finished datasets, steps and models are reused.
    """
    require_ready(recipe, root, split=config.split or "")
    snapshots: list[Snapshot] = [do("build", variant.overrides).snapshot for variant in variants]
    files = [pair_files(snapshot) for snapshot in snapshots]
    sizes = [sizes_of(mine) for mine in files]
    for snapshot, size in zip(snapshots, sizes, strict=True):  # all variants must train with the same batch size
        if not config.align and size["images"] < recipe.train.batch_size:
            raise InputError(
                f"{snapshot.dataset} has {size['images']:,} training images, fewer than one batch of "
                f"{recipe.train.batch_size}: set a smaller train.batch_size for all variants, or build a larger dataset"
            )
    split = split_to_score(files[0], config.split or recipe.evaluate.split)
    gallery = gallery_of(files, split, refit=config.align and recipe.align.refit)
    steps = 0 if config.align else config.steps or default_steps(recipe.train, sizes[0]["images"])
    toggles = [variant.toggle for variant in variants if variant.toggle is not None]
    what = {
        "train": recipe.train.what(),
        **({"align": what_values(recipe.align)} if config.align else {}),
        "toggles": [toggle.label for toggle in toggles],
        "steps": steps,
        "seeds": config.seeds,
        "split": split,
        "rounds": ROUNDS,
        "seed": recipe.evaluate.seed,
    }
    first = recipe.align.seed if config.align else recipe.train.seed
    seeds = tuple(range(first, first + config.seeds))
    # Content hashes of the files that decide the models of each variant: val chooses the epoch of aligned heads.
    hashes = [mine.hashes(pair_hashes(snapshot).__getitem__) for mine, snapshot in zip(files, snapshots, strict=True)]
    data = [mine["train"] + (mine["val"] if config.align else []) for mine in hashes]
    models = _trained(variants, seeds, steps, do, is_same=[mine == data[0] for mine in data])
    outcomes = {
        model: model_outcomes(model, gallery, batch_size=recipe.evaluate.batch_size)
        for model in dict.fromkeys(folder for folders in models for folder in folders)
    }
    scored = []
    for snapshot, size, mine, folders in zip(snapshots, sizes, data, models, strict=True):
        facts = ModelFacts(
            name=snapshot.dataset,
            origin=", ".join(str(model.relative_to(root)) for model in folders),
            trained_on=f"{snapshot.dataset} {snapshot.snapshot}",
            counts=size,
        )
        scored.append(Scored(facts=facts, data=mine, outcomes=[outcomes[model] for model in folders]))
    names = [variant.recipe.name for variant in variants]
    filters = [
        Filter(
            label=toggle.label,
            overrides=tuple(toggle.overrides),
            with_it=own if toggle.adds else names[0],
            without=names[0] if toggle.adds else own,
        )
        for toggle, own in zip(toggles, names[1:], strict=True)
    ]
    filters, noise, board = compare(filters, scored, gallery, seed=recipe.evaluate.seed)
    found = Ablation(
        key=digest([what, [snapshot.snapshot for snapshot in snapshots]])[:12],
        dataset=recipe.name,
        snapshot=snapshots[0].snapshot,
        steps=steps,
        batch_size=recipe.align.batch_size if config.align else recipe.train.batch_size,
        seeds=seeds,
        noise=noise,
        filters=filters,
        board=board,
    )
    with writer_lock(root):
        write_ablation(found, root / FOLDER / found.key)
        own = current_snapshot(root, found.dataset)
        if own is not None and own.snapshot == found.snapshot:
            write_report(root, own)  # the report shows the ablation
    return found


def _trained(
    variants: Sequence[Variant], seeds: Sequence[int], steps: int, do: RunJob, *, is_same: Sequence[bool]
) -> list[list[Path]]:
    """Train the models of all variants, seed by seed, and return their folders by variant and seed.

    Without steps, the frozen towers are aligned instead. Variants whose data equal the first one's have its models.
    """
    models: list[list[Path]] = [[] for _ in variants]
    for number, seed in enumerate(seeds, start=1):
        for variant, mine, same in zip(variants, models, is_same, strict=True):
            if same and mine is not models[0]:
                mine.append(models[0][-1])
                continue
            logger.info("%s: model %d of %d, seed %d", variant.recipe.name, number, len(seeds), seed)
            settings = [f"train.steps={steps}", f"train.seed={seed}"] if steps else [f"align.seed={seed}"]
            mine.append(do("train" if steps else "align", (*variant.overrides, *settings)).folder)
    return models
