"""A training that is killed, stopped early, continued with more pairs, or started over in the wrong place."""

import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_catalog.errors import DamagedError, PipelineError, SettingsError
from translation.packages.package import open_package
from translation.train.config import TrainPackageConfig
from translation.train.loop import WEIGHTS_FILE, HeldOutScores, train_model
from translation.train.model import TranslationModel
from translation.train.training import HELD_OUT_FILE, VOCABULARY_FILE, train_package, training_folder

QUICK = TrainPackageConfig(
    vocabulary_size=150,
    embed_dim=16,
    num_heads=2,
    ffn_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    num_steps=60,
    warmup_steps=2,
    batch_tokens=256,
    num_held_out=10,
    validate_every_steps=6,
)
SETTINGS = [
    argument
    for name in (
        *("vocabulary_size", "embed_dim", "num_heads", "ffn_dim", "num_encoder_layers", "num_decoder_layers"),
        *("num_steps", "warmup_steps", "batch_tokens", "num_held_out", "validate_every_steps"),
    )
    for argument in ("--set", f"{name}={getattr(replace(QUICK, num_steps=24), name)}")
]


def command(pairs: Path, out: Path) -> list[str]:
    head = [sys.executable, "-m", "flows.cli", "mt", "train", str(pairs), "--from", "en", "--to", "it"]
    return [*head, "--out", str(out), *SETTINGS]


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_training_killed_at_random_moments_gives_the_same_package(tiny_tsv: Path, tmp_path: Path, kills: int) -> None:
    whole, killed = tmp_path / "whole" / "en_it.argosmodel", tmp_path / "killed" / "en_it.argosmodel"
    begun = time.monotonic()
    subprocess.run(command(tiny_tsv, whole), check=True, capture_output=True)
    seconds = time.monotonic() - begun
    rng = random.Random(7)
    num_killed = 0
    for _ in range(kills):
        process = subprocess.Popen(command(tiny_tsv, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=seconds * rng.uniform(0.3, 0.9))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            num_killed += process.wait() == -signal.SIGKILL
    subprocess.run(command(tiny_tsv, killed), check=True, capture_output=True)
    assert num_killed > 0
    assert killed.read_bytes() == whole.read_bytes()
    for name in (WEIGHTS_FILE, VOCABULARY_FILE, HELD_OUT_FILE):
        assert (training_folder(killed) / name).read_bytes() == (training_folder(whole) / name).read_bytes()


def test_scoring_leaves_torchs_threads_alone(tmp_path: Path) -> None:
    # CTranslate2 sets OpenMP's threads: a training went on with fewer than it was asked for, and resumed with others.
    torch.manual_seed(1)
    seen = []
    num_threads = torch.get_num_threads()

    def score(network: TranslationModel) -> HeldOutScores:
        torch.set_num_threads(3)
        return HeldOutScores(bleu=0.0, chrf=0.0, texts=[])

    try:
        torch.set_num_threads(2)
        train_model(
            TranslationModel(replace(QUICK, vocabulary_size=20, dropout=0.0)),
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


def test_a_finished_training_is_packed_again_without_a_step(tiny_tsv: Path, tmp_path: Path) -> None:
    out = tmp_path / "en_it.argosmodel"
    first = train_package([tiny_tsv], from_code="en", to_code="it", out=out, config=QUICK)
    packed, state = out.read_bytes(), (training_folder(out) / "state.safetensors").read_bytes()
    out.unlink()
    assert train_package([tiny_tsv], from_code="en", to_code="it", out=out, config=QUICK) == first
    assert out.read_bytes() == packed
    assert (training_folder(out) / "state.safetensors").read_bytes() == state


def test_training_ends_where_chrf_has_ceased_to_rise(tiny_tsv: Path, tmp_path: Path) -> None:
    config = replace(QUICK, lr=1e-12, early_stop=2)
    report = train_package([tiny_tsv], from_code="en", to_code="it", out=tmp_path / "en_it.argosmodel", config=config)
    assert (report.num_steps, report.best_step) == (18, 6)


def test_other_settings_do_not_go_on_from_there(tiny_tsv: Path, tmp_path: Path) -> None:
    out = tmp_path / "en_it.argosmodel"
    train_package([tiny_tsv], from_code="en", to_code="it", out=out, config=replace(QUICK, num_steps=6))
    packed = out.read_bytes()
    with pytest.raises(SettingsError, match=r"en_it\.argosmodel\.training contains a training with other settings"):
        train_package([tiny_tsv], from_code="en", to_code="it", out=out, config=QUICK)
    assert out.read_bytes() == packed


@pytest.mark.parametrize("name", ["run.json", "state.safetensors"])
def test_a_broken_training_folder_is_told(tiny_tsv: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "en_it.argosmodel"
    config = replace(QUICK, num_steps=6)
    train_package([tiny_tsv], from_code="en", to_code="it", out=out, config=config)
    (training_folder(out) / name).write_bytes(b"{}")
    with pytest.raises(DamagedError, match=r"(record of a training|resume state).*remove .* to train"):
        train_package([tiny_tsv], from_code="en", to_code="it", out=out, config=config)


def test_held_out_pairs_may_come_from_a_file(tiny_tsv: Path, tmp_path: Path) -> None:
    lines = tiny_tsv.read_text(encoding="utf-8").splitlines(keepends=True)
    held_out, out = tmp_path / "val.tsv", tmp_path / "en_it.argosmodel"
    held_out.write_text("".join(lines[:7]), encoding="utf-8")
    config = replace(QUICK, num_steps=6)
    report = train_package([tiny_tsv], from_code="en", to_code="it", out=out, config=config, held_out=held_out)
    assert report.num_held_out == 7
    assert report.dropped["held_out"] >= 7
    assert report.num_training + sum(report.dropped.values()) == len(lines)


def test_more_pairs_continue_a_training(tiny_argosmodel: Path, tmp_path: Path) -> None:
    more, out = tmp_path / "more.tsv", tmp_path / "more.argosmodel"
    held_out_line = (training_folder(tiny_argosmodel) / HELD_OUT_FILE).read_text(encoding="utf-8").splitlines()[0]
    new = [f"two red circles on a {colour} background\tdue cerchi rossi sullo sfondo {colour}" for colour in "abcdefgh"]
    more.write_text("\n".join([*new, held_out_line]), encoding="utf-8")
    config = TrainPackageConfig(num_steps=1, lr=1e-9, average_decay=0.0)
    report = train_package([more], from_code="en", to_code="it", out=out, config=config, continued=tiny_argosmodel)
    assert report.dropped == {"held_out": 1}
    assert report.chrf > 90  # of the earlier training's weights, on its held-out pairs
    old, newer = training_folder(tiny_argosmodel), training_folder(out)
    for name in (VOCABULARY_FILE, HELD_OUT_FILE):
        assert (old / name).read_bytes() == (newer / name).read_bytes()
    assert "The weights started from the training" in (open_package(out, tmp_path).folder / "README.md").read_text()


def test_what_cannot_be_continued_is_told(tiny_argosmodel: Path, tiny_tsv: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.argosmodel"

    def fault(**given: object) -> str:
        arguments = {"from_code": "en", "to_code": "it", "out": out, "config": QUICK, "continued": tiny_argosmodel}
        with pytest.raises(PipelineError) as caught:
            train_package([tiny_tsv], **(arguments | given))  # type: ignore[arg-type]
        return str(caught.value)

    assert "translates en to it, not en to de" in fault(to_code="de")
    assert "give another name with --out" in fault(out=tiny_argosmodel)
    assert "Remove --held-out" in fault(held_out=tiny_tsv)
    stray = tmp_path / "stray.argosmodel"
    stray.write_bytes(tiny_argosmodel.read_bytes())
    assert "stray.argosmodel.training, which `mt train` writes, does not contain" in fault(continued=stray)
    assert not out.exists()
