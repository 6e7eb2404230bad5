"""chrF is sacrebleu's, of corpora and of single texts."""

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from translation.chrf import corpus_chrf, sentence_chrf

TEXT = st.text("abc è.", min_size=1, max_size=12)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_chrf_is_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    hypotheses, references = [list(side) for side in zip(*pairs, strict=True)]
    expected = sacrebleu.corpus_chrf(hypotheses, [references]).score
    assert corpus_chrf(hypotheses, references) == pytest.approx(expected, abs=1e-6)


@settings(deadline=None)
@given(TEXT, TEXT)
def test_chrf_of_one_text_is_sacrebleus(hypothesis: str, reference: str) -> None:
    expected = sacrebleu.sentence_chrf(hypothesis, [reference]).score
    assert sentence_chrf(hypothesis, reference) == pytest.approx(expected, abs=1e-6)


def test_chrf_of_equal_texts_is_100() -> None:
    assert corpus_chrf(["due cerchi rossi"], ["due cerchi rossi"]) == pytest.approx(100)
    assert sentence_chrf("abc", "xyz") == 0
