"""Exports of small trained models, read back by the libraries that they are for, elsewhere and without a network."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_catalog.errors import BusyError, InputError, PipelineError, SettingsError
from data_catalog.storage.lock import place_lock
from training.data.images import decode
from training.exports.formats import MODEL_FORMATS
from training.exports.hugging_face import why_not_transformers
from training.exports.model_export import ModelExportConfig, export_model
from training.exports.trained_folder import make_probe, open_trained, require_same_ids, require_same_scores
from training.towers.model import load_model, normalise_pixels, open_model, read_model_config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

READER = Path(__file__).with_name("card_reader.py")
# Of differing lengths, so that all but one are filled up; one is longer than any context.
TEXTS = ["un quadrato rosso", "Sull’erba  c'è\tun QUADRATO verde, in alto a destra.", "blu", "nero " * 120]
TOLERANCE = 1e-4


def exported(model: Path, out: Path, *formats: str, **more: Any) -> Any:
    """Export a model from its folder alone."""
    config = ModelExportConfig(formats=formats, name="small", **more)
    return export_model(model, config, out, seen=None, root=out.parent / "catalog")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, of another shape and size than any model's images."""
    path = tmp_path_factory.mktemp("picture") / "noise.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (70, 50, 3), dtype=np.uint8)).save(path)
    return path


def ours(model: Path, picture: Path) -> list[Any]:
    """Features of the picture and `TEXTS` by the model itself."""
    import torch

    found = load_model(model)
    pixels = torch.from_numpy(decode(picture.read_bytes(), found.image_size).copy())[None]
    with torch.no_grad():
        images = found.module.encode_image(normalise_pixels(pixels), normalize=True)
        return [images.numpy(), found.module.encode_text(found.tokenizer(TEXTS), normalize=True).numpy()]


def read(picture: Path, folders: list[Path], elsewhere: Path, **environment: str) -> dict[str, list[Any]]:
    """Run the cards' own code from another folder."""
    command = [sys.executable, "-W", "ignore", str(READER), str(picture), json.dumps(TEXTS), *map(str, folders)]
    told = {**os.environ, **environment}
    child = subprocess.run(command, capture_output=True, text=True, check=False, cwd=elsewhere, env=told)
    assert child.returncode == 0, child.stderr
    found: dict[str, list[Any]] = json.loads(child.stdout.splitlines()[-1])
    return found


def require_equal(model: Path, picture: Path, found: dict[str, list[Any]]) -> None:
    images, texts = ours(model, picture)
    for folder, (their_images, their_texts) in found.items():
        assert np.abs(images - np.array(their_images)).max() < TOLERANCE, folder
        assert np.abs(texts - np.array(their_texts)).max() < TOLERANCE, folder
    assert np.abs(texts[0] - texts[1]).max() > 100 * TOLERANCE, "texts differ by more than what is allowed"


def as_hub_has_it(folder: Path, cache: Path, name: str) -> None:
    """Put a folder where huggingface_hub keeps what it fetched."""
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)


def no_pickles(*_: Any, **__: Any) -> Any:
    raise AssertionError("a pickle was read")


