"""Model folders in which one file is missing, cut off, no JSON, or says what cannot be: named in one sentence."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, VisionTextDualEncoderModel, VisionTextDualEncoderProcessor

from data_catalog.errors import DamagedError, PipelineError
from training.scores.encoders import open_model_folder, open_open_clip, open_transformers
from training.towers.model import load_model
from training.towers.tokenizer import copy_tokenizer
from training.use.classify import classify

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
Damage = Callable[[Path], None]
CONFIG, WEIGHTS = "open_clip_config.json", "model.safetensors"


def put(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content) and None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone")


def link_in_a_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def said(trail: str, value: Any) -> Damage:
    """Another value in a JSON file, by its dotted place."""

    def change(path: Path) -> None:
        document = json.loads(path.read_text())
        *tables, name = trail.split(".")
        table = document
        for key in tables:
            table = table[key]
        table[name] = value
        path.write_text(json.dumps(document))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor], str], None]) -> Damage:
    def run(path: Path) -> None:
        found = load_file(path)
        change(found, max(found, key=lambda name: found[name].numel()))
        save_file(found, path, metadata={"format": "pt"})

    return run


FILES: dict[str, tuple[Damage, str]] = {
    "missing": (Path.unlink, "is missing"),
    "a folder": (make_folder, "is a folder instead of a file of the model"),
    "a link to nothing": (link_to_nothing, "is a broken link"),
    "a link in a circle": (link_in_a_circle, "is a broken link"),
}
JSONS: dict[str, tuple[Damage, str]] = {
    "empty": (put(b""), r"is damaged \("),
    "cut off": (cut, r"is damaged \("),
    "no UTF-8": (put(b'{"a": "\xff"}'), r"is damaged \("),
    "endless": (put(b"[" * 100_000), r"is damaged \("),
    "a list": (put(b"[]"), r"is damaged \(it is not a JSON object"),
    "null": (put(b"null"), r"is damaged \(it is not a JSON object"),
}
TENSORS: dict[str, tuple[Damage, str]] = {
    "empty": (put(b""), "is broken"),
    "cut off": (cut, "is broken"),
    "no tensors": (put(b"<!doctype html>" * 9), "is broken"),
    "one is missing": (
        tensors(lambda found, name: found.update({f"{name}x": found.pop(name)})),
        "the tensor '.*' is missing",
    ),
    "one too many": (tensors(lambda found, _: found.update({"a\nb": torch.ones(2)})), r"the tensor 'a\\nb' is unexp"),
    "of another shape": (tensors(lambda found, name: found.update({name: found[name][:1].clone()})), "is of shape"),
    "whole numbers": (tensors(lambda found, name: found.update({name: found[name].long()})), "is of torch.int64"),
    "an empty list": (tensors(lambda found, _: found.clear()), "the tensors '.* and .* more are missing"),
}
VALUES: list[tuple[str, Damage, str]] = [
    (CONFIG, put(b"{}"), "model_cfg is missing|preprocess_cfg is missing"),
    (CONFIG, said("model_cfg", []), "model_cfg is missing"),
    (CONFIG, said("model_cfg.text_cfg", None), "text_cfg or vision_cfg is missing"),
    (CONFIG, said("model_cfg.custom_text", None), "custom_text must be true"),
    (CONFIG, said("model_cfg.embed_dim", "32"), "embed_dim must be a positive number, got '32'"),
    (CONFIG, said("model_cfg.text_cfg.context_length", -1), "context_length must be a positive number"),
    (CONFIG, said("model_cfg.vision_cfg.image_size", [32]), "image_size must be a positive number"),
    (CONFIG, said("model_cfg.text_cfg.layers", 10**9), "no model has layers = 1000000000"),
    (CONFIG, said("model_cfg.text_cfg.heads", 0), "cannot be opened"),
    (CONFIG, said("model_cfg.text_cfg.pool_type", "wörd"), "cannot be opened"),
    (CONFIG, said("model_cfg.vision_cfg.head_width", -1), "cannot be opened"),
    (CONFIG, said("model_cfg.vision_cfg.width", {}), "cannot be opened"),
    (CONFIG, said("model_cfg.nonsense", 1), "cannot be opened"),
    (CONFIG, said("model_cfg.embed_dim", 48), r"does not match the model that open_clip_config.json .* is of shape"),
    ("tokenizer.json", put(b"{}"), "cannot be opened"),
    ("tokenizer.json", said("model", None), "cannot be opened"),
    ("tokenizer.json", said("model.vocab", {"a": 0}), "cannot be opened"),
    ("tokenizer.json", said("post_processor.special_tokens", {}), "cannot be opened"),  # Rust panics
    ("tokenizer_config.json", said("pad_token", None), "cannot be opened"),
    ("tokenizer_config.json", said("pad_token", []), "cannot be opened"),
    ("tokenizer_config.json", said("pad_token", "<other>"), "gives token 300, but the text tower has 300"),
    ("tokenizer_config.json", said("model_max_length", []), "cannot be opened"),
]
ENCODER_VALUES: list[tuple[str, Damage, str]] = [
    *(("config.json", *what) for what in (*FILES.values(), *JSONS.values())),
    ("config.json", put(b"{}"), "cannot be opened"),
    ("config.json", said("model_type", "no-such"), "cannot be opened"),
    ("config.json", said("hidden_act", None), "cannot be opened"),  # several lines, of an error of its own kind
    ("config.json", said("num_hidden_layers", 10**9), "no model has num_hidden_layers"),
    ("config.json", said("num_attention_heads", -1), "cannot be opened"),
    ("config.json", said("pad_token_id", None), "cannot be opened"),
    ("config.json", said("hidden_size", 64), "does not match|cannot be opened"),
]


def require_told(opener: Callable[[], Any], name: str, told: str) -> None:
    """One sentence that names the file and says what to do."""
    with pytest.raises(PipelineError, match=told) as caught:
        opener()
    text = str(caught.value)
    assert name in text, text
    assert "\n" not in text
    assert "copy" in text
    assert len(text) < 800


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture(scope="module")
def own_text(make_model: Callable[..., Path]) -> Path:
    return make_model(seed=6)


@pytest.fixture(scope="module")
def with_encoder(model_file: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a text encoder of Hugging Face, of random weights."""
    from training.towers.model import create_model, write_model_config
    from training.towers.model_files import save_weights

    folder = tmp_path_factory.mktemp("with-encoder") / "model"
    shutil.copytree(encoder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = {name: value for name, value in json.loads(model_file.read_text()).items() if name != "image_weights"}
    config["text_cfg"]["context_length"] = 12
    write_model_config(folder, config)
    with torch.random.fork_rng():
        save_weights(create_model(config, folder), folder / WEIGHTS)
    return folder


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[Path, str, Damage], Path]:
    """`damaged(folder, name, damage)`: a copy of the folder in which that was done to a file."""

    def copy(folder: Path, name: str, damage: Damage) -> Path:
        shutil.copytree(folder, tmp_path / "model")
        damage(tmp_path / "model" / name)
        return tmp_path / "model"

    return copy


