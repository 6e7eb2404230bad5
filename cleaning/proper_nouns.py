"""Check: a caption that is little but names ("Anna Maria Mozzoni") says nothing of what is seen.

The paper drops captions of which at least 80 % of the tokens are tagged PROPN: so does `tagged_proper_nouns`, with any
`Tagger` (`cleaning.taggers` finds one). Without a tagger, `proper_noun_share` is a rule of thumb:

- Words of content are those that begin with a letter and are no function words of the language; unlike with a tagger,
  nothing else counts: "Kim Rhodes nel 2010" is two names of two words.
- A word of content with a capital is a proper noun. At the start of a sentence the capital says so only if the next
  word is a word of content with a capital, too: "Dora Riparia", but not "Gatto nero" or "Chiesa di San Marco"; and
  only if the word is not among the common nouns that are given: "Piazza Garibaldi".
- A caption is kept, as undecided, if it is (nearly) all capitals; if a function word inside a sentence has a capital
  (then it is a title: "A Man And His Dog"); or if its script has no case.

It can't see that "Leonardo da Vinci" is a name, nor that "Man Riding Horse" is none; German, where every noun has a
capital, needs a tagger.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Protocol

from data_catalog.errors import ConfigError
from data_catalog.stages import Check, Drop


class Tagger(Protocol):
    """Says of texts in one language how much of them is proper nouns; the same of a text whatever its neighbours."""

    @property
    def name(self) -> str:
        """Engine, model and its version, such as "spacy:fr_core_news_sm 3.8.0": what decides the verdicts."""

    def share(self, texts: Sequence[str]) -> list[float | None]:
        """`tagged_share` of each text, in the same order."""


_WORD = re.compile(r"[^\W\d_]\w*|[.!?:;]+(?=\s)", re.UNICODE)


def proper_noun_share(
    *, function_words: Collection[str], common_nouns: Collection[str] = (), max_share: float = 0.8
) -> Check:
    """Drop captions whose words of content are proper nouns to at least `max_share` (0 to 1).

    Function words and common nouns are lower-case, without apostrophe; the latter are no names at the start of a
    sentence. Reason: mostly_proper_nouns, with detail "3 of 3 words".
    """
    _require_share(max_share)
    known, common = frozenset(function_words), frozenset(common_nouns)

    def judge(text: str) -> Drop | None:
        if text.islower() or _is_shouted(text):
            return None
        sentences = list(_sentences(text))
        if any(_is_title(words, known) for words in sentences):
            return None
        verdicts = [verdict for words in sentences for verdict in _proper_nouns(words, known, common)]
        if verdicts and sum(verdicts) >= max_share * len(verdicts):
            return Drop("mostly_proper_nouns", f"{sum(verdicts)} of {len(verdicts)} words")
        return None

    def check(texts: Sequence[str]) -> list[Drop | None]:
        return [judge(text) for text in texts]

    return check


def tagged_proper_nouns(tagger: Tagger, *, max_share: float = 0.8) -> Check:
    """Drop captions whose tokens are proper nouns to at least `max_share` (0 to 1), as the tagger has it.

    Reason: mostly_proper_nouns, with detail "100 % of the tokens".
    """
    _require_share(max_share)

    def verdict(share: float | None) -> Drop | None:
        if share is None or share < max_share:
            return None
        return Drop("mostly_proper_nouns", f"{100 * share:.0f} % of the tokens")

    def check(texts: Sequence[str]) -> list[Drop | None]:
        return [verdict(share) for share in tagger.share(texts)]

    return check


def tagged_share(tokens: Iterable[tuple[str, bool]]) -> float | None:
    """Proper nouns by tokens, from tokens and whether each is tagged PROPN; None where no token counts.

    As in the paper every token counts, function words and numbers too: "Kim Rhodes nel 2010" has a share of a half.
    But a token must hold a letter or a digit: taggers differ in what they make of punctuation, signs and emoji, and a
    full stop should not save a name.
    """
    verdicts = [tagged for token, tagged in tokens if any(map(str.isalnum, token))]
    return sum(verdicts) / len(verdicts) if verdicts else None


def _require_share(max_share: float) -> None:
    if not 0 < max_share <= 1:
        raise ConfigError(f"max_proper_noun_share must be above 0 and at most 1, got {max_share}")


def _sentences(text: str) -> Iterator[list[str]]:
    """Words by sentence; a stop after a capitalised word ends none, since it may be an initial ("G. H. Hardy")."""
    words: list[str] = []
    for token in _WORD.findall(text):
        if token[0].isalpha():
            words.append(token)
        elif words and not words[-1][0].isupper():
            yield words
            words = []
    if words:
        yield words


def _is_shouted(text: str) -> bool:
    """Whether capitals outnumber small letters two to one, as in "A CAKE on A TABLE": capitals then tell nothing."""
    return sum(map(str.isupper, text)) > 2 * sum(map(str.islower, text))


def _is_title(words: list[str], function_words: frozenset[str]) -> bool:
    return any(word[0].isupper() and len(word) > 1 and word.lower() in function_words for word in words[1:])


def _proper_nouns(words: list[str], function_words: frozenset[str], common_nouns: frozenset[str]) -> list[bool]:
    """One verdict per word of content."""
    capitals = [word[0].isupper() and word.lower() not in function_words for word in words]
    if len(words) == 1 or not capitals[1] or words[0].lower() in common_nouns:
        capitals[0] = False
    content = [word.lower() not in function_words for word in words]
    return [capital for capital, counts in zip(capitals, content, strict=True) if counts]
