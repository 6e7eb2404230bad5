"""Parallel captions from a TSV file: what is used, what is dropped and why, what is held out."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_catalog.errors import ConfigError
from data_catalog.shards import order_key

MAX_CHARACTERS = 400
MAX_LENGTH_RATIO = 4.0
SHORT_CHARACTERS = 20  # the ratio of lengths says nothing about shorter texts
DROP_REASONS = {
    "bad_encoding": "the line is not UTF-8, or holds a NUL",
    "wrong_fields": "the line has not exactly two fields, source and target, with a tab between",
    "empty": "one of the two texts is empty",
    "too_long": f"one of the two texts has more than {MAX_CHARACTERS} characters",
    "length_ratio": f"one text is more than {MAX_LENGTH_RATIO:g} times as long as the other",
    "duplicate_source": "the source text occurred before; the first translation is used",
}

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelCaptions:
    """Distinct pairs of (source, target) in the order of a hash of the source, and lines dropped by reason."""

    training: list[Pair]
    held_out: list[Pair]
    dropped: dict[str, int]


def read_pairs(path: Path, *, num_held_out: int) -> ParallelCaptions:
    """Read `source<TAB>target` lines; the `num_held_out` pairs with the smallest hash are for validation.

    Texts that differ in case and final punctuation only fall on the same side.

    Raises:
        ConfigError: the file is missing, or has fewer than 10 usable pairs for each one held out.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is no file: give a UTF-8 file of source<TAB>target lines")
    dropped: Counter[str] = Counter()
    pairs: dict[str, str] = {}
    for reason, source, target in _judged_lines(path):
        if not reason and source in pairs:
            reason = "duplicate_source"
        if reason:
            dropped[reason] += 1
        else:
            pairs[source] = target
    if len(pairs) < 10 * num_held_out:
        found = f"{path} has {len(pairs):,} usable pairs"
        raise ConfigError(f"{found}, too few to hold {num_held_out:,} out: give 10 times as many, or hold out fewer")
    training, held_out = _split(pairs, num_held_out)
    return ParallelCaptions(training=training, held_out=held_out, dropped=dict(sorted(dropped.items())))


def _judged_lines(path: Path) -> Iterator[tuple[str, str, str]]:
    with path.open("rb") as file:
        for line in file:
            try:
                text = line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                yield "bad_encoding", "", ""
                continue
            fields = [field.strip() for field in text.split("\t")]
            yield (_fault(fields), fields[0], fields[-1])


def _fault(fields: list[str]) -> str:
    """Why a line is dropped, or "" if it is good."""
    if any("\0" in field for field in fields):
        return "bad_encoding"
    if len(fields) != 2:
        return "wrong_fields"
    shorter, longer = sorted(len(field) for field in fields)
    if shorter == 0:
        return "empty"
    if longer > MAX_CHARACTERS:
        return "too_long"
    if longer > SHORT_CHARACTERS and longer > MAX_LENGTH_RATIO * shorter:
        return "length_ratio"
    return ""


def _split(pairs: dict[str, str], num_held_out: int) -> tuple[list[Pair], list[Pair]]:
    ordered = sorted(pairs.items(), key=lambda pair: (order_key(_plain(pair[0])), pair))
    held_out = ordered[:num_held_out]
    seen = {_plain(source) for source, _ in held_out}
    return [pair for pair in ordered[num_held_out:] if _plain(pair[0]) not in seen], held_out


def _plain(text: str) -> str:
    """A text without what captions vary in freely: case, spaces before punctuation, a final stop."""
    return text.casefold().replace(" ,", ",").rstrip(" .!")
