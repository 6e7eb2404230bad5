"""MSCOCO and MSCOCO-IT: ids of every spelling, URLs, licenses, splits, and JSON that is something else."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import InputError
from data_catalog.sources.mscoco import MscocoConfig, check_mscoco, read_mscoco
from data_catalog.sources.rows import MalformedRow, SourceRow, UpstreamRow

NAME = "000000391895.jpg"
LEGACY_NAME = "COCO_val2014_000000391895.jpg"


def document(*, annotations: list[Any], **image: Any) -> dict[str, Any]:
    base = {
        "id": 391895,
        "file_name": NAME,
        "coco_url": f"http://images.cocodataset.org/train2017/{NAME}",
        "license": 3,
    }
    return {
        "licenses": [{"id": 3, "name": "Attribution-NonCommercial-NoDerivs License", "url": "http://cc/by-nc-nd/2.0/"}],
        "images": [{name: value for name, value in (base | image).items() if value is not None}],
        "annotations": annotations,
    }


CAPTION = {"id": 770337, "image_id": 391895, "caption": "A man with a red helmet on a small moped."}


def read(folder: Path, content: Any, *, name: str = "captions.json", images: str | None = None) -> list[SourceRow]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    config = MscocoConfig(files=(str(path),), images=images)
    check_mscoco(config)
    return list(read_mscoco(config))


def only(rows: list[SourceRow]) -> UpstreamRow:
    (row,) = rows
    assert isinstance(row, UpstreamRow)
    return row


def test_a_caption_of_2017(tmp_path: Path) -> None:
    flickr = "http://farm4.staticflickr.com/3448/3176652494_ba19663418_z.jpg"
    row = only(read(tmp_path, document(annotations=[CAPTION], flickr_url=flickr)))
    assert (row.sample_key, row.caption_key, row.lang, row.split) == ("391895", "770337", "en", "train")
    assert row.url == f"http://images.cocodataset.org/train2017/{NAME}"
    assert row.license == "Attribution-NonCommercial-NoDerivs License (http://cc/by-nc-nd/2.0/)"
    assert row.page_url == "https://www.flickr.com/photo.gne?id=3176652494"
    assert (row.path, row.upstream_line, row.caption) == (None, 1, CAPTION["caption"])


@pytest.mark.parametrize("license", [None, "none", 3.0, True])
def test_a_license_without_id_applies_to_nothing(tmp_path: Path, license: Any) -> None:
    content = document(annotations=[CAPTION], license=license)
    nameless: list[dict[str, Any]] = [{"name": "CC0"}, {"id": None, "name": "CC0"}, {"id": True, "name": "CC0"}]
    content["licenses"] += nameless
    assert only(read(tmp_path, content)).license is None


def test_two_licenses_with_one_id_are_refused(tmp_path: Path) -> None:
    content = document(annotations=[CAPTION])
    content["licenses"].append({"id": "3", "name": "Attribution License"})
    with pytest.raises(InputError, match=r"captions\.json has several licenses with the id 3"):
        read(tmp_path, content)


@pytest.mark.parametrize("image_id", ["391895", " 391895 ", "000000391895", 391895])
def test_ids_have_many_spellings(tmp_path: Path, image_id: Any) -> None:
    assert only(read(tmp_path, document(annotations=[CAPTION | {"image_id": image_id}]))).sample_key == "391895"


@pytest.mark.parametrize(
    ("image", "name", "url", "split"),
    [
        ({"file_name": LEGACY_NAME, "coco_url": None}, "c.json", f"val2014/{LEGACY_NAME}", "val"),
        (
            {"file_name": LEGACY_NAME, "coco_url": "http://mscoco.org/images/1"},
            "c.json",
            f"val2014/{LEGACY_NAME}",
            "val",
        ),
        ({"coco_url": None}, "captions_val2017.json", f"val2017/{NAME}", "val"),
        ({}, "captions_val2014.json", f"train2017/{NAME}", "train"),
    ],
)
def test_urls_by_mscocos_naming(tmp_path: Path, image: dict[str, Any], name: str, url: str, split: str) -> None:
    row = only(read(tmp_path, document(annotations=[CAPTION], **image), name=name))
    assert (row.url, row.split) == (f"http://images.cocodataset.org/{url}", split)


def test_an_image_has_a_local_file_or_a_url_or_is_missing(tmp_path: Path) -> None:
    row = only(read(tmp_path, document(annotations=[CAPTION]), images=str(tmp_path)))
    assert (row.url, row.path) == (None, NAME)
    (missing,) = read(tmp_path, document(annotations=[CAPTION], coco_url=None, file_name="mine.jpg"))
    assert isinstance(missing, MalformedRow)
    assert missing.reason == "image_missing"
    with pytest.raises(InputError, match=r"images names .*nowhere"):
        read(tmp_path, document(annotations=[CAPTION]), images=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("annotation", "reason", "detail"),
    [
        (CAPTION | {"image_id": 7}, "image_missing", "no image has the id 7"),
        ({"id": 1, "caption": "x"}, "image_missing", "no image_id"),
        (CAPTION | {"image_id": True}, "image_missing", "no image_id"),
        (CAPTION | {"image_id": 391895.0}, "image_missing", "no image_id but 391895.0"),
        (CAPTION | {"image_id": "9" * 5000}, "image_missing", "no image_id but 999"),
        (CAPTION | {"caption": "x" * 250_001}, "malformed_row", "a text of 250,001 characters"),
        (CAPTION | {"caption": None}, "caption_missing", "no caption"),
        (CAPTION | {"caption": " \n"}, "caption_missing", "empty"),
        (CAPTION | {"caption": 12}, "malformed_row", "a number"),
        (CAPTION | {"caption": "cut \ud83d"}, "bad_encoding", "U+D83D"),
        ("no object", "image_missing", "no image_id"),
    ],
)
def test_a_malformed_annotation_affects_no_other(tmp_path: Path, annotation: Any, reason: str, detail: str) -> None:
    before, bad, after = read(tmp_path, document(annotations=[CAPTION, annotation, CAPTION]))
    assert isinstance(before, UpstreamRow)
    assert isinstance(after, UpstreamRow)
    assert isinstance(bad, MalformedRow)
    assert (bad.reason, bad.upstream_line) == (reason, 2)
    assert detail in bad.detail
    (bad.raw or "").encode()


def test_a_number_of_thousands_of_digits_affects_its_row_only(tmp_path: Path) -> None:
    digits = "9" * 5000
    text = json.dumps(document(annotations=[CAPTION, CAPTION | {"image_id": -1}, CAPTION | {"id": -1}, CAPTION]))
    before, bad, nameless, after = read(tmp_path, text.replace("-1", digits).encode())
    assert isinstance(bad, MalformedRow)
    assert (bad.reason, bad.detail) == ("image_missing", "no image_id but inf")
    found = [row.caption_key for row in (before, nameless, after) if isinstance(row, UpstreamRow)]
    assert found == ["770337", None, "770337"]


@pytest.mark.parametrize(
    ("repeat", "found"),
    [
        (lambda text: text[:-1] + ', "annotations": []}', "'annotations' is repeated in the outermost object"),
        (lambda text: text.replace('"id": 770337', '"id": 1, "id": 770337'), "'id' stands twice in one object"),
        (lambda text: text.replace('"license": 3', '"license": 3, "license": 4'), "'license' stands twice"),
    ],
)
def test_a_repeated_name_is_an_input_error(tmp_path: Path, repeat: Callable[[str], str], found: str) -> None:
    with pytest.raises(InputError, match=found):
        read(tmp_path, repeat(json.dumps(document(annotations=[CAPTION]))).encode())


OTHER_NAME = "000000000007.jpg"


@pytest.mark.parametrize("image_id", [391895, "391895"])
def test_two_images_with_one_id_have_no_captions(tmp_path: Path, image_id: Any) -> None:
    content = document(annotations=[CAPTION, CAPTION | {"image_id": 7}])
    content["images"] += [{"id": image_id, "file_name": OTHER_NAME}, {"id": 7, "file_name": OTHER_NAME}]
    ambiguous, good = read(tmp_path, content, images=str(tmp_path))
    assert isinstance(ambiguous, MalformedRow)
    assert (ambiguous.reason, ambiguous.detail) == ("image_missing", "several images have the id 391895")
    assert isinstance(good, UpstreamRow)
    assert good.path == OTHER_NAME


def test_images_and_annotations_that_are_listed_twice_are_of_one_image(tmp_path: Path) -> None:
    content = document(annotations=[CAPTION, CAPTION])
    content["images"] *= 2
    rows = read(tmp_path, content)
    assert [row.sample_key for row in rows if isinstance(row, UpstreamRow)] == ["391895"] * 2


@pytest.mark.parametrize("other", ["captions", "karpathy"])
def test_an_id_of_different_images_in_two_files_is_rejected(tmp_path: Path, other: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document(annotations=[CAPTION])))
    content: dict[str, Any] = {"images": [{"id": 391895, "file_name": OTHER_NAME}], "annotations": [CAPTION]}
    if other == "karpathy":
        image = {"filename": OTHER_NAME, "cocoid": 391895, "sentences": [{"raw": "A dog.", "sentid": 1}]}
        content = {"images": [image]}
    (tmp_path / "b.json").write_text(json.dumps(content))
    first, second = read_mscoco(MscocoConfig(files=(str(tmp_path / "*.json"),), images=str(tmp_path)))
    assert isinstance(first, UpstreamRow)
    assert isinstance(second, MalformedRow)
    assert (second.reason, second.detail) == ("image_missing", "several images have the id 391895")


def test_file_names_of_2014_and_2017_are_one_image(tmp_path: Path) -> None:
    for number, name in enumerate([NAME, LEGACY_NAME, f"val2017/{NAME}"]):
        (tmp_path / f"{number}.json").write_text(json.dumps(document(annotations=[CAPTION], file_name=name)))
    rows = list(read_mscoco(MscocoConfig(files=(str(tmp_path / "*.json"),))))
    assert [row.sample_key for row in rows if isinstance(row, UpstreamRow)] == ["391895"] * 3


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"info": {}, "annotations": []}, "keys info, annotations"),
        ({"images": {}, "annotations": []}, "keys images, annotations"),
        ({"images": [], "categories": []}, "lists no images"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}]}, r"without 'filename' and 'sentences' \(keys: id, file_name"),
        ({"images": [{"id": 1}], "annotations": []}, "no annotations"),
        ({"images": [{"id": 1}], "annotations": [{"bbox": [], "image_id": 1}]}, r"without captions \(keys: bbox"),
        ([1, 2], "a list"),
        (b"", "empty"),
        (gzip.compress(json.dumps(document(annotations=[CAPTION])).encode())[:-9], "truncated gzip"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, content: Any, found: str) -> None:
    with pytest.raises(InputError, match=found):
        read(tmp_path, content)


def test_karpathys_coco(tmp_path: Path) -> None:
    image = {"filename": LEGACY_NAME, "filepath": "val2014", "cocoid": 391895, "split": "restval"}
    content = {"images": [image | {"sentences": [{"raw": "A man.", "sentid": 770337}]}], "dataset": "coco"}
    row = only(read(tmp_path, content))
    assert (row.sample_key, row.caption_key, row.split) == ("391895", "770337", "train")
    assert row.url == f"http://images.cocodataset.org/val2014/{LEGACY_NAME}"


@pytest.mark.real_data
def test_real_mscoco(shared_data: Path) -> None:
    config = MscocoConfig(files=(str(shared_data / "coco" / "*.json"),), images=str(shared_data / "coco" / "train2017"))
    check_mscoco(config)
    rows = [row for row in read_mscoco(config) if isinstance(row, UpstreamRow)]
    assert (len(rows), len({row.sample_key for row in rows})) == (400, 80)
    assert all((shared_data / "coco" / "train2017" / str(row.path)).is_file() for row in rows)
    assert all(row.license and row.page_url for row in rows)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("part", "num_images", "num_captions"), [("validated", 308, 1541), ("unvalidated", 1696, 8486)]
)
def test_real_mscoco_it(shared_data: Path, part: str, num_images: int, num_captions: int) -> None:
    config = MscocoConfig(files=(str(shared_data / "mscoco_it" / f"*_{part}.json.gz"),))
    check_mscoco(config)
    rows = list(read_mscoco(config, "it"))
    found = [row for row in rows if isinstance(row, UpstreamRow)]
    assert len(rows) == len(found) == num_captions
    assert len({row.sample_key for row in found}) == num_images
    assert Counter((row.lang, row.split) for row in found) == {("it", "val"): num_captions}
    assert all(str(row.url).startswith("http://images.cocodataset.org/val2014/COCO_val2014_") for row in found)
