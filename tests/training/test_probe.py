"""Probes over encoders that know some words: which changed captions count, ties, parts of images, files of others."""

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_catalog.base.errors import InputError
from data_catalog.base.language_pack import ChangeWords
from training.changes import ChangeRules
from training.config import EvaluateConfig
from training.data.features import Encoder, ImageEncoder, TextEncoder
from training.scores.galleries import Gallery, LeakCheck, TrainingMatch
from training.scores.probe import ProbedSet, changed_captions, probe_models, read_pairs
from training.scores.rows import Board, ScoreRow
from training.scores.scoreboard import ModelToScore

RGB = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
CONFIG = EvaluateConfig(bootstrap_rounds=50)
RULES = ChangeRules(
    words=ChangeWords(
        positions=((("left of",), ("right of",)),), colours=tuple((name,) for name in RGB), numbers=("two", "three")
    ),
    function_words=("a", "of", "and"),
)


def png(*colours: str) -> bytes:
    """A picture of squares of 8 pixels, side by side."""
    picture = Image.new("RGB", (8 * len(colours), 8))
    for place, colour in enumerate(colours):
        picture.paste(RGB[colour], (8 * place, 0, 8 * place + 8, 8))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def model(name: str, words: Sequence[str] = tuple(RGB), *, shift: float = 0.0) -> ModelToScore:
    """A model that takes how much of each colour an image has, and which of `words` a caption says."""

    def prepare(image: Image.Image) -> torch.Tensor:
        return (
            torch.from_numpy(np.asarray(image.resize((16, 8), Image.Resampling.NEAREST)).copy()).permute(2, 0, 1) / 255
        )

    def encode_pixels(pixels: torch.Tensor) -> torch.Tensor:
        known = torch.tensor(list(RGB.values())) / 255
        near = torch.cdist(pixels.flatten(2).transpose(1, 2), known) < 0.1
        return near.float().mean(dim=1) + shift

    def encode_texts(texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(word in text) + 1e-3 for word in words] for text in texts])

    image, text = ImageEncoder(prepare=prepare, encode=encode_pixels), TextEncoder(encode=encode_texts)
    known: dict[str, Any] = {"name": name, "origin": "a table of colours", "image": image, "text": text}
    return ModelToScore(name=name, open=lambda: Encoder(**known))


def gallery_of(captions: Sequence[tuple[int, str]], pictures: Sequence[bytes | None]) -> Gallery:
    def read(name: str) -> bytes:
        found = pictures[int(name)]
        if found is None:
            raise FileNotFoundError(name)
        return found

    return Gallery(
        name="squares",
        images=[str(place) for place in range(len(pictures))],
        read=read,
        captions=[text for _, text in captions],
        owners=[owner for owner, _ in captions],
        made_by=["human"] * len(captions),
    )


def scores_of(found: Board, **wanted: str | None) -> dict[str, ScoreRow]:
    """The scores of one model by kind."""
    return {
        row.captions: row for row in found.where(**{"model": "knows", "images": "all", "minus": None, **wanted}).rows
    }


def changed(probed: ProbedSet, kind: str) -> set[str]:
    return {pair.false for pair in probed.pairs if pair.kind == kind}


def test_a_model_that_knows_colours_alone_guesses_positions() -> None:
    captions = [(0, "a red square left of a green one"), (1, "two blue squares"), (2, "three white squares")]
    gallery = gallery_of([*captions, (3, "a red square")], [png("red", "green"), png("blue"), png("white"), None])
    probed = changed_captions(gallery, RULES)
    assert changed(probed, "position") == {"a red square right of a green one"}
    assert "three blue squares" in changed(probed, "count")
    found = probe_models([model("knows"), model("wrong", ["green", "red", "white", "blue"])], [probed], CONFIG)
    scores = scores_of(found)
    assert list(scores) == ["position", "colour", "count", "exchanged"]
    assert (scores["colour"].value, scores["colour"].gallery, scores["colour"].chance) == (1.0, 3, 0.5)
    for kind in ("position", "count", "exchanged"):
        assert scores[kind].value == 0.5, "ties count half"
    assert (scores["colour"].low, scores["colour"].high) == (0.0, 1.0)  # three images say nothing
    others = scores_of(found, model="wrong")
    (delta,) = found.where(model="wrong", minus="knows", captions="colour").rows
    assert delta.value == others["colour"].value - 1.0 < 0
    assert found.where(model="knows", minus="knows").rows == ()
    assert (found.sets[0].num_images, found.sets[0].num_missing) == (3, 1)
    assert json.loads(json.dumps(found.to_json()))["rows"][0]["captions"] == "position"


def test_changes_that_other_captions_of_the_image_confirm_are_left_out() -> None:
    gallery = gallery_of(
        [
            (0, "a red square left of a hat"),
            (0, "A square, blue"),  # so blue may be true as well
            (0, "a green and red square"),  # says both: no reason to doubt
            (0, "a red square, right of a hat!"),
            (1, "white and blue, two or three"),
        ],
        [png("red"), png("white")],
    )
    probed = changed_captions(gallery, RULES)
    of_first = {pair.false for pair in probed.pairs if pair.true == "a red square left of a hat"}
    assert of_first == {"a green square left of a hat", "a white square left of a hat"}
    assert probed.left_out == {
        "another caption of the image says the changed one": 2,
        "another caption of the image says the new word and not the old one": 6,
    }


