"""An ablation: a recipe's dataset with and without each of some filters, models of equal training, paired scores."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow.parquet as pq

from data_catalog.ablations import FOLDER
from data_catalog.errors import ConfigError
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.manifest import Snapshot, current_snapshot
from data_catalog.storage.shards import digest
from data_catalog.storage.work import WorkStore
from flows.ablation_record import Ablation, Compared, Sizes, write_ablation
from flows.ablation_scores import Gallery, gallery_of, variant_ranks
from flows.models import pair_files
from flows.orchestration.ready import require_ready
from flows.recipe.recipe import Recipe, load_recipe
from flows.recipe.toggles import Toggle
from flows.report.page import write_report
from training.ablation import (
    METRICS,
    PRIMARY,
    SAME,
    Difference,
    SeedNoise,
    difference,
    holm,
    seed_noise,
    values_of,
    verdict,
)
from training.config import TrainConfig
from training.data import split_to_score

if TYPE_CHECKING:
    from flows.build.build import BuildReport
    from flows.models import TrainReport
    from training.ablation import Floats

logger = logging.getLogger(__name__)

ROUNDS = 10_000
# Of models that are the same ones.
NO_NOISE = dict.fromkeys(METRICS, SeedNoise(variance=0.0, degrees=0))


class Jobs(Protocol):
    """What does the jobs of an ablation, by whatever executor."""

    def build(self, overrides: Sequence[str]) -> "BuildReport":
        """Build the recipe's dataset with these overrides."""

    def train(self, overrides: Sequence[str]) -> "TrainReport":
        """Train its model with these overrides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationConfig:
    """What is compared, and how hard one looks.

    Args:
        toggles: one variant each, beside the recipe as it is.
        steps: optimizer steps of every model; 0: `train.steps`, or as many as the recipe's epochs have on its own
            dataset.
        seeds: models of each variant.
        split: whose images are the gallery; empty: the recipe's `evaluate.split`.
    """

    toggles: Sequence[Toggle]
    steps: int = 0
    seeds: int = 3
    split: str = ""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"--steps must not be negative, got {self.steps}")
        if self.seeds < 1:
            raise ConfigError(f"--seeds must be at least 1, got {self.seeds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The recipe as it is, or with one toggle switched.

    Args:
        recipe: with the variant's settings; its name is that of a dataset of its own.
        overrides: what makes it of the recipe, those of the command line included.
        toggle: None for the recipe as it is.
    """

    recipe: Recipe
    overrides: tuple[str, ...]
    toggle: Toggle | None


def variants_of(recipe: str, *, root: Path, overrides: Sequence[str], toggles: Sequence[Toggle]) -> list[Variant]:
    """The recipe as it is, then one variant a toggle; all keep what they fetch, so that none asks for it again.

    Raises:
        ConfigError: a variant's settings do not go together.
    """
    name = load_recipe(recipe, root=root, overrides=overrides).name
    found = []
    for toggle in (None, *toggles):
        own = f"{name}-ablation" if toggle is None else f"{name}-ablation-{toggle.slug}"
        more = (*(toggle.overrides if toggle else ()), f'name="{own}"', "build.keep_work=true")
        every = (*overrides, *more, "build.reuse_images=true")
        loaded = load_recipe(recipe, root=root, overrides=every)
        found.append(Variant(recipe=loaded, overrides=every, toggle=toggle))
    return found


def run_ablation(
    recipe: Recipe, variants: Sequence[Variant], config: AblationConfig, *, root: Path, jobs: Jobs
) -> Ablation:
    """Build and train all variants, or find that done, score them on the same queries, and write what came of it.

    Killed at any moment, the same call goes on: datasets, steps of datasets, models and ranks that are there stay.

    Raises:
        ConfigError: there is nothing to score on, or a variant has fewer images than a batch.
    """
    require_ready(recipe, root, split=config.split)
    snapshots = [jobs.build(variant.overrides).snapshot for variant in variants]
    _require_batches(recipe.train, snapshots)
    split = split_to_score(pair_files(snapshots[0]), config.split or recipe.evaluate.split)
    config = replace(config, split=split)
    gallery = gallery_of(snapshots, split)
    steps = config.steps or default_steps(recipe.train, sizes_of(snapshots[0]).images)
    key = digest([_what(recipe, config, steps), [snapshot.snapshot for snapshot in snapshots]])[:12]
    seeds = [recipe.train.seed + number for number in range(config.seeds)]
    hashes = [_train_hashes(snapshot) for snapshot in snapshots]
    is_same = [mine == hashes[0] for mine in hashes]
    models = _trained(variants, seeds, steps, jobs, is_same=is_same)
    ranks = [
        [variant_ranks(model, gallery, root / FOLDER / key, batch_size=recipe.evaluate.batch_size) for model in mine]
        for mine in models
    ]
    values = {metric: [values_of(each, metric) for each in ranks] for metric in METRICS}
    # Models of equal data are the same ones: a second time they say nothing of chance.
    others = [number for number, mine in enumerate(hashes) if mine not in hashes[:number]]
    noise = {metric: seed_noise([values[metric][number] for number in others]) for metric in METRICS}
    found = Ablation(
        key=key,
        dataset=recipe.name,
        snapshot=snapshots[0].snapshot,
        split=gallery.split,
        num_images=len(gallery.sample_ids),
        num_queries=len(gallery.texts),
        num_left_out=gallery.num_left_out,
        steps=steps,
        batch_size=recipe.train.batch_size,
        seeds=tuple(seeds),
        noise={metric: each.variance**0.5 for metric, each in noise.items()},
        degrees=noise[PRIMARY].degrees,
        scores={metric: [float(each.mean()) for each in values[metric]] for metric in METRICS},
        sizes=[sizes_of(snapshot) for snapshot in snapshots],
        snapshots=[f"{snapshot.dataset} {snapshot.snapshot}" for snapshot in snapshots],
        models=[[str(model.relative_to(root)) for model in mine] for mine in models],
        compared=_compared(variants, values, gallery, noise, is_same=is_same, seed=recipe.evaluate.seed),
    )
    _finish(found, snapshots, root, keep_work=recipe.build.keep_work)
    return found


