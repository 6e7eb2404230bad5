"""Compare models trained with and without filters, with several seeds each, paired on the same queries."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.base.errors import DamagedError, InputError
from data_catalog.disk.files import digest, sha256_of, write_bytes
from data_catalog.disk.records import read_checksummed, write_checksummed
from data_catalog.exports.markdown import bullets, table
from data_catalog.report.ablations import AblationTable, write_ablation_record
from data_catalog.report.drawing import COLOURS, SERIES, picture_label
from training.config import TrainConfig
from training.data.features import FeatureStore
from training.data.pairs import Floats, Integers, PairFiles, read_captions, row_groups, seen_in_training
from training.runs.processes import prepare_for_torch
from training.scores.encoders import open_model_folder
from training.scores.evaluation import chosen_captions, outcomes_of
from training.scores.galleries import Gallery, pairs_gallery
from training.scores.metrics import METRIC_OF, interval_of, mean_draws
from training.scores.rows import ALL, LEAK_FREE, Board, ModelFacts, ScoreRow, SetFacts
from training.scores.scoreboard_files import Panel, write_panels
from training.towers.model import WEIGHTS_FILE

logger = logging.getLogger(__name__)

# The compared metrics, by direction. Verdicts use the first one.
METRICS = ("text_to_image_MRR@10", "text_to_image_R@1", "image_to_text_R@1")
PRIMARY = METRICS[0]
CAPTIONS = "distinct"  # a caption that fits two images of the gallery would rank either first by chance
SEEN, SHARED = "images that a variant was trained on", "captions of these, or that belong to several images"
ROUNDS = 10_000
LEVEL = 0.05
FEW_IMAGES = 30
HELPS, HURTS, UNKNOWN = "helps", "hurts", "inconclusive"
SAME = "changes no training row"
PAGE_FILE, PLOT_FILE = "ablation.md", "ablation.png"


def default_steps(config: TrainConfig, num_images: int) -> int:
    """Return the recipe's own steps, or the steps that its epochs take on a dataset of `num_images`."""
    return config.steps or (config.frozen_epochs + config.epochs) * (num_images // min(config.batch_size, num_images))


def sizes_of(files: PairFiles) -> dict[str, int]:
    """Count the `images` and `captions` of the train split."""
    counts = [len(captions) for captions in read_captions(files.train)]
    return {"images": len(counts), "captions": sum(counts)}


def gallery_of(variants: Sequence[PairFiles], split: str, *, refit: bool = False) -> tuple[Gallery, SetFacts]:
    """Return the images of a split that no variant trains on, with the captions that belong to only one of them.

    Images are compared by id and original bytes. `duplicates.split_guard` handles images that look similar.

    Args:
        variants: pair shards of each variant; the first one is the unchanged recipe, whose split it is.
        refit: models are trained on the val splits too, by `align.refit`.
    """
    if refit and split == "val":
        raise InputError(
            "models would be scored on the val split, on which align.refit trains: set align.refit to false, or build "
            "a dataset with a test split"
        )
    files = variants[0].of(split)
    trained_on = (path for variant in variants for path in (*variant.train, *(variant.val if refit else ())))
    seen = seen_in_training(files, list(trained_on))
    num_images = sum(group.num_rows for group in row_groups(files)) - len(seen)
    if num_images < 2:
        raise InputError(
            f"the {split} split has {num_images} images that no variant is trained on, and at least two are needed. "
            f"Set split.{split} above 0, or build a larger dataset"
        )
    whole = pairs_gallery(split, files)
    owners = np.array(whole.owners, dtype=np.int64)
    kept = np.setdiff1d(np.arange(len(whole.images)), list(seen))
    of_kept = np.flatnonzero(np.isin(owners, kept))
    chosen = chosen_captions([whole.captions[each] for each in of_kept.tolist()], owners[of_kept], CAPTIONS)
    queries = of_kept[chosen].tolist()
    if not queries:
        raise InputError(f"every caption of the {split} split belongs to several images: build a larger dataset")
    gallery = replace(
        whole,
        images=[whole.images[place] for place in kept.tolist()],
        captions=[whole.captions[each] for each in queries],
        owners=np.searchsorted(kept, owners[queries]).tolist(),
        made_by=[whole.made_by[each] for each in queries],
    )
    left_out = {SEEN: len(seen), SHARED: len(owners) - len(queries)}
    facts = SetFacts(
        name=split,
        task="retrieval",
        num_images=len(kept),
        num_texts=len(queries),
        left_out={reason: count for reason, count in left_out.items() if count},
    )
    return gallery, facts


def model_ranks(model_dir: Path, gallery: Gallery, folder: Path, *, batch_size: int) -> dict[str, Integers]:
    """Return the ranks of a model by direction, one per query. Use cached ranks if there are any."""
    identity = digest([list(gallery.images), list(gallery.captions), list(gallery.owners)])
    key = digest([sha256_of(model_dir / WEIGHTS_FILE), identity])
    path = folder / "ranks" / f"{key[:16]}.json"
    if not path.is_file():
        prepare_for_torch()
        store = FeatureStore(open_model_folder(model_dir, model_dir.name))
        outcomes, there = outcomes_of(store, gallery, batch_size)
        if missing := len(gallery.images) - len(there):
            raise DamagedError(f"{missing:,} images of {gallery.name} do not decode: run `vernaclip verify`")
        write_checksummed(path, {found.way: found.ranks.tolist() for found in outcomes if found.captions == ALL})
        logger.info("scored %s on %d images", model_dir, len(gallery.images))
    cached = read_checksummed(path, remedy="remove it, and the model is scored again")
    return {way: np.array(ranks, dtype=np.int64) for way, ranks in cached.items()}


def values_of(ranks: Sequence[Mapping[str, Integers]], metric: str) -> Floats:
    """Return a metric's value of each query for the models of one variant, shape (seeds, queries)."""
    way = metric.removesuffix(f"_{METRIC_OF[metric].name}")
    return np.stack([METRIC_OF[metric].of_query(each[way]) for each in ranks])


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedNoise:
    """The variance of one model's mean score, beyond the effect of a seed on all variants, pooled over them.

    With one seed or one variant it is unknown, and has 0 degrees of freedom.
    """

    variance: float = 0.0
    degrees: int = 0


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


def estimate(
    values: Floats, clusters: Integers, noise: SeedNoise, *, models: int, rounds: int, seed: int
) -> tuple[float, float, float, float]:
    """Return the mean of scores, or of differences that are paired by query and seed, with its interval and p-value.

    The interval covers two sources of variation. For the choice of test images, whole images are resampled, since the
    captions of one image are not independent. For the choice of seeds, a Student's t with the estimated variance is
    added to each draw, since a bootstrap of two or three seeds would underestimate it. The p-value is two-sided: the
    chance of a mean as far from 0.

    Values have the shape (seeds, queries), clusters name the image of each query. A difference is of two `models`.
    """
    draws = mean_draws(values.mean(axis=0), clusters, rounds=rounds, seed=seed)
    if noise.degrees:
        scale = np.sqrt(noise.variance * models / len(values))
        draws = draws + scale * np.random.default_rng([seed, 1]).standard_t(noise.degrees, rounds)
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return float(values.mean()), *interval_of(draws), min(1.0, 2 * (tail + 1) / (rounds + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for multiple tests with Holm's step-down method (https://www.jstor.org/stable/4615733)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(value: float, p_value: float, noise: SeedNoise, *, num_images: int) -> str:
    """Return the verdict on a filter, given the difference and its corrected p-value.

    With one seed it is unknown, since retraining may change the result; with fewer than `FEW_IMAGES` test images, too,
    since a bootstrap is then wrong too often.
    """
    if num_images < FEW_IMAGES or not noise.degrees or p_value >= LEVEL or value == 0:
        return UNKNOWN
    return HELPS if value > 0 else HURTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A filter: the `--set` overrides that switch it, the variants with and without it by name, and the verdict.

    The p-value is that of the first metric, corrected for the number of filters.
    """

    label: str
    overrides: tuple[str, ...]
    with_it: str
    without: str
    p_value: float = 1.0
    verdict: str = SAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The scored models of one variant.

    Variants with equal data have equal models. Values are those of each query by metric, shape (seeds, queries).
    """

    facts: ModelFacts
    data: Sequence[str]
    values: Mapping[str, Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """The result of an ablation of a dataset: verdicts, and mean scores of the variants over the seeds.

    The key is a hash of all that decides it. The snapshot is that of the unchanged recipe; the dataset of that name has
    the same one if its build had the same inputs. `steps` is 0 if models were aligned.
    """

    key: str
    dataset: str
    snapshot: str
    steps: int
    batch_size: int
    seeds: tuple[int, ...]
    noise: Mapping[str, SeedNoise]
    filters: Sequence[Filter]
    board: Board

    def rows(self) -> list[dict[str, str]]:
        """Return one table row per filter."""
        counts = {model.name: model.counts for model in self.board.models}
        rows = []
        for each in self.filters:
            with_it, without = counts[each.with_it], counts[each.without]
            row = {
                "filter": each.label,
                "images to train on": f"{with_it['images']:,} ({with_it['images'] - without['images']:+,})",
                "captions": f"{with_it['captions']:,} ({with_it['captions'] - without['captions']:+,})",
                "with": f"{self.board.get(PRIMARY, CAPTIONS, model=each.with_it).value:.3f}",
                "without": f"{self.board.get(PRIMARY, CAPTIONS, model=each.without).value:.3f}",
            }
            for found in self.differences(each):
                row[_short(found.metric)] = f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
            row["p"] = f"{each.p_value:.2g}" if each.p_value >= 0.001 else "< 0.001"
            rows.append({**row, "verdict": each.verdict})
        return rows

    def differences(self, filter: Filter) -> tuple[ScoreRow, ...]:
        """Return the scores with a filter minus those without it, in the order of `METRICS`."""
        return self.board.where(model=filter.with_it, minus=filter.without).rows

    def notes(self) -> list[str]:
        """Return sentences that explain the measurements and the columns."""
        (facts,), count = self.board.sets, len(self.seeds)
        num_seen = facts.left_out.get(SEEN)
        left_out = f", without {num_seen:,} that a variant was trained on" if num_seen else ""
        made = (
            f"Each model was trained for {self.steps:,} optimizer steps of {self.batch_size} images, regardless of the "
            "number of images"
            if self.steps
            else "Each model is the recipe's frozen towers, aligned up to the epoch with the best validation MRR@10"
        )
        notes = [
            f"{made}, with {count} seed{'s' if count > 1 else ''} per variant.",
            f"All models were scored on the same {facts.num_images:,} images of the {facts.name} split{left_out}, with "
            f"{facts.num_texts:,} captions that each belong to one of them.",
            f'"with" and "without" are {_short(PRIMARY)}. The next columns are differences, with the filter minus '
            "without it, and their uncorrected 95 % intervals. Numbers in brackets: the change by the filter.",
        ]
        if facts.num_images < FEW_IMAGES:
            notes.append(
                f"There are no verdicts with fewer than {FEW_IMAGES} test images: their intervals are too short."
            )
        noise = self.noise[PRIMARY]
        if noise.degrees:
            notes += [
                "Intervals cover the choice of test images and of seeds. Models with the same seed start from the same "
                "weights and are compared with each other. The remaining random variation of one model's score is "
                f"{noise.variance**0.5:.3f} (standard deviation, {noise.degrees} degrees of freedom).",
                f"p and verdict: {_short(PRIMARY)}, corrected with Holm's method for all filters that change a row.",
            ]
        elif count == 1:
            notes.append(
                "With one seed it is unknown how much retraining would change these numbers. The intervals cover only "
                "the choice of test images, and no filter gets the verdict that it helps or hurts. Use --seeds 3."
            )
        return notes


def _short(metric: str) -> str:
    return metric.replace("_", " ", 3)


def compare(
    filters: Sequence[Filter], variants: Sequence[Scored], gallery: Gallery, facts: SetFacts, *, seed: int
) -> tuple[list[Filter], dict[str, SeedNoise], Board]:
    """Return the filters with their verdicts, the variation between seeds by metric, and all scores and differences.

    Verdicts use the first metric, corrected for all filters that change a row.
    """
    data = [variant.data for variant in variants]
    others = [variant for number, variant in enumerate(variants) if variant.data not in data[:number]]
    noise = {metric: seed_noise([variant.values[metric] for variant in others]) for metric in METRICS}
    rows, by_name = list[ScoreRow](), {variant.facts.name: variant for variant in variants}
    queries = {metric: _queries(metric, gallery, facts) for metric in METRICS}

    def add(metric: str, values: Floats, noise: SeedNoise, model: str, minus: str | None = None) -> float:
        clusters, same = queries[metric]
        models, same = (1, same) if minus is None else (2, {**same, "chance": 0.0})
        value, low, high, p_value = estimate(values, clusters, noise, models=models, rounds=ROUNDS, seed=seed)
        rows.append(ScoreRow(**same, model=model, minus=minus, value=value, low=low, high=high))
        return p_value

    for name, variant in by_name.items():
        for metric in METRICS:
            add(metric, variant.values[metric], noise[metric], name)
    tested: dict[int, float] = {}
    for number, each in enumerate(filters):
        with_it, without = by_name[each.with_it], by_name[each.without]
        is_same = with_it.data == without.data
        for metric in METRICS:
            paired = with_it.values[metric] - without.values[metric]
            # Equal models have no random variation.
            p_value = add(metric, paired, SeedNoise() if is_same else noise[metric], each.with_it, each.without)
            if metric == PRIMARY and not is_same:
                tested[number] = p_value
    board = Board(rows=tuple(rows), models=tuple(variant.facts for variant in variants), sets=(facts,))
    found = list(filters)
    for number, p_value in zip(tested, holm(list(tested.values())), strict=True):
        each = filters[number]
        (delta,) = board.where(metric=PRIMARY, model=each.with_it, minus=each.without).rows
        said = verdict(delta.value, p_value, noise[PRIMARY], num_images=facts.num_images)
        found[number] = replace(each, p_value=p_value, verdict=said)
    return found, noise, board


def _queries(metric: str, gallery: Gallery, facts: SetFacts) -> tuple[Integers, dict[str, Any]]:
    """Return the image of each query of a metric, and what is the same in all of its rows."""
    clusters, size, left_out = np.array(gallery.owners, dtype=np.int64), facts.num_images, facts.left_out.get(SHARED, 0)
    num_right = np.ones_like(clusters)
    if metric.startswith("image_to_text"):
        clusters, num_right = np.unique(clusters, return_counts=True)
        size, left_out = facts.num_texts, facts.num_images - len(clusters)
    return clusters, {
        "test_set": facts.name,
        "metric": metric,
        "captions": CAPTIONS,
        "images": LEAK_FREE if SEEN in facts.left_out else ALL,
        "chance": METRIC_OF[metric].chance(gallery_size=size, num_right=num_right),
        "gallery": size,
        "queries": len(clusters),
        "left_out": left_out,
    }


def write_ablation(found: Ablation, folder: Path) -> None:
    """Write the plot, the Markdown page and, last, the JSON record of an ablation into a folder."""
    rows, notes = found.rows(), found.notes()
    shown = AblationTable(key=found.key, columns=list(rows[0]), rows=[list(row.values()) for row in rows], notes=notes)
    title = f"# Which filters help: {found.dataset}, snapshot {found.snapshot}"
    plot = f"![Differences and their intervals]({PLOT_FILE})"
    page = "\n\n".join([title, table(shown.columns, shown.rows), bullets(notes), plot])
    write_bytes(folder / PAGE_FILE, f"{page}\n".encode())
    panels: list[Panel] = []
    for number, metric in enumerate(METRICS):
        colour = COLOURS[SERIES[number]]
        lines = [(picture_label(each.label), colour, found.differences(each)[number]) for each in found.filters]
        panels.append((f"{_short(metric)}: with the filter minus without it", lines))
    write_panels(panels, folder / PLOT_FILE)
    record = asdict(found)
    write_ablation_record(folder, {**record.pop("board"), **record}, shown)
