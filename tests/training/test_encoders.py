"""Models of others behind one interface, from folders made on the spot; their features, encoded once and kept."""

import hashlib
import io
import json
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers  # which loads classes when they are named
from PIL import Image

from data_catalog.base.errors import DamagedError, InputError
from training.data.features import Encoder, FeatureStore, TextEncoder, fingerprint, rewording
from training.scores.encoders import (
    check_source,
    open_encoder,
    open_model_folder,
    open_open_clip,
    open_transformers,
    tensors_sha256,
)
from training.towers.model import OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE, load_model
from training.towers.tokenizer import END, PAD, TOKENIZER_CONFIG_FILE

SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXTS = ["un quadrato", "verde in basso a sinistra", "blu"]


NAMES = ["a", "b", "same as a", "broken", "c"]


def png(seed: int) -> bytes:
    """Noise, of a shape of its own."""
    noise = np.random.default_rng(seed).integers(0, 256, (10 + seed, 60 - 5 * seed, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {"a": png(1), "b": png(2), "same as a": png(1), "broken": png(3)[:50], "c": png(4)}


@pytest.fixture(scope="module")
def ours(random_clip: Callable[..., Path]) -> Encoder:
    return open_model_folder(random_clip(TEXTS), "ours")


@pytest.mark.parametrize("pad", [PAD, END])
def test_a_folder_of_ours_encodes_alike_through_open_clip(pad: str, random_clip: Callable[..., Path]) -> None:
    """Also where the end token pads, as CLIP's own tokenizer does."""
    folder = random_clip(TEXTS)
    settings = json.loads((folder / TOKENIZER_CONFIG_FILE).read_text())
    (folder / TOKENIZER_CONFIG_FILE).write_text(json.dumps({**settings, "pad_token": pad}))
    ours, theirs = (FeatureStore(found) for found in (open_model_folder(folder, "x"), open_open_clip(str(folder), "y")))
    (one, places), (other, others) = (store.images(NAMES, FILES.__getitem__, batch_size=2) for store in (ours, theirs))
    assert list(places) == list(others) == [0, 1, 2, 4]
    assert np.abs(one - other).max() < 1e-5
    assert np.allclose(np.linalg.norm(one, axis=1), 1)
    for size in (1, 3):
        assert np.abs(ours.texts(TEXTS, batch_size=size) - theirs.texts(TEXTS)).max() < 1e-5


def test_weights_have_a_name_by_what_was_loaded(random_clip: Callable[..., Path], dual_encoder: Path) -> None:
    folder = random_clip(TEXTS)
    ours, theirs = open_model_folder(folder, "x"), open_open_clip(str(folder), "y")
    assert ours.tensors_sha256 == theirs.tensors_sha256 != open_model_folder(random_clip(TEXTS, 1), "x").tensors_sha256
    assert theirs.origin == f"open_clip {folder}, tensors {theirs.tensors_sha256[:12]}"  # type: ignore[index]
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    del hashes[WEIGHTS_FILE]
    assert {file["name"]: file["sha256"] for file in theirs.files} == hashes
    assert ours.files == theirs.files
    hub = open_transformers(str(dual_encoder), "x")
    assert hub.origin == f"transformers {dual_encoder}, tensors {hub.tensors_sha256[:12]}"  # type: ignore[index]
    asked = rewording(hub, list, "asked")
    assert (asked.tensors_sha256, asked.origin) == (hub.tensors_sha256, f"{hub.origin}, texts translated")


def test_weights_in_half_precision_are_used_in_whole_precision(dual_encoder: Path, tmp_path: Path) -> None:
    """Where equal features are equal to more than three digits."""
    folder = shutil.copytree(dual_encoder, tmp_path / "half")
    model = transformers.VisionTextDualEncoderModel.from_pretrained(dual_encoder).bfloat16()
    model.save_pretrained(folder)
    half = open_transformers(str(folder), "x")
    assert half.tensors_sha256 == tensors_sha256(model.float().state_dict())
    assert half.text.encode(TEXTS).dtype == torch.float32


def test_a_dual_encoder_of_hugging_face(dual_encoder: Path) -> None:
    store = FeatureStore(open_transformers(str(dual_encoder), "theirs"))
    features, places = store.images(["a", "b"], FILES.__getitem__)
    assert list(places) == [0, 1]
    model = transformers.VisionTextDualEncoderModel.from_pretrained(dual_encoder).eval()
    processor = transformers.VisionTextDualEncoderProcessor.from_pretrained(dual_encoder)
    pictures = [Image.open(io.BytesIO(FILES[name])) for name in ("a", "b")]
    with torch.no_grad():
        found = model(**processor(text=TEXTS, images=pictures, padding=True, return_tensors="pt"))
    cosines = (found.logits_per_image / model.logit_scale.exp()).detach().numpy()
    assert np.abs(features @ store.texts(TEXTS, batch_size=2).T - cosines).max() < 1e-4


def test_siglip_pools_the_last_position_so_its_texts_are_padded_to_it(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *" ".join(TEXTS).split()])
    )
    fast = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), model_max_length=12)
    text = {**SIZE, "vocab_size": len(fast), "max_position_embeddings": 12}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        config = transformers.SiglipConfig(text_config=text, vision_config={**SIZE, "image_size": 32, "patch_size": 16})
        model = transformers.SiglipModel(config).eval()
    model.save_pretrained(tmp_path)
    transformers.SiglipProcessor(
        transformers.SiglipImageProcessor(size={"height": 32, "width": 32}), fast
    ).save_pretrained(tmp_path)
    encoder = open_transformers(str(tmp_path), "theirs")
    together, alone = (FeatureStore(encoder).texts(TEXTS, batch_size=size) for size in (3, 1))
    assert np.abs(together - alone).max() < 1e-6
    padded = fast(TEXTS, padding="max_length", max_length=12, return_tensors="pt")
    pixels = encoder.image.prepare(Image.new("RGB", (40, 40), "navy"))[None]
    with torch.no_grad():
        found = model(input_ids=padded["input_ids"], pixel_values=pixels)
    assert np.abs(together - found.text_embeds.numpy()).max() < 1e-5


