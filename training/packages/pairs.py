"""Read parallel captions from text files: drop unusable lines with a reason, and hold out pairs for validation."""

import logging
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.disk.files import order_key
from data_catalog.rows.caption_keys import caption_key
from data_catalog.rows.stages import Check
from data_catalog.sources.files import Line, check_text_file, excerpt, read_lines

logger = logging.getLogger(__name__)

MAX_CHARACTERS = 400
MAX_LENGTH_RATIO = 3.0
SHORT_CHARACTERS = 20  # the ratio of lengths means nothing for shorter texts
MIN_COPIED_WORDS = 3  # names of one or two words are often the same in both languages
MAX_EXAMPLES = 3
# Sentencepiece uses the first as its space and drops the second, the replacement character.
UNSEEN = "\u2581\ufffd"
DROP_REASONS = {
    "bad_encoding": "the line is not UTF-8, or contains a NUL",
    "wrong_fields": "the line does not have exactly two fields, source and target, with a tab between them",
    "empty": "one of the two texts is empty or has no visible characters",
    "too_long": f"one of the two texts has more than {MAX_CHARACTERS} characters",
    "untranslated": f"source and target are the same text, of {MIN_COPIED_WORDS} words or more",
    "length_ratio": f"relative to the other text, one text is more than {MAX_LENGTH_RATIO:g} times as long as is usual "
    "in its file",
    "misaligned": "near this line, lengths of sources and targets do not correlate: the columns are misaligned",
    "duplicate": "the same source with the same target occurred before",
    "wrong_language": "the source or the target is clearly in another language",
    "held_out": "the source is one of the held-out sources, apart from case and punctuation",
    "left_out": "one of the two texts is a sentence that must not be trained on, apart from case and punctuation",
}
LANG = "{lang}"  # in the name of two files with one sentence per line: the place of the language code

# Misaligned ranges. Correlations of aligned captions (English, German, French, Italian) are 0.6 to 0.97 in every
# window, of class names 0.43 and more. Misaligned ones have -0.4 to 0.3, or up to 0.45 if long and short texts
# alternate.
WINDOW = 200
WINDOW_STEP = 25
MIN_CORRELATION = 0.35
MIN_SHARE = 0.5  # of the median correlation of the file's windows; a half-misaligned window has about this
MIN_DEVIATION = 0.1  # of the log of lengths; lengths mean nothing if all texts are about equally long

# Texts in another language.
SAMPLE = 1000
COMMON_SHARE = 0.005
MIN_COMMON = 0.4
MAX_WRONG = 0.9
# Words; single characters in scripts without spaces.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

Pair = tuple[str, str]
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(slots=True)
class PairLine:
    """A pair with the file and line that it comes from, and why it is dropped (`DROP_REASONS`); "" if it is used."""

    path: Path
    number: int
    source: str
    target: str
    reason: str = ""

    @property
    def pair(self) -> Pair:
        """Return source and target."""
        return self.source, self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelCaptions:
    """Distinct pairs of (source, target) to train on and for validation, in the order of a hash of the source."""

    training: list[Pair]
    held_out: list[Pair]
    dropped: dict[str, int]  # other lines, by reason (`DROP_REASONS`)
    kept_out: Set[str]  # keys (`caption_key`) of the sources that are held out or left out
    examples: dict[str, list[PairLine]]  # the first few of each


