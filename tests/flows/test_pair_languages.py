"""The language check of a column of parallel captions."""

import pytest

from data_catalog.language_pack import LanguagePack
from flows.recipe.language_packs import column_language, language_pack


def test_a_column_is_checked_by_its_language_pack() -> None:
    check = column_language(language_pack("de"))
    assert check is not None
    german, english = check(
        ["Ein großer Hund rennt über die grüne Wiese.", "Two large brown dogs are running across the green meadow."]
    )
    assert german is None
    assert english is not None
    assert english.reason == "wrong_language"


def test_a_language_without_a_profile_is_not_checked_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert column_language(LanguagePack.minimal("fur")) is None
    [record] = caplog.records
    assert "no engine can identify 'fur'" in record.getMessage()