JSON_NAMES = (CONFIG, "tokenizer.json", "tokenizer_config.json")


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, kind) for name in JSON_NAMES for kind in (*FILES, *JSONS)), *((WEIGHTS, k) for k in (*FILES, *TENSORS))],
)
def test_each_file_of_a_model(name: str, kind: str, own_text: Path, damaged: Callable[..., Path]) -> None:
    damage, told = {**FILES, **(TENSORS if name == WEIGHTS else JSONS)}[kind]
    folder = damaged(own_text, name, damage)
    require_told(lambda: load_model(folder), name, told)


@pytest.mark.parametrize(("name", "damage", "told"), VALUES)
def test_values_that_cannot_be(
    name: str, damage: Damage, told: str, own_text: Path, damaged: Callable[..., Path]
) -> None:
    folder = damaged(own_text, name, damage)
    require_told(lambda: load_model(folder), name, told)


@pytest.mark.parametrize(("name", "damage", "told"), ENCODER_VALUES)
def test_the_config_of_a_text_encoder(
    name: str, damage: Damage, told: str, with_encoder: Path, damaged: Callable[..., Path]
) -> None:
    load_model(with_encoder)
    folder = damaged(with_encoder, name, damage)
    require_told(lambda: load_model(folder), name, told)


def test_every_opener_tells_of_it(own_text: Path, photo: Path, damaged: Callable[..., Path]) -> None:
    """Search, classification and localization open a folder in one way, scoring and exports in others."""
    folder = damaged(own_text, "tokenizer.json", said("model", None))
    for opener in (lambda: classify(photo, ["un", "due"], folder), lambda: open_model_folder(folder, "mine")):
        require_told(opener, "tokenizer.json", "cannot be opened")
    put(b"[]")(folder / CONFIG)
    require_told(lambda: classify(photo, ["un", "due"], folder), CONFIG, "is not a JSON object")


