"""Parallel captions from TSV files: what is used, what is dropped and why, what is held out."""

import logging
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_catalog.errors import InputError
from data_catalog.sources.files import Line, check_text_file, excerpt, read_lines
from data_catalog.stages import Check
from data_catalog.storage.shards import order_key
from translation.train.alignment import out_of_step
from translation.train.languages import wrong_language

logger = logging.getLogger(__name__)

MAX_CHARACTERS = 400
MAX_LENGTH_RATIO = 3.0
SHORT_CHARACTERS = 20  # the ratio of lengths says nothing about shorter texts
MIN_COPIED_WORDS = 3  # names of one or two words are often the same in both languages
MAX_EXAMPLES = 3
# Sentencepiece takes the first for its mark of a space and leaves the second out, which stands for a lost character.
UNSEEN = "\u2581\ufffd"
DROP_REASONS = {
    "bad_encoding": "the line is not UTF-8, or holds a NUL",
    "wrong_fields": "the line has not exactly two fields, source and target, with a tab between",
    "empty": "one of the two texts is empty, or has nothing in it that can be seen",
    "too_long": f"one of the two texts has more than {MAX_CHARACTERS} characters",
    "untranslated": f"source and target are the same text, of {MIN_COPIED_WORDS} words or more",
    "length_ratio": f"one text is more than {MAX_LENGTH_RATIO:g} times as long as usual in its file beside the other",
    "misaligned": "around the line, lengths of sources and targets do not correlate: the columns are out of step",
    "duplicate": "the same source with the same target occurred before",
    "wrong_language": "the source or the target is surely in another language than it should be",
    "held_out": "the source is one of the held-out ones, but for case and punctuation",
}

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class PairLine:
    """Where a pair comes from, and its texts; of a dropped one their beginnings."""

    path: Path
    number: int
    source: str
    target: str

    @property
    def pair(self) -> Pair:
        """Source and target."""
        return self.source, self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelCaptions:
    """Distinct pairs of (source, target) in the order of a hash of the source, and lines dropped by reason.

    Args:
        dropped: number of lines by reason, see `DROP_REASONS`; with what is kept, they make all lines of the files.
        examples: the first few lines dropped for each reason.
    """

    training: list[Pair]
    held_out: list[Pair]
    dropped: dict[str, int]
    examples: dict[str, list[PairLine]]


@dataclass(frozen=True, slots=True)
class _Drops:
    counts: Counter[str] = field(default_factory=Counter)
    examples: defaultdict[str, list[PairLine]] = field(default_factory=lambda: defaultdict(list))

    def add(self, reason: str, line: PairLine) -> None:
        self.counts[reason] += 1
        if len(self.examples[reason]) < MAX_EXAMPLES:
            beginning = PairLine(line.path, line.number, excerpt(line.source), excerpt(line.target))
            self.examples[reason].append(beginning)

    def part(self, lines: Iterable[PairLine], faulty: Iterable[bool], reason: str) -> list[PairLine]:
        """The lines without fault; the others are dropped for the reason."""
        kept = []
        for line, fault in zip(lines, faulty, strict=True):
            if fault:
                self.add(reason, line)
            else:
                kept.append(line)
        return kept

    def __str__(self) -> str:
        return ", ".join(f"{reason} {count:,}" for reason, count in sorted(self.counts.items())) or "none"


