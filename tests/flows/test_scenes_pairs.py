"""vernaclip scenes-pairs: parallel captions of the sample's grammar, good enough for its language's own checks."""

from pathlib import Path

import pyarrow as pa
import pytest

from cleaning.checks import CheckConfig, apply_rules, translation_measure
from data_catalog.sample.grammar import parallel_pairs
from data_catalog.schema import CAPTIONS, PENDING
from flows.cli import main
from flows.recipe.language_packs import load_language_packs


def lines(path: Path) -> list[str]:
    return path.read_bytes().decode("utf-8").split("\n")[:-1]


@pytest.mark.parametrize(("arguments", "lang"), [([], "it"), (["--to", "it"], "it"), (["--to", "de"], "de")])
def test_pairs_in_the_language_that_is_asked_for(tmp_path: Path, arguments: list[str], lang: str) -> None:
    out = tmp_path / "new" / "pairs.tsv"
    assert main(["scenes-pairs", str(out), "--seed", "5", "--num-pairs", "70", *arguments]) == 0
    expected = parallel_pairs(seed=5, num_pairs=70, lang=lang)
    assert lines(out) == [f"{english}\t{translation}" for english, translation in expected]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "fr"], "pairs of English and it or de, not of English and fr"),
        (["--to", "en"], "pairs of English and it or de, not of English and en"),
        (["--num-pairs", "0"], "the number of pairs must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_written_leaves_the_file_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    out = tmp_path / "pairs.tsv"
    out.write_text("mine", encoding="utf-8")
    assert main(["scenes-pairs", str(out), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(("name", "reason"), [("a folder", "is no file"), ("a file/pairs.tsv", "cannot be written")])
def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, reason: str
) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a file").touch()
    assert main(["scenes-pairs", str(tmp_path / name), "--num-pairs", "3"]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path / name} {reason}" in error
    assert "defect" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "a folder"]


@pytest.mark.parametrize("lang", ["it", "de"])
def test_the_checks_keep_what_the_grammar_says(lang: str) -> None:
    pairs = list(parallel_pairs(seed=3, num_pairs=1500, lang=lang))
    sources, targets = ([pair[side] for pair in pairs] for side in (0, 1))
    pack = load_language_packs()[lang]
    known = {
        "clean_caption": sources,
        "caption": targets,
        "source_lang": ["en"] * len(pairs),
        "target_lang": [lang] * len(pairs),
        "outcome": [PENDING] * len(pairs),
        **translation_measure(pack)(sources, targets),
    }
    nothing = [None] * len(pairs)
    fields = [field.with_nullable(True) for field in CAPTIONS]
    table = pa.table({field.name: pa.array(known.get(field.name, nothing), field.type) for field in fields})
    rules = [rule for rule in CheckConfig().rules(pack) if rule.translations_only]
    reasons = apply_rules(table, rules, step="check").column("drop_reason").to_pylist()
    assert [(pair, reason) for pair, reason in zip(pairs, reasons, strict=True) if reason] == []