def test_italian_scores_the_same_in_all_three_libraries(
    italian: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the code of the cards: in a new process, from another folder, offline; one export moved, one as on the hub."""
    for name in ("torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler"):
        monkeypatch.setattr(name, no_pickles)
    report = exported(italian, tmp_path / "out", "all")
    assert report.refused == {}
    assert [found.format for found in report.exports] == ["open_clip", "transformers", "onnx"]
    assert all(found.difference < TOLERANCE for found in report.exports)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".md", ".onnx", ".safetensors"}
    assert len({path.stat().st_mode for path in files}) == 1, "safetensors would let nobody else read its files"
    exported(italian, tmp_path / "first", "open_clip")
    shutil.move(tmp_path / "first", tmp_path / "moved")
    exported(italian, tmp_path / "hub", "open_clip", hub_name="somebody/clip-it")
    as_hub_has_it(tmp_path / "hub", tmp_path / "cache", "somebody/clip-it")
    shutil.copytree(tmp_path / "hub", tmp_path / "only-the-card")
    for path in (tmp_path / "only-the-card").glob("*.safetensors"):
        path.unlink()
    folders = [found.folder for found in report.exports]
    more = [tmp_path / "moved", tmp_path / "only-the-card"]
    found = read(picture, [*folders, *more], tmp_path, HF_HUB_CACHE=str(tmp_path / "cache"))
    assert len(found) == 5
    require_equal(italian, picture, found)


def test_no_export_says_where_anything_lay(italian: Path, encoder: Path, tmp_path: Path) -> None:
    for kind in ("open_clip", "transformers"):
        exported(italian, tmp_path / kind, kind, hub_name="somebody/clip-it")
        for path in (tmp_path / kind).iterdir():
            content = path.read_bytes()
            assert not any(str(place).encode() in content for place in (italian, encoder, tmp_path)), path


def test_a_plain_clip_becomes_transformers_clip(plain_clip: Path, picture: Path, tmp_path: Path) -> None:
    """Its bias has no place there: the card says so, and cosines are the same."""
    import torch
    from transformers import AutoProcessor, CLIPModel

    exported(plain_clip, tmp_path / "out", "transformers")
    model = CLIPModel.from_pretrained(tmp_path / "out").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "out", backend="pil")
    inputs = processor(images=[Image.open(picture)], text=TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**inputs)
    features = {"transformers": [found.image_embeds.tolist(), found.text_embeds.tolist()]}
    require_equal(plain_clip, picture, features)
    scale = open_trained(plain_clip).logit_scale
    cosines = (found.image_embeds @ found.text_embeds.T) * scale
    assert torch.allclose(found.logits_per_image, cosines, rtol=1e-4)
    bias = open_trained(plain_clip).logit_bias
    assert f"the bias of {bias:.4f} that the model adds" in (tmp_path / "out" / "README.md").read_text()


def test_compact_goes_to_open_clip_and_says_why_not_to_transformers(
    compact: Path, picture: Path, tmp_path: Path
) -> None:
    import open_clip
    import torch

    exported(compact, tmp_path / "out", "open_clip")
    assert open_model(tmp_path / "out").sha256 == load_model(compact).sha256, "an export is a model for us, too"
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")
    with torch.no_grad():
        images = model.eval().encode_image(preprocess(Image.open(picture))[None], normalize=True)
        texts = model.encode_text(tokenizer(TEXTS), normalize=True)
    require_equal(compact, picture, {"open_clip": [images.numpy(), texts.numpy()]})
    told = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert told["add_prefix_space"], "or transformers 4 would read the first word otherwise"
    reason = "no equivalent of this model, because its image tower is a ResNet. Supported formats: open_clip, onnx"
    with pytest.raises(SettingsError, match=reason):
        exported(compact, tmp_path / "two", "open_clip", "transformers")
    assert not (tmp_path / "two").exists()


@pytest.mark.slow
def test_compact_goes_to_onnx(compact: Path, picture: Path, tmp_path: Path) -> None:
    report = exported(compact, tmp_path / "out", "all")
    assert report.refused == {"transformers": "its image tower is a ResNet"}
    require_equal(compact, picture, read(picture, [found.folder for found in report.exports], tmp_path))


@pytest.mark.slow
def test_graphs_with_weights_beside_them_are_whole(
    plain_clip: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of towers of more than 2 GB have to be."""
    monkeypatch.setattr("training.exports.onnx_graphs.MAX_BYTES_INSIDE", 1000)
    exported(plain_clip, tmp_path / "first", "onnx")
    shutil.move(tmp_path / "first", tmp_path / "out")
    assert (tmp_path / "out" / "text.onnx.data").stat().st_size > (tmp_path / "out" / "text.onnx").stat().st_size
    require_equal(plain_clip, picture, read(picture, [tmp_path / "out"], tmp_path))


@pytest.mark.parametrize(
    ("table", "setting", "reason"),
    [
        ("vision_cfg", {"timm_model_name": "vit_tiny_patch16_224"}, "its image tower is timm's vit_tiny_patch16_224"),
        ("vision_cfg", {"layers": [1, 1, 1, 1]}, "its image tower is a ResNet"),
        ("vision_cfg", {"pool_type": "avg"}, "its vision_cfg says pool_type = 'avg'"),
        ("vision_cfg", {"ls_init_value": 0.1}, "its vision_cfg says ls_init_value = 0.1"),
        ("vision_cfg", {"no_ln_pre": True}, "its vision_cfg says no_ln_pre = True"),
        ("vision_cfg", {"pool_type": "tok", "qk_norm": False, "patch_dropout": 0.5}, None),
        ("text_cfg", {"hf_pooler_type": "mean_pooler"}, "its text tower is pooled by mean_pooler"),
        ("text_cfg", {"hf_pooler_type": "cls_last_hidden_state_pooler"}, "pooled by cls_last_hidden_state_pooler"),
        ("text_cfg", {"hf_proj_type": "mlp"}, "its text tower is projected by mlp"),
        ("text_cfg", {"hf_proj_type": None}, None),
    ],
)
def test_what_has_no_equivalent_in_transformers_is_named(
    table: str, setting: dict[str, Any], reason: str | None
) -> None:
    config = read_model_config("italian")
    config[table] = {**config[table], **setting}
    found = why_not_transformers(config)
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_models_that_come_with_us_and_where_they_go() -> None:
    for name, formats in (("italian", 3), ("lit", 2), ("compact", 2), ("compact-96", 2)):
        config = read_model_config(name)
        assert sum(kind.writer().why_not(config) is None for kind in MODEL_FORMATS.values()) == formats, name


def test_the_proof_notices_what_scores_otherwise(compact: Path) -> None:
    probe = make_probe(open_trained(compact))
    images, texts = probe.image_features, probe.text_features
    assert require_same_scores(probe, images, texts, "it") == 0
    for wrong in (images + 2e-4, images[:, :-1], images * np.nan):
        with pytest.raises(PipelineError, match="it: its scores differ from the model's"):
            require_same_scores(probe, wrong, texts if wrong.shape == images.shape else texts[:, :-1], "it")
    ids = probe.ids.tolist()
    require_same_ids(probe, ids, "it")
    with pytest.raises(PipelineError, match="its tokenizer encodes 'una' differently"):
        require_same_ids(probe, [[*ids[0][:-1], 9], *ids[1:]], "it")


def test_nothing_is_left_of_an_export_that_fails(compact: Path, tmp_path: Path) -> None:
    """Weights that are no numbers score like nothing, and equal to nothing."""
    import hashlib

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(compact, broken)
    weights = load_file(broken / "model.safetensors")
    save_file(
        {**weights, "text.text_projection": weights["text.text_projection"] * float("nan")},
        broken / "model.safetensors",
    )
    result = json.loads((broken / "result.json").read_text())
    sha256 = hashlib.sha256((broken / "model.safetensors").read_bytes()).hexdigest()
    (broken / "result.json").write_text(json.dumps({**result, "model_sha256": sha256}))
    with pytest.raises(PipelineError, match=r"its scores differ from the model's by nan"):
        exported(broken, tmp_path / "places" / "out", "open_clip")
    assert not (tmp_path / "places").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no weights", r"contains no finished model, because model\.safetensors is missing"),
        ("not finished", r"contains no finished model, because result\.json is missing"),
        ("a flipped bit", r"model\.safetensors does not match the sha256 in result\.json"),
        ("a recorded file gone", r"tokenizer\.json is missing"),
        ("a recorded file changed", r"tokenizer\.json is damaged"),
        ("no JSON", r"run\.json is damaged"),
        ("another result", r"result\.json is damaged"),
        ("no scores", r"scores-test\.json is not a file of scores .* evaluate the model again"),
        ("no effort", r"effort\.json is damaged"),
        ("a result of words", r"result\.json is damaged \(steps is 'two'\)"),
        ("settings that are none", r"run\.json is damaged \(its key or settings are missing"),
        ("a list", r"run\.json is damaged \(it is not a JSON object\)"),
        ("brackets in brackets", r"result\.json is damaged"),
        ("half a feature", r"open_clip_config\.json: model_cfg\.embed_dim must be a positive number, got 0\.5"),
        ("another tokenizer", r"tokenizer\.json, or tokenizer_config\.json beside it cannot be opened"),
    ],
)
def test_a_damaged_model_is_refused_in_a_sentence(damage: str, message: str, compact: Path, tmp_path: Path) -> None:
    from data_catalog.storage.integrity import record_folder
    from training.fit.run import MODEL_FILES

    model = tmp_path / "model"
    shutil.copytree(compact, model)

    config = json.loads((compact / "open_clip_config.json").read_text())["model_cfg"]

    def whole(name: str, **more: object) -> str:
        return json.dumps({**json.loads((compact / name).read_text()), **more})

    if damage.startswith("a recorded file"):
        record_folder(model, MODEL_FILES)
        (model / "tokenizer.json").unlink()
        if damage.endswith("changed"):
            (model / "tokenizer.json").write_text("{}")
    elif damage == "a flipped bit":
        content = bytearray((model / "model.safetensors").read_bytes())
        content[-7] ^= 1
        (model / "model.safetensors").write_bytes(content)
    elif damage in ("no weights", "not finished"):
        (model / {"no weights": "model.safetensors", "not finished": "result.json"}[damage]).unlink()
    else:
        name, text = {
            "no JSON": ("run.json", "{"),
            "another result": ("result.json", "{}"),
            "no scores": ("scores-test.json", '{"split": "test", "model_sha256": "", "scores": [{"name": 5}]}'),
            "no effort": ("effort.json", "[]"),
            "a result of words": ("result.json", whole("result.json", steps="two")),
            "settings that are none": ("run.json", whole("run.json", settings=[])),
            "a list": ("run.json", "[]"),
            "brackets in brackets": ("result.json", "[" * 100_000),
            "half a feature": ("open_clip_config.json", json.dumps({"model_cfg": {**config, "embed_dim": 0.5}})),
            "another tokenizer": ("tokenizer.json", whole("tokenizer.json", model={})),
        }[damage]
        (model / name).write_text(text)
    with pytest.raises(PipelineError, match=message) as caught:
        exported(model, tmp_path / "out", "open_clip")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_only_earlier_exports_of_models_are_replaced_and_only_by_force(compact: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for replace in (False, True):
        with pytest.raises(SettingsError, match="exists and is not an export of vernaclip"):
            exported(compact, out, "open_clip", replace=replace)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    assert not exported(compact, out, "open_clip").exports[0].up_to_date
    assert exported(compact, out, "open_clip").exports[0].up_to_date
    with pytest.raises(
        SettingsError, match=r"contains an export of another model, or with other settings\. .* --force"
    ):
        exported(compact, out, "open_clip", license="mit")
    assert "license:" not in (out / "README.md").read_text()
    (out / "mine.txt").write_text("mine")
    exported(compact, out, "open_clip", license="mit", replace=True)
    assert "license: mit" in (out / "README.md").read_text()
    assert not (out / "mine.txt").exists()
    (out / "open_clip_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(SettingsError, match="contains an export of another model"):
        exported(compact, out, "open_clip", license="mit")


def test_a_place_that_another_export_writes_to_is_left_alone(compact: Path, tmp_path: Path) -> None:
    half = tmp_path / "out" / ".tmp-new-onnx"
    half.mkdir(parents=True)
    with place_lock(tmp_path / "out" / "onnx"):
        with pytest.raises(
            BusyError, match=rf"onnx is being written by process {os.getpid()} \(.*: wait until it ends"
        ):
            exported(compact, tmp_path / "out", "all")
        assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [".onnx.writer-lock", ".tmp-new-onnx"]
    exported(compact, tmp_path / "out" / "open_clip", "open_clip")
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [".tmp-new-onnx", "open_clip"]


def test_an_export_of_a_dataset_is_never_replaced(compact: Path, tmp_path: Path) -> None:
    from data_catalog.storage.integrity import write_checksummed

    record = {"dataset": "scenes", "snapshot": "0" * 8, "format": "urls", "files": {}, "bytes": {}}
    write_checksummed(tmp_path / "out" / "export.json", record)
    with pytest.raises(SettingsError, match="contains an export of a dataset"):
        exported(compact, tmp_path / "out", "open_clip", replace=True)


def test_the_models_own_folder_is_no_place(compact: Path, tmp_path: Path) -> None:
    for out in (compact / "exports", compact.parent):
        with pytest.raises(SettingsError, match="contains the other"):
            exported(compact, out, "open_clip")
    with pytest.raises(SettingsError, match=r"exists and is not an export of vernaclip|contains the other"):
        exported(compact, compact, "open_clip")
    config = ModelExportConfig(formats=("open_clip",), name="small")
    with pytest.raises(SettingsError, match="`vernaclip forget` would remove this export"):
        export_model(compact, config, tmp_path / "mine", seen=None, root=tmp_path)
    with pytest.raises(SettingsError, match="which is not for exports"):
        export_model(compact, config, tmp_path / "models" / "mine", seen=None, root=tmp_path)


def licensed(license: str, **more: str) -> dict[str, Any]:
    return {"formats": ("onnx",), "license": license, **more}


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"formats": ()}, "format must be some of open_clip, transformers, onnx, all, got none"),
        ({"formats": ("jax",)}, "got jax"),
        ({"formats": ("all", "onnx")}, "includes every format: give it alone"),
        ({"formats": ("onnx",), "hub_name": "clip-it"}, "a name on the hub has the form OWNER/NAME, got 'clip-it'"),
        ({"formats": ("onnx",), "hub_name": "../clip-it"}, "a name on the hub has the form OWNER/NAME"),
        ({"formats": ("onnx",), "hub_name": "somebody/clip--it"}, "a name on the hub has the form OWNER/NAME"),
        ({"formats": ("onnx",), "hub_name": "somebody/clip-it.git"}, "a name on the hub has the form OWNER/NAME"),
        ({"formats": ("onnx",), "hub_name": f"somebody/{'x' * 97}"}, "a name on the hub has the form OWNER/NAME"),
        ({"formats": ("onnx",), "hub_name": "somebody/clip-it\n"}, "a name on the hub has the form OWNER/NAME"),
        (
            {"formats": ("onnx",), "dataset_hub_name": "scenes"},
            "a name on the hub has the form OWNER/NAME, got 'scenes'",
        ),
        (licensed("CC-BY-4.0"), "no license 'CC-BY-4.0' .*: did you mean cc-by-4.0 or .* --license other"),
        (licensed("apache2"), "did you mean apache-2.0"),
        (licensed("mine, all mine"), "for another license, use --license other --license-name NAME"),
        (licensed(" mit"), "no license ' mit' .*: did you mean mit"),
        (licensed("other"), "--license other needs the license's name"),
        (licensed("other", license_name="my license"), "--license-name may have letters, digits, .* got 'my license'"),
        (licensed("other", license_name="mine", license_link="LICENCE"), "--license-link must be an address"),
        (licensed("mit", license_name="mine"), "--license-name and --license-link need --license other"),
        (licensed("", license_link="LICENSE"), "--license-name and --license-link need --license other"),
    ],
)
def test_wrong_wishes_are_named(wish: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ModelExportConfig(name="small", **wish)


def test_names_on_the_hub_and_licenses_that_it_takes() -> None:
    for name in ("somebody/clip-it", "a_b/C.d-1_2", "0/x"):
        ModelExportConfig(name="small", formats=("onnx",), hub_name=name, dataset_hub_name=name)
    for license in ("", "mit", "cc-by-nc-sa-4.0", "openrail++", "unknown"):
        ModelExportConfig(name="small", **licensed(license))
    for link in ("", "LICENSE", "LICENSE.md", "https://example.org/mine"):
        ModelExportConfig(name="small", **licensed("other", license_name="mine-1.0", license_link=link))


def test_what_onnx_needs_is_said_before_anything_is_written(
    compact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"the format onnx needs onnxscript: run `pip install -e '\.\[onnx\]'` in the"):
        exported(compact, tmp_path / "out", "open_clip", "onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failpoint", "returncode"), [("atomic.after_write:2=enospc", 1), ("atomic.after_fsync:2=kill", -9)]
)
def test_a_full_disk_or_a_kill_leaves_no_half_export(
    failpoint: str, returncode: int, plain_clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "places" / "out"
    command = [sys.executable, "-m", "flows.cli", "export-model", "--model", str(plain_clip), "--out", str(out)]
    command += ["--format", "transformers"]
    told = {**os.environ, "VERNACLIP_FAILPOINTS": failpoint}
    failed = subprocess.run(command, capture_output=True, text=True, check=False, env=told)
    assert failed.returncode == returncode, failed.stderr
    assert not out.exists()
    if returncode == 1:
        assert failed.stderr.splitlines()[-1].endswith("is full: free space and run the same command again")
        assert not out.parent.exists()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "exported" in again.stdout
    assert [path.name for path in out.parent.iterdir()] == ["out"]
