"""Exact duplicates of captions within one sample, seen through case, width, spacing and final punctuation."""

import unicodedata
from collections.abc import Sequence

from cleaning.scripts import fold_case
from data_catalog.stages import Drop

# What is punctuation to Unicode, and the space; "$", "+", "<", "=", ">", "^", "`", "|" and "~" are symbols.
_ASCII_ENDS = " !\"#%&'()*,-./:;?@[\\]_{}"


def exact_key(caption: str) -> str:
    """What two captions share that differ only in case, compatibility forms, white space and final punctuation."""
    if caption.isascii():  # the forms below are those of other characters
        spaced = " ".join(caption.lower().split())
        return spaced.rstrip(_ASCII_ENDS) or spaced
    folded = unicodedata.normalize("NFKC", fold_case(unicodedata.normalize("NFKC", caption)))
    spaced = " ".join(folded.split())
    end = len(spaced)
    while end and (spaced[end - 1].isspace() or unicodedata.category(spaced[end - 1]).startswith("P")):
        end -= 1
    return spaced[:end] or spaced  # "?!" keeps what little it has


def duplicate_captions(sample_ids: Sequence[str], captions: Sequence[str]) -> list[Drop | None]:
    """Drop each caption that an earlier row of the same sample has already; the first one stays.

    Reason: duplicate_caption. The order of rows decides, so rows must come in a stable order.
    """
    seen: set[tuple[str, str]] = set()
    verdicts: list[Drop | None] = []
    for sample_id, caption in zip(sample_ids, captions, strict=True):
        key = (sample_id, exact_key(caption))
        verdicts.append(Drop("duplicate_caption") if key in seen else None)
        seen.add(key)
    return verdicts
