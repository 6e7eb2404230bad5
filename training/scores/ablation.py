"""Compare models trained with and without filters, with several seeds each, paired on the same queries."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from data_catalog.base.errors import InputError
from data_catalog.disk.files import write_bytes
from data_catalog.exports.markdown import bullets, table
from data_catalog.report.ablations import AblationTable, write_ablation_record
from data_catalog.report.drawing import COLOURS, SERIES, picture_label
from training.config import TrainConfig
from training.data.features import FeatureStore
from training.data.pairs import Floats, Integers, PairFiles, read_captions, seen_in_training
from training.runs.processes import prepare_for_torch
from training.scores.encoders import open_model_folder
from training.scores.evaluation import Outcome, caption_modes, outcomes_of, score_row
from training.scores.galleries import Gallery, LeakCheck, TrainingMatch, pairs_gallery
from training.scores.metrics import METRIC_OF, RETRIEVAL, interval_of, mean_draws
from training.scores.rows import Board, ModelFacts, ScoreRow, SetFacts
from training.scores.scoreboard_files import Panel, write_panels

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

Outcomes = Mapping[str, Outcome]  # of one model, by direction


def default_steps(config: TrainConfig, num_images: int) -> int:
    """Return the recipe's own steps, or the steps that its epochs take on a dataset of `num_images`."""
    return config.steps or (config.frozen_epochs + config.epochs) * (num_images // min(config.batch_size, num_images))


def sizes_of(files: PairFiles) -> dict[str, int]:
    """Count the `images` and `captions` of the train split."""
    counts = [len(captions) for captions in read_captions(files.train)]
    return {"images": len(counts), "captions": sum(counts)}


def gallery_of(variants: Sequence[PairFiles], split: str, *, refit: bool = False) -> Gallery:
    """Return the images of a split as a gallery in which those that a variant trains on are marked.

    The first variant is the unchanged recipe, whose split it is. With `refit`, models are trained on the val splits
    too. Images are compared by id and original bytes; `duplicates.split_guard` handles those that look similar.
    """
    if refit and split == "val":
        raise InputError(
            "models would be scored on the val split, on which align.refit trains: set align.refit to false, or build "
            "a dataset with a test split"
        )
    files = variants[0].of(split)
    trained_on = [path for variant in variants for path in (*variant.train, *(variant.val if refit else ()))]
    seen = {place: TrainingMatch(why, is_sure=True) for place, why in seen_in_training(files, trained_on).items()}
    gallery = replace(pairs_gallery(split, files), guards={"variants": LeakCheck(seen=seen, ways=())})
    owners = np.array(gallery.owners, dtype=np.int64)
    is_new = ~np.isin(np.arange(len(gallery.images)), list(seen))
    num_queries = int(caption_modes(gallery, owners, is_new[owners])[CAPTIONS].sum())
    if is_new.sum() < 2 or not num_queries:
        raise InputError(
            f"the {split} split has {is_new.sum()} images that no variant is trained on, and {num_queries} captions "
            f"that belong to one of them alone: set split.{split} higher, or build a larger dataset"
        )
    return gallery


def model_outcomes(model_dir: Path, gallery: Gallery, *, batch_size: int) -> Outcomes:
    """Return the outcomes of a model in both directions: on images that no variant trains on, captions of one alone."""
    prepare_for_torch()
    store = FeatureStore(open_model_folder(model_dir, model_dir.name))
    found = [each for each in outcomes_of(store, gallery, batch_size)[0] if each.captions == CAPTIONS]
    return {each.way: each for each in found if each.images == found[-1].images}  # leak-free ones come last


def values_of(outcomes: Sequence[Outcomes], metric: str) -> Floats:
    """Return a metric's value of each query for the models of one variant, shape (seeds, queries)."""
    of_query = METRIC_OF[metric].of_query
    assert of_query is not None, "medians are not compared"
    return np.stack([of_query(each[_way(metric)].right_ranks) for each in outcomes])


def _way(metric: str) -> str:
    return metric.removesuffix(f"_{METRIC_OF[metric].name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedNoise:
    """The variance of one model's mean score, beyond the effect of a seed on all variants, pooled over them."""

    variance: float = 0.0
    degrees: int = 0  # of freedom; 0 if it is unknown, with one seed or one variant


def seed_noise(variants: Sequence[Floats]) -> SeedNoise:
    """Return the variation that neither variant nor seed explains, as in a randomised block design.

    Models with the same seed start from the same weights, which strongly affects the score after short training. So
    each seed is a block, and its effect on all variants alike is no noise in their differences. The values of each
    variant have the shape (seeds, queries), with the same seeds in the same order.
    """
    means = np.stack([values.mean(axis=1) for values in variants])
    left = means - means.mean(axis=0) - means.mean(axis=1, keepdims=True) + means.mean()
    degrees = (means.shape[0] - 1) * (means.shape[1] - 1)
    return SeedNoise(variance=float(np.square(left).sum()) / degrees if degrees else 0.0, degrees=degrees)


def estimate(
    values: Floats, clusters: Integers, noise: SeedNoise, *, models: int, rounds: int, seed: int
) -> tuple[float, float, float, float]:
    """Return the mean of scores, or of differences that are paired by query and seed, with its interval and p-value.

    The interval covers two sources of variation. For the choice of test images, whole images are resampled. For the
    choice of seeds, a Student's t with the estimated variance is added to each draw, since a bootstrap of two or three
    seeds would underestimate it. The p-value is two-sided: the chance of a mean as far from 0.

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
    """A filter with its verdict, and the variants with and without it by name."""

    label: str
    overrides: tuple[str, ...]  # `--set` overrides that switch it
    with_it: str
    without: str
    p_value: float = 1.0  # of the first metric, corrected for the number of filters
    verdict: str = SAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The outcomes of one variant's models, one for each seed. Variants with equal data have equal models."""

    facts: ModelFacts
    data: Sequence[str]
    outcomes: Sequence[Outcomes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """The result of an ablation of a dataset: verdicts, and mean scores of the variants over the seeds."""

    key: str  # hash of all that decides it
    dataset: str
    snapshot: str  # of the unchanged recipe; that of the dataset if its build had the same inputs
    steps: int  # 0 if models were aligned
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
    filters: Sequence[Filter], variants: Sequence[Scored], gallery: Gallery, *, seed: int
) -> tuple[list[Filter], dict[str, SeedNoise], Board]:
    """Return the filters with their verdicts, the variation between seeds by metric, and all scores and differences.

    Verdicts use the first metric, corrected for all filters that change a row.
    """
    forth, back = (variants[0].outcomes[0][way] for way in RETRIEVAL)
    left_out = {SEEN: len(gallery.images) - forth.gallery_size, SHARED: forth.num_dropped}
    facts = SetFacts(
        name=gallery.name,
        task="retrieval",
        num_images=forth.gallery_size,
        num_texts=back.gallery_size,
        left_out={reason: count for reason, count in left_out.items() if count},
    )
    values = {each.facts.name: {metric: values_of(each.outcomes, metric) for metric in METRICS} for each in variants}
    data = {each.facts.name: each.data for each in variants}
    others = {tuple(found): name for name, found in reversed(data.items())}.values()  # without equal models
    noise = {metric: seed_noise([values[name][metric] for name in data if name in others]) for metric in METRICS}
    rows = list[ScoreRow]()

    def add(metric: str, of_queries: Floats, spread: SeedNoise, model: str, minus: str | None = None) -> float:
        outcome, num_models = variants[0].outcomes[0][_way(metric)], 1 if minus is None else 2
        *found, p_value = estimate(of_queries, outcome.clusters, spread, models=num_models, rounds=ROUNDS, seed=seed)
        rows.append(score_row(outcome, METRIC_OF[metric], *found, model=model, test_set=facts.name, minus=minus))
        return p_value

    for name, found in values.items():
        for metric in METRICS:
            add(metric, found[metric], noise[metric], name)
    tested: dict[int, float] = {}
    for number, each in enumerate(filters):
        is_same = data[each.with_it] == data[each.without]
        for metric in METRICS:
            paired = values[each.with_it][metric] - values[each.without][metric]
            # Equal models have no random variation.
            p_value = add(metric, paired, SeedNoise() if is_same else noise[metric], each.with_it, each.without)
            if metric == PRIMARY and not is_same:
                tested[number] = p_value
    board = Board(rows=tuple(rows), models=tuple(variant.facts for variant in variants), sets=(facts,))
    judged = list(filters)
    for number, p_value in zip(tested, holm(list(tested.values())), strict=True):
        each = filters[number]
        (delta,) = board.where(metric=PRIMARY, model=each.with_it, minus=each.without).rows
        said = verdict(delta.value, p_value, noise[PRIMARY], num_images=facts.num_images)
        judged[number] = replace(each, p_value=p_value, verdict=said)
    return judged, noise, board


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
