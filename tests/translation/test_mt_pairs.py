"""Parallel captions: what is used, dropped and held out."""

import gzip
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cleaning.languages.identification import caption_language
from data_catalog.base.errors import InputError
from data_catalog.sample.grammar import write_pairs
from training.packages.pairs import DROP_REASONS, MAX_EXAMPLES, Pair, ParallelCaptions, read_pairs

GOOD = "".join(f"a dog number {number}\tun cane numero {number}\n" for number in range(40)).encode()


def write_tsv(path: Path, pairs: Sequence[Pair]) -> Path:
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    return path


def kept_of(data: ParallelCaptions) -> set[Pair]:
    return set(data.training + data.held_out)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """Two thousand distinct pairs of the sample's grammar, English and Italian, in no order."""
    path = tmp_path_factory.mktemp("scenes") / "scenes.tsv"
    write_pairs(path, seed=1, num_pairs=2500)
    pairs = [tuple(line.split("\t")) for line in path.read_text(encoding="utf-8").splitlines()]
    return list(dict.fromkeys(pairs))[:2000]


BAD = {
    "bad_encoding": [b"caff\xe8\tcoffee", b"a\0b\tc"],
    "wrong_fields": [b"no tab at all", b"a\tb\tc", b""],
    "empty": [b"a\t  ", b"\tb", b"\xc2\xa0\tb", "a\t\u200b".encode(), "\ufffd \u2581\tb".encode()],
    "too_long": [b"x" * 401 + b"\t" + b"y" * 300, b"x" * 20_000_000 + b"\ty"],
    "length_ratio": [b"a dog\t" + b"un cane " * 10, b"a dog that runs through high grass\t@@"],
    "untranslated": [b"a dog runs\tA dog runs."],
    "duplicate": [b"a dog number 7\tun cane numero 7"],
}


def test_bad_lines_are_counted_by_reason(tmp_path: Path) -> None:
    path, lines = tmp_path / "pairs.tsv", [line for lines in BAD.values() for line in lines]
    path.write_bytes(GOOD + b"\n".join([*lines, b"a cat\tun gatto\n"]))
    data = read_pairs(path, num_held_out=2)
    assert data.dropped == {reason: len(lines) for reason, lines in BAD.items()}
    numbers = [example.number for reason in BAD for example in data.examples[reason]]
    assert numbers == [41 + place for place, line in enumerate(lines) if place not in (8, 9)], "the first three of each"
    assert len(data.training) + len(data.held_out) == 41


def test_two_files_are_read_side_by_side_and_sentences_can_be_left_out(tmp_path: Path) -> None:
    english, italian = zip(*(line.split(b"\t") for line in GOOD.splitlines()), strict=True)
    (tmp_path / "train.en.gz").write_bytes(gzip.compress(b"\n".join((*english, b"x" * 500)) + b"\n"))
    (tmp_path / "train.it.gz").write_bytes(gzip.compress(b"\n".join((*italian, b"y")) + b"\n"))
    name, unwanted = tmp_path / "train.{lang}.gz", ["“A DOG”, number 3?", "un cane numero\u20098。", "no such sentence"]
    data = read_pairs(name, num_held_out=2, codes=("en", "it"), leave_out=unwanted)
    assert data.dropped == {"left_out": 2, "too_long": 1}
    assert len(kept_of(data)) == 38
    assert not {"a dog number 3", "a dog number 8"} & {source for source, _ in kept_of(data)}
    with pytest.raises(InputError, match=r"train\.de\.gz cannot be read"):
        read_pairs(name, num_held_out=2, codes=("en", "de"))
    (tmp_path / "train.it.gz").write_bytes(gzip.compress(b"\n".join(italian) + b"\n"))
    with pytest.raises(InputError, match=r"has 41 lines, and .*train\.it\.gz has 40: they are not aligned"):
        read_pairs(name, num_held_out=2, codes=("en", "it"))


def test_windows_line_ends_a_byte_order_mark_quotes_and_names_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    quoted = {('there is a "dog"', 'c\'è un "cane"'), ('"open', '"aperto')}
    sleeping = {("a cat sleeps", text) for text in ("un gatto dorme", "dorme un gatto")}
    pairs = quoted | sleeping | {("Mount Fuji", "Mount Fuji")}
    lines = "".join(f"{source}\t{target} \r\n" for source, target in sorted(pairs))
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + lines.encode())
    data = read_pairs(path, num_held_out=1)
    assert pairs | {("a dog number 0", "un cane numero 0")} < kept_of(data)
    assert data.dropped == {}


def test_lengths_are_compared_at_the_usual_ratio_of_the_file(tmp_path: Path) -> None:
    scene = "a small brown dog runs across the wide green field"
    pairs = [(f"{scene} number {number}", f"棕色小狗跑过绿色田野{number:02}") for number in range(40)]
    data = read_pairs(write_tsv(tmp_path / "pairs.tsv", [*pairs, (scene, "棕色")]), num_held_out=0)
    assert data.dropped == {"length_ratio": 1}
    assert data.examples["length_ratio"][0].pair == (scene, "棕色")


