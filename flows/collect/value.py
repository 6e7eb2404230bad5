"""Estimate how much more captions would help, from the curve of `align` over those that came in."""

from data_catalog.catalog.manifest import Snapshot
from training.data.pairs import pair_files, row_groups
from training.scores.rows import Board


def curve_sizes(snapshot: Snapshot) -> tuple[int, ...]:
    """Return an eighth, a quarter, a half and all of the training images."""
    num_images = sum(group.num_rows for group in row_groups(pair_files(snapshot).train))
    return tuple(max(2, num_images // part) for part in (8, 4, 2, 1))


def value_line(curve: Board, more: int) -> str:
    """Return a sentence on what more captions would add to R@1, with an interval of 95 %."""
    from training.align.curve import expected_gain

    counts = [model.counts for model in curve.models if "captions" in model.counts][-1]
    images = max(1, round(more * counts["images"] / counts["captions"]))
    found = expected_gain(curve, images)
    if found is None:
        return f"{more:,} more: not known; the curve needs three sizes with hits: collect more captions first"
    gain, low, high = found
    return f"{more:,} more captions, of {images:,} pictures: {gain:+.3f} R@1 ({low:+.3f} to {high:+.3f})"