def read_pairs(
    paths: Path | Sequence[Path],
    *,
    num_held_out: int,
    held_out: Sequence[Pair] = (),
    source_check: Check | None = None,
    target_check: Check | None = None,
) -> ParallelCaptions:
    """Read `source<TAB>target` lines of plain or gzipped UTF-8 files; drop and count what is no use for training.

    The `num_held_out` pairs with the smallest hash are for validation. They change as lines are added; to add lines to
    what a model has been trained on, give the pairs that were held out then. Texts that differ in case and final
    punctuation only fall on the same side. A source may have several translations.

    For pairs of a validation file, read it with `num_held_out=0` and give its `training` as `held_out`.

    Args:
        paths: one file, or several in any order.
        num_held_out: pairs held out of the files; 0 for none; not used with `held_out`.
        held_out: pairs that are held out instead, as they are.
        source_check: drops sources in another language (cleaning's `caption_language`); None: not checked.
        target_check: the same of targets.

    Raises:
        InputError: a file is missing, empty, damaged or no text; nearly all of a column is in another language; or
            there are fewer than 10 usable pairs for each one held out, or none.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    drops = _Drops()
    lines = _distinct([line for path in files for line in _aligned_lines(path, drops)], drops)
    lines.sort(key=lambda line: (order_key(_plain(line.source)), line.pair))
    for column, check in (("source", source_check), ("target", target_check)):
        if check is not None:
            texts = [getattr(line, column) for line in lines]
            lines = drops.part(lines, wrong_language(texts, check, column=column), "wrong_language")
    own = 0 if held_out else num_held_out
    _require_enough(files, len(lines), own, drops)
    validation = list(held_out) or [line.pair for line in lines[:own]]
    seen = {_plain(source) for source, _ in validation}
    training = drops.part(lines[own:], (_plain(line.source) in seen for line in lines[own:]), "held_out")
    if not training:
        raise InputError(f"no pair is left to train on, for all sources of {_names(files)} are held out: give others")
    return ParallelCaptions(
        training=[line.pair for line in training],
        held_out=validation,
        dropped=dict(sorted(drops.counts.items())),
        examples=dict(sorted(drops.examples.items())),
    )


def _require_enough(files: list[Path], num_pairs: int, num_held_out: int, drops: _Drops) -> None:
    found = f"{num_pairs:,} usable pairs in {_names(files)} (lines dropped: {drops})"
    if num_pairs == 0:
        raise InputError(f"{found}: give UTF-8 lines of source<TAB>target")
    if num_pairs < 10 * num_held_out:
        raise InputError(f"{found}, too few to hold {num_held_out:,} out: give 10 times as many, or lower num_held_out")


def _names(files: list[Path]) -> str:
    return ", ".join(map(str, files))


def _aligned_lines(path: Path, drops: _Drops) -> list[PairLine]:
    """The lines of a file that are good by themselves and in step with each other."""
    if not path.is_file():
        raise InputError(f"{path} is no file: give a UTF-8 file of source<TAB>target lines")
    check_text_file(path, expected="UTF-8 lines of source<TAB>target")
    lines = []
    for raw in read_lines(path):
        fields = [text.strip() for text in raw.text.split("\t")]
        line = PairLine(path, raw.number, fields[0], "\t".join(fields[1:]))
        if reason := _fault(raw, fields):
            drops.add(reason, line)
        else:
            lines.append(line)
    lines = drops.part(lines, _unlike_in_length(lines), "length_ratio")
    return drops.part(lines, _misaligned(lines), "misaligned")


def _fault(line: Line, fields: list[str]) -> str:
    """Why a line is dropped for what is in it, or "" if it is good."""
    if line.trouble:
        return "bad_encoding" if line.trouble.reason == "bad_encoding" else "too_long"
    if len(fields) != 2:
        return "wrong_fields"
    source, target = fields
    if not _visible(source) or not _visible(target):
        return "empty"
    if max(len(source), len(target)) > MAX_CHARACTERS:
        return "too_long"
    if len(source.split()) >= MIN_COPIED_WORDS and _plain(source) == _plain(target):
        return "untranslated"
    return ""


def _visible(text: str) -> bool:
    """Whether there is more than white space, controls and such: of nothing else sentencepiece makes no piece."""
    return any(character.isprintable() and not character.isspace() and character not in UNSEEN for character in text)


def _unlike_in_length(lines: list[PairLine]) -> list[bool]:
    """Whether one text of each line is much too long beside the other.

    Chinese needs a third of the characters of English, so lengths are compared at the usual ratio of the file, in
    characters of the language that needs more of them.
    """
    if not lines:
        return []
    usual = statistics.median(len(line.target) / len(line.source) for line in lines)
    unlike = []
    for line in lines:
        shorter, longer = sorted((len(line.source) * max(usual, 1), len(line.target) * max(1 / usual, 1)))
        unlike.append(longer > SHORT_CHARACTERS and longer > MAX_LENGTH_RATIO * shorter)
    return unlike


def _misaligned(lines: list[PairLine]) -> list[bool]:
    misaligned = [False] * len(lines)
    for found in out_of_step([len(line.source) for line in lines], [len(line.target) for line in lines]):
        first, last = lines[found.start], lines[found.stop - 1]
        logger.warning(
            "%s: lines %d to %d are out of step (lengths of sources and targets do not correlate) and are dropped",
            first.path, first.number, last.number,
        )  # fmt: skip
        misaligned[found.start : found.stop] = [True] * len(found)
    return misaligned


def _distinct(lines: list[PairLine], drops: _Drops) -> list[PairLine]:
    seen: set[Pair] = set()
    distinct = []
    for line in lines:
        if line.pair in seen:
            drops.add("duplicate", line)
        else:
            seen.add(line.pair)
            distinct.append(line)
    return distinct


def _plain(text: str) -> str:
    """A text without what captions vary in freely: case, spaces before punctuation, a final stop."""
    return text.casefold().replace(" ,", ",").rstrip(" .!")
