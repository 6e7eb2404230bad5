"""One's own photographs run through, or a sentence says early why not; whose rights hold, which files cost a row."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from data_catalog.catalog.manifest import dataset_names, require_snapshot, snapshot_names
from data_catalog.report.page import refresh_report, write_report
from flows.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def recipe(own_folder: Any, tmp_path_factory: pytest.TempPathFactory, small_model: str) -> Path:
    """A recipe of what is needed alone, for 40 photographs and a table of their captions."""
    own = own_folder(tmp_path_factory.mktemp("own"))
    rows = [(f"{number}.jpg", own.caption(number)) for number in range(40)]
    for number, (name, _) in enumerate(rows):
        own.save(name, number)
    (own.folder / "small.json").write_text(small_model)
    path = Path(own.folder / "photos.toml")
    path.write_text('target_language = "en"\n' + own.source("mine", "path caption", rows), "utf-8")
    return path


Call = Callable[..., list[str]]


@pytest.fixture
def call(recipe: Path, tmp_path: Path, quick_builds: None) -> Call:
    """`call("run", "split.val=0.2")`: the words of a job with a small model, of one epoch."""

    def words(job: str, *more: str) -> list[str]:
        settings = [f"train.model={recipe.parent / 'small.json'}", "train.epochs=1", "evaluate.bootstrap_rounds=20"]
        every = [word for setting in (*settings, *more) for word in ("--set", setting)]
        return [job, str(recipe), "--root", str(tmp_path / "catalog"), "--executor", "local", *every]

    return words


def test_a_recipe_of_what_is_needed_alone_runs_through_and_photographs_can_be_added(
    call: Any, recipe: Path, own: Any, tmp_path: Path, told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It has a val split, by default, and no test split: val is what is scored."""
    caplog.set_level("INFO")
    said = told(call("run"))
    assert "retrieval among the images of the val split" in said
    assert "the epoch of the weights was chosen on these images, which flatters the model" in said
    assert re.search(
        r"Verdict: hard to tell, from so few images\. Of 100 captions, \d+ find their image first among \d+ \(", said
    )
    assert "What would help most: a pretrained image tower: set train.image_tower=efficientnet-lite0" in said
    assert re.search(r"check the files of photos, snapshot \w+, and load the model\n", caplog.text)
    assert f"load the model {tmp_path}/catalog/models/photos/" in caplog.text
    assert len(list((tmp_path / "catalog/models/photos").glob("*/scores-val.json"))) == 1
    search = ["search", own.caption(42), "--root", str(own.root), "--top", "99", "--json", "-"]
    assert len(json.loads(told(search))["hits"]) == 40
    for number in range(45):
        own.save(f"{number}.jpg", number)
    rows = [(f"{number}.jpg", own.caption(number)) for number in range(45)]
    more = own.folder / "photos.toml"
    more.write_text('target_language = "en"\n' + own.source("mine", "path caption", rows), "utf-8")
    said = told([str(more) if word == str(recipe) else word for word in call("build")])
    assert "5 of 45 images are new since the model was trained: `vernaclip search` finds them too." in " ".join(
        said.split()
    )
    caplog.clear()
    assert {hit["sample_id"] for hit in json.loads(told(search))["hits"]} >= {f"mine:{name}" for name, _ in rows[40:]}
    assert "encoded 5 of 45 images" in caplog.messages
    told(["forget", "--sample", "mine:3.jpg", "--root", str(own.root)])
    told([str(more) if word == str(recipe) else word for word in call("run")])
    assert {hit["sample_id"] for hit in json.loads(told(search))["hits"]} == {f"mine:{n}.jpg" for n in range(45)} - {
        "mine:3.jpg"
    }


