"""Exports of small trained models, read back by the libraries that they are for, elsewhere and without a network."""

import dataclasses
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from data_catalog.base.errors import InputError, PipelineError, SettingsError
from data_catalog.disk.files import sha256_of
from data_catalog.disk.records import record_folder, write_checksummed
from training.align.align import align
from training.config import AlignConfig, DistilConfig, TrainConfig
from training.data.images import decode
from training.data.pairs import PairFiles
from training.distil.distil import SentencePairs, distil
from training.exports import hugging_face, open_clip_hub
from training.exports.formats import ModelExportConfig
from training.exports.model_export import export_model
from training.exports.trained_folder import encode_by_model, open_trained, require_same
from training.fit.clip import train
from training.fit.setup import MODEL_FILES
from training.scores.encoders import open_open_clip
from training.towers.model import load_model, open_model
from training.towers.plan import read_model_config

READER = Path(__file__).with_name("card_reader.py")
# Of differing lengths, so that all but one are filled up; one is longer than any context.
TEXTS = ["un quadrato rosso", "Sull’erba  c'è\tun QUADRATO verde, in alto a destra.", "blu", "nero " * 120]
TOLERANCE = 1e-4
COLOURS, SIDES = ("rosso", "verde", "blu", "giallo", "nero", "viola"), ("in alto", "in basso", "a destra", "a sinistra")
PAIRS = [(f"un quadrato {colour} {side}", f"a {side} {colour} square") for colour in COLOURS for side in SIDES]
SHORT_LESSON: dict[str, Any] = {"epochs": 1, "batch_size": 8, "warmup_steps": 1, "vocab_size": 400, "num_threads": 1}
EVERY = ["open_clip", "transformers", "onnx"]


def exported(model: Path, out: Path, *formats: str, **more: Any) -> Any:
    """Export a model from its folder alone."""
    config = ModelExportConfig(formats=formats, name="small", **more)
    return export_model(model, config, out, seen=None, root=out.parent / "catalog")


def change(path: Path, **values: Any) -> None:
    """Give a JSON object these values in the place of its own."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def model(compact: Path, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(compact, tmp_path / "model"))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, of another shape and size than any model's images."""
    path = tmp_path_factory.mktemp("picture") / "noise.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (70, 50, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def architectures(
    italian: Path,
    compact: Path,
    plain_clip: Path,
    timm_and_bert: Path,
    square_files: PairFiles,
    pretrained: TrainConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Models of each kind, by name: trained, aligned (timm, timm_and_bert), and distilled (as `lit`: a mean pooler)."""
    folder = tmp_path_factory.mktemp("architectures")
    closed_form, timm = AlignConfig(epochs=0, ridge=10.0), dataclasses.replace(pretrained, text_pooler="cls_pooler")
    align(square_files, timm, closed_form, folder / "timm", cache=folder / "cache")
    lesson = SentencePairs(
        training=PAIRS[4:], held_out=PAIRS[:4], origins={"human_translation": len(PAIRS)}, languages=("it", "en")
    )
    settings = DistilConfig(student="tiny", teacher=str(italian), **SHORT_LESSON)
    distil(lesson, settings, folder / "distilled", cache=folder / "cache")
    made = {name: folder / name for name in ("distilled", "timm")}
    return {"italian": italian, "compact": compact, "plain_clip": plain_clip, "timm_and_bert": timm_and_bert, **made}


def ours(model: Path, picture: Path) -> list[Any]:
    """Features of the picture and `TEXTS` by the model itself."""
    found = load_model(model)
    pixels = torch.from_numpy(decode(picture.read_bytes(), found.preprocessing).copy())[None]
    with torch.no_grad():
        images = found.module.encode_image(found.preprocessing.normalised(pixels), normalize=True)
        return [images.numpy(), found.module.encode_text(found.tokenizer(TEXTS), normalize=True).numpy()]


def read_here(picture: Path, folders: Sequence[Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Run the cards' own code in this process, where the libraries are loaded already, without a network."""
    names = runpy.run_path(str(READER))
    for place in ("socket.socket.connect", "socket.getaddrinfo"):
        monkeypatch.setattr(place, names["refuse"])
    return {str(folder): names["run"](folder, str(picture), TEXTS) for folder in folders}