def read_pairs(
    paths: Path | Sequence[Path],
    *,
    num_held_out: int,
    held_out: Sequence[Pair] = (),
    source_check: Check | None = None,
    target_check: Check | None = None,
    codes: tuple[str, str] | None = None,
    leave_out: Iterable[str] = (),
) -> ParallelCaptions:
    """Read parallel captions of plain or gzipped UTF-8 files; drop and count lines that cannot be trained on.

    A file has `source<TAB>target` lines. A name with `{lang}` stands for two files with one sentence per line. Sources
    that differ only in case, spaces and punctuation are on the same side. A source may have several translations.

    Args:
        paths: one file, or several in any order.
        num_held_out: pairs with the smallest hash to hold out, at most a tenth. They change when lines are added.
        held_out: pairs that are held out instead, unchanged, such as the `training` pairs of a validation file.
        source_check: drops sources in another language (cleaning's `caption_language`); `target_check` targets.
        codes: codes of source and target language, which take the place of `{lang}`.
        leave_out: sentences; pairs with one of them on either side are dropped.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    all_lines = [line for path in files for line in _aligned_lines(path, codes)]
    unwanted = {caption_key(text) for text in leave_out}
    first: dict[Pair, PairLine] = {}
    for line in _usable(all_lines):
        if not unwanted.isdisjoint(map(caption_key, line.pair)):
            line.reason = "left_out"
        elif first.setdefault(line.pair, line) is not line:
            line.reason = "duplicate"
    lines = sorted(_usable(all_lines), key=lambda line: (order_key(plain(line.source)), line.pair))
    for column, check in (("source", source_check), ("target", target_check)):
        if check is not None:
            texts = [getattr(line, column) for line in lines]
            _drop(lines, _wrong_language(texts, check, column=column), "wrong_language")
            lines = _usable(lines)

    wanted = 0 if held_out else num_held_out
    own = min(wanted, len(lines) // 10)
    validation = list(held_out) or [line.pair for line in lines[:own]]
    seen = {caption_key(source) for source, _ in validation}
    _drop(lines[own:], (caption_key(line.source) in seen for line in lines[own:]), "held_out")
    training = _usable(lines[own:])
    dropped = Counter(sorted(line.reason for line in all_lines if line.reason))
    if not training or own < min(wanted, 2):
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items()) or "none"
        raise InputError(
            f"{len(lines):,} usable pairs in {', '.join(map(str, files))} (lines dropped: {reasons}) are too few to "
            "train on and to hold out a tenth: give more UTF-8 lines of source<TAB>target, or two files whose lines "
            "translate each other"
        )
    return ParallelCaptions(
        training=[line.pair for line in training],
        held_out=validation,
        dropped=dict(dropped),
        kept_out=seen | {caption_key(line.source) for line in all_lines if line.reason == "left_out"},
        examples={name: [line for line in all_lines if line.reason == name][:MAX_EXAMPLES] for name in dropped},
    )


def _usable(lines: Iterable[PairLine]) -> list[PairLine]:
    return [line for line in lines if not line.reason]


def _drop(lines: Iterable[PairLine], faulty: Iterable[bool], reason: str) -> None:
    for line, fault in zip(lines, faulty, strict=True):
        if fault:
            line.reason = reason


def _aligned_lines(path: Path, codes: tuple[str, str] | None) -> list[PairLine]:
    """Return the lines of a file, or of two; those that are not usable or not aligned have a reason to drop them."""
    lines = []
    for raw, fields in _read_fields(path, codes):
        line = PairLine(path, raw.number, fields[0], "\t".join(fields[1:]), _fault(raw, fields))
        if line.reason:
            line.source, line.target = excerpt(line.source), excerpt(line.target)
        lines.append(line)
    good = _usable(lines)
    _drop(good, _length_outliers(good), "length_ratio")
    good = _usable(good)
    for found in _misaligned_ranges([len(line.source) for line in good], [len(line.target) for line in good]):
        logger.warning(
            "%s: lines %d to %d are misaligned (lengths of sources and targets do not correlate) and are dropped",
            *(path, good[found.start].number, good[found.stop - 1].number),
        )
        for place in found:
            good[place].reason = "misaligned"
    return lines


def files_of(path: Path, codes: tuple[str, str] | None) -> list[Path]:
    """Return the file of pairs of that name, or the two files that a name with `{lang}` stands for."""
    if codes is None or LANG not in str(path):
        return [path]
    return [Path(str(path).replace(LANG, code)) for code in codes]


def _read_fields(path: Path, codes: tuple[str, str] | None) -> Iterator[tuple[Line, list[str]]]:
    """Yield each line with its texts: the fields of a line, or the lines of two files."""
    names = files_of(path, codes)
    expected = "lines of source<TAB>target" if len(names) == 1 else "lines of one sentence"
    for name in names:
        with about(name, remedy=f"give a UTF-8 file of {expected}"):
            check_text_file(name, expected=f"UTF-8 {expected}")
    if len(names) == 1:
        yield from ((raw, [text.strip() for text in raw.text.split("\t")]) for raw in read_lines(path))
        return
    counts = [sum(1 for _ in read_lines(name)) for name in names]
    if counts[0] != counts[1]:
        raise InputError(
            f"{names[0]} has {counts[0]:,} lines, and {names[1]} has {counts[1]:,}: they are not aligned. Give two "
            "files whose lines translate each other"
        )
    for source, target in zip(*map(read_lines, names), strict=True):
        yield (source if source.trouble else target), [source.text.strip(), target.text.strip()]


def _fault(line: Line, fields: list[str]) -> str:
    """Return the reason to drop a line for its content, or ""."""
    if line.trouble:
        return "bad_encoding" if line.trouble.reason == "bad_encoding" else "too_long"
    if len(fields) != 2 or any("\t" in text for text in fields):
        return "wrong_fields"
    source, target = fields
    if not _is_visible(source) or not _is_visible(target):
        return "empty"
    if max(len(source), len(target)) > MAX_CHARACTERS:
        return "too_long"
    if len(source.split()) >= MIN_COPIED_WORDS and plain(source) == plain(target):
        return "untranslated"
    return ""


def _is_visible(text: str) -> bool:
    """Return whether a text has a visible character; for others, sentencepiece makes no pieces."""
    return any(character.isprintable() and not character.isspace() and character not in UNSEEN for character in text)


def plain(text: str) -> str:
    """Return a text trimmed, without case, spaces before commas and final punctuation.

    The order of these texts decides which pairs are held out; copies are found by `caption_key`.
    """
    return text.strip().casefold().replace(" ,", ",").rstrip(" .!")


def _length_outliers(lines: list[PairLine]) -> list[bool]:
    """Return for each line whether one text is much too long for the other, at the median ratio of the file.

    Chinese needs a third of the characters of English. So lengths count in characters of the language that needs more.
    """
    if not lines:
        return []
    usual = statistics.median(len(line.target) / len(line.source) for line in lines)
    outliers = []
    for line in lines:
        shorter, longer = sorted((len(line.source) * max(usual, 1), len(line.target) * max(1 / usual, 1)))
        outliers.append(longer > SHORT_CHARACTERS and longer > MAX_LENGTH_RATIO * shorter)
    return outliers


def _misaligned_ranges(source_lengths: Sequence[int], target_lengths: Sequence[int]) -> list[range]:
    """Return disjoint ranges of pairs, in the order of the file, whose lengths do not correlate.

    A long text has a long translation (Gale and Church, 1993). So in every `WINDOW` of consecutive pairs the logs of
    lengths correlate, unless a lost line has shifted one side. Fewer than `WINDOW` pairs are not judged. A range
    shorter than half a window is not found. About half a window of good pairs at either end is included in a range.
    """
    num_pairs = len(source_lengths)
    if num_pairs < WINDOW:
        return []
    starts = np.unique(np.append(np.arange(0, num_pairs - WINDOW + 1, WINDOW_STEP), num_pairs - WINDOW))
    # Values are centred, because sums of windows are differences of long sums.
    logs = [np.log(np.asarray(lengths, float)) for lengths in (source_lengths, target_lengths)]
    source, target = (values - values.mean() for values in logs)

    def means(values: Floats) -> Floats:
        sums = np.concatenate(([0.0], np.cumsum(values)))
        found: Floats = (sums[starts + WINDOW] - sums[starts]) / WINDOW
        return found

    deviations = [np.sqrt(np.maximum(means(values**2) - means(values) ** 2, 0)) for values in (source, target)]
    covariances = means(source * target) - means(source) * means(target)
    tellable = np.minimum(*deviations) >= MIN_DEVIATION
    if not tellable.any():
        return []
    correlations = covariances[tellable] / (deviations[0] * deviations[1])[tellable]
    weakest = max(MIN_CORRELATION, MIN_SHARE * float(np.median(correlations)))
    found: list[range] = []
    for start in starts[tellable][correlations < weakest].tolist():
        if found and start <= found[-1].stop:
            found[-1] = range(found[-1].start, start + WINDOW)
        else:
            found.append(range(start, start + WINDOW))
    return found


def _wrong_language(texts: Sequence[str], check: Check, *, column: str) -> list[bool]:
    """Return for each text whether the check drops it; only texts that look different from the rest are checked.

    A check takes about 1.3 ms a text, too long for millions. It judges the first `SAMPLE` texts, whose order has
    nothing to do with their language. Of the others, it judges only those with fewer than `MIN_COMMON` of their words
    among the words that are common in the accepted part of the sample: about 1 % of captions in the right language,
    99.8 % of those in another. Then 580,000 captions take 22 s, not 12 minutes.
    """
    sample = texts[:SAMPLE]
    verdicts = check(sample)
    details = Counter(verdict.detail for verdict in verdicts if verdict is not None)
    if details.total() > MAX_WRONG * len(sample):
        raise InputError(
            f"{details.total():,} of {len(sample):,} {column} texts are in another language "
            f"({details.most_common(1)[0][0]}): swap the columns, or correct the language codes"
        )
    passed: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for text, verdict in zip(sample, verdicts, strict=True):
        (passed if verdict is None else dropped).update(_words(text))
    least = COMMON_SHARE * (len(sample) - details.total())
    # Words of the few wrong texts that pass the check must not count as common.
    common = {word for word, count in passed.items() if count >= least and count > dropped[word]}

    wrong = [False] * len(texts)
    words_of = enumerate(map(_words, texts))
    suspects = [index for index, words in words_of if words and len(words & common) / len(words) < MIN_COMMON]
    for index, verdict in zip(suspects, check([texts[index] for index in suspects]), strict=True):
        wrong[index] = verdict is not None
    return wrong


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))
