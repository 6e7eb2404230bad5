"""Score aligned heads against the number of training pairs."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.disk.files import write_json
from data_catalog.report.drawing import COLOURS, write_png
from training.align.align import fit_heads
from training.align.frozen import opened_towers
from training.config import AlignConfig, EvaluateConfig, TrainConfig
from training.data.pairs import PairFiles, row_groups, split_to_score
from training.scores.evaluation import retrieval_outcomes, score_rows
from training.scores.rows import ALL, VALIDATED, Board, ModelFacts, ScoreRow, SetFacts

logger = logging.getLogger(__name__)

CURVE_FILE, CURVE_PLOT_FILE = "curve.json", "curve.png"
FACTORS = (2, 4, 10)  # how far beyond the largest size the curve is extended
_FEWEST = 3  # sizes that an extension needs
_FORTH, _BACK = "text_to_image_R@1", "image_to_text_R@1"


def measure_curve(
    files: PairFiles,
    towers: TrainConfig,
    config: AlignConfig,
    evaluate: EvaluateConfig,
    out: Path,
    *,
    cache: Path,
    sizes: Sequence[int],
) -> Board:
    """Train heads on some of the training images, size by size, score them, and write `curve.json` and `curve.png`.

    Smaller sets are parts of larger ones. Epochs are chosen on the validation split, scores are those of the split that
    `evaluate` names. The board's models are those of each size, with the numbers of their training images (those of the
    val split too, if `align.refit` is set) and captions. Then come expected scores of larger sizes, without queries.

    Size 0 is for `align.start` = "model": its heads as they are. The folder `cache` has features of frozen towers.
    """
    wanted = require_sizes(sizes, files, config)
    split = split_to_score(files, evaluate.split)
    if split == "val" and config.refit:
        raise InputError(
            "the curve would be scored on the val split, on which align.refit trains: set align.refit to false, or "
            "build a dataset with a test split"
        )
    models, rows = list[ModelFacts](), list[ScoreRow]()
    with opened_towers(towers, config, cache=cache) as frozen:
        train, val = frozen.pairs(files, "train", mirror=config.mirror), frozen.pairs(files, "val")
        scored = frozen.pairs(files, split)
        assert train is not None  # there are images of each size
        assert scored is not None
        order = np.random.default_rng(config.seed).permutation(len(train))
        for size in wanted:
            trained, epoch = [train.subset(order[:size])], 0
            if size:
                heads, state = fit_heads(frozen, trained[0], val, config)
                trained += [val] if config.refit and val is not None else []
                epoch = state.best_record["epoch"]
            else:
                heads = frozen.start(train, config)
            counts = {"images": sum(map(len, trained)), "captions": sum(len(pairs.texts) for pairs in trained)}
            models.append(_model(**counts, epoch=epoch))
            for outcome in retrieval_outcomes(*heads.encoded(scored), scored.owners, captions=ALL):
                found = score_rows(outcome, evaluate, model=models[-1].name, test_set=split)
                rows += [row for row in found if row.metric in (_FORTH, _BACK)]
            logger.info("%s: text to image R@1 %.4f", models[-1].name, rows[-2].value)
    forth = rows[::2]
    sizes, values = [model.counts["images"] for model in models], [row.value for row in forth]
    for images, value, low, high in extended(sizes, values):
        models.append(_model(images=images))
        rows.append(replace(forth[0], model=models[-1].name, value=value, low=low, high=high, queries=0))
    notes = (VALIDATED,) if split == "val" else ()
    facts = SetFacts(name=split, task="retrieval", num_images=len(scored), num_texts=len(scored.texts), notes=notes)
    board = Board(rows=tuple(rows), models=tuple(models), sets=(facts,))
    write_json(out / CURVE_FILE, board.to_json())
    write_png(out / CURVE_PLOT_FILE, partial(_draw, board), size=(8, 4.5))
    return board


def require_sizes(sizes: Sequence[int], files: PairFiles, config: AlignConfig) -> list[int]:
    """Return the sizes of a curve, each once, in ascending order, if there are as many training images."""
    there, wanted = sum(group.num_rows for group in row_groups(files.train)), sorted(set(sizes))
    least = 0 if config.start == "model" else 2
    if not wanted or wanted[0] < least or 1 in wanted or wanted[-1] > there:
        raise SettingsError(
            f"the curve needs numbers of images from 2 to {there:,} (or 0 with align.start = model), got "
            f"{', '.join(map(str, wanted)) or 'none'}"
        )
    return wanted


def _model(images: int, **counts: int) -> ModelFacts:
    return ModelFacts(name=f"{images:,} images", origin="aligned heads", counts={"images": images, **counts})


def extended(sizes: Sequence[int], scores: Sequence[float]) -> list[tuple[int, float, float, float]]:
    """Return sizes beyond the largest one with the expected R@1 and its interval. Fewer than three sizes give none.

    A line is fitted to the log-odds of R@1 against the logarithm of the number of images. The interval is that of a new
    point on the line (Student's t), so it grows with the distance and with the scatter of the points.
    """
    points = [(size, score) for size, score in zip(sizes, scores, strict=True) if size]
    if len(points) < _FEWEST or any(not 0 < score < 1 for _, score in points):
        return []
    from scipy.stats import t  # it takes a while to load

    x = np.log([size for size, _ in points])
    y = np.array([math.log(score / (1 - score)) for _, score in points])
    slope, intercept = np.polyfit(x, y, 1)
    free = len(points) - 2
    error = math.sqrt(float(((y - slope * x - intercept) ** 2).sum()) / free)
    spread = float(((x - x.mean()) ** 2).sum())
    found = []
    for factor in FACTORS:
        images = factor * points[-1][0]
        at = math.log(images)
        half = float(t.ppf(0.975, free)) * error * math.sqrt(1 + 1 / len(points) + (at - x.mean()) ** 2 / spread)
        middle, low, high = (1 / (1 + math.exp(-(slope * at + intercept + add))) for add in (0.0, -half, half))
        found.append((images, middle, low, high))
    return found


def curve_rows(board: Board) -> list[dict[str, object]]:
    """Return the points of a curve as rows of a table."""
    found: list[dict[str, object]] = []
    by_model = board.pivot("model")
    for model in board.models:
        scores = by_model[(model.name,)]
        forth, back = scores[_FORTH], scores.get(_BACK)
        found.append(
            {
                "images": model.counts["images"],
                "captions": model.counts.get("captions"),
                "text to image R@1": round(forth.value, 4),
                "95 % interval": f"{forth.low:.4f}-{forth.high:.4f}",
                "image to text R@1": round(back.value, 4) if back else None,
                "by": "measured" if back else "extended",
            }
        )
    return found


def _draw(board: Board, figure: Any) -> None:
    forth = board.where(metric=_FORTH).rows
    points = [(model.counts["images"], row) for model, row in zip(board.models, forth, strict=True)]
    measured = [(images, row) for images, row in points if images and row.queries]
    expected = [(images, row) for images, row in points if not row.queries]
    axes = figure.add_subplot(
        xlabel="training images", ylabel=f"text to image R@1 ({forth[0].test_set}, {forth[0].gallery:,} images)"
    )
    axes.set_xscale("log")
    for some, style, colour, label in (
        (measured, "o-", COLOURS["first"], "measured, 95 % interval"),
        ([*measured[-1:], *expected] if expected else [], "o--", COLOURS["soft"], "extended"),
    ):
        x, y = [images for images, _ in some], [row.value for _, row in some]
        errors = [[row.value - row.low for _, row in some], [row.high - row.value for _, row in some]]
        if some:
            axes.errorbar(x, y, yerr=errors, fmt=style, color=colour, capsize=3, label=label)
    if not points[0][0]:
        axes.axhline(forth[0].value, linestyle=":", color=COLOURS["soft"], label="without pairs")
    shown = [images for images, _ in points if images]
    axes.set_xticks(shown, [f"{number:,}" for number in shown], rotation=45)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(color=COLOURS["line"], linewidth=0.6)
    axes.legend(frameon=False)
