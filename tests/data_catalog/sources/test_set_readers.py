"""Readers of test sets: rows read, malformed rows reported, and wrong files refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import PipelineError
from data_catalog.sources import test_sets

LONG = "parola " * 1_430  # 10,010 characters
RTL = "כלב רץ על החוף"


def write(folder: Path, contents: dict[str, str | bytes | Any]) -> tuple[str, ...]:
    """Texts and bytes as they are, anything else as JSON."""
    for name, content in contents.items():
        if not isinstance(content, str | bytes):
            content = json.dumps(content)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return tuple(str(folder / name) for name in contents)


def load(folder: Path, kind: str, contents: dict[str, Any], **options: Any) -> test_sets.TestSetImages:
    """Check a set of files as a build does before it starts, then read it."""
    test_set = test_sets.TEST_SET_KINDS[kind]
    config = test_set.config_type(files=write(folder, contents), **options)
    test_set.check(config)
    assert [str(path) for path in test_set.upstream_files(config)] == sorted(config.files)
    return test_set.load(config)


def brief(gathered: test_sets.TestSetImages) -> list[tuple[str, set[str], tuple[str, ...]]]:
    return [(image.name, set(image.identities), image.captions) for image in gathered.images]


def reasons(gathered: test_sets.TestSetImages) -> dict[str, list[int]]:
    """Return the lines or records that are malformed, by reason."""
    found: dict[str, list[int]] = {}
    for row in gathered.malformed:
        found.setdefault(row.reason, []).append(row.upstream_line)
    return found


def coco(images: list[Any], annotations: Any) -> dict[str, Any]:
    return {"images": images} if annotations is None else {"images": images, "annotations": annotations}


IMAGE_9 = {"id": 9, "file_name": "COCO_val2014_000000000009.jpg"}
IMAGE_7 = {
    "id": "7",
    "file_name": "000000000007.jpg",
    "coco_url": "http://images.cocodataset.org/val2017/000000000007.jpg",
    "flickr_url": "http://farm6.staticflickr.com/5024/5101244485_5b7e2e4b6e_z.jpg",
}
CAPTION_9 = {"image_id": 9, "caption": "Un cane"}


def test_coco_with_broken_rows(tmp_path: Path) -> None:
    images = [IMAGE_9, {"id": 8}, "x", {"id": None, "file_name": "a.jpg"}, {"id": 10, "file_name": "città 1.jpg"}]
    captions = {"Un cane": 9, RTL: "000009", "of an image without a name": 8, "": 9, "a\0b": 9, "of no image": None}
    captions |= {LONG: 9, "of an id of thousands of digits": "9" * 5000}
    annotations = [{"image_id": image, "caption": caption} for caption, image in captions.items()]
    found = load(tmp_path, "mscoco_it", {"captions.json": coco(images, [*annotations, None, {"image_id": 9}])})
    assert brief(found) == [
        ("COCO_val2014_000000000009.jpg", {"coco:9"}, ("Un cane", RTL, LONG)),
        ("città 1.jpg", set(), ()),  # of another set in the same form, whose ids are not MSCOCO's
    ]
    lines = {"image_missing": [2, 3, 4, 3, 6, 8, 9], "caption_missing": [4, 10], "bad_encoding": [5]}
    assert reasons(found) == lines


def test_images_of_several_files_are_one_where_they_have_one_name(tmp_path: Path) -> None:
    first = coco([IMAGE_9 | {"url": "http://farm1.static.flickr.com/2/1418878_1e92283336_z.jpg"}], [CAPTION_9])
    second = coco([IMAGE_9, IMAGE_7], [{"image_id": 9, "caption": "Un gatto"}])
    content = gzip.compress(json.dumps(second).encode())
    nine, seven = load(
        tmp_path, "coco", {"a.json": first, "b.json.gz": content, "c.json": coco([IMAGE_7], None)}
    ).images
    assert (nine.name, nine.captions) == ("COCO_val2014_000000000009.jpg", ("Un cane", "Un gatto"))
    assert (seven.name, seven.captions) == ("000000000007.jpg", ())
    assert {"coco:9", "flickr:1418878"} < nine.identities
    assert {"coco:7", "flickr:5101244485", "url:images.cocodataset.org/val2017/000000000007.jpg"} < seven.identities


def test_captions_of_an_id_that_two_images_have_are_of_none(tmp_path: Path) -> None:
    content = coco([IMAGE_9, {**IMAGE_7, "id": 9}, {**IMAGE_7, "id": 7}], [CAPTION_9, CAPTION_9 | {"image_id": 7}])
    found = load(tmp_path, "coco", {"a.json": content})
    assert [(image.name, image.captions) for image in found.images] == [
        ("COCO_val2014_000000000009.jpg", ()),
        ("000000000007.jpg", ("Un cane",)),
    ]
    assert [row.detail for row in found.malformed] == ["several images have the id 9"]


NAMES = "COCO_train2014_000000061844.jpg\nCOCO_train2014_000000061849.jpg\nCOCO_val2014_000000129945.jpg\n"


def test_xtd10(tmp_path: Path) -> None:
    files = {
        "test_image_names.txt": NAMES,
        # As upstream has it: CRLF, and no end of the last line.
        "test_1kcaptions_it.txt": "partita di baseball\r\n\r\nuna pizza \u2028 intera",
        "test_1kcaptions_jp.txt": "黒いユニフォーム\nピザ\n犬\n",
        "test_1kcaptions_ru.txt": b"\xd0\xb8\xd0\xb3\xd1\x80\xd0\xb0\n\xff\xfe\n\xd0\xbf\xd1\x91\xd1\x81\n",
    }
    found = load(tmp_path, "xtd10", files, num_images=3)
    assert brief(found) == [
        ("COCO_train2014_000000061844.jpg", {"coco:61844"}, ("partita di baseball", "黒いユニフォーム", "игра")),
        ("COCO_train2014_000000061849.jpg", {"coco:61849"}, ("ピザ",)),
        ("COCO_val2014_000000129945.jpg", {"coco:129945"}, ("una pizza \u2028 intera", "犬", "пёс")),
    ]
    assert reasons(found) == {"caption_missing": [2], "bad_encoding": [2]}
    chosen = load(tmp_path, "xtd10", files, num_images=3, languages=("ja",))
    assert [image.captions for image in chosen.images] == [("黒いユニフォーム",), ("ピザ",), ("犬",)]


def test_blank_and_broken_lines_in_xtd10_move_no_caption(tmp_path: Path) -> None:
    for names, captions, expected, malformed in (
        (f"{NAMES}\n\n", "uno\ndue\n\n\n\n", ["uno", "due", None], {"caption_missing": [3]}),
        (NAMES.replace("COCO_train2014_000000061849.jpg", "61849"), "1\n2\n3", ["1", "3"], {"image_missing": [2]}),
    ):
        found = load(tmp_path, "xtd10", {"n.txt": names, "test_1kcaptions_it.txt": captions}, num_images=0)
        assert [next(iter(image.captions), None) for image in found.images] == expected
        assert reasons(found) == malformed


def karpathy(dataset: str, *entries: dict[str, Any]) -> dict[str, Any]:
    return {"dataset": dataset, "images": list(entries)}


def sentences(*texts: object) -> list[dict[str, object]]:
    return [{"raw": text, "tokens": [], "sentid": number} for number, text in enumerate(texts)]


def test_karpathys_splits(tmp_path: Path) -> None:
    entries = [(391895, "val", "test", ["A man", None, "  "]), (9, "val", "val", ["A dog"])]
    entries += [
        (10, "train", "restval", ["A"]),
        (11, "val", "test", []),
        (None, "val", "test", ["Of no name"]),
    ]
    images: list[dict[str, Any]] = [
        {"cocoid": number, "split": split, "sentences": sentences(*texts)}
        | ({"filename": f"COCO_{folder}2014_{number:012}.jpg"} if number else {})
        for number, folder, split, texts in entries
    ]
    document = karpathy("coco", *images)
    found = load(tmp_path, "karpathy", {"dataset_coco.json": document})
    assert brief(found) == [
        ("COCO_val2014_000000391895.jpg", {"coco:391895"}, ("A man",)),
        ("COCO_val2014_000000000011.jpg", {"coco:11"}, ()),
    ]
    assert {reason: len(rows) for reason, rows in reasons(found).items()} == {"caption_missing": 3, "image_missing": 1}
    both = load(tmp_path, "karpathy", {"dataset_coco.json": document}, splits=("test", "val"))
    assert {identity for image in both.images for identity in image.identities} == {"coco:391895", "coco:9", "coco:11"}
    train = load(tmp_path, "karpathy", {"dataset_coco.json": document}, splits=("train",))
    assert [image.name for image in train.images] == ["COCO_train2014_000000000010.jpg"]
    image = {"filename": "1016887272.jpg", "split": "test", "sentences": sentences("A girl", RTL)}
    for kind in ("karpathy", "flickr30k"):
        found = load(tmp_path, kind, {"dataset_flickr.json": karpathy("flickr", image)})
        assert brief(found) == [("1016887272.jpg", {"flickr:1016887272"}, ("A girl", RTL))]


def test_flickr8k_by_its_lists(tmp_path: Path) -> None:
    first, second, third = "3385593926_d3e9c21170.jpg", "2677656448_6b7e7702af.jpg", "311146855_0b65fdb169.jpg"
    tokens = [
        f"{first}#0\tDogs are in the snow .",
        f"{first}#1\tThree dogs .",
        "1000268201_693b08cb0e.jpg#0\tOf none",
    ]
    tokens += [f"{second}.1#0\tA man", f"{second}#1\t ", "broken\n"]
    images = f"{first}\r\n{second} \r\n\r\nnonsense\r\n{third}"
    files = {"Flickr_8k.testImages.txt": images, "Flickr8k.token.txt": "\n".join(tokens)}
    found = load(tmp_path, "flickr8k", files)
    assert brief(found) == [
        (first, {"flickr:3385593926"}, ("Dogs are in the snow .", "Three dogs .")),
        (second, {"flickr:2677656448"}, ("A man",)),
        (third, {"flickr:311146855"}, ()),
    ]
    # The last image of the list, in line 5, has no captions.
    assert reasons(found) == {"image_missing": [4], "caption_missing": [5, 5], "malformed_row": [6]}


def test_flickr30k_by_a_list_of_numbers(tmp_path: Path) -> None:
    captions = {
        "results_20130124.token": "1016887272.jpg#0\tSeveral climbers\n36979.jpg#0\tA training image\n",
        "results.csv": "image_name| comment_number| comment\n1016887272.jpg| 0| Several climbers\n36979.jpg| 0| A\n",
        "captions.txt": "image,caption\n1016887272.jpg,Several climbers\n36979.jpg,A\n",
    }
    for files in ({}, *({name: text} for name, text in captions.items())):
        found = load(tmp_path, "flickr30k", {"test.txt": "1016887272\n7162685234\n1016887272\n", **files})
        assert brief(found) == [
            ("1016887272.jpg", {"flickr:1016887272"}, ("Several climbers",) if files else ()),
            ("7162685234.jpg", {"flickr:7162685234"}, ()),
        ]
        assert len(found.malformed) == len(files)


def crossmodal(key: object, **languages: Any) -> str:
    return json.dumps({"image/key": key, "image/locale": "bn", **languages}, ensure_ascii=False)


def test_crossmodal(tmp_path: Path) -> None:
    captions = {
        "it": {"caption": ["Un fiume", "Una barca"], "caption/tokenized": ["Un fiume"]},
        "he": {"caption": [RTL]},
    }
    lines = [
        crossmodal("000411001ff7dd4f", **captions),
        "{broken",
        crossmodal("not a key", it={"caption": ["a"]}),
        crossmodal(7, it={"caption": ["a"]}),
        "[]",
        "",
        crossmodal("00A1B2C3D4E5F607", it={"caption": ["Un cane", None, " "]}, quz={"caption": []}, extra="x"),
    ]
    flickr = "c1.staticflickr.com/2/1534/24148019753_bc3bb60f50_o.jpg"
    attributions = (
        "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title\n"
        f'000411001ff7dd4f,test,https://{flickr},https://www.flickr.com/photos/a/24148019753,,,A,"Boats, two"\n'
        "ffffffffffffffff,test,https://c1.staticflickr.com/2/1534/1_bc3bb60f50_o.jpg,,,,,of another set\n"
    )
    files = {"captions.jsonl": "\n".join(lines), "image_attributions.csv": attributions}
    found = load(tmp_path, "crossmodal3600", files, num_images=2)
    identities = {"openimages:000411001ff7dd4f", "flickr:24148019753", f"url:{flickr}"}
    assert brief(found) == [
        ("000411001ff7dd4f.jpg", identities, ("Un fiume", "Una barca", RTL)),
        ("00a1b2c3d4e5f607.jpg", {"openimages:00a1b2c3d4e5f607"}, ("Un cane",)),
    ]
    assert reasons(found) == {"malformed_row": [2, 5], "image_missing": [3, 4], "caption_missing": [7, 7]}
    hebrew = load(tmp_path, "crossmodal3600", files, num_images=2, languages=("he",))
    assert [image.captions for image in hebrew.images] == [(RTL,), ()]
    assert len(hebrew.malformed) == 4


def test_a_table_of_the_users_own_or_json_lines_with_lists_of_captions(tmp_path: Path) -> None:
    table = (
        "file,where,id,text\n"
        'a.jpg,,coco:9 flickr:8,"Un cane, ""due"""\n'
        "a.jpg,,,Un gatto\n"
        ",https://example.org/citt%c3%a0.jpg,,\n"
        "b.jpg,not a URL,,Un topo\n"
        "c.jpg,,mine:7,Un topo\n"
        ",,,Di niente\n"
        'd.jpg,,,"mai chiuso\n'
    )
    columns = {"path_column": "file", "url_column": "where", "identity_column": "id", "caption_column": "text"}
    found = load(tmp_path, "pairs", {"mine.csv": table}, **columns)
    assert brief(found) == [
        ("a.jpg", {"coco:9", "flickr:8"}, ('Un cane, "due"', "Un gatto")),
        ("https://example.org/citt%c3%a0.jpg", {"url:example.org/citt%C3%A0.jpg"}, ()),
    ]
    assert reasons(found) == {"caption_missing": [4], "image_missing": [5, 7], "malformed_row": [6, 8]}
    lines = [json.dumps({"image": "foto/a.jpg", "captions": ["Un cane", RTL, 7]}), json.dumps({"image": 5})]
    found = load(tmp_path, "pairs", {"a.jsonl": "\n".join(lines)}, path_column="image", caption_column="captions")
    assert brief(found) == [("foto/a.jpg", set(), ("Un cane", RTL))]
    assert reasons(found) == {"caption_missing": [1], "image_missing": [2]}


