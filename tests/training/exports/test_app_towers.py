"""Text towers in folders laid out as Immich's cache and Lap's data, read as these applications read them."""

import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from errno import EROFS
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

from data_catalog.base.errors import PipelineError, SettingsError
from training.align.align import align
from training.config import AlignConfig, DistilConfig, TrainConfig
from training.data.pairs import PairFiles
from training.distil.distil import SentencePairs, distil
from training.exports import installed, precision
from training.exports.apps import APPS, context_of
from training.exports.formats import ModelExportConfig
from training.exports.installed import install, undo
from training.exports.model_export import export_model
from training.exports.precision import Validation
from training.towers.model import load_model

NAME = "ViT-B-32__openai"
COLOURS, SIDES = ("rosso", "verde", "blu", "giallo", "nero", "viola"), ("in alto", "in basso", "a destra", "a sinistra")
PAIRS = [(f"un quadrato {colour} {side}", f"a {side} {colour} square") for colour in COLOURS for side in SIDES]
# Shorter than the student's context, of spaces and quotes, empty, and longer than the application's context.
QUERIES = ["a rosso square", "  A\tROSSO “square” ", "", "rosso square " * 60]


def exported(model: Path, out: Path, *formats: str, validation: Validation | None = None, **more: Any) -> Any:
    config = ModelExportConfig(formats=formats, name="small", **more)
    return export_model(model, config, out, seen=None, root=out.parent / "catalog", validation=validation)


