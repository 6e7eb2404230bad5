"""An ablation: a recipe's dataset with and without each of some filters, models of equal training, paired scores."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow.parquet as pq

from data_catalog.ablations import FOLDER, AblationTable, write_ablation_record
from data_catalog.errors import ConfigError
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.manifest import SPLITS, Snapshot, current_snapshot
from data_catalog.storage.shards import digest, sha256_of, write_bytes
from flows.jobs import require_ready
from flows.recipe.recipe import Recipe, load_recipe
from flows.recipe.toggles import Toggle
from flows.report.page import write_report
from training.ablation import (
    FEW_IMAGES,
    METRICS,
    PRIMARY,
    SAME,
    TEXT_TO_IMAGE,
    Difference,
    SeedNoise,
    difference,
    holm,
    ranks_of,
    seed_noise,
    values_of,
    verdict,
)
from training.config import TrainConfig
from training.data import split_to_score
from training.evaluation import chosen_captions
from training.forest_plot import write_forest_plot
from training.trained_models import pair_files

if TYPE_CHECKING:
    import numpy as np

    Integers = np.ndarray[Any, np.dtype[np.int64]]
    from flows.jobs import BuildReport, TrainReport
    from training.ablation import Floats

logger = logging.getLogger(__name__)

PAGE_FILE, PLOT_FILE = "ablation.md", "ablation.png"
SHORT = {
    "text_to_image_MRR@10": "text to image MRR@10",
    "text_to_image_R@1": "text to image R@1",
    "image_to_text_R@1": "image to text R@1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Images and captions that a variant's models were trained on."""

    images: int
    captions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One filter.

    Args:
        overrides: what switches it, as `--set` takes it.
        with_it: number of the variant that has the filter; 0 is the recipe as it is.
        without: of the one that lacks it.
        differences: with it less without it, by metric.
        p_value: of the first metric, corrected for the number of filters.
    """

    label: str
    overrides: tuple[str, ...]
    with_it: int
    without: int
    differences: Mapping[str, Difference]
    p_value: float
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """All that was found.

    Args:
        snapshot: of the recipe as it is; the dataset of that name has the same one if it was built from the same.
        num_left_out: images of the split that some variant was trained on.
        noise: standard deviation of one model's score, beside what its seed does to all variants, by metric.
        degrees: of freedom of that.
        scores: mean over the seeds, by metric, of each variant.
        snapshots: dataset and snapshot of each variant, the recipe as it is first.
        models: folders below the root, of each variant by seed.
    """

    key: str
    dataset: str
    snapshot: str
    split: str
    num_images: int
    num_queries: int
    num_left_out: int
    steps: int
    batch_size: int
    seeds: tuple[int, ...]
    noise: Mapping[str, float]
    degrees: int
    scores: Mapping[str, Sequence[float]]
    sizes: Sequence[Sizes]
    snapshots: Sequence[str]
    models: Sequence[Sequence[str]]
    compared: Sequence[Compared]

    def rows(self) -> list[dict[str, str]]:
        """One row a filter, for a table."""
        return [self._row(each) for each in self.compared]

    def _row(self, each: Compared) -> dict[str, str]:
        with_it, without = self.sizes[each.with_it], self.sizes[each.without]
        scores = self.scores[PRIMARY]
        row = {
            "filter": each.label,
            "images to train on": f"{with_it.images:,} ({with_it.images - without.images:+,})",
            "captions": f"{with_it.captions:,} ({with_it.captions - without.captions:+,})",
            "with": f"{scores[each.with_it]:.3f}",
            "without": f"{scores[each.without]:.3f}",
        }
        for metric, found in each.differences.items():
            row[SHORT[metric]] = f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
        return {**row, "p": f"{each.p_value:.2g}" if each.p_value >= 0.001 else "< 0.001", "verdict": each.verdict}

    def notes(self) -> list[str]:
        """What the numbers were measured on and what the columns mean, one sentence or two each."""
        left_out = f", without {self.num_left_out:,} that a variant was trained on" if self.num_left_out else ""
        count = len(self.seeds)
        notes = [
            f"Each model: {self.steps:,} optimizer steps of {self.batch_size} images, whatever the number of images; "
            f"{count} seed{'s' if count > 1 else ''} of each variant.",
            f"Scored on the same {self.num_images:,} images of the {self.split} split{left_out}, and "
            f"{self.num_queries:,} captions that belong to one of them.",
            f'"with" and "without" are {SHORT[PRIMARY]}; then come differences, with the filter less without it, and '
            "their 95 % intervals, not corrected. Numbers in brackets: what the filter changes.",
        ]
        if self.num_images < FEW_IMAGES:
            notes.append(f"Of fewer than {FEW_IMAGES} test images nothing is said: intervals of so few are too short.")
        if count > 1 and not self.degrees:
            return notes  # no filter changes a row
        if count > 1:
            return [
                *notes,
                "Intervals hold the choice of test images and of seeds. Models of one seed start from the same weights "
                "and are compared with one another; what is left of chance moves one model's score by "
                f"{self.noise[PRIMARY]:.3f} (standard deviation, {self.degrees} degrees of freedom).",
                f"p and verdict: {SHORT[PRIMARY]}, corrected by Holm's method for all filters that change a row.",
            ]
        return [
            *notes,
            "With one seed nobody knows how far training anew would move these numbers: the intervals hold the choice "
            "of test images alone, and no filter is said to help or to hurt. Take --seeds 3.",
        ]

    def page(self) -> str:
        """The table in Markdown, with what it was measured on."""
        rows = self.rows()
        heads = list(rows[0])
        lines = [heads, ["---" for _ in heads], *([row[head] for head in heads] for row in rows)]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        notes = "\n".join(f"- {note}" for note in self.notes())
        title = f"# Which filters help: {self.dataset}, snapshot {self.snapshot}"
        return f"{title}\n\n{table}\n\n{notes}\n\n![Differences and their intervals]({PLOT_FILE})\n"


def write_ablation(found: Ablation, folder: Path) -> None:
    """Write the record, the page and the plot into a folder; the record comes last."""
    page = found.page()
    write_bytes(folder / PAGE_FILE, page.encode())
    labels = [each.label for each in found.compared]
    series = {SHORT[metric]: [each.differences[metric] for each in found.compared] for metric in METRICS}
    write_forest_plot(labels, series, folder / PLOT_FILE)
    rows = found.rows()
    table = AblationTable(
        key=found.key, columns=list(rows[0]), rows=[list(row.values()) for row in rows], notes=found.notes()
    )
    write_ablation_record(folder, asdict(found), table)


CAPTIONS = "distinct"  # a caption that fits two images of the gallery finds either by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Held-out images of the recipe as it is, none of which a variant was trained on, and their captions.

    Args:
        files: pair shards of the split.
        kept: places of the gallery's images among those of the files.
        sample_ids: of these.
        texts: captions that belong to one image of the gallery only.
        owners: the image of each.
        num_left_out: images of the split that some variant was trained on.
    """

    split: str
    files: tuple[Path, ...]
    kept: tuple[int, ...]
    sample_ids: tuple[str, ...]
    texts: tuple[str, ...]
    owners: tuple[int, ...]
    num_left_out: int

    @property
    def identity(self) -> str:
        """Hash of the queries and of the images that are asked for."""
        return digest([list(self.sample_ids), list(self.texts), list(self.owners)])

    def clusters(self, way: str) -> "Integers":
        """The image of each query."""
        import numpy as np

        owners = np.array(self.owners, dtype=np.int64)
        return owners if way == TEXT_TO_IMAGE else np.unique(owners)


