"""Which language most of some texts are in: captions or class names of any length, judged together."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from cleaning.languages.identification import (
    detectable_code,
    detectable_languages,
    language_identifier,
    wrong_language,
)
from cleaning.text.scripts import count_letters
from data_catalog.language_pack import LanguagePack

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
    """Look for texts in another language than the pack's; of many texts, at a fixed sample."""
    engine = next((name for name in _ENGINES if detectable_code(pack, name) is not None), None)
    code = detectable_code(pack, engine)
    if engine is None or code is None:
        return OtherLanguages(shares={}, num_judged=None)
    candidates = set(pack.confusions).intersection(detectable_languages())
    identify = language_identifier(code, candidates=candidates, engine=engine)
    pieces = list(_pieces(_sample(texts)))
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


def _sample(texts: Sequence[str]) -> list[str]:
    """Return at most `_MOST_TEXTS` of them, drawn alike each time: every tenth might all be of one language of two."""
    if len(texts) <= _MOST_TEXTS:
        return list(texts)
    return [texts[place] for place in Random(0).sample(range(len(texts)), _MOST_TEXTS)]


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
