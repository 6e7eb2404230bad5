"""Distillation: a student reads a made-up language, and finds what its teacher finds with the Italian original."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from data_catalog.base.errors import PipelineError, SettingsError
from data_catalog.disk.records import record_folder
from training.align.align import align
from training.config import AlignConfig, DistilConfig, TrainConfig
from training.data.pairs import PairFiles
from training.distil.distil import SentencePairs, batches_by_length, distil, distil_key
from training.exports.model_export import ModelExportConfig, export_model
from training.runs import runner
from training.towers.lineage import languages_of
from training.towers.model import load_model

COLOURS = ("rosso", "verde", "blu", "giallo", "nero", "viola", "arancione", "azzurro")
PLACES = ("in alto", "in basso", "a destra", "a sinistra")
CONFIG = DistilConfig(
    student="tiny", epochs=5, batch_size=32, lr=6e-3, warmup_steps=10, vocab_size=400, num_threads=1, dropout=0.0
)

# The key of the student below, from before students had several languages.
KEY = "eaf6a03d035b00201d9f71e02127a2655a64e0c3dac561fd97a7657a7fe40807"


def reversed_words(text: str) -> str:
    """The made-up language: each word backwards, in the opposite order."""
    return text[::-1]


def shifted(text: str) -> str:
    """Another language: each letter is the next one of the alphabet."""
    return "".join(chr(ord(letter) + 1) if letter.isalpha() else letter for letter in text)


def sentences(seed: int, count: int) -> list[tuple[str, str]]:
    draw = Random(seed)
    texts = [
        " e ".join(f"un quadrato {draw.choice(COLOURS)} {draw.choice(PLACES)}" for _ in range(2)) for _ in range(count)
    ]
    return [(text, reversed_words(text)) for text in dict.fromkeys(texts)]


@pytest.fixture(scope="module")
def pairs() -> SentencePairs:
    found = sentences(1, 600)
    alone = [target for _, target in sentences(2, 60)]
    return SentencePairs(
        training=found[40:],
        held_out=found[:40],
        origins={"human_translation": len(found)},
        languages=("it", "xx"),
        unpaired=alone,
    )


@pytest.fixture(scope="module")
def several(pairs: SentencePairs) -> SentencePairs:
    """Two more languages: one with few pairs, and that of the sources."""
    some = [(source, shifted(source)) for source, _ in pairs.training[:90]]
    few = [(source, shifted(source)) for source, _ in pairs.held_out[:20]]
    same = [[(source, source) for source, _ in part] for part in (pairs.training, pairs.held_out)]
    return replace(
        pairs,
        others=[
            SentencePairs(training=some, held_out=few, origins={"": len(some) + len(few)}, languages=("it", "yy")),
            SentencePairs(training=same[0], held_out=same[1], origins={}, languages=("it", "it")),
        ],
    )


@pytest.fixture(scope="module")
def teacher(italian: Path) -> Path:
    """A model with random weights: each sentence has its own feature."""
    return italian


@pytest.fixture(scope="module")
def config(teacher: Path) -> DistilConfig:
    return replace(CONFIG, teacher=str(teacher))


@pytest.fixture(scope="module")
def student(pairs: SentencePairs, config: DistilConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("students")
    distil(pairs, config, folder / "student", cache=folder / "cache")
    return folder / "student"


def files_of(folder: Path) -> dict[str, bytes]:
    """Of a finished run, without its times and trackers."""
    return {path.name: path.read_bytes() for path in folder.glob("*.*") if path.name != "effort.json"}


def written(folder: Path) -> dict[Path, int]:
    """Files of a cache, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}


def texts_of(folder: Path, texts: Sequence[str]) -> np.ndarray[Any, Any]:
    model = load_model(folder)
    with torch.no_grad():
        found: np.ndarray[Any, Any] = model.module.encode_text(model.tokenizer(list(texts)), normalize=True).numpy()
    return found


