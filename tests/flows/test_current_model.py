"""The pointer to a dataset's newest model."""

from pathlib import Path

import pytest

from data_catalog.errors import DamagedError
from training.trained_models import current_model


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": "x"}', '{"model": 3, "snapshot": "y"}', "\udcff"])
def test_a_damaged_pointer_is_named(tmp_path: Path, text: str) -> None:
    pointer = tmp_path / "models" / "scenes" / "current.json"
    pointer.parent.mkdir(parents=True)
    pointer.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DamagedError, match=rf"{pointer} is damaged \(.*: remove it and train again") as caught:
        current_model(tmp_path, "scenes")
    assert "\n" not in str(caught.value)
