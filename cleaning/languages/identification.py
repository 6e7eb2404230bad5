"""Which language a text is in, by engines chosen by name, and whether that is surely not the one it should be in.

A caption is dropped only if all of this holds: it has enough letters; the expected language has less than
`min_probability`; and one other language at least `min_other_probability`. A language that is easily mistaken for the
expected one needs a quarter more letters. Everything else is kept: undecided is not wrong. The defaults suit the
cascade and follow from `benchmarks/language_identification.py`. langdetect, which is as sure of itself when wrong as
when right, wants 0.1, 0.99 and 20 letters.
"""

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from cleaning.languages.engines import (
    COMMON_LANGUAGES,
    canonical_code,
    fast_languages,
    fast_probabilities,
    langdetect_languages,
    langdetect_probabilities,
    lingua_languages,
    lingua_probabilities,
    other_names,
)
from cleaning.text.scripts import count_letters
from data_catalog.errors import SettingsError
from data_catalog.language_pack import LanguagePack
from data_catalog.stages import Check, Drop

_CONFUSABLE_FACTOR = 1.25
# Longer ones are cut: no caption needs more, and time grows with length.
_MAX_CHARS = 1000
# Below float32's digits, which columns have, and above those that differ between processes.
_DECIMALS = 4
_TIE = 2 * 10.0**-_DECIMALS  # values further apart are not equal when rounded
# A caption need not be in the language of its row, but it is twice as likely to be as the engines, who are not told,
# would have it; and a tenth as likely to be in one that nobody expects.
_EXPECTED_WEIGHT = 2.0
_OUTSIDER_WEIGHT = 0.1
# Where the fast engine is as often right as both together: with so many letters and this probability of the expected
# language. That it is another one is a graver charge, as a caption may be dropped for it, and takes more.
_SURE_LETTERS = 15
_SURE_EXPECTED = 0.7
_SURE_OTHER_LETTERS = 30
_SURE_OTHER = 0.9
_HARDLY_EXPECTED = 0.02
_FAST_EXPONENT = 0.35
# No engine may rule a language out by itself.
_FLOOR = 0.001


@dataclass(frozen=True, slots=True)
class Candidates:
    """The language that captions should be in, and all that they may well be in, itself included."""

    expected: str
    languages: frozenset[str]


@functools.lru_cache(maxsize=64)
def _weights(candidates: Candidates) -> Mapping[str, float]:
    """Return how much likelier than the engines, who are not told, would have it each candidate is."""
    return MappingProxyType({**dict.fromkeys(candidates.languages, 1.0), candidates.expected: _EXPECTED_WEIGHT})


def cascade_probabilities(texts: Sequence[str], candidates: Candidates) -> list[Mapping[str, float]]:
    """Ask the fast engine, and lingua beside it wherever that is not sure.

    Measured by `benchmarks/language_identification.py`: on short captions both together are right where either alone
    is not, since their mistakes differ, and lingua deserves three times the say.

    Returns:
        Of each text, the probabilities of languages, a sum of 1; empty where the fast engine finds nothing.
    """
    raw = [fast_probabilities(text) for text in texts]
    found = [_weighted(probabilities, candidates) for probabilities in raw]
    unsure = [at for at, text in enumerate(texts) if not is_sure(text, found[at], candidates.expected)]
    opinions = lingua_probabilities([texts[at] for at in unsure], candidates.languages)
    for at, opinion in zip(unsure, opinions, strict=True):
        found[at] = _refined(found[at], raw[at], opinion, candidates)
    return found


def is_sure(text: str, probabilities: Mapping[str, float], expected: str) -> bool:
    """Tell if the fast engine's weighted probabilities of a text are left as they are; nothing found is left, too."""
    if not probabilities:
        return True
    num_letters, share = count_letters(text), probabilities.get(expected, 0.0)
    if share > _HARDLY_EXPECTED:
        return share >= _SURE_EXPECTED and num_letters >= _SURE_LETTERS
    return max(probabilities.values()) >= _SURE_OTHER and num_letters >= _SURE_OTHER_LETTERS


