"""Rows of every kind of source: each format, and its known broken rows, which affect no other."""

import csv
import gzip
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.base.errors import SettingsError
from data_catalog.sources.pairs import PairsConfig, pairs_images
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.sources.rows import MalformedRow, SourceRow, UpstreamRow

URL = "https://host.example/a.jpg"


def brief(rows: list[SourceRow]) -> list[Any]:
    return [
        (row.path, row.caption_key, row.caption) if isinstance(row, UpstreamRow) else getattr(row, "reason", None)
        for row in rows
    ]


def reasons(rows: list[SourceRow]) -> list[str]:
    return [getattr(row, "reason", "row") for row in rows]


def test_conceptual_captions_have_the_split_of_the_file_name(read: Any) -> None:
    for kind, line, name, split in (
        ("cc3m", f"a caption\t{URL}", "Train_GCC-training.tsv", "train"),
        ("cc3m", f"a caption\t{URL}", "cc3m_val.tsv", "val"),
        ("cc12m", f"{URL}\ta caption", "cc12m.tsv.gz", None),
        ("cc12m", f"{URL}\ta caption", "trains.tsv", None),
    ):
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
    for license_id in (None, "none", 3.0, True):
        assert read("mscoco", coco(license=license_id))[0].license is None


def test_urls_by_mscocos_naming_and_local_files(read: Any) -> None:
    mirror = {"file_name": LEGACY_NAME, "coco_url": "http://mscoco.org/images/1"}
    for image, name, url, split in (
        (mirror, "c", f"val2014/{LEGACY_NAME}", "val"),
        ({"coco_url": None}, "captions_val2017.json", f"val2017/{NAME}", "val"),
        ({}, "captions_val2014.json", f"train2017/{NAME}", "train"),
    ):
        (row,) = read("mscoco", coco(**image), name=name)
        assert (row.url, row.split) == (f"{HOST}/{url}", split)
    (row,) = read("mscoco", coco(), images=str(Path(__file__).parent))
    assert (row.url, row.path) == (None, NAME)
    content = coco(CAPTION, CAPTION | {"image_id": 7})
    content["images"].append({"id": 7, "file_name": "mine.jpg"})
    assert reasons(read("mscoco", content)) == ["row", "image_missing"]


