"""Scores and scoreboards over encoders that know colours: caption modes, missing and leaked images, classes."""

import io
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_catalog.base.errors import InputError, PipelineError
from data_catalog.disk.files import write_json
from training.config import EvaluateConfig
from training.data.features import Encoder, ImageEncoder, TextEncoder
from training.scores.evaluation import chosen_captions, wording
from training.scores.galleries import (
    Gallery,
    LabelledImages,
    LeakCheck,
    TrainingMatch,
    labelled_images,
    pairs_gallery,
    read_texts,
)
from training.scores.metrics import METRIC_OF
from training.scores.protocols import CLIP_ITALIAN
from training.scores.rows import Board, ScoreRow
from training.scores.scoreboard import ModelToScore, refuse_seen, score_models
from training.scores.scoreboard_files import markdown, sections, write_scoreboard_plot

COLOURS = {"rosso": (255, 0, 0), "verde": (0, 255, 0), "blu": (0, 0, 255), "giallo": (255, 255, 0)}
WORDS = list(COLOURS)
SWAPPED = [WORDS[1], WORDS[0], *WORDS[2:]]
CONFIG = EvaluateConfig(bootstrap_rounds=100)


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), COLOURS[colour]).save(buffer, "PNG")
    return buffer.getvalue()


def read(name: str) -> bytes:
    if name == "gone":
        raise FileNotFoundError(name)
    broken = {"broken": png("rosso")[:40], "text": b"<html>not found</html>"}
    kind = name.partition("-")[0]
    return broken.get(kind) or png(kind)


