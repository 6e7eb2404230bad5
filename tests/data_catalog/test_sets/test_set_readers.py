"""Readers of test sets: rows read, malformed rows reported, and wrong files refused."""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_catalog import test_sets
from data_catalog.errors import InputError, PipelineError, SettingsError

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


def reasons(gathered: test_sets.TestSetImages) -> list[tuple[int, str]]:
    return [(row.upstream_line, row.reason) for row in gathered.malformed]


def refusal(folder: Path, kind: str, contents: dict[str, Any], **options: Any) -> str:
    with pytest.raises(PipelineError) as caught:
        load(folder, kind, contents, **options)
    return str(caught.value)


def coco(images: list[Any], annotations: list[Any] | None) -> dict[str, Any]:
    return {"images": images} if annotations is None else {"images": images, "annotations": annotations}


IMAGE_9 = {"id": 9, "file_name": "COCO_val2014_000000000009.jpg"}
IMAGE_7 = {
    "id": "7",
    "file_name": "000000000007.jpg",
    "coco_url": "http://images.cocodataset.org/val2017/000000000007.jpg",
    "flickr_url": "http://farm6.staticflickr.com/5024/5101244485_5b7e2e4b6e_z.jpg",
}


@pytest.mark.parametrize("kind", ["coco", "mscoco_it"])
def test_coco_with_broken_rows(tmp_path: Path, kind: str) -> None:
    document = coco(
        [IMAGE_9, {"id": 8}, "x", {"id": None, "file_name": "a.jpg"}],
        [
            {"image_id": "9", "caption": "Un cane"},
            {"image_id": "000009", "caption": "Un cane"},
            {"image_id": 9, "caption": RTL},
            {"image_id": 8, "caption": "of an image without a name"},
            {"image_id": 9, "caption": None},
            {"image_id": 9, "caption": "  "},
            {"image_id": 9, "caption": 7},
            {"image_id": 9, "caption": "a\0b"},
            {"caption": "of no image"},
            None,
            {"image_id": 9, "caption": LONG},
        ],
    )
    found = load(tmp_path, kind, {"captions.json": document})
    assert brief(found) == [("COCO_val2014_000000000009.jpg", {"coco:9"}, ("Un cane", "Un cane", RTL, LONG))]
    assert reasons(found) == [
        *[(number, "image_missing") for number in (2, 3, 4)],
        (4, "image_missing"),
        *[(number, "caption_missing") for number in (5, 6, 7)],
        (8, "bad_encoding"),
        (9, "image_missing"),
        (10, "image_missing"),
    ]


def test_coco_images_have_their_flickr_numbers_too(tmp_path: Path) -> None:
    document = coco([IMAGE_7, {**IMAGE_9, "url": "http://farm1.static.flickr.com/2/1418878_1e92283336_z.jpg"}], [])
    seven, nine = load(tmp_path, "coco", {"a.json": document}).images
    assert {"coco:7", "flickr:5101244485", "url:images.cocodataset.org/val2017/000000000007.jpg"} < seven.identities
    assert {"coco:9", "flickr:1418878"} < nine.identities
    assert seven.captions == ()


def test_images_of_several_files_are_one_where_they_have_one_name(tmp_path: Path) -> None:
    first = coco([IMAGE_9], [{"image_id": 9, "caption": "Un cane"}])
    second = coco([IMAGE_9, IMAGE_7], [{"image_id": 9, "caption": "Un gatto"}])
    content = gzip.compress(json.dumps(second).encode())
    found = load(tmp_path, "mscoco_it", {"a.json": first, "b.json.gz": content, "c.json": coco([IMAGE_7], None)})
    assert [(image.name, image.captions) for image in found.images] == [
        ("COCO_val2014_000000000009.jpg", ("Un cane", "Un gatto")),
        ("000000000007.jpg", ()),
    ]


def test_ids_of_another_set_in_the_same_form_are_no_ids_of_mscoco(tmp_path: Path) -> None:
    document = coco([{"id": 9, "file_name": "città 1.jpg"}], [{"image_id": 9, "caption": "Un cane"}])
    assert brief(load(tmp_path, "coco", {"mine.json": document})) == [("città 1.jpg", set(), ("Un cane",))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"{}", "lists no images"),
        (b"[]", "lists no images"),
        (coco([], []), "lists no images"),
        (coco([IMAGE_9], [{"image_id": 9, "bbox": [1, 2, 3, 4]}]), "annotations without captions"),
        ({"images": [IMAGE_9], "annotations": 7}, "annotations without captions"),
        (json.dumps(coco([IMAGE_9], []))[:-5].encode(), "not valid JSON|ends too early"),
        (gzip.compress(json.dumps(coco([IMAGE_9], [])).encode())[:-9], "truncated gzip"),
        (b'{"images": "\xff"}', "not UTF-8"),
    ],
)
def test_coco_files_that_are_damaged_or_something_else(tmp_path: Path, content: Any, message: str) -> None:
    whole = coco([IMAGE_9], [{"image_id": 9, "caption": "Un cane"}])
    with pytest.raises(InputError, match=message):
        load(tmp_path, "mscoco_it", {"a.json": content})
    # One damaged file spoils the set: it is all of it or nothing.
    with pytest.raises(InputError, match=message):
        load(tmp_path, "mscoco_it", {"a.json": whole, "b.json": content})