def _weighted(probabilities: Mapping[str, float], candidates: Candidates) -> Mapping[str, float]:
    weights = _weights(candidates)
    weighted = {language: value * weights.get(language, _OUTSIDER_WEIGHT) for language, value in probabilities.items()}
    total = sum(weighted.values())
    return {language: value / total for language, value in weighted.items()}


def _refined(
    weighted: Mapping[str, float], raw: Mapping[str, float], opinion: Mapping[str, float], candidates: Candidates
) -> Mapping[str, float]:
    """Share out what falls on candidates that lingua knows among them by both; the rest is the fast engine's."""
    known = sorted(candidates.languages & lingua_languages())
    share = sum(weighted.get(language, 0.0) for language in known)
    if not opinion or not share:
        return weighted
    weights = _weights(candidates)
    both = {
        language: weights[language]
        * (raw.get(language, 0.0) + _FLOOR) ** _FAST_EXPONENT
        * (opinion.get(language, 0.0) + _FLOOR)
        for language in known
    }
    scale = share / sum(both.values())
    return {**weighted, **{language: value * scale for language, value in both.items()}}


@dataclass(frozen=True, slots=True)
class LanguageVerdict:
    """What language a text is found to be in; None throughout where none is found, as in digits and symbols.

    Args:
        language: ISO 639-1 code of the likeliest language ("zh" for all of Chinese, "no" for all of Norwegian), or
            ISO 639-3 where it has no such code.
        probability: of that language, 0 to 1.
        margin: probability of the expected language less that of the likeliest other, -1 to 1.
    """

    language: str | None
    probability: float | None
    margin: float | None


NOTHING_FOUND = LanguageVerdict(None, None, None)
Identifier = Callable[[Sequence[str]], list[LanguageVerdict]]

Judge = Callable[[Sequence[str], Candidates], list[Mapping[str, float]]]
# By name, what gives the probabilities of languages, and which languages it knows.
ENGINES: dict[str, tuple[Judge, Callable[[], frozenset[str]]]] = {
    "cascade": (cascade_probabilities, lambda: fast_languages() | lingua_languages()),
    "fast": (lambda texts, near: [_weighted(fast_probabilities(text), near) for text in texts], fast_languages),
    "lingua": (lambda texts, near: lingua_probabilities(texts, near.languages), lingua_languages),
    "langdetect": (lambda texts, near: [langdetect_probabilities(text) for text in texts], langdetect_languages),
}


def language_identifier(expected: str, *, candidates: Collection[str] = (), engine: str = "cascade") -> Identifier:
    """Return what tells the languages of texts that should be in `expected`: one verdict a text, in their order.

    A verdict depends on nothing but the text and these arguments. Models are loaded at the first text, from installed
    packages; nothing is ever asked of a network.

    Args:
        expected: code of the language that the texts should be in; a pack's code or langdetect's will do.
        candidates: languages that it is mistaken for, or that the texts come from. They, `expected` and
            `COMMON_LANGUAGES` are those that lingua chooses among; the fast engine takes others for unlikely, and
            langdetect chooses among all that it knows.
        engine: a key of `ENGINES`.

    Raises:
        SettingsError: there is no such engine; it does not know `expected`; or none knows one of the candidates.
    """
    if engine not in ENGINES:
        raise SettingsError(f"no engine {engine!r} tells languages: use one of {', '.join(ENGINES)}")
    if canonical_code(expected) not in ENGINES[engine][1]():
        able = [name for name, (_, known) in ENGINES.items() if canonical_code(expected) in known()]
        advice = f"use {' or '.join(able)}" if able else "no engine does"
        raise SettingsError(f"the engine {engine!r} does not know the language {expected!r}; {advice}")
    for candidate in candidates:
        if candidate not in (known := detectable_languages()):
            raise SettingsError(f"no engine tells the language {candidate!r}; known are {', '.join(known)}")
    language = canonical_code(expected)
    chosen = Candidates(language, frozenset(map(canonical_code, (*candidates, *COMMON_LANGUAGES, language))))
    judge = ENGINES[engine][0]

    def identify(texts: Sequence[str]) -> list[LanguageVerdict]:
        # Captions repeat ("a photo of"): each is judged once.
        different = [text for text in dict.fromkeys(texts) if any(map(str.isalpha, text))]
        probabilities = judge([text[:_MAX_CHARS] for text in different], chosen)
        pairs = zip(different, probabilities, strict=True)
        verdicts = {text: _verdict(found, language) for text, found in pairs}
        return [verdicts.get(text, NOTHING_FOUND) for text in texts]

    return identify