OWN_CONFIG = {"model_type": "own", "auto_map": {"AutoConfig": "evil.Own"}}
OWN_TOKENIZER = {"auto_map": {"AutoTokenizer": ["evil.Own", None]}}
OWN_PROCESSOR = {"auto_map": {"AutoProcessor": "evil.Own"}, "processor_class": "Own"}
ENCODER = {"text_cfg": {"hf_model_name": ".", "context_length": 24}}


@pytest.mark.parametrize(
    ("opener", "layout", "changes", "told"),
    [
        (open_encoder, "hub", {"config.json": OWN_CONFIG}, "custom code"),
        (open_encoder, "hub", {"tokenizer_config.json": OWN_TOKENIZER}, "custom code"),
        (open_encoder, "hub", {"processor_config.json": OWN_PROCESSOR}, "custom code"),
        (
            open_encoder,
            "open_clip",
            {"tokenizer_config.json": OWN_TOKENIZER, "text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}},
            "tokenizer_kwargs may set only .*, not trust_remote_code",
        ),
        (open_encoder, "open_clip", {"tokenizer_config.json": OWN_TOKENIZER}, "custom code"),
        (open_encoder, "open_clip", {**ENCODER, "config.json": OWN_CONFIG}, "custom code"),
        (lambda folder: load_model(Path(folder)), "open_clip", {"tokenizer_config.json": OWN_TOKENIZER}, "custom code"),
    ],
)
def test_code_of_a_model_is_never_run(
    opener: Callable[[str], object],
    layout: str,
    changes: dict[str, dict[str, Any]],
    told: str,
    random_clip: Callable[..., Path],
    dual_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither where a file asks for it, nor where transformers would ask at the terminal."""
    folder, mark = tmp_path / "remote", tmp_path / "mark"
    shutil.copytree(dual_encoder if layout == "hub" else random_clip(TEXTS), folder)
    for name, values in changes.items():
        if name == "text_cfg":
            config = json.loads((folder / OPEN_CLIP_CONFIG_FILE).read_text())
            config["model_cfg"]["text_cfg"] |= values
            (folder / OPEN_CLIP_CONFIG_FILE).write_text(json.dumps(config))
        else:
            before = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
            before.pop("tokenizer_class", None)
            (folder / name).write_text(json.dumps(before | values))
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises((InputError, DamagedError), match=told):
        opener(str(folder))
    assert not mark.exists()


def test_weights_of_openai_have_their_own_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip's name ViT-B-32 alone means another one, and only warns."""
    asked: dict[str, object] = {}

    def create(model_name: str, **how: object) -> None:
        asked.update(how, model=model_name)
        raise OSError("no network")

    monkeypatch.setattr("open_clip.create_model_and_transforms", create)
    for source, is_quick in (("ViT-B-32/openai", True), ("ViT-B-32/laion2b_s34b_b79k", False)):
        with pytest.raises(InputError, match=r"cannot be opened .* network access"):
            open_open_clip(source, "theirs")
        assert (asked["force_quick_gelu"], asked["weights_only"]) == (is_quick, True)
    for source in ("ViT-B-32", "ViT-B-33/openai"):
        with pytest.raises(InputError, match="nor the name of a model"):
            check_source("open_clip", source, "--model x")


class Bomb:
    """What a pickle may do when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.write_text, (self.path, "went off"))


def test_a_pickle_with_more_than_weights_in_it_is_refused(random_clip: Callable[..., Path], tmp_path: Path) -> None:
    folder, mark = shutil.copytree(random_clip(TEXTS), tmp_path / "bomb"), tmp_path / "mark"
    (folder / WEIGHTS_FILE).unlink()
    (folder / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps({"visual.proj": Bomb(mark)}, protocol=2))
    with pytest.raises(InputError, match="contains more than"):
        open_open_clip(str(folder), "theirs")
    assert not mark.exists()


TENSORS = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.tensor(4.6)}


def test_equal_weights_have_one_name_however_they_lie() -> None:
    name = tensors_sha256(TENSORS)
    by_hand = hashlib.sha256()  # so that names in old files go on to mean what they did
    parts = (("a", [2, 3], struct.pack("<6f", *range(6))), ("b", [], struct.pack("<f", 4.6)))
    for key, shape, raw in parts:
        head = json.dumps([key, "torch.float32", shape]).encode()
        by_hand.update(struct.pack("<Q", len(head)) + head + raw)
    assert name == by_hand.hexdigest()
    turned = {"b": torch.nn.Parameter(TENSORS["b"]), "a": TENSORS["a"].T.contiguous().T}
    assert not turned["a"].is_contiguous()
    assert tensors_sha256(turned) == tensors_sha256({**TENSORS, "_extra_state": {"fp8": None}}) == name


def test_any_change_gives_another_name() -> None:
    others: list[dict[str, torch.Tensor]] = [
        TENSORS,
        {"a": TENSORS["a"]},
        {**TENSORS, "c": torch.empty(0)},
        {"a": TENSORS["a"], "c": TENSORS["b"]},
        {**TENSORS, "a": TENSORS["a"].flatten()},
        {**TENSORS, "a": TENSORS["a"].view(torch.int32)},  # the same bytes
        {**TENSORS, "b": torch.nextafter(TENSORS["b"], torch.tensor(5.0))},
        {**TENSORS, "a": TENSORS["a"].flip(0)},
        {"b": TENSORS["a"], "a": TENSORS["b"]},
    ]
    assert len({tensors_sha256(tensors) for tensors in others}) == len(others)


class Counted:
    """A model that counts what it is asked for."""

    def __init__(self, model: Encoder) -> None:
        self.num_asked = 0

        def counted(encode: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
            def run(batch: Any) -> torch.Tensor:
                self.num_asked += len(batch)
                return encode(batch)

            return run

        image, text = (replace(side, encode=counted(side.encode)) for side in (model.image, model.text))
        self.encoder = replace(model, image=image, text=text)

    def asked(self) -> int:
        """How much a side was asked for since then, less four images or texts that tell which model it is."""
        found, self.num_asked = self.num_asked, 0
        return found - 4


def test_features_are_those_of_the_model_and_only_bytes_that_are_new_are_encoded(ours: Encoder, tmp_path: Path) -> None:
    model, files = Counted(ours), {**FILES}
    expected, _ = FeatureStore(model.encoder).images(NAMES, files.__getitem__)
    model.num_asked = 0
    for num_encoded in (3, 0):
        features, places = FeatureStore(model.encoder, tmp_path).images(NAMES, files.__getitem__)
        assert (list(places), model.asked()) == ([0, 1, 2, 4], num_encoded)
        assert np.allclose(features, expected, atol=1e-5)
        assert features[0].tobytes() == features[2].tobytes()
    files |= {"renamed": files.pop("b"), "c": png(5), "broken": png(3)}
    names = ["renamed", "c", "broken", "a"]
    features, places = FeatureStore(model.encoder, tmp_path).images(names, files.__getitem__)
    assert (list(places), model.asked()) == ([0, 1, 2, 3], 2)
    expected, _ = FeatureStore(model.encoder).images(names, files.__getitem__)
    assert np.allclose(features, expected, atol=1e-5)


def test_what_an_interrupted_run_has_encoded_is_not_encoded_again(
    ours: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.features.PORTION", 4)
    files = {str(number): png(number) for number in range(10)}
    model, encoded = Counted(ours), []

    def interrupted(pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(pixels)
        if len(encoded) == 4:  # the first of them are of noise, and tell which model it is
            raise KeyboardInterrupt
        return model.encoder.image.encode(pixels)

    side = replace(model.encoder.image, encode=interrupted)
    store = FeatureStore(replace(model.encoder, image=side), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.images(list(files), files.__getitem__, batch_size=2)
    model.asked()
    _, places = FeatureStore(model.encoder, tmp_path).images(list(files), files.__getitem__, batch_size=2)
    assert (list(places), model.asked()) == (list(range(10)), 6)


def test_each_file_is_read_once_and_what_was_read_is_what_was_encoded(ours: Encoder, tmp_path: Path) -> None:
    """A file that changes meanwhile, even one that another was a copy of, is known by what it was."""
    contents = {"changes": [png(1), png(2)], "same as that was": [png(1)], "goes": [png(3)], "broken": [b"no picture"]}
    features, places = FeatureStore(ours, tmp_path).images([*contents], lambda name: contents[name].pop(0))
    now, _ = FeatureStore(ours).images(["a", "b", "c"], {"a": png(1), "b": png(1), "c": png(3)}.__getitem__)
    assert list(places) == [0, 1, 2]
    assert np.allclose(features, now, atol=1e-5)
    features, places = FeatureStore(ours, tmp_path / "new").images(["cut"], lambda _: png(1)[:50])
    assert (features.shape, places, list(tmp_path.glob("new/*"))) == ((0, 0), {}, [])


def test_texts_are_encoded_once_as_they_are_asked(ours: Encoder, tmp_path: Path) -> None:
    model = Counted(ours)
    texts = ["un cane", "due gatti", "un cane", "è", "x" * 5000]
    expected = FeatureStore(model.encoder).texts(texts)
    model.num_asked = 0
    for num_encoded in (4, 0):
        found = FeatureStore(model.encoder, tmp_path).texts(texts, batch_size=2)
        assert np.allclose(found, expected, atol=1e-5)
        assert found[0].tobytes() == found[2].tobytes()
        assert model.asked() == num_encoded
    loud = rewording(model.encoder, lambda asked: [text.upper() for text in asked], "loud")
    asked = FeatureStore(loud, tmp_path).texts(["un cane"])
    assert np.allclose(asked, FeatureStore(model.encoder).texts(["UN CANE"]), atol=1e-5)
    assert FeatureStore(model.encoder, tmp_path).texts([]).shape == (0, 0)


def test_models_are_known_by_weights_tokenizer_and_where_texts_are_cut(
    ours: Encoder, random_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model of a hub no files are known; its tokenizer may have changed there."""

    def cut_at(most: int) -> TextEncoder:
        return replace(ours.text, encode=lambda texts: torch.tensor([[len(t.split()[:most]), 1.0] for t in texts]))

    other = open_model_folder(random_clip(TEXTS, seed=1), "other")
    sides = [ours.image, other.image, ours.text, other.text, *(cut_at(most) for most in (16, 64, 77, 512))]
    sides += [replace(ours.text, identity=[*ours.text.identity, {"name": "tokenizer.json", "sha256": "0" * 64}])]
    before = fingerprint(ours.image)
    assert len({fingerprint(side) for side in sides}) == 9
    monkeypatch.setattr("training.data.features.version", lambda name: f"{name} 1")
    now = fingerprint(ours.image)
    monkeypatch.setattr("training.data.features.version", lambda name: f"{name} {1 + ('opencv' in name)}")
    assert len({before, now, fingerprint(ours.image)}) == 3, "another OpenCV may decode the same JPEG otherwise"
