"""The folder of a training: what it holds is read back as it was, or its damage is told; what it is made of decides."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cleaning.languages.identification import caption_language
from data_catalog.errors import DamagedError, InputError, SettingsError
from flows.cli import main
from translation.packages.package import open_package
from translation.train.config import TrainPackageConfig
from translation.train.loop import STATE_FILE
from translation.train.model import load_vocabulary
from translation.train.pairs import Pair, read_pairs
from translation.train.report import REPORT_FILE
from translation.train.training import (
    HELD_OUT_FILE,
    VOCABULARY_FILE,
    open_earlier_training,
    read_held_out,
    save_held_out,
    train_package,
    training_folder,
)

QUICK = TrainPackageConfig(
    vocabulary_size=150,
    embed_dim=16,
    num_heads=2,
    ffn_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    num_steps=2,
    warmup_steps=2,
    batch_tokens=256,
    num_held_out=10,
    validate_every_steps=2,
)


def train(pairs: Path, out: Path, config: TrainPackageConfig = QUICK, **given: object) -> bytes:
    train_package([pairs], from_code="en", to_code="it", out=out, config=config, **given)  # type: ignore[arg-type]
    return out.read_bytes()


def finished(folder: Path, held_out: bytes, tiny_argosmodel: Path) -> Path:
    """A package with a training folder, whose held-out pairs are these bytes."""
    package = folder / "copied.argosmodel"
    package.write_bytes(b"a package")
    training_folder(package).mkdir()
    for path in training_folder(tiny_argosmodel).iterdir():
        (training_folder(package) / path.name).write_bytes(path.read_bytes())
    (training_folder(package) / HELD_OUT_FILE).write_bytes(held_out)
    return package


TEXTS = (
    st.text(
        st.one_of(st.characters(codec="utf-8"), st.sampled_from("\r\x0b\x0c\x1c\x85\u2028\ufeff\u200b\u2581\ufffd")),
        min_size=1,
        max_size=12,
    )
    .map(lambda text: text.translate({0: None, 9: None, 10: None}).strip())
    .filter(bool)
)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_held_out_pairs_come_back_as_they_were(tmp_path: Path, held_out: list[Pair]) -> None:
    save_held_out(tmp_path, held_out)
    assert read_held_out(tmp_path) == held_out


def test_pairs_held_out_with_odd_signs_stay_held_out(tiny_argosmodel: Path, tmp_path: Path) -> None:
    odd = ("a dog\ra cat\u2028a bird", "un cane\run gatto\u2028un uccello")
    package = finished(tmp_path, "\t".join(odd).encode() + b"\n", tiny_argosmodel)
    assert open_earlier_training(package, from_code="en", to_code="it").held_out == [odd]


@pytest.mark.parametrize("content", [b"", b"a dog\tun cane", b"a dog\n", b"a\tb\tc\n", b"caff\xe8\tcoffee\n"])
def test_damaged_held_out_pairs_are_told(tiny_argosmodel: Path, tmp_path: Path, content: bytes) -> None:
    package = finished(tmp_path, content, tiny_argosmodel)
    with pytest.raises(DamagedError, match=rf"{HELD_OUT_FILE} (is damaged|cannot be read).*(R|r)estore"):
        open_earlier_training(package, from_code="en", to_code="it")


def test_an_unfinished_training_is_not_continued(tiny_argosmodel: Path, tmp_path: Path) -> None:
    package = finished(tmp_path, b"a dog\tun cane\n", tiny_argosmodel)
    package.unlink()
    with pytest.raises(InputError, match="give a package whose training has ended"):
        open_earlier_training(package, from_code="en", to_code="it")


@given(
    text=st.text(st.sampled_from("\x01\x7f\x8f\u061c\u00ad\u200b\u200d\u200f\u2581\ufeff\ufffd\u3000aé☃"), min_size=1)
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_text_that_is_trained_on_has_pieces(tiny_argosmodel: Path, tmp_path: Path, text: str) -> None:
    # A batch of sources without a piece ended the training with a traceback.
    path = tmp_path / "pairs.tsv"
    path.write_text(f"a dog\tun cane\n{text}\tun cane\na dog\t{text}\n", encoding="utf-8")
    vocabulary = load_vocabulary(training_folder(tiny_argosmodel) / VOCABULARY_FILE)
    data = read_pairs(path, num_held_out=0)
    assert all(vocabulary.encode(kept) for pair in data.training for kept in pair)


def test_settings_can_be_corrected_until_there_is_a_state(tiny_tsv: Path, tmp_path: Path) -> None:
    out = tmp_path / "en_it.argosmodel"
    with pytest.raises(SettingsError, match="vocabulary_size 20 does not fit"):
        train(tiny_tsv, out, replace(QUICK, vocabulary_size=20))
    train(tiny_tsv, out, replace(QUICK, vocabulary_size=100))
    (training_folder(out) / STATE_FILE).unlink()  # as if killed before
    assert train(tiny_tsv, out) == train(tiny_tsv, tmp_path / "fresh" / "en_it.argosmodel")


def test_a_training_does_not_go_on_with_other_pairs_of_the_same_file(tiny_tsv: Path, tmp_path: Path) -> None:
    pairs, out = tmp_path / "pairs.tsv", tmp_path / "en_it.argosmodel"
    german = [f"Ein großer Hund und eine kleine Katze auf der Wiese {n}\tdue cani sul prato {n}" for n in range(9)]
    pairs.write_text(tiny_tsv.read_text(encoding="utf-8") + "\n".join(german), encoding="utf-8")
    train(pairs, out)
    with pytest.raises(SettingsError, match="contains a training with other settings, pairs or libraries"):
        train(pairs, out, source_check=caption_language("en"))


def test_a_diverging_training_is_told_and_has_a_page(tiny_tsv: Path, tmp_path: Path) -> None:
    out = tmp_path / "en_it.argosmodel"
    with pytest.raises(
        SettingsError, match=r"diverged, the loss of step \d+ is not a finite number\. Remove .*\.training and train"
    ):
        train(tiny_tsv, out, replace(QUICK, lr=1e30, warmup_steps=0, num_steps=20, validate_every_steps=20))
    assert not out.exists()
    assert "after step 0 of 20" in (training_folder(out) / REPORT_FILE).read_text(encoding="utf-8")


def test_the_number_of_threads_is_counted_and_written_down(tiny_tsv: Path, tmp_path: Path) -> None:
    out = tmp_path / "en_it.argosmodel"
    packed = train(tiny_tsv, out, replace(QUICK, threads=0))
    num_threads = torch.get_num_threads()
    assert f"- `threads`: {num_threads}\n" in (open_package(out, tmp_path).folder / "README.md").read_text()
    assert train(tiny_tsv, out, replace(QUICK, threads=num_threads)) == packed


def test_a_folder_is_no_place_for_a_package(tiny_tsv: Path, tmp_path: Path) -> None:
    (tmp_path / "en_it.argosmodel").mkdir()
    with pytest.raises(SettingsError, match="is a folder: give the name of a file"):
        train(tiny_tsv, tmp_path / "en_it.argosmodel")
    assert [path.name for path in tmp_path.iterdir()] == ["en_it.argosmodel"]


def test_sizes_beside_a_package_that_is_continued_are_refused(
    tiny_argosmodel: Path, tiny_tsv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["mt", "train", str(tiny_tsv), "--from", "en", "--to", "it", "--out", str(tmp_path / "new.argosmodel")]
    sizes = ["--set", "ffn_dim=64", "--set", "embed_dim=32", "--set", "num_steps=2"]
    assert main([*command, "--continue", str(tiny_argosmodel), *sizes]) == 1
    assert "--set embed_dim, ffn_dim: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_training_says_how_to_go_on(tiny_tsv: Path, tmp_path: Path) -> None:
    out = tmp_path / "en_it.argosmodel"
    # As it is installed: `python -m` may end by the signal itself, of which a shell makes the same 130.
    program = str(Path(sys.executable).with_name("vernaclip"))
    head = [program, "mt", "train", str(tiny_tsv), "--from", "en", "--to", "it"]
    endless = ["--set", "num_held_out=10", "--set", "num_steps=1000000", "--set", "early_stop=0"]
    process = subprocess.Popen([*head, "--out", str(out), *endless], stderr=subprocess.PIPE, text=True)
    while not (training_folder(out) / REPORT_FILE).is_file() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "interrupted: run the same command again to resume" in errors
    assert "Traceback" not in errors
    assert not list(training_folder(out).glob(".tmp-*"))