def _verdict(probabilities: Mapping[str, float], expected: str) -> LanguageVerdict:
    if not probabilities:
        return NOTHING_FOUND
    most = max(probabilities.values())
    # Only what may be the most when rounded is; a tie goes to the first by code, whatever the order is.
    near = [(-round(value, _DECIMALS), code) for code, value in probabilities.items() if value > most - _TIE]
    language = min(near)[1]
    other = round(max((value for code, value in probabilities.items() if code != expected), default=0.0), _DECIMALS)
    own = round(probabilities.get(expected, 0.0), _DECIMALS)
    return LanguageVerdict(language, round(probabilities[language], _DECIMALS), round(own - other, _DECIMALS))


def wrong_language(
    verdicts: Sequence[LanguageVerdict],
    texts: Sequence[str],
    *,
    confusions: Collection[str] = (),
    min_probability: float = 0.1,
    min_other_probability: float = 0.5,
    min_letters: float = 15,
) -> list[Drop | None]:
    """Drop the texts whose verdicts say that they are surely not in the language that the verdicts are about.

    Reason: wrong_language, with detail "de 0.99".

    Args:
        verdicts: of the texts, in their order; from one `language_identifier`.
        texts: what was judged.
        confusions: languages that take a quarter more letters.
        min_probability: a text is kept if the expected language has at least this much.
        min_other_probability: a text is dropped only if another language has at least this much.
        min_letters: a text with fewer letters is kept (`cleaning.text.scripts.count_letters`).
    """
    confusable = frozenset(map(canonical_code, confusions))

    def judge(verdict: LanguageVerdict, text: str) -> Drop | None:
        if verdict.language is None or verdict.probability is None or verdict.margin is None or verdict.margin >= 0:
            return None
        # Out of a column 0.9 comes back as 0.899999976. The likeliest language is another one, so that the margin
        # tells how much the expected one has.
        probability = round(verdict.probability, _DECIMALS)
        expected_probability = round(verdict.probability + verdict.margin, _DECIMALS)
        if probability < min_other_probability or expected_probability >= min_probability:
            return None
        if count_letters(text) < min_letters * (_CONFUSABLE_FACTOR if verdict.language in confusable else 1):
            return None
        # Cut, not rounded: 0.999 shows as 0.99, never as certainty.
        percent = min(int(round(100 * probability, 2)), 99)
        return Drop("wrong_language", f"{verdict.language} 0.{percent:02}")

    return [judge(verdict, text) for verdict, text in zip(verdicts, texts, strict=True)]


def caption_language(
    expected: str, *, confusions: Collection[str] = (), engine: str = "cascade", **limits: float
) -> Check:
    """Drop captions that are surely in another language than `expected`: `wrong_language` of what the engine finds.

    Raises SettingsError as `language_identifier` does, of which the `confusions` are the candidates.
    """
    identify = language_identifier(expected, candidates=confusions, engine=engine)
    return lambda texts: wrong_language(identify(texts), texts, confusions=confusions, **limits)


@functools.cache
def detectable_languages(engine: str | None = None) -> tuple[str, ...]:
    """Return the codes of languages that an engine of `ENGINES`, or any, can tell: all that they have, sorted."""
    known = frozenset().union(*(ENGINES[name][1]() for name in ENGINES if engine in (None, name)))
    return tuple(sorted(known | other_names(known)))


def detectable_code(pack: LanguagePack, engine: str | None = None) -> str | None:
    """Return the language's code, or None where the engine, or any of them, does not know it."""
    code = pack.langdetect or pack.code
    return code if code in detectable_languages(engine) else None