def read(picture: Path, folders: Sequence[Path], elsewhere: Path) -> dict[str, list[Any]]:
    """Run the cards' own code in a new process, from another folder with its own cache of the hub."""
    command = [sys.executable, "-W", "ignore", str(READER), str(picture), json.dumps(TEXTS), *map(str, folders)]
    told = {**os.environ, "HF_HUB_CACHE": str(elsewhere / "cache"), "HF_MODULES_CACHE": str(elsewhere / "modules")}
    child = subprocess.run(command, capture_output=True, text=True, check=False, cwd=elsewhere, env=told)
    assert child.returncode == 0, child.stderr
    return dict(json.loads(child.stdout.splitlines()[-1]))


def require_equal(model: Path, picture: Path, found: dict[str, list[Any]]) -> None:
    images, texts = ours(model, picture)
    for theirs in found.values():
        for mine, other in zip((images, texts), theirs, strict=True):
            assert np.abs(mine - np.array(other)).max() < TOLERANCE
    assert np.abs(texts[0] - texts[1]).max() > 100 * TOLERANCE, "texts differ by more than what is allowed"


def test_italian_scores_the_same_in_other_libraries_and_says_nothing_of_this_machine(
    italian: Path, encoder: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler"):
        monkeypatch.setattr(name, None)
    report = exported(italian, tmp_path / "out", "open_clip", "transformers", hub_name="somebody/clip-it")
    assert [found.format for found in report.exports] == ["open_clip", "transformers"]
    assert all(found.difference < TOLERANCE for found in report.exports)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}
    assert len({path.stat().st_mode for path in files}) == 1, "safetensors would let nobody else read its files"
    for path in files:
        content = path.read_bytes()
        assert not any(str(place).encode() in content for place in (italian, encoder, tmp_path)), path
    report = exported(italian, tmp_path / "own", "open_clip", "transformers")
    require_equal(italian, picture, read_here(picture, [found.folder for found in report.exports], monkeypatch))
    shutil.move(tmp_path / "own" / "open_clip", tmp_path / "moved")
    assert open_open_clip(str(tmp_path / "moved"), "theirs").files, "the scoreboard opens it, too"