GUARDS = [f"leaks.by_{way}=false" for way in ("identity", "caption", "pixels")]
NOTHING_HELD_OUT = "so there would be nothing to score on"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.model=gigantic"], "there is no model config 'gigantic': name one of compact"),
        (["model.by=align"], "align needs a pretrained image tower"),
        (["model.by=distil"], "distil.teacher is not set"),
        (["train.model={here}/wrong.json"], "open_clip cannot create a model from the model config"),
        (["train.image_weights={here}/weights.safetensors"], "of the image tower cannot be loaded"),
        (["train.model=compact", "train.microbatch=2"], "train.microbatch does not work with batch normalisation"),
        (["train.device=cuda"], "train.device is cuda, but torch finds 0 GPUs"),
        (["evaluate.split=test"], f"evaluate.split is test but split.test is 0, {NOTHING_HELD_OUT}"),
        (["split.val=0"], f"split.val and split.test are 0, {NOTHING_HELD_OUT}"),
        (
            ['test_sets.held.kind="list"', 'test_sets.held.files=["list.txt"]', *GUARDS],
            "the leak guard is off, so the dataset may contain test set held",
        ),
        (['target_language="it"'], "no Argos package translates en to it"),
    ],
)
def test_what_would_fail_after_the_build_is_said_before_it(
    settings: list[str],
    said: str,
    call: Any,
    tmp_path: Path,
    told: Any,
    small_model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    save_file({"proj": np.zeros((3, 3)), "stem": np.zeros(2)}, tmp_path / "weights.safetensors")
    (tmp_path / "wrong.json").write_text(small_model.replace('"layers"', '"nonsense": 1, "layers"', 1))
    error = told(call("run", *(setting.replace("{here}", str(tmp_path)) for setting in settings)), code=1)
    assert said in error
    assert "defect" not in error
    assert dataset_names(tmp_path / "catalog") == [], "nothing was built"


def test_a_disk_without_room_for_the_model_is_told_before_the_build(
    call: Any, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=10**9, used=10**9 - 50_000, free=50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert "50,000 bytes are free" in told(call("run"), code=1)
    assert dataset_names(tmp_path / "catalog") == []


def test_where_chance_held_nothing_out_it_is_said_before_training(call: Any, tmp_path: Path, told: Any) -> None:
    error = told(call("run", "split.val=0.0001"), code=1)
    assert "neither the test nor the val split has images" in error
    assert dataset_names(tmp_path / "catalog") == ["photos"]
    assert not (tmp_path / "catalog/models").exists()
    assert main(call("train", "split.val=0.0001")) == 0, "a model that is not scored may be trained"


def test_a_build_that_keeps_nothing_fails_and_does_not_take_the_place_of_one_that_does(
    call: Any, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.datasets.refresh_report", refresh_report)
    root = tmp_path / "catalog"
    for job in ("build", "run"):  # anew, and as it is found done
        error = told(call(job, "clean.min_words=50"), code=1).splitlines()[-1]
        assert "photos keeps none of 40 captions: clean dropped 40 as caption_too_short" in error
        assert f"{root}/datasets/photos/report.html" in error
    page = (root / "datasets/photos/report.html").read_text("utf-8")
    assert "No caption was kept: all 40 captions of 1 source were dropped." in page
    assert not (root / "models").exists()
    (empty,) = snapshot_names(root, "photos")
    assert main(call("build")) == 0
    good = require_snapshot(root, "photos").snapshot
    error = told(call("build", "clean.min_words=50"), code=1).splitlines()[-1]
    assert f"snapshot {good} remains the current one" in error
    assert f"vernaclip diff {good} {empty} --root {root}" in error
    assert require_snapshot(root, "photos").snapshot == good
    assert main(["verify", "--root", str(root)]) == 0
    assert "up to date" in told(call("build"))


def test_a_build_names_the_sources_of_which_a_step_dropped_nearly_all(own: Any, told: Any) -> None:
    own.save("1.jpg", 1)

    def rows(num_short: int, num_long: int) -> list[tuple[str, str]]:
        return [("1.jpg", "dog")] * num_short + [("1.jpg", own.caption(number)) for number in range(num_long)]

    counts = {"whole": (50, 0), "nearly": (45, 5), "most": (44, 6), "few": (49, 0)}
    own.recipe("".join(own.source(name, "path caption", rows(*count)) for name, count in counts.items()))
    words = ["build", str(own.folder / "own.toml"), "--root", str(own.root), "--executor", "local"]
    warning = "clean dropped 95 of 100 captions of nearly, whole, all as caption_too_short"
    assert f"warning: {warning}\n" in told(words)
    assert json.loads(told([*words, "--json"]))["warnings"] == [warning], "also of a build that is up to date"
    assert warning in write_report(own.root, require_snapshot(own.root, "own")).read_text("utf-8")


TOO_SHORT = "A dog"  # a row that is dropped for its caption is still a row of the image
ARR, BY, BY_SA, NC = "All rights reserved", "CC BY 4.0", "CC BY-SA 4.0", "CC BY-NC 4.0"
A, B = "https://a.example/", "https://b.example/"
# What each row of an image says (license, attribution, page), and which of them is published.
RIGHTS: dict[str, tuple[list[tuple[str, str, str]], int]] = {
    "forbidden": ([("CC0", "Anna", ""), (BY, "Bea", ""), (ARR, "", "")], 2),
    "noncommercial": ([(BY, "Anna", A), (NC, "", B)], 1),
    "unknown": ([("CC0", "Anna", ""), ("mine, ask me", "Bea", "")], 1),
    "silent": ([("CC0", "Anna", ""), ("", "", B)], 1),
    "silence-does-not-lift-a-ban": ([("", "Anna", ""), (NC, "", B)], 1),
    "sharealike": ([(BY, "Anna", ""), (BY_SA, "Bea", "")], 1),
    "credited": ([(BY, "", ""), (BY, "Bea", B)], 1),
    "dropped-caption": ([("CC0", "Anna", ""), (ARR, "Bea", TOO_SHORT)], 1),
}


def test_the_strictest_row_of_an_image_tells_its_rights(own: Any) -> None:
    columns, numbers = "path caption license attribution page", iter(range(99))
    rows, expected = [], {}
    for seed, (name, (stated, chosen)) in enumerate(RIGHTS.items()):
        own.save(f"{name}.png", seed)
        for license, attribution, page in stated:
            caption = TOO_SHORT if page == TOO_SHORT else own.caption(next(numbers))
            rows.append((f"{name}.png", caption, license, attribution, page.replace(TOO_SHORT, "")))
        expected[name] = tuple(text.replace(TOO_SHORT, "") or None for text in stated[chosen])
    own.build(own.source("own", columns, rows))
    found = own.rows("SELECT sample_id, license, attribution, page_url FROM pairs")
    names = ("license", "attribution", "page_url")
    assert expected == {
        row["sample_id"].removeprefix("own:").removesuffix(".png"): tuple(row[name] for name in names) for row in found
    }


def test_files_that_nobody_can_read_cost_the_rows_that_want_them_and_end_no_build(own: Any) -> None:
    for number, name in enumerate(("good.jpg", "fine.jpg")):
        own.save(name, number)
    spoiled = ["dangling.jpg", "itself.jpg", "pipe.jpg", "folder.jpg"]
    (own.photos / "dangling.jpg").symlink_to(own.photos / "nowhere.jpg")
    (own.photos / "itself.jpg").symlink_to(own.photos / "itself.jpg")
    os.mkfifo(own.photos / "pipe.jpg")
    (own.photos / "folder.jpg").mkdir()
    # What no row wants: a name that is not UTF-8, and what fails only when it is read.
    Path(os.fsdecode(os.fsencode(own.photos) + b"/caff\xe8.jpg")).write_bytes(b"latin-1")
    (own.photos / "locked.jpg").write_bytes(b"locked")
    (own.photos / "locked.jpg").chmod(0)
    (own.photos / "unreadable.jpg").symlink_to("/proc/self/mem")  # a file that root cannot read either
    (own.photos / "loop").symlink_to(own.photos)
    names = ["good.jpg", *spoiled, "fine.jpg"]
    own.build(own.source("own", "path caption", [(name, own.caption(n)) for n, name in enumerate(names)]))
    found = {row["path"]: row["drop_reason"] for row in own.rows("SELECT path, drop_reason FROM captions")}
    assert found == {**dict.fromkeys(spoiled, "missing_file"), "good.jpg": None, "fine.jpg": None}
