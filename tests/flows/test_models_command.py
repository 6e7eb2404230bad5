"""What a model was made of, after another was trained: list, scoreboard, card, exports, leaks; notes and removals."""

import html
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.base.errors import InputError
from data_catalog.catalog.manifest import commit_snapshot, require_snapshot
from data_catalog.disk.lock import writer_lock
from flows.cli import main
from flows.models import train_model
from training.data.pairs import pair_files
from training.towers.trained_models import current_model

pytestmark = [pytest.mark.slower, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

NEWER = "00000000000a"  # the id comes first in every list


class Twice(NamedTuple):
    """A root with two models of one dataset."""

    root: Path
    first: Path
    second: Path
    snapshots: Mapping[Path, str]

    def name(self, model: Path) -> str:
        return f"scenes/{model.name}"


@pytest.fixture(scope="module")
def small(small_model: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("small") / "small.json"
    path.write_text(small_model)
    return [f"train.model={path}", "train.epochs=1", "train.vocab_size=400", "train.batch_size=16"]


@pytest.fixture(scope="module")
def twice(built: Any, english_recipe: Any, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Twice:
    """The second model was trained after a newer snapshot, with the same pairs, had replaced that of the first."""
    root = tmp_path_factory.mktemp("twice") / "catalog"
    shutil.copytree(built[0], root, ignore=shutil.ignore_patterns("work"))
    before = require_snapshot(root, "scenes")
    first = train_model(english_recipe(root, *small), root).folder
    as_snapshot(root, "scenes")
    second = train_model(english_recipe(root, *small, "train.seed=1"), root).folder
    return Twice(root, first, second, {first: before.snapshot, second: NEWER})


def as_snapshot(root: Path, dataset: str, **splits: str) -> None:
    """Commit the pairs of scenes again, in a new snapshot, with some of the splits renamed."""
    before = require_snapshot(root, "scenes")
    pairs = [{**each, "split": splits.get(each["split"], each["split"])} for each in before.manifest["files"]["pairs"]]
    files = {**before.manifest["files"], "pairs": pairs}
    shutil.copytree(before.folder, root / "datasets" / dataset / NEWER)
    commit_snapshot(root, {**before.manifest, "dataset": dataset, "snapshot": NEWER, "files": files})


@pytest.fixture
def own(twice: Twice, tmp_path: Path) -> Twice:
    """A copy, to be changed."""
    root = Path(shutil.copytree(twice.root, tmp_path / "catalog", ignore=shutil.ignore_patterns("upstream")))
    first, second = (root / model.relative_to(twice.root) for model in (twice.first, twice.second))
    return Twice(root, first, second, {first: twice.snapshots[twice.first], second: NEWER})


@pytest.fixture
def call(own: Twice, told: Any) -> Callable[..., str]:
    """Called with a command, gives what it prints about the copy."""
    return lambda *words, code=0: str(told([*words, "--root", str(own.root)], code=code))


@pytest.fixture(scope="module")
def known(twice: Twice, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A test set of a picture that both models learned from."""
    folder = tmp_path_factory.mktemp("known")
    row = pq.read_table(pair_files(require_snapshot(twice.root, "scenes")).train[0]).to_pylist()[0]
    with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
        image.convert("RGB").save(folder / "known.png")
    Image.new("RGB", (90, 90), "teal").save(folder / "other.png")
    (folder / "set.tsv").write_text("image\tcaption\nknown.png\ta star\nother.png\ta sea\n", "utf-8")
    columns = ["path_column=image", "caption_column=caption", f"images={folder}"]
    return ["--test-set", "held", "kind=pairs", f"files={folder}/set.tsv", *columns]


def listed(call: Callable[..., str]) -> dict[str, dict[str, Any]]:
    return {Path(row["folder"]).name: row for row in json.loads(call("models", "--json"))}


def test_both_models_are_listed_with_what_they_were_made_of(own: Twice, call: Callable[..., str]) -> None:
    rows = listed(call)
    for model, snapshot in own.snapshots.items():
        row, run = rows[model.name], json.loads((model / "run.json").read_text())
        assert (row["dataset"], row["snapshot"], row["is_current"]) == ("scenes", snapshot, model == own.second)
        assert row["model_sha256"] == json.loads((model / "result.json").read_text())["model_sha256"]
        assert (row["learned"], row["borrowed"], row["note"]) == (run["learned"], [], "")
    assert json.loads((own.second.parent / "current.json").read_text()).keys() == {"model", "checksum"}
    lines = call("models").splitlines()
    first, second = own.name(own.first), own.name(own.second)
    assert [line.split()[:2] for line in lines[2:]] == [[first, own.snapshots[own.first]], ["*", second]]
    assert max(map(len, lines)) <= 100


def test_a_scoreboard_and_the_exports_of_both_name_dataset_and_snapshot(
    own: Twice, call: Callable[..., str], known: list[str], tmp_path: Path
) -> None:
    """Also when the snapshot of one was removed since, as by a take-down."""
    shutil.rmtree(own.root / "datasets" / "scenes" / own.snapshots[own.first])
    models = [word for model in own.snapshots for word in ("--model", str(model))]
    call("scoreboard", "--language", "en", *models, *known, "--report-anyway", "--out", str(tmp_path / "board"))
    board = json.loads((tmp_path / "board" / "scoreboard.json").read_text())
    stated = {model["name"]: model["trained_on"] for model in board["models"]}
    assert stated == {model.name: f"scenes {snapshot}" for model, snapshot in own.snapshots.items()}
    for model, snapshot in own.snapshots.items():
        out, kinds = tmp_path / model.name, ("open_clip", "transformers")
        formats = [word for kind in kinds for word in ("--format", kind)]
        call("export-model", "--model", str(model), *formats, "--out", str(out))
        for kind in kinds:
            record, card = ((out / kind / name).read_text("utf-8") for name in ("export.json", "README.md"))
            found = json.loads(record)
            assert (found["dataset"], found["snapshot"]) == ("scenes", snapshot)
            assert f"The dataset scenes, snapshot {snapshot}" in " ".join(html.unescape(card).split())
            assert ("upstream's terms" in card) is (model != own.first)
        away = ["scoreboard", "--language", "en", "--model", str(out / "open_clip"), *known, "--report-anyway"]
        assert main([*away, "--root", str(tmp_path / "nowhere"), "--out", str(tmp_path / "away")]) == 0
        board = json.loads((tmp_path / "away" / "scoreboard.json").read_text())
        assert board["models"][0]["trained_on"] == f"scenes {snapshot}"


@pytest.mark.parametrize("number", [0, 1])
def test_neither_is_scored_nor_judges_nor_starts_on_images_that_it_learned_from(
    number: int,
    own: Twice,
    call: Callable[..., str],
    known: list[str],
    english_recipe: Any,
    english_overrides: list[str],
    small: list[str],
) -> None:
    model = (own.first, own.second)[number]
    error = call("scoreboard", "--language", "en", "--model", str(model), *known, code=1)
    assert f"1 of the 2 images of held are among those that {model.name} was trained on" in error
    settings = [word for each in (*english_overrides, f"image_text.model={model}") for word in ("--set", each)]
    error = call("build", "scenes", "--executor", "local", *settings, code=1)
    assert f"image_text.model: {model} was trained on images of this dataset" in error
    as_snapshot(own.root, "swapped", train="val", val="train")
    settings = [*small, f"train.model={model}", "name=swapped"]
    with pytest.raises(InputError, match=r"was trained on \d+ images of the val and test splits of swapped"):
        train_model(english_recipe(own.root, *settings), own.root)


def test_the_same_training_on_another_snapshot_is_of_that(own: Twice, english_recipe: Any, small: list[str]) -> None:
    """Its own may be gone, and then nothing could be scored with it."""
    shutil.rmtree(own.root / "datasets" / "scenes" / own.snapshots[own.first])
    assert train_model(english_recipe(own.root, *small), own.root).folder == own.first
    assert current_model(own.root, "scenes").snapshot.snapshot == NEWER
    assert main(["verify", "--root", str(own.root)]) == 0


def test_a_note_is_shown_until_another_takes_its_place(own: Twice, call: Callable[..., str]) -> None:
    for text in ("twice the captions\x1b[31m", "better"):
        call("models", "note", own.name(own.first), text)
        assert listed(call)[own.first.name]["note"] == text
    assert call("models").endswith(f"\n\n{own.name(own.first)}\n  better\n")
    call("models", "note", str(own.first), "")
    assert "better" not in call("models")
    assert "has no model scenes/none" in call("models", "note", "scenes/none", "x", code=1)
    assert "sound" in call("verify")


def test_a_removed_model_frees_what_was_said_and_the_newest_is_removed_only_if_that_is_asked_for(
    own: Twice, call: Callable[..., str]
) -> None:
    before, size = own.snapshots[own.first], sum(p.stat().st_size for p in own.second.rglob("*") if p.is_file())
    assert f"kept: scenes {before}: the model {own.name(own.first)} was trained on it" in call("prune")
    command = ("models", "rm", own.name(own.second))
    assert f"would be removed: {own.second}, {size:,} bytes" in call(*command, "--newest", "--dry-run")
    for words in (command, (*command, "--dry-run")):
        assert f"{own.second} is the newest model of scenes" in call(*words, code=1)
    with writer_lock(own.first.parent):
        assert f"is being written by process {os.getpid()}" in call(*command, "--newest", code=75)
    said = f"removed: {own.second}, {size:,} bytes freed\nnewest model of scenes: {own.first.name}\n"
    assert call(*command, "--newest") == said
    model = current_model(own.root, "scenes")
    assert (model.folder, model.snapshot.snapshot) == (own.first, before)
    assert "has no model" in call(*command, code=1)
    assert "newest model of scenes: none" in call("models", "rm", str(own.first), "--newest")
    assert f"removed: scenes {before}" in call("prune")
    assert "has no trained model" in call("models", code=1)
    assert "contains no trained model" in call("search", "a star", code=1)
    assert "sound" in call("verify")


def test_a_killed_removal_leaves_no_pointer_to_what_is_gone(
    own: Twice, call: Callable[..., str], child: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["models", "rm", own.name(own.second), "--newest", "--root", str(own.root)]
    with child(command, "atomic.after_folder_fsync=kill") as process:
        process.communicate(timeout=120)
    assert process.returncode == -9
    assert {name: row["is_current"] for name, row in listed(call).items()} == {
        own.first.name: True,
        own.second.name: False,
    }
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        call("models", "rm", own.name(own.second), code=130)
    remains = own.second.with_name(f".tmp-removed-{own.second.name}")
    (remains / "model.safetensors").unlink()
    assert list(listed(call)) == [own.first.name]
    assert "sound" in call("verify")
    call("models", "rm", own.name(own.first), "--newest")
    assert not remains.exists()
