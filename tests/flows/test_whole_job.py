"""The main job in small, through the command line: translated, trained, scored, searched, and remembered."""

import json
import logging
import re
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.catalog.manifest import require_snapshot
from data_catalog.catalog.query import query
from flows.cli import main
from training.towers.trained_models import current_model

SCENES = Path(__file__).resolve().parents[2] / "flows" / "packages" / "scenes-en_it.argosmodel"


@pytest.fixture(scope="module")
def arguments(unused_port: int) -> list[str]:
    settings = [
        "scenes.num_images=64",
        f'scenes.base_url="http://127.0.0.1:{unused_port}"',
        f"serve.port={unused_port}",
        "build.shard_size=32",
        "split.val=0.2",
        "split.test=0.2",
        "train.epochs=1",
        "train.batch_size=16",
        "evaluate.bootstrap_rounds=20",
    ]
    return [part for setting in settings for part in ("--set", setting)] + ["--executor", "local"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, arguments: list[str], quick_builds: None) -> Path:
    """A root in which the whole job was run."""
    folder = tmp_path_factory.mktemp("whole") / "catalog"
    assert main(["run", "scenes", "--root", str(folder), *arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def model(root: Path) -> Path:
    return current_model(root, "scenes").folder


def rows(root: Path, sql: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = query(root, sql).to_pylist()
    return found


def test_english_captions_are_translated_as_the_grammar_says_and_italian_ones_are_left_alone(root: Path) -> None:
    kept = rows(root, "SELECT * FROM captions WHERE outcome = 'kept'")
    for row in kept:
        native = row["source_lang"] == "it"
        assert (row["translator"] == "native") == native == (row["translation_score"] is None), row
    assert {row["source"] for row in kept if row["translator"] == "native"} == {"wit"}
    assert {row["source"] for row in kept if row["translator"] != "native"} == {"mscoco", "cc3m", "flickr8k"}
    words = {r"\bred\b": r"\bross[oaie]\b", r"(?<!light )\bblue\b": r"\bblu\b", r"\bstars?\b": r"\bstell[ae]\b"}
    pairs = [(str(row["clean_caption"]).lower(), str(row["caption"])) for row in kept if row["source_lang"] == "en"]
    found = [
        (bool(re.search(italian, it)), en, it)
        for en, it in pairs
        for english, italian in words.items()
        if re.search(english, en)
    ]
    assert len(found) > 30
    assert all(right for right, *_ in found), found
    steps = rows(root, "SELECT DISTINCT step, step_number FROM funnel ORDER BY step_number")
    assert " ".join(str(row["step"]) for row in steps) == (
        "ingest clean screen translate check fetch normalise deduplicate"
    )
    assert rows(root, "SELECT * FROM funnel WHERE read <> kept + dropped") == []


def test_jobs_and_models_answer_as_json_and_do_nothing_twice(
    root: Path, model: Path, arguments: list[str], told: Any
) -> None:
    def answer(*words: str) -> Any:
        return json.loads(told([*words, "--root", str(root), "--json"]))

    snapshot = require_snapshot(root, "scenes")
    built = answer("build", "scenes", *arguments)
    assert (built["dataset"], built["snapshot"], built["up_to_date"]) == ("scenes", snapshot.snapshot, True)
    assert (built["pairs"], built["funnel"][-1]["step"]) == (snapshot.num_pairs, "deduplicate")
    assert sum(row["dropped"] for row in built["drop_reasons"]) == sum(row["dropped"] for row in built["funnel"])
    dry = answer("build", "scenes", *arguments, "--dry-run", "--rows", "20")
    assert set(dry["rows"]) == {"wit", "mscoco", "cc3m", "flickr8k"}
    trained, scored = answer("train", "scenes", *arguments), answer("evaluate", "scenes", *arguments)
    assert (trained["snapshot"], trained["epochs"]) == (snapshot.snapshot, 1)
    assert scored["folder"] == trained["folder"] == str(model)
    gallery = rows(root, "SELECT count(*) AS n FROM pairs WHERE split = 'test'")[0]["n"]
    sizes = {row["gallery"] for row in scored["rows"] if row["metric"].startswith("text_to_image")}
    assert sizes == {gallery}
    assert all(row["low"] <= row["value"] <= row["high"] for row in scored["rows"])
    (listed,) = answer("models")
    assert (listed["dataset"], listed["folder"], listed["is_current"]) == ("scenes", trained["folder"], True)
    assert (listed["snapshot"], listed["config"], listed["split"]) == (snapshot.snapshot, "tiny", "test")
    ours = {"metric": "text_to_image_R@5", "captions": "distinct", "images": "all"}
    assert listed["score"] == next(row["value"] for row in scored["rows"] if row.items() >= ours.items())
    assert model.name in told(["models", "--root", str(root)])


def test_a_copied_root_is_scored_mended_and_trained_in_where_the_engine_is_gone(
    root: Path, model: Path, arguments: list[str], tmp_path: Path, told: Any
) -> None:
    """The views of catalog.duckdb name files of the root that it was copied from; `sql` needs them not."""
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("work"))
    place, count = ["--root", str(copy)], ["sql", "SELECT count(*) FROM pairs"]
    assert "vernaclip search '" in told(["evaluate", "scenes", *place, *arguments])
    assert main([*count, *place]) == 0
    assert main(["catalog", "--rebuild", *place]) == 0
    gone = [*arguments, "--set", f"translate.package={tmp_path / 'gone.argosmodel'}", "--set", "train.seed=1"]
    assert main(["train", "scenes", *place, *gone]) == 0
    assert main(["evaluate", "scenes", *place, *gone]) == 0
    assert current_model(copy, "scenes").folder.name != model.name


def test_a_trained_model_is_exported_with_a_card_of_its_run(root: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["export-model", "scenes", "--root", str(root), "--format", "open_clip", "--license", "cc0-1.0"]
    assert main([*arguments, "--out", str(out)]) == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    record = json.loads((out / "export.json").read_text(encoding="utf-8"))
    assert (record["dataset"], record["snapshot"]) == ("scenes", require_snapshot(root, "scenes").snapshot)
    assert all((out / name).is_file() for name in record["files"])
    for part in ("license: cc0-1.0", "| mscoco | CC0-1.0 | ", "machine translation made ", "text_to_image_R@1"):
        assert part in card, part
    written = json.loads((model / "scores-test.json").read_text(encoding="utf-8"))["rows"]
    assert card.count("      value: ") == len([row for row in written if row["captions"] == "all"])
    assert str(root) not in card


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


def test_a_search_as_json_is_of_the_catalog(root: Path, told: Any, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    found = json.loads(told(["search", "due cerchi rossi", "--root", str(root), "--json", "-", "--out", str(sheet)]))
    assert [hit["rank"] for hit in found["hits"]] == list(range(1, 13))
    pairs = rows(root, "SELECT sample_id, captions, split, url, page_url, license, attribution FROM pairs")
    assert found["num_images"] == len(pairs)
    known = {str(pair["sample_id"]): pair for pair in pairs}
    for hit in found["hits"]:
        assert {name: hit[name] for name in known[hit["sample_id"]]} == known[hit["sample_id"]]
    assert found["picture"] == str(sheet)
    with Image.open(sheet) as picture:
        assert picture.width > 600
    command = ["search", "due cerchi rossi", "--root", str(root), "--json", "-", "--out", str(sheet), "--top", "1000"]
    held_out = json.loads(told([*command, "--split", "test"]))
    assert {hit["sample_id"] for hit in held_out["hits"]} == {p["sample_id"] for p in pairs if p["split"] == "test"}


def test_a_folder_is_searched_without_a_catalog(
    root: Path, model: Path, photos: Path, told: Any, tmp_path: Path
) -> None:
    written, sheet = tmp_path / "hits.json", tmp_path / "sheet.png"
    command = ["search", "due cerchi rossi", "--images", str(photos), "--json", str(written), "--out", str(sheet)]
    said = told([*command, "--model", str(model)])
    assert "Files that could not be read: 1" in said
    assert "broken.jpg: " in said
    alone = json.loads(written.read_text(encoding="utf-8"))
    assert main([*command, "--root", str(root)]) == 0
    assert json.loads(written.read_text(encoding="utf-8")) == alone
    assert (len(alone["hits"]), alone["num_images"], len(alone["unreadable"])) == (10, 10, 1)


def test_a_query_of_another_language_is_translated_before_the_search(root: Path, told: Any, tmp_path: Path) -> None:
    place = ["--root", str(root), "--out", str(tmp_path / "sheet.png"), "--top", "5"]
    engine = ["--from", "en", "--package", str(SCENES)]
    found = json.loads(told(["search", "two red circles", *place, *engine, "--json", "-"]))
    assert (found["query"], found["translated_from"]) == ("due cerchi rossi", "two red circles")
    own = json.loads(told(["search", "due cerchi rossi", *place, "--json", "-"]))
    assert own["hits"] == found["hits"]
    assert "Translated query: due cerchi rossi\n" in told(["search", "two red circles", *place, *engine, "--to", "it"])


def test_an_image_is_searched_by_in_a_dataset_and_a_folder(root: Path, photos: Path, told: Any, tmp_path: Path) -> None:
    """All images are asked for: after one epoch they are so similar that rounding may rank the query's own sixth."""
    place = ["--root", str(root), "--out", str(tmp_path / "sheet.png"), "--top", "1000"]
    command = ["search", "--image", str(photos / "0.jpg"), *place]
    found = json.loads(told([*command, "--json", "-"]))
    (name,) = found["left_out"]
    assert (found["query"], len(found["hits"])) == (None, found["num_images"] - 1)
    assert name not in {hit["sample_id"] for hit in found["hits"]}
    assert "\nNot listed, because it is the query image: 0.jpg\n" in told([*command, "--images", str(photos)])


def test_an_image_is_classified_and_a_text_is_found_in_it(root: Path, photos: Path, told: Any, tmp_path: Path) -> None:
    classes, picture = tmp_path / "classes.txt", tmp_path / "bars.png"
    classes.write_text("una stella\n\nun cuore\n", encoding="utf-8")
    command = ["classify", str(photos / "0.jpg"), "un cerchio", "--classes", str(classes), "--out", str(picture)]
    command += ["--root", str(root), "--template", "si vede {c}"]
    said = told(command)
    assert "Probabilities compare only these texts" in said
    choices = json.loads(told([*command, "--json", "-"]))["choices"]
    assert {choice["text"] for choice in choices} == {"si vede un cerchio", "si vede una stella", "si vede un cuore"}
    assert sum(choice["probability"] for choice in choices) == pytest.approx(1)
    shown = re.findall(r"si vede (\w+ \w+)", said)
    assert [choice["label"] for choice in choices] == shown
    with Image.open(picture) as bars:
        assert bars.format == "PNG"
    heat, written = tmp_path / "heat.png", tmp_path / "heat.json"
    command = ["localize", str(photos / "0.jpg"), "un cerchio", "--root", str(root), "--out", str(heat)]
    assert main([*command, "--json", str(written)]) == 0
    found = json.loads(written.read_text(encoding="utf-8"))
    assert (len(found["grid"]), {len(row) for row in found["grid"]}) == (16, {16})
    with Image.open(photos / "0.jpg") as image, Image.open(heat) as shown_heat:
        assert (found["width"], found["height"]) == image.size
        assert shown_heat.format == "PNG"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["classify", "{photo}", "un cane", "un gatto", "--out", "{photo}"], "is the input image"),
        (["localize", "{photo}", "un cane", "--json", "{photo}"], "is the input image"),
        (["search", "un cane", "--images", "{photos}", "--out", "{photos}/1.jpg"], "another path with --out"),
        (["search", "un cane", "--images", "{photos}", "--model", "{model}"], "exists: choose the path"),
        (["search", "uno", "--out", "o.png", "--json", "o.png"], "both name o.png"),
        (["search", "uno", "--images", "{photos}", "--split", "test"], "--split belongs to a dataset"),
        (["search", "uno", "--model", "{model}"], "--model can be used only with --images"),
        (["search", "uno", "--images", "{photos}", "--model", "m", "--dataset", "scenes"], "one of the two"),
        (["search", "two", "--to", "it"], "need --from: the language of the query"),
        (["search", "two", "--package", "x"], "need --from: the language of the query"),
        (["search", "due", "--from", "it"], "from it to it: leave --from out"),
        (["search", "two", "--from", "e1"], "--from e1 is not a language code"),
        (["search", "two", "--from", "en", "--package", "gone.argosmodel"], "gone.argosmodel"),
        (["search", "two", "--from", "en", "--package", "p", "--set", "package=q"], "is given twice"),
        (["search", "zwei", "--from", "de", "--package", str(SCENES)], "translates en to it, but de to it is needed"),
        (["search", " ", "--from", "en", "--package", str(SCENES)], "a text is empty"),
        (["search", "two", "--images", "{photos}", "--model", "m", "--from", "en"], "--to is missing"),
        (["search"], "give one query"),
        (["search", "uno", "--image", "{photo}"], "give one query"),
        (["search", "--image", "{photos}/broken.jpg"], "broken.jpg cannot be read as an image"),
        (["search", "--image", "{photos}/broken.jpg", "--images", "{photos}"], "cannot be read as an image"),
        (["search", "--image", "{photo}", "--out", "{photo}"], "is the input image"),
        (["search", "--image", "{photo}", "--from", "en"], "the query is an image: leave --from out"),
        (["classify", "{photo}", "uno"], "give two or more"),
        (["classify", "{photos}/broken.jpg", "uno", "due"], "cannot be read as an image"),
        (["localize", "gone.jpg", "uno"], "there is no such file"),
        (["localize", "{photo}", "uno", "--dataset", "other"], "contains no model of 'other'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence_and_nothing_is_written_over(
    root: Path,
    model: Path,
    photos: Path,
    words: list[str],
    error: str,
    told: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    earlier = tmp_path / "un-cane.png"
    earlier.write_bytes(b"of an earlier search")
    before = {file: file.read_bytes() for file in photos.iterdir() if file.is_file()}
    places = {"photo": photos / "0.jpg", "photos": photos, "model": model.resolve()}
    command = [word.format_map(places) for word in words]
    message = told(command if error == "exists: choose the path" else [*command, "--root", str(root)], code=1)
    assert error in message
    assert "defect" not in message
    if command[0] == "search":
        assert "load the model" not in caplog.text
    assert {file: file.read_bytes() for file in photos.iterdir() if file.is_file()} == before
    assert earlier.read_bytes() == b"of an earlier search"


def test_captions_that_were_translated_once_are_remembered(root: Path, arguments: list[str]) -> None:
    memory = {path.name: path.read_bytes() for path in (root / "memory").iterdir()}
    assert sorted(Path(name).suffix for name in memory) == [".json", ".sqlite"]
    before = require_snapshot(root, "scenes").snapshot
    assert main(["build", "scenes", "--root", str(root), *arguments, "--set", "check.min_words=6"]) == 0
    assert require_snapshot(root, "scenes").snapshot != before
    assert {path.name: path.read_bytes() for path in (root / "memory").iterdir()} == memory
    assert main(["build", "scenes", "--root", str(root), *arguments]) == 0
    assert require_snapshot(root, "scenes").snapshot == before, "an older snapshot of the same build is found again"