def knower(name: str, words: Sequence[str] = WORDS) -> ModelToScore:
    """A model that takes the colour of an image, and the place of a caption's word in `words`."""

    def encode_pixels(pixels: torch.Tensor) -> torch.Tensor:
        known = torch.tensor(list(COLOURS.values())).float() / 255
        return (torch.cdist(pixels.mean(dim=(2, 3)), known) < 0.1).float()

    def encode_texts(texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[1.0 if word in text else 1e-3 for word in words] for text in texts])

    def prepare(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255

    known = {"image": ImageEncoder(prepare=prepare, encode=encode_pixels), "text": TextEncoder(encode=encode_texts)}
    return ModelToScore(name=name, open=lambda: Encoder(name=name, origin="a table of colours", **known))


def gallery_of(images: Sequence[str], captions: Sequence[str], owners: Sequence[int]) -> Gallery:
    made_by = ["human"] * len(captions)
    return Gallery(name="colours", images=images, read=read, captions=captions, owners=owners, made_by=made_by)


IMAGES = ["rosso", "gone", "verde", "broken", "blu", "text", "giallo"]
CAPTIONS = ["è rosso", "rosso!", "non c'è", "verde", "un verde", "rotto", "blu", "testo", "giallo"]
MAKERS = ["human", "machine", "human", "machine", "machine", "human", "human", "human", "machine"]
GALLERY = replace(gallery_of(IMAGES, CAPTIONS, [0, 0, 1, 2, 2, 3, 4, 5, 6]), made_by=MAKERS)
BARE = gallery_of(IMAGES, ["rosso", "verde"], [0, 2])
ALL = knower("all")


def board_of(test_set: Gallery | LabelledImages, *models: ModelToScore) -> Board:
    return score_models(list(models) or [ALL], [test_set], CONFIG)


def score_of(
    board: Board, name: str = "text_to_image_R@1", model: str = "all", captions: str = "all", images: str = "all"
) -> ScoreRow:
    return board.get(name, captions, model=model, images=images)


def told_of(board: Board) -> tuple[Sequence[dict[str, str]], str]:
    """Rows and notes of the first table of text to image."""
    found = next(section for section in sections(board, {}) if section.title == "colours: text to image")
    return found.rows, "\n".join(found.notes)


def guard(*places: int, alike: Sequence[int] = ()) -> LeakCheck:
    """A guard that is sure of some places, and suspects others."""
    sure = {place: TrainingMatch(why=f"the same bytes as wit:{place}", is_sure=True) for place in places}
    suspects = {place: TrainingMatch(why=f"looks like wit:{place}", is_sure=False) for place in alike}
    return LeakCheck(seen=suspects | sure, ways=("identity", "bytes", "looks"))


def test_images_that_are_not_there_leave_with_their_captions() -> None:
    board = board_of(GALLERY)
    (facts,) = board.sets
    assert (facts.num_images, facts.num_missing, facts.num_texts) == (4, 3, 6)
    score = score_of(board)
    assert (score.value, score.gallery, score.queries, score.left_out) == (1.0, 4, 6, 3)
    backwards = score_of(board, "image_to_text_MRR@5")
    assert (backwards.value, backwards.gallery, backwards.queries) == (1.0, 6, 4)
    assert score_of(board, "text_to_image_median_rank").value == 1
    gains = score_of(board, "image_to_text_nDCG@10")
    assert (gains.value, gains.low, gains.high) == (1.0, 0.0, 1.0)
    assert 0 < gains.chance < 1
    assert "nDCG@10" in next(each for each in sections(board, {}) if each.title.endswith("image to text")).rows[0]
    by_mode = [score_of(board, captions=mode) for mode in ("one", "human", "machine")]
    assert [(found.queries, found.gallery) for found in by_mode] == [(4, 4), (2, 4), (4, 4)]
    assert (score.low, score.high) == (0.0, 1.0), "few images have no interval to speak of"


def test_differences_are_paired_by_query() -> None:
    board = board_of(GALLERY, knower("right"), knower("swaps", SWAPPED))
    assert score_of(board, model="swaps").value == pytest.approx(2 / 6)
    deltas = board.where(minus="right", captions="all").pivot("model")["swaps",]
    delta = deltas["text_to_image_R@1"]
    assert (delta.value, delta.low, delta.high) == (pytest.approx(-4 / 6), -1, 1)  # of four images
    assert deltas["text_to_image_median_rank"].value > 0


def test_a_set_that_was_trained_on_is_refused_or_told_twice() -> None:
    seen = replace(GALLERY, guards={"ours": guard(0), "mine": guard(4)})
    models = [knower("ours"), knower("mine"), knower("theirs")]
    with pytest.raises(InputError, match=r"1 of the 7 images of colours .* trained on \(rosso: the same bytes"):
        refuse_seen([seen], models)
    refuse_seen([seen], models[2:])
    board = board_of(seen, *models)
    for model in ("ours", "mine", "theirs"):
        assert score_of(board, model=model).gallery == 4
        free = score_of(board, model=model, images="leak-free")
        assert (free.gallery, free.queries) == (2, 3)  # of the union: no model has an advantage
    leaked = {"ours": {"rosso": "the same bytes as wit:0"}, "mine": {"blu": "the same bytes as wit:4"}}
    assert board.sets[0].leaked == leaked


def test_what_looks_alike_is_told_twice_without_being_refused() -> None:
    suspected = replace(GALLERY, guards={"all": guard(alike=[2])})
    refuse_seen([suspected], [ALL])
    board = board_of(suspected)
    assert score_of(board, images="leak-free").gallery == 3
    _, notes = told_of(board)
    assert "1 look like training images of all, and may be others (verde: looks like wit:2)" in notes
    assert "none of the images are among those that all was trained on" in notes


@pytest.mark.parametrize(
    ("gallery", "check", "note"),
    [
        (GALLERY, guard(1, 3, 5), "none of the images are among those"),  # not there, broken, no picture
        (GALLERY, guard(*range(7)), "no image with a caption remains"),
        (BARE, guard(0, 2), "no image with a caption remains"),  # two images without captions do
        (GALLERY, LeakCheck(seen={}, ways=()), "it is not known if all was trained on any of the images"),
    ],
)
def test_where_there_are_no_leak_free_numbers_it_is_said_why(gallery: Gallery, check: LeakCheck, note: str) -> None:
    board = board_of(replace(gallery, guards={"all": check}))
    assert {row.images for row in board.rows} == {"all"}
    assert note in told_of(board)[1]


def test_a_picture_under_two_names_is_told() -> None:
    images = ["rosso", "gone", "verde", "broken-1", "rosso-2", "text", "broken-2"]
    board = board_of(gallery_of(images, ["rosso", "verde", "rosso"], [0, 2, 4]))
    assert score_of(board).value == pytest.approx(1 / 3)
    (note,) = board.sets[0].notes
    assert "(rosso, rosso-2), so they cannot be distinguished" in note
    assert board_of(GALLERY).sets[0].notes == ()
    how = {"name": "shades", "images": ["rosso", "blu", "rosso-2"], "read": read, "class_names": ["rosso", "blu"]}
    assert board_of(LabelledImages(labels=[0, 1, 0], **how)).sets[0].notes == ()
    (note,) = board_of(LabelledImages(labels=[0, 1, 1], **how)).sets[0].notes
    assert "(rosso, rosso-2), but different" in note


def test_differences_draw_images_with_all_of_their_captions() -> None:
    """As wide as of one caption an image: the five are not independent. No model tells the reds or the blues apart."""
    names = [f"{'rosso' if place % 3 else 'blu'}-{place}" for place in range(60)]
    owners = np.repeat(np.arange(60), 5).tolist()
    many = gallery_of(names, [f"{names[owner]} {number}" for number, owner in enumerate(owners)], owners)
    board = board_of(many, ALL, knower("swaps", SWAPPED), knower("again"))
    found = board.where(minus="all").pivot("model", "captions")
    every, one = (found["swaps", mode]["text_to_image_MRR@10"] for mode in ("all", "one"))
    assert every.high - every.low == pytest.approx(one.high - one.low, rel=0.05)
    again = found["again", "all"]["text_to_image_median_rank"]
    assert (again.value, again.low, again.high) == (0.0, 0.0, 0.0)
    # All captions of an image are right.
    assert score_of(board, "image_to_text_R@1").chance == pytest.approx(5 / 300)
    assert score_of(board).chance == pytest.approx(1 / 60)


def test_what_cannot_be_scored_is_refused() -> None:
    broken = replace(ALL.open(), text=TextEncoder(encode=lambda texts: torch.full((len(texts), 4), torch.nan)))
    for model, gallery, message in (
        (ALL, gallery_of(IMAGES, ["non c'è"], [1]), "no image of colours with a caption"),
        (ALL, replace(GALLERY, images=["gone"] * 7), "none of the 7 images of colours"),
        (ModelToScore(name="broken", open=lambda: broken), GALLERY, "NaN"),
    ):
        with pytest.raises(InputError, match=message):
            board_of(gallery, model)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two images a colour, in folders named by numbers; beside them what is no class."""
    for number, colour in enumerate(COLOURS):
        folder = tmp_path / "photos" / f"n0{number}"
        folder.mkdir(parents=True)
        for name in ("a.png", "b.PNG"):
            (folder / name).write_bytes(png(colour))
        for name in ("notes.txt", "._a.png"):
            (folder / name).write_text("no image, or of another system")
    (tmp_path / "photos" / "empty").mkdir()
    return tmp_path / "photos"


def accuracy(found: LabelledImages, captions: str = "bare", model: ModelToScore = ALL) -> ScoreRow:
    return score_of(board_of(found, model), "zero_shot_accuracy@1", model.name, captions)


def test_classes_are_found_by_their_names(folders: Path) -> None:
    found = labelled_images("shades", folders, WORDS, ["una foto di {c}", "{c} di notte"])
    for templates in ("bare", "templates"):
        score = accuracy(found, templates)
        assert (score.value, score.chance, score.gallery, score.queries) == (1.0, 0.25, 4, 8)
    by_folder = labelled_images("shades", folders, dict(zip(("n00", "n01", "n02", "n03"), WORDS, strict=True)), ["{c}"])
    assert by_folder.labels == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {row.captions for row in board_of(by_folder).rows} == {"bare"}


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


def test_classes_with_one_name_or_no_image_count_as_wrong_answers_and_no_pictures_as_missing(folders: Path) -> None:
    found = labelled_images("shades", folders, ["rosso", "rosso", "blu", "giallo"], ["{c}"])
    assert "2 classes share their name with another (rosso)" in found.notes[0]
    assert accuracy(found).value == 0.5
    (folders / "n02" / "phone.heic").write_bytes(b"not decoded here")
    (folders / "n02" / "gone.jpg").symlink_to(folders / "nowhere.jpg")
    (folders / "n02" / "old.jpe").write_bytes(png("blu"))
    names = {"n00": "rosso", "n01": "verde", "n02": "blu", "n03": "giallo", "n99": "viola"}
    found = labelled_images("shades", folders, names, ["{c}"])
    board = board_of(found)
    assert (board.rows[0].gallery, board.sets[0].num_missing, len(found.images)) == (5, 2, 11)


def test_names_that_do_not_fit(folders: Path) -> None:
    for folder, names, templates, error in (
        (".", WORDS[:3], ["{c}"], "the 3 class names do not fit the 4 folders"),
        (".", {"n00": "rosso"}, ["{c}"], "the 1 class names do not fit"),
        (".", WORDS, ["una foto"], "templates of shades must be a list of texts, each with {c}"),
        ("n00", WORDS, ["{c}"], "do not fit the 0 folders"),
        ("gone", WORDS, ["{c}"], "do not fit the 0 folders"),
    ):
        with pytest.raises(InputError, match=error):
            labelled_images("shades", folders / folder, names, templates)
    for name, number in (("n00", "10"), ("n01", "9"), ("n02", "11"), ("n03", "12")):
        (folders / name).rename(folders / number)
    with pytest.raises(InputError, match="in the order of their names as text"):  # as text 10, 9
        labelled_images("shades", folders, WORDS, ["{c}"])


@pytest.mark.parametrize(
    ("document", "key", "found"),
    [
        (["a", "b"], None, ["a", "b"]),
        ({"imagenet1k": ["a"], "pets": ["b"]}, "pets", ["b"]),
        ({"n01": "a", "n02": "b"}, None, {"n01": "a", "n02": "b"}),
        ({"imagenet1k": ["a"], "pets": ["b"]}, None, "choose one"),
        ({"n01": "a", "n02": " "}, None, "none of them empty"),
        ({"n01": "un \ud83d cane"}, None, "hex escape"),
    ],
)
def test_names_in_files(tmp_path: Path, document: object, key: str | None, found: object) -> None:
    path = tmp_path / "names.json"
    path.write_text(json.dumps(document))
    with pytest.raises(PipelineError, match=found) if isinstance(found, str) else nullcontext():
        assert read_texts(path, key, "class_names_key") == found
    path.write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        read_texts(path, key, "templates_key")


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
    assert score_of(board_of(gallery)).value == 1


def test_a_board_is_told_in_tables_with_published_numbers_beside(tmp_path: Path) -> None:
    named = replace(GALLERY, notes=("<b>|rosso|</b>",), guards={"right": guard(0)})
    how = {"name": "classes", "images": ["rosso", "blu"], "read": read, "class_names": ["rosso", "blu"]}
    models = [knower("right"), knower("swaps", WORDS[::-1])]
    board = score_models(models, [named, LabelledImages(labels=[0, 1], **how)], CONFIG)
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
    assert not other.rows
    assert "not comparable" in other.notes[0]
    text = markdown(found)
    assert "<b>" not in text
    assert "|rosso|" not in text
    assert "1 of the images are among those that right was trained on" in text
    assert list(json.loads(json.dumps(board.to_json()))["sets"][0]["leaked"]["right"]) == ["rosso"]
    write_scoreboard_plot(board, tmp_path / "board.png")
    with Image.open(tmp_path / "board.png") as picture:
        assert picture.width == 1020
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20


WORDED = [["Un cerchio rosso.", "un disco rosso"], ["un cerchio rosso", "Due stelle; blu!"], ["tre rombi"]]
WORDED += [["due stelle blu", "una croce"]]


def test_a_mode_takes_all_captions_the_first_or_those_whose_words_are_of_one_image() -> None:
    def chosen(worded: list[list[str]], mode: str) -> list[bool]:
        owners = np.repeat(np.arange(len(worded)), [len(texts) for texts in worded])
        return chosen_captions([text for texts in worded for text in texts], owners, mode).tolist()

    assert chosen(WORDED, "all") == [True] * 7
    assert chosen(WORDED, "one") == [True, False, True, False, True, True, False]
    # "un cerchio rosso" is of images 0 and 1, "due stelle blu" of 1 and 3.
    assert chosen(WORDED, "distinct") == [False, True, False, False, True, False, True]
    assert chosen([["a b", "A  B."], ["c"]], "distinct") == [True, True, True], "of one image alone"
    told = [wording(text) for text in ("C'È una CITTÀ", "Straße", "हिन्दी चित्र", "赤い、丸。", "…")]
    assert told == ["c è una città", "strasse", "हिन्दी चित्र", "赤い 丸", ""]


def test_a_perfect_model_scores_one_wherever_captions_tell_images_apart() -> None:
    words = [f"{colour} {number}" for colour, texts in zip(WORDS, WORDED, strict=True) for number in range(len(texts))]
    owners = np.repeat(np.arange(4), [len(texts) for texts in WORDED]).tolist()
    perfect = board_of(gallery_of(WORDS, words, owners))
    assert {row.value for row in perfect.rows} == {1.0}
    told = [name for name in METRIC_OF if not name.startswith("zero_shot")]
    assert {(row.metric, row.captions) for row in perfect.rows} == set(product(told, ("all", "one", "distinct")))
    board = board_of(gallery_of(WORDS, [text for texts in WORDED for text in texts], owners))
    distinct = score_of(board, "text_to_image_MRR@5", captions="distinct")
    assert (distinct.queries, distinct.left_out, distinct.gallery) == (3, 4, 4)
    # Images 0, 2 and 3 have a caption of their own; image 1 asks nothing.
    backwards = score_of(board, "image_to_text_R@1", captions="distinct")
    assert (backwards.queries, backwards.left_out, backwards.gallery) == (3, 1, 3)
    assert score_of(board, "image_to_text_R@1").gallery == 7
    with pytest.raises(KeyError, match="text_to_image_MRR@7"):
        board.get("text_to_image_MRR@7")
    same = gallery_of(["rosso", "rosso-1", "rosso-2"], ["a", "b", "c"], [0, 1, 2])
    assert score_of(board_of(same)).value == 0, "ties count against the model"
    first = perfect.table()[0]
    assert list(first.values()) == ["text_to_image_MRR@1", "all", "1.0000", "0.0000-1.0000", "0.2500", 4, 7, 0]


def test_a_board_is_read_as_it_was_written_and_nothing_else_is(tmp_path: Path) -> None:
    board = board_of(replace(GALLERY, guards={"right": guard(0)}), knower("right"), knower("swaps", SWAPPED))
    path = tmp_path / "scoreboard.json"
    write_json(path, {**board.to_json(), "protocols": {}})
    assert Board.read(path) == board
    first, *others = board.to_json()["rows"]
    for changed, message in (
        ({"value": True}, "rows.0.value"),
        ({"value": float("nan")}, "rows.0.value"),
        ({"gallery": 3.7}, "rows.0.gallery"),
        ({"odd": 1}, "rows.0.odd"),
    ):
        path.write_text(json.dumps({**board.to_json(), "rows": [{**first, **changed}, *others]}))
        with pytest.raises(InputError, match=rf"scoreboard.json is not a valid table of scores: .*{message}"):
            Board.read(path)
    for text, message in (
        ("[]", "should be an object"),
        ("{}", "rows Field required"),
        ("{", "EOF"),
        ("[" * 100_000, "recursion"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            Board.read(path)