# So many say of a set of any size what most of its texts are in, within a few hundredths.
_MOST_TEXTS = 1000
# Most captions have enough to be judged alone. Shorter texts are put together: of ImageNet's English names, one by one,
# a tenth are surely not Italian, and three quarters of pieces so long; of the Italian ones, nothing is.
_LETTERS_ALONE, _LETTERS_TOGETHER = 25, 45
_LETTERS_TO_TELL = 15  # the cleaning rule's
# Without lingua, which takes seconds to load and is better where texts are short only.
_ENGINES_FOR_MANY = ("fast", "cascade")
# Of texts that are in the language, fewer than one in a hundred look as if they were not.
_WORTH_TELLING = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherLanguages:
    """Which texts look like another language than they should be in.

    Args:
        shares: of the texts that surely do, by that language's code, the largest first.
        num_judged: texts with letters enough to tell, among those that were looked at; None: no identifier knows the
            language.
    """

    shares: Mapping[str, float]
    num_judged: int | None

    @property
    def share(self) -> float:
        """Share of the texts that surely look like any other language."""
        return sum(self.shares.values())

    def notes(self, what: str, expected: str) -> Iterator[str]:
        """Say what is worth telling of it, if anything.

        Args:
            what: the texts are, such as "captions".
            expected: code of the language that they should be in.
        """
        if self.num_judged is None:
            yield f"whether the {what} are in {expected} is not known: no identifier of languages knows it"
        elif not self.num_judged:
            yield f"whether the {what} are in {expected} cannot be told: they have too few letters"
        elif self.share >= _WORTH_TELLING:
            told = ", ".join(f"{code} {_percent(part)}" for code, part in list(self.shares.items())[:3])
            looked_at = f"of {self.num_judged:,} {what} that were looked at, {_percent(self.share)} look like another"
            meaning = f": these are hardly scores in {expected}" if self.share > 1 / 2 else ""
            yield f"{looked_at} language than {expected} ({told}){meaning}"


def other_languages(texts: Sequence[str], pack: LanguagePack) -> OtherLanguages:
    """Look for texts in another language than the pack's: captions or class names of any length, judged together.

    Of many texts, at a fixed sample.
    """
    engine = next((name for name in _ENGINES_FOR_MANY if detectable_code(pack, name) is not None), None)
    code = detectable_code(pack, engine)
    if engine is None or code is None:
        return OtherLanguages(shares={}, num_judged=None)
    candidates = set(pack.confusions).intersection(detectable_languages())
    identify = language_identifier(code, candidates=candidates, engine=engine)
    if len(texts) > _MOST_TEXTS:  # every tenth might all be of one language of two
        texts = [texts[place] for place in Random(0).sample(range(len(texts)), _MOST_TEXTS)]
    pieces = list(_pieces(texts))
    joined = [text for text, _ in pieces]
    verdicts = identify(joined)
    drops = wrong_language(verdicts, joined, confusions=pack.confusions, min_letters=_LETTERS_TO_TELL)
    others: Counter[str] = Counter()
    num_judged = 0
    for (text, count), verdict, drop in zip(pieces, verdicts, drops, strict=True):
        if verdict.language is not None and count_letters(text) >= _LETTERS_TO_TELL:
            num_judged += count
        if drop is not None:
            others[str(verdict.language)] += count
    shares = {other: round(count / num_judged, 4) for other, count in others.most_common()}
    return OtherLanguages(shares=shares, num_judged=num_judged)


def _pieces(texts: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield long texts one by one, short ones put together, and how many texts each piece is made of."""
    held: list[str] = []
    num_letters = 0
    for text in texts:
        own = count_letters(text)
        if own >= _LETTERS_ALONE:
            yield text, 1
            continue
        held.append(text)
        num_letters += own
        if num_letters >= _LETTERS_TOGETHER:
            yield " ".join(held), len(held)
            held, num_letters = [], 0
    if held:
        yield " ".join(held), len(held)


def _percent(share: float) -> str:
    return f"{int(round(100 * share, 2))} %"
