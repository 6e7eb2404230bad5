"""Which texts of a stream repeat an earlier one."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleaning import caption_store
from cleaning.caption_store import TextDigests

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=2) | st.sampled_from(["é", "e\u0301", "\0", ""])


def repeats(folder: Path, parts: Sequence[Sequence[str]]) -> list[bool]:
    digests = TextDigests(folder / "digests")
    for texts in parts:
        digests.add(texts)
    found: list[bool] = digests.repeats().tolist()
    return found


def test_the_first_of_equal_texts_is_no_repeat(tmp_path: Path) -> None:
    parts = [["a", "b", "a"], [], ["A", "b", "c", "c"], ["a"]]
    assert repeats(tmp_path, parts) == [False, False, True, False, True, False, True, True]


def test_a_stream_of_nothing_has_no_repeats(tmp_path: Path) -> None:
    assert repeats(tmp_path, []) == []
    assert repeats(tmp_path, [[], []]) == []


@settings(deadline=None, max_examples=60)
@given(parts=st.lists(st.lists(TEXT, max_size=20), max_size=5), digests_per_part=st.integers(1, 40))
def test_repeats_are_those_that_a_set_finds(
    parts: list[list[str]], digests_per_part: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = [text for part in parts for text in part]
    before = accumulate(texts, lambda seen, text: seen | {text}, initial=frozenset[str]())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caption_store, "DIGESTS_PER_PART", digests_per_part)
        found = repeats(tmp_path_factory.mktemp("digests"), parts)
    assert found == [text in seen for text, seen in zip(texts, before, strict=False)]


def test_a_lone_surrogate_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        TextDigests(tmp_path / "digests").add(["a", "\ud800"])
