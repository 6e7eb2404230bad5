"""Rows of Conceptual Captions, Flickr8k, Flickr30k, SBU and MSCOCO: each format, and its known broken rows."""

import gzip
import hashlib
from pathlib import Path
from typing import Any

import pytest

from data_catalog.sources.rows import SourceRow, UpstreamRow

URL = "https://host.example/a.jpg"


def brief(rows: list[SourceRow]) -> list[Any]:
    return [
        (row.path, row.caption_key, row.caption) if isinstance(row, UpstreamRow) else getattr(row, "reason", None)
        for row in rows
    ]


def reasons(rows: list[SourceRow]) -> list[str]:
    return [getattr(row, "reason", "row") for row in rows]


@pytest.mark.parametrize(
    ("kind", "line", "name", "split"),
    [
        ("cc3m", f"a caption\t{URL}", "Train_GCC-training.tsv", "train"),
        ("cc3m", f"a caption\t{URL}", "cc3m_val.tsv", "val"),
        ("cc12m", f"{URL}\ta caption", "cc12m.tsv.gz", None),
        ("cc12m", f"{URL}\ta caption", "trains.tsv", None),
    ],
)
def test_conceptual_captions_have_the_split_of_the_file_name(
    read: Any, kind: str, line: str, name: str, split: str | None
) -> None:
    (row,) = read(kind, gzip.compress(f"\ufeff{line}\r\n".encode()), name=name)
    assert (row.url, row.caption, row.lang, row.split) == (URL, "a caption", "en", split)
    assert row.sample_key == hashlib.sha1(URL.encode()).hexdigest()


GOOD = (None, None, '"quotes are "text\u2028\x85')
# Each line of a file and what it is: path, key and text of a caption, or why it is malformed.
LINES = {
    "cc3m": [
        (f'"quotes are "text\u2028\x85\t {URL} ', GOOD),
        ("no tab", "malformed_row"),
        (f"a\tb\t{URL}", "malformed_row"),
        (f"\t{URL}", "caption_missing"),
        ("a caption\tnot a url", "image_missing"),
        (f"caff\udce8\t{URL}", "bad_encoding"),
        (f'"quotes are "text\u2028\x85\t{URL}', GOOD),
    ],
    "flickr8k": [  # Flickr8k.token.txt
        ("1000268201_693b08cb0e.jpg#0\tA child .\r", ("1000268201_693b08cb0e.jpg", "0", "A child .")),
        ("2258277193_586949ec62.jpg.1#0\tpeople", ("2258277193_586949ec62.jpg", "0", "people")),
        ("a.jpg#x\ttext", "malformed_row"),
        ("a.jpg#0\t ", "caption_missing"),
        ("a\0.jpg#0\ttext", "bad_encoding"),
    ],
    "flickr30k": [  # results.csv
        ("\ufeffimage_name| comment_number| comment", None),
        ("1.jpg| 0| Two young guys | with shaggy hair .", ("1.jpg", "0", "Two young guys | with shaggy hair .")),
        ("2.jpg| 4   A dog runs across the grass .", ("2.jpg", "4", "A dog runs across the grass .")),
        ("1.jpg| 1| ", "caption_missing"),
        ("1.jpg", "malformed_row"),
    ],
    "flickr8k captions.txt": [
        ("image,caption", None),
        ("a.jpg,A child .", ("a.jpg", "0", "A child .")),
        ('a.jpg,"A child, in pink ""tulle"" ."', ("a.jpg", "1", 'A child, in pink "tulle" .')),
        ("a.jpg,A child, without quotes .", ("a.jpg", "2", "A child, without quotes .")),
        ('b.jpg,"never closed', "malformed_row"),
        ("b.jpg,A dog .", ("b.jpg", "0", "A dog .")),
    ],
}


@pytest.mark.parametrize("kind", LINES)
def test_a_malformed_line_affects_no_other(read: Any, kind: str) -> None:
    content = "\n".join(line for line, _ in LINES[kind]).encode("utf-8", "surrogateescape")
    rows = read(kind.split()[0], content)
    expected = {number: found for number, (_, found) in enumerate(LINES[kind], start=1) if found}
    assert dict(zip((row.upstream_line for row in rows), brief(rows), strict=True)) == expected
    if kind == "flickr8k":
        assert (rows[0].sample_key, rows[0].lang, rows[0].url) == ("1000268201_693b08cb0e", "en", None)


