"""Scores are what sacrebleu gives by default; systems are compared with the first."""

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from translation.evaluate import compare, corpus_bleu, corpus_chrf, largest_differences, sentence_chrf


def test_scores_of_equal_and_of_unlike_texts() -> None:
    same = ["due cerchi rossi su sfondo verde"]
    assert corpus_chrf(same, same) == pytest.approx(100)
    assert corpus_bleu(same, same, "it") == pytest.approx(100)
    assert sentence_chrf("abc", "xyz") == 0
    assert corpus_bleu(["abc"], ["xyz"], "it") == 0


def test_chrf_as_worked_out_by_hand() -> None:
    # "ab" has 2 of 3 letters and 1 of 2 bigrams, and nothing but right ones: P = 1, R = 7/12, (1 + 4) P R / (4 P + R).
    assert sentence_chrf("ab", "abc") == pytest.approx(100 * 7 / 11)
    assert sentence_chrf("a b", "abc") == pytest.approx(100 * 7 / 11), "spaces do not count"
    assert sentence_chrf("", "abc") == 0
    # Counts are summed before they are divided: 5 of 6 letters, 3 of 4 bigrams, 1 of 2 trigrams, all right.
    recall = (5 / 6 + 3 / 4 + 1 / 2) / 3
    assert corpus_chrf(["ab", "abc"], ["abc", "abc"]) == pytest.approx(100 * 5 * recall / (4 + recall))


def test_bleu_is_sacrebleus_default() -> None:
    hypotheses, references = ["Zwei Hunde, rennen schnell."], ["Zwei Hunde rennen sehr schnell."]
    expected = sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert 0 < expected < 100
    assert corpus_bleu(hypotheses, references, "de") == pytest.approx(expected)


@pytest.mark.parametrize("code", ["zh", "ja", "ko", "th", "lo", "km", "my"])
def test_bleu_finds_words_where_there_are_no_spaces(code: str) -> None:
    hypotheses, references = ["红色圆圈在绿色背景上"], ["红色方块在绿色背景上"]
    assert corpus_bleu(hypotheses, references, "de") == 0
    assert 50 < corpus_bleu(hypotheses, references, code) < 100


REFERENCES = [f"{number} rote Kreise vor einem {ground} Hintergrund" for number in range(40) for ground in ("a", "b")]
WORSE = [text.replace("rote", "blaue") if number % 2 else text for number, text in enumerate(REFERENCES)]


def test_systems_are_compared_with_the_first() -> None:
    found = compare({"first": WORSE, "second": REFERENCES, "third": WORSE}, REFERENCES, tokenizer="13a")
    for estimates in (found.bleu, found.chrf):
        first, second, third = (estimates[name] for name in ("first", "second", "third"))
        assert (first.difference, first.p_value) == (None, None)
        assert first.interval > 0
        assert second.score == pytest.approx(100)
        assert second.interval == pytest.approx(0, abs=1e-6)
        assert second.difference == pytest.approx(100 - first.score)
        assert second.p_value is not None
        assert second.p_value < 0.01
        assert (third.score, third.difference, third.p_value) == (first.score, 0, None)
    assert found.bleu["first"].score == pytest.approx(corpus_bleu(WORSE, REFERENCES, "de"))
    assert found.chrf["first"].score == pytest.approx(corpus_chrf(WORSE, REFERENCES))
    bleu, chrf = found.signatures
    assert bleu.startswith("BLEU|nrefs:1|bs:1000|seed:12345|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert chrf.startswith("chrF2|nrefs:1|bs:1000|seed:12345|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


texts = st.text(max_size=20).map(str.strip)
captions_of_two = st.lists(st.tuples(texts, texts, texts.filter(bool)), max_size=8)


@given(captions_of_two)
def test_the_largest_differences_come_first(captions: list[tuple[str, str, str]]) -> None:
    first, second, references = ([caption[place] for caption in captions] for place in range(3))
    found = largest_differences(first, second, references, most=3)
    for item in found:
        assert item.first_chrf == sentence_chrf(first[item.place], references[item.place])
        assert item.second_chrf == sentence_chrf(second[item.place], references[item.place])
    sizes = [abs(item.first_chrf - item.second_chrf) for item in found]
    everywhere = [abs(sentence_chrf(a, reference) - sentence_chrf(b, reference)) for a, b, reference in captions]
    assert sizes == pytest.approx(sorted((size for size in everywhere if size), reverse=True)[:3])
