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

from data_catalog.charts import picture_label
from data_catalog.errors import InputError, PipelineError, SettingsError
from training.config import EvaluateConfig
from training.data.features import Encoder
from training.scores.galleries import (
    Gallery,
    LabelledImages,
    LeakCheck,
    TrainingMatch,
    labelled_images,
    pairs_gallery,
    read_names,
    read_templates,
)
from training.scores.protocols import CLIP_ITALIAN
from training.scores.score import Score
from training.scores.scoreboard import ModelToScore, Scoreboard, refuse_seen, score_models
from training.scores.scoreboard_files import Section, markdown, sections, write_scoreboard_plot

COLOURS = {"rosso": (255, 0, 0), "verde": (0, 255, 0), "blu": (0, 0, 255), "giallo": (255, 255, 0)}
WORDS = list(COLOURS)
SWAPPED = [WORDS[1], WORDS[0], *WORDS[2:]]
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


def knower(name: str, words: Sequence[str] = WORDS) -> ModelToScore:
    """A model that takes the colour of an image, and the place of a caption's word in `words`."""

    def encode_pixels(pixels: torch.Tensor) -> torch.Tensor:
        known = torch.tensor(list(COLOURS.values())).float() / 255
        return (torch.cdist(pixels.mean(dim=(2, 3)), known) < 0.1).float()

    def encode_texts(texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[1.0 if word in text else 1e-3 for word in words] for text in texts])

    def prepare(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255

    known = {"prepare": prepare, "encode_pixels": encode_pixels, "encode_texts": encode_texts}
    return ModelToScore(name=name, open=lambda: Encoder(name=name, origin="a table of colours", **known))


def gallery_of(images: Sequence[str], captions: Sequence[str], owners: Sequence[int]) -> Gallery:
    made_by = ["human"] * len(captions)
    return Gallery(name="colours", images=images, read=read, captions=captions, owners=owners, made_by=made_by)


GALLERY = Gallery(
    name="colours",
    images=["rosso", "gone", "verde", "broken", "blu", "text", "giallo"],
    read=read,
    captions=["è rosso", "rosso!", "non c'è", "verde", "un verde", "rotto", "blu", "testo", "giallo"],
    owners=[0, 0, 1, 2, 2, 3, 4, 5, 6],
    made_by=["human", "machine", "human", "machine", "machine", "human", "human", "human", "machine"],
)


def score_of(
    board: Scoreboard, model: str, test_set: str, name: str, *, captions: str = "all", images: str = "all"
) -> Score:
    (found,) = (
        entry.score
        for entry in board.entries
        if (entry.model, entry.test_set, entry.score.name) == (model, test_set, name)
        and (entry.score.captions, entry.score.images) == (captions, images)
    )
    return found


def told_of(test_set: str, board: Scoreboard, title: str = "text to image") -> Section:
    return next(section for section in sections(board, {}) if section.title == f"{test_set}: {title}")


def test_images_that_are_not_there_leave_with_their_captions() -> None:
    board = score_models([knower("all")], [GALLERY], CONFIG)
    (facts,) = board.sets
    assert (facts.num_images, facts.num_missing, facts.num_texts) == (4, 3, 6)
    score = score_of(board, "all", "colours", "text_to_image_R@1")
    assert (score.value, score.gallery_size, score.num_queries, score.num_dropped) == (1.0, 4, 6, 3)
    backwards = score_of(board, "all", "colours", "image_to_text_MRR@5")
    assert (backwards.value, backwards.gallery_size, backwards.num_queries) == (1.0, 6, 4)
    assert score_of(board, "all", "colours", "text_to_image_median_rank").value == 1
    assert score_of(board, "all", "colours", "text_to_image_R@1", captions="one").num_queries == 4
    by_maker = [score_of(board, "all", "colours", "text_to_image_R@1", captions=made) for made in ("human", "machine")]
    assert [(found.num_queries, found.gallery_size) for found in by_maker] == [(2, 4), (4, 4)]
    assert (score.low, score.high) == (0.0, 1.0), "few images have no interval to speak of"


def test_differences_are_paired_by_query() -> None:
    board = score_models([knower("right"), knower("swaps", SWAPPED)], [GALLERY], CONFIG)
    assert score_of(board, "swaps", "colours", "text_to_image_R@1").value == pytest.approx(2 / 6)
    found = {(entry.difference.name, entry.difference.captions): entry.difference for entry in board.differences}
    assert {entry.first for entry in board.differences} == {"right"}
    delta = found["text_to_image_R@1", "all"]
    assert delta.value == pytest.approx(-4 / 6)
    assert (delta.low, delta.high) == (-1, 1)  # four images
    assert found["text_to_image_median_rank", "all"].value > 0


def guard(*places: int, alike: Sequence[int] = ()) -> LeakCheck:
    """A guard that is sure of some places, and suspects others."""
    sure = {place: TrainingMatch(why=f"the same bytes as wit:{place}", is_sure=True) for place in places}
    suspects = {place: TrainingMatch(why=f"looks like wit:{place}", is_sure=False) for place in alike}
    return LeakCheck(seen=suspects | sure, ways=("identity", "bytes", "looks"))


def test_a_set_that_was_trained_on_is_refused_or_told_twice() -> None:
    seen = replace(GALLERY, guards={"ours": guard(0), "mine": guard(4)})
    models = [knower("ours"), knower("mine"), knower("theirs")]
    with pytest.raises(InputError, match=r"1 of the 7 images of colours .* trained on \(rosso: the same bytes"):
        refuse_seen([seen], models)
    refuse_seen([seen], [knower("theirs")])
    board = score_models(models, [seen], CONFIG)
    for model in ("ours", "mine", "theirs"):
        assert score_of(board, model, "colours", "text_to_image_R@1").gallery_size == 4
        free = score_of(board, model, "colours", "text_to_image_R@1", images="leak-free")
        assert (free.gallery_size, free.num_queries) == (2, 3)  # of the union: no model has an advantage
    (facts,) = board.sets
    assert facts.leaked == {"ours": {"rosso": "the same bytes as wit:0"}, "mine": {"blu": "the same bytes as wit:4"}}


def test_what_looks_alike_is_told_twice_without_being_refused() -> None:
    suspected = replace(GALLERY, guards={"ours": guard(alike=[2])})
    refuse_seen([suspected], [knower("ours")])
    board = score_models([knower("ours")], [suspected], CONFIG)
    assert score_of(board, "ours", "colours", "text_to_image_R@1", images="leak-free").gallery_size == 3
    notes = told_of("colours", board).notes
    assert "1 look like training images of ours, and may be others (verde: looks like wit:2)" in notes
    assert any("none of the images are among those that ours was trained on" in note for note in notes)


BARE = gallery_of(GALLERY.images, ["rosso", "verde"], [0, 2])


@pytest.mark.parametrize(
    ("gallery", "check", "note"),
    [
        (GALLERY, guard(1, 3, 5), "none of the images are among those"),  # not there, broken, no picture
        (GALLERY, guard(*range(7)), "no image with a caption remains"),
        (BARE, guard(0, 2), "no image with a caption remains"),  # two images without captions do
        (GALLERY, LeakCheck(seen={}, ways=()), "it is not known if ours was trained on any of the images"),
    ],
)
def test_where_there_are_no_leak_free_numbers_it_is_said_why(gallery: Gallery, check: LeakCheck, note: str) -> None:
    board = score_models([knower("ours")], [replace(gallery, guards={"ours": check})], CONFIG)
    assert {entry.score.images for entry in board.entries} == {"all"}
    assert any(note in found for found in told_of("colours", board).notes)


@pytest.mark.parametrize("num_images", [1, 9])
def test_a_gallery_that_is_no_larger_than_k_is_chance(num_images: int) -> None:
    small = gallery_of([f"rosso-{number}" for number in range(num_images)], ["rosso"] * num_images, range(num_images))
    (row,) = [
        row
        for row in told_of("colours", score_models([knower("ours")], [small], CONFIG)).rows
        if row["model"] == "ours"
    ]
    assert row["R@10"] == "1.0000 [0.0000, 1.0000] ~"


def test_a_picture_under_two_names_is_told() -> None:
    images = ["rosso", "gone", "verde", "broken-1", "rosso-2", "text", "broken-2"]
    twice = gallery_of(images, ["rosso", "verde", "rosso"], [0, 2, 4])
    board = score_models([knower("all"), knower("again")], [twice], CONFIG)
    assert score_of(board, "all", "colours", "text_to_image_R@1").value == pytest.approx(1 / 3)
    (note,) = board.sets[0].notes
    assert "(rosso, rosso-2), so they cannot be distinguished" in note
    assert score_models([knower("all")], [GALLERY], CONFIG).sets[0].notes == ()
    for labels, told in (([0, 1, 0], []), ([0, 1, 1], ["(rosso, rosso-2), but different"])):
        classes = LabelledImages(
            name="shades", images=["rosso", "blu", "rosso-2"], read=read, labels=labels, class_names=["rosso", "blu"]
        )
        notes = score_models([knower("all")], [classes], CONFIG).sets[0].notes
        assert all(part in note for part, note in zip(told, notes, strict=True))


def test_differences_draw_images_with_all_of_their_captions() -> None:
    """As wide as of one caption an image: the five are not independent. No model tells the reds or the blues apart."""
    names = [f"{'rosso' if place % 3 else 'blu'}-{place}" for place in range(60)]
    owners = np.repeat(np.arange(60), 5).tolist()
    many = gallery_of(names, [f"{names[owner]} {number}" for number, owner in enumerate(owners)], owners)
    board = score_models([knower("right"), knower("swaps", SWAPPED), knower("again")], [many], CONFIG)
    found = {
        (entry.model, entry.difference.name, entry.difference.captions): entry.difference for entry in board.differences
    }
    every, one = (found["swaps", "text_to_image_MRR@10", mode] for mode in ("all", "one"))
    assert every.high - every.low == pytest.approx(one.high - one.low, rel=0.05)
    medians = [delta for (model, name, _), delta in found.items() if model == "again" and name.endswith("median_rank")]
    assert {(delta.value, delta.low, delta.high) for delta in medians} == {(0.0, 0.0, 0.0)}
    # All captions of an image are right.
    assert score_of(board, "right", "colours", "image_to_text_R@1").chance == pytest.approx(5 / 300)
    assert score_of(board, "right", "colours", "text_to_image_R@1").chance == pytest.approx(1 / 60)


def test_what_cannot_be_scored_is_refused() -> None:
    encoder = replace(knower("broken").open(), encode_texts=lambda texts: torch.full((len(texts), 4), torch.nan))
    for model, gallery, message in (
        (knower("all"), gallery_of(GALLERY.images, ["non c'è"], [1]), "no image of colours with a caption"),
        (knower("all"), replace(GALLERY, images=["gone"] * 7), "none of the 7 images of colours"),
        (ModelToScore(name="broken", open=lambda: encoder), GALLERY, "NaN"),
    ):
        with pytest.raises(InputError, match=message):
            score_models([model], [gallery], CONFIG)


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


def accuracy(found: LabelledImages, captions: str = "bare", model: ModelToScore | None = None) -> Score:
    board = score_models([model or knower("all")], [found], CONFIG)
    (score,) = (
        entry.score
        for entry in board.entries
        if (entry.score.name, entry.score.captions) == ("zero_shot_accuracy@1", captions)
    )
    return score


def test_classes_are_found_by_their_names(folders: Path) -> None:
    found = labelled_images("shades", folders, WORDS, ["una foto di {c}", "{c} di notte"])
    for templates in ("bare", "templates"):
        score = accuracy(found, templates)
        assert (score.value, score.chance, score.gallery_size, score.num_queries) == (1.0, 0.25, 4, 8)
    by_folder = labelled_images("shades", folders, dict(zip(("n00", "n01", "n02", "n03"), WORDS, strict=True)), ["{c}"])
    assert by_folder.labels == [0, 0, 1, 1, 2, 2, 3, 3]
    board = score_models([knower("all")], [by_folder], CONFIG)
    assert {entry.score.captions for entry in board.entries} == {"bare"}


def test_templates_are_averaged_and_images_drawn_one_by_one(folders: Path) -> None:
    """The first template makes all classes the same: alone it tells nothing, beside the others it does no harm."""
    useless = "{c} rosso verde blu giallo"
    astray = labelled_images("shades", folders, WORDS, [useless, "un {c}", "{c} di notte"])
    assert accuracy(astray, "templates").value == 1.0
    assert accuracy(replace(astray, templates=[useless]), "templates").value == 0.0
    large = replace(astray, images=astray.images * 4, labels=list(astray.labels) * 4)
    score = accuracy(large, model=knower("half", SWAPPED))
    assert score.value == 0.5
    assert 0.15 < score.high - score.low < 0.5  # of 32 images, not of one


def test_numbered_folders_do_not_take_a_list(tmp_path: Path) -> None:
    for number in range(11):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.png").write_bytes(png("rosso"))
        (tmp_path / str(number) / "._a.png").write_bytes(b"of another system")
    with pytest.raises(InputError, match="which sort differently as text"):
        labelled_images("numbers", tmp_path, [str(number) for number in range(11)], ["{c}"])
    found = labelled_images("numbers", tmp_path, {str(number): f"c{number}" for number in range(11)}, ["{c}"])
    assert len(found.images) == 11
    assert found.class_names[found.labels[found.images.index("10/a.png")]] == "c10"


def test_classes_with_one_name_or_no_image_count_as_wrong_answers_and_no_pictures_as_missing(folders: Path) -> None:
    found = labelled_images("shades", folders, ["rosso", "rosso", "blu", "giallo"], ["{c}"])
    assert "2 classes share their name with another (rosso)" in found.notes[0]
    assert accuracy(found).value == 0.5
    (folders / "n02" / "phone.heic").write_bytes(b"not decoded here")
    (folders / "n02" / "gone.jpg").symlink_to(folders / "nowhere.jpg")
    (folders / "n02" / "old.jpe").write_bytes(png("blu"))
    names = {"n00": "rosso", "n01": "verde", "n02": "blu", "n03": "giallo", "n99": "viola"}
    found = labelled_images("shades", folders, names, ["{c}"])
    board = score_models([knower("all")], [found], CONFIG)
    assert (board.entries[0].score.gallery_size, board.sets[0].num_missing, len(found.images)) == (5, 2, 11)


@pytest.mark.parametrize(
    ("names", "templates", "error"),
    [
        (WORDS[:3], ["{c}"], "3 class names for 4 image folders"),
        ({"n00": "rosso"}, ["{c}"], "lack the folder n01"),
        (WORDS, ["una foto"], "'una foto' has no {c}"),
        (WORDS, [], "no templates"),
    ],
)
def test_names_that_do_not_fit(folders: Path, names: Sequence[str], templates: list[str], error: str) -> None:
    with pytest.raises(InputError, match=error):
        labelled_images("shades", folders, names, templates)
    with pytest.raises(InputError, match="no subfolders with images"):
        labelled_images("none", folders / "n00", WORDS, ["{c}"])
    with pytest.raises(InputError, match="is not a folder"):
        labelled_images("none", folders / "gone", WORDS, ["{c}"])


@pytest.mark.parametrize(
    ("document", "key", "found"),
    [
        (["a", "b"], None, ["a", "b"]),
        ({"imagenet1k": ["a"], "pets": ["b"]}, "pets", ["b"]),
        ({"imagenet1k": ["a"]}, None, ["a"]),
        ({"n01": "a", "n02": "b"}, None, {"n01": "a", "n02": "b"}),
        ({"imagenet1k": ["a"], "pets": ["b"]}, None, "choose one"),
        (["a"], "pets", "leave out"),
        ({"n01": "a", "n02": " "}, None, "none of them empty"),
        (7, None, "must contain a list"),
        ({"n01": "un \ud83d cane"}, None, "not valid Unicode"),
    ],
)
def test_names_in_files(tmp_path: Path, document: object, key: str | None, found: object) -> None:
    path = tmp_path / "names.json"
    path.write_text(json.dumps(document))
    if isinstance(found, str):
        with pytest.raises(PipelineError, match=found):
            read_names(path, key)
    else:
        assert read_names(path, key) == found
    path.write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_templates(path, key)


def test_pair_shards_are_a_gallery(make_shard: Callable[..., Path], pair_row: Callable[..., dict[str, object]]) -> None:
    rows = [pair_row(f"own:{colour}", png(colour), [f"è {colour}", colour], "test") for colour in WORDS]
    rows[1] |= {"translators": ["argos:en-it:1"] * 2, "origins": ["machine_translation"] * 2}
    shards = [make_shard("test-0", rows[:3]), make_shard("test-1", rows[3:])]
    gallery = pairs_gallery("own test", shards)
    assert gallery.owners == [0, 0, 1, 1, 2, 2, 3, 3]
    assert gallery.made_by == ["human"] * 2 + ["machine"] * 2 + ["human"] * 4
    (note,) = gallery.notes
    assert "6 captions are native" in note
    assert "2 captions are translated by a machine" in note
    assert [gallery.read(name) for name in reversed(gallery.images)] == [png(colour) for colour in reversed(WORDS)]
    board = score_models([knower("all")], [gallery], CONFIG)
    assert score_of(board, "all", "own test", "text_to_image_R@1").value == 1
    with pytest.raises(SettingsError, match="nothing has no images"):
        pairs_gallery("nothing", [])


def test_a_board_is_told_in_tables_with_published_numbers_beside(tmp_path: Path) -> None:
    named = replace(GALLERY, notes=("<b>|rosso|</b>",), guards={"right": guard(0)})
    classes = LabelledImages(
        name="classes", images=["rosso", "blu"], read=read, labels=[0, 1], class_names=["rosso", "blu"]
    )
    board = score_models([knower("right"), knower("swaps", WORDS[::-1])], [named, classes], CONFIG)
    found = sections(board, {"colours": replace(CLIP_ITALIAN, num_images=4), "classes": CLIP_ITALIAN})
    by_title = {section.title: section for section in found}
    assert [*by_title][:3] == ["Models", "colours: text to image", "colours: image to text"]
    table = by_title["colours: protocol clip-italian"].rows
    published = {"MRR@1": "0.3797", "MRR@5": "0.5039", "MRR@10": "0.5204"}
    assert table[0] == {"model": "CLIP-Italian (published)", **published}
    assert table[2]["model"] == "right"
    assert table[2]["MRR@1"].startswith("1.0000 [")
    rows = by_title["colours: text to image"].rows
    chance, right, swaps = (row for row in rows if (row["captions"], row["images"]) == ("all", "all"))
    assert (chance["model"], chance["R@1"], chance["gallery"]) == ("chance", "0.2500", "4")
    assert right["R@1"] == "1.0000 [0.0000, 1.0000] ~"
    assert swaps["R@1"].startswith("0.0000")
    other = by_title["classes: protocol clip-italian"]
    assert other.rows == []
    assert "not comparable" in other.notes[0]
    text = markdown(found)
    assert "<b>" not in text
    assert "|rosso|" not in text
    assert "1 of the images are among those that right was trained on" in text
    values = json.loads(json.dumps(board.to_json()))
    assert values["entries"][0]["score"]["name"] == "text_to_image_MRR@1"
    assert list(values["sets"][0]["leaked"]["right"]) == ["rosso"]
    assert values["settings"]["bootstrap_rounds"] == 100
    write_scoreboard_plot(board, tmp_path / "board.png")
    with Image.open(tmp_path / "board.png") as picture:
        assert picture.width == 1020
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20


def test_labels_of_pictures_are_whole_and_in_letters_that_can_be_drawn() -> None:
    assert picture_label("модель_2 Ωmega è") == "модель_2 Ωmega è"
    assert picture_label("a\u0628\nb\U00020000") == r"a\u0628\nb\U00020000"
