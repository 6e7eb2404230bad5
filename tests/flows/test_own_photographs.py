"""One's own photographs, by a recipe of what is needed alone: they run through, or a sentence says early why not."""

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from safetensors.numpy import save_file

from data_catalog.errors import SettingsError
from data_catalog.report.page import refresh_report
from data_catalog.storage.manifest import dataset_names, require_snapshot, snapshot_names
from flows.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

COLOURS = ("red", "green", "blue", "yellow", "black", "purple", "orange", "brown")
SMALL: dict[str, Any] = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "width": 32, "heads": 2, "layers": 1, "hf_tokenizer_name": "tokenizer"},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of what is needed alone, for 40 photographs and a table of their captions."""
    folder, rng = tmp_path_factory.mktemp("own"), Random(1)
    rows = ["photo,text"]
    for number in range(40):
        picture = Image.effect_noise((160, 120), 60 + number).convert("RGB")
        x, y = rng.randint(0, 90), rng.randint(0, 60)
        colour = COLOURS[number % len(COLOURS)]
        ImageDraw.Draw(picture).rectangle((x, y, x + rng.randint(30, 60), y + rng.randint(30, 50)), fill=colour)
        picture.save(folder / f"{number}.jpg")
        rows.append(f"{number}.jpg,A {colour} box with the number {number} lies on the grey table of the garden")
    (folder / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    (folder / "small.json").write_text(json.dumps(SMALL))
    (folder / "photos.toml").write_text(f"""
        target_language = "en"

        [sources.mine]
        kind = "pairs"
        files = ["{folder}/captions.csv"]
        path_column = "photo"
        caption_column = "text"
        lang = "en"
    """)
    return folder / "photos.toml"


Call = Callable[..., list[str]]


@pytest.fixture
def call(recipe: Path, tmp_path: Path, quick_builds: None) -> Call:
    """`call("run", "split.val=0.2")`: the words of a job with a small model, of one epoch."""

    def words(job: str, *more: str) -> list[str]:
        settings = [f"train.model={recipe.parent / 'small.json'}", "train.epochs=1", "evaluate.bootstrap_rounds=20"]
        every = [word for setting in (*settings, *more) for word in ("--set", setting)]
        return [job, str(recipe), "--root", str(tmp_path / "catalog"), "--executor", "local", *every]

    return words


def test_a_recipe_of_what_is_needed_alone_runs_through(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has a val split, by default, and no test split: val is what is scored."""
    assert main(call("run")) == 0
    assert "retrieval among the images of the val split" in capsys.readouterr().out
    assert len(list((tmp_path / "catalog/models/photos").glob("*/scores-val.json"))) == 1


GUARDS = [f"leaks.by_{way}=false" for way in ("identity", "caption", "pixels")]
NOTHING_HELD_OUT = "so there would be nothing to score on"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["train.model=gigantic"], "there is no model config 'gigantic': name one of compact"),
        (["train.model={here}/wrong.json"], "open_clip cannot create a model from the model config"),
        (["train.image_weights=nowhere.pt"], "nowhere.pt is neither a weights file"),
        (["train.image_weights={here}/weights.safetensors"], "does not match the model's image tower: "),
        (["train.text_encoder=nowhere"], "train.text_encoder is set, but the model"),
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
    told: str,
    call: Call,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    save_file({"proj": np.zeros((3, 3)), "stem": np.zeros(2)}, tmp_path / "weights.safetensors")
    (tmp_path / "wrong.json").write_text(json.dumps(SMALL | {"vision_cfg": SMALL["vision_cfg"] | {"nonsense": 1}}))
    assert main(call("run", *(setting.replace("{here}", str(tmp_path)) for setting in settings))) == 1
    error = capsys.readouterr().err
    assert told in error.splitlines()[-1]
    assert "defect" not in error
    assert dataset_names(tmp_path / "catalog") == [], "nothing was built"


def test_a_disk_without_room_for_the_model_is_told_before_the_build(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", ("total", "used", "free"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 50_000, 50_000))
    assert main(call("run")) == 1
    assert "50,000 bytes are free" in capsys.readouterr().err
    assert dataset_names(tmp_path / "catalog") == []


def test_where_chance_held_nothing_out_it_is_said_before_training(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(call("run", "split.val=0.0001")) == 1
    assert "neither the test nor the val split has images" in capsys.readouterr().err
    assert dataset_names(tmp_path / "catalog") == ["photos"]
    assert not (tmp_path / "catalog/models").exists()
    assert main(call("train", "split.val=0.0001")) == 0, "a model that is not scored may be trained"


def test_a_build_that_keeps_nothing_fails_and_does_not_take_the_place_of_one_that_does(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.jobs.refresh_report", refresh_report)
    root = tmp_path / "catalog"
    for job in ("build", "run"):  # anew, and as it is found done
        assert main(call(job, "clean.min_words=50")) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert "photos keeps none of 40 captions: clean dropped 40 as caption_too_short" in error
        assert f"{root}/datasets/photos/report.html" in error
    assert (root / "datasets/photos/report.html").is_file()
    assert not (root / "models").exists()
    (empty,) = snapshot_names(root, "photos")
    assert main(call("build")) == 0
    good = require_snapshot(root, "photos").snapshot
    assert main(call("build", "clean.min_words=50")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"snapshot {good} remains the current one" in error
    assert require_snapshot(root, "photos").snapshot == good
    assert f"vernaclip diff {good} {empty} --root {root}" in error
    assert main(["diff", good, empty, "--root", str(root)]) == 0
    assert "caption_too_short" in capsys.readouterr().out
    assert main(["verify", "--root", str(root)]) == 0
    assert main(call("build")) == 0
    assert "up to date" in capsys.readouterr().out


@pytest.mark.slow
def test_the_flow_of_all_three_says_it_before_the_build_too(
    call: Call, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.orchestration.temporary_server import run_flow

    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"root": tmp_path / "catalog", "project": tmp_path}
    with pytest.raises(SettingsError, match="nothing to score on"):
        run_flow("build-and-train", str(recipe), overrides=["split.val=0"], **given)
    assert dataset_names(tmp_path / "catalog") == []