@pytest.mark.slow
def test_exports_are_read_elsewhere(
    architectures: dict[str, Path], picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the cards' code: in a new process, from another folder, offline, all exports moved; one as on the hub."""
    for name, model in architectures.items():
        report = exported(model, tmp_path / "first" / name, "all")
        refused = set() if name in ("italian", "plain_clip", "timm") else {"transformers"}
        assert report.refused.keys() == refused
        assert [found.format for found in report.exports] == [each for each in EVERY if each not in refused]
    monkeypatch.setattr("training.exports.onnx_graphs.MAX_BYTES_INSIDE", 1000)  # as for towers of more than 2 GB
    exported(architectures["compact"], tmp_path / "first" / "compact" / "large", "onnx")
    exported(architectures["italian"], tmp_path / "first" / "italian" / "hub", "open_clip", hub_name="somebody/clip-it")
    shutil.move(tmp_path / "first", tmp_path / "moved")
    large, hub = tmp_path / "moved" / "compact" / "large", tmp_path / "moved" / "italian" / "hub"
    assert (large / "text.onnx.data").stat().st_size > (large / "text.onnx").stat().st_size
    repository = tmp_path / "cache" / "models--somebody--clip-it"  # where huggingface_hub keeps what it fetched
    shutil.copytree(hub, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for path in hub.glob("*.safetensors"):
        path.unlink()
    found = read(picture, sorted((tmp_path / "moved").glob("*/*")), tmp_path)
    assert len(found) == 3 * len(architectures) - 3 + 2
    for name, model in architectures.items():
        require_equal(model, picture, {place: features for place, features in found.items() if f"/{name}/" in place})


def test_a_plain_clip_becomes_transformers_clip(
    plain_clip: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bias has no place there: the card says so, and cosines are the same."""
    exported(plain_clip, tmp_path / "out", "transformers")
    require_equal(plain_clip, picture, read_here(picture, [tmp_path / "out"], monkeypatch))
    ours = open_trained(plain_clip)
    scale = float(transformers.CLIPModel.from_pretrained(tmp_path / "out").logit_scale.detach().exp())
    assert scale == pytest.approx(ours.logit_scale, rel=1e-4)
    assert f"the bias of {ours.logit_bias:.4f} that the model adds" in (tmp_path / "out" / "README.md").read_text()


def test_a_timm_tower_beside_an_encoder_becomes_a_dual_encoder_that_needs_timm(
    architectures: dict[str, Path], picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(architectures["timm"], tmp_path / "out", "transformers")
    assert "needs timm" in (tmp_path / "out" / "README.md").read_text()
    shutil.move(tmp_path / "out", tmp_path / "moved")
    require_equal(architectures["timm"], picture, read_here(picture, [tmp_path / "moved"], monkeypatch))
    assert str(tmp_path).encode() not in (tmp_path / "moved" / "config.json").read_bytes()


def test_what_transformers_has_no_class_for_is_refused_and_open_clip_named(compact: Path, tmp_path: Path) -> None:
    reason = "its image tower is a ResNet of open_clip"
    with pytest.raises(SettingsError, match=f"because {reason}. Supported formats: open_clip, onnx"):
        exported(compact, tmp_path / "out", "transformers")
    assert not (tmp_path / "out").exists()


@pytest.mark.slower
def test_exports_to_open_clip_and_onnx_score_the_same_and_one_is_a_model_for_us_too(
    compact: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = exported(compact, tmp_path / "out", "open_clip", "onnx")
    out = tmp_path / "out" / "open_clip"
    assert open_model(out).sha256 == load_model(compact).sha256
    require_equal(compact, picture, read_here(picture, [found.folder for found in report.exports], monkeypatch))
    run = json.loads((compact / "run.json").read_text())
    for found in report.exports:
        assert json.loads((found.folder / "run.json").read_text()) == {**run, "license": ""}
        assert "run.json" in json.loads((found.folder / "export.json").read_text())["files"]
    told = json.loads((out / "tokenizer_config.json").read_text())
    assert told["add_prefix_space"], "or transformers 4 would read the first word otherwise"


@pytest.mark.parametrize("door", ["model", "image_weights", "teacher"])
def test_who_starts_from_an_export_learned_what_it_learned_and_is_bound_by_its_license(
    door: str,
    compact: Path,
    few: PairFiles,
    small_run: Callable[..., TrainConfig],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    export, out, own = tmp_path / "export", tmp_path / "run", set(few.hashes()["train"])
    exported(compact, export, "open_clip", license="cc-by-nc-4.0")

    def run() -> dict[str, Any]:
        """Train, or once that was done only write anew what the model was made of."""
        if door == "teacher":
            lesson = SentencePairs(training=PAIRS[4:], held_out=PAIRS[:4], origins={}, languages=("it", "en"))
            lesson = dataclasses.replace(lesson, shards=sorted(own))
            settings = DistilConfig(student="tiny", teacher=str(export), **SHORT_LESSON)
            distil(lesson, settings, out, cache=tmp_path / "cache")
        else:
            train(few, dataclasses.replace(small_run("resnet", epochs=1), **{door: str(export)}), out)
        found: dict[str, Any] = json.loads((out / "run.json").read_text())
        return found

    assert set(run()["learned"]) == own | set(open_trained(compact).lineage.learned or ())
    for license in ({"license": "mit"}, {"license": "other", "license_name": "mit"}):
        with pytest.raises(SettingsError, match=r"the license mit allows what .* \(export, cc-by-nc-4\.0\)"):
            exported(out, tmp_path / "mine", "open_clip", **license)
    exported(out, tmp_path / "mine", "open_clip", license="other", license_name="freeware")
    assert "the license freeware is not known, so it is not compared" in caplog.text
    (export / "run.json").unlink()  # as an earlier version exported it
    assert set(run()["learned"]) > own, "what it learned is not known, which is not nothing"
    assert {one["license"] for one in run()["borrowed"]} == {""}


TIMM = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear"}
NO_EQUIVALENT: list[tuple[str, dict[str, Any], str | None]] = [
    ("vision_cfg", {**TIMM, "timm_pool": "avg"}, "timm_pool = 'avg'"),
    ("vision_cfg", {"layers": [1, 1, 1, 1]}, "ResNet"),
    ("vision_cfg", {"pool_type": "avg"}, "pool_type = 'avg'"),
    ("text_cfg", {"hf_pooler_type": "mean_pooler"}, "hf_pooler_type = 'mean_pooler'"),
    ("vision_cfg", {"pool_type": "tok", "qk_norm": False, "act_kwargs": {}, "patch_dropout": 0.5}, None),
    ("vision_cfg", TIMM, None),
]


@pytest.mark.parametrize(("table", "setting", "reason"), NO_EQUIVALENT)
def test_what_has_no_equivalent_in_transformers_is_named(
    table: str, setting: dict[str, Any], reason: str | None
) -> None:
    config = read_model_config("italian")
    config[table] |= setting
    found = hugging_face.why_not(config, transformers.BertConfig())
    assert found is None if reason is None else reason in (found or "")


def test_towers_that_one_library_lacks_are_named() -> None:
    italian, compact = read_model_config("italian"), read_model_config("compact")
    assert "transformers has open_clip's own text tower only beside" in (
        hugging_face.why_not({**compact, "vision_cfg": TIMM}, None) or ""
    )
    vit = {**compact, "vision_cfg": italian["vision_cfg"]}
    assert hugging_face.why_not(vit, None) is None
    no_mask = {**vit, "text_cfg": {**vit["text_cfg"], "no_causal_mask": True}}
    assert hugging_face.why_not(no_mask, None) == "its text_cfg has no_causal_mask = True"
    no_pooler = hugging_face.why_not(italian, transformers.M2M100Config())
    assert "of the type m2m_100, has no pooler of its own" in (no_pooler or "")
    unknown = open_clip_hub.why_not(italian, transformers.DistilBertConfig())
    assert "of the type distilbert, and open_clip knows only" in (unknown or "")
    for name in ("italian", "lit", "compact", "compact-96"):
        assert open_clip_hub.why_not(read_model_config(name), transformers.BertConfig()) is None, name


def test_the_proof_notices_what_scores_otherwise(compact: Path) -> None:
    trained = open_trained(compact)
    mine = encode_by_model(trained, torch.randn(3, 3, trained.loaded.image_size, trained.loaded.image_size))
    assert require_same(mine, mine, "it") == 0
    for wrong in (
        mine._replace(images=mine.images + 2e-4),
        mine._replace(images=mine.images[:, :-1], texts=mine.texts[:, :-1]),
        mine._replace(texts=mine.texts * np.nan),
    ):
        with pytest.raises(PipelineError, match=r"it: .* its scores differ from the model's"):
            require_same(mine, wrong, "it")
    with pytest.raises(PipelineError, match=r"it: .* its tokenizer encodes 'una' differently"):
        require_same(mine, mine._replace(ids=[[*mine.ids[0][:-1], 9], *mine.ids[1:]]), "it")


def test_nothing_is_left_of_an_export_that_fails(model: Path, tmp_path: Path) -> None:
    """Weights that are no numbers score like nothing, and equal to nothing."""
    weights, name = load_file(model / "model.safetensors"), "text.text_projection"
    save_file({**weights, name: weights[name] * float("nan")}, model / "model.safetensors")
    change(model / "result.json", model_sha256=sha256_of(model / "model.safetensors"))
    with pytest.raises(PipelineError, match="by nan"):
        exported(model, tmp_path / "places" / "out", "open_clip")
    assert not (tmp_path / "places").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", None, "no finished model, because .* is missing"),
        ("model.safetensors", lambda content: content[:-7] + bytes([content[-7] ^ 1]) + content[-6:], "sha256"),
        ("tokenizer_config.json", lambda content: content + b" ", "is damaged"),  # which only the record tells
        ("run.json", lambda content: content.replace(b'"settings": {', b'"settings": [], "x": {'), "settings"),
        ("effort.json", lambda _: b"[]", "is damaged"),
    ],
)
def test_a_damaged_model_is_refused_in_a_sentence(
    name: str, content: Callable[[bytes], bytes] | None, message: str, model: Path, tmp_path: Path
) -> None:
    if name == "tokenizer_config.json":
        record_folder(model, MODEL_FILES)
    if content is None:
        (model / name).unlink()
    else:
        (model / name).write_bytes(content((model / name).read_bytes()))
    with pytest.raises(PipelineError, match=message) as caught:
        exported(model, tmp_path / "out", "open_clip")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_only_earlier_exports_of_models_are_replaced_and_only_by_force(compact: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for replace in (False, True):
        with pytest.raises(SettingsError, match="not an export of vernaclip"):
            exported(compact, out, "open_clip", replace=replace)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    assert [exported(compact, out, "open_clip").exports[0].up_to_date for _ in range(2)] == [False, True]
    with pytest.raises(SettingsError, match="--force"):
        exported(compact, out, "open_clip", license="mit")
    assert "license:" not in (out / "README.md").read_text()
    (out / "mine.txt").write_text("mine")
    exported(compact, out, "open_clip", license="mit", replace=True)
    assert "license: mit" in (out / "README.md").read_text()
    assert not (out / "mine.txt").exists()
    (out / "open_clip_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(SettingsError, match="--force"):
        exported(compact, out, "open_clip", license="mit")
    record = {"dataset": "scenes", "snapshot": "0" * 8, "format": "urls", "files": {}, "bytes": {}}
    write_checksummed(tmp_path / "dataset" / "export.json", record)
    with pytest.raises(SettingsError, match="an export of a dataset"):
        exported(compact, tmp_path / "dataset", "open_clip", replace=True)


def test_the_models_own_folder_and_the_catalog_are_no_places(compact: Path, tmp_path: Path) -> None:
    config = ModelExportConfig(formats=("open_clip",), name="small")
    for out, root, message in (
        (compact / "exports", tmp_path / "catalog", "contains the other"),
        (compact.parent, tmp_path / "catalog", "contains the other"),
        (tmp_path / "mine", tmp_path, "vernaclip forget"),
        (tmp_path / "models" / "mine", tmp_path, "not for exports"),
    ):
        with pytest.raises(SettingsError, match=message):
            export_model(compact, config, out, seen=None, root=root)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"hub_name": "clip-it"}, "OWNER/NAME, got 'clip-it'"),
        ({"license": "other"}, "state both, or neither"),
        ({"license": "other", "license_name": "mine-1.0", "license_link": "LICENSE.md"}, None),
    ],
)
def test_wrong_wishes_are_named(wish: dict[str, Any], message: str | None, compact: Path, tmp_path: Path) -> None:
    with nullcontext() if message is None else pytest.raises(SettingsError, match=message):
        exported(compact, tmp_path / "out", "open_clip", **wish)
    assert (tmp_path / "out").exists() == (message is None)


def test_what_onnx_needs_is_said_before_anything_is_written(
    compact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match="needs onnxscript"):
        exported(compact, tmp_path / "out", "open_clip", "onnx")
    assert not (tmp_path / "out").exists()


def test_the_card_says_where_transformers_crops_otherwise(plain_clip: Path, tmp_path: Path) -> None:
    cropping = Path(shutil.copytree(plain_clip, tmp_path / "model"))
    stated = json.loads((cropping / "open_clip_config.json").read_text())["preprocess_cfg"]
    change(cropping / "open_clip_config.json", preprocess_cfg={**stated, "resize_mode": "shortest"})
    cards = {}
    for name, model in (("squashed", plain_clip), ("cropped", cropping)):
        exported(model, tmp_path / name, "transformers")
        cards[name] = " ".join((tmp_path / name / "README.md").read_text().split())
    assert "the pixels are identical to those in training. transformers' default" in cards["squashed"]
    assert "training, but one in four image sizes is cropped one pixel earlier" in cards["cropped"]
    raw = {"backend": "pil", "do_rescale": False, "do_normalize": False}
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "cropped", **raw)
    preprocessing, equal = load_model(cropping).preprocessing, []
    for extra in range(8):
        shape = (preprocessing.size, preprocessing.size + extra, 3)
        image = Image.fromarray(np.random.default_rng(extra).integers(0, 255, shape, dtype=np.uint8))
        found = processor([image], return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        equal.append(bool((found == preprocessing.resized(image)).all()))
    assert equal == [True, True, True, False] * 2
