"""Trainings from end to end, what a kill or an interruption costs; the network; the page about a training."""

import hashlib
import json
import multiprocessing
import os
import pkgutil
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import ctranslate2
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from data_catalog.base.errors import DamagedError, PipelineError, SettingsError
from data_catalog.sample.grammar import write_pairs
from flows.recipe.settings import read
from training.packages import task
from training.packages.config import TrainPackageConfig
from training.packages.network import END_ID, START_ID, TranslationModel, load_vocabulary, save_ctranslate2
from training.packages.pairs import read_pairs
from training.packages.report import REPORT_FILE, TrainReport
from training.packages.task import (
    WEIGHTS_FILE,
    HeldOutScores,
    TranslationTask,
    epoch_batches,
    grouped,
    learning_rate,
    smoothed_cross_entropy,
    to_batch,
)
from training.packages.train import HELD_OUT_FILE, VOCABULARY_FILE, train_package, training_folder
from training.runs.attempts import METRICS_FILE, STATE_FILE
from translation.packages.package import open_package

SIZES = {"vocabulary_size": 150, "embed_dim": 16, "num_heads": 2, "ffn_dim": 32}
LAYERS = {"num_encoder_layers": 1, "num_decoder_layers": 1, "check_languages": False}
STEPS = {"num_steps": 6, "warmup_steps": 2, "batch_tokens": 256, "num_held_out": 4, "validate_every_steps": 2}
QUICK = TrainPackageConfig(**SIZES, **LAYERS, **STEPS)


@pytest.fixture(autouse=True)
def _no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these trainings; `finished`, of a wider scope, has its charts."""
    monkeypatch.setattr("training.packages.report._chart", lambda *_: "")


def command(pairs: Path, out: Path) -> list[str]:
    quick = [f"{name}={json.dumps(value)}" for name, value in (SIZES | LAYERS | STEPS).items()]
    names = ["--from", "en", "--to", "it", "--out", str(out)]
    return ["mt", "train", str(pairs), *names, *(word for setting in quick for word in ("--set", setting))]


def train(pairs: Path, out: Path, config: TrainPackageConfig = QUICK, **given: Any) -> TrainReport:
    return train_package([pairs], **({"from_code": "en", "to_code": "it", "out": out, "config": config} | given))


Finished = tuple[Path, TrainReport]


@pytest.fixture(scope="module")
def finished(tiny_tsv: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A package of `QUICK` with its training folder, which nobody changes, and its report."""
    out = tmp_path_factory.mktemp("finished") / "en_it.argosmodel"
    return out, train(tiny_tsv, out)


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    shutil.copytree(finished[0].parent, tmp_path / "copy")
    return tmp_path / "copy" / "en_it.argosmodel"


def assert_same_training(found: Path, expected: Path) -> None:
    assert found.read_bytes() == expected.read_bytes()
    for name in (WEIGHTS_FILE, VOCABULARY_FILE, HELD_OUT_FILE, METRICS_FILE):
        assert (training_folder(found) / name).read_bytes() == (training_folder(expected) / name).read_bytes()


