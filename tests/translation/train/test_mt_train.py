"""Trainings from end to end: the package, what a kill or an interruption costs, and what the folder holds."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from cleaning.languages.identification import caption_language
from data_catalog.errors import DamagedError, PipelineError, SettingsError
from translation.packages.package import open_package
from translation.train import loop
from translation.train.config import TrainPackageConfig
from translation.train.loop import STATE_FILE, WEIGHTS_FILE, HeldOutScores, train_model
from translation.train.model import TranslationModel, load_vocabulary
from translation.train.pairs import read_pairs
from translation.train.report import REPORT_FILE, TrainReport
from translation.train.training import (
    HELD_OUT_FILE,
    RUN_FILE,
    VOCABULARY_FILE,
    open_earlier_training,
    train_package,
    training_folder,
)

SIZES = {"vocabulary_size": 150, "embed_dim": 16, "num_heads": 2, "ffn_dim": 32}
LAYERS = {"num_encoder_layers": 1, "num_decoder_layers": 1, "check_languages": False}
STEPS = {"num_steps": 6, "warmup_steps": 2, "batch_tokens": 256, "num_held_out": 4, "validate_every_steps": 2}
QUICK = TrainPackageConfig(**SIZES, **LAYERS, **STEPS)  # type: ignore[arg-type]


def train(pairs: Path, out: Path, config: TrainPackageConfig = QUICK, **given: Any) -> TrainReport:
    arguments = {"from_code": "en", "to_code": "it", "out": out, "config": config} | given
    return train_package([pairs], **arguments)


def command(pairs: Path, out: Path) -> list[str]:
    quick = [
        word for name, value in (SIZES | LAYERS | STEPS).items() for word in ("--set", f"{name}={json.dumps(value)}")
    ]
    return ["mt", "train", str(pairs), "--from", "en", "--to", "it", "--out", str(out), *quick]


Finished = tuple[Path, TrainReport]


@pytest.fixture(scope="module")
def finished(tiny_tsv: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A package of `QUICK` with its training folder, which nobody changes, and its report."""
    out = tmp_path_factory.mktemp("finished") / "en_it.argosmodel"
    return out, train(tiny_tsv, out)


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """A copy of that, which a test may change."""
    shutil.copytree(finished[0].parent, tmp_path / "copy")
    return tmp_path / "copy" / "en_it.argosmodel"


def assert_same_training(found: Path, expected: Path) -> None:
    assert found.read_bytes() == expected.read_bytes()
    for name in (WEIGHTS_FILE, VOCABULARY_FILE, HELD_OUT_FILE):
        assert (training_folder(found) / name).read_bytes() == (training_folder(expected) / name).read_bytes()


