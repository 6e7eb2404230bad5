"""What is done to a caption before it is translated and to a translation before it is believed."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

MIN_SHOUTED_WORDS = 2  # a single word in capitals is more likely a name: "NASA"
MAX_BLOCK_TOKENS = 12
MIN_COPIES = 3


@dataclass(frozen=True, slots=True)
class Prepared:
    """A caption as the model is to see it.

    Args:
        sentences: texts that go to the model, in order; none where there is nothing to translate.
        around: what stands before, between and after them as it is; one more than there are sentences.
        shouted: the translation is to be put in capitals.
    """

    sentences: tuple[str, ...]
    around: tuple[str, ...]
    shouted: bool = False


def prepare(caption: str, alphabet: frozenset[str] | None = None) -> Prepared:
    """The parts of a caption that a model can translate, sentence by sentence, and what must stay as it is.

    Line breaks become spaces (Argos Translate would take them for paragraphs), and so do underscores outside of
    addresses, which it turns into spaces afterwards anyway. Addresses, emoji and words in letters or digits that the
    model cannot spell are kept: a model would lose them or make something up. A caption in capitals is translated in
    lower case: models know few capitals.

    Args:
        alphabet: every character that the model can spell; None: all.
    """
    text = " ".join(" ".join(caption.splitlines()).split())
    shouted = is_shouted(text)
    sentences: list[str] = []
    around = [""]
    for piece, kept in _pieces(text, alphabet):
        if kept:
            around[-1] += piece
            continue
        for sentence in _sentences(piece):
            bare = sentence.strip()
            if bare:
                before, _, after = sentence.partition(bare)
                around[-1] += before
                sentences.append(bare.lower() if shouted else bare)
                around.append(after)
            else:
                around[-1] += sentence
    return Prepared(tuple(sentences), tuple(around), shouted)


def restore(translations: Sequence[str], prepared: Prepared) -> str:
    """The translation as it is published."""
    loud = [text.upper() if prepared.shouted else text for text in translations]
    first, *others = prepared.around
    parts = chain([first], chain.from_iterable(zip(loud, others, strict=True)))
    return " ".join("".join(parts).split())


_ADDRESS = re.compile(
    r"(?:https?://|www\.)\S+|\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+|(?<![\w&])[#@]\w+|\b[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|html?|jpe?g|png|gif)\b(?:/\S*)?",
    re.IGNORECASE,
)


def _pieces(text: str, alphabet: frozenset[str] | None) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether it is kept as it is; neighbours of a kind are one piece."""
    pieces: list[tuple[str, bool]] = []
    for word in re.findall(r"\S+|\s+", text):
        for piece, kept in _parts_of_word(word, alphabet):
            if pieces and (pieces[-1][1] == kept or piece.isspace()):
                pieces[-1] = (pieces[-1][0] + piece, pieces[-1][1])
            else:
                pieces.append((piece, kept))
    return pieces


def _parts_of_word(word: str, alphabet: frozenset[str] | None) -> list[tuple[str, bool]]:
    """A word, or white space, in parts that are kept or not; punctuation goes with what is kept beside it."""
    address = _ADDRESS.search(word)
    if address:
        before = word[: address.start()]
        return [*([(before, not _is_spoken(before))] if before else []), (word[address.start() :], True)]
    parts = [(part, _is_emoji(part[0]) or _is_foreign(part, alphabet)) for part in _EMOJI_OR_NOT.findall(word)]
    keeping = any(kept for _, kept in parts)
    return [
        (part, True) if kept or (keeping and not _is_spoken(part)) else (part.replace("_", " "), False)
        for part, kept in parts
    ]


def _is_spoken(text: str) -> bool:
    return any(map(str.isalnum, text))


# Pictographs and symbols, with the joiners, variation selectors and skin tones that belong to them.
_EMOJI = r"\u2190-\u21ff\u2300-\u23ff\u2460-\u27bf\u2900-\u297f\u2b00-\u2bff\U0001f000-\U0001faff"
_EMOJI_OR_NOT = re.compile(f"[{_EMOJI}\u200d\ufe0f\u20e3]+|[^{_EMOJI}\u200d\ufe0f\u20e3]+")
_EMOJI_START = re.compile(f"[{_EMOJI}\u200d\ufe0f\u20e3]")


def _is_emoji(char: str) -> bool:
    return _EMOJI_START.match(char) is not None


def _is_foreign(word: str, alphabet: frozenset[str] | None) -> bool:
    """Whether a word has letters or digits and the model can spell none of them, in no case and no width."""
    if alphabet is None:
        return False
    spoken = [char for char in word if char.isalnum()]
    return bool(spoken) and not any(alphabet.intersection(_forms(char)) for char in spoken)


def _forms(char: str) -> str:
    """A character and what tokenizers make of it: lower and upper case, compatibility form, base without marks."""
    return char + char.lower() + char.upper() + unicodedata.normalize("NFKD", char)


# A full stop or the like, closing quotes or brackets, space, and what can begin another sentence.
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+(?=[\"'“‘«(\[¿¡]*(?:\d|[^\W\d_]))|(?<=[。！？])")
# "Mr. Smith", "St. Peter", "vs. Milan": the full stop of a shortened word ends nothing.
_SHORTENED = re.compile(
    r"mr|mrs|ms|dr|prof|st|mt|jr|sr|vs|nos?|figs?|ca|approx|dept|est|gen|col|lt|capt|sgt|rev|hon|gov|pres|ave|blvd|rd|"
    r"inc|ltd|co|corp|bros|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|al|eds?|vol|pp|cf|etc"
)


def _sentences(text: str) -> list[str]:
    """The sentences of a text, with the spaces between them: in all, the text."""
    parts: list[str] = []
    start = 0
    for end in _SENTENCE_END.finditer(text):
        if _ends_sentence(text[start : end.start()], text[end.end() :]):
            parts.append(text[start : end.end()])
            start = end.end()
    return [*parts, text[start:]] if text[start:] or not parts else parts


def _ends_sentence(sentence: str, following: str) -> bool:
    """Whether what looks like the end of a sentence is one: not after "St.", "J." or "U.S.", not before lower case."""
    opening = following.lstrip("\"'“‘«([¿¡")
    if sentence[-1:] in "。！？":
        return bool(following)
    if opening[:1].islower() or not any(map(str.isalpha, sentence)):
        return False
    if not sentence.endswith("."):
        return True
    last = sentence.split()[-1].strip("\"'“‘«([.").lower()
    return len(last) > 1 and "." not in last and not _SHORTENED.fullmatch(last)


def is_shouted(text: str) -> bool:
    """Whether a text of several words is written in capitals throughout."""
    words = [word for word in text.split() if sum(map(str.isalpha, word)) > 1]
    return len(words) >= MIN_SHOUTED_WORDS and text.isupper()


def copies(tokens: Sequence[str]) -> int:
    """How many times in a row the most repeated block of tokens stands back to back: 1 where nothing is repeated."""
    most = 1
    for width in range(1, min(MAX_BLOCK_TOKENS, len(tokens) // 2) + 1):
        equal = 0  # length of the current stretch in which each token equals the one `width` before it
        for index in range(width, len(tokens)):
            equal = equal + 1 if tokens[index] == tokens[index - width] else 0
            most = max(most, 1 + equal // width)
    return most


def is_repetitive(source: Sequence[str], target: Sequence[str]) -> bool:
    """Whether a translation loops: it repeats a block at least three times, and more often than its source does."""
    found = copies(target)
    return found >= MIN_COPIES and found > copies(source)
