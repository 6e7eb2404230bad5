"""Estimate how much more captions would help, from the curve of `align` over those that came in."""

from data_catalog.catalog.manifest import Snapshot
from training.data.pairs import pair_files, row_groups
from training.scores.rows import Board

_SHARES = (8, 4, 2, 1)  # of the training images, as divisors


def curve_sizes(snapshot: Snapshot) -> list[int]:
    """Return the numbers of training images at which the curve is measured."""
    num_images = sum(group.num_rows for group in row_groups(pair_files(snapshot).train))
    return sorted({max(2, num_images // share) for share in _SHARES})


def value_line(curve: Board, more: int) -> str:
    """Return a sentence on what more captions would add to R@1, with an interval of 95 %."""
    from training.align.curve import expected_gain

    counts = max(
        (model.counts for model in curve.models if "captions" in model.counts), key=lambda each: each["images"]
    )
    images = max(1, round(more * counts["images"] / counts["captions"]))
    found = expected_gain(curve, images)
    if found is None:
        return f"{more:,} more: not known; the curve needs three sizes with hits: collect more captions first"
    gain, low, high = found
    return f"{more:,} more captions, of {images:,} pictures: {gain:+.3f} R@1 ({low:+.3f} to {high:+.3f})"