def gallery_of(snapshots: Sequence[Snapshot], split: str) -> Gallery:
    """The queries of a split of the first snapshot, without images that any of them has to train on.

    Images are told by identity and by the bytes that came; those that look alike are `duplicates.split_guard`'s.

    Raises:
        ConfigError: there is no such split, or it is empty, or one that is trained on.
    """
    if split not in SPLITS or split == "train":
        raise ConfigError(f"--split must be val or test, which no model is trained on, got {split!r}")
    files = snapshots[0].pair_files(split)
    rows = [row for path in files for row in _rows(path, ["sample_id", "sha256", "captions"])]
    ids, hashes = _trained_on(snapshots)
    kept = [place for place, row in enumerate(rows) if row["sample_id"] not in ids and row["sha256"] not in hashes]
    if len(kept) < 2:
        raise ConfigError(
            f"the {split} split has {len(kept)} images that no variant is trained on, and two at least are needed to "
            f"tell one from another: set split.{split} above 0, or build a larger dataset"
        )
    captions = [list(rows[place]["captions"]) for place in kept]
    chosen = chosen_captions(captions, CAPTIONS)
    told = [(text, number) for number, texts in enumerate(captions) for text in texts]
    queries = [query for query, is_chosen in zip(told, chosen, strict=True) if is_chosen]
    if not queries:
        raise ConfigError(f"no caption of the {split} split belongs to one image only: build a larger dataset")
    return Gallery(
        split=split,
        files=files,
        kept=tuple(kept),
        sample_ids=tuple(rows[place]["sample_id"] for place in kept),
        texts=tuple(text for text, _ in queries),
        owners=tuple(owner for _, owner in queries),
        num_left_out=len(rows) - len(kept),
    )


