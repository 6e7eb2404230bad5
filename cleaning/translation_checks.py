"""Checks on a translation beside its source: only for rows that were translated, never for native ones."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from cleaning.duplicates import exact_key
from cleaning.scripts import count_letters, count_words, split_tokens
from data_catalog.errors import ConfigError
from data_catalog.stages import Drop, PairCheck

_PairJudge = Callable[[str, str], Drop | None]

# A word in a row four times, or two to four words in a row three times, are a decoder's loop, not prose.
_MAX_NGRAM = 4
_MIN_LOOPS = {1: 4, 2: 3, 3: 3, 4: 3}


def copied_through(*, min_words: int = 3) -> PairCheck:
    """Drop translations that equal their source, case and punctuation aside.

    Fewer than `min_words` words are kept: "hot dog" and "Kim Rhodes" are right in both languages.
    Reason: copied_through.
    """

    def judge(source: str, target: str) -> Drop | None:
        if exact_key(source) == exact_key(target) and count_words(target) >= min_words:
            return Drop("copied_through")
        return None

    return _for_each_pair(judge)


def repeated_ngrams() -> PairCheck:
    """Drop translations in which one to four words loop (four times for one word, else three), unless the source does.

    Reason: repeated_ngrams, the detail naming what loops and how often.
    """

    def judge(source: str, target: str) -> Drop | None:
        loop = _find_loop(split_tokens(target.casefold()))
        if loop is None or _find_loop(split_tokens(source.casefold())) is not None:
            return None
        words, times = loop
        return Drop("repeated_ngrams", f"{' '.join(words)[:60]!r} {times} times")

    return _for_each_pair(judge)


def length_ratio(*, min_ratio: float = 0.4, max_ratio: float = 2.5, slack_letters: int = 15) -> PairCheck:
    """Drop translations that are too short or too long for their source, by letters (`cleaning.scripts.count_letters`).

    A difference of up to `slack_letters` is never held against a caption: short ones vary widely.
    Reason: length_ratio, with detail "ratio 0.21".
    """
    if not 0 <= min_ratio <= 1 <= max_ratio:
        raise ConfigError(f"length ratios must have 0 <= min <= 1 <= max, got {min_ratio} and {max_ratio}")

    def judge(source: str, target: str) -> Drop | None:
        num_source, num_target = count_letters(source), count_letters(target)
        if not num_source or abs(num_source - num_target) <= slack_letters:
            return None
        ratio = num_target / num_source
        return None if min_ratio <= ratio <= max_ratio else Drop("length_ratio", f"ratio {ratio:.2f}")

    return _for_each_pair(judge)


def numbers_lost(*, min_number: int = 21) -> PairCheck:
    """Drop translations that lack a number of their source that is at least `min_number`.

    Smaller ones are often spelt out. Separators do not count (1,000 = 1.000 = 1 000); a year may be shortened
    ("1980s", "anni '80"); hours of a.m. and p.m. and decades ("in his 30s") may be reworded.
    Reason: numbers_lost, the detail listing them.
    """

    def judge(source: str, target: str) -> Drop | None:
        if not any(map(str.isdigit, source)):
            return None
        wanted = Counter(number for number in _numbers(_REWORDED.sub(" ", source)) if int(number) >= min_number)
        # Numbers of the source that follow one another may be written as one: digits are looked for in a row.
        digits = "".join(_numbers(target))
        lost = [number for number in wanted if number not in digits and not _shortened(number, digits)]
        return Drop("numbers_lost", ", ".join(lost)[:60]) if lost else None

    return _for_each_pair(judge)


def _for_each_pair(judge: _PairJudge) -> PairCheck:
    def check(sources: Sequence[str], targets: Sequence[str]) -> list[Drop | None]:
        return [judge(source, target) for source, target in zip(sources, targets, strict=True)]

    return check


def _find_loop(tokens: list[str]) -> tuple[list[str], int] | None:
    """The shortest n-gram that follows itself often enough, and how often; None if there is none."""
    for size in range(1, min(_MAX_NGRAM, len(tokens)) + 1):
        run = 0  # tokens in a row that equal the token `size` places before
        for index in range(size, len(tokens)):
            run = run + 1 if tokens[index] == tokens[index - size] else 0
            if run == size * (_MIN_LOOPS[size] - 1):
                start = index + 1 - size * _MIN_LOOPS[size]
                return tokens[start : start + size], _count_loops(tokens, start, size)
    return None


def _count_loops(tokens: list[str], start: int, size: int) -> int:
    gram, times = tokens[start : start + size], 0
    while tokens[start + times * size : start + (times + 1) * size] == gram:
        times += 1
    return times


# "5:30 pm" and "in his 30's".
_REWORDED = re.compile(r"\b\d{1,2}(?:[:.]\d{2})?\s?[ap]\.?m\b|\b\d0['’]?s\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,3}(?:[.,'’ \u00a0\u202f]\d{3})+(?!\d)|\d{1,18}")
_YEAR = re.compile(r"(?:1[89]|20)\d{2}")


def _numbers(text: str) -> list[str]:
    """Numbers as ASCII digits without separators or leading zeros; digits of any script count."""
    found = ("".join(str(int(char)) for char in match if char.isdecimal()) for match in _NUMBER.findall(text))
    return [number.lstrip("0") or "0" for number in found]


def _shortened(number: str, digits: str) -> bool:
    return bool(_YEAR.fullmatch(number)) and number[2:] in digits