def train_and_die(function: str, call: int, pairs: Path, out: Path) -> None:
    """Train, and kill the own process at a call of a function, of which the number is given."""
    real, calls = pkgutil.resolve_name(function), count(1)

    def act(*given: Any, **named: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)

    with mock.patch(function, act):
        train(pairs, out)


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("training.runs.runner.save_resume_state", 2),  # between the best weights and the state
        pytest.param("training.packages.task.save_tensors", 1, marks=pytest.mark.slow),
        pytest.param("training.packages.task.update", 2, marks=pytest.mark.slow),
        pytest.param("training.packages.train.write_report", 2, marks=pytest.mark.slow),
        pytest.param("training.packages.train.write_bytes", 2, marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_gives_the_same_package(
    function: str, call: int, finished: Finished, tiny_tsv: Path, tmp_path: Path
) -> None:
    out = tmp_path / "en_it.argosmodel"
    child = multiprocessing.get_context("fork").Process(
        target=train_and_die, args=(function, call, tiny_tsv, out), daemon=True
    )
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    state = torch.random.get_rng_state()
    assert train(tiny_tsv, out) == finished[1]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_same_training(out, finished[0])
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert (tmp_path / "en_it.argosmodel.sha256").read_text() == f"{digest}  en_it.argosmodel\n"
    assert {entry.name.removeprefix(out.name) for entry in tmp_path.iterdir()} == {"", ".sha256", ".training"}


def test_an_interrupted_training_says_how_to_go_on(
    finished: Finished, tiny_tsv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Callable[..., str]
) -> None:
    out, steps, real = tmp_path / "en_it.argosmodel", [], task.update

    def step(*given: Any) -> float:
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(task, "update", step)
    assert "run the same command again to resume" in told(command(tiny_tsv, out), code=130)
    assert not list(training_folder(out).glob(".tmp-*"))
    told(command(tiny_tsv, out))
    assert len(steps) == 4 + 4, "the two steps before the last validation are not done again"
    assert_same_training(out, finished[0])


def test_scoring_leaves_torchs_threads_alone(tmp_path: Path) -> None:
    # CTranslate2 sets OpenMP's threads: a training went on with fewer than it was asked for, and resumed with others.
    before = torch.get_num_threads()

    def score(network: TranslationModel) -> HeldOutScores:
        torch.set_num_threads(before + 2)
        return HeldOutScores(bleu=0.0, chrf=0.0, texts=[])

    model, pair = TranslationModel(replace(QUICK, vocabulary_size=20)), ([5, 6], [7])
    TranslationTask(model, [pair] * 4, [pair], folder=tmp_path, score=score).validate()
    assert torch.get_num_threads() == before


def test_a_finished_training_is_packed_again_without_a_step(
    copied: Path, finished: Finished, tiny_tsv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied.unlink()
    monkeypatch.delattr(task, "update")
    assert train(tiny_tsv, copied) == finished[1]
    assert_same_training(copied, finished[0])


def test_training_ends_where_chrf_has_ceased_to_rise(tiny_tsv: Path, tmp_path: Path, page: Any) -> None:
    report = train(tiny_tsv, tmp_path / "en_it.argosmodel", replace(QUICK, lr=1e-12, num_steps=20, early_stop=2))
    assert (report.num_steps, report.best_step) == (6, 2)
    html = (tmp_path / "en_it.argosmodel.training" / REPORT_FILE).read_text(encoding="utf-8")
    assert "6 of 20 steps, because chrF" in page_text(page(html))


def test_pairs_of_the_scenes_train_a_package_as_the_same_pairs_in_a_file_do(tmp_path: Path, told: Any) -> None:
    write_pairs(tmp_path / "pairs.tsv", seed=1, num_pairs=80)
    out, drawn = tmp_path / "of-file.argosmodel", tmp_path / "drawn.argosmodel"
    told(command(tmp_path / "pairs.tsv", out))
    words = command(tmp_path / "pairs.tsv", drawn)
    words.remove(str(tmp_path / "pairs.tsv"))
    told([*words, "--scenes", "80"])
    one, other = (json.loads((training_folder(path) / "run.json").read_text()) for path in (out, drawn))
    assert one["sources"]["pairs_sha256"] == other["sources"]["pairs_sha256"]
    assert "not en and de" in told([*words, "--scenes", "80", "--to", "de"], code=1)
    assert "give PAIRS.tsv, or --scenes" in told(words, code=1)


def test_held_out_pairs_may_come_from_two_line_aligned_files(tiny_tsv: Path, tmp_path: Path) -> None:
    lines = tiny_tsv.read_text(encoding="utf-8").splitlines(keepends=True)
    held_out = tmp_path / "val.{lang}"
    for code, column in zip(("en", "it"), zip(*(line.split("\t") for line in lines[:7]), strict=True), strict=True):
        (tmp_path / f"val.{code}").write_text("".join(f"{text.strip()}\n" for text in column), encoding="utf-8")
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
    copied: Path, tiny_tsv: Path, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, stray = tmp_path / "new.argosmodel", tmp_path / "stray.argosmodel"
    stray.touch()
    for change, message in (
        ({"to_code": "de"}, "not en to de"),
        ({"out": copied}, "--out"),
        ({"held_out": tiny_tsv}, "Remove --held-out"),
        ({"out": copied, "continued": None, "config": replace(QUICK, num_steps=8)}, "other settings"),
        ({"continued": stray}, "stray.argosmodel.training"),
    ):
        with pytest.raises(PipelineError, match=message):
            train(tiny_tsv, **({"out": out, "continued": copied} | change))
    monkeypatch.setitem(sys.modules, "training.packages.train", None)  # what follows is told before torch is loaded
    words = [*command(tiny_tsv, out), "--continue", str(copied)]
    error = told(words, code=1)
    assert "--set embed_dim, ffn_dim, num_decoder_layers" in error
    assert "num_heads, num_held_out" in error
    copied.unlink()
    with pytest.raises(PipelineError, match="has ended"):
        train(tiny_tsv, out, continued=copied)
    assert not list(tmp_path.glob("new*"))


def test_a_diverging_training_is_told_and_has_a_page(
    tiny_tsv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, losses, real = tmp_path / "en_it.argosmodel", [], task.smoothed_cross_entropy

    def loss(*given: Any) -> torch.Tensor:
        losses.append(real(*given) * (float("nan") if losses else 1.0))
        return losses[-1]

    monkeypatch.setattr(task, "smoothed_cross_entropy", loss)
    with pytest.raises(
        SettingsError, match=r"stopped after step 1, .* because the loss is .*Train again into another --out"
    ):
        train(tiny_tsv, out, replace(QUICK, num_steps=20, validate_every_steps=20))
    assert not out.exists()
    assert "after step 0 of 20" in (training_folder(out) / REPORT_FILE).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", b"{"),
        (STATE_FILE, b"{}"),
        *((HELD_OUT_FILE, text) for text in (b"", b"a dog\tun cane", b"a dog\n")),
    ],
)
def test_a_damaged_training_folder_is_told(name: str, content: bytes, copied: Path, tiny_tsv: Path) -> None:
    (training_folder(copied) / name).write_bytes(content)
    new, continued = (copied.with_name("new.argosmodel"), copied) if name == HELD_OUT_FILE else (copied, None)
    with pytest.raises(DamagedError, match=r"remove|restore"):
        train(tiny_tsv, new, continued=continued)


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
    [("num_steps", 0), ("lr", float("nan")), ("dropout", 1.0), ("package_version", "1/0"), ("embed_dim", 20)],
)
def test_wrong_settings_name_the_field(name: str, value: float | str) -> None:
    with pytest.raises(SettingsError, match=rf"mt_train\.{name}"):
        read(TrainPackageConfig, {"num_heads": 4, name: value}, "mt_train")


NETWORK = TrainPackageConfig(
    vocabulary_size=40, embed_dim=32, num_heads=4, ffn_dim=64, num_encoder_layers=2, num_decoder_layers=3, dropout=0.1
)
PIECES = ["<unk>", "<s>", "</s>", *(f"p{number}" for number in range(37))]


@pytest.fixture(scope="module")
def network() -> TranslationModel:
    """A random network that says different things of different inputs."""
    torch.set_num_threads(1)  # as trainings do; networks this small are slower with two
    torch.manual_seed(3)
    model = TranslationModel(NETWORK).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.25)
    return model


