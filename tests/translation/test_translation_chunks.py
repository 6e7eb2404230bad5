"""The plan of chunks."""

from hypothesis import given
from hypothesis import strategies as st

from translation.chunks import plan


@given(st.lists(st.text(max_size=3)), st.integers(1, 5))
def test_plan_keeps_order_and_each_caption_once(captions: list[str], chunk_size: int) -> None:
    chunks = plan(captions, chunk_size=chunk_size)
    assert [caption for chunk in chunks for caption in chunk] == list(dict.fromkeys(captions))
    assert all(len(chunk) == chunk_size for chunk in chunks[:-1])
    assert all(chunks)
