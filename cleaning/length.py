"""Check: a caption is neither too short to say anything nor too long to be a caption."""

from collections.abc import Sequence

from cleaning.scripts import count_words
from data_catalog.errors import ConfigError
from data_catalog.stages import Check, Drop


def caption_length(*, min_words: int, min_chars: int, max_words: int, max_chars: int) -> Check:
    """Drop captions outside the given bounds, which are inclusive.

    Words are counted by `cleaning.scripts.count_words`: in scripts without spaces, by number of characters.
    Reasons: caption_empty, caption_too_short, caption_too_long. Raises ConfigError for bounds that no caption meets.
    """
    if not 0 <= min_words <= max_words or not 0 <= min_chars <= max_chars:
        raise ConfigError(
            "caption lengths must have 0 <= min <= max, got "
            f"{min_words}-{max_words} words, {min_chars}-{max_chars} characters"
        )

    def judge(text: str) -> Drop | None:
        if not text or text.isspace():
            return Drop("caption_empty")
        num_chars = len(text)
        if num_chars < min_chars:
            return Drop("caption_too_short", _counted(num_chars, "character"))
        if num_chars > max_chars:
            return Drop("caption_too_long", _counted(num_chars, "character"))
        num_words = count_words(text)
        if num_words < min_words:
            return Drop("caption_too_short", _counted(num_words, "word"))
        if num_words > max_words:
            return Drop("caption_too_long", _counted(num_words, "word"))
        return None

    def check(texts: Sequence[str]) -> list[Drop | None]:
        return [judge(text) for text in texts]

    return check


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