@pytest.mark.parametrize("source", [[5], [7, 9, 30, 12], list(range(3, 40)), [11] * 20])
def test_ctranslate2_computes_what_torch_computes(network: TranslationModel, source: list[int], tmp_path: Path) -> None:
    save_ctranslate2(network, PIECES, tmp_path, quantization=None)
    model = ctranslate2.Translator(str(tmp_path), inter_threads=1, intra_threads=1)
    tokens = [PIECES[index] for index in source]
    target = [4, 17, 23, 5, 39]
    scores = model.score_batch([tokens], [[PIECES[index] for index in target]])[0].log_probs
    with torch.no_grad():
        logits = network(torch.tensor([source]), torch.tensor([len(source)]), torch.tensor([[START_ID, *target]]))
    log_probs = logits.log_softmax(-1)[0]
    torch_scores = [log_probs[place, token].item() for place, token in enumerate([*target, END_ID])]
    assert scores == pytest.approx(torch_scores, abs=1e-4)


def test_padding_changes_nothing(network: TranslationModel) -> None:
    short, long = ([4, 5], [6]), ([7, 8, 9, 10, 11], [12, 13, 14, 15])
    with torch.no_grad():
        together, alone = (network(*to_batch(pairs)[:3]) for pairs in ([short, long], [short]))
    torch.testing.assert_close(together[:1, :2], alone, atol=1e-5, rtol=1e-4)


