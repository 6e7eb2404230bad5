"""Weights of others: what starts from them learns, and what is damaged or does not fit is refused in one sentence."""

import json
import math
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from data_catalog.base.errors import InputError, PipelineError
from training.align.align import align
from training.config import AlignConfig, TrainConfig
from training.data.pairs import PairFiles
from training.fit.clip import train
from training.fit.setup import MODEL_FILES, model_and_key, require_trainable
from training.scores.encoders import open_model_folder, open_open_clip, open_transformers
from training.towers.backbones import without
from training.towers.model import create_model, load_model, save_weights, write_model_config
from training.towers.plan import TowerPlan
from training.towers.trained_models import EFFORT_FILE

Damage = Callable[[Path], object]
Opener = Callable[[Path], Any]
CONFIG, WEIGHTS, TOKENIZER = "open_clip_config.json", "model.safetensors", "tokenizer.json"


def put(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def said(trail: str, value: Any) -> Damage:
    """Another value in a JSON file, by its dotted place."""

    def change(path: Path) -> None:
        document = json.loads(path.read_text())
        *tables, name = trail.split(".")
        reduce(getitem, tables, document)[name] = value
        path.write_text(json.dumps(document))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor], str], object]) -> Damage:
    """Another set of tensors; the change is also given the name of the largest."""

    def run(path: Path) -> None:
        found = load_file(path)
        change(found, max(found, key=lambda name: found[name].numel()))
        save_file(found, path, metadata={"format": "pt"})

    return run


ALL_LONG = tensors(lambda found, _: found.update({name: value.long() for name, value in found.items()}))
one_missing = tensors(lambda found, name: found.update({f"{name}x": found.pop(name)}))

ANY = "cannot be opened|cannot create a model|cannot encode"
OURS: list[tuple[str, Damage, str]] = [
    (CONFIG, Path.unlink, "is missing"),
    (CONFIG, put(b"[" * 100_000), ANY),
    (CONFIG, put(b"{}"), "model_cfg"),
    (CONFIG, said("model_cfg.text_cfg.layers", 10**9), "no model has layers = 1000000000"),
    (CONFIG, said("model_cfg.embed_dim", 48), "open_clip_config.json .* size mismatch"),
    (TOKENIZER, Path.unlink, r"tokenizer\.json cannot be opened"),
    (TOKENIZER, said("post_processor.special_tokens", {}), ANY),  # Rust panics
    ("tokenizer_config.json", said("pad_token", "<other>"), "out of range"),
    (WEIGHTS, cut, ANY),
    (WEIGHTS, tensors(lambda found, name: found.update({"a\nb": found.pop(name)})), "Missing key.*Unexpected key"),
    (WEIGHTS, ALL_LONG, r"is of torch\.int64"),
]
WITH_ENCODER: list[tuple[str, Damage, str]] = [
    ("config.json", said("hidden_act", None), ANY),  # several lines, of an error of its own kind
    ("config.json", said("num_hidden_layers", 10**9), "no model has num_hidden_layers"),
]
OPEN_CLIPS: list[tuple[str, Damage, str]] = [
    (CONFIG, said("model_cfg.vision_cfg.width", "wörd"), ANY),
    (WEIGHTS, cut, ANY),
    (WEIGHTS, Path.unlink, ANY),
    (WEIGHTS, one_missing, ANY),
    (TOKENIZER, Path.unlink, ANY),
]
TRANSFORMERS: list[tuple[str, Damage, str]] = [
    ("config.json", said("vision_config.num_hidden_layers", 0), "weights"),
    (WEIGHTS, cut, ANY),
    (WEIGHTS, tensors(lambda found, _: found.pop("logit_scale")), "weights .* such as '?logit_scale"),
    (WEIGHTS, tensors(lambda found, _: found.update({"a": torch.ones(2)})), "weights .* 'a'"),
]


@pytest.fixture(scope="module")
def own_text(make_model: Callable[..., Path]) -> Path:
    return make_model(seed=6)


