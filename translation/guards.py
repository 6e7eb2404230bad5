"""Prepare a caption for translation, restore its untranslated parts afterwards, and detect repetition."""

import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

MIN_CAPITAL_WORDS = 2  # one word in capitals is probably a name: "NASA"
MAX_BLOCK_TOKENS = 12
MIN_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Prepared:
    """A caption that is prepared for the model."""

    sentences: tuple[str, ...]  # texts for the model, in order; none if there is nothing to translate
    around: tuple[str, ...]  # what stays as it is before, between and after them: one more than there are sentences
    all_capitals: bool = False  # the translation must be put in capitals


def prepare(caption: str, alphabet: frozenset[str] | None = None, *, language: str = "") -> Prepared:
    """Split a caption into sentences that a model can translate and parts that must stay as they are.

    Line breaks become spaces (Argos Translate would treat them as paragraphs), and so do underscores outside of
    addresses, which Argos Translate turns into spaces afterwards. Not translated are addresses, emoji, tags at either
    end, words in letters or digits that the model cannot spell, and punctuation alone: a model would lose them or
    invent text. A caption in capitals is translated in lower case, because models know few capitals.

    `alphabet` has every character that the model can spell, None for all; `language` is the caption's.
    """
    pieces = _pieces(" ".join(" ".join(caption.splitlines()).split()), alphabet)
    all_capitals = is_all_capitals("".join(piece for piece, kept in pieces if not kept))
    sentences: list[str] = []
    around = [""]
    for piece, kept in pieces:
        for sentence in [piece] if kept else _sentences(piece, language):
            bare = sentence.strip()
            if kept or not _is_spoken(bare):
                around[-1] += sentence
                continue
            before, _, after = sentence.partition(bare)
            around[-1] += before
            sentences.append(lower_case(bare, language) if all_capitals else bare)
            around.append(after)
    return Prepared(tuple(sentences), tuple(around), all_capitals)


def restore(translations: Sequence[str], prepared: Prepared, *, language: str = "") -> str:
    """Return the full translation of a caption into `language`, from the translations of `prepared.sentences`."""
    texts = [upper_case(text, language) if prepared.all_capitals else text for text in translations]
    parts = [prepared.around[0]]
    for number, text in enumerate(texts):
        after = prepared.around[number + 1]
        last = number + 1 == len(texts)
        # The source's script may have no space between sentences, where the target's has one.
        parts += [text, after if after or last or _IDEOGRAPHIC.match(text[-1:]) else " "]
    return " ".join("".join(parts).split())


_IDEOGRAPHIC = re.compile(r"[\u3000-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef]")

# Scripts without spaces, whose text may follow an address directly, with their punctuation.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef"
_IN_NAME, _IN_ADDRESS = rf"(?:[^\W{_UNSPACED}]|-)", rf"[^\s{_UNSPACED}]"
# An address starts where no part of an earlier one could: each text is searched in linear time.
_ADDRESS = re.compile(
    rf"(?:(?:https?://|www\.)(?={_IN_ADDRESS})"
    rf"|(?<!{_IN_NAME})(?<![.+])(?:{_IN_NAME}|[.+])+@{_IN_NAME}+(?:\.{_IN_NAME}+)+"
    rf"|(?<!{_IN_NAME})(?<!{_IN_NAME}\.){_IN_NAME}+(?:\.{_IN_NAME}+)*"
    rf"\.(?:com|org|net|edu|gov|html?|jpe?g|png|gif)(?![^\W{_UNSPACED}])){_IN_ADDRESS}*",
    re.IGNORECASE,
)
_TAG = re.compile(r"[^\w\s]*[#@]\w+[^\w\s]*")


def _pieces(text: str, alphabet: frozenset[str] | None) -> list[tuple[str, bool]]:
    """Return the text in pieces, each with a flag that it stays as it is; neighbours with the same flag are joined."""
    words = re.findall(r"\S+|\s+", text)
    tags = _tags_at_the_ends(words)
    pieces: list[tuple[str, bool]] = []
    for number, word in enumerate(words):
        parts = [(word, True)] if number in tags else _parts_of_word(word, alphabet)
        for piece, kept in parts:
            if pieces and (pieces[-1][1] == kept or piece.isspace()):
                pieces[-1] = (pieces[-1][0] + piece, pieces[-1][1])
            else:
                pieces.append((piece, kept))
    return pieces


