"""Captions and translations as rows, and what rules say of them."""

from collections.abc import Callable, Sequence

import pyarrow as pa
import pytest

from cleaning.rules import Rule, apply_rules
from data_catalog.schema import CAPTIONS, NATIVE, PENDING

Rejects = Callable[..., list[str | None]]


@pytest.fixture
def reasons() -> Rejects:
    """Reasons for which rules drop captions, by themselves or as translations of `sources`."""

    def judge(
        rules: Sequence[Rule], captions: Sequence[str], *, sources: Sequence[str] | None = None, **columns: list[object]
    ) -> list[str | None]:
        known: dict[str, Sequence[object]] = {
            "clean_caption": sources or captions,
            "caption": captions,
            "translator": [NATIVE if sources is None else "argos:en-it:0123456789ab"] * len(captions),
            "outcome": [PENDING] * len(captions),
            **columns,
        }
        nothing = [None] * len(captions)
        fields = [field.with_nullable(True) for field in CAPTIONS]
        table = pa.table({field.name: pa.array(known.get(field.name, nothing), field.type) for field in fields})
        found: list[str | None] = apply_rules(table, rules, step="check").column("drop_reason").to_pylist()
        return found

    return judge