@pytest.fixture(scope="module")
def with_encoder(model_file: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a text encoder of Hugging Face, of random weights."""
    folder = tmp_path_factory.mktemp("with-encoder") / "model"
    shutil.copytree(encoder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = {name: value for name, value in json.loads(model_file.read_text()).items() if name != "image_weights"}
    config["text_cfg"]["context_length"] = 12
    write_model_config(folder, config)
    with torch.random.fork_rng():
        save_weights(create_model(config, folder), folder / WEIGHTS)
    return folder


def theirs(opener: Callable[[str, str], Any]) -> Opener:
    return lambda folder: opener(str(folder), "theirs")


# A folder of ours is one of open_clip, too.
KINDS: dict[str, tuple[str, Opener, list[tuple[str, Damage, str]]]] = {
    "own text": ("own_text", load_model, OURS),
    "with encoder": ("with_encoder", load_model, WITH_ENCODER),
    "open_clip": ("own_text", theirs(open_open_clip), OPEN_CLIPS),
    "transformers": ("dual_encoder", theirs(open_transformers), TRANSFORMERS),
}
OPENERS = [pytest.param(*found[:2], id=kind) for kind, found in KINDS.items()]


@pytest.mark.parametrize(
    ("model", "opener", "name", "damage", "told"),
    [(model, opener, *case) for model, opener, cases in KINDS.values() for case in cases],
)
def test_a_folder_with_a_damaged_file_is_named(
    model: str, opener: Opener, name: str, damage: Damage, told: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = shutil.copytree(request.getfixturevalue(model), tmp_path / "model")
    damage(folder / name)
    with pytest.raises(PipelineError, match=told) as caught:
        opener(folder)
    text = str(caught.value)
    assert str(folder) in text, text
    assert "\n" not in text
    assert "copy" in text
    assert len(text) < 800


@pytest.mark.parametrize(("model", "opener"), OPENERS)
def test_odd_models_that_are_whole_are_opened(
    model: str, opener: Opener, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A word of a vocabulary is no number of layers, and what older releases left in a folder does no harm."""
    folder = shutil.copytree(request.getfixturevalue(model), tmp_path / "model")
    said("model.vocab.layers", 9014)(folder / TOKENIZER)
    if model == "dual_encoder":
        old = {"text_model.embeddings.position_ids": torch.ones(2), "vision_model.pooler.dense.bias": torch.ones(2)}
        tensors(lambda found, _: found.update(old))(folder / WEIGHTS)
    assert opener(folder)


@pytest.mark.parametrize("preprocessing", [None, {"resize_mode": "longest"}])
def test_a_model_whose_preprocessing_is_missing_or_unknown_is_not_scored_as_ours(
    preprocessing: dict[str, Any] | None, own_text: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(own_text, tmp_path / "model")
    config = json.loads((folder / CONFIG).read_text())
    known = config.pop("preprocess_cfg")
    if preprocessing is not None:
        config["preprocess_cfg"] = known | preprocessing
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(PipelineError, match=r"preprocess_cfg|read it as open_clip=DIR"):
        open_model_folder(folder, "ours")
    assert open_open_clip(str(folder), "theirs").tensors_sha256


SHARDS: dict[str, list[str]] = {"train": [], "val": [], "test": []}


@pytest.fixture(scope="module")
def clip(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a whole CLIP of open_clip, whose image tower is the one to start from."""
    from open_clip.model import CLIP

    torch.manual_seed(5)
    text = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
    found = CLIP(32, json.loads(model_file.read_text())["vision_cfg"], text, quick_gelu=True)
    path = tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors"
    save_file({name: value.clone() for name, value in found.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def config(model_file: Path, encoder: Path, clip: Path) -> TrainConfig:
    """The paper's recipe over them."""
    weights = {"model": str(model_file), "image_weights": str(clip.parent), "text_encoder": str(encoder)}
    recipe: dict[str, Any] = {"optimizer": "adabelief", "agc": 0.01, "max_grad_norm": 0.0, "logit_scale": 20.0}
    small = {"epochs": 6, "frozen_epochs": 1, "batch_size": 16, "lr": 3e-3, "warmup_steps": 5, "num_threads": 1}
    return TrainConfig(**weights, **recipe, **small)


def test_italian_learns_and_opens_without_the_encoder_that_it_came_from(
    square_files: PairFiles, config: TrainConfig, encoder: Path, tmp_path: Path
) -> None:
    out, moved = tmp_path / "run", shutil.copytree(encoder, tmp_path / "encoder")
    train(square_files, replace(config, text_encoder=str(moved)), out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    chance = (16 * math.log(16) + 8 * math.log(8)) / 24  # of the validation split's two batches
    assert lines[-1]["val_loss"] < chance - 0.2
    assert {path.name for path in out.iterdir()} == {*MODEL_FILES, EFFORT_FILE}
    written = json.loads((out / "open_clip_config.json").read_text())
    assert written["model_cfg"]["text_cfg"]["hf_model_name"] == str(moved)
    shutil.rmtree(moved)
    ids = load_model(out).tokenizer(["Un quadrato rosso in basso"])
    assert ids.tolist() == [[2, 4, 5, 6, 14, 16, 3]]


def test_both_towers_start_from_the_weights_given(
    config: TrainConfig, clip: Path, encoder: Path, tmp_path: Path
) -> None:
    module = TowerPlan.of(config).build(tmp_path).module
    weights, bert = load_file(clip), load_file(encoder / "model.safetensors")
    assert torch.equal(module.visual.proj, weights["visual.proj"])
    state = module.text.transformer.state_dict()
    assert state.keys() == bert.keys()
    assert all(torch.equal(state[name], bert[name]) for name in bert)


def test_interrupted_it_goes_on_bit_for_bit(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path, interrupt_training: Callable[..., None]
) -> None:
    """Dropout of the text encoder draws from torch's generator, which is part of the resume state."""
    short = replace(config, epochs=1, frozen_epochs=0, checkpoint_every_steps=4)
    train(square_files, short, tmp_path / "whole")
    interrupt_training(square_files, short, tmp_path / "run")
    train(square_files, short, tmp_path / "run")
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_the_key_is_of_the_weights_not_of_where_they_lie(config: TrainConfig, encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "elsewhere")
    _, key = model_and_key(config, SHARDS)
    moved = replace(config, text_encoder=str(folder))
    assert model_and_key(moved, SHARDS)[1] == key
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert model_and_key(moved, SHARDS)[1] != key
    assert model_and_key(replace(config, image_weights=""), SHARDS)[1] != key


def refuse(files: PairFiles, config: TrainConfig, out: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        train(files, config, out)
    assert "\n" not in str(caught.value)


PICKLE = put(pickle.dumps({"state_dict": Path("/")}, protocol=2))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("weights.pt", PICKLE, "would run code"),
        (WEIGHTS, cut, "cannot be loaded"),
        (WEIGHTS, Path.unlink, "is neither a weights file nor a folder with one"),
        (WEIGHTS, ALL_LONG, r"is of torch\.int64"),
    ],
)
def test_image_weights_that_do_not_fit_are_refused_in_a_sentence(
    name: str, damage: Damage, message: str, square_files: PairFiles, config: TrainConfig, clip: Path, tmp_path: Path
) -> None:
    path = shutil.copyfile(clip, tmp_path / name)
    damage(path)
    refuse(square_files, replace(config, image_weights=str(path)), tmp_path / "run", message)


A_WEIGHT = "encoder.layer.1.output.dense.weight"  # which transformers would draw


def become_a_pickle(path: Path) -> None:
    path.unlink()
    torch.save({"embeddings": Path("not a tensor")}, path.with_name("pytorch_model.bin"))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (WEIGHTS, tensors(lambda found, _: found.pop(A_WEIGHT)), r"lacks weights .*layer\.1"),
        (WEIGHTS, become_a_pickle, "would run code"),
        ("config.json", said("num_hidden_layers", 10**9), "no model has num_hidden_layers"),
        ("config.json", said("num_hidden_layers", 1), r"weights unknown to its architecture: .*layer\.1\."),
        ("config.json", said("model_type", "no-such"), "does not recognize this architecture"),
        ("config.json", said("intermediate_size", 48), r"shape .* encoder\.layer\.0\.intermediate"),
        (TOKENIZER, lambda path: [one.unlink() for one in path.parent.glob("tokenizer*")], r"none of tokenizer\.json"),
    ],
)
def test_an_encoder_that_is_not_whole_is_refused_in_a_sentence(
    name: str, damage: Damage, message: str, square_files: PairFiles, config: TrainConfig, encoder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(encoder, tmp_path / "bert")
    damage(folder / name)
    refuse(square_files, replace(config, text_encoder=str(folder)), tmp_path / "run", message)


def test_an_encoder_that_cannot_be_fetched_is_refused_in_a_sentence(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # HF_HUB_OFFLINE is read at import only
    message = r"nobody/has-this cannot be opened .* train\.text_encoder"
    refuse(square_files, replace(config, text_encoder="nobody/has-this"), tmp_path, message)


def test_an_encoder_must_be_wanted_and_have_as_many_positions_as_the_context(
    config: TrainConfig, model_file: Path, tmp_path: Path
) -> None:
    """A long caption would have ended the training in its midst."""
    assert require_trainable(config) > 10_000
    found = json.loads(model_file.read_text())
    found["text_cfg"]["context_length"] = 200
    (tmp_path / "long.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"the model .*long\.json cannot encode"):
        require_trainable(replace(config, model=str(tmp_path / "long.json")))


# Text towers of any encoder

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
TEXTS = ["un quadrato rosso in alto a destra", "verde", "c'è un quadrato nero", "in basso"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image tower is always the same: its features are computed once."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def align_encoder(
    encoder: Path, square_files: PairFiles, pretrained: TrainConfig, cache: Path, tmp_path: Path
) -> Callable[..., tuple[Path, Path]]:
    """`align_encoder(kind, pooler, head, **config)`: an encoder as the hub has them, and a model aligned over it."""

    def run(kind: str, pooler: str, head: str = "AutoModel", **changes: Any) -> tuple[Path, Path]:
        known = transformers.CONFIG_MAPPING
        if kind not in known:
            pytest.skip(f"this transformers has no {kind}")
        ids = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "max_position_embeddings": 40}
        stated = known[kind](**{**SMALL, **ids, "initializer_range": 0.2, **changes})
        folder = tmp_path / kind
        torch.manual_seed(6)
        getattr(transformers, head).from_config(stated).to(changes.get("dtype")).save_pretrained(folder)
        for path in encoder.glob("tokenizer*"):
            shutil.copy(path, folder)
        towers = replace(pretrained, text_encoder=str(folder), text_pooler=pooler)
        align(square_files, towers, AlignConfig(epochs=0, ridge=10.0), tmp_path / "run", cache=cache)
        return folder, tmp_path / "run"

    return run


def by_transformers(folder: Path, ids: list[list[int]], pooler: str) -> torch.Tensor:
    """Features of texts, each alone, so that nothing is padded."""
    model = transformers.AutoModel.from_pretrained(folder).float().eval()
    model = model.get_encoder() if hasattr(model, "decoder") else model
    found = [model(torch.tensor([row])) for row in ids]
    if pooler == "cls_pooler":
        return torch.cat([output.pooler_output for output in found])
    pool = {"cls_last_hidden_state_pooler": lambda tokens: tokens[0], "max_pooler": lambda tokens: tokens.amax(dim=0)}
    return torch.stack(
        [pool.get(pooler, lambda tokens: tokens.mean(dim=0))(each.last_hidden_state[0]) for each in found]
    )


@pytest.mark.parametrize(
    ("kind", "pooler", "head", "changes"),
    [
        ("mpnet", "cls_pooler", "AutoModel", {}),
        ("mpnet", "mean_pooler", "AutoModel", {}),  # its pooler is left out
        ("electra", "max_pooler", "AutoModelForPreTraining", {"embedding_size": 16}),
        ("deberta-v2", "cls_last_hidden_state_pooler", "AutoModelForMaskedLM", RELATIVE),
        ("t5", "mean_pooler", "AutoModelForSeq2SeqLM", {"d_ff": 64, "d_kv": 16}),
        ("bert", "max_pooler", "AutoModelForMaskedLM", {"dtype": torch.bfloat16}),
    ],
)
def test_a_tower_of_any_encoder_computes_what_transformers_does(
    kind: str, pooler: str, head: str, changes: dict[str, Any], align_encoder: Callable[..., tuple[Path, Path]]
) -> None:
    folder, out = align_encoder(kind, pooler, head, **changes)
    model = load_model(out)
    ids = [[token for token in row if token] for row in model.tokenizer(TEXTS).tolist()]
    with torch.no_grad(), without(model.module.text, "proj"):
        found = model.module.text(model.tokenizer(TEXTS))
        wanted = by_transformers(folder, ids, pooler)
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() < 1e-5
    assert (wanted[0] - wanted[1]).abs().max() > 1e-2, "texts differ by more than what is allowed"


@pytest.mark.parametrize(
    ("kind", "changes", "pooler", "expected"),
    [
        ("gpt2", {}, "mean_pooler", "'gpt2' are decoders"),
        ("distilbert", {}, "cls_pooler", "'distilbert' have no pooler of their own"),
        ("camembert", {"head": "AutoModelForMaskedLM"}, "cls_pooler", "set train.text_pooler to mean_pooler"),
        ("fnet", {}, "mean_pooler", "cannot mask padding"),
        ("bert", {"pad_token_id": 9}, "mean_pooler", "another pad_token_id than its tokenizer"),
    ],
)
def test_what_cannot_be_a_text_tower_is_refused_with_the_reason(
    kind: str, changes: dict[str, Any], pooler: str, expected: str, align_encoder: Callable[..., tuple[Path, Path]]
) -> None:
    with pytest.raises(InputError, match=expected):
        align_encoder(kind, pooler, **changes)