@pytest.mark.parametrize(
    ("annotation", "reason", "detail"),
    [
        (CAPTION | {"image_id": 7}, "image_missing", "no image has the id 7"),
        ({"id": 1, "caption": "x"}, "image_missing", "no image_id"),
        (CAPTION | {"image_id": 391895.0}, "image_missing", "no image_id but 391895.0"),
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


def test_two_images_with_one_id_have_no_captions(read: Any) -> None:
    for image_id, name in ((391895, OTHER_NAME), ("391895", OTHER_NAME), (391895, NAME)):
        content = coco(CAPTION, CAPTION | {"image_id": 7})
        content["images"] += [{"id": image_id, "file_name": name}, {"id": 7, "file_name": OTHER_NAME}] * 2
        ambiguous, good = read("mscoco", content, images=str(Path(__file__).parent))
        assert (ambiguous.reason, ambiguous.detail) == ("image_missing", "several images have the id 391895")
        assert good.path == OTHER_NAME  # an image that is listed twice is one


SENTENCES = [{"raw": "A man.", "sentid": 770337}]


def test_an_id_of_different_images_in_two_files_is_rejected(read: Any) -> None:
    listed = [{"id": 391895, "file_name": OTHER_NAME}, {"id": 8, "file_name": "000000000008.jpg"}]
    named = [{"filename": image["file_name"], "cocoid": image["id"], "sentences": SENTENCES} for image in listed]
    for other in ({"images": listed, "annotations": [CAPTION, CAPTION | {"image_id": 8}]}, {"images": named}):
        first, second, third = read("mscoco", coco(), other, images=str(Path(__file__).parent))
        assert reasons([first, third]) == ["row", "row"]
        assert (second.reason, second.detail) == ("image_missing", "several images have the id 391895")


def test_an_image_of_2014_and_2017_is_one_in_whichever_document(read: Any) -> None:
    rows = read("mscoco", *(coco(file_name=name) for name in (NAME, LEGACY_NAME, f"val2017/{NAME}")))
    assert [row.sample_key for row in rows] == ["391895"] * 3
    image = {"filename": LEGACY_NAME, "filepath": "val2014", "cocoid": 391895, "split": "restval"}
    (row,) = read("mscoco", {"images": [image | {"sentences": SENTENCES}], "dataset": "coco"})
    assert (row.sample_key, row.caption_key, row.split) == ("391895", "770337", "train")
    assert row.url == f"{HOST}/val2014/{LEGACY_NAME}"


COLUMNS = [
    "language",
    "page_url",
    "image_url",
    "page_title",
    "hierarchical_section_title",
    "caption_reference_description",
    "caption_attribution_description",
    "caption_alt_text_description",
    "context_page_description",
    "context_section_description",
]
IT = ("it",)
IMAGE = "https://upload.wikimedia.org/wikipedia/commons/1/15/M94.gif"


def row(**values: str) -> dict[str, str]:
    filled = {"language": "it", "page_url": "https://it.wikipedia.org/wiki/M94", "image_url": IMAGE}
    filled |= {"page_title": "M94", "caption_reference_description": "Mappa della nube"}
    return dict.fromkeys(COLUMNS, "") | filled | values


def tsv(*rows: dict[str, str], columns: list[str] = COLUMNS) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, dialect="excel-tab", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def test_a_row(read: Any) -> None:
    (found,) = read("wit", tsv(row()), languages=IT)
    assert (found.url, found.caption, found.lang) == (IMAGE, "Mappa della nube", "it")
    assert (found.page_url, found.upstream_line, found.path) == ("https://it.wikipedia.org/wiki/M94", 2, None)
    assert found.caption_key.startswith("reference-")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"language": "de"}, "language"),
        ({"caption_reference_description": " \u00a0"}, "caption_kind"),
        ({"image_url": "File:M94.gif"}, "image_missing"),
        ({"page_title": "a\0b"}, "bad_encoding"),
        ({"caption_reference_description": "separatori\u2028di\x85riga"}, "row"),
        ({"caption_reference_description": 'tra "virgolette"\te\na capo\r\n'}, "row"),
    ],
)
def test_one_strange_row_and_its_neighbours(read: Any, values: dict[str, str], expected: str) -> None:
    found = read("wit", tsv(row(), row(**values), row()), languages=IT)
    assert reasons(found) == ["row", expected, "row"]
    if expected == "row" and isinstance(found[1], UpstreamRow):
        assert found[1].caption == values["caption_reference_description"]
    if isinstance(found[1], MalformedRow):
        assert found[1].upstream_line == 3
        assert found[1].raw is not None
        found[1].raw.encode()
        assert "\0" not in found[1].raw


def test_columns_in_any_order_and_old_language_codes(read: Any) -> None:
    columns = ["context_page_description", *reversed(COLUMNS[:-2]), "extra"]
    filled = row(context_page_description="first column\nwith lines\thttps://x") | {"extra": "https://a.b"}
    written = [{name: filled[name] for name in columns} | {"language": lang} for lang in ("iw", "zh-TW", "it")]
    found = read("wit", "\ufeff" + tsv(*written, columns=columns).replace("\n", "\r\n"), languages=("he", "zh-TW"))
    assert [getattr(each, "lang", reasons([each])[0]) for each in found] == ["he", "zh-tw", "language"]


def test_several_kinds_of_one_row(read: Any) -> None:
    written = [
        row(caption_attribution_description="Italiano: nube", caption_alt_text_description="una nube"),
        row(caption_reference_description="", caption_attribution_description="Italiano: nube"),
        row(caption_reference_description="", caption_alt_text_description="una nube"),
    ]
    *found, last = read("wit", tsv(*written), languages=IT, caption_kinds=("reference", "attribution"))
    assert [(each.caption_key.split("-")[0], each.caption) for each in found] == [
        ("reference", "Mappa della nube"),
        ("attribution", "Italiano: nube"),
        ("attribution", "Italiano: nube"),
    ]
    assert last.reason == "caption_kind"


def test_pages_with_one_image_make_one_sample(read: Any) -> None:
    other = row(page_url="https://it.wikipedia.org/wiki/Nubi", image_url=IMAGE.replace("https", "http") + "#top")
    one, two = read("wit", tsv(row(), other), languages=IT)
    assert one.sample_key == two.sample_key
    assert one.caption_key != two.caption_key
    assert two.url == other["image_url"]


PLAIN = {"image": URL, "text": "Un gatto, nero", "l": "IT ", "by": "Anna", "cc": "CC0", "page": "http://p", "s": "val"}
ODD = dict.fromkeys(PLAIN, "") | {"image": URL, "text": 'due\nrighe\te "virgolette"\u2028\x85'}
SIMPLE: dict[str, Any] = {"caption_column": "text", "url_column": "image", "lang": "it"}
ALL_COLUMNS: dict[str, Any] = {
    **SIMPLE,
    "lang_column": "l",
    "lang": "en",
    "license_column": "cc",
    "attribution_column": "by",
    "page_column": "page",
    "split_column": "s",
}


