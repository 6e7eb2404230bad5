"""Features of test images that are kept: encoded once, by what the bytes and the model are and not by their names."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_catalog.errors import DiskError
from training.data.features import Encoder, FeatureStore, fingerprint, rewording

NAMES = ["a", "b", "same as a", "broken", "c"]


def png(seed: int, size: int = 6) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def files() -> dict[str, bytes]:
    return {"a": png(1), "b": png(2), "same as a": png(1), "broken": png(3)[:50], "c": png(4)}


class Model:
    """A linear map of pixels, and of letters, with random weights, which counts what it is asked for."""

    def __init__(self, seed: int = 0, size: int = 4) -> None:
        self.num_asked = 0
        letters = torch.randn(256, 5, generator=torch.Generator().manual_seed(seed + 100))
        weights = torch.randn(size * size * 3, 5, generator=torch.Generator().manual_seed(seed))

        def prepare(image: Image.Image) -> torch.Tensor:
            pixels = np.asarray(image.resize((size, size)), dtype=np.float32)
            return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255

        def encode_pixels(pixels: torch.Tensor) -> torch.Tensor:
            self.num_asked += len(pixels)
            return pixels.flatten(1) @ weights

        def encode_texts(texts: Sequence[str]) -> torch.Tensor:
            self.num_asked += len(texts)
            return torch.stack([letters[list(text.encode("utf-8", "surrogatepass"))].sum(dim=0) for text in texts])

        known = {"prepare": prepare, "encode_pixels": encode_pixels, "encode_texts": encode_texts}
        self.encoder = Encoder(name="linear", origin="random", **known)

    def asked(self) -> int:
        """How much it was asked for since then, less four images and four texts that tell which model it is."""
        found, self.num_asked = self.num_asked, 0
        return found - 8


def read_of(files: dict[str, bytes]) -> Callable[[str], bytes]:
    return files.__getitem__


def test_features_are_those_of_the_model_and_only_bytes_that_are_new_are_encoded(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    model = Model()
    expected, _ = FeatureStore(model.encoder).images(NAMES, read_of(files))
    model.num_asked = 0
    for num_encoded in (3, 0):
        features, places = FeatureStore(model.encoder, tmp_path).images(NAMES, read_of(files))
        assert (list(places), model.asked()) == ([0, 1, 2, 4], num_encoded)
        assert np.allclose(features, expected, atol=1e-6)
        assert features[0].tobytes() == features[2].tobytes()
    files |= {"renamed": files.pop("b"), "c": png(5), "broken": png(3)}
    names = ["renamed", "c", "broken", "a"]
    features, places = FeatureStore(model.encoder, tmp_path).images(names, read_of(files))
    assert (list(places), model.asked()) == ([0, 1, 2, 3], 2)
    expected, _ = FeatureStore(model.encoder).images(names, read_of(files))
    assert np.allclose(features, expected, atol=1e-6)


def test_what_an_interrupted_run_has_encoded_is_not_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.features.PORTION", 4)
    files = {str(number): png(number) for number in range(10)}
    model, encoded = Model(), []

    def interrupted(pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(pixels)
        if len(encoded) == 4:  # the first of them are of noise, and tell which model it is
            raise KeyboardInterrupt
        return model.encoder.encode_pixels(pixels)

    store = FeatureStore(replace(model.encoder, encode_pixels=interrupted), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.images(list(files), read_of(files), batch_size=2)
    model.asked()
    _, places = FeatureStore(model.encoder, tmp_path).images(list(files), read_of(files), batch_size=2)
    assert (list(places), model.asked()) == (list(range(10)), 6)


def test_a_damaged_file_is_told_and_its_images_are_encoded_again(
    files: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model()
    expected, _ = FeatureStore(model.encoder, tmp_path).images(NAMES, read_of(files))
    (path,) = tmp_path.rglob("features-*.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    model.asked()
    found, _ = FeatureStore(model.encoder, tmp_path).images(NAMES, read_of(files))
    assert model.asked() == 3
    assert found.tobytes() == expected.tobytes()
    assert f"{path} is damaged" in caplog.text


def test_each_file_is_read_once_and_what_was_read_is_what_was_encoded(tmp_path: Path) -> None:
    """A file that changes meanwhile, even one that another was a copy of, is known by what it was."""
    contents = {"changes": [png(1), png(2)], "same as that was": [png(1)], "goes": [png(3)], "broken": [b"no picture"]}
    features, places = FeatureStore(Model().encoder, tmp_path).images([*contents], lambda name: contents[name].pop(0))
    now, _ = FeatureStore(Model().encoder).images(["a", "b", "c"], read_of({"a": png(1), "b": png(1), "c": png(3)}))
    assert list(places) == [0, 1, 2]
    assert np.allclose(features, now, atol=1e-6)
    features, places = FeatureStore(Model().encoder, tmp_path / "new").images(["cut"], read_of({"cut": png(1)[:50]}))
    assert (features.shape, places, list(tmp_path.glob("new/*"))) == ((0, 0), {}, [])


@pytest.mark.parametrize("is_file", [True, False])
def test_what_is_in_the_way_is_a_sentence(is_file: bool, files: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "kept-features"
    if is_file:
        folder.write_text("no folder")
    else:
        (folder / fingerprint(Model().encoder) / f"features-{'0' * 64}.parquet").mkdir(parents=True)
    with pytest.raises(DiskError, match=rf"cannot cache features .*{folder}/\w+ .* remove {folder}"):
        FeatureStore(Model().encoder, folder).images(NAMES, read_of(files))


def test_texts_are_encoded_once_as_they_are_asked(tmp_path: Path) -> None:
    model = Model()
    texts = ["un cane", "due gatti", "un cane", "\udcff", "x" * 5000]
    expected = FeatureStore(model.encoder).texts(texts)
    model.num_asked = 0
    for num_encoded in (4, 0):
        found = FeatureStore(model.encoder, tmp_path).texts(texts, batch_size=2)
        assert np.allclose(found, expected, atol=1e-6)
        assert found[0].tobytes() == found[2].tobytes()
        assert model.asked() == num_encoded
    loud = rewording(model.encoder, lambda asked: [text.upper() for text in asked], "loud")
    asked = FeatureStore(loud, tmp_path).texts(["un cane"])
    assert np.allclose(asked, FeatureStore(model.encoder).texts(["UN CANE"]), atol=1e-6)
    assert FeatureStore(model.encoder, tmp_path).texts([]).shape == (0, 0)


def test_models_are_known_by_weights_tokenizer_and_where_texts_are_cut() -> None:
    """Of a model of a hub no files are known; its tokenizer may have changed there."""

    def cut_at(most: int) -> Encoder:
        return replace(
            Model().encoder,
            encode_texts=lambda texts: torch.tensor([[len(text.split()[:most]), 1.0] for text in texts]),
        )

    assert fingerprint(Model().encoder) == fingerprint(replace(Model().encoder, name="another"))
    models = [Model(seed=1).encoder, Model(size=3).encoder, *(cut_at(most) for most in (16, 64, 77, 512))]
    models += [replace(Model().encoder, files=({"name": "tokenizer.json", "sha256": "0" * 64},))]
    assert len({fingerprint(model) for model in (Model().encoder, *models)}) == 8
