"""The main job in small, through the command line: translated, trained, scored, searched, and remembered."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from data_catalog.catalog import query
from data_catalog.manifest import require_snapshot
from flows.cli import main


@pytest.fixture(scope="module")
def arguments(unused_port: int) -> list[str]:
    settings = [
        "scenes.num_images=120",
        f'scenes.base_url="http://127.0.0.1:{unused_port}"',
        f"serve.port={unused_port}",
        "build.shard_size=60",
        "build.chunk_size=100",
        "split.val=0.2",
        "split.test=0.2",
        "train.epochs=1",
        "train.batch_size=16",
        "evaluate.bootstrap_rounds=20",
    ]
    return [part for setting in settings for part in ("--set", setting)] + ["--executor", "local"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, arguments: list[str]) -> Path:
    """A root in which the whole job was run."""
    folder = tmp_path_factory.mktemp("whole") / "catalog"
    assert main(["run", "scenes", "--root", str(folder), *arguments]) == 0
    return folder


def rows(root: Path, sql: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = query(root, sql).to_pylist()
    return found


def test_english_captions_are_translated_and_italian_ones_are_left_alone(root: Path) -> None:
    kept = rows(
        root, "SELECT source, source_lang, translator, translation_score, caption FROM captions WHERE outcome = 'kept'"
    )
    for row in kept:
        native = row["source_lang"] == "it"
        assert (row["translator"] == "native") == native, row
        assert (row["translation_score"] is None) == native, row
    assert {row["source"] for row in kept if row["translator"] == "native"} == {"wit"}
    assert {row["source"] for row in kept if row["translator"] != "native"} == {"mscoco", "cc3m", "flickr8k"}


def test_translations_are_what_the_grammar_says(root: Path) -> None:
    sentences = rows(
        root, "SELECT DISTINCT clean_caption AS en, caption AS it FROM captions WHERE translator LIKE 'argos:en-it:%'"
    )
    words = {
        r"\bred\b": r"\bross[oaie]\b",
        r"(?<!light )\bblue\b": r"\bblu\b",
        r"\byellow\b": r"\bgiall[oaie]\b",
        r"\bstars?\b": r"\bstell[ae]\b",
        r"\bcircles?\b": r"\bcerchi[o]?\b",
    }
    wrong = [
        sentence
        for sentence in sentences
        for english, italian in words.items()
        if re.search(english, str(sentence["en"]).lower()) and not re.search(italian, str(sentence["it"]).lower())
    ]
    assert len(sentences) > 100
    assert wrong == []


def test_the_funnel_holds_with_translation(root: Path) -> None:
    assert rows(root, "SELECT * FROM funnel WHERE read <> kept + dropped") == []
    steps = rows(root, "SELECT DISTINCT step, step_number FROM funnel ORDER BY step_number")
    assert [row["step"] for row in steps] == [
        "ingest",
        "clean",
        "screen",
        "translate",
        "check",
        "fetch",
        "normalise",
        "deduplicate",
    ]


def test_scores_say_what_they_were_measured_on(root: Path) -> None:
    path = next((root / "models" / "scenes").glob("*/scores-test.json"))
    scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
    gallery = rows(root, "SELECT count(*) AS n FROM pairs WHERE split = 'test'")[0]["n"]
    assert {score["gallery_size"] for score in scores if score["name"].startswith("text_to_image")} == {gallery}
    assert all(score["low"] <= score["value"] <= score["high"] for score in scores)


def test_a_bit_of_a_model_that_flips_is_found(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next((root / "models" / "scenes").glob("*/model.safetensors"))
    content = path.read_bytes()
    assert main(["verify", "--root", str(root)]) == 0
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert main(["verify", "--root", str(root)]) == 1
    path.write_bytes(content)
    assert f"damage: {path} is not what was written" in capsys.readouterr().out


def test_a_trained_model_is_exported_with_a_card_of_its_run(
    root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["export-model", "scenes", "--root", str(root), "--format", "open_clip", "--license", "cc0-1.0"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert "exported" in capsys.readouterr().out
    card = (out / "README.md").read_text(encoding="utf-8")
    record = json.loads((out / "export.json").read_text(encoding="utf-8"))
    assert (record["dataset"], record["snapshot"]) == ("scenes", require_snapshot(root, "scenes").snapshot)
    assert all((out / name).is_file() for name in record["files"])
    for part in ('license: "cc0-1.0"', "| mscoco | CC0-1.0 | ", "machine translation made ", "in one attempt, on "):
        assert part in card, part
    scores = json.loads(next((root / "models" / "scenes").glob("*/scores-test.json")).read_text(encoding="utf-8"))
    assert card.count("      value: ") == len([score for score in scores["scores"] if score["captions"] == "all"]) == 12
    assert str(root) not in card
    for wrong, message in (
        (["scenes", "--model", str(root)], "name one model"),
        ([], "name one model"),
        (["--model", str(root / "nothing")], "holds no finished model"),
        (["cats", "--root", str(root)], "holds no model of 'cats'"),
    ):
        assert main(["export-model", *wrong, "--format", "onnx", "--out", str(tmp_path / "no")]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_search_writes_a_contact_sheet(root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert main(["search", "due cerchi rossi", "--root", str(root), "--top", "5", "--out", str(out)]) == 0
    assert "rank" in capsys.readouterr().out
    with Image.open(out) as sheet:
        assert sheet.width > 600


def test_a_second_run_does_nothing(root: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = require_snapshot(root, "scenes").snapshot
    assert main(["build", "scenes", "--root", str(root), *arguments]) == 0
    assert "is up to date: nothing to do" in capsys.readouterr().out
    assert require_snapshot(root, "scenes").snapshot == before


def test_captions_that_were_translated_once_are_remembered(
    root: Path, arguments: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    memory = {path.name: path.read_bytes() for path in (root / "memory").iterdir()}
    assert sorted(Path(name).suffix for name in memory) == [".sha256", ".sqlite"]
    before = require_snapshot(root, "scenes").snapshot
    stricter = [*arguments, "--set", "check.min_words=6"]
    assert main(["build", "scenes", "--root", str(root), *stricter]) == 0
    assert require_snapshot(root, "scenes").snapshot != before
    assert {path.name: path.read_bytes() for path in (root / "memory").iterdir()} == memory
    assert main(["build", "scenes", "--root", str(root), *arguments]) == 0
    assert require_snapshot(root, "scenes").snapshot == before, "an older snapshot of the same build is found again"


def test_a_package_for_another_pair_is_refused_before_work_starts(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    german = [*arguments, "--set", "target_language=de"]
    assert main(["build", "scenes", "--root", str(tmp_path), *german]) == 1
    assert "it" in capsys.readouterr().err
    assert not (tmp_path / "datasets").exists()