@pytest.fixture(scope="module")
def student(square_files: PairFiles, pretrained: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny student of a teacher with 512 features."""
    folder = tmp_path_factory.mktemp("student")
    wide = dataclasses.replace(pretrained, embed_dim=512)
    align(square_files, wide, AlignConfig(epochs=0, ridge=10.0), folder / "teacher", cache=folder / "cache")
    lesson = SentencePairs(training=PAIRS[4:], held_out=PAIRS[:4], origins={}, languages=("it", "en"))
    settings = {"epochs": 1, "batch_size": 8, "warmup_steps": 1, "vocab_size": 400, "num_threads": 1}
    config = DistilConfig(student="tiny", teacher=str(folder / "teacher"), **settings)
    distil(lesson, config, folder / "student", cache=folder / "cache")
    return folder / "student"


def price_of(texts: list[str]) -> Validation:
    """Texts that ask for their own features."""
    return Validation(
        queries=texts,
        owners=range(len(texts)),
        gallery=lambda model: model.module.encode_text(model.tokenizer(texts), normalize=True).detach().numpy(),
        what="texts of this test",
    )


PRICE = price_of([target for _, target in PAIRS])


@pytest.fixture(scope="module")
def exports(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its exports, by format."""
    out = tmp_path_factory.mktemp("exports") / "out"
    exported(student, out, "immich", "lap", known_as=NAME)
    exported(student, out / "onnx", "onnx", precision="int8", validation=PRICE)
    return out


@pytest.fixture
def cache(exports: Path, tmp_path: Path) -> Path:
    """Immich's cache: another text tower, and the image tower of the student's teacher."""
    place = tmp_path / "cache" / "clip" / NAME
    (place / "visual").mkdir(parents=True)
    (place / "textual" / "openvino").mkdir(parents=True)
    (place / "textual" / "openvino" / "kept").write_bytes(b"1")
    for name in ("model.onnx", "tokenizer.json", "tokenizer_config.json"):
        (place / "textual" / name).write_bytes(name.encode())
    graph = onnx.load(exports / "onnx" / "image.onnx")
    (given,) = graph.graph.input
    for node in graph.graph.node:
        node.input[:] = ["image" if each == given.name else each for each in node.input]
    given.name = "image"
    onnx.save(graph, place / "visual" / "model.onnx")
    processor = json.loads((exports / "onnx" / "preprocessor_config.json").read_text())
    stated = {"size": [64, 64], "mean": processor["image_mean"], "std": processor["image_std"]}
    (place / "visual" / "preprocess_cfg.json").write_text(json.dumps(stated))
    (place / "config.json").write_text(json.dumps({"embed_dim": 512, "text_cfg": {"context_length": 77}}))
    return tmp_path / "cache"


@pytest.fixture
def lap(tmp_path: Path) -> Path:
    """Lap's data, without a multilingual model."""
    (tmp_path / "lap" / "libraries").mkdir(parents=True)
    return tmp_path / "lap"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def asked_in_immich(place: Path, text: str) -> Any:
    """Spaces are collapsed, tokens filled up to the config's context, and the first row of the first output taken."""
    length = json.loads((place / "config.json").read_text())["text_cfg"].get("context_length", 77)
    pad = json.loads((place / "textual" / "tokenizer_config.json").read_text())["pad_token"]
    tokenizer = Tokenizer.from_file(str(place / "textual" / "tokenizer.json"))
    tokenizer.enable_padding(length=length, pad_token=pad, pad_id=tokenizer.token_to_id(pad))
    tokenizer.enable_truncation(max_length=length)
    session = InferenceSession(str(place / "textual" / "model.onnx"), providers=["CPUExecutionProvider"])
    ids = np.array([tokenizer.encode(" ".join(text.split())).ids], dtype=np.int32)
    return session.run(None, {"text": ids})[0][0]


def asked_in_lap(place: Path, text: str) -> Any:
    """One row of 64-bit ids, without a mask where the graph has no input for it; a named output."""
    encoding = Tokenizer.from_file(str(place / "tokenizer.json")).encode(text)
    session = InferenceSession(str(place / "text_model.onnx"), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["input_ids"]
    return session.run(["text_embeds"], {"input_ids": np.array([encoding.ids], dtype=np.int64)})[0].reshape(-1)


def ours(model: Path) -> Any:
    found = load_model(model)
    with torch.no_grad():
        return found.module.encode_text(found.tokenizer(QUERIES), normalize=True).numpy()


def test_immich_finds_the_students_vectors_and_undo_restores_every_byte(
    student: Path, exports: Path, cache: Path
) -> None:
    place, before = cache / "clip" / NAME, contents(cache)
    done = install(exports / "immich", "immich", cache)
    assert done.place == place / "textual"
    assert done.cosine == pytest.approx(1, abs=1e-3)
    for text, wanted in zip(QUERIES, ours(student), strict=True):
        assert np.abs(asked_in_immich(place, text) - wanted).max() < 1e-4
    kept = {name: content for name, content in contents(cache).items() if "textual" not in name}
    assert kept == {name: content for name, content in before.items() if "textual" not in name}
    install(exports / "immich", "immich", cache)  # again: the first text tower is still the one to put back
    assert undo("immich", cache) == [place / "textual"]
    assert contents(cache) == before
    with pytest.raises(PipelineError, match=r"no text tower of vernaclip is installed in .*: nothing was changed"):
        undo("immich", cache)


def test_lap_finds_the_students_vectors(student: Path, exports: Path, cache: Path, lap: Path) -> None:
    assert install(exports / "lap", "lap", lap).cosine is None
    undo("lap", lap)
    assert contents(lap) == {}
    image_tower = cache / "clip" / NAME / "visual" / "model.onnx"
    (lap / "models" / "multilingual").mkdir(parents=True)
    (lap / "models" / "multilingual" / "tokenizer.json").write_bytes(b"theirs")
    before = contents(lap)
    assert install(exports / "lap", "lap", lap, image_tower=image_tower).cosine == pytest.approx(1, abs=1e-3)
    for text, wanted in zip(QUERIES, ours(student), strict=True):
        assert np.abs(asked_in_lap(lap / "models" / "multilingual", text) - wanted).max() < 1e-4
    undo("lap", lap)
    assert contents(lap) == before


class Killed(BaseException):
    """What no clean-up hears of."""


@pytest.mark.parametrize("app", ["immich", "lap"])
def test_killed_at_any_step_the_next_command_finds_the_old_or_the_new(
    app: str, exports: Path, cache: Path, lap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = cache if app == "immich" else lap
    place = cache / "clip" / NAME / "textual" if app == "immich" else lap / "models" / "multilingual"
    before, towers, left = contents(data), [contents(exports / app / APPS[app].folder), contents(place)], [10**6]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] <= 0:  # nor does anything work after that
                raise Killed
            return function(*given, **named)

        return call

    for owner, name in ((Path, "rename"), (installed, "sync"), (shutil, "copyfile"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))

    def killed(command: Callable[[], Any]) -> bool:
        """Run a command that is killed after one step more each time; False once it ends."""
        try:
            command()
        except Killed:
            left[0] = 10**6
            assert not place.exists() or contents(place) in towers
            return True
        return False

    def installing() -> Any:
        return install(exports / app, app, data)

    for steps in itertools.count(1):
        left[0] = steps
        if not killed(installing):
            break
        if steps % 2:
            installing()
            assert contents(place) == towers[0]
        with_it = place.exists() and contents(place) == towers[0]
        try:
            undo(app, data)
        except PipelineError:
            assert not with_it
        assert contents(data) == before
    assert steps > 8
    for steps in itertools.count(1):
        left[0] = 10**6
        installing()
        left[0] = steps
        if not killed(lambda: undo(app, data)):
            break
        with suppress(PipelineError):  # it may be undone already
            undo(app, data)
        assert contents(data) == before
    assert steps > 3
    for steps in itertools.count(1):
        left[0] = 10**6
        installing()
        shutil.rmtree(place)  # the application puts back its own, of another release
        place.mkdir()
        (place / "release").write_text(str(steps))
        towers.append(contents(place))
        left[0] = steps
        if not killed(installing):
            break
        with suppress(PipelineError):  # it may not have been installed
            undo(app, data)
        assert contents(place) == towers[-1]
    assert steps > 8


def spoil_image_tower(cache: Path) -> None:
    """Another space: the last layer's rows change their places."""
    path = cache / "clip" / NAME / "visual" / "model.onnx"
    graph = onnx.load(path)
    for each in graph.graph.initializer:
        if 512 in each.dims:
            values = onnx.numpy_helper.to_array(each)
            axis = values.shape.index(512)
            order = np.random.default_rng(0).permutation(512)
            each.CopyFrom(onnx.numpy_helper.from_array(np.take(values, order, axis=axis), each.name))
    onnx.save(graph, path)


def test_what_does_not_fit_is_refused_in_a_sentence_and_nothing_changes(
    exports: Path, cache: Path, lap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(message: str, app: str = "immich", data: Path = cache, export: Path | None = None) -> None:
        before = contents(tmp_path)
        with pytest.raises(PipelineError, match=message) as caught:
            install(export or exports / app, app, data)
        assert "\n" not in str(caught.value)
        assert contents(tmp_path) == before

    refused("vernaclip.json cannot be read .*--format lap", "lap", lap, exports / "immich")
    refused("has no image tower of ViT-B-32__openai .* Nothing was changed", data=lap)
    refused("has neither models nor libraries", "lap", tmp_path / "nothing")
    refused("cannot be read", export=tmp_path / "nothing")
    damaged = tmp_path / "damaged"
    shutil.copytree(exports / "immich", damaged)
    (damaged / "textual" / "model.onnx").write_bytes(b"cut off")
    refused("is damaged", export=damaged)

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(EROFS, os.strerror(EROFS), "x")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", read_only)
        refused(r"textual cannot be replaced .*Read-only file system.*: nothing was changed")
    config = cache / "clip" / NAME / "config.json"
    shutil.copytree(cache / "clip" / NAME, cache / "clip" / NAME / "v2")
    refused("has several folders of")
    assert install(exports / "immich", "immich", cache / "clip" / NAME / "v2").cosine
    undo("immich", cache / "clip" / NAME / "v2")
    shutil.rmtree(cache / "clip" / NAME / "v2")
    (cache / "clip" / NAME / "textual" / "model.armnn").write_bytes(b"")
    refused("for which Immich reads model.armnn")
    (cache / "clip" / NAME / "textual" / "model.armnn").unlink()
    config.write_text(json.dumps({"text_cfg": {"context_length": 64}}))
    refused("the towers of .* cannot be compared")
    config.write_text(json.dumps({"text_cfg": {}}))
    spoil_image_tower(cache)
    refused("is not that of the model which this text tower was made for: .* Nothing was changed")


def test_names_are_those_of_the_students_width(student: Path, compact: Path, tmp_path: Path) -> None:
    import open_clip

    with pytest.raises(SettingsError, match=r"no model 'ViT-L-14__openai' with 512 features.*: ViT-B-32__openai, "):
        exported(student, tmp_path / "out", "immich", known_as="ViT-L-14__openai")
    with pytest.raises(SettingsError, match=r"Immich has no model with \d+ features.* have 512, 640, "):
        exported(compact, tmp_path / "out", "immich", known_as=NAME)
    with pytest.raises(SettingsError, match=r"name Immich's model: choose one with --as: ViT-B-32__openai, "):
        exported(student, tmp_path / "out", "immich", known_as="")
    with pytest.raises(SettingsError, match="Lap has no model with"):
        exported(compact, tmp_path / "out", "lap")
    for width, names in APPS["immich"].names.items():
        for name in names.split():
            stated = open_clip.get_model_config(name.partition("__")[0])
            if stated is not None:
                assert stated["embed_dim"] == width, name
                text = stated["text_cfg"]
                assert text.get("context_length", 77) == context_of(APPS["immich"], name), name
                is_cleaned = text.get("tokenizer_kwargs", {}).get("clean") == "canonicalize"
                assert is_cleaned == (context_of(APPS["immich"], name) == 64), name


def test_a_lower_precision_states_its_price_and_a_high_one_is_refused(
    student: Path, exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="what int8 costs is measured on validation pairs"):
        exported(student, tmp_path / "out", "onnx", precision="int8")
    with pytest.raises(SettingsError, match=r"because only ONNX has int8\. Supported formats: onnx"):
        exported(student, tmp_path / "out", "open_clip", precision="int8", validation=PRICE)
    more: dict[str, Any] = {"precision": "int8", "validation": PRICE}
    assert exported(student, exports / "onnx", "onnx", **more).exports[0].up_to_date
    image, text = (onnx.load(exports / "onnx" / name).graph.initializer for name in ("image.onnx", "text.onnx"))
    is_short = [any(each.data_type == onnx.TensorProto.INT8 for each in weights) for weights in (image, text)]
    assert is_short == [False, True], "of images no sentence pairs tell what it costs"
    (half,) = exported(student, tmp_path / "half", "lap", precision="fp16", validation=PRICE).exports
    assert half.loss is not None
    assert half.loss.before >= half.loss.after > 0.8
    card = (tmp_path / "half" / "README.md").read_text()
    assert f"measured on texts of this test: R@1\n{half.loss.before:.4f} with 32 bits, {half.loss.after:.4f}" in card
    graphs = [exports / "lap" / "multilingual", tmp_path / "half" / "multilingual", exports / "onnx"]
    sizes = [max(path.stat().st_size for path in folder.glob("*text*.onnx")) for folder in graphs]
    assert sizes[0] > 1.8 * sizes[1] > 3 * sizes[2]
    assert "model_sha256" in {each.key for each in onnx.load(graphs[2] / "text.onnx").metadata_props}
    monkeypatch.setattr(precision, "MIN_SHARE", 1.1)
    for accept_loss in (False, True):
        refusal = pytest.raises(SettingsError, match=r"with int8 R@1 is .* of this test, less than .* --accept-loss")
        with nullcontext() if accept_loss else refusal:
            exported(student, tmp_path / "worse", "lap", accept_loss=accept_loss, **more)
        assert (tmp_path / "worse").exists() == accept_loss
