"""Scoreboards over encoders that know colours: several captions, missing and leaked images, classes, differences."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_catalog.errors import ConfigError
from training.config import EvaluateConfig
from training.encoders import Encoder
from training.galleries import (
    Gallery,
    LabelledImages,
    labelled_images,
    pairs_gallery,
    read_names,
    read_templates,
)
from training.protocols import CLIP_ITALIAN
from training.scoreboard import Contestant, Scoreboard, refuse_seen, score_models
from training.scoreboard_plot import write_scoreboard_plot
from training.scoreboard_tables import markdown, sections

COLOURS = {"rosso": (255, 0, 0), "verde": (0, 255, 0), "blu": (0, 0, 255), "giallo": (255, 255, 0)}
WORDS = list(COLOURS)
CONFIG = EvaluateConfig(bootstrap_rounds=100)


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), COLOURS[colour]).save(buffer, "PNG")
    return buffer.getvalue()


def read(name: str) -> bytes:
    if name == "broken":
        return png("rosso")[:40]
    if name == "text":
        return b"<html>not found</html>"
    if name.partition("-")[0] not in COLOURS:
        raise FileNotFoundError(name)
    return png(name.partition("-")[0])


def knower(name: str, words: Sequence[str] = WORDS) -> Contestant:
    """A model that takes the colour of an image, and the place of a caption's word in `words`."""

    def encode_pixels(pixels: torch.Tensor) -> torch.Tensor:
        known = torch.tensor(list(COLOURS.values())).float() / 255
        return (torch.cdist(pixels.mean(dim=(2, 3)), known) < 0.1).float()

    def encode_texts(texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[1.0 if word in text else 1e-3 for word in words] for text in texts])

    def prepare(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255

    encoder = Encoder(
        name=name, origin="a table of colours", prepare=prepare, encode_pixels=encode_pixels, encode_texts=encode_texts
    )
    return Contestant(name=name, open=lambda: encoder)


GALLERY = Gallery(
    name="colours",
    images=["rosso", "gone", "verde", "broken", "blu", "text", "giallo"],
    read=read,
    captions=["è rosso", "rosso!", "non c'è", "verde", "un verde", "rotto", "blu", "testo", "giallo"],
    owners=[0, 0, 1, 2, 2, 3, 4, 5, 6],
    made_by=["human", "machine", "human", "machine", "machine", "human", "human", "human", "machine"],
)


def test_images_that_are_not_there_leave_with_their_captions() -> None:
    board = score_models([knower("all")], [GALLERY], CONFIG)
    (facts,) = board.sets
    assert (facts.num_images, facts.num_missing) == (4, 3)
    score = board.get("all", "colours", "text_to_image_R@1")
    assert (score.value, score.gallery_size, score.num_queries, score.num_dropped) == (1.0, 4, 6, 3)
    backwards = board.get("all", "colours", "image_to_text_MRR@5")
    assert (backwards.value, backwards.gallery_size, backwards.num_queries) == (1.0, 6, 4)
    assert board.get("all", "colours", "text_to_image_median_rank").value == 1
    assert board.get("all", "colours", "text_to_image_R@1", captions="one").num_queries == 4


def test_captions_of_people_and_of_machines_stand_side_by_side() -> None:
    board = score_models([knower("all")], [GALLERY], CONFIG)
    human = board.get("all", "colours", "text_to_image_R@1", captions="human")
    machine = board.get("all", "colours", "text_to_image_R@1", captions="machine")
    assert (human.num_queries, machine.num_queries) == (2, 4)
    assert human.gallery_size == machine.gallery_size == 4


def test_differences_are_paired_by_query() -> None:
    swapped = [WORDS[1], WORDS[0], *WORDS[2:]]
    board = score_models([knower("right"), knower("swaps", swapped)], [GALLERY], CONFIG)
    assert board.get("swaps", "colours", "text_to_image_R@1").value == pytest.approx(2 / 6)
    found = {(entry.difference.name, entry.difference.captions): entry.difference for entry in board.differences}
    assert {entry.first for entry in board.differences} == {"right"}
    delta = found["text_to_image_R@1", "all"]
    assert delta.value == pytest.approx(-4 / 6)
    assert -1 <= delta.low <= delta.value <= delta.high <= 0
    assert found["text_to_image_median_rank", "all"].value > 0


def test_a_set_that_was_trained_on_is_refused_or_told_twice() -> None:
    seen = replace(GALLERY, seen={"ours": {0: "rosso is mscoco:1", 4: "looks like wit:2"}})
    models = [knower("ours"), knower("theirs")]
    with pytest.raises(ConfigError, match=r"2 of the 7 images of colours .* ours was trained on \(rosso: rosso is msc"):
        refuse_seen([seen], models)
    refuse_seen([seen], [knower("theirs")])
    board = score_models(models, [seen], CONFIG)
    for model in ("ours", "theirs"):
        assert board.get(model, "colours", "text_to_image_R@1").gallery_size == 4
        free = board.get(model, "colours", "text_to_image_R@1", images="leak-free")
        assert (free.gallery_size, free.num_queries) == (2, 3)
    assert board.sets[0].num_leaked == {"ours": 2}


def test_a_set_that_was_trained_on_as_a_whole_has_no_leak_free_numbers() -> None:
    seen = replace(GALLERY, seen={"ours": dict.fromkeys(range(7), "the same")})
    board = score_models([knower("ours")], [seen], CONFIG)
    assert {entry.score.images for entry in board.entries} == {"all"}


def test_features_that_are_no_numbers_are_refused() -> None:
    broken = knower("broken")
    encoder = replace(broken.open(), encode_texts=lambda texts: torch.full((len(texts), 4), torch.nan))
    with pytest.raises(ConfigError, match="NaN"):
        score_models([replace(broken, open=lambda: encoder)], [GALLERY], CONFIG)


def test_a_set_without_a_single_picture_is_refused() -> None:
    nothing = replace(GALLERY, images=["gone"] * 7)
    with pytest.raises(ConfigError, match="none of the 7 images of colours"):
        score_models([knower("all")], [nothing], CONFIG)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two images a colour, in folders named by numbers; beside them what is no class."""
    for number, colour in enumerate(COLOURS):
        folder = tmp_path / "photos" / f"n0{number}"
        folder.mkdir(parents=True)
        for name in ("a.png", "b.PNG"):
            (folder / name).write_bytes(png(colour))
        (folder / "notes.txt").write_text("no image")
    (tmp_path / "photos" / "empty").mkdir()
    return tmp_path / "photos"


def test_classes_are_found_by_their_names(folders: Path) -> None:
    found = labelled_images("shades", folders, WORDS, ["una foto di {c}", "{c} di notte"])
    board = score_models([knower("all")], [found], CONFIG)
    for templates in ("bare", "templates"):
        score = board.get("all", "shades", "zero_shot_accuracy@1", captions=templates)
        assert (score.value, score.chance, score.gallery_size, score.num_queries) == (1.0, 0.25, 4, 8)
    by_folder = labelled_images("shades", folders, dict(zip(("n00", "n01", "n02", "n03"), WORDS, strict=True)), ["{c}"])
    assert by_folder.labels == [0, 0, 1, 1, 2, 2, 3, 3]
    board = score_models([knower("all")], [by_folder], CONFIG)
    assert {entry.score.captions for entry in board.entries} == {"bare"}


def test_classes_with_one_name_count_wrong_and_are_told(folders: Path) -> None:
    found = labelled_images("shades", folders, ["rosso", "rosso", "blu", "giallo"], ["{c}"])
    assert "2 classes share their name with another (rosso)" in found.notes[0]
    board = score_models([knower("all")], [found], CONFIG)
    assert board.get("all", "shades", "zero_shot_accuracy@1", captions="bare").value == 0.5


@pytest.mark.parametrize(
    ("names", "templates", "error"),
    [
        (WORDS[:3], ["{c}"], "3 class names for 4 folders"),
        ({"n00": "rosso"}, ["{c}"], "none for the folder n01"),
        (WORDS, ["una foto"], "'una foto' has no {c}"),
        (WORDS, [], "no templates"),
    ],
)
def test_names_that_do_not_fit(folders: Path, names: Sequence[str], templates: list[str], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        labelled_images("shades", folders, names, templates)


def test_folders_without_images_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folders with images"):
        labelled_images("none", tmp_path, WORDS, ["{c}"])
    with pytest.raises(ConfigError, match="which is no folder"):
        labelled_images("none", tmp_path / "gone", WORDS, ["{c}"])


@pytest.mark.parametrize(
    ("document", "key", "found"),
    [
        (["a", "b"], None, ["a", "b"]),
        ({"imagenet1k": ["a"], "pets": ["b"]}, "pets", ["b"]),
        ({"imagenet1k": ["a"]}, None, ["a"]),
        ({"n01": "a", "n02": "b"}, None, {"n01": "a", "n02": "b"}),
        ({"imagenet1k": ["a"], "pets": ["b"]}, None, "has imagenet1k, pets: say which"),
        ({"imagenet1k": ["a", ""]}, None, "none of them empty"),
        (7, None, "must hold a list"),
    ],
)
def test_names_in_files(tmp_path: Path, document: object, key: str | None, found: object) -> None:
    path = tmp_path / "names.json"
    path.write_text(json.dumps(document))
    if isinstance(found, str):
        with pytest.raises(ConfigError, match=found):
            read_names(path, key)
    else:
        assert read_names(path, key) == found
    path.write_text("{")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        read_templates(path, key)


@pytest.mark.real_data
def test_the_files_of_imagenet_in_italian(shared_data: Path) -> None:
    folder = shared_data / "imagenet_it"
    names = read_names(folder / "it_classnames.json", "imagenet1k")
    templates = read_templates(folder / "it_zeroshot_classification_templates.json", None)
    assert (len(names), len(templates)) == (1000, 49)
    assert all("{c}" in template for template in templates)
    assert len(read_names(folder / "en_classnames.json", "imagenet1k")) == 1000
    with pytest.raises(ConfigError, match="say which"):
        read_names(folder / "en_classnames.json", None)


def test_pair_shards_are_a_gallery(make_shard: Callable[..., Path], pair_row: Callable[..., dict[str, object]]) -> None:
    rows = [pair_row(f"own:{colour}", png(colour), [f"è {colour}", colour], "test") for colour in WORDS]
    rows[1]["translators"] = ["argos:en-it:1", "argos:en-it:1"]
    shards = [make_shard("test-0", rows[:3]), make_shard("test-1", rows[3:])]
    gallery = pairs_gallery("own test", shards)
    assert gallery.owners == [0, 0, 1, 1, 2, 2, 3, 3]
    assert gallery.made_by == ["human"] * 2 + ["machine"] * 2 + ["human"] * 4
    assert gallery.notes == ("2 captions were translated by a machine, 6 are people's",)
    assert [gallery.read(name) for name in reversed(gallery.images)] == [png(colour) for colour in reversed(WORDS)]
    board = score_models([knower("all")], [gallery], CONFIG)
    assert board.get("all", "own test", "text_to_image_R@1").value == 1
    with pytest.raises(ConfigError, match="nothing has no images"):
        pairs_gallery("nothing", [])


def a_board() -> Scoreboard:
    named = replace(GALLERY, notes=("<b>|rosso|</b>",), seen={"right": {0: "rosso is mscoco:1"}})
    classes = LabelledImages(
        name="classes", images=["rosso", "blu"], read=read, labels=[0, 1], class_names=["rosso", "blu"]
    )
    return score_models([knower("right"), knower("swaps", WORDS[::-1])], [named, classes], CONFIG)


def test_a_board_is_told_in_tables_with_published_numbers_beside() -> None:
    board = a_board()
    found = sections(board, {"colours": CLIP_ITALIAN, "classes": CLIP_ITALIAN})
    titles = [section.title for section in found]
    assert titles[:3] == ["Models", "colours: text to image", "colours: image to text"]
    table = next(section for section in found if section.title == "colours: protocol clip-italian")
    assert table.rows[0] == {
        "model": "CLIP-Italian (published)",
        "MRR@1": "0.3797",
        "MRR@5": "0.5039",
        "MRR@10": "0.5204",
    }
    assert table.rows[2]["model"] == "right"
    assert table.rows[2]["MRR@1"].startswith("1.0000 [")
    scores = next(section for section in found if section.title == "colours: text to image")
    chance, right, swaps = (row for row in scores.rows if (row["captions"], row["images"]) == ("all", "all"))
    assert (chance["model"], chance["R@1"], chance["gallery"]) == ("chance", "0.2500", "4")
    assert not right["R@1"].endswith("~")
    assert swaps["R@1"].startswith("0.0000")
    text = markdown(found)
    assert "<b>" not in text
    assert "|rosso|" not in text
    assert "1 of the images are among those that right was trained on" in text


def test_a_board_survives_json(tmp_path: Path) -> None:
    board = a_board()
    values = json.loads(json.dumps(board.to_json()))
    assert values["entries"][0]["score"]["name"] == "text_to_image_MRR@1"
    assert values["sets"][0]["num_leaked"] == {"right": 1}


def test_a_board_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "board.png"
    write_scoreboard_plot(a_board(), path)
    with Image.open(path) as picture:
        assert picture.width == 1020
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20
