"""What is done to a caption before it is translated and to a translation before it is believed."""

from collections.abc import Sequence
from dataclasses import dataclass

MIN_SHOUTED_WORDS = 2  # a single word in capitals is more likely a name: "NASA"
MAX_BLOCK_TOKENS = 12
MIN_COPIES = 3


@dataclass(frozen=True, slots=True)
class Prepared:
    """The text that goes to the model, "" for nothing, and whether its translation is to be put in capitals."""

    text: str
    shouted: bool = False


def prepare(caption: str) -> Prepared:
    """One line of text the model can read.

    Line breaks become spaces (Argos Translate would take them for paragraphs), and so do underscores, which it turns
    into spaces afterwards anyway. A caption in capitals is translated in lower case: models know few capitals.
    """
    text = " ".join(caption.replace("_", " ").splitlines()).strip()
    if is_shouted(text):
        return Prepared(text.lower(), shouted=True)
    return Prepared(text)


def restore(text: str, prepared: Prepared) -> str:
    """The translation as it is published."""
    return text.upper() if prepared.shouted else text


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