def test_karpathys_flickr(read: Any) -> None:
    sentences = [{"raw": "One .", "sentid": 0}, {"raw": None, "sentid": 1}, {"raw": "Two .", "sentid": "2"}]
    images = [
        {"filename": "1.jpg", "split": "restval", "sentences": sentences},
        {"filename": "2.jpg", "split": "test", "sentences": []},
        {"split": "test", "sentences": [{"raw": "Three .", "sentid": 3}]},
    ]
    found = read("flickr30k", {"images": images})
    assert brief(found) == [
        ("1.jpg", "0", "One ."),
        "caption_missing",
        ("1.jpg", "2", "Two ."),
        "caption_missing",
        "image_missing",
    ]
    assert [row.split for row in found if isinstance(row, UpstreamRow)] == ["train", "train"]


PHOTO = "http://static.flickr.com/2723/4385058960_b0f291553e.jpg"


def test_the_two_lists_of_sbu_come_in_any_order(read: Any) -> None:
    urls = f"{PHOTO}\nnot a url\n{PHOTO}\n\n{PHOTO}\n"
    captions = "In the sky.\r\nno image\r\n\r\nno URL\r\nlast\x85line\r\n\r\n"
    for contents in ((urls, captions), (captions, urls)):
        found = read("sbu", *contents)
        assert reasons(found) == ["row", "image_missing", "caption_missing", "image_missing", "row"]
        last = found[-1]
        assert (last.caption, last.url, last.upstream_line) == ("last\x85line", PHOTO, 5)
        assert last.page_url == "https://www.flickr.com/photo.gne?id=4385058960"


def test_sbu_json(read: Any) -> None:
    content = {
        "image_urls": [PHOTO, None, PHOTO, 7, f" {PHOTO} "],
        "user_ids": ["47889917@N08", None, "", "x", "y"],
        "captions": ["In the sky.", "x", None, "x", "cut \ud83d"],
    }
    found = read("sbu", content)
    assert reasons(found) == ["row", "image_missing", "caption_missing", "malformed_row", "bad_encoding"]
    assert found[0].attribution == "Flickr user 47889917@N08"


NAME, LEGACY_NAME, OTHER_NAME = "000000391895.jpg", "COCO_val2014_000000391895.jpg", "000000000007.jpg"
HOST = "http://images.cocodataset.org"
LICENSES = [{"id": 3, "name": "Some License", "url": "http://cc/2.0/"}, {"name": "CC0"}, {"id": True, "name": "CC0"}]
CAPTION = {"id": 770337, "image_id": 391895, "caption": "A man with a red helmet on a small moped."}


def coco(*annotations: Any, **image: Any) -> dict[str, Any]:
    """Return a document with one image; None removes a field of it."""
    image = {"id": 391895, "file_name": NAME, "coco_url": f"{HOST}/train2017/{NAME}", "license": 3} | image
    images = [{name: value for name, value in image.items() if value is not None}]
    return {"licenses": LICENSES, "images": images, "annotations": list(annotations or [CAPTION])}


def test_a_caption_of_mscoco_2017(read: Any) -> None:
    (row,) = read("mscoco", coco(flickr_url="http://farm4.staticflickr.com/3448/3176652494_ba19663418_z.jpg"))
    assert (row.sample_key, row.caption_key, row.lang, row.split) == ("391895", "770337", "en", "train")
    assert (row.url, row.license) == (f"{HOST}/train2017/{NAME}", "Some License (http://cc/2.0/)")
    assert row.page_url == "https://www.flickr.com/photo.gne?id=3176652494"
    assert (row.path, row.upstream_line, row.caption) == (None, 1, CAPTION["caption"])


def test_a_license_needs_an_id_and_ids_have_many_spellings(read: Any) -> None:
    for license_id in (None, "none", 3.0, True):
        assert read("mscoco", coco(license=license_id))[0].license is None
    for image_id in ("391895", " 391895 ", "000000391895"):
        assert read("mscoco", coco(CAPTION | {"image_id": image_id}))[0].sample_key == "391895"


