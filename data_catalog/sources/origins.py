"""Who made a caption in the target language: a person who speaks it, or a translator, human or machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.errors import SettingsError
from data_catalog.schema import NATIVE

HUMAN_TRANSLATION, MACHINE_TRANSLATION = "human_translation", "machine_translation"
CORRECTED = "machine_translation_corrected"
# What the column `origin` may say, and what that means.
ORIGINS: Mapping[str, str] = {
    NATIVE: "native",
    HUMAN_TRANSLATION: "translated by people",
    MACHINE_TRANSLATION: "translated by a machine",
    CORRECTED: "translated by a machine and corrected by people",
}
# Makers of the captions of a test set: they are told beside scores.
HUMAN, MACHINE = "human", "machine"
# In SQL, of caption rows: see `has_original`.
HAS_ORIGINAL = "source_lang <> target_lang"


def has_original(captions: pa.Table) -> pa.Array:
    """Return of each caption row whether its source caption is in another language, so that the two can be compared.

    Translations that upstream has without their originals are their own source captions.
    """
    return pc.not_equal(captions.column("source_lang"), captions.column("target_lang"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionOrigin:
    """What is said of captions that upstream has in the target language.

    Args:
        origin: a key of `ORIGINS`.
        translator: who translated them, in a few words; None: nobody says.
    """

    origin: str = NATIVE
    translator: str | None = None

    def __post_init__(self) -> None:
        """Refuse an origin that there is not, and a translator of what nobody translated."""
        if self.origin not in ORIGINS:
            *others, last = ORIGINS
            near = get_close_matches(self.origin, ORIGINS, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SettingsError(f"origin must be {', '.join(others)} or {last}, got {self.origin!r}{hint}")
        if (self.translator or "").strip().lower() == NATIVE:
            raise SettingsError(f"translator is {self.translator!r}, the word for captions that nobody translated")
        if self.translator and self.origin == NATIVE:
            raise SettingsError(
                f"translator is {self.translator!r}, but nobody translated captions whose origin is {NATIVE}: set "
                f"origin to {HUMAN_TRANSLATION}, {MACHINE_TRANSLATION} or {CORRECTED}, or leave translator out"
            )