def encode(rows: list[dict[str, Any]], suffix: str) -> bytes:
    if suffix in (".jsonl", ".ndjson"):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if suffix == ".parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue()
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".jsonl", ".ndjson.gz", ".parquet"])
def test_every_format_has_the_same_rows(read: Any, suffix: str) -> None:
    content = encode([PLAIN, ODD], suffix.removesuffix(".gz"))
    content = gzip.compress(content) if suffix.endswith(".gz") else content
    first, second = read("pairs", content, name=f"pairs{suffix}", **ALL_COLUMNS)
    assert (first.url, first.caption, first.lang, first.split) == (URL, "Un gatto, nero", "it", "val")
    assert (first.license, first.attribution, first.page_url) == ("CC0", "Anna", "http://p")
    assert (second.caption, second.lang, second.license, second.split) == (ODD["text"], "en", None, None)
    assert first.sample_key == second.sample_key
    assert (first.upstream_line, second.upstream_line) == ((2, 3) if suffix[1:4] in ("csv", "tsv") else (1, 2))


CELLS = "image|text\nU|a\nU\nU|b|c\n|a\nU|\nx|a\nU|a\0\nU|\xe8\nU|a"
JSON_LINES = (
    '{"image": "U", "text": "a"}\n{"image": "U", "te\n[1]\n{"text": "a"}\n{"image": "U", "text": null}\n'
    '{"image": "x", "text": "a"}\n{"image": "U", "text": "\\u0000"}\n{"image": "U", "text": "\xe8"}\n'
    '{"image": "U", "text": "a"}'
)


@pytest.mark.parametrize(
    ("name", "text", "first"),
    [("p.csv", CELLS.replace("|", ","), 2), ("p.tsv", CELLS.replace("|", "\t"), 2), ("p.jsonl", JSON_LINES, 1)],
)
def test_malformed_rows_affect_no_other(read: Any, name: str, text: str, first: int) -> None:
    found = read("pairs", text.replace("U", URL).encode("latin-1"), name=name, **SIMPLE)
    expected = ["row", "malformed_row", "malformed_row", "image_missing", "caption_missing", "image_missing"]
    assert reasons(found) == [*expected, "bad_encoding", "bad_encoding", "row"]
    assert [row.upstream_line for row in found] == list(range(first, first + 9))


def test_parquet_has_nulls_dictionaries_and_texts_that_are_not_utf8(read: Any) -> None:
    text = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xe8", b"c"], pa.binary()).buffers())
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array([URL, URL, None]).dictionary_encode(), "text": text}), sink)
    found = read("pairs", sink.getvalue(), name="p.parquet", **SIMPLE)
    assert reasons(found) == ["row", "bad_encoding", "image_missing"]


def test_paths_are_in_the_folder_of_the_file_unless_images_says_otherwise(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.csv").write_text("text, image\nun gatto, sub/a.jpg \n")
    config = PairsConfig(files=(f"{tmp_path}/a/p.csv",), caption_column="text", path_column="image", lang="it")
    (row,) = SOURCE_KINDS["pairs"].read(config)
    assert isinstance(row, UpstreamRow)
    assert (row.path, row.url, row.sample_key) == ("sub/a.jpg", None, "sub/a.jpg")
    assert pairs_images(config) == f"{tmp_path}/a"
    assert pairs_images(replace(config, images=f"{tmp_path}/b")) == f"{tmp_path}/b"
    with pytest.raises(SettingsError, match="2 folders"):
        SOURCE_KINDS["pairs"].check(replace(config, files=(f"{tmp_path}/*/p.csv",)))


def test_a_path_is_one_sample_however_it_is_written_and_one_that_leaves_the_folder_stays_as_it_is(read: Any) -> None:
    names = ["sub/a.jpg", "./sub/a.jpg", "sub//./a.jpg", "sub/../a.jpg", "/sub/a.jpg"]
    content = encode([{"image": name, "text": "un gatto"} for name in names], ".csv")
    found = read("pairs", content, name="p.csv", caption_column="text", path_column="image", lang="it")
    expected = ["sub/a.jpg"] * 3 + names[3:]
    assert [(row.sample_key, row.path) for row in found] == [(name, name) for name in expected]


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