@pytest.mark.parametrize(
    ("image", "name", "url", "split"),
    [
        ({"file_name": LEGACY_NAME, "coco_url": "http://mscoco.org/images/1"}, "c", f"val2014/{LEGACY_NAME}", "val"),
        ({"coco_url": None}, "captions_val2017.json", f"val2017/{NAME}", "val"),
        ({}, "captions_val2014.json", f"train2017/{NAME}", "train"),
    ],
)
def test_urls_by_mscocos_naming(read: Any, image: dict[str, Any], name: str, url: str, split: str) -> None:
    (row,) = read("mscoco", coco(**image), name=name)
    assert (row.url, row.split) == (f"{HOST}/{url}", split)


def test_an_image_has_a_local_file_or_a_url_or_is_missing(read: Any) -> None:
    (row,) = read("mscoco", coco(), images=str(Path(__file__).parent))
    assert (row.url, row.path) == (None, NAME)
    assert reasons(read("mscoco", coco(coco_url=None, file_name="mine.jpg"))) == ["image_missing"]


@pytest.mark.parametrize(
    ("annotation", "reason", "detail"),
    [
        (CAPTION | {"image_id": 7}, "image_missing", "no image has the id 7"),
        ({"id": 1, "caption": "x"}, "image_missing", "no image_id"),
        (CAPTION | {"image_id": 391895.0}, "image_missing", "no image_id but 391895.0"),
        (CAPTION | {"image_id": "9" * 5000}, "image_missing", "no image_id but 999"),
        (CAPTION | {"caption": "x" * 250_001}, "malformed_row", "a text of 250,001 characters"),
        (CAPTION | {"caption": " \n"}, "caption_missing", "empty"),
        (CAPTION | {"caption": "cut \ud83d"}, "bad_encoding", "U+D83D"),
    ],
)
def test_a_malformed_annotation_affects_no_other(read: Any, annotation: Any, reason: str, detail: str) -> None:
    longest = CAPTION | {"caption": "x" * 250_000}
    before, bad, after = read("mscoco", coco(longest, annotation, CAPTION))
    assert reasons([before, after]) == ["row", "row"]
    assert (bad.reason, bad.upstream_line) == (reason, 2)
    assert detail in bad.detail
    (bad.raw or "").encode()


@pytest.mark.parametrize(("image_id", "name"), [(391895, OTHER_NAME), ("391895", OTHER_NAME), (391895, NAME)])
def test_two_images_with_one_id_have_no_captions(read: Any, image_id: Any, name: str) -> None:
    content = coco(CAPTION, CAPTION | {"image_id": 7})
    content["images"] += [{"id": image_id, "file_name": name}, {"id": 7, "file_name": OTHER_NAME}] * 2
    ambiguous, good = read("mscoco", content, images=str(Path(__file__).parent))
    assert (ambiguous.reason, ambiguous.detail) == ("image_missing", "several images have the id 391895")
    assert good.path == OTHER_NAME  # an image that is listed twice is one


SENTENCES = [{"raw": "A man.", "sentid": 770337}]


def test_an_id_of_different_images_in_two_files_is_rejected(read: Any) -> None:
    listed = {"images": [{"id": 391895, "file_name": OTHER_NAME}], "annotations": [CAPTION]}
    for other in (listed, {"images": [{"filename": OTHER_NAME, "cocoid": 391895, "sentences": SENTENCES}]}):
        first, second = read("mscoco", coco(), other, images=str(Path(__file__).parent))
        assert reasons([first]) == ["row"]
        assert (second.reason, second.detail) == ("image_missing", "several images have the id 391895")


def test_an_image_of_2014_and_2017_is_one_in_whichever_document(read: Any) -> None:
    rows = read("mscoco", *(coco(file_name=name) for name in (NAME, LEGACY_NAME, f"val2017/{NAME}")))
    assert [row.sample_key for row in rows] == ["391895"] * 3
    image = {"filename": LEGACY_NAME, "filepath": "val2014", "cocoid": 391895, "split": "restval"}
    (row,) = read("mscoco", {"images": [image | {"sentences": SENTENCES}], "dataset": "coco"})
    assert (row.sample_key, row.caption_key, row.split) == ("391895", "770337", "train")
    assert row.url == f"{HOST}/val2014/{LEGACY_NAME}"