def test_a_list_of_the_users_own(tmp_path: Path) -> None:
    content = (
        "\ufeffcittà 1.jpg\r\n\nCOCO_val2014_000000000009.jpg\nhttps://example.org/a.jpg\n"
        "wikimedia:duomo.jpg\ncoco:x\n\xe9\0\n"
    )
    found = load(tmp_path, "list", {"mine.txt": content})
    assert brief(found) == [
        ("città 1.jpg", set(), ()),
        ("COCO_val2014_000000000009.jpg", {"coco:9"}, ()),
        ("https://example.org/a.jpg", {"url:example.org/a.jpg"}, ()),
        ("wikimedia:duomo.jpg", {"wikimedia:Duomo.jpg"}, ()),
    ]
    assert reasons(found) == {"malformed_row": [6], "bad_encoding": [7]}


LIST, RIVER = {"test_image_names.txt": NAMES}, crossmodal("000411001ff7dd4f", it={"caption": ["Un fiume"]})
VAL = {"a.json": karpathy("flickr8k", {"filename": "1_2.jpg", "split": "val", "sentences": sentences("A girl")})}


@pytest.mark.parametrize(
    ("kind", "contents", "options", "message"),
    [
        ("coco", {"a.json": b""}, {}, "is empty"),
        ("coco", {"a.json": coco([{"id": 1}], [CAPTION_9])}, {}, "has 0 images, and 2 .*record 1: image_missing"),
        # One damaged file spoils the set: it is all of it or nothing.
        ("coco", {"a.json": coco([IMAGE_9], []), "b.json": b'{"images": [{"id": 9'}, {}, "b.json is not valid JSON"),
        ("coco", {"a.json": coco([IMAGE_9], []), "b.json": b"[]"}, {}, "b.json is not a COCO captions JSON"),
        ("xtd10", {**LIST, "test_1kcaptions_it.txt": "uno\ndue"}, {"num_images": 3}, "2 captions in"),
        ("xtd10", LIST, {}, "3 images instead of 1000, and 0 malformed rows"),
        ("xtd10", LIST, {"languages": ("fr",)}, "no captions in fr: the files have"),
        ("karpathy", VAL, {}, "no image of the split test"),
        (
            "flickr30k",
            {"a.token": "1016887272.jpg#0\tSeveral climbers\n"},
            {},
            "has 0 images, .*expected a list",
        ),
        ("flickr30k", {"a.txt": "1016887272\n", "b.txt": "foto.png\n"}, {}, "b.txt is not a list of image names"),
        ("crossmodal3600", {"captions.jsonl": RIVER}, {}, "1 images instead of 3600"),
        ("pairs", {"a.csv": "url\na"}, {"url_column": "url", "images": "/tmp"}, "images needs path_column"),
        ("list", {"mine.txt": "coco:x\nflickr:y"}, {}, "0 images, .*mine.txt, line or record 1: malformed_row"),
    ],
)
def test_a_set_that_is_damaged_or_another_is_refused(
    tmp_path: Path, kind: str, contents: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        load(tmp_path, kind, contents, **options)