def test_a_coco_file_with_repeated_ids_or_names_is_refused(tmp_path: Path) -> None:
    captions = [{"image_id": 9, "caption": "Un cane"}]
    message = refusal(tmp_path, "coco", {"a.json": coco([IMAGE_9, {**IMAGE_7, "id": 9}], captions)})
    assert "a.json has several images with the id 9" in message
    twice = json.dumps(coco([IMAGE_9], captions))[:-1] + ', "annotations": []}'
    assert "'annotations' is repeated" in refusal(tmp_path, "coco", {"a.json": twice})


def test_an_id_of_thousands_of_digits_affects_its_row_only(tmp_path: Path) -> None:
    digits = "9" * 5000
    text = json.dumps(coco([IMAGE_9], [{"image_id": n, "caption": "Un cane"} for n in (9, digits, -1, 9)]))
    found = load(tmp_path, "coco", {"a.json": text.replace("-1", digits)})
    assert brief(found) == [("COCO_val2014_000000000009.jpg", {"coco:9"}, ("Un cane", "Un cane"))]
    assert reasons(found) == [(2, "image_missing"), (3, "image_missing")]


def test_coco_without_one_image_that_can_be_read(tmp_path: Path) -> None:
    message = refusal(tmp_path, "coco", {"a.json": coco([{"id": 1}], [{"image_id": 1, "caption": "a"}])})
    assert "the coco test set has no image in" in message
    assert "line or record 1: image_missing" in message


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
    assert reasons(found) == [(2, "caption_missing"), (2, "bad_encoding")]
    chosen = load(tmp_path, "xtd10", files, num_images=3, languages=("ja",))
    assert [image.captions for image in chosen.images] == [("黒いユニフォーム",), ("ピザ",), ("犬",)]


def test_a_last_caption_that_is_blank_is_a_caption(tmp_path: Path) -> None:
    files = {"test_image_names.txt": NAMES + "\n\n", "test_1kcaptions_it.txt": "uno\ndue\n\n\n\n"}
    found = load(tmp_path, "xtd10", files, num_images=3)
    assert [image.captions for image in found.images] == [("uno",), ("due",), ()]
    assert reasons(found) == [(3, "caption_missing")]


def test_a_broken_name_in_xtd10_moves_no_caption(tmp_path: Path) -> None:
    names = NAMES.replace("COCO_train2014_000000061849.jpg", "61849")
    found = load(tmp_path, "xtd10", {"n.txt": names, "test_1kcaptions_it.txt": "uno\ndue\ntre"}, num_images=0)
    assert [(image.name[-10:], image.captions) for image in found.images] == [
        ("061844.jpg", ("uno",)),
        ("129945.jpg", ("tre",)),
    ]
    assert reasons(found) == [(2, "image_missing")]
    assert "2 images instead of 3, and 1 malformed rows" in refusal(
        tmp_path, "xtd10", {"n.txt": names, "test_1kcaptions_it.txt": "uno\ndue\ntre"}, num_images=3
    )


def test_xtd10_files_of_different_lengths_are_refused(tmp_path: Path) -> None:
    captions = {"test_1kcaptions_it.txt": "uno\ndue"}
    names = {"test_image_names.txt": NAMES}
    assert "2 captions in" in refusal(tmp_path, "xtd10", {**names, **captions}, num_images=3)
    assert "3 images instead of 1000" in refusal(tmp_path, "xtd10", names)
    longer = {"test_1kcaptions_it.txt": "uno\ndue\ntre\nquattro"}
    assert "4 captions in" in refusal(tmp_path, "xtd10", {**names, **longer}, num_images=3)
    assert "0 lists of image names" in refusal(tmp_path, "xtd10", captions)
    assert "2 lists of image names" in refusal(tmp_path, "xtd10", {**names, "more.txt": NAMES})
    assert "no list of captions in fr" in refusal(tmp_path, "xtd10", names, languages=("fr",))
    assert "is not XTD10's" in refusal(tmp_path, "xtd10", {"README.md": "# Welcome", **names})
    assert "is empty" in refusal(tmp_path, "xtd10", {**names, "test_1kcaptions_it.txt": ""})


