"""The main job in small, through the command line: translated, trained, scored, searched, and remembered."""

import json
import re
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.database.catalog import query
from data_catalog.storage.manifest import require_snapshot
from flows.cli import main
from training.trained_models import current_model


@pytest.fixture(scope="module")
def arguments(unused_port: int) -> list[str]:
    settings = [
        "scenes.num_images=120",
        f'scenes.base_url="http://127.0.0.1:{unused_port}"',
        f"serve.port={unused_port}",
        "build.shard_size=60",
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


def test_jobs_and_models_answer_as_json(root: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def answer(*words: str) -> Any:
        capsys.readouterr()
        assert main([*words, "--root", str(root), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    snapshot = require_snapshot(root, "scenes")
    built = answer("build", "scenes", *arguments)
    assert (built["dataset"], built["snapshot"], built["up_to_date"]) == ("scenes", snapshot.snapshot, True)
    assert built["pairs"] == snapshot.num_pairs
    assert built["funnel"][-1]["step"] == "deduplicate"
    assert sum(row["dropped"] for row in built["drop_reasons"]) == sum(row["dropped"] for row in built["funnel"])
    dry = answer("build", "scenes", *arguments, "--dry-run", "--rows", "20")
    assert set(dry["rows"]) == {"wit", "mscoco", "cc3m", "flickr8k"}
    trained = answer("train", "scenes", *arguments)
    assert (trained["snapshot"], trained["epochs"]) == (snapshot.snapshot, 1)
    scored = answer("evaluate", "scenes", *arguments)
    assert scored["folder"] == trained["folder"]
    (model,) = answer("models")
    assert (model["dataset"], model["folder"], model["is_current"]) == ("scenes", trained["folder"], True)
    assert (model["snapshot"], model["config"], model["split"]) == (snapshot.snapshot, "compact", "test")
    ours = {"name": "text_to_image_R@5", "captions": "distinct", "images": "all"}
    assert model["score"] == next(score["value"] for score in scored["scores"] if score.items() >= ours.items())
    assert main(["models", "--root", str(root)]) == 0
    assert Path(trained["folder"]).name in capsys.readouterr().out


def test_a_copied_root_is_scored_and_mended(
    root: Path, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Views of its catalog name files of the root that it was copied from."""
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("work"))
    assert main(["evaluate", "scenes", "--root", str(copy), *arguments]) == 0
    assert "vernaclip search '" in capsys.readouterr().out
    assert main(["sql", "SELECT count(*) FROM pairs", "--root", str(copy)]) == 1
    assert f"`vernaclip catalog --rebuild --root {copy}` first" in capsys.readouterr().err
    assert main(["catalog", "--rebuild", "--root", str(copy)]) == 0
    assert main(["sql", "SELECT count(*) FROM pairs", "--root", str(copy)]) == 0


def test_a_bit_of_a_model_that_flips_is_found(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next((root / "models" / "scenes").glob("*/model.safetensors"))
    content = path.read_bytes()
    assert main(["verify", "--root", str(root)]) == 0
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert main(["verify", "--root", str(root)]) == 1
    path.write_bytes(content)
    assert f"damage: {path} is damaged" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["effort.json", "result.json", "files.json", "metrics.jsonl"])
def test_a_file_of_a_model_that_goes_or_changes_is_found(
    root: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next((root / "models" / "scenes").glob(f"*/{name}"))
    content = path.read_bytes()
    path.unlink()
    assert main(["verify", "--root", str(root)]) == 1
    path.write_bytes(content.replace(b"1", b"2", 1))
    assert main(["verify", "--root", str(root)]) == 1
    path.write_bytes(content)
    assert main(["verify", "--root", str(root)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("damage: ") and str(path.parent) in line for line in told) >= 2


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
    for part in ("license: cc0-1.0", "| mscoco | CC0-1.0 | ", "machine translation made ", "in one attempt, on "):
        assert part in card, part
    scores = json.loads(next((root / "models" / "scenes").glob("*/scores-test.json")).read_text(encoding="utf-8"))
    assert card.count("      value: ") == len([score for score in scores["scores"] if score["captions"] == "all"])
    assert "text_to_image_R@1" in card
    assert str(root) not in card
    for wrong, message in (
        (["scenes", "--model", str(root)], "name one model"),
        ([], "name one model"),
        (["--model", str(root / "nothing")], "contains no finished model"),
        (["cats", "--root", str(root)], "contains no model of 'cats'"),
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


@pytest.fixture(scope="module")
def photos(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of the dataset as files, and one file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    shards = sorted((root / "datasets" / "scenes").rglob("pairs/*.parquet"))
    images = (row for shard in shards for row in pq.read_table(shard, columns=["image"]).to_pylist())
    for row in islice(images, 10):
        (folder / f"{len(list(folder.iterdir()))}.jpg").write_bytes(row["image"]["bytes"])
    (folder / "broken.jpg").write_text("no image")
    return folder


def test_a_search_as_json_is_of_the_catalog(root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["search", "due cerchi rossi", "--root", str(root), "--json", "-", "--out", str(sheet)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [hit["rank"] for hit in found["hits"]] == list(range(1, 13))
    pairs = rows(root, "SELECT sample_id, captions, split, url, page_url, license, attribution FROM pairs")
    assert found["num_images"] == len(pairs)
    told = {str(pair["sample_id"]): pair for pair in pairs}
    for hit in found["hits"]:
        assert {name: hit[name] for name in told[hit["sample_id"]]} == told[hit["sample_id"]]
    assert found["picture"] == str(sheet)
    command = ["search", "due cerchi rossi", "--root", str(root), "--json", "-", "--out", str(sheet), "--top", "1000"]
    assert main([*command, "--split", "test"]) == 0
    held_out = json.loads(capsys.readouterr().out)
    assert {hit["sample_id"] for hit in held_out["hits"]} == {p["sample_id"] for p in pairs if p["split"] == "test"}


def test_a_folder_is_searched_without_a_catalog(
    root: Path, photos: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = str(next((root / "models" / "scenes").glob("*/model.safetensors")).parent)
    written, sheet = tmp_path / "hits.json", tmp_path / "sheet.png"
    command = ["search", "due cerchi rossi", "--images", str(photos), "--json", str(written), "--out", str(sheet)]
    assert main([*command, "--model", model]) == 0
    said = capsys.readouterr().out
    assert "Files that could not be read: 1" in said
    assert "broken.jpg: the file is no image" in said
    alone = json.loads(written.read_text(encoding="utf-8"))
    assert main([*command, "--root", str(root)]) == 0
    assert json.loads(written.read_text(encoding="utf-8")) == alone
    assert (len(alone["hits"]), alone["num_images"], len(alone["unreadable"])) == (10, 10, 1)


def test_an_image_is_classified(root: Path, photos: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    classes, picture = tmp_path / "classes.txt", tmp_path / "bars.png"
    classes.write_text("una stella\n\nun cuore\n", encoding="utf-8")
    command = ["classify", str(photos / "0.jpg"), "un cerchio", "--classes", str(classes), "--out", str(picture)]
    command += ["--root", str(root), "--template", "si vede {c}"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "Probabilities compare only these texts" in said
    assert main([*command, "--json", "-"]) == 0
    choices = json.loads(capsys.readouterr().out)["choices"]
    assert {choice["text"] for choice in choices} == {"si vede un cerchio", "si vede una stella", "si vede un cuore"}
    assert sum(choice["probability"] for choice in choices) == pytest.approx(1)
    shown = re.findall(r"si vede (\w+ \w+)", said)
    assert [choice["label"] for choice in choices] == shown
    with Image.open(picture) as bars:
        assert bars.format == "PNG"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["classify", "{0}", "un cane", "un gatto", "--out", "{0}"], "is the input image"),
        (["localize", "{0}", "un cane", "--json", "{0}"], "is the input image"),
        (
            ["search", "un cane", "--images", "{photos}", "--out", "{photos}/1.jpg"],
            "is searched: choose another path with --out",
        ),
        (
            ["search", "un cane", "--images", "{photos}", "--json", "{photos}/1.jpg"],
            "is searched: choose another path with --json",
        ),
        (["search", "un cane", "--out", "o.png", "--json", "o.png"], "both name o.png"),
        (["search", "un cane", "--json", "{photos}"], "names the folder"),
    ],
)
def test_what_is_read_is_never_written_over(
    root: Path, photos: Path, words: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.read_bytes() for file in photos.iterdir() if file.is_file()}
    command = [word.replace("{0}", str(photos / "0.jpg")).replace("{photos}", str(photos)) for word in words]
    assert main([*command, "--root", str(root)]) == 1
    assert error in capsys.readouterr().err
    assert {file: file.read_bytes() for file in photos.iterdir() if file.is_file()} == before


def test_a_picture_of_an_earlier_search_elsewhere_stays(
    root: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(next((root / "models" / "scenes").glob("*/model.safetensors")).parent.resolve())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "un-cane.png").write_bytes(b"mine")
    assert main(["search", "un cane", "--images", str(photos), "--model", model]) == 1
    assert "exists: choose the path of the picture with --out" in capsys.readouterr().err
    assert (tmp_path / "un-cane.png").read_bytes() == b"mine"


def test_a_text_is_found_in_an_image(
    root: Path, photos: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    heat, told = tmp_path / "heat.png", tmp_path / "heat.json"
    command = ["localize", str(photos / "0.jpg"), "un cerchio", "--root", str(root), "--out", str(heat)]
    assert main([*command, "--json", str(told)]) == 0
    assert "cosine of image and text" in capsys.readouterr().out
    found = json.loads(told.read_text(encoding="utf-8"))
    assert (len(found["grid"]), {len(row) for row in found["grid"]}) == (16, {16})
    with Image.open(photos / "0.jpg") as image:
        assert (found["width"], found["height"]) == image.size


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["search", "uno", "--model", "m"], "--model can be used only with --images"),
        (["search", "uno", "--images", "PHOTOS", "--model", "m", "--dataset", "scenes"], "use one of the two"),
        (["search", "uno", "--images", "PHOTOS", "--split", "test"], "--split belongs to a dataset"),
        (["search", "uno", "--images", "gone"], "gone is not a folder"),
        (["search", "uno", "--out", "PHOTOS"], "names the folder"),
        (["search", "uno", "--out", "PHOTOS/0.jpg/sheet.png"], "0.jpg is not a folder"),
        (["search", "uno", "--top", "0"], "--top must be at least 1"),
        (["search", "uno", "--out", "sheet.jpg"], "sheet.jpg must end in .png"),
        (["search", " "], "a text is empty"),
        (["classify", "PHOTOS/0.jpg", "uno"], "give two or more"),
        (["classify", "PHOTOS/0.jpg", "--classes", "gone.txt"], "gone.txt cannot be read"),
        (["classify", "PHOTOS/0.jpg", "--classes", "PHOTOS/0.jpg"], "is not UTF-8 text"),
        (["classify", "PHOTOS/broken.jpg", "uno", "due"], "cannot be read as an image"),
        (["classify", "PHOTOS/0.jpg", "uno", "due", "--model", "PHOTOS"], "contains no model"),
        (["localize", "gone.jpg", "uno"], "there is no such file"),
        (["localize", "PHOTOS/0.jpg", "uno", "--dataset", "other"], "contains no model of 'other'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    root: Path, photos: Path, command: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*(part.replace("PHOTOS", str(photos)) for part in command), "--root", str(root)]) == 1
    told = capsys.readouterr().err
    assert said in told
    assert "defect" not in told


def test_a_second_run_does_nothing(root: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = require_snapshot(root, "scenes").snapshot
    assert main(["build", "scenes", "--root", str(root), *arguments]) == 0
    assert "is up to date: nothing to do" in capsys.readouterr().out
    assert require_snapshot(root, "scenes").snapshot == before


def test_captions_that_were_translated_once_are_remembered(
    root: Path, arguments: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    memory = {path.name: path.read_bytes() for path in (root / "memory").iterdir()}
    assert sorted(Path(name).suffix for name in memory) == [".json", ".sqlite"]
    before = require_snapshot(root, "scenes").snapshot
    stricter = [*arguments, "--set", "check.min_words=6"]
    assert main(["build", "scenes", "--root", str(root), *stricter]) == 0
    assert require_snapshot(root, "scenes").snapshot != before
    assert {path.name: path.read_bytes() for path in (root / "memory").iterdir()} == memory
    assert main(["build", "scenes", "--root", str(root), *arguments]) == 0
    assert require_snapshot(root, "scenes").snapshot == before, "an older snapshot of the same build is found again"


def test_a_model_is_trained_where_the_engine_is_gone(root: Path, arguments: list[str], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    shutil.rmtree(copy / "packages")
    gone = [*arguments, "--set", f"translate.package={tmp_path / 'gone.argosmodel'}", "--set", "train.seed=1"]
    assert main(["train", "scenes", "--root", str(copy), *gone]) == 0
    assert main(["evaluate", "scenes", "--root", str(copy), *gone]) == 0
    assert current_model(copy, "scenes").folder.name != current_model(root, "scenes").folder.name


def test_a_package_for_another_pair_is_refused_before_work_starts(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    german = [*arguments, "--set", "target_language=de"]
    assert main(["build", "scenes", "--root", str(tmp_path), *german]) == 1
    assert "it" in capsys.readouterr().err
    assert not (tmp_path / "datasets").exists()
