"""Model folders in which one file is missing, cut off, no JSON, or says what cannot be: named in one sentence."""

import json
import re
import resource
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from data_catalog.errors import DamagedError, InputError, PipelineError
from training.scores.encoders import open_model_folder, open_open_clip, open_transformers
from training.towers.model import create_model, load_model, write_model_config
from training.towers.model_files import save_weights
from training.towers.tokenizer import copy_tokenizer, refuse_unbounded_growth
from training.use.classify import classify

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


one_missing = tensors(lambda found, name: found.update({f"{name}x": found.pop(name)}))

OURS: list[tuple[str, Damage, str]] = [
    (CONFIG, Path.unlink, "is missing"),
    (CONFIG, lambda path: (path.unlink(), path.mkdir()), "is a folder"),
    (CONFIG, lambda path: (path.unlink(), path.symlink_to("gone")), "is a broken link"),
    (CONFIG, put(b'{"a": "\xff"}'), "is damaged"),
    (CONFIG, put(b"[" * 100_000), "is damaged"),
    (CONFIG, put(b"[]"), "is not a JSON object"),
    (CONFIG, put(b"{}"), "model_cfg is missing|preprocess_cfg is missing"),
    (CONFIG, said("model_cfg", []), "model_cfg is missing"),
    (CONFIG, said("model_cfg.text_cfg", None), "text_cfg or vision_cfg is missing"),
    (CONFIG, said("model_cfg.custom_text", None), "custom_text must be true"),
    (CONFIG, said("model_cfg.embed_dim", "32"), "embed_dim must be a positive number, got '32'"),
    (CONFIG, said("model_cfg.text_cfg.context_length", 0), "context_length must be a positive number"),
    (CONFIG, said("model_cfg.text_cfg.layers", 10**9), "no model has layers = 1000000000"),
    (CONFIG, said("model_cfg.text_cfg.pool_type", "wörd"), "cannot be opened"),
    (CONFIG, said("model_cfg.embed_dim", 48), r"does not match .* open_clip_config.json .* is of shape"),
    (TOKENIZER, Path.unlink, "is missing"),
    (TOKENIZER, cut, "is damaged"),
    (TOKENIZER, put(b"null"), "is not a JSON object"),
    (TOKENIZER, said("model", None), "cannot be opened"),
    (TOKENIZER, said("post_processor.special_tokens", {}), "cannot be opened"),  # Rust panics
    ("tokenizer_config.json", Path.unlink, "is missing"),
    ("tokenizer_config.json", said("pad_token", []), "cannot be opened"),
    ("tokenizer_config.json", said("pad_token", "<other>"), r"gives token (\d+), but the text tower has \1"),
    (WEIGHTS, Path.unlink, "is missing"),
    (WEIGHTS, cut, "is broken|is damaged"),
    (WEIGHTS, one_missing, "the tensor '.*' is missing"),
    (WEIGHTS, tensors(lambda found, _: found.update({"a\nb": torch.ones(2)})), r"the tensor 'a\\nb' is unexp"),
    (WEIGHTS, tensors(lambda found, name: found.update({name: found[name][:1].clone()})), "is of shape"),
    (WEIGHTS, tensors(lambda found, _: found.update({n: v.long() for n, v in found.items()})), "torch.int64.* more of"),
    (WEIGHTS, tensors(lambda found, _: found.clear()), "the tensors '.* and .* more are missing"),
]
WITH_ENCODER: list[tuple[str, Damage, str]] = [
    ("config.json", Path.unlink, "is missing"),
    ("config.json", said("model_type", "no-such"), "cannot be opened"),
    ("config.json", said("hidden_act", None), "cannot be opened"),  # several lines, of an error of its own kind
    ("config.json", said("num_hidden_layers", 10**9), "no model has num_hidden_layers"),
    ("config.json", said("hidden_size", 64), "does not match|cannot be opened"),
]
OPEN_CLIPS: list[tuple[str, Damage, str]] = [
    (CONFIG, said("model_cfg.vision_cfg.width", "wörd"), "cannot be opened"),
    (CONFIG, said("model_cfg.vision_cfg.layers", 10**9), "no model has layers"),
    (CONFIG, said("preprocess_cfg.resize_mode", -1), "cannot be opened"),
    (WEIGHTS, cut, "is broken|is damaged"),
    (WEIGHTS, Path.unlink, "contains no weights file"),
    (WEIGHTS, one_missing, "cannot be opened"),
    (TOKENIZER, put(b"null"), "is not a JSON object"),
    (TOKENIZER, Path.unlink, "cannot be opened"),
]
TRANSFORMERS: list[tuple[str, Damage, str]] = [
    ("config.json", Path.unlink, "is missing"),
    ("config.json", said("text_config.hidden_size", None), "cannot be opened"),
    ("config.json", said("vision_config.num_hidden_layers", 10**9), "no model has num_hidden_layers"),
    ("config.json", said("vision_config.num_hidden_layers", 0), "has weights that do not exist"),
    (WEIGHTS, cut, "is broken|is damaged"),
    (WEIGHTS, Path.unlink, "contains no weights file"),
    (WEIGHTS, tensors(lambda found, _: found.pop("logit_scale")), "lacks weights .* such as logit_scale"),
    (WEIGHTS, tensors(lambda found, _: found.update({"a": torch.ones(2)})), "has weights that do not exist .* 'a'"),
    (TOKENIZER, said("model.vocab", -1), "cannot be opened"),
    ("processor_config.json", Path.unlink, "cannot be opened"),
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


def require_told(opener: Callable[[], Any], name: str, told: str) -> None:
    """One sentence that names the file and says what to do."""
    with pytest.raises(PipelineError, match=told) as caught:
        opener()
    text = str(caught.value)
    assert name in text, text
    assert "\n" not in text
    assert "copy" in text
    assert len(text) < 800


@pytest.mark.parametrize(
    ("model", "opener", "name", "damage", "told"),
    [(model, opener, *case) for model, opener, cases in KINDS.values() for case in cases],
)
def test_a_damaged_file_is_named(
    model: str, opener: Opener, name: str, damage: Damage, told: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = shutil.copytree(request.getfixturevalue(model), tmp_path / "model")
    damage(folder / name)
    require_told(partial(opener, folder), name, told)


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


def test_classification_and_scoring_tell_of_it_too(own_text: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "photo.png")
    folder, name = shutil.copytree(own_text, tmp_path / "model"), "text.text_projection"
    tensors(lambda found, _: found.update({name: found[name] * float("nan")}))(folder / WEIGHTS)
    classified = partial(classify, tmp_path / "photo.png", ["un", "due"], folder)
    with pytest.raises(DamagedError, match=r"not finite.*model\.safetensors"):
        classified()
    said("model", None)(folder / TOKENIZER)
    for opener in (classified, partial(open_model_folder, folder, "mine")):
        require_told(opener, TOKENIZER, "cannot be opened")


@pytest.mark.parametrize("preprocessing", [None, {"resize_mode": "shortest"}, {"mean": [0.5, 0.5, 0.5]}])
def test_a_model_that_sees_pictures_otherwise_is_not_scored_as_ours(
    preprocessing: dict[str, Any] | None, own_text: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(own_text, tmp_path / "model")
    config = json.loads((folder / CONFIG).read_text())
    known = config.pop("preprocess_cfg")
    if preprocessing is not None:
        config["preprocess_cfg"] = known | preprocessing
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(PipelineError, match=r"preprocess_cfg is missing|read it as open_clip=DIR"):
        open_model_folder(folder, "ours")
    assert open_open_clip(str(folder), "theirs").tensors_sha256


def growing(step: Any, times: int) -> Any:
    return normalizers.Sequence([step] * times)


DOUBLE = normalizers.Replace("ж", "жж")
LIGATURE = normalizers.Replace("ا", "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}")


@pytest.mark.parametrize(
    ("allowed", "refused"),
    [
        (normalizers.Replace("ж", "ж" * 10_000), normalizers.Replace("ж", "ж" * 10_001)),
        (normalizers.Replace("жж", "ж" * 20_000), normalizers.Replace("жж", "ж" * 20_001)),
        (normalizers.Replace(Regex("(?=ж)"), "ж" * 9_999), normalizers.Replace(Regex("(?=ж)"), "ж" * 10_000)),
        (normalizers.Prepend("ж" * 9_999), normalizers.Prepend("ж" * 10_000)),
        (growing(DOUBLE, 13), growing(DOUBLE, 14)),
        (growing(growing(DOUBLE, 4), 3), growing(growing(DOUBLE, 7), 2)),
        (normalizers.NFKC(), growing(normalizers.Sequence([LIGATURE, normalizers.NFKC()]), 9)),
        (pre_tokenizers.ByteLevel(), pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(use_regex=False)] * 30)),
    ],
)
def test_a_tokenizer_that_makes_texts_endless_is_refused_before_it_meets_one(allowed: Any, refused: Any) -> None:
    for step, outcome in ((allowed, nullcontext()), (refused, pytest.raises(InputError, match="10,000 times as long"))):
        tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        setattr(tokenizer, "normalizer" if hasattr(step, "normalize_str") else "pre_tokenizer", step)
        with outcome:
            refuse_unbounded_growth(tokenizer, "theirs")


@pytest.mark.parametrize(("model", "opener"), [*OPENERS, ("encoder", lambda path: copy_tokenizer(str(path), path))])
def test_whoever_loads_a_tokenizer_of_others_refuses_one_that_makes_texts_endless(
    model: str, opener: Opener, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = shutil.copytree(request.getfixturevalue(model), tmp_path / "model")
    step = {"type": "Replace", "pattern": {"String": "ж"}, "content": "жж"}
    said("normalizer", {"type": "Sequence", "normalizers": [step] * 40})(folder / TOKENIZER)
    require_told(partial(opener, folder), TOKENIZER, "10,000 times as long")


def test_opening_a_tokenizer_takes_no_memory_without_end(own_text: Path, tmp_path: Path) -> None:
    """With no more memory than a model needs: a token that a step within the limit makes gigabytes of when opened."""
    folder = shutil.copytree(own_text, tmp_path / "model")
    document = json.loads((folder / TOKENIZER).read_text())
    document["normalizer"] = {"type": "Replace", "pattern": {"String": "ж"}, "content": "ж" * 8_000}
    token = {
        "id": max(document["model"]["vocab"].values()) + 1,
        "content": "ж" * 500_000,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
    }
    document["added_tokens"].append({**token, "normalized": True, "special": False})
    (folder / TOKENIZER).write_text(json.dumps(document))
    load_model(own_text)
    pages = int(re.split(r"\s", Path("/proc/self/statm").read_text())[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, before[1]))
    try:
        require_told(partial(load_model, folder), TOKENIZER, "more than 2 GB of memory or 60 s")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