def test_weights_that_are_no_numbers(own_text: Path, photo: Path, damaged: Callable[..., Path]) -> None:
    name = "text.text_projection"
    folder = damaged(own_text, WEIGHTS, tensors(lambda found, _: found.update({name: found[name] * float("nan")})))
    with pytest.raises(DamagedError, match=r"not finite: model\.safetensors is broken"):
        classify(photo, ["un", "due"], folder)


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        (CONFIG, put(b"{}"), "cannot be opened"),
        (CONFIG, put(b"\xff"), "is damaged"),
        (CONFIG, Path.unlink, "is missing"),
        (CONFIG, said("model_cfg.vision_cfg.width", "wörd"), "cannot be opened"),
        (CONFIG, said("model_cfg.vision_cfg.layers", 10**9), "no model has layers"),
        (CONFIG, said("preprocess_cfg.resize_mode", -1), "cannot be opened"),
        (WEIGHTS, cut, "is broken"),
        (WEIGHTS, link_to_nothing, "is a broken link"),
        (WEIGHTS, Path.unlink, r"contains no weights file"),
        (WEIGHTS, tensors(lambda found, name: found.update({f"{name}x": found.pop(name)})), "cannot be opened"),
        ("tokenizer.json", put(b"null"), "is not a JSON object"),
        ("tokenizer.json", make_folder, "is a folder"),
        ("tokenizer.json", Path.unlink, "cannot be opened"),
        ("tokenizer_config.json", said("pad_token", {}), "cannot be opened"),
    ],
)
def test_open_clips_folders(name: str, damage: Damage, told: str, own_text: Path, damaged: Callable[..., Path]) -> None:
    folder = damaged(own_text, name, damage)
    require_told(lambda: open_open_clip(str(folder), "theirs"), name, told)


