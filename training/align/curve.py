"""Score aligned heads against the number of training pairs, and say where the curve leads."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.disk.files import write_json
from data_catalog.report.drawing import COLOURS, write_png
from training.align.align import fit_heads, opened_towers
from training.align.heads import FeaturePairs, Heads
from training.config import AlignConfig, EvaluateConfig, TrainConfig
from training.data.pairs import PairFiles, row_groups, split_to_score
from training.scores.metrics import image_to_text_ranks, recalls, share_interval, text_to_image_ranks

logger = logging.getLogger(__name__)

CURVE_FILE, CURVE_PLOT_FILE = "curve.json", "curve.png"
FACTORS = (2, 4, 10)  # how far beyond the largest size the curve is extended
_FEWEST = 3  # sizes that an extension needs


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """The score of heads trained on some images, or an expected score.

    Args:
        images: number of training images, with those of the val split if `align.refit` is set.
        captions: number of their captions. None if the score is expected.
        text_to_image: R@1 from captions to images, over all captions.
        low: lower end of its 95 % interval.
        high: upper end.
        image_to_text: R@1 from images to captions. None if the score is expected.
        epoch: number of the kept epoch. None if the score is expected.
    """

    images: int
    captions: int | None
    text_to_image: float
    low: float
    high: float
    image_to_text: float | None = None
    epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Scores against the number of training images.

    Args:
        split: split that was scored.
        gallery: number of its images.
        points: measured points, in ascending order.
        expected: the curve beyond the largest point. Empty with fewer than three points.
    """

    split: str
    gallery: int
    points: tuple[CurvePoint, ...]
    expected: tuple[CurvePoint, ...]

    def rows(self) -> list[dict[str, object]]:
        """Return the points as rows of a table."""
        return [
            {
                "images": point.images,
                "captions": point.captions,
                "text to image R@1": round(point.text_to_image, 4),
                "95 % interval": f"{point.low:.4f}-{point.high:.4f}",
                "image to text R@1": None if point.image_to_text is None else round(point.image_to_text, 4),
                "by": "measured" if point.captions is not None else "extended",
            }
            for point in (*self.points, *self.expected)
        ]


def measure_curve(
    files: PairFiles,
    towers: TrainConfig,
    config: AlignConfig,
    evaluate: EvaluateConfig,
    out: Path,
    *,
    cache: Path,
    sizes: Sequence[int],
) -> Curve:
    """Train heads on some of the training images, size by size, score them, and write `curve.json` and `curve.png`.

    Smaller sets are parts of larger ones. Epochs are chosen on the validation split, scores are those of the split that
    `evaluate` names.

    Args:
        files: pair shards by split.
        towers: settings of `[train]` that name the towers.
        config: settings of the alignment.
        evaluate: settings of scoring.
        out: folder of the aligned model.
        cache: folder with features of frozen towers.
        sizes: numbers of images, at least 2; also 0 if `align.start` is "model", for its heads as they are.

    Raises:
        SettingsError: a size is too small.
        InputError: there are fewer training images than the largest size, or the scored split is trained on.
    """
    wanted = require_sizes(sizes, files, config)
    split = split_to_score(files, evaluate.split)
    if split == "val" and config.refit:
        raise InputError(
            "the curve would be scored on the val split, on which align.refit trains: set align.refit to false, or "
            "build a dataset with a test split"
        )
    with opened_towers(towers, config, cache=cache) as frozen:
        train, val = frozen.pairs(files, "train", mirror=config.mirror), frozen.pairs(files, "val")
        scored = frozen.pairs(files, split)
        if train is None or scored is None:
            raise InputError("the train split has no images, so there is no curve")
        order = np.random.default_rng(config.seed).permutation(len(train))
        points = []
        for size in wanted:
            trained = [train.subset(order[:size])]
            if size:
                heads, _, epoch = fit_heads(frozen, trained[0], val, config)
                trained += [val] if config.refit and val is not None else []
            else:
                heads, epoch = frozen.start(train, config, (1.0, 1.0)), 0
            points.append(_score(heads, scored, evaluate, trained, epoch))
            logger.info("%d images: text to image R@1 %.4f", points[-1].images, points[-1].text_to_image)
    curve = Curve(split=split, gallery=len(scored), points=tuple(points), expected=extended(points))
    write_json(out / CURVE_FILE, asdict(curve))
    _write_plot(curve, out / CURVE_PLOT_FILE)
    return curve