def karpathy(dataset: str, *entries: dict[str, Any]) -> dict[str, Any]:
    return {"dataset": dataset, "images": list(entries)}


def sentences(*texts: object) -> list[dict[str, object]]:
    return [{"raw": text, "tokens": [], "sentid": number} for number, text in enumerate(texts)]


COCO_SPLITS = karpathy(
    "coco",
    {
        "filename": "COCO_val2014_000000391895.jpg",
        "cocoid": 391895,
        "split": "test",
        "sentences": sentences("A man", None, "  "),
    },
    {"filename": "COCO_val2014_000000000009.jpg", "cocoid": 9, "split": "val", "sentences": sentences("A dog")},
    {"filename": "COCO_train2014_000000000010.jpg", "cocoid": 10, "split": "restval", "sentences": sentences("A cat")},
    {"filename": "COCO_val2014_000000000011.jpg", "cocoid": 11, "split": "test", "sentences": []},
    {"cocoid": 12, "split": "test", "sentences": sentences("Of a nameless image")},
)


def test_karpathys_splits(tmp_path: Path) -> None:
    found = load(tmp_path, "karpathy", {"dataset_coco.json": COCO_SPLITS})
    assert brief(found) == [
        ("COCO_val2014_000000391895.jpg", {"coco:391895"}, ("A man",)),
        ("COCO_val2014_000000000011.jpg", {"coco:11"}, ()),
    ]
    assert [reason for _, reason in reasons(found)] == ["caption_missing"] * 3 + ["image_missing"]
    both = load(tmp_path, "karpathy", {"dataset_coco.json": COCO_SPLITS}, splits=("test", "val"))
    assert {identity for image in both.images for identity in image.identities} == {"coco:391895", "coco:9", "coco:11"}
    train = load(tmp_path, "karpathy", {"dataset_coco.json": COCO_SPLITS}, splits=("train",))
    assert [image.name for image in train.images] == ["COCO_train2014_000000000010.jpg"]


@pytest.mark.parametrize(
    ("kind", "filename", "number"),
    [
        ("karpathy", "1016887272.jpg", "1016887272"),
        ("flickr30k", "1016887272.jpg", "1016887272"),
        ("flickr8k", "1000268201_693b08cb0e.jpg", "1000268201"),
    ],
)
def test_karpathys_flickr_sets(tmp_path: Path, kind: str, filename: str, number: str) -> None:
    document = karpathy("flickr", {"filename": filename, "split": "test", "sentences": sentences("A girl", RTL)})
    found = load(tmp_path, kind, {"dataset_flickr.json": document})
    assert brief(found) == [(filename, {f"flickr:{number}"}, ("A girl", RTL))]


def test_wrong_karpathy_files_are_refused(tmp_path: Path) -> None:
    val = karpathy("flickr8k", {"filename": "1_2.jpg", "split": "val", "sentences": sentences("A girl")})
    assert "no image of the split test: it has val" in refusal(tmp_path, "karpathy", {"a.json": val})
    assert "no image of the split test" in refusal(tmp_path, "flickr8k", {"a.json": val})
    assert "lists no images" in refusal(tmp_path, "karpathy", {"a.json": {"images": {}}})
    assert "without 'filename' and 'sentences'" in refusal(tmp_path, "karpathy", {"a.json": coco([IMAGE_9], [])})
    assert "splits must be some of" in refusal(tmp_path, "karpathy", {"a.json": val}, splits=("testing",))
    assert "splits must be some of" in refusal(tmp_path, "flickr30k", {"a.json": val}, splits=())


def test_flickr8k_by_its_lists(tmp_path: Path) -> None:
    files = {
        "Flickr_8k.testImages.txt": (
            "3385593926_d3e9c21170.jpg\r\n2677656448_6b7e7702af.jpg \r\n\r\nnonsense\r\n311146855_0b65fdb169.jpg"
        ),
        "Flickr8k.token.txt": (
            "3385593926_d3e9c21170.jpg#0\tDogs are in the snow .\n"
            "3385593926_d3e9c21170.jpg#1\tThree dogs .\n"
            "1000268201_693b08cb0e.jpg#0\tA training image .\n"
            "2677656448_6b7e7702af.jpg.1#0\tA man\n"
            "2677656448_6b7e7702af.jpg#1\t \n"
            "broken\n"
        ),
    }
    found = load(tmp_path, "flickr8k", files)
    assert brief(found) == [
        ("3385593926_d3e9c21170.jpg", {"flickr:3385593926"}, ("Dogs are in the snow .", "Three dogs .")),
        ("2677656448_6b7e7702af.jpg", {"flickr:2677656448"}, ("A man",)),
        ("311146855_0b65fdb169.jpg", {"flickr:311146855"}, ()),
    ]
    assert reasons(found) == [
        (4, "image_missing"),
        (5, "caption_missing"),
        (6, "malformed_row"),
        (5, "caption_missing"),  # the last image of the list has none
    ]