def test_held_out_pairs_do_not_depend_on_order_and_have_no_twins(tmp_path: Path) -> None:
    path, other = tmp_path / "pairs.tsv", tmp_path / "other.tsv"
    twins = "".join(f"«A dog», number {number}?\tUn cane numero {number}.\n" for number in range(40)).encode()
    path.write_bytes(GOOD + twins)
    other.write_bytes(b"".join(reversed((GOOD + twins).splitlines(keepends=True))))
    data, reordered = read_pairs(path, num_held_out=5), read_pairs(other, num_held_out=5)
    assert (data.training, data.held_out, data.dropped) == (reordered.training, reordered.held_out, reordered.dropped)
    held_out = {re.sub(r"\W", "", source.casefold()) for source, _ in data.held_out}
    assert not held_out & {re.sub(r"\W", "", source.casefold()) for source, _ in data.training}
    assert data.dropped["held_out"] == 80 - len(data.training) - len(data.held_out) > 0


LINES = st.lists(
    st.one_of(
        st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")),
        st.sampled_from(GOOD.splitlines()[:6]),
        st.tuples(st.text("aàB .,\t☃", max_size=12), st.text("aàB .", max_size=12)).map(
            lambda pair: "\t".join(pair).encode()
        ),
    ),
    max_size=30,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, num_held_out=st.integers(0, 3))
def test_every_line_is_used_or_dropped_for_a_reason(tmp_path: Path, lines: list[bytes], num_held_out: int) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(GOOD + b"".join(line + b"\n" for line in lines))
    data = read_pairs(path, num_held_out=num_held_out)
    kept = data.training + data.held_out
    assert len(kept) + sum(data.dropped.values()) == 40 + len(lines)
    assert len(set(kept)) == len(kept)
    assert len(data.held_out) == num_held_out
    assert data.dropped.keys() == data.examples.keys() <= DROP_REASONS.keys()
    for reason, examples in data.examples.items():
        assert len(examples) == min(MAX_EXAMPLES, data.dropped[reason])


def test_too_few_pairs_are_config_errors_that_say_what_was_dropped(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(GOOD)
    assert len(read_pairs(path, num_held_out=1000).held_out) == 4, "a tenth"
    path.write_bytes(b"".join(GOOD.splitlines(keepends=True)[:19]) + b"one field\n")
    with pytest.raises(InputError, match=r"19 usable pairs .*wrong_fields 1.*too few"):
        read_pairs(path, num_held_out=1000)
    with pytest.raises(InputError, match="are too few to train on"):
        read_pairs(path, num_held_out=0, held_out=read_pairs(path, num_held_out=0).training)
    path.write_bytes(b"source;target\n")
    with pytest.raises(InputError, match=r"0 usable pairs .*TAB"):
        read_pairs(path, num_held_out=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"pairs\.tsv cannot be read"),
        (gzip.compress(b""), "is empty"),
        (gzip.compress(GOOD)[:-12], "cannot be read"),
        (GOOD.decode().encode("utf-16"), "UTF-16"),
    ],
)
def test_files_that_cannot_be_read_are_config_errors(tmp_path: Path, content: bytes | None, message: str) -> None:
    path, good = tmp_path / "pairs.tsv", tmp_path / "good.tsv"
    good.write_bytes(GOOD)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_pairs([good, path], num_held_out=1)


@pytest.mark.parametrize(("start", "stop"), [(0, 300), (1700, 2000)])
def test_a_stretch_out_of_step_is_found(tmp_path: Path, scenes: list[Pair], start: int, stop: int, caplog: Any) -> None:
    shifted = scenes.copy()
    shifted[start:stop] = [(scenes[index][0], scenes[index - 1][1]) for index in range(start, stop)]
    with caplog.at_level(logging.WARNING):
        data = read_pairs(write_tsv(tmp_path / "pairs.tsv", shifted), num_held_out=0)
    assert not (set(shifted) - set(scenes)) & kept_of(data)
    # Some good pairs at either end go with the stretch.
    assert stop - start <= data.dropped["misaligned"] + data.dropped["length_ratio"] <= stop - start + 200
    assert "pairs.tsv: lines" in caplog.text
    assert "misaligned" in caplog.text


def test_texts_in_another_language_are_dropped_from_either_column(tmp_path: Path, scenes: list[Pair]) -> None:
    italian = [(target, target + " !?") for _, target in scenes[:30]]
    wiese = "Ein großer Hund und eine kleine Katze auf der Wiese"
    german = [(source, f"{wiese} {number}") for number, (source, _) in enumerate(scenes[30:60])]
    path = write_tsv(tmp_path / "pairs.tsv", [*italian, *german, *scenes[60:180]])
    data = read_pairs(path, num_held_out=0, source_check=caption_language("en"), target_check=caption_language("it"))
    kept = kept_of(data)
    assert set(scenes[60:180]) <= kept
    assert len(kept & set(italian)) <= 6  # short ones are not judged
    assert not kept & set(german)
    assert {"wrong_language"} <= data.dropped.keys() <= {"wrong_language", "length_ratio"}


def test_swapped_columns_are_a_config_error(tmp_path: Path) -> None:
    italian, english = "Due grandi cani corrono sul prato verde", "Two big dogs run on the green meadow"
    path = write_tsv(tmp_path / "pairs.tsv", [(f"{italian} {number}", f"{english} {number}") for number in range(60)])
    with pytest.raises(InputError, match="60 of 60"):
        read_pairs(path, num_held_out=1, source_check=caption_language("en"), target_check=caption_language("it"))
    assert len(read_pairs(path, num_held_out=0).training) == 60