def _finish(found: Ablation, snapshots: Sequence[Snapshot], root: Path, *, keep_work: bool) -> None:
    """Write what was found, show it in the report of the dataset that it is of, remove what nobody needs any more."""
    with writer_lock(root):
        write_ablation(found, root / FOLDER / found.key)
        own = current_snapshot(root, found.dataset)
        if own is not None and own.snapshot == found.snapshot:
            write_report(root, own)
        if not keep_work:  # what the variants kept for one another
            work = WorkStore(root / "work")
            for snapshot in snapshots:
                work.remove_used(snapshot.snapshot)


def default_steps(config: TrainConfig, num_images: int) -> int:
    """The recipe's own steps, or as many as its epochs have on a dataset of so many images."""
    return config.steps or (config.frozen_epochs + config.epochs) * (num_images // min(config.batch_size, num_images))


def sizes_of(snapshot: Snapshot) -> Sizes:
    """Images and captions of the train split."""
    files = snapshot.pair_files("train")
    captions = (pq.read_table(path, columns=["captions"]).column("captions") for path in files)
    lists = [len(each) for column in captions for each in column.to_pylist()]
    return Sizes(images=len(lists), captions=sum(lists))


def _what(recipe: Recipe, config: AblationConfig, steps: int) -> dict[str, Any]:
    return {
        "train": recipe.train.what(),
        "toggles": [toggle.label for toggle in config.toggles],
        "steps": steps,
        "seeds": config.seeds,
        "split": config.split,
        "rounds": ROUNDS,
        "seed": recipe.evaluate.seed,
    }


def _require_batches(config: TrainConfig, snapshots: Sequence[Snapshot]) -> None:
    """Refuse variants of which one would be trained with smaller batches than the others."""
    for snapshot in snapshots:
        images = sizes_of(snapshot).images
        if images < config.batch_size:
            raise ConfigError(
                f"{snapshot.dataset} has {images:,} images to train on, fewer than one batch of {config.batch_size}: "
                "take a smaller train.batch_size, so that all variants have equal steps, or build a larger dataset"
            )


def _train_hashes(snapshot: Snapshot) -> list[str]:
    """What a snapshot has to train on, file by file."""
    return [str(entry["sha256"]) for entry in snapshot.manifest["files"]["pairs"] if entry["split"] == "train"]


def _trained(
    variants: Sequence[Variant], seeds: Sequence[int], steps: int, jobs: Jobs, *, is_same: Sequence[bool]
) -> list[list[Path]]:
    """Folders of all models by variant and seed; one seed of all variants comes before the next.

    Args:
        is_same: of each variant whether it has the same data as the first, and so the same models.
    """
    models: list[list[Path]] = [[] for _ in variants]
    for number, seed in enumerate(seeds, start=1):
        for variant, mine, same in zip(variants, models, is_same, strict=True):
            if same and mine is not models[0]:
                mine.append(models[0][-1])
                continue
            logger.info("%s: %d steps, seed %d, %d of %d", variant.recipe.name, steps, seed, number, len(seeds))
            more = (f"train.steps={steps}", f"train.seed={seed}")
            mine.append(jobs.train((*variant.overrides, *more)).folder)
    return models


def _compared(
    variants: Sequence[Variant],
    values: "Mapping[str, list[Floats]]",
    gallery: Gallery,
    noise: Mapping[str, SeedNoise],
    *,
    is_same: Sequence[bool],
    seed: int,
) -> list[Compared]:
    """What the filters do, each beside the recipe as it is; verdicts go by the first metric, corrected for all."""
    found = [
        (
            number,
            variant.toggle,
            _differences(number, variant.toggle, values, gallery, NO_NOISE if is_same[number] else noise, seed=seed),
        )
        for number, variant in enumerate(variants)
        if variant.toggle is not None
    ]
    asked = [each for each in found if not is_same[each[0]]]
    p_values = dict.fromkeys(range(len(variants)), 1.0)
    p_values |= zip(
        (number for number, *_ in asked),
        holm([differences[PRIMARY].p_value for *_, differences in asked]),
        strict=True,
    )
    return [
        Compared(
            label=toggle.label,
            overrides=tuple(toggle.overrides),
            with_it=number if toggle.adds else 0,
            without=0 if toggle.adds else number,
            differences=differences,
            p_value=p_values[number],
            verdict=SAME
            if is_same[number]
            else verdict(differences[PRIMARY], p_values[number], noise[PRIMARY], num_images=len(gallery.sample_ids)),
        )
        for number, toggle, differences in found
    ]


def _differences(
    number: int,
    toggle: Toggle,
    values: "Mapping[str, list[Floats]]",
    gallery: Gallery,
    noise: Mapping[str, SeedNoise],
    *,
    seed: int,
) -> dict[str, Difference]:
    """With the filter less without it, by metric."""
    found = {}
    for metric, each in values.items():
        with_it, without = (each[number], each[0]) if toggle.adds else (each[0], each[number])
        clusters = gallery.clusters(METRICS[metric][0])
        found[metric] = difference(with_it, without, clusters, noise[metric], rounds=ROUNDS, seed=seed)
    return found