def _trained_on(snapshots: Sequence[Snapshot]) -> tuple[set[str], set[str]]:
    """Identities and hashes of all images that the train splits have."""
    rows = [
        row
        for snapshot in snapshots
        for path in snapshot.pair_files("train")
        for row in _rows(path, ["sample_id", "sha256"])
    ]
    return {row["sample_id"] for row in rows}, {row["sha256"] for row in rows}


def _rows(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path, columns=columns).to_pylist()
    return rows


def variant_ranks(model_dir: Path, gallery: Gallery, folder: Path, *, batch_size: int) -> "dict[str, Integers]":
    """Ranks of one model, by direction, from the disk if they are there."""
    import numpy as np

    from training.model import WEIGHTS_FILE

    key = digest([sha256_of(model_dir / WEIGHTS_FILE), gallery.identity])
    path = folder / "ranks" / f"{key[:16]}.json"
    if not path.is_file():
        found = _ranks(model_dir, gallery, batch_size=batch_size)
        write_checksummed(path, {way: ranks.tolist() for way, ranks in found.items()})
        logger.info("scored %s on %d images", model_dir, len(gallery.kept))
    told = read_checksummed(path, remedy="remove it, and the model is scored again")
    return {way: np.array(ranks, dtype=np.int64) for way, ranks in told.items()}


def _ranks(model_dir: Path, gallery: Gallery, *, batch_size: int) -> "dict[str, Integers]":
    import numpy as np

    from training.features import image_features, text_features
    from training.model import load_model
    from training.threads import let_threads_sleep

    let_threads_sleep()
    model = load_model(model_dir)
    images = image_features(model, gallery.files, batch_size=batch_size)[list(gallery.kept)]
    texts = text_features(model, gallery.texts, batch_size=batch_size)
    return ranks_of(images, texts, np.array(gallery.owners, dtype=np.int64))


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
    """The recipe as it is, then one variant a toggle; none asks the web for an image whose outcome the root knows.

    Raises:
        ConfigError: a variant's settings do not go together.
    """
    name = load_recipe(recipe, root=root, overrides=overrides).name
    found = []
    for toggle in (None, *toggles):
        own = f"{name}-ablation" if toggle is None else f"{name}-ablation-{toggle.slug}"
        more = (*(toggle.overrides if toggle else ()), f'name="{own}"')
        every = (*overrides, *more)
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
    _finish(found, root)
    return found


def _finish(found: Ablation, root: Path) -> None:
    """Write what was found, and show it in the report of the dataset that it is of."""
    with writer_lock(root):
        write_ablation(found, root / FOLDER / found.key)
        own = current_snapshot(root, found.dataset)
        if own is not None and own.snapshot == found.snapshot:
            write_report(root, own)


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
