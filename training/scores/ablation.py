"""Compare models trained with and without filters, with several seeds each, paired on the same queries."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.disk.files import digest, sha256_of, write_bytes
from data_catalog.disk.records import read_checksummed, write_checksummed
from data_catalog.exports.markdown import bullets, table
from data_catalog.report.ablations import AblationTable, write_ablation_record
from data_catalog.report.drawing import COLOURS, SERIES, write_png
from training.config import TrainConfig
from training.data.features import image_features, text_features
from training.data.pairs import Floats, Integers, PairFiles, read_captions, read_rows, row_groups, seen_in_training
from training.runs.processes import prepare_for_torch
from training.scores.evaluation import chosen_captions
from training.scores.metrics import METRIC_OF, interval_of, mean_draws
from training.scores.score import Estimate, retrieval_outcomes
from training.towers.model import WEIGHTS_FILE, load_model

logger = logging.getLogger(__name__)

# The compared metrics, by direction. Verdicts use the first one.
METRICS = ("text_to_image_MRR@10", "text_to_image_R@1", "image_to_text_R@1")
PRIMARY = METRICS[0]
CAPTIONS = "distinct"  # a caption that fits two images of the gallery would rank either first by chance
ROUNDS = 10_000
LEVEL = 0.05
FEW_IMAGES = 30
HELPS, HURTS, UNKNOWN = "helps", "hurts", "inconclusive"
SAME = "changes no training row"
_MARKERS = "osD^v"
_MAX_LINE = 34  # letters of a label before it is broken into lines
PAGE_FILE, PLOT_FILE = "ablation.md", "ablation.png"


def default_steps(config: TrainConfig, num_images: int) -> int:
    """Return the recipe's own steps, or the steps that its epochs take on a dataset of `num_images`."""
    return config.steps or (config.frozen_epochs + config.epochs) * (num_images // min(config.batch_size, num_images))


def sizes_of(files: PairFiles) -> dict[str, int]:
    """Count the `images` and `captions` of the train split."""
    counts = [len(captions) for captions in read_captions(files.train)]
    return {"images": len(counts), "captions": sum(counts)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Held-out images of the unchanged recipe that no variant was trained on, with their captions.

    Args:
        split: name of the split.
        files: pair shards of the split.
        kept: places of the gallery's images among those of the files.
        sample_ids: ids of those images.
        texts: captions that belong to only one image of the gallery.
        owners: number of the image of each caption.
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
        """Return a hash of the queries and the gallery."""
        return digest([list(self.sample_ids), list(self.texts), list(self.owners)])

    def clusters(self, metric: str) -> Integers:
        """Return the image of each query."""
        owners = np.array(self.owners, dtype=np.int64)
        return owners if metric.startswith("text_to_image") else np.unique(owners)


def gallery_of(variants: Sequence[PairFiles], split: str, *, refit: bool = False) -> Gallery:
    """Return the gallery of a split of the first variant, without images that any variant trains on.

    Images are compared by id and original bytes. `duplicates.split_guard` handles images that look similar.

    Args:
        variants: pair shards of each variant; the first one is the unchanged recipe.
        split: "val" or "test".
        refit: models are trained on the val splits too, by `align.refit`.

    Raises:
        SettingsError: models are trained on the split.
        InputError: likewise, by `align.refit`; it has fewer than two images, or no caption that belongs to one image
            only.
    """
    if split not in ("val", "test"):
        raise SettingsError(f"--split must be val or test, because models are trained on the others, got {split!r}")
    if refit and split == "val":
        raise InputError(
            "models would be scored on the val split, on which align.refit trains: set align.refit to false, or build "
            "a dataset with a test split"
        )
    files = variants[0].of(split)
    rows = [row for group in row_groups(files) for row in read_rows(group, ["sample_id", "captions"]).to_pylist()]
    trained_on = (path for variant in variants for path in (*variant.train, *(variant.val if refit else ())))
    seen = seen_in_training(files, list(trained_on))
    kept = [place for place in range(len(rows)) if place not in seen]
    if len(kept) < 2:
        raise InputError(
            f"the {split} split has {len(kept)} images that no variant is trained on, and at least two are needed. "
            f"Set split.{split} above 0, or build a larger dataset"
        )
    captions = [list(rows[place]["captions"]) for place in kept]
    pairs = [(text, number) for number, texts in enumerate(captions) for text in texts]
    chosen = chosen_captions(captions, CAPTIONS)
    queries = [query for query, is_chosen in zip(pairs, chosen, strict=True) if is_chosen]
    if not queries:
        raise InputError(f"every caption of the {split} split belongs to several images: build a larger dataset")
    return Gallery(
        split=split,
        files=files,
        kept=tuple(kept),
        sample_ids=tuple(rows[place]["sample_id"] for place in kept),
        texts=tuple(text for text, _ in queries),
        owners=tuple(owner for _, owner in queries),
        num_left_out=len(seen),
    )


def model_ranks(model_dir: Path, gallery: Gallery, folder: Path, *, batch_size: int) -> dict[str, Integers]:
    """Return the ranks of a model by direction, one per query. Use cached ranks if there are any."""
    key = digest([sha256_of(model_dir / WEIGHTS_FILE), gallery.identity])
    path = folder / "ranks" / f"{key[:16]}.json"
    if not path.is_file():
        prepare_for_torch()
        model = load_model(model_dir)
        images = image_features(model, gallery.files, batch_size=batch_size)[list(gallery.kept)]
        texts = text_features(model, gallery.texts, batch_size=batch_size)
        outcomes = retrieval_outcomes(images, texts, np.array(gallery.owners, dtype=np.int64), captions=CAPTIONS)
        write_checksummed(path, {outcome.way: outcome.ranks.tolist() for outcome in outcomes})
        logger.info("scored %s on %d images", model_dir, len(gallery.kept))
    cached = read_checksummed(path, remedy="remove it, and the model is scored again")
    return {way: np.array(ranks, dtype=np.int64) for way, ranks in cached.items()}


def values_of(ranks: Sequence[Mapping[str, Integers]], metric: str) -> Floats:
    """Return a metric's value of each query for the models of one variant, shape (seeds, queries)."""
    way = metric.removesuffix(f"_{METRIC_OF[metric].name}")
    return np.stack([METRIC_OF[metric].of_query(each[way]) for each in ranks])


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference(Estimate):
    """A paired difference and its p-value: the chance of one as large if there is no difference.

    Args:
        p_value: two-sided p-value.
    """

    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedNoise:
    """The random variation of a model's mean score, beyond the effect of a seed on all variants.

    Args:
        variance: variance of one model's mean, pooled over all variants.
        degrees: degrees of freedom. 0 with one seed or one variant, where the variance is unknown.
    """

    variance: float
    degrees: int


def seed_noise(variants: Sequence[Floats]) -> SeedNoise:
    """Return the variation that neither variant nor seed explains, as in a randomised block design.

    Models with the same seed start from the same weights, which strongly affects the score after short training. So
    each seed is a block. Its effect on all variants alike is not noise in their differences.

    Args:
        variants: values of each variant, shape (seeds, queries), with the same seeds in the same order.
    """
    means = np.stack([values.mean(axis=1) for values in variants])
    left = means - means.mean(axis=0) - means.mean(axis=1, keepdims=True) + means.mean()
    degrees = (means.shape[0] - 1) * (means.shape[1] - 1)
    return SeedNoise(variance=float(np.square(left).sum()) / degrees if degrees else 0.0, degrees=degrees)


def difference(
    with_it: Floats, without: Floats, clusters: Integers, noise: SeedNoise, *, rounds: int, seed: int
) -> PairedDifference:
    """Return the mean of `with_it` minus the mean of `without`, paired by query and by seed.

    The interval covers two sources of variation. For the choice of test images, whole images are resampled, since the
    captions of one image are not independent. For the choice of seeds, a Student's t with the estimated variance is
    added to each draw, since a bootstrap of two or three seeds would underestimate it.

    Args:
        with_it: values, shape (seeds, queries).
        without: values, shape (seeds, queries), of the same seeds and queries.
        clusters: image of each query, shape (queries,).
        noise: variation between seeds. It is ignored if it is unknown.
        rounds: number of draws.
        seed: seed of the draws.
    """
    paired = with_it - without
    draws = mean_draws(paired.mean(axis=0), clusters, rounds=rounds, seed=seed)
    if noise.degrees:
        scale = np.sqrt(noise.variance * 2 / len(paired))
        draws = draws + scale * np.random.default_rng([seed, 1]).standard_t(noise.degrees, rounds)
    low, high = interval_of(draws)
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return PairedDifference(
        value=float(paired.mean()),
        low=low,
        high=high,
        p_value=min(1.0, 2 * (tail + 1) / (rounds + 1)),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for multiple tests with Holm's step-down method (https://www.jstor.org/stable/4615733)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(found: PairedDifference, p_value: float, noise: SeedNoise, *, num_images: int) -> str:
    """Return the verdict on a filter. With one seed it is always unknown, since retraining may change the result.

    Args:
        found: the difference.
        p_value: p-value corrected for the number of filters.
        noise: variation between seeds.
        num_images: number of test images. With fewer than `FEW_IMAGES`, a bootstrap is wrong too often.
    """
    if num_images < FEW_IMAGES or not noise.degrees or p_value >= LEVEL or found.value == 0:
        return UNKNOWN
    return HELPS if found.value > 0 else HURTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """The settings that switch a filter, and the variants with and without it.

    Args:
        label: name of the filter in tables.
        overrides: settings that switch it, in the format of `--set`.
        with_it: number of the variant that has the filter; 0 is the unchanged recipe.
        without: number of the variant that lacks it.
    """

    label: str
    overrides: tuple[str, ...]
    with_it: int
    without: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared(Filter):
    """The measured effect of a filter.

    Args:
        differences: score with the filter minus score without it, by metric.
        p_value: p-value of the first metric, corrected for the number of filters.
        verdict: the verdict on the filter.
    """

    differences: Mapping[str, PairedDifference]
    p_value: float
    verdict: str


def noise_of(values: Mapping[str, Sequence[Floats]], data: Sequence[Any]) -> dict[str, SeedNoise]:
    """Return the variation between seeds for each metric.

    Args:
        values: values of each variant by metric, shape (seeds, queries).
        data: training data of each variant. Variants with equal data have equal models, so only the first of them
            counts.
    """
    others = [number for number, mine in enumerate(data) if mine not in data[:number]]
    return {metric: seed_noise([found[number] for number in others]) for metric, found in values.items()}


def compare(
    filters: Sequence[Filter],
    values: Mapping[str, Sequence[Floats]],
    gallery: Gallery,
    noise: Mapping[str, SeedNoise],
    *,
    data: Sequence[Any],
    seed: int,
) -> list[Compared]:
    """Compare each filter with the unchanged recipe. Verdicts use the first metric, corrected for all filters.

    Args:
        filters: the filters.
        values: values of each variant by metric, shape (seeds, queries).
        gallery: images and captions that the models were scored on.
        noise: variation between seeds, by metric.
        data: training data of each variant.
        seed: seed of the bootstrap.
    """
    compared: list[Compared] = []
    for each in filters:
        is_same = data[each.with_it] == data[each.without]
        # Equal models have no random variation.
        chance = dict.fromkeys(noise, SeedNoise(variance=0.0, degrees=0)) if is_same else noise
        differences = {
            metric: difference(
                of[each.with_it],
                of[each.without],
                gallery.clusters(metric),
                chance[metric],
                rounds=ROUNDS,
                seed=seed,
            )
            for metric, of in values.items()
        }
        said = SAME if is_same else UNKNOWN
        compared.append(Compared(**asdict(each), differences=differences, p_value=1.0, verdict=said))
    tested = [number for number, each in enumerate(compared) if each.verdict != SAME]
    corrected = holm([compared[number].differences[PRIMARY].p_value for number in tested])
    for number, p_value in zip(tested, corrected, strict=True):
        found = compared[number].differences[PRIMARY]
        said = verdict(found, p_value, noise[PRIMARY], num_images=len(gallery.sample_ids))
        compared[number] = replace(compared[number], p_value=p_value, verdict=said)
    return compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """The result of an ablation.

    Args:
        key: hash of all that decides the result.
        dataset: name of the dataset.
        snapshot: snapshot of the unchanged recipe. The dataset of that name has the same one if its build had the same
            inputs.
        split: split whose images were scored.
        num_images: images in the gallery.
        num_queries: captions that were queries.
        num_left_out: images of the split that some variant was trained on.
        steps: optimizer steps of each model; 0 if they were aligned.
        batch_size: images per step.
        seeds: seeds of the models of each variant.
        noise: standard deviation of one model's score, beyond the effect of its seed on all variants, by metric.
        degrees: degrees of freedom of `noise`.
        scores: mean score of each variant over the seeds, by metric.
        sizes: images and captions that each variant's models were trained on.
        snapshots: dataset and snapshot of each variant, the unchanged recipe first.
        models: model folders of each variant by seed, relative to the root.
        compared: effect of each filter.
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
    sizes: Sequence[Mapping[str, int]]
    snapshots: Sequence[str]
    models: Sequence[Sequence[str]]
    compared: Sequence[Compared]

    def rows(self) -> list[dict[str, str]]:
        """Return one table row per filter."""
        rows = []
        for each in self.compared:
            with_it, without = self.sizes[each.with_it], self.sizes[each.without]
            scores = self.scores[PRIMARY]
            row = {
                "filter": each.label,
                "images to train on": f"{with_it['images']:,} ({with_it['images'] - without['images']:+,})",
                "captions": f"{with_it['captions']:,} ({with_it['captions'] - without['captions']:+,})",
                "with": f"{scores[each.with_it]:.3f}",
                "without": f"{scores[each.without]:.3f}",
            }
            for metric, found in each.differences.items():
                row[_short(metric)] = f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
            row["p"] = f"{each.p_value:.2g}" if each.p_value >= 0.001 else "< 0.001"
            rows.append({**row, "verdict": each.verdict})
        return rows

    def notes(self) -> list[str]:
        """Return sentences that explain the measurements and the columns."""
        left_out = f", without {self.num_left_out:,} that a variant was trained on" if self.num_left_out else ""
        count = len(self.seeds)
        made = (
            f"Each model was trained for {self.steps:,} optimizer steps of {self.batch_size} images, regardless of the "
            "number of images"
            if self.steps
            else "Each model is the recipe's frozen towers, aligned up to the epoch with the best validation MRR@10"
        )
        notes = [
            f"{made}, with {count} seed{'s' if count > 1 else ''} per variant.",
            f"All models were scored on the same {self.num_images:,} images of the {self.split} split{left_out}, with "
            f"{self.num_queries:,} captions that each belong to one of them.",
            f'"with" and "without" are {_short(PRIMARY)}. The next columns are differences, with the filter minus '
            "without it, and their uncorrected 95 % intervals. Numbers in brackets: the change by the filter.",
        ]
        if self.num_images < FEW_IMAGES:
            notes.append(
                f"There are no verdicts with fewer than {FEW_IMAGES} test images: their intervals are too short."
            )
        if count > 1 and not self.degrees:
            return notes  # no filter changes a row
        if count > 1:
            return [
                *notes,
                "Intervals cover the choice of test images and of seeds. Models with the same seed start from the same "
                "weights and are compared with each other. The remaining random variation of one model's score is "
                f"{self.noise[PRIMARY]:.3f} (standard deviation, {self.degrees} degrees of freedom).",
                f"p and verdict: {_short(PRIMARY)}, corrected with Holm's method for all filters that change a row.",
            ]
        return [
            *notes,
            "With one seed it is unknown how much retraining would change these numbers. The intervals cover only the "
            "choice of test images, and no filter gets the verdict that it helps or hurts. Use --seeds 3.",
        ]


def _short(metric: str) -> str:
    return metric.replace("_", " ", 3)


def write_ablation(found: Ablation, folder: Path) -> None:
    """Write the plot, the Markdown page and, last, the JSON record of an ablation into a folder."""
    rows, notes = found.rows(), found.notes()
    shown = AblationTable(key=found.key, columns=list(rows[0]), rows=[list(row.values()) for row in rows], notes=notes)
    title = f"# Which filters help: {found.dataset}, snapshot {found.snapshot}"
    plot = f"![Differences and their intervals]({PLOT_FILE})"
    page = "\n\n".join([title, table(shown.columns, shown.rows), bullets(notes), plot])
    write_bytes(folder / PAGE_FILE, f"{page}\n".encode())
    labels = [each.label for each in found.compared]
    series = {_short(metric): [each.differences[metric] for each in found.compared] for metric in METRICS}
    write_forest_plot(labels, series, folder / PLOT_FILE)
    write_ablation_record(folder, asdict(found), shown)


def write_forest_plot(labels: Sequence[str], series: Mapping[str, Sequence[Estimate]], path: Path) -> None:
    """Draw differences with their intervals as a PNG, one row each, with a line at zero.

    Args:
        labels: row labels from the top, at least one.
        series: one difference per row, by the name of the metric.
        path: the PNG file.
    """
    # Break long labels between the settings that they name.
    broken = [label.replace(" + ", " +\n") if len(label) > _MAX_LINE else label for label in labels]

    def draw(figure: Any) -> None:
        what = "with the filter minus without it, 95 % interval (right of 0: better with it)"
        axes = figure.add_subplot(xlabel=what)
        axes.axvline(0, color=COLOURS["soft"], linewidth=1)
        gap = 0.7 / len(series)
        for number, (name, found) in enumerate(series.items()):
            heights = [row + (number - (len(series) - 1) / 2) * gap for row in range(len(labels))]
            values = [each.value for each in found]
            # If the draws hardly vary, a value may be outside of their interval.
            sides = [
                [max(0.0, each.value - each.low) for each in found],
                [max(0.0, each.high - each.value) for each in found],
            ]
            axes.errorbar(
                values,
                heights,
                xerr=sides,
                fmt=_MARKERS[number % len(_MARKERS)],
                color=COLOURS[SERIES[number]],
                label=name,
                markersize=5,
                capsize=3,
                linewidth=1.4,
            )
        axes.set_yticks(range(len(labels)), broken)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.grid(axis="x", color=COLOURS["line"], linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(*axes.get_legend_handles_labels(), frameon=False, ncols=len(series), loc="outside upper center")

    write_png(path, draw, size=(8, 1.6 + 0.75 * len(labels)))
