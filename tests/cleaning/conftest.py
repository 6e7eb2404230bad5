"""Captions and translations as rows, and what rules say of them."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa
import pytest

from cleaning.checks import Rule, apply_rules
from data_catalog.schema import CAPTIONS, PENDING

Rejects = Callable[..., list[str | None]]

_AWKWARD = MappingProxyType(
    {
        "emoji": "\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f44d\U0001f3fd",  # each of several
        "arabic": "كلب صغير يلعب في الحديقة الخضراء",
        "pointed hebrew": "יֶלֶד רוֹכֵב עַל סוּס לָבָן",
        "devanagari": "एक काला कुत्ता हरी घास पर दौड़ता है",
        "decomposed": unicodedata.normalize("NFD", "Il caffè più caldo è già lì"),
        "empty": "",
        "one letter": "x",
        "10,000 characters": "a small dog " * 833 + "runs",
        "lone mark": "\u0301",
    }
)


@pytest.fixture(scope="session")
def awkward() -> Mapping[str, str]:
    """Captions that rules have to bear with, by name; a table of reasons says of each what a rule makes of it."""
    return _AWKWARD


@pytest.fixture
def reasons() -> Rejects:
    """Reasons for which rules drop captions, by themselves or as translations of `sources`."""

    def judge(
        rules: Sequence[Rule], captions: Sequence[str], *, sources: Sequence[str] | None = None, **columns: list[object]
    ) -> list[str | None]:
        known: dict[str, Sequence[object]] = {
            "clean_caption": sources or captions,
            "caption": captions,
            "source_lang": ["it" if sources is None else "en"] * len(captions),
            "target_lang": ["it"] * len(captions),
            "outcome": [PENDING] * len(captions),
            **columns,
        }
        nothing = [None] * len(captions)
        fields = [field.with_nullable(True) for field in CAPTIONS]
        table = pa.table({field.name: pa.array(known.get(field.name, nothing), field.type) for field in fields})
        found: list[str | None] = apply_rules(table, rules, step="check").column("drop_reason").to_pylist()
        return found

    return judge
