"""What rules say of captions and translations as rows."""

from collections.abc import Callable, Sequence

import pyarrow as pa
import pytest

from cleaning.checks import Rule, apply_rules
from data_catalog.rows.schema import CAPTIONS, PENDING


@pytest.fixture
def reasons() -> Callable[..., list[str | None]]:
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