def test_a_student_gives_translations_the_features_that_its_teacher_gives_the_originals(
    pairs: SentencePairs, teacher: Path, student: Path
) -> None:
    sources, targets = zip(*pairs.held_out, strict=True)
    wanted, found = texts_of(teacher, sources), texts_of(student, targets)
    ranks = 1 + (found @ wanted.T > (found * wanted).sum(axis=1)[:, None] + 1e-6).sum(axis=1)
    result = json.loads((student / "result.json").read_text())
    assert result["best_val_mrr"] == pytest.approx((1 / ranks).mean(), abs=0.02)
    assert result["best_val_mrr"] > 0.4  # 0.07 by chance
    lines = [json.loads(line) for line in (student / "metrics.jsonl").read_text().splitlines()]
    assert max(line["val_mrr@10"] for line in lines) == result["best_val_mrr"]
    assert [line["epoch"] for line in lines] == list(range(1, CONFIG.epochs + 1))
    assert lines[-1]["restore_loss"] < lines[0]["restore_loss"] - 1


def test_the_student_has_its_teachers_image_tower_and_opens_in_open_clip(teacher: Path, student: Path) -> None:
    pixels = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = load_model(teacher).module.encode_image(pixels)
        torch.testing.assert_close(load_model(student).module.encode_image(pixels), wanted)
        text = json.loads((student / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
        text["hf_model_name"] = str(student)  # as an export to open_clip's hub layout sets it
        theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{student}", text_cfg=text)
        torch.testing.assert_close(theirs.eval().encode_image(pixels), wanted)
        ids = open_clip.get_tokenizer(f"local-dir:{student}")(["ossor otardauq nu"])
        own = texts_of(student, ["ossor otardauq nu"])
        torch.testing.assert_close(theirs.encode_text(ids, normalize=True).numpy(), own, atol=1e-5, rtol=0)


@pytest.mark.slower
def test_an_interrupted_run_ends_with_the_same_bytes(
    pairs: SentencePairs,
    config: DistilConfig,
    student: Path,
    logged: Callable[[Path], dict[str, dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(config, log=("tensorboard", "wandb"))
    save, left = runner.save_resume_state, iter(range(4))

    def save_or_end(path: Path, **state: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt  # some steps, which are logged, after the last resume state
        save(path, **state)

    try:
        with monkeypatch.context() as patch:
            patch.setattr("training.distil.distil.CHECKPOINT_STEPS", 5)  # within epochs too
            patch.setattr(runner, "save_resume_state", save_or_end)
            distil(pairs, config, tmp_path / "run", cache=tmp_path / "cache")
    except KeyboardInterrupt:  # a program may try again while it handles the error
        features = written(tmp_path / "cache")
        result = distil(pairs, config, tmp_path / "run", cache=tmp_path / "cache")
    assert written(tmp_path / "cache") == features, "no feature is computed again"
    assert files_of(tmp_path / "run") == files_of(student)
    assert distil(pairs, config, tmp_path / "run", cache=tmp_path / "absent") == result
    lines = [json.loads(line) for line in (student / "metrics.jsonl").read_text().splitlines()]
    found = logged(tmp_path / "run")
    assert found["wandb"]["exit codes"] == [1, 0]
    for shown in found.values():
        assert [step for step, _ in shown["lr"]] == list(range(1, result.steps + 1))
        for name in ("train_loss", "restore_loss", "val_mrr@10"):
            assert shown[name] == [(line["step"], pytest.approx(line[name])) for line in lines]


def test_a_student_of_several_languages_resumes_in_their_turns(
    several: SentencePairs,
    teacher: Path,
    config: DistilConfig,
    student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, cache = replace(config, epochs=2), student.parent / "cache"
    features = written(cache)
    result = distil(several, config, tmp_path / "whole", cache=cache)
    assert written(cache) == features, "of equal source sentences no feature is computed again"
    save, left = runner.save_resume_state, iter(range(3))

    def save_or_end(path: Path, **state: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        save(path, **state)

    with monkeypatch.context() as patch:
        patch.setattr("training.distil.distil.CHECKPOINT_STEPS", 7)  # in the middle of a round, and of an epoch
        patch.setattr(runner, "save_resume_state", save_or_end)
        with pytest.raises(KeyboardInterrupt):
            distil(several, config, tmp_path / "run", cache=cache)
    assert distil(several, config, tmp_path / "run", cache=cache) == result
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")
    count = len(several.training)
    assert result.steps == 2 * 3 * (count // 32)  # the small language is repeated
    assert result.num_samples == count + 90 + count
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["val_mrr@10"] == pytest.approx(np.mean([line[f"val_mrr@10_{code}"] for code in ("xx", "yy", "it")]))
        assert [line[f"val_gallery_{code}"] for code in ("xx", "yy", "it")] == [40, 20, 40]
    assert result.best_val_mrr == max(line["val_mrr@10"] for line in lines)
    assert min(lines[-1][f"val_mrr@10_{code}"] for code in ("xx", "yy", "it")) > 0.25  # 0.07 by chance, 0.18 of 20
    wanted = texts_of(teacher, [source for source, _ in several.held_out])
    found = texts_of(tmp_path / "run", [source for source, _ in several.held_out])
    assert (found * wanted).sum(axis=1).mean() == pytest.approx(lines[-1]["val_cosine_it"], abs=1e-4)
    assert languages_of(tmp_path / "run") == ["xx", "yy", "it"]
    assert languages_of(student) == ["xx"]


def test_the_key_of_one_language_is_what_it_was(pairs: SentencePairs, several: SentencePairs) -> None:
    config = replace(CONFIG, teacher="ViT-B-32/openai")
    assert distil_key(config, pairs) == KEY
    assert distil_key(replace(config, source=True), pairs) == KEY  # only its sentences count
    assert distil_key(config, several) != KEY


@pytest.mark.parametrize(
    "changes",
    [
        {"contrastive": 0.3, "epochs": 3},
        {"precision": "bf16", "epochs": 1},
        {"patience": 1, "lr": 1e-9},
    ],
)
def test_each_option_gives_another_working_model(
    pairs: SentencePairs, config: DistilConfig, student: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    some = replace(pairs, unpaired=())
    result = distil(some, replace(config, **changes), tmp_path / "run", cache=student.parent / "cache")
    assert load_model(tmp_path / "run").sha256 == result.model_sha256
    assert result.best_val_mrr is not None
    if "patience" in changes:
        assert result.epochs < 5  # nothing was learned
    else:
        assert result.best_val_mrr > 0.2  # 0.07 by chance


def test_a_pretrained_encoder_is_a_student_too(
    pairs: SentencePairs, config: DistilConfig, student: Path, encoder: Path, tmp_path: Path
) -> None:
    found = replace(config, student=str(encoder), student_license="mit", lr=2e-3, context_length=24)
    same = SentencePairs(  # it reads no other language
        training=[(text, text) for text, _ in pairs.training],
        held_out=[(text, text) for text, _ in pairs.held_out],
        origins=pairs.origins,
        languages=pairs.languages,
    )
    result = distil(same, found, tmp_path / "run", cache=student.parent / "cache")
    assert result.best_val_mrr > 0.3
    assert json.loads((tmp_path / "run" / "run.json").read_text())["borrowed"] == [
        {"tower": "text", "weights": encoder.name, "license": "mit"}
    ]


def test_an_open_clip_model_is_a_teacher_by_its_name_with_the_activation_of_its_weights(
    pairs: SentencePairs, config: DistilConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}, "embed_dim": 16}
    known["text_cfg"] = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    (tmp_path / "tiny-clip.json").write_text(json.dumps(known))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    theirs = open_clip.create_model("tiny-clip", force_quick_gelu=True)
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    stated = {"url": "", "hf_hub": "", "quick_gelu": True, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"mine": stated})
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *_, **__: str(tmp_path / "weights.pt"))
    found = replace(config, teacher="tiny-clip/mine", teacher_license="mit", epochs=1)
    distil(pairs, found, tmp_path / "run", cache=tmp_path / "cache")
    model = load_model(tmp_path / "run")
    pixels = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model.module.encode_image(pixels), theirs.eval().encode_image(pixels))
    assert model.preprocessing.mean == (0.5, 0.5, 0.5)
    borrowed = json.loads((tmp_path / "run" / "run.json").read_text())["borrowed"]
    assert borrowed == [{"tower": "image", "weights": "tiny-clip/mine", "license": "mit"}]


def test_what_cannot_be_distilled_is_refused_with_a_sentence(
    pairs: SentencePairs, config: DistilConfig, teacher: Path, student: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(teacher, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:-9])
    wide = shutil.copytree(teacher, tmp_path / "wide")
    described = json.loads((wide / "open_clip_config.json").read_text())
    described["model_cfg"]["embed_dim"] += 1
    (wide / "open_clip_config.json").write_text(json.dumps(described))
    few = replace(pairs, held_out=pairs.held_out[:1])
    refused: list[tuple[SentencePairs, DistilConfig, str]] = [
        (pairs, replace(config, teacher=""), r"distil\.teacher is not set"),
        (pairs, replace(config, teacher="/nowhere/model"), "a folder with an open_clip model"),
        (pairs, replace(config, teacher="flickr8k"), "flickr8k: it must name a dataset with a model"),
        (pairs, replace(config, teacher="ViT-B-32/nobody"), "ViT-B-32/nobody: it must name"),
        (pairs, replace(config, teacher=str(damaged)), r"model\.safetensors"),
        (pairs, replace(config, teacher=str(wide)), r"wide/model\.safetensors"),
        (few, config, "two to hold out"),
        (pairs, replace(config, lr=1e6, max_grad_norm=0.0, warmup_steps=0), "is not finite"),
    ]
    for number, (some, settings, expected) in enumerate(refused):
        with pytest.raises(PipelineError, match=expected):
            distil(some, settings, tmp_path / f"run-{number}", cache=tmp_path / "cache")
    with pytest.raises(SettingsError, match="contains a run with other settings"):
        distil(pairs, replace(config, seed=9), student, cache=tmp_path / "cache")


def test_batches_are_of_similar_length_and_have_each_pair_once() -> None:
    texts = [text for text, _ in sentences(2, 400)] + ["uno"] * 50
    found = list(batches_by_length(texts, 8, seed=1, epoch=2))
    places = np.concatenate(found)
    assert len(set(places.tolist())) == len(places) == len(texts) // 8 * 8
    lengths = np.array([len(text) for text in texts])
    assert np.mean([np.ptp(lengths[batch]) for batch in found]) < np.ptp(lengths) / 4
    again, later = (np.concatenate(list(batches_by_length(texts, 8, seed=1, epoch=epoch))) for epoch in (2, 3))
    assert np.array_equal(places, again)
    assert not np.array_equal(places, later)


def test_align_goes_on_from_a_student(square_files: PairFiles, student: Path, encoder: Path, tmp_path: Path) -> None:
    towers, config = TrainConfig(model=str(student), num_threads=1), AlignConfig(start="model", epochs=3, batch_size=32)
    align(square_files, towers, config, tmp_path / "run", cache=tmp_path / "cache")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    align(square_files, towers, replace(config, epochs=0), tmp_path / "same", cache=tmp_path / "cache")
    texts = ["ossor otardauq nu", "otla ni erde v"]
    np.testing.assert_allclose(texts_of(tmp_path / "same", texts), texts_of(student, texts), atol=1e-5)
    assert lines[0]["epoch"] == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["learned"] == sorted(square_files.hashes()["train"])
    later = run["settings"]["distil"]
    assert later["origins"] == {"human_translation": later["pairs"] + 40}
    other = replace(towers, model="italian", text_encoder=str(encoder))
    with pytest.raises(SettingsError, match=r"align\.start is model, but"):
        align(square_files, other, config, tmp_path / "other", cache=tmp_path / "cache")


def test_the_card_says_what_the_student_learned_from(student: Path, tmp_path: Path) -> None:
    out = shutil.copytree(student, tmp_path / "run")
    record_folder(out, ["run.json", "model.safetensors"])
    found = ModelExportConfig(formats=("open_clip",), name="squares", license="mit")
    export_model(out, found, tmp_path / "export", seen=None, root=tmp_path / "catalog")
    text = unescape((tmp_path / "export" / "README.md").read_text())
    assert "learned from text alone" in text
    assert "translated by people" in text
    assert "0% of the translations are by a machine, 0% of unstated origin" in text


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_ends_with_the_same_bytes(
    pairs: SentencePairs,
    config: DistilConfig,
    student: Path,
    run_killed_ten_times: Callable[..., None],
    tmp_path: Path,
) -> None:
    code = (
        "from pathlib import Path, PosixPath\n"
        "import training.distil.distil as d\n"
        "from training.config import DistilConfig\n"
        "d.CHECKPOINT_STEPS = 4\n"
        "print('started', flush=True)\n"
        f"pairs, config = d.{pairs!r}, {config!r}\n"
        f"d.distil(pairs, config, Path({str(tmp_path / 'run')!r}), "
        f"cache=Path({str(tmp_path / 'cache')!r}))\n"
    )
    run_killed_ten_times(code, tmp_path / "run", tmp_path / "cache")
    assert files_of(tmp_path / "run") == files_of(student)