def test_equal_training_gives_an_equal_file(finished: Finished, tiny_tsv: Path, tmp_path: Path) -> None:
    out, state = tmp_path / "en_it.argosmodel", torch.random.get_rng_state()
    assert train(tiny_tsv, out) == finished[1]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_same_training(out, finished[0])
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert (tmp_path / "en_it.argosmodel.sha256").read_text() == f"{digest}  en_it.argosmodel\n"
    names = ["en_it.argosmodel", "en_it.argosmodel.sha256", "en_it.argosmodel.training"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == names


# Runs the command, and kills the process when it calls a function for the second time.
KILLED = """
import os, signal, sys
from unittest import mock
from flows.cli import main
import translation.train.loop, translation.train.training
real, calls = eval(sys.argv[1]), []
def act(*given, **named):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given, **named)
with mock.patch(sys.argv[1], act):
    main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    "function",
    [
        "translation.train.loop.save_resume_state",  # between the best weights and the state
        pytest.param("translation.train.loop.save_tensors", marks=pytest.mark.slow),
        pytest.param("translation.train.loop.train_step", marks=pytest.mark.slow),
        pytest.param("translation.train.training.write_report", marks=pytest.mark.slow),
        pytest.param("translation.train.training.write_bytes", marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_gives_the_same_package(
    function: str, finished: Finished, tiny_tsv: Path, tmp_path: Path
) -> None:
    out = tmp_path / "en_it.argosmodel"
    code = [sys.executable, "-c", KILLED, function, *command(tiny_tsv, out)]
    assert subprocess.run(code, capture_output=True, check=False).returncode == -signal.SIGKILL
    train(tiny_tsv, out)
    assert_same_training(out, finished[0])


def test_an_interrupted_training_says_how_to_go_on(
    finished: Finished, tiny_tsv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Callable[..., str]
) -> None:
    out, steps, real = tmp_path / "en_it.argosmodel", [], loop.train_step

    def step(*given: Any) -> float:
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(loop, "train_step", step)
    assert "run the same command again to resume" in told(command(tiny_tsv, out), code=130)
    assert not list(training_folder(out).glob(".tmp-*"))
    told(command(tiny_tsv, out))
    assert len(steps) == 4 + 4, "the two steps before the last validation are not done again"
    assert_same_training(out, finished[0])


def test_scoring_leaves_torchs_threads_alone(tmp_path: Path) -> None:
    # CTranslate2 sets OpenMP's threads: a training went on with fewer than it was asked for, and resumed with others.
    seen, num_threads = [], torch.get_num_threads()

    def score(network: TranslationModel) -> HeldOutScores:
        torch.set_num_threads(3)
        return HeldOutScores(bleu=0.0, chrf=0.0, texts=[])

    try:
        torch.set_num_threads(2)
        train_model(
            TranslationModel(replace(QUICK, vocabulary_size=20, num_steps=2, validate_every_steps=1)),
            [([5, 6], [7])] * 4,
            [([6, 5], [8])],
            folder=tmp_path,
            key="",
            score=score,
            report=lambda state, texts: seen.append(torch.get_num_threads()),
        )
    finally:
        torch.set_num_threads(num_threads)
    assert set(seen) == {2}


def test_a_finished_training_is_packed_again_without_a_step(
    copied: Path, finished: Finished, tiny_tsv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied.unlink()
    monkeypatch.delattr(loop, "train_step")
    assert train(tiny_tsv, copied) == finished[1]
    assert_same_training(copied, finished[0])


def test_training_ends_where_chrf_has_ceased_to_rise(tiny_tsv: Path, tmp_path: Path) -> None:
    report = train(tiny_tsv, tmp_path / "en_it.argosmodel", replace(QUICK, lr=1e-12, num_steps=20, early_stop=2))
    assert (report.num_steps, report.best_step) == (6, 2)


def test_other_settings_do_not_go_on_from_there(copied: Path, tiny_tsv: Path) -> None:
    packed = copied.read_bytes()
    with pytest.raises(SettingsError, match="other settings"):
        train(tiny_tsv, copied, replace(QUICK, num_steps=8))
    assert copied.read_bytes() == packed


def test_a_training_does_not_go_on_with_other_pairs_of_the_same_file(tiny_tsv: Path, tmp_path: Path) -> None:
    pairs, out = tmp_path / "pairs.tsv", tmp_path / "en_it.argosmodel"
    german = [f"Ein großer Hund und eine kleine Katze auf der Wiese {n}\tdue cani sul prato {n}" for n in range(9)]
    pairs.write_text(tiny_tsv.read_text(encoding="utf-8") + "\n".join(german), encoding="utf-8")
    train(pairs, out, replace(QUICK, num_steps=2))
    with pytest.raises(SettingsError, match="pairs"):
        train(pairs, out, replace(QUICK, num_steps=2), source_check=caption_language("en"))


@pytest.mark.parametrize("name", [RUN_FILE, STATE_FILE])
def test_a_broken_training_folder_is_told(copied: Path, tiny_tsv: Path, name: str) -> None:
    (training_folder(copied) / name).write_bytes(b"{}")
    with pytest.raises(DamagedError, match=r"(R|r)emove"):
        train(tiny_tsv, copied)


def test_held_out_pairs_may_come_from_a_file(tiny_tsv: Path, tmp_path: Path) -> None:
    lines = tiny_tsv.read_text(encoding="utf-8").splitlines(keepends=True)
    held_out = tmp_path / "val.tsv"
    held_out.write_text("".join(lines[:7]), encoding="utf-8")
    report = train(tiny_tsv, tmp_path / "en_it.argosmodel", replace(QUICK, num_steps=2), held_out=held_out)
    assert report.num_held_out == 7
    assert report.dropped["held_out"] >= 7
    assert report.num_training + sum(report.dropped.values()) == len(lines)


def test_more_pairs_continue_a_training(copied: Path, tmp_path: Path) -> None:
    more, out, old = tmp_path / "more.tsv", tmp_path / "more.argosmodel", training_folder(copied)
    new = [f"two red circles on a {colour} background\tdue cerchi rossi sullo sfondo {colour}" for colour in "abcdefgh"]
    odd = "a dog\ra cat\u2028a bird\tun cane\run gatto\u2028un uccello"
    (old / HELD_OUT_FILE).write_bytes(f"{new[0]}\n{odd}\n".encode())
    more.write_bytes("\n".join([*new, odd]).encode())
    report = train(more, out, replace(QUICK, num_steps=1, lr=1e-9, average_decay=0.0, seed=2), continued=copied)
    assert (report.num_training, report.dropped) == (7, {"held_out": 2})
    for name in (VOCABULARY_FILE, HELD_OUT_FILE):
        assert (old / name).read_bytes() == (training_folder(out) / name).read_bytes()
    before, after = (load_file(folder / WEIGHTS_FILE) for folder in (old, training_folder(out)))
    assert all(torch.allclose(weights, after[name], atol=1e-6) for name, weights in before.items())
    assert "started from the training" in (open_package(out, tmp_path).folder / "README.md").read_text()


def test_what_cannot_be_continued_is_told(
    copied: Path, tiny_tsv: Path, tmp_path: Path, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new.argosmodel"

    def fault(**given: object) -> str:
        with pytest.raises(PipelineError) as caught:
            train(tiny_tsv, **({"out": out, "continued": copied} | given))  # type: ignore[arg-type]
        return str(caught.value)

    assert "not en to de" in fault(to_code="de")
    assert "--out" in fault(out=copied)
    assert "Remove --held-out" in fault(held_out=tiny_tsv)
    stray = tmp_path / "stray.argosmodel"
    stray.write_bytes(copied.read_bytes())
    assert "stray.argosmodel.training" in fault(continued=stray)
    monkeypatch.setitem(sys.modules, "translation.train.training", None)  # what follows is told before torch is loaded
    words = [*command(tiny_tsv, out), "--continue", str(copied)]
    error = told(words, code=1)
    assert "--set embed_dim, ffn_dim, num_decoder_layers" in error
    assert "num_heads, num_held_out" in error
    assert "Remove --held-out" in told([*words, "--held-out", str(tiny_tsv)], code=1)
    copied.unlink()
    assert "has ended" in fault()
    assert not list(tmp_path.glob("new*"))


def test_a_diverging_training_is_told_and_has_a_page(tiny_tsv: Path, tmp_path: Path) -> None:
    out = tmp_path / "en_it.argosmodel"
    with pytest.raises(SettingsError, match=r"diverged.*Remove .*\.training and train"):
        train(tiny_tsv, out, replace(QUICK, lr=1e30, warmup_steps=0, num_steps=20, validate_every_steps=20))
    assert not out.exists()
    assert "after step 0 of 20" in (training_folder(out) / REPORT_FILE).read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b"a dog\tun cane", b"a dog\n", b"a\tb\tc\n", b"caff\xe8\tcoffee\n"])
def test_damaged_held_out_pairs_are_told(copied: Path, content: bytes) -> None:
    (training_folder(copied) / HELD_OUT_FILE).write_bytes(content)
    with pytest.raises(DamagedError, match=HELD_OUT_FILE):
        open_earlier_training(copied, from_code="en", to_code="it")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.sampled_from("\x01\x7f\x8f\u061c\u00ad\u200b\u200d\u200f\u2581\ufeff\ufffd\u3000aé☃"), min_size=1)
)
def test_every_text_that_is_trained_on_has_pieces(finished: Finished, tmp_path: Path, text: str) -> None:
    # A batch of sources without a piece ended the training with a traceback.
    path = tmp_path / "pairs.tsv"
    path.write_text(f"a dog\tun cane\n{text}\tun cane\na dog\t{text}\n", encoding="utf-8")
    vocabulary = load_vocabulary(training_folder(finished[0]) / VOCABULARY_FILE)
    data = read_pairs(path, num_held_out=0)
    assert all(vocabulary.encode(kept) for pair in data.training for kept in pair)


def test_the_package_says_what_it_is(finished: Finished) -> None:
    with zipfile.ZipFile(finished[0]) as file:
        names = sorted(member.filename.removeprefix("translate-en_it-1_0/") for member in file.infolist())
        metadata = json.loads(file.read("translate-en_it-1_0/metadata.json"))
        card = file.read("translate-en_it-1_0/README.md").decode()
    model = ["model/config.json", "model/model.bin", "model/shared_vocabulary.json"]
    assert names == ["README.md", "metadata.json", *model, "sentencepiece.model"]
    assert (metadata["from_code"], metadata["from_name"], metadata["to_name"]) == ("en", "English", "Italian")
    assert "# English to Italian, version 1.0" in card
    assert "- `num_steps`: 6" in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({"from_code": code}, f"'{code}'") for code in ("EN", "../x")),
        ({"to_code": "en"}, "itself"),
        ({"out": Path("model.zip")}, "argosmodel"),
        ({"out": Path("taken.argosmodel")}, "folder"),
        ({"config": replace(QUICK, vocabulary_size=20)}, "vocabulary_size 20"),
    ],
)
def test_wrong_arguments_are_config_errors(
    tiny_tsv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken.argosmodel").mkdir()
    with pytest.raises(SettingsError, match=message):
        train(tiny_tsv, **({"out": tmp_path / "en_it.argosmodel"} | arguments))
    assert [path.name for path in tmp_path.glob("*.argosmodel")] == ["taken.argosmodel"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("num_steps", "lr", "batch_tokens")),
        *((name, float("nan")) for name in ("lr", "weight_decay")),
        *((name, -1) for name in ("early_stop", "threads", "warmup_steps")),
        *((name, value) for name in ("dropout", "label_smoothing") for value in (-0.1, 1.0)),
        *{"weight_decay": float("inf"), "seed": 2**64, "package_version": "1/0", "precision": "fp16"}.items(),
        ("embed_dim", 20),
    ],
)
def test_wrong_settings_name_the_field(name: str, value: float | str) -> None:
    with pytest.raises(SettingsError, match=rf"mt_train\.{name}"):
        TrainPackageConfig(**{"num_heads": 4, name: value})  # type: ignore[arg-type]