def _tags_at_the_ends(words: Sequence[str]) -> set[int]:
    """Return the positions of tags ("#sunset", "@anna") in a run at either end; tags in a sentence are its words."""
    found: set[int] = set()
    for order in (range(len(words)), range(len(words) - 1, -1, -1)):
        run = itertools.takewhile(lambda number: words[number].isspace() or _TAG.fullmatch(words[number]), order)
        found.update(number for number in run if not words[number].isspace())
    return found


def _parts_of_word(word: str, alphabet: frozenset[str] | None) -> list[tuple[str, bool]]:
    """Return a word, or white space, in parts with a flag that they stay, as punctuation next to one of them does."""
    parts: list[tuple[str, bool]] = []
    start = 0
    for address in _ADDRESS.finditer(word):
        parts += _parts_of_text(word[start : address.start()], alphabet, beside_kept=True)
        parts.append((address[0], True))
        start = address.end()
    return parts + _parts_of_text(word[start:], alphabet, beside_kept=bool(parts))


def _parts_of_text(text: str, alphabet: frozenset[str] | None, *, beside_kept: bool) -> list[tuple[str, bool]]:
    # Every second part is a match of the pattern.
    parts = [(part, number % 2 == 1) for number, part in enumerate(_EMOJI.split(text)) if part]
    parts = [(part, kept or _is_foreign(part, alphabet)) for part, kept in parts]
    keeping = beside_kept or any(kept for _, kept in parts)
    return [
        (part, True) if kept or (keeping and not _is_spoken(part)) else (part.replace("_", " "), False)
        for part, kept in parts
    ]


def _is_spoken(text: str) -> bool:
    return any(map(str.isalnum, text))


# Keycaps; pictographs and symbols with the joiners, variation selectors and skin tones that follow them.
_PICTOGRAPHS = r"\u2190-\u21ff\u2300-\u23ff\u2460-\u27bf\u2900-\u297f\u2b00-\u2bff\U0001f000-\U0001faff"
_EMOJI = re.compile(f"((?:[0-9#*]\ufe0f?\u20e3|[{_PICTOGRAPHS}][\u200d\ufe0e\ufe0f\u20e3{_PICTOGRAPHS}]*)+)")


def _is_foreign(word: str, alphabet: frozenset[str] | None) -> bool:
    """Return whether a word has letters or digits, and the model can spell none of them in any case or width."""
    if alphabet is None:
        return False
    spoken = [char for char in word if char.isalnum()]
    return bool(spoken) and not any(alphabet.intersection(_forms(char)) for char in spoken)


def _forms(char: str) -> str:
    """Return a character in lower and upper case, and decomposed (letter and marks), as tokenizers may see it."""
    return char + char.lower() + char.upper() + unicodedata.normalize("NFKD", char)


def _sentence_end(stops: str) -> re.Pattern[str]:
    """Return a pattern for a stop, closing quotes or brackets, and space before a possible start of a sentence."""
    return re.compile(
        rf"(?<=[{stops}])[\"'”’»)\]]*\s+(?=[\"'“‘«(\[¿¡]*(?:\d|[^\W\d_]))"
        r"|(?<=[。！？])[」』”’）]*\s*(?=[^。！？」』”’）\s])"
    )


_STOPS = ".!?…।۔؟"
_SENTENCE_END = _sentence_end(_STOPS)
# The Greek question mark is a semicolon: "Τι κάνει; Περπατά."
_SENTENCE_END_OF = {"el": _sentence_end(_STOPS + ";\u037e")}
# A full stop after these does not end a sentence: "Mr. Smith", "vs. Milan", "am 24. Dezember", "Αγ. Νικόλαος".
_SHORTENED = re.compile(
    r"mr|mrs|ms|dr|prof|st|ste|mt|ft|jr|sr|vs|nos?|nr|figs?|ca|approx|dept|est|univ|gen|col|lt|capt|sgt|cpl|pvt|maj|rev|"
    r"msgr|fr|hon|gov|sen|rep|pres|sig|ave|blvd|rd|inc|ltd|co|corp|bros|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|"
    r"al|eds?|vol|pp|cf|etc|bzw|\d{1,2}|"
    r"αγ|αι|αρ|βλ|δηλ|δρ|εικ|καθ|κλπ|λεωφ|οδ|πλ|σελ|χλμ"
)


