"""Architectures by name, from JSON and by towers; and image preprocessing, which is open_clip's pixel by pixel."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_catalog.base.errors import InputError, SettingsError
from flows.recipe.settings import read
from training.align.align import aligned_model_and_key
from training.config import AlignConfig, TrainConfig
from training.fit.setup import model_and_key
from training.towers.model import OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE, create_model, load_model, save_weights
from training.towers.plan import TowerPlan, read_model_config
from training.towers.preprocessing import SHORTEST, SQUASH, Preprocessing, preprocessing_of

LITE0 = "efficientnet-lite0"
OWN_TEXT = {"width": 32, "heads": 2, "layers": 1, "context_length": 9}


@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.sampled_from([SQUASH, SHORTEST]),
    st.sampled_from(["bicubic", "bilinear"]),
    st.integers(1, 40),
)
def test_images_are_prepared_as_open_clip_does(
    sides: tuple[int, int], mode: str, interpolation: str, size: int
) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    ours = Preprocessing(
        size=size, mean=(0.1, 0.5, 0.6), std=(0.2, 0.3, 0.4), resize_mode=mode, interpolation=interpolation
    )
    pixels = np.random.default_rng(size).integers(0, 256, (*sides, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    theirs = image_transform_v2(PreprocessCfg(**ours.to_json()), is_train=False)(image)
    found = ours.normalised(torch.from_numpy(ours.resized(image).copy())[None])[0]
    assert torch.allclose(found, theirs, atol=1e-6)
    assert Preprocessing.from_json(ours.to_json(), size=size) == ours


@pytest.mark.parametrize("sides", [(3_000_001, 1), (1, 3_000_000)])
def test_of_a_long_strip_only_the_middle_is_resized(sides: tuple[int, int]) -> None:
    strip = Image.new("RGB", sides, "red")
    middle = [length // 2 for length in sides]
    strip.paste("blue", (middle[0] - 9, middle[1] - 9, middle[0] + 9, middle[1] + 9))
    found = Preprocessing(size=64, resize_mode=SHORTEST).resized(strip)
    assert found.shape == (64, 64, 3)
    assert (found == (0, 0, 255)).all()


@pytest.mark.parametrize(
    "values",
    [
        {"size": 0},
        {"mean": [0.5, 0.5]},
        {"std": [0.5, 0.0, 0.5]},
        {"std": [0.5, float("nan"), 0.5]},
        {"interpolation": "nearest"},
        {"resize_mode": "longest"},
    ],
)
def test_a_preprocessing_that_cannot_be_done_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Preprocessing.from_json(values, size=values.get("size", 32))


def test_architectures_of_open_clip_are_completed_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clip, roberta = (read_model_config(name) for name in ("ViT-B-32", "roberta-ViT-B-32"))
    assert clip["custom_text"] is True
    assert clip["text_cfg"]["hf_tokenizer_name"] == "tokenizer"
    assert roberta["text_cfg"]["context_length"] == 77
    assert roberta["text_cfg"]["hf_tokenizer_name"] == "roberta-base"
    assert "roberta-ViT-B-32: filled in context_length = 77" in caplog.text
    assert preprocessing_of(clip) == Preprocessing(size=224)


def test_towers_of_the_settings_replace_those_of_the_model(tmp_path: Path) -> None:
    plan = TowerPlan.of(
        TrainConfig(
            model="italian",
            image_tower="tf_efficientnet_lite0",
            image_size=192,
            image_mean=(0.4, 0.4, 0.4),
            image_resize="shortest",
            text_encoder="some/bert",
            text_pooler="max_pooler",
            embed_dim=99,
            context_length=33,
        )
    )
    found = plan.config
    assert found["embed_dim"] == 99
    assert "quick_gelu" not in found
    assert found["image_weights"] == {"timm": "tf_efficientnet_lite0"}
    assert found["vision_cfg"]["timm_model_name"] == "tf_efficientnet_lite0"
    expected = {"hf_model_name": "some/bert", "hf_pooler_type": "max_pooler", "context_length": 33}
    assert found["text_cfg"].items() >= expected.items()
    assert plan.preprocessing == Preprocessing(
        size=192, mean=(0.4, 0.4, 0.4), std=(0.5, 0.5, 0.5), resize_mode=SHORTEST
    )
    replaced = TowerPlan.of(TrainConfig(model="compact", text_encoder="some/bert")).config["text_cfg"]
    assert replaced["hf_model_name"] == replaced["hf_tokenizer_name"] == "some/bert"
    assert "width" not in replaced


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"image_tower": "tf_efficientnet_lite"}, "tf_efficientnet_lite"),
        ({"image_tower": "resnet18.imagined"}, "imagined"),
        ({"text_pooler": "max_pooler"}, "no Hugging Face text tower"),
        ({"image_std": (0.5, 0.0, 0.5)}, r"train.image_std must be "),
    ],
)
def test_a_wrong_tower_is_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        TowerPlan.of(read(TrainConfig, settings, "train"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vision_cfg": None}, "vision_cfg"),
        ({"text_cfg": []}, "cannot be opened"),
        ({"image_weights": {"model": "ViT-B-32"}}, "pretrained"),
        ({"vision_cfg": {"image_size": 32, "timm_model_pretrained": True}}, r'set image_weights to \{"timm": NAME\}'),
        *(({"text_cfg": {**OWN_TEXT, "pool_type": kind}}, "a causal one") for kind in ("last", "first", "eos")),
        *(({"text_cfg": {**OWN_TEXT, name: True}}, "a causal one") for name in ("no_causal_mask", "embed_cls")),
    ],
)
def test_an_incomplete_model_file_is_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    found = {**read_model_config("compact"), **changes}
    path = tmp_path / "model.json"
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))
    with pytest.raises(InputError, match=expected):
        TowerPlan.of(TrainConfig(model=str(path))).build(tmp_path / "model", ["un cane"])
    path.write_text("{")
    with pytest.raises(InputError, match="cannot be opened"):
        read_model_config(str(path))


@pytest.mark.parametrize("named", ["resnet18", "hf-hub:theirs/model", "hf_hub:theirs/model", "local-dir:theirs"])
def test_to_make_and_open_a_model_nothing_is_fetched(
    named: str, random_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm would fetch weights that are then replaced, or read another model, where a folder of others says so."""
    folder = shutil.copytree(random_clip(["un cane"]), tmp_path / "model")
    path = folder / OPEN_CLIP_CONFIG_FILE
    config = json.loads(path.read_text())
    vision = {"image_size": 32, "timm_model_name": "resnet18", "timm_pool": "", "timm_proj": "linear"}
    config["model_cfg"]["vision_cfg"] = vision
    save_weights(create_model(config["model_cfg"], folder), folder / WEIGHTS_FILE)
    vision |= {"timm_model_name": named, "timm_model_pretrained": True}
    path.write_text(json.dumps(config))
    asked = []
    for function in ("_hub.hf_hub_download", "_factory.load_model_config_from_path"):
        monkeypatch.setattr(f"timm.models.{function}", lambda *given, **_: asked.append(given))
    for attempt in (lambda: create_model(config["model_cfg"], folder), lambda: load_model(folder)):
        refused = pytest.raises(InputError, match="must be the name of a backbone")
        with nullcontext() if named == "resnet18" else refused:
            attempt()
    assert asked == []


