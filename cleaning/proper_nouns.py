"""Check: a caption that is little but names ("Anna Maria Mozzoni") says nothing of what is seen.

The paper drops captions of which at least 80 % of the tokens are tagged PROPN. Here is a rule of thumb instead:

- Words of content are those of letters only that are no function words of the language; numbers do not count.
- A word of content with a capital is a proper noun. At the start of a sentence the capital says so only if the next
  word is a word of content with a capital, too: "Dora Riparia", but not "Gatto nero" or "Chiesa di San Marco".
- A caption is kept, as undecided, if it is (nearly) all capitals; if a function word inside a sentence has a capital
  (then it is a title: "A Man And His Dog"); or if its script has no case.

It can't see that "Leonardo da Vinci" is a name, nor that "Man Riding Horse" is none; German, where every noun has a
capital, needs a tagger.
"""

import re
from collections.abc import Collection, Iterator, Sequence

from data_catalog.errors import ConfigError
from data_catalog.stages import Check, Drop

_WORD = re.compile(r"[^\W\d_]\w*|[.!?:;]+(?=\s)", re.UNICODE)


def proper_noun_share(*, function_words: Collection[str], max_share: float = 0.8) -> Check:
    """Drop captions whose words of content are proper nouns to at least `max_share` (0 to 1).

    Function words are lower-case, without apostrophe. Reason: mostly_proper_nouns, with detail "3 of 3 words".
    """
    if not 0 < max_share <= 1:
        raise ConfigError(f"max_proper_noun_share must be above 0 and at most 1, got {max_share}")
    known = frozenset(function_words)

    def judge(text: str) -> Drop | None:
        if text.islower() or _is_shouted(text):
            return None
        sentences = list(_sentences(text))
        if any(_is_title(words, known) for words in sentences):
            return None
        verdicts = [verdict for words in sentences for verdict in _proper_nouns(words, known)]
        if verdicts and sum(verdicts) >= max_share * len(verdicts):
            return Drop("mostly_proper_nouns", f"{sum(verdicts)} of {len(verdicts)} words")
        return None

    def check(texts: Sequence[str]) -> list[Drop | None]:
        return [judge(text) for text in texts]

    return check


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


def _proper_nouns(words: list[str], function_words: frozenset[str]) -> list[bool]:
    """One verdict per word of content."""
    capitals = [word[0].isupper() and word.lower() not in function_words for word in words]
    if len(words) == 1 or not capitals[1]:
        capitals[0] = False
    content = [word.lower() not in function_words for word in words]
    return [capital for capital, counts in zip(capitals, content, strict=True) if counts]
