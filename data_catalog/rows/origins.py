"""Origins of captions in the target language: native, or translated by people or by a machine."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.base.errors import SettingsError
from data_catalog.rows.schema import NATIVE

HUMAN_TRANSLATION, MACHINE_TRANSLATION = "human_translation", "machine_translation"
CORRECTED = "machine_translation_corrected"
# Values of the column `origin`, and their meanings.
ORIGINS: Mapping[str, str] = {
    NATIVE: "native",
    HUMAN_TRANSLATION: "translated by people",
    MACHINE_TRANSLATION: "translated by a machine",
    CORRECTED: "translated by a machine and corrected by people",
}
# Origins of the captions of a test set, shown with scores.
HUMAN, MACHINE = "human", "machine"
# `has_original` as an SQL condition on caption rows.
HAS_ORIGINAL = "source_lang <> target_lang"


def has_original(captions: pa.Table) -> pa.Array:
    """Return for each caption row whether its source caption is in another language, so that the two can be compared.

    A translation that upstream publishes without its original is its own source caption.
    """
    return pc.not_equal(captions.column("source_lang"), captions.column("target_lang"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionOrigin:
    """Origin (a key of `ORIGINS`) and translator, if known, of captions that upstream has in the target language."""

    origin: str = NATIVE
    translator: str | None = None

    def __post_init__(self) -> None:
        is_native = self.origin == NATIVE or (self.translator or "").strip().lower() == NATIVE
        if self.translator and is_native:
            raise SettingsError(
                f"translator is {self.translator!r}, but {NATIVE} marks captions without a translator: set origin to "
                f"{HUMAN_TRANSLATION}, {MACHINE_TRANSLATION} or {CORRECTED}, or change or remove translator"
            )