# Settings of models of every origin. Keys hash weights, so any bytes stand for them.
SHARDS = {"train": ["aa"], "val": ["bb"], "test": []}
_TIMM = {"image_size": 64, "timm_model_name": "test_efficientnet", "timm_pool": "", "timm_proj": "linear"}
_BERT = {"hf_pooler_type": "mean_pooler", "hf_proj_type": "linear", "context_length": 20}
_SHAPE = {"embed_dim": 32, "custom_text": True, "vision_cfg": {"image_size": 32, "layers": 1, "width": 32}}
_PREPROCESSING = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"}


def settings_of_keys(folder: Path) -> dict[str, dict[str, Any]]:
    """Write the files that settings name into an empty folder, and return settings of `[train]` by a name for them."""
    bert, start = folder / "bert", folder / "start"
    for encoder in (bert, start):
        encoder.mkdir()
        (encoder / "config.json").write_text('{"model_type": "bert"}')
        (encoder / "tokenizer.json").write_text("{}")
        (encoder / "model.safetensors").write_bytes(b"weights")
    text = {**_BERT, "hf_model_name": "some/bert", "hf_tokenizer_name": "some/words"}
    parts = {"model_cfg": {**_SHAPE, "init_logit_bias": -10, "text_cfg": text}, "preprocess_cfg": _PREPROCESSING}
    (start / "open_clip_config.json").write_text(json.dumps(parts))
    (folder / "tower.safetensors").write_bytes(b"tower")
    (folder / "picture.png").write_bytes(b"picture")
    recorded = {"image": {"file": "picture.png", "feature": [1.0]}, "text": {"text": "a", "feature": [0.5]}}
    stated = {"embed_dim": 24, "vision_cfg": _TIMM, "text_cfg": {**text, "hf_model_name": str(bert)}}
    stated |= {"image_weights": {"file": "tower.safetensors"}, "recorded_features": recorded}
    (folder / "towers.json").write_text(json.dumps({**stated, "preprocess_cfg": {"std": [0.2] * 3}, "license": "mit"}))
    tower = {"image_tower": "test_efficientnet", "image_weights": str(folder / "tower.safetensors"), "image_size": 64}
    return {
        "compact": {},
        "lite0": {"model": "tiny", "image_tower": LITE0, "freeze_image": True, "image_resize": "shortest"},
        "italian": {"model": "italian", "loss": "siglip", "logit_scale": 20.0, "text_encoder": str(bert)},
        "lit from random weights": {"model": "lit", "image_weights": "random", "context_length": 33, "embed_dim": 64},
        "files": {**tower, "text_encoder": str(bert), "text_pooler": "max_pooler", "embed_dim": 24},
        "hubs": {"image_tower": "resnet18.a1_in1k", "text_encoder": "some/bert", "image_mean": (0.4, 0.4, 0.4)},
        "JSON": {"model": str(folder / "towers.json")},
        "start": {"model": str(start)},
        "start, by sigmoids": {"model": str(start), "loss": "siglip"},
        "open_clip": {"model": "roberta-ViT-B-32", "text_encoder": "other/bert", "batch_size": 64},
    }


# Twelve digits of the keys of runs of `train` and of `align`: a finished model of before is recognised.
KEYS = {
    "compact": ("03726d8652a7",),
    "lite0": ("cf064dbae12d",),
    "italian": ("a6cb429eef89", "b5f136cf6039"),
    "lit from random weights": ("be6129e0443a",),
    "files": ("acfa814d9133", "5705a97faea9"),
    "hubs": ("61251fb301c4", "a6ca63a6af36"),
    "JSON": ("11ce4551533e", "c73625bfec34"),
    "start": ("0374b3f19264", "3683f2def5af"),
    "start, by sigmoids": ("86f98de3bf99", "3683f2def5af"),
    "open_clip": ("acb2d062699b",),
}


def test_keys_of_runs_do_not_change(tmp_path: Path) -> None:
    for name, settings in settings_of_keys(tmp_path).items():
        config = TrainConfig(**settings, precision="fp32")
        keys = [model_and_key(config, SHARDS)[1][:12]]
        with suppress(SettingsError):
            keys.append(aligned_model_and_key(config, AlignConfig(), SHARDS)[1][:12])
        assert tuple(keys) == KEYS[name], name