def test_images_that_a_model_was_trained_on_are_scored_apart() -> None:
    seen = {0: TrainingMatch(why="the same bytes", is_sure=True)}
    gallery = gallery_of([(0, "a red hat"), (1, "a blue hat"), (1, "a blue sea")], [png("green"), png("blue")])
    gallery = replace(gallery, guards={"knows": LeakCheck(seen=seen, ways=("bytes",))})
    found = probe_models([model("knows")], [changed_captions(gallery, RULES)], CONFIG)
    assert scores_of(found)["colour"].gallery == 2
    assert (scores_of(found, images="leak-free")["colour"].value, found.rows[-1].gallery) == (1.0, 1)


def test_features_that_are_not_finite_and_images_that_are_not_there_are_refused() -> None:
    probed = changed_captions(gallery_of([(0, "a red hat"), (0, "a blue one and a red one")], [png("red")]), RULES)
    with pytest.raises(InputError, match="NaN or infinity"):
        probe_models([model("knows", shift=float("nan"))], [probed], CONFIG)
    gone = replace(probed, read_view=gallery_of([], [None]).read)
    with pytest.raises(InputError, match="none of the 1 images of squares can be found"):
        probe_models([model("knows")], [gone], CONFIG)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Called with a document and pictures by name, writes both."""

    def write(document: object, pictures: dict[str, bytes] | None = None) -> tuple[Path, Path]:
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        for name, raw in (pictures or {"a.png": png("red")}).items():
            (folder / name).write_bytes(raw)
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        (tmp_path / "pairs.json").write_bytes(raw)
        return tmp_path / "pairs.json", folder

    return write


def test_files_of_others_are_read_as_they_are(written: Callable[..., tuple[Path, Path]]) -> None:
    box = {"bbox_x": 8, "bbox_y": 0, "bbox_w": 900, "bbox_h": 8}
    aro = {"image_id": 1, "image_path": "2412620.png", **box, "object1": "hat", "relation_name": "on"}
    outside = {**aro, "bbox_x": 999, "true_caption": "blue hat", "false_caption": "hat blue"}
    document = [
        {**aro, "true_caption": "a green hat", "false_caption": "a red hat"},
        {**aro, "true_caption": "a green hat", "false_caption": "a red hat"},
        {**aro, "true_caption": "a green hat", "false_caption": "A green hat."},
        outside,
        {"image_path": "data/controlled_images/cup.png", "caption_options": ["a blue cup", "a red cup", "a green cup"]},
        [391895, "a photo of a white dog", "a photo of a blue dog"],
        {"image_path": "cup.png", "true_caption": "blue", "false_caption": "red", "attributes": ["blue", "red"]},
        {"image_path": "cup.png", "true_caption": "blue", "false_caption": "green", "kind": " my\nkind "},
        {"image_path": "../pairs.json", "true_caption": "blue", "false_caption": "red", "kind": "gone"},
    ]
    pictures = {"2412620.png": png("red", "green"), "cup.png": png("blue"), "000000391895.jpg": png("white")}
    probed = read_pairs(*written(document, pictures))
    assert frozenset({"coco:391895"}) == dict(zip(probed.images, probed.identities, strict=True))["000000391895.jpg"]
    assert probed.left_out == {"the pair is in the file twice": 1, "both captions have the same words": 1}
    found = probe_models([model("knows")], [probed], CONFIG)
    counts = {kind: (score.value, score.queries, score.gallery) for kind, score in scores_of(found).items()}
    # The part of the ARO image is green; one part is outside, and no name leads out of the folder.
    assert counts == {"attribute": (1, 1, 1), "my kind": (1, 1, 1), "options": (1, 3, 2), "relation": (1, 1, 1)}
    assert (found.sets[0].name, found.sets[0].num_images, found.sets[0].num_missing) == ("pairs", 3, 1)
    assert found.sets[0].left_out["their image, or their part of it, is missing or does not decode"] == 2


PAIR: dict[str, Any] = {"image_path": "a.png", "true_caption": "a red hat", "false_caption": "a blue hat"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "pairs.json is not valid JSON"),
        (b"{}", "pairs.json .*valid list"),
        (b"[1]", r"pairs.json .*0 Input should be"),
        (b"[]", "no pair of different captions"),
        (b"[" * 100_000, "pairs.json is not valid JSON"),
        ([PAIR, {**PAIR, "image_path": 7}], r"1\.image_path"),
        ([{**PAIR, "false_caption": None}], r"0\.caption_options"),
        ([{**PAIR, "caption_options": ["a red hat"]}], r"0\.caption_options"),
        ([{**PAIR, "bbox_x": 1}], r"0\.box"),
        ([{**PAIR, "bbox_x": 0, "bbox_y": 0, "bbox_w": 0, "bbox_h": 5}], r"0\.box\.2"),
        ([{**PAIR, "false_caption": "A red hat!"}], "no pair of different captions"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(
    written: Callable[..., tuple[Path, Path]], document: object, message: str
) -> None:
    with pytest.raises(InputError) as refused:
        read_pairs(*written(document))
    assert re.search(message, str(refused.value))
    assert "\n" not in str(refused.value)
