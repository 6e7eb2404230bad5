"""Which language the captions or class names of a scored set are really in, since scores in another say nothing."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from cleaning.languages.engines import canonical_code
from cleaning.languages.identification import (
    Identifier,
    detectable_code,
    detectable_languages,
    language_identifier,
    wrong_language,
)
from cleaning.text.scripts import count_letters
from data_catalog.language_pack import LanguagePack
from training.galleries import Gallery, LabelledImages, TextLanguage

logger = logging.getLogger(__name__)

# So many say of a set of any size what most of its texts are in, within a few hundredths.
_MOST_TEXTS = 1000
# Most captions have enough to be judged alone. Shorter texts are put together: of ImageNet's English names, one by one,
# a tenth are surely not Italian, and three quarters of pieces so long; of the Italian ones, nothing is.
_LETTERS_ALONE, _LETTERS_TOGETHER = 25, 45
_LETTERS_TO_TELL = 15  # the cleaning rule's
# Without lingua, which takes seconds to load and is better where texts are short only.
_ENGINES = ("fast", "cascade")
# Of texts that are in the language, fewer than one in a hundred look as if they were not.
_WORTH_TELLING = 0.1


def with_language(
    test_set: Gallery | LabelledImages, asked: str, pack: LanguagePack, stated: str | None = None
) -> Gallery | LabelledImages:
    """The set, with what language its texts are in, and notes where that is not the one that models are scored in.

    Args:
        asked: the language that models are scored in.
        pack: of the language that the texts should be in: `stated`, or `asked` where nothing is stated.
        stated: what whoever named the set says, or its files.
    """
    is_gallery = isinstance(test_set, Gallery)
    texts = test_set.captions if isinstance(test_set, Gallery) else test_set.class_names
    language = _language_of(texts, asked, pack, stated)
    notes = list(_notes("captions" if is_gallery else "class names", language, pack.code))
    if sum(language.looks_like.values()) > 1 / 2:
        logger.warning("%s: %s", test_set.name, notes[-1])
    return replace(test_set, language=language, notes=(*test_set.notes, *notes))


def _language_of(texts: Sequence[str], asked: str, pack: LanguagePack, stated: str | None) -> TextLanguage:
    engine = next((name for name in _ENGINES if detectable_code(pack, name) is not None), None)
    code = detectable_code(pack, engine)
    if engine is None or code is None:
        return TextLanguage(asked=asked, stated=stated, looks_like={}, num_judged=None)
    candidates = set(pack.confusions).intersection(detectable_languages())
    identify = language_identifier(code, candidates=candidates, engine=engine)
    others, num_judged = _others(texts, identify, pack.confusions)
    shares = {other: round(count / num_judged, 4) for other, count in others.most_common()}
    return TextLanguage(asked=asked, stated=stated, looks_like=shares, num_judged=num_judged)


def _others(texts: Sequence[str], identify: Identifier, confusions: Sequence[str]) -> tuple[Counter[str], int]:
    """How many texts are surely in which other languages, and how many can be judged at all; of a fixed sample."""
    pieces = list(_pieces(_sample(texts)))
    joined = [text for text, _ in pieces]
    verdicts = identify(joined)
    drops = wrong_language(verdicts, joined, confusions=confusions, min_letters=_LETTERS_TO_TELL)
    others: Counter[str] = Counter()
    num_judged = 0
    for (text, count), verdict, drop in zip(pieces, verdicts, drops, strict=True):
        if verdict.language is not None and count_letters(text) >= _LETTERS_TO_TELL:
            num_judged += count
        if drop is not None:
            others[str(verdict.language)] += count
    return others, num_judged


def _sample(texts: Sequence[str]) -> list[str]:
    """At most `_MOST_TEXTS` of them, drawn alike each time: every tenth might all be of one language of two."""
    if len(texts) <= _MOST_TEXTS:
        return list(texts)
    return [texts[place] for place in Random(0).sample(range(len(texts)), _MOST_TEXTS)]


def _pieces(texts: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Long texts one by one, short ones put together, and how many texts each piece is made of."""
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


def _notes(what: str, language: TextLanguage, expected: str) -> Iterator[str]:
    if language.stated is not None and canonical_code(language.stated) != canonical_code(language.asked):
        yield f"the {what} are in {language.stated}, as stated, not in {language.asked}"
    if language.num_judged is None:
        yield f"whether the {what} are in {expected} is not known: no identifier of languages knows it"
        return
    if not language.num_judged:
        yield f"whether the {what} are in {expected} cannot be told: they have too few letters"
        return
    share = sum(language.looks_like.values())
    if share < _WORTH_TELLING:
        return
    told = ", ".join(f"{code} {_percent(part)}" for code, part in list(language.looks_like.items())[:3])
    looked_at = f"of {language.num_judged:,} {what} that were looked at, {_percent(share)} look like another language"
    meaning = f": these are hardly scores in {expected}" if share > 1 / 2 else ""
    yield f"{looked_at} than {expected} ({told}){meaning}"


def _percent(share: float) -> str:
    return f"{int(round(100 * share, 2))} %"