def require_sizes(sizes: Sequence[int], files: PairFiles, config: AlignConfig) -> list[int]:
    """Return the sizes of a curve, each once, in ascending order.

    Raises:
        SettingsError: a size is too small.
        InputError: there are fewer training images than the largest size.
    """
    wanted = sorted(set(sizes))
    small = [size for size in wanted if size < 2 and not (size == 0 and config.start == "model")]
    if small or not wanted:
        raise SettingsError(
            f"the curve needs numbers of images from 2 on (or 0 with align.start = model), got "
            f"{', '.join(map(str, small)) or 'none'}"
        )
    there = sum(group.num_rows for group in row_groups(files.train))
    if there < wanted[-1]:
        raise InputError(f"the curve asks for {wanted[-1]:,} training images, but there are {there:,}")
    return wanted


def _score(
    heads: Heads, scored: FeaturePairs, evaluate: EvaluateConfig, trained: Sequence[FeaturePairs], epoch: int
) -> CurvePoint:
    images, texts = heads.encoded(scored)
    values = recalls(text_to_image_ranks(texts, images, scored.owners), 1)
    low, high = share_interval(values, scored.owners, rounds=evaluate.bootstrap_rounds, seed=evaluate.seed)
    back = recalls(image_to_text_ranks(images, texts, scored.owners), 1)
    return CurvePoint(
        images=sum(map(len, trained)),
        captions=sum(len(pairs.texts) for pairs in trained),
        text_to_image=float(values.mean()),
        low=low,
        high=high,
        image_to_text=float(back.mean()),
        epoch=epoch,
    )


def extended(points: Sequence[CurvePoint]) -> tuple[CurvePoint, ...]:
    """Return the expected scores beyond the largest size, or none with fewer than three points.

    A line is fitted to the log-odds of R@1 against the logarithm of the number of images. The interval is that of a new
    point on the line (Student's t), so it grows with the distance and with the scatter of the points.
    """
    points = [point for point in points if point.images]
    if len(points) < _FEWEST or any(not 0 < point.text_to_image < 1 for point in points):
        return ()
    from scipy.stats import t  # it takes a while to load

    x = np.log([point.images for point in points])
    y = np.array([math.log(point.text_to_image / (1 - point.text_to_image)) for point in points])
    slope, intercept = np.polyfit(x, y, 1)
    free = len(points) - 2
    error = math.sqrt(float(((y - slope * x - intercept) ** 2).sum()) / free)
    spread = float(((x - x.mean()) ** 2).sum())
    found = []
    for factor in FACTORS:
        images = factor * points[-1].images
        at = math.log(images)
        half = float(t.ppf(0.975, free)) * error * math.sqrt(1 + 1 / len(points) + (at - x.mean()) ** 2 / spread)
        middle, low, high = (1 / (1 + math.exp(-(slope * at + intercept + add))) for add in (0.0, -half, half))
        found.append(CurvePoint(images=images, captions=None, text_to_image=middle, low=low, high=high))
    return tuple(found)


def _write_plot(curve: Curve, path: Path) -> None:
    def draw(figure: Any) -> None:
        axes = figure.add_subplot(
            xlabel="training images", ylabel=f"text to image R@1 ({curve.split}, {curve.gallery:,} images)"
        )
        axes.set_xscale("log")
        for points, style, label in (
            (curve.points, "o-", "measured, 95 % interval"),
            ((*curve.points[-1:], *curve.expected), "o--", "extended"),
        ):
            points = tuple(point for point in points if point.images)
            if label == "extended" and not curve.expected:
                continue
            x, y = [point.images for point in points], [point.text_to_image for point in points]
            errors = [
                [point.text_to_image - point.low for point in points],
                [point.high - point.text_to_image for point in points],
            ]
            colour = COLOURS["first"] if style == "o-" else COLOURS["soft"]
            axes.errorbar(x, y, yerr=errors, fmt=style, color=colour, capsize=3, label=label)
        if not curve.points[0].images:
            axes.axhline(curve.points[0].text_to_image, linestyle=":", color=COLOURS["soft"], label="without pairs")
        shown = [point.images for point in (*curve.points, *curve.expected) if point.images]
        axes.set_xticks(shown, [f"{number:,}" for number in shown], rotation=45)
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.grid(color=COLOURS["line"], linewidth=0.6)
        axes.legend(frameon=False)

    write_png(path, draw, size=(8, 4.5))
