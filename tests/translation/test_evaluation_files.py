"""What evaluation files hold comes back whatever the texts, and differences come by size."""

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from translation.evaluate import largest_differences, read_test_pairs, read_translations, sentence_chrf

# All that UTF-8 can hold in one field of one line, without blanks around it, which are no part of a text.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\t\n\r\ufeff"), max_size=20).map(str.strip)
real_texts = texts.filter(bool)
in_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)


@in_a_folder
@given(
    st.lists(st.tuples(real_texts, real_texts), min_size=1, max_size=5), st.booleans(), st.sampled_from(["\n", "\r\n"])
)
def test_pairs_come_back(tmp_path: Path, pairs: list[tuple[str, str]], packed: bool, end: str) -> None:
    content = "".join(f"{source}\t{reference}{end}" for source, reference in pairs).encode()
    (tmp_path / "pairs.tsv").write_bytes(gzip.compress(content) if packed else content)
    assert read_test_pairs(tmp_path / "pairs.tsv") == pairs


@in_a_folder
@given(st.lists(texts, min_size=1, max_size=5))
def test_translations_come_back(tmp_path: Path, outputs: list[str]) -> None:
    (tmp_path / "out.txt").write_bytes("".join(f"{text}\n" for text in outputs).encode())
    found = read_translations(tmp_path / "out.txt", num_lines=len(outputs))
    assert [item.text for item in found] == outputs


@settings(deadline=None)
@given(st.lists(st.tuples(texts, texts, real_texts), max_size=8))
def test_the_largest_differences_come_first(captions: list[tuple[str, str, str]]) -> None:
    first, second, references = ([caption[place] for caption in captions] for place in range(3))
    found = largest_differences(first, second, references, most=3)
    for item in found:
        assert item.first_chrf == sentence_chrf(first[item.place], references[item.place])
        assert item.second_chrf == sentence_chrf(second[item.place], references[item.place])
    sizes = [abs(item.first_chrf - item.second_chrf) for item in found]
    everywhere = [abs(sentence_chrf(a, reference) - sentence_chrf(b, reference)) for a, b, reference in captions]
    assert sizes == pytest.approx(sorted((size for size in everywhere if size), reverse=True)[:3])