@pytest.mark.parametrize(
    ("name", "captions"),
    [
        ("results_20130124.token", "1016887272.jpg#0\tSeveral climbers\n36979.jpg#0\tA training image\n"),
        ("results.csv", "image_name| comment_number| comment\n1016887272.jpg| 0| Several climbers\n36979.jpg| 0| A\n"),
        ("captions.txt", "image,caption\n1016887272.jpg,Several climbers\n36979.jpg,A\n"),
    ],
)
def test_flickr30k_by_a_list_of_numbers(tmp_path: Path, name: str, captions: str) -> None:
    found = load(tmp_path, "flickr30k", {"test.txt": "1016887272\n7162685234\n", name: captions})
    assert brief(found) == [
        ("1016887272.jpg", {"flickr:1016887272"}, ("Several climbers",)),
        ("7162685234.jpg", {"flickr:7162685234"}, ()),
    ]


def test_a_list_by_itself_guards_images(tmp_path: Path) -> None:
    found = load(tmp_path, "flickr30k", {"test.txt": "1016887272\n7162685234\n1016887272\n"})
    assert [(image.name, image.captions) for image in found.images] == [("1016887272.jpg", ()), ("7162685234.jpg", ())]
    assert not found.malformed


def test_captions_without_a_list_of_test_images_are_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, "flickr30k", {"results_20130124.token": "1016887272.jpg#0\tSeveral climbers\n"})
    assert "but no list of the test images" in message
    assert "2 images instead of 1000" in refusal(tmp_path, "flickr30k", {"test.txt": "1\n2"}, num_images=1000)
    assert "is empty" in refusal(tmp_path, "flickr30k", {"test.txt": ""})
    assert "is not Flickr captions" in refusal(tmp_path, "flickr30k", {"test.txt": "1", "more.txt": "something else"})


def crossmodal(key: object, **languages: Any) -> str:
    return json.dumps({"image/key": key, "image/locale": "bn", **languages}, ensure_ascii=False)


def test_crossmodal(tmp_path: Path) -> None:
    lines = [
        crossmodal(
            "000411001ff7dd4f",
            it={"caption": ["Un fiume", "Una barca"], "caption/tokenized": ["Un fiume"]},
            he={"caption": [RTL]},
        ),
        "{broken",
        crossmodal("not a key", it={"caption": ["a"]}),
        crossmodal(7, it={"caption": ["a"]}),
        "[]",
        "",
        crossmodal("00A1B2C3D4E5F607", it={"caption": ["Un cane", None, " "]}, quz={"caption": []}, extra="x"),
    ]
    attributions = (
        "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title\n"
        "000411001ff7dd4f,test,https://c1.staticflickr.com/2/1534/24148019753_bc3bb60f50_o.jpg,"
        'https://www.flickr.com/photos/a/24148019753,https://creativecommons.org/licenses/by/2.0/,,A,"Boats, two"\n'
        "ffffffffffffffff,test,https://c1.staticflickr.com/2/1534/1_bc3bb60f50_o.jpg,,,,,of another set\n"
    )
    files = {"captions.jsonl": "\n".join(lines), "image_attributions.csv": attributions}
    found = load(tmp_path, "crossmodal3600", files, num_images=2)
    assert brief(found) == [
        (
            "000411001ff7dd4f.jpg",
            {
                "openimages:000411001ff7dd4f",
                "flickr:24148019753",
                "url:c1.staticflickr.com/2/1534/24148019753_bc3bb60f50_o.jpg",
            },
            ("Un fiume", "Una barca", RTL),
        ),
        ("00a1b2c3d4e5f607.jpg", {"openimages:00a1b2c3d4e5f607"}, ("Un cane",)),
    ]
    assert reasons(found) == [
        (2, "malformed_row"),
        (3, "image_missing"),
        (4, "image_missing"),
        (5, "malformed_row"),
        (7, "caption_missing"),
        (7, "caption_missing"),
    ]
    hebrew = load(tmp_path, "crossmodal3600", files, num_images=2, languages=("he",))
    assert [image.captions for image in hebrew.images] == [(RTL,), ()]
    assert len(hebrew.malformed) == 4