def test_batches_keep_the_budget_and_lose_nothing() -> None:
    pairs = [([1] * (index % 13 + 1), [index]) for index in range(100)]
    sizes = [len(group) for group in grouped(sorted(pairs), 40)]
    assert sum(sizes) == 100
    orders = []
    for epoch in (0, 1):
        batches = [to_batch(group) for group in epoch_batches(pairs, 40, seed=1, epoch=epoch)]
        assert max(source.numel() for source, *_ in batches) <= 40
        seen = [label for *_, labels in batches for label in labels[:, 0].tolist()]
        assert sorted(seen) == list(range(100))
        orders.append(seen)
    assert orders[0] != orders[1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_loss_is_the_librarys(dtype: torch.dtype, tolerance: float, label_smoothing: float) -> None:
    torch.manual_seed(5)
    logits, labels = torch.randn(7, 11).to(dtype) * 3, torch.randint(11, (7,))
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = smoothed_cross_entropy(ours * 2, labels, label_smoothing)
    (loss * 3).backward()
    expected = torch.nn.functional.cross_entropy(theirs.float() * 2, labels, label_smoothing=label_smoothing)
    (expected * 3).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=tolerance, rtol=tolerance)


def test_learning_rate_rises_then_falls() -> None:
    factors = [learning_rate(step, replace(NETWORK, lr=1.0, num_steps=100, warmup_steps=10)) for step in range(101)]
    assert factors[9] == factors[10] == max(factors) == 1
    assert (factors[0], factors[100]) == pytest.approx((0.1, 0))
    assert factors[10:] == sorted(factors[10:], reverse=True)


NASTY = "</td><script>alert(1)</script><img src=http://example.org/x onerror='x()'> \"&lt;' {{ 7 * 7 }} {% raw %}"


def page_text(page: Any) -> str:
    return " ".join(" ".join(page.texts).split())


def test_the_page_lists_every_validation_marks_the_best_and_loads_nothing(finished: Finished, page: Any) -> None:
    out, report = finished
    found = page((training_folder(out) / REPORT_FILE).read_text(encoding="utf-8"))
    for told in (
        "version 1.0: finished after 6 steps.",
        f"BLEU {report.bleu:.1f} chrF {report.chrf:.1f} Parameters {report.num_parameters:,} ",
        f"{report.exact_match:.1%}",
        f" {report.best_step} best ",
        "--from en --to it --continue en_it.argosmodel --out",
    ):
        assert told in page_text(found)
    records = [json.loads(line) for line in (training_folder(out) / METRICS_FILE).read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4, 6]
    for record in records:
        assert f"{record['val_loss']:.3f} {record['train_loss']:.3f} {record['epoch']} " in page_text(found)
    tags = [tag for tag, _ in found.tags]
    assert tags.count("svg") == 2
    assert not {"script", "img", "link", "iframe", "object", "embed", "image"} & set(tags)
    assert found.policy() == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    names = {name for _, attributes in found.tags for name in attributes}
    assert not [name for name in names if name in ("src", "href") or name.startswith("on")]


def test_no_text_becomes_markup(tiny_tsv: Path, tmp_path: Path, page: Any) -> None:
    pairs, held_out = tmp_path / "pairs.tsv", tmp_path / "held_out.tsv"
    pairs.write_text(f"{tiny_tsv.read_text(encoding='utf-8')}{NASTY}\n", encoding="utf-8")
    held_out.write_text(f"{NASTY}\tun cane {NASTY}\n", encoding="utf-8")
    config = replace(QUICK, num_steps=1, license=NASTY)
    train(pairs, tmp_path / "en_it.argosmodel", config, held_out=held_out)
    found = page((tmp_path / "en_it.argosmodel.training" / REPORT_FILE).read_text(encoding="utf-8"))
    assert {f"un cane {NASTY}", NASTY} <= set(found.texts)
    assert not {"script", "img"} & {tag for tag, _ in found.tags}
    cells = [cell["lang"] for tag, cell in found.tags if tag == "td" and "lang" in cell]
    assert cells[:5] == ["en", "it", "it", "", ""]
