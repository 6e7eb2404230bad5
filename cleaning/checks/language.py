"""The check of captions' languages, and the columns that it fills."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from cleaning.checks.definition import SOURCE, CaptionCheck, Captions, Rule, setting, warn_once
from cleaning.languages.identification import (
    ENGINES,
    LanguageVerdict,
    detectable_code,
    detectable_languages,
    language_identifier,
    wrong_language,
)
from data_catalog.stages import Drop

_OWN_COLUMNS = ("source_lang", "target_lang", "caption")


@dataclass(frozen=True, kw_only=True)
class Language(
    CaptionCheck,
    name="language",
    reasons={"wrong_language": "the caption is surely in another language than its row says"},
):
    """Drop captions that are surely in another language than their row says.

    It fills the columns that tell the language of each caption. The thresholds are the cascade's; langdetect, as sure
    when wrong as when right, wants 0.1, 0.99 and 20. Where the engine does not know the language, nothing is checked,
    which is logged.
    """

    language_check: bool = setting(True)
    language_engine: str = setting(
        "cascade", "Engine that tells the language: `cascade`, `fast`, `lingua` or `langdetect`.", among=tuple(ENGINES)
    )
    min_language_probability: float = setting(
        0.1, "Probability of its language, 0 to 1, from which on a caption is kept.", ge=0, le=1
    )
    min_other_probability: float = setting(
        0.5, "Probability of another language, 0 to 1, from which on a caption may be dropped.", ge=0, le=1
    )
    min_language_letters: int = setting(15, "Fewest letters of a caption that is checked for its language.", ge=0)

    def rule(self, captions: Captions) -> Rule | None:
        """Return the check, or None where the engine does not know the language."""
        pack, columns, engine = captions.pack, captions.columns, self.language_engine
        code = detectable_code(pack, engine)
        if code is None:
            warn_once(f"captions in {pack.code!r} are not checked for their language: {engine} does not know it")
            return None
        candidates = {*pack.confusions, *captions.languages}.intersection(detectable_languages())
        identify = language_identifier(code, candidates=candidates, engine=engine)
        judge = functools.partial(
            wrong_language,
            confusions=pack.confusions,
            min_probability=self.min_language_probability,
            min_other_probability=self.min_other_probability,
            min_letters=self.min_language_letters,
        )

        def fill(table: pa.Table) -> Mapping[str, Sequence[object]]:
            verdicts: list[LanguageVerdict | None] = [None] * table.num_rows
            if captions.source_engine == engine:  # of source captions that are captions as they stand it has told
                cells = (table.column(name).to_pylist() for name in (*_OWN_COLUMNS, SOURCE.text, *SOURCE.found))
                for row, (lang, target, caption, source, *known) in enumerate(zip(*cells, strict=True)):
                    if lang == target and caption == source and known[0] is not None:
                        verdicts[row] = LanguageVerdict(*known)
            asked = [row for row, verdict in enumerate(verdicts) if verdict is None]
            texts = table.column(columns.text).take(pa.array(asked, pa.int64())).to_pylist()
            for row, verdict in zip(asked, identify(texts), strict=True):
                verdicts[row] = verdict
            found = [verdict for verdict in verdicts if verdict is not None]
            return {
                columns.language: [verdict.language for verdict in found],
                columns.probability: [verdict.probability for verdict in found],
                columns.margin: [verdict.margin for verdict in found],
            }

        def check(table: pa.Table) -> list[Drop | None]:
            texts, *found = (table.column(name).to_pylist() for name in (columns.text, *columns.found))
            return judge([LanguageVerdict(*cells) for cells in zip(*found, strict=True)], texts)

        read = dict.fromkeys((columns.text, *columns.found, *_OWN_COLUMNS, SOURCE.text, *SOURCE.found))
        return Rule(name=self.name, columns=tuple(read), check=check, fill=fill)
