"""Classifying and localizing: against formulas, on planted models that know colours, and with inputs that are none."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.disk.files import sha256_of
from training.data.images import picture_features, read_picture
from training.data.pairs import PairFiles
from training.towers.model import LoadedModel, load_model
from training.towers.preprocessing import Preprocessing
from training.use.classify import Classification, classify
from training.use.localize import GRID, METHODS, localize
from training.use.search import query_features, shard_gallery

WORDS = {"rosso": (1.0, 0.0, 0.0), "verde": (0.0, 1.0, 0.0), "blu": (0.0, 0.0, 1.0), "grigio": (1.0, 1.0, 1.0)}


class ColourModel(torch.nn.Module):
    """A model that sees the mean colour of an image, and reads names of colours."""

    def __init__(self, scale: float, bias: float | None) -> None:
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.tensor(math.log(scale)))
        self.logit_bias = None if bias is None else torch.nn.Parameter(torch.tensor(bias))
        self.batches: list[int] = []

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        mean, std = (torch.tensor(getattr(Preprocessing(size=64), name)) for name in ("mean", "std"))
        return images.mean(dim=(2, 3)) * std + mean + 1e-6

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.tensor(list(WORDS.values()))[ids[:, 0]]


class ColourTokenizer:
    """One token a text: the last word that is a colour."""

    context_length = 4

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        found = [[word for word in text.split() if word in WORDS][-1] for text in texts]
        return torch.tensor([[list(WORDS).index(word)] for word in found])

    def too_long(self, texts: Sequence[str]) -> list[str]:
        return [text for text in texts if len(text.split()) > self.context_length]


def colour_model(scale: float = 10.0, bias: float | None = None) -> LoadedModel:
    tokenizer: Any = ColourTokenizer()
    return LoadedModel(
        module=ColourModel(scale, bias), tokenizer=tokenizer, preprocessing=Preprocessing(size=64), sha256="0" * 64
    )


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    """Grey, twice as wide as high, with a green square near the left upper corner and a red one at the right below."""
    image = Image.new("RGB", (256, 128), (120, 120, 120))
    image.paste((0, 200, 0), (24, 12, 64, 40))
    image.paste((200, 0, 0), (192, 80, 232, 108))
    image.save(tmp_path / "flag.png")
    return tmp_path / "flag.png"


def cosines_of(path: Path, texts: Sequence[str]) -> Any:
    colour = np.asarray(Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)).mean(axis=(0, 1))
    wanted = np.array([WORDS[text] for text in texts])
    return wanted @ colour / np.linalg.norm(colour) / np.linalg.norm(wanted, axis=1)


def by_label(found: Classification) -> dict[str, float]:
    return {choice.label: choice.probability for choice in found.choices}


def test_softmax_of_the_scaled_cosines(flag: Path) -> None:
    labels = ["blu", "rosso", "grigio", "verde"]
    found = classify(flag, labels, colour_model(scale=25.0))
    weights = np.exp(25 * cosines_of(flag, labels))
    assert by_label(found) == pytest.approx(dict(zip(labels, weights / weights.sum(), strict=True)), rel=1e-3)
    assert (found.method, found.logit_scale, found.logit_bias) == ("softmax", pytest.approx(25), None)
    assert [choice.rank for choice in found.choices] == [1, 2, 3, 4]
    assert found.choices[0].label == "grigio"


def test_a_model_with_a_bias_judges_each_text_by_itself(flag: Path) -> None:
    labels = ["rosso", "blu"]
    found = classify(flag, labels, colour_model(scale=8.0, bias=-5.0))
    expected = 1 / (1 + np.exp(5 - 8 * cosines_of(flag, labels)))
    assert by_label(found) == pytest.approx(dict(zip(labels, expected, strict=True)), rel=1e-3)
    assert (found.method, found.logit_bias) == ("sigmoid", -5.0)
    large = by_label(classify(flag, ["grigio", "blu"], colour_model(scale=1e6, bias=-5.0)))
    assert large["grigio"] == pytest.approx(1)
    assert 0 <= large["blu"] <= 1


def test_the_template_makes_the_text(flag: Path) -> None:
    found = classify(flag, ["rosso", "blu"], colour_model(), template="una foto di un {c}")
    assert {choice.text for choice in found.choices} == {"una foto di un rosso", "una foto di un blu"}
    assert all(choice.is_cut for choice in found.choices), "five words, of four that are read"
    assert not any(choice.is_cut for choice in classify(flag, ["rosso", "blu"], colour_model()).choices)
    assert localize(flag, "una foto di un rosso", colour_model(), method="cover").is_cut


@pytest.mark.parametrize(
    ("labels", "template", "said"),
    [
        (["rosso"], "{c}", "a single text"),
        (["rosso", "blu", " rosso"], "{c}", "'rosso' and ' rosso' as the same text"),
        (["rosso", "blu"], "una foto", "has no {c}"),
        (["Un quadrato ROSSO", "blu", "un quadrato rosso"], "{c}", "as the same text"),  # it reads no capitals
        (["rosso " * 30, "rosso " * 31 + "blu"], "{c}", "as the same text"),
    ],
)
def test_classes_that_make_no_sense_are_refused(
    flag: Path, make_model: Callable[..., Path], labels: list[str], template: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        classify(flag, labels, make_model(), template=template)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("text", "box"), [("rosso", (192, 80, 232, 108)), ("verde", (24, 12, 64, 40))])
def test_the_peak_is_where_the_text_is(flag: Path, text: str, box: tuple[int, int, int, int], method: str) -> None:
    model = colour_model()
    found = localize(flag, text, model, method=method)
    assert box[0] <= found.peak[0] <= box[2]
    assert box[1] <= found.peak[1] <= box[3]
    assert found.cosine == pytest.approx(cosines_of(flag, [text])[0], abs=1e-3)
    assert (found.width, found.height, len(found.heat), len(found.heat[0])) == (256, 128, GRID, GRID)
    first, *others = model.module.batches
    assert (first, sum(others)) == (1, found.num_masks)
    assert max(others) <= 128


def test_a_model_of_a_timm_backbone_and_bert_searches_classifies_and_localizes(
    timm_and_bert: Path, square_files: PairFiles, tmp_path: Path
) -> None:
    text, others = "un quadrato rosso in basso", ["un quadrato verde in basso", "un quadrato nero in basso"]
    model = load_model(timm_and_bert)
    best = shard_gallery({path: sha256_of(path) for path in square_files.test}, timm_and_bert).search(text, 24).hits[0]
    picture = tmp_path / "best.jpg"
    picture.write_bytes(best.image)
    localized = localize(picture, text, timm_and_bert)
    assert localized.changes
    assert localized.cosine == pytest.approx(best.cosine, abs=1e-6)
    pixels = model.preprocessing.resized(read_picture(picture, model.image_size).image)
    texts = np.stack([query_features(model, query) for query in (text, *others)])
    cosines = texts @ picture_features(model, np.stack([pixels]))[0]
    found = classify(picture, [text, *others], timm_and_bert)
    assert {choice.text: choice.cosine for choice in found.choices} == pytest.approx(
        dict(zip([text, *others], cosines.tolist(), strict=True)), abs=1e-6
    )
    assert localized.cosine == pytest.approx(cosines[0], abs=1e-6)


def test_squares_are_covered_and_shown_on_the_mean_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.use.localize.SQUARES", ((8, 8),))
    image = Image.new("RGB", (64, 64), (0, 100, 0))
    image.paste((100, 0, 0), (0, 0, 32, 32))
    path = tmp_path / "quarters.png"
    image.save(path)
    # A quarter is red, and (25, 75, 0) the mean. Without red there is (6.25, 93.75, 0), without a green quarter
    # (31.25, 68.75, 0); red alone on the mean makes (43.75, 56.25, 0), green alone (18.75, 81.25, 0).
    shares = ((25, 75), (6.25, 93.75), (31.25, 68.75), (43.75, 56.25), (18.75, 81.25))
    whole, without_red, without_green, red, green = (r / math.hypot(r, g) for r, g in shares)
    expected = {"cover": (whole - without_red, whole - without_green, 4), "reveal": (red - whole, green - whole, 5)}
    expected["both"] = tuple(a + b for a, b in zip(*expected.values(), strict=True))
    for method, (in_red, in_green, num_masks) in expected.items():
        found = localize(path, "rosso", colour_model(), method=method)
        corners = [found.heat[row][column] for row in (0, 15) for column in (0, 15)]
        assert corners == pytest.approx([in_red, *[in_green] * 3], abs=1e-4)
        assert found.num_masks == num_masks
    with pytest.raises(SettingsError, match="one of both, cover, reveal"):
        localize(path, "rosso", colour_model(), method="strips")


def test_images_that_are_none_and_broken_models_are_told(flag: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    model = colour_model()
    for run in (lambda path: classify(path, ["rosso", "blu"], model), lambda path: localize(path, "blu", model)):
        for name in ("gone.png", ".", "text.png"):
            with pytest.raises(InputError, match="cannot be read as an image"):
                run(tmp_path / name)
    model.module.encode_image = lambda images: torch.full((len(images), 3), torch.nan)
    with pytest.raises(DamagedError, match="not finite"):
        localize(flag, "rosso", model)