def test_wrong_crossmodal_files_are_refused(tmp_path: Path) -> None:
    line = crossmodal("000411001ff7dd4f", it={"caption": ["Un fiume"]})
    assert "1 images instead of 3600" in refusal(tmp_path, "crossmodal3600", {"captions.jsonl": line})
    assert "no image has captions in de: the files have it" in refusal(
        tmp_path, "crossmodal3600", {"captions.jsonl": line}, languages=("de",), num_images=1
    )
    assert "no text column image/key" in refusal(tmp_path, "crossmodal3600", {"captions.jsonl": '{"a": 1}'})
    assert "no captions.jsonl" in refusal(tmp_path, "crossmodal3600", {"a.csv": "ImageID\n1"})
    cut = gzip.compress(line.encode())[:-8]
    assert "truncated gzip" in refusal(tmp_path, "crossmodal3600", {"captions.jsonl.gz": cut})


def test_a_table_of_the_users_own(tmp_path: Path) -> None:
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
    found = load(
        tmp_path,
        "pairs",
        {"mine.csv": table},
        path_column="file",
        url_column="where",
        identity_column="id",
        caption_column="text",
    )
    assert brief(found) == [
        ("a.jpg", {"coco:9", "flickr:8"}, ('Un cane, "due"', "Un gatto")),
        ("https://example.org/citt%c3%a0.jpg", {"url:example.org/citt%C3%A0.jpg"}, ()),
    ]
    assert reasons(found) == [
        (4, "caption_missing"),
        (5, "image_missing"),
        (6, "malformed_row"),
        (7, "image_missing"),
        (8, "malformed_row"),
    ]


def test_json_lines_may_contain_lists_of_captions(tmp_path: Path) -> None:
    lines = [json.dumps({"image": "foto/a.jpg", "captions": ["Un cane", RTL, 7]}), json.dumps({"image": 5})]
    found = load(tmp_path, "pairs", {"a.jsonl": "\n".join(lines)}, path_column="image", caption_column="captions")
    assert brief(found) == [("foto/a.jpg", set(), ("Un cane", RTL))]
    assert reasons(found) == [(1, "caption_missing"), (2, "image_missing")]


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
    assert reasons(found) == [(6, "malformed_row"), (7, "bad_encoding")]


def test_settings_without_files_or_images_are_refused(tmp_path: Path) -> None:
    for kind in test_sets.TEST_SET_KINDS.values():
        settings = {"path_column": "a"} if kind.kind == "pairs" else {}
        with pytest.raises(SettingsError, match="files must name"):
            kind.config_type(files=(), **settings)
        with pytest.raises(InputError, match="does not exist"):
            kind.check(kind.config_type(files=(str(tmp_path / "none"),), **settings))
        assert test_sets.TEST_SET_KINDS[kind.kind] is kind
    assert "to find the images" in refusal(tmp_path, "pairs", {"a.csv": "text\na"}, caption_column="text")
    assert "no text column file" in refusal(tmp_path, "pairs", {"a.csv": "text\na"}, path_column="file")
    assert "images needs path_column" in refusal(tmp_path, "pairs", {"a.csv": "u\na"}, url_column="u", images="x")


def test_a_list_of_malformed_rows_only_reports_the_first(tmp_path: Path) -> None:
    message = refusal(tmp_path, "list", {"mine.txt": "coco:x\nflickr:y"})
    assert "no image" in message
    assert "mine.txt, line or record 1: malformed_row" in message


def test_images_of_a_test_set_are_found_by_their_names(tmp_path: Path) -> None:
    kind = test_sets.TEST_SET_KINDS["list"]
    files = write(tmp_path, {"mine.txt": "città.png"})
    Image.new("RGB", (8, 8)).save(tmp_path / "città.png")
    config = kind.config_type(files=files, images=str(tmp_path))
    kind.check(config)
    assert [image.name for image in kind.read(config)] == ["città.png"]
    with pytest.raises(InputError, match="images names"):
        kind.check(kind.config_type(files=files, images=str(tmp_path / "none")))


def test_reading_warns_of_broken_rows_and_counts_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kind = test_sets.TEST_SET_KINDS["list"]
    config = kind.config_type(files=write(tmp_path, {"mine.txt": "a.jpg\n" + "coco:x\n" * 30}))
    with caplog.at_level(logging.WARNING):
        assert len(list(kind.read(config))) == 1
    assert "line or record 2: malformed_row" in caplog.messages[0]
    assert caplog.messages[-1] == "list test set: 30 rows are malformed; 1 images were read"
    assert len(caplog.messages) == 21
