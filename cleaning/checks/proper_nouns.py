"""Check: a caption that is little but names ("Anna Maria Mozzoni") says nothing of what is seen.

The paper drops captions of which at least 80 % of the tokens are tagged PROPN: so does `tagged_proper_nouns`, with any
`Tagger` (`cleaning.checks.taggers` finds one). Without a tagger, `proper_noun_share` is a rule of thumb:

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
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from cleaning.checks.definition import CaptionCheck, Captions, Rule, setting, warn_once
from cleaning.checks.taggers import TAGGER_CHOICES, Tagger, find_tagger
from data_catalog.language_pack import LanguagePack
from data_catalog.stages import Check, Drop

_WORD = re.compile(r"[^\W\d_]\w*|[.!?:;]+(?=\s)", re.UNICODE)


@dataclass(frozen=True, kw_only=True)
class ProperNouns(
    CaptionCheck,
    name="proper_nouns",
    reasons={"mostly_proper_nouns": "the caption is little but names"},
):
    """Drop captions that are mostly names: those of which nothing can be seen."""

    proper_noun_check: bool = setting(True)
    proper_noun_tagger: str = setting(
        "auto",
        "Tagger that tells names: `auto` (spaCy, then Stanza, where there is a model of the language, else the rule of "
        "thumb), `spacy`, `stanza` or `heuristic`.",
        among=TAGGER_CHOICES,
    )
    max_proper_noun_share: float = setting(
        0.8,
        "Share of names among words, above 0 and at most 1, from which on a caption is dropped. 0.8 in the paper.",
        gt=0,
        le=1,
    )

    def find_tagger(self, pack: LanguagePack) -> Tagger | None:
        """Return the tagger to bind the check with: None where it needs none.

        Raises:
            SettingsError, InputError: as `cleaning.checks.taggers.find_tagger` does.
        """
        return find_tagger(pack, self.proper_noun_tagger) if self.proper_noun_check else None

    def rule(self, captions: Captions) -> Rule | None:
        """Return the check by a tagger, or by capitals where these tell; say so where they do not."""
        pack = captions.pack
        if captions.tagger is not None:
            judge = tagged_proper_nouns(captions.tagger, max_share=self.max_proper_noun_share)
        elif pack.function_words and not pack.capitalises_nouns:
            judge = proper_noun_share(
                function_words=pack.function_words,
                common_nouns=pack.common_nouns,
                max_share=self.max_proper_noun_share,
            )
        else:
            cause = "its nouns have capitals" if pack.capitalises_nouns else "the pack has no function words"
            warn_once(
                f"captions in {pack.code!r} are not checked for proper nouns: {cause}, and no tagger is installed"
            )
            return None
        return self.rule_on(captions, lambda table: judge(table.column(0).to_pylist()))


def proper_noun_share(
    *, function_words: Collection[str], common_nouns: Collection[str] = (), max_share: float = 0.8
) -> Check:
    """Drop captions whose words of content are proper nouns to at least `max_share` (0 to 1).

    Function words and common nouns are lower-case, without apostrophe; the latter are no names at the start of a
    sentence. Reason: mostly_proper_nouns, with detail "3 of 3 words".
    """
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

    def verdict(share: float | None) -> Drop | None:
        if share is None or share < max_share:
            return None
        return Drop("mostly_proper_nouns", f"{100 * share:.0f} % of the tokens")

    def check(texts: Sequence[str]) -> list[Drop | None]:
        return [verdict(share) for share in tagger.share(texts)]

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


def _proper_nouns(words: list[str], function_words: frozenset[str], common_nouns: frozenset[str]) -> list[bool]:
    """One verdict per word of content."""
    capitals = [word[0].isupper() and word.lower() not in function_words for word in words]
    if len(words) == 1 or not capitals[1] or words[0].lower() in common_nouns:
        capitals[0] = False
    content = [word.lower() not in function_words for word in words]
    return [capital for capital, counts in zip(capitals, content, strict=True) if counts]
