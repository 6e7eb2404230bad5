"""The command line from a trained model to a text tower in Lap, and the pairs that measure a lower precision."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_catalog.catalog.manifest import require_snapshot
from flows.cli.app import main
from flows.datasets import BuildReport
from flows.validation import validation_of
from training.towers.model import load_model
from training.towers.trained_models import TrainedModel


def test_the_val_split_or_what_is_named_measures_a_lower_precision(
    built: tuple[Path, BuildReport], random_clip: Callable[..., Path], tmp_path: Path
) -> None:
    root, report = built
    model = random_clip(["a red square", "two blue circles"])
    snapshot = require_snapshot(root, report.snapshot.dataset)
    found = validation_of(model, TrainedModel(folder=model, snapshot=snapshot), None, root)
    assert found is not None
    assert found.what == f"captions and images of the val split of {snapshot.dataset}"
    gallery = found.gallery(load_model(model))
    assert len(found.queries) == len(found.owners) > len(gallery) == max(found.owners) + 1
    assert validation_of(model, None, None, root) is None
    (tmp_path / "pairs.tsv").write_text("".join(f"a dog {n}\tun cane {n}\n" for n in range(40)))
    (tmp_path / "lesson.toml").write_text(
        f'target_language = "it"\n[distil]\nteacher = "{model}"\npairs = ["{tmp_path}/pairs.tsv"]\nnum_held_out = 3\n'
        "check_languages = false\n"
    )
    found = validation_of(model, None, tmp_path / "lesson.toml", tmp_path / "root")
    assert found is not None
    assert all(text.startswith("un cane") for text in found.queries)
    teacher = found.gallery(load_model(model))
    assert np.linalg.norm(teacher, axis=1) == pytest.approx(np.ones(3), abs=1e-4)
    # A model that held out fewer, as the command line said, learned from the third of them.
    run = {"settings": {"distil": {"num_held_out": 2}}, "learned": []}
    (model / "run.json").write_text(json.dumps(run))
    fewer = validation_of(model, None, tmp_path / "lesson.toml", tmp_path / "root")
    assert fewer is not None
    assert set(fewer.queries) < set(found.queries)
    assert len(fewer.queries) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x"], "give one of --immich and --lap"),
        (["x", "--immich", ".", "--lap", "."], "give one of --immich and --lap"),
        (["x", "--immich", ".", "--undo"], "either the FOLDER of an export or --undo"),
        (["--lap", "."], "either the FOLDER of an export or --undo"),
        (["--lap", ".", "--undo"], "no text tower of vernaclip is installed in .: nothing was changed"),
        (["x", "--lap", "."], "x/multilingual/vernaclip.json cannot be read (No such file or directory): make it"),
    ],
)
def test_wrong_wishes_end_in_a_sentence(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tower", "install", *words]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