def _sentences(text: str, language: str) -> list[str]:
    """Return the sentences of a text with the spaces between them; joined, they are the text."""
    parts: list[str] = []
    start = 0
    for end in _SENTENCE_END_OF.get(language, _SENTENCE_END).finditer(text):
        if _ends_sentence(text[start : end.start()], text[end.end() :]):
            parts.append(text[start : end.end()])
            start = end.end()
    return [*parts, text[start:]] if text[start:] or not parts else parts


def _ends_sentence(sentence: str, following: str) -> bool:
    """Return whether a possible end of a sentence is one: not after "St.", "J." or "U.S.", nor before lower case."""
    if not _is_spoken(sentence) or following.lstrip("\"'“‘«([¿¡")[:1].islower():
        return False
    if not sentence.endswith("."):
        return True
    last = sentence.split()[-1].strip("\"'“‘«([.").lower()
    return len(last) > 1 and "." not in last and not _SHORTENED.fullmatch(last)


def is_all_capitals(text: str) -> bool:
    """Return whether a text of several words is all in capitals; a word without case is not in capitals."""
    words = [word for word in text.split() if sum(map(str.isalpha, word)) > 1]
    return len(words) >= MIN_CAPITAL_WORDS and text.isupper() and all(map(str.isupper, words))


def count_repeats(tokens: Sequence[object]) -> int:
    """Return how often the most repeated block of tokens occurs back to back: 1 if no block is repeated."""
    most = 1
    for width in range(1, min(MAX_BLOCK_TOKENS, len(tokens) // 2) + 1):
        equal = 0  # length of the current stretch in which each token equals the one `width` before it
        for index in range(width, len(tokens)):
            equal = equal + 1 if tokens[index] == tokens[index - width] else 0
            most = max(most, 1 + equal // width)
    return most


def is_repetitive(source: Sequence[object], target: Sequence[object]) -> bool:
    """Return whether a translation repeats a block at least three times in a row, and more often than its source."""
    found = count_repeats(target)
    return found >= MIN_REPEATS and found > count_repeats(source)


_DOTTED_AND_DOTLESS = ("tr", "az")
# Unicode has capitals for Georgian, but few fonts contain them, and running text does not use them.
_WITHOUT_CAPITALS = ("ka",)


def lower_case(text: str, language: str) -> str:
    """Return a text in lower case by the rules of a language; accents that capitals do not have are not restored."""
    if language in _DOTTED_AND_DOTLESS:
        text = text.replace("I", "ı").replace("İ", "i")
    return text.lower()


def upper_case(text: str, language: str) -> str:
    """Return a text in capitals by the rules of a language, or unchanged if it has none."""
    if language in _WITHOUT_CAPITALS:
        return text
    if language == "el":
        return _greek_capitals(text)
    return (text.replace("i", "İ") if language in _DOTTED_AND_DOTLESS else text).upper()


# For decomposed text. An accent also shows that two vowels are not a diphthong; without it, a dialytika must ("ρολόι").
_HIATUS = re.compile("([αεηιουω]\u0301[ιυ])(?![\u0300-\u0345])", re.IGNORECASE)
# Accents and breathings. The word "ή" ("or") keeps its accent, to differ from "η" ("the").
_LOST_IN_CAPITALS = re.compile(
    "(?<![\\w\u0300-\u0345])(?P<kept>η\u0301)(?![\\w\u0300-\u0345])"
    "|(?<=[\u0370-\u03ff\u0308])[\u0300\u0301\u0313\u0314\u0342]+",
    re.IGNORECASE,
)


def _greek_capitals(text: str) -> str:
    """Return Greek capitals, without accents, by the rules of Unicode's CLDR (its transform el-Upper)."""
    decomposed = _HIATUS.sub("\\1\u0308", unicodedata.normalize("NFD", text))
    bare = _LOST_IN_CAPITALS.sub(lambda found: found["kept"] or "", decomposed)
    return unicodedata.normalize("NFC", bare.upper())
