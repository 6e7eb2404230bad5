"""One's own photographs, by a recipe of what is needed alone: they run through, or a sentence says early why not."""

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image, ImageDraw

from data_catalog.errors import SettingsError
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
def call(recipe: Path, tmp_path: Path) -> Call:
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


def test_where_a_test_split_is_there_it_is_scored(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(call("run", "split.test=0.2", "split.val=0.2")) == 0
    assert "retrieval among the images of the test split" in capsys.readouterr().out


def changed_model(folder: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    """A setting that names the small model's config, changed."""
    config = json.loads(json.dumps(SMALL))
    change(config)
    (folder / "changed.json").write_text(json.dumps(config))
    return f"train.model={folder / 'changed.json'}"


def foreign_weights(folder: Path) -> str:
    """A setting that names weights of another image tower."""
    import torch
    from safetensors.torch import save_file

    save_file({"proj": torch.zeros(3, 3), "stem": torch.zeros(2)}, folder / "weights.safetensors")
    return f"train.image_weights={folder / 'weights.safetensors'}"


WRONG: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "no such model": (lambda _: ["train.model=gigantic"], "there is no model config 'gigantic': name one of compact"),
    "no model of open_clip's": (
        lambda folder: [changed_model(folder, lambda config: config["vision_cfg"].update(nonsense=1))],
        "open_clip cannot create a model from the model config",
    ),
    "features of two sizes": (
        lambda folder: [changed_model(folder, lambda config: config["text_cfg"].update(width=48, proj_type="none"))],
        "gives image and text features of different sizes",
    ),
    "no such weights": (lambda _: ["train.image_weights=nowhere.pt"], "nowhere.pt is neither a weights file"),
    "another model's weights": (lambda folder: [foreign_weights(folder)], "does not match the model's image tower: "),
    "no Hugging Face text tower": (
        lambda _: ["train.text_encoder=nowhere"],
        "train.text_encoder is set, but the model",
    ),
    "no such text encoder": (
        lambda folder: [changed_model(folder, lambda config: config["text_cfg"].update(hf_model_name=str(folder)))],
        "cannot be loaded",
    ),
    "a batch in pieces": (
        lambda _: ["train.model=compact", "train.microbatch=2"],
        "train.microbatch does not work with batch normalisation",
    ),
    "no GPU": (lambda _: ["train.device=cuda"], "train.device is cuda, but torch finds 0 GPUs"),
    "no test images": (
        lambda _: ["evaluate.split=test"],
        "evaluate.split is test but split.test is 0, so there would be nothing to score on",
    ),
    "nothing held out": (
        lambda _: ["split.val=0"],
        "split.val and split.test are 0, so there would be nothing to score on",
    ),
    "no guard against a test set": (
        lambda _: [
            'test_sets.held.kind="list"',
            'test_sets.held.files=["list.txt"]',
            *(f"leaks.by_{way}=false" for way in ("identity", "caption", "pixels")),
        ],
        "the leak guard is off, so the dataset may contain test set held",
    ),
    "no engine": (lambda _: ['target_language="it"'], "no Argos package translates en to it"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_would_fail_after_the_build_is_said_before_it(
    case: str, call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    settings, told = WRONG[case]
    assert main(call("run", *settings(tmp_path))) == 1
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


def test_a_build_that_keeps_nothing_fails_and_says_where_the_rows_went(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "catalog"
    for _ in range(2):  # anew, and as it is found done
        assert main(call("build", "clean.min_words=50")) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert "photos keeps none of 40 captions: clean dropped 40 as caption_too_short" in error
        assert f"{root}/datasets/photos/report.html" in error
    assert (root / "datasets/photos/report.html").is_file()
    assert main(["sql", "SELECT count(*) AS n FROM rejects", "--root", str(root)]) == 0
    assert "40" in capsys.readouterr().out
    assert main(call("run", "clean.min_words=50")) == 1
    assert not (root / "models").exists()


def test_a_build_that_keeps_nothing_does_not_take_the_place_of_one_that_does(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "catalog"
    assert main(call("build")) == 0
    good = require_snapshot(root, "photos").snapshot
    for _ in range(2):
        assert main(call("build", "clean.min_words=50")) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"snapshot {good} remains the current one" in error
        assert require_snapshot(root, "photos").snapshot == good
    (empty,) = set(snapshot_names(root, "photos")) - {good}
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