@pytest.fixture(scope="module")
def dual_encoder(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As transformers saves one."""
    from transformers import BertConfig, CLIPImageProcessor, CLIPVisionConfig, VisionTextDualEncoderConfig

    folder = tmp_path_factory.mktemp("dual")
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision = CLIPVisionConfig(**size, image_size=32, patch_size=16)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, BertConfig(**size, vocab_size=99), projection_dim=8
    )
    with torch.random.fork_rng():
        VisionTextDualEncoderModel(config).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(encoder)
    image = CLIPImageProcessor(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})
    VisionTextDualEncoderProcessor(image, tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("config.json", Path.unlink, "is missing"),
        ("config.json", cut, "is damaged"),
        ("config.json", said("text_config", 3), "cannot be opened"),
        ("config.json", said("text_config.hidden_size", None), "cannot be opened"),
        ("config.json", said("vision_config.num_hidden_layers", 10**9), "no model has num_hidden_layers"),
        (
            "config.json",
            said("vision_config.num_hidden_layers", 0),
            "has weights that do not exist in the model of its c",
        ),
        ("config.json", said("projection_dim", 16), "cannot be opened"),
        (WEIGHTS, cut, "is broken"),
        (WEIGHTS, make_folder, "is a folder"),
        (WEIGHTS, Path.unlink, r"contains no weights file, such as model\.safetensors"),
        (
            WEIGHTS,
            tensors(lambda found, _: found.pop("logit_scale") and None),
            "lacks weights that its config.json needs, such as logit_scale",
        ),
        (
            WEIGHTS,
            tensors(lambda found, _: found.update({"a": torch.ones(2)})),
            "has weights that do not exist in the model of its config.json, such as 'a'",
        ),
        ("tokenizer.json", Path.unlink, "cannot be opened"),
        ("tokenizer.json", said("model.vocab", -1), "cannot be opened"),
        ("processor_config.json", Path.unlink, "cannot be opened"),
        ("tokenizer_config.json", put(b"[]"), "is not a JSON object"),
        ("processor_config.json", put(b"}"), "is damaged"),
        ("processor_config.json", said("image_processor.image_mean", "wörd"), "cannot be opened"),
    ],
)
def test_folders_of_transformers(
    name: str, damage: Damage, told: str, dual_encoder: Path, damaged: Callable[..., Path]
) -> None:
    folder = damaged(dual_encoder, name, damage)
    require_told(lambda: open_transformers(str(folder), "theirs"), name, told)


def test_what_older_releases_left_in_a_folder_of_transformers_does_no_harm(
    dual_encoder: Path, damaged: Callable[..., Path]
) -> None:
    old = {"text_model.embeddings.position_ids": torch.ones(2), "vision_model.pooler.dense.bias": torch.ones(2)}
    folder = damaged(dual_encoder, WEIGHTS, tensors(lambda found, _: found.update(old)))
    assert open_transformers(str(folder), "theirs").name == "theirs"


def test_a_word_of_a_vocabulary_is_no_number_of_layers(
    own_text: Path, with_encoder: Path, dual_encoder: Path, tmp_path: Path
) -> None:
    """BERT's knows "layers" as its token 9,014."""
    openers: list[tuple[Path, Callable[[Path], Any]]] = [
        (own_text, load_model),
        (own_text, lambda folder: open_open_clip(str(folder), "theirs")),
        (with_encoder, load_model),
        (dual_encoder, lambda folder: open_transformers(str(folder), "theirs")),
    ]
    for number, (source, opener) in enumerate(openers):
        folder = tmp_path / str(number)
        shutil.copytree(source, folder)
        said("model.vocab.layers", 9014)(folder / "tokenizer.json")
        assert opener(folder)


def growing(pattern: dict[str, str], content: str, times: int) -> dict[str, Any]:
    """A normalizer of many small steps, each of which makes a text longer."""
    step = {"type": "Replace", "pattern": pattern, "content": content}
    return {"type": "Sequence", "normalizers": [step] * times}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
# Each does nothing to the texts that a model is tried with.
GROWING: dict[str, Damage] = {
    "a letter": said("normalizer", growing({"String": "ж"}, "жж", 40)),
    "a regex": said("normalizer", growing({"Regex": "(?=ж)"}, "ж", 40)),
    "one step": said("normalizer", {"type": "Replace", "pattern": {"String": "ж"}, "content": "ж" * 20_000}),
    "steps in steps": said("normalizer", {"type": "Sequence", "normalizers": [growing({"String": "ж"}, "жж", 8)] * 5}),
    "Unicode's forms": said(
        "normalizer",
        {
            "type": "Sequence",
            "normalizers": [
                {
                    "type": "Replace",
                    "pattern": {"String": "ا"},
                    "content": "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}",
                },
                {"type": "NFKC"},
            ]
            * 9,
        },
    ),
}


@pytest.mark.parametrize("damage", GROWING.values(), ids=GROWING)
def test_a_tokenizer_that_makes_texts_endless_is_refused_before_it_meets_one(
    damage: Damage, own_text: Path, damaged: Callable[..., Path]
) -> None:
    folder = damaged(own_text, "tokenizer.json", damage)
    told = "is refused because it may make a text more than 10,000 times as long"
    for opener in (load_model, lambda folder: open_open_clip(str(folder), "theirs")):
        require_told(partial(opener, folder), "tokenizer.json", told)


def test_whoever_loads_a_tokenizer_of_others_refuses_one_that_makes_texts_endless(
    with_encoder: Path, dual_encoder: Path, encoder: Path, tmp_path: Path
) -> None:
    openers: list[tuple[Path, Callable[[Path], Any]]] = [
        (with_encoder, load_model),
        (dual_encoder, lambda folder: open_transformers(str(folder), "theirs")),
        (encoder, lambda folder: copy_tokenizer(str(folder), tmp_path)),
    ]
    for number, (source, opener) in enumerate(openers):
        folder = tmp_path / str(number)
        shutil.copytree(source, folder)
        GROWING["a letter"](folder / "tokenizer.json")
        require_told(partial(opener, folder), "tokenizer.json", "more than 10,000 times as long")


def long_token(path: Path) -> None:
    """A token that a step within the limit makes gigabytes of when the file is opened, before any text comes."""
    document = json.loads(path.read_text())
    document["normalizer"] = growing({"String": "ж"}, "ж" * 8_000, 1)
    token = {"id": 299, "content": "ж" * 500_000, "single_word": False, "lstrip": False, "rstrip": False}
    document["added_tokens"].append({**token, "normalized": True, "special": False})
    path.write_text(json.dumps(document))


# In a process of its own, with no more memory than a model needs: a tokenizer that is not refused ends it.
_LIMITED = """
import resource, sys
from pathlib import Path
import torch, open_clip.tokenizer, transformers
from data_catalog.errors import PipelineError
from training.towers.model import load_model
load_model(Path(sys.argv[1]))
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30,) * 2)
for folder in sys.argv[2:]:
    try:
        load_model(Path(folder))
    except PipelineError as error:
        print(error)
"""


def test_opening_a_tokenizer_takes_no_memory_without_end(own_text: Path, tmp_path: Path) -> None:
    hostile = {
        "texts": said("normalizer", growing({"String": "a"}, "aa", 40)),
        "bytes": said("pre_tokenizer", {"type": "Sequence", "pretokenizers": [BYTES] * 30}),
        "token": long_token,
    }
    for name, damage in hostile.items():
        shutil.copytree(own_text, tmp_path / name)
        damage(tmp_path / name / "tokenizer.json")
    command = [sys.executable, "-c", _LIMITED, own_text, *(tmp_path / name for name in hostile)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-500:]
    texts, bytes_, costly = found.stdout.splitlines()
    for name, told in {"texts": texts, "bytes": bytes_}.items():
        assert re.search(
            rf"{name}/tokenizer\.json is refused because it may make a text more than 10,000 times as long", told
        )
    assert re.search(
        r"token/tokenizer\.json is refused because opening it takes more than 2 GB of memory or 60 s", costly
    )
