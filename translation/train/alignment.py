"""Finds stretches of parallel lines that are out of step, by the lengths of their texts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    Values = np.ndarray[tuple[int], np.dtype[np.float64]]

WINDOW = 200
STEP = 25
# Captions (English, German, French, Italian) in step have 0.6 to 0.97 in every window, class names 0.43 and more; out
# of step they have -0.4 to 0.3, and up to 0.45 where long and short ones alternate.
MIN_CORRELATION = 0.35
MIN_SHARE = 0.5  # of the usual correlation of the file's windows: about what a window has that is out of step by half
MIN_DEVIATION = 0.1  # of the log of lengths; where all texts are about as long, lengths say nothing


def out_of_step(source_lengths: Sequence[int], target_lengths: Sequence[int]) -> list[range]:
    """Ranges of pairs, in the order of the file, whose lengths have nothing to do with each other.

    A long text has a long translation (Gale and Church, 1993), so in every `WINDOW` of consecutive pairs the logs of
    lengths correlate, unless a lost line has put one side out of step. Fewer than `WINDOW` pairs are not judged, and a
    stretch shorter than half of that goes unseen; about half a window of good pairs at either end goes with a stretch.

    Args:
        source_lengths: characters of each source, at least 1.
        target_lengths: of each target.

    Returns:
        Ranges of indices, ascending and apart.
    """
    import numpy as np

    num_pairs = len(source_lengths)
    if num_pairs < WINDOW:
        return []
    starts = np.unique(np.append(np.arange(0, num_pairs - WINDOW + 1, STEP), num_pairs - WINDOW))
    source, target = np.log(np.asarray(source_lengths, float)), np.log(np.asarray(target_lengths, float))
    deviations = [np.sqrt(np.maximum(_covariances(values, values, starts), 0)) for values in (source, target)]
    tellable = np.minimum(*deviations) >= MIN_DEVIATION
    if not tellable.any():
        return []
    starts = starts[tellable]
    correlations = _covariances(source, target, starts) / (deviations[0] * deviations[1])[tellable]
    weakest = max(MIN_CORRELATION, MIN_SHARE * float(np.median(correlations)))
    bad = starts[correlations < weakest]
    return _merged([range(start, start + WINDOW) for start in bad.tolist()])


def _covariances(left: "Values", right: "Values", starts: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> "Values":
    """Covariance of two columns in the window at each of the starts."""

    def means(values: "Values") -> "Values":
        import numpy as np

        sums = np.concatenate(([0.0], np.cumsum(values)))
        return (sums[starts + WINDOW] - sums[starts]) / WINDOW

    # Centred first: windows are differences of long sums.
    left, right = left - left.mean(), right - right.mean()
    return means(left * right) - means(left) * means(right)


def _merged(ranges: list[range]) -> list[range]:
    merged: list[range] = []
    for found in ranges:
        if merged and found.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, found.stop)
        else:
            merged.append(found)
    return merged
