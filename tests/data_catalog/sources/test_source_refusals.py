"""Files and settings of every kind of source that are refused before work starts, and real files that are not."""

from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import PipelineError
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.sources.rows import UpstreamRow

URL = "https://host.example/a.jpg"
PHOTO = "http://static.flickr.com/2723/4385058960_b0f291553e.jpg"
WIT = "language\timage_url\tcaption_reference_description\n"
COCO: Any = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a"}]}
IT = {"languages": ("it",)}
PAIRS = {"caption_column": "text", "url_column": "image", "lang": "it"}
LOCAL_PAIRS = {"caption_column": "text", "path_column": "image", "lang": "it"}


@pytest.mark.parametrize(
    ("kind", "contents", "settings", "message"),
    [
        ("cc3m", [f"{URL}\ta caption\n"], {}, "url<TAB>caption with kind cc12m: .*not an http or https URL: a caption"),
        ("cc12m", [f"a caption\t{URL}\n"], {}, "caption<TAB>url with kind cc3m.*not an http or https URL: a caption"),
        ("cc3m", [f"{URL}\n"], {}, "1 fields instead of 2"),
        ("cc3m", [], {}, "files is not a TSV .*: it has no rows"),
        ("flickr30k", ["caption\turl\n"], {}, "is not Flickr captions .*record 1: malformed_row, not name.jpg"),
        ("flickr8k", ["a.jpg#0\ttext\n"], {"images": "/nowhere"}, "images names /nowhere"),
        ("sbu", [f"{PHOTO}\n{PHOTO}\n", "one\n"], {}, "1 list.s. of URLs among .* with 2 lines, .* with 1 lines"),
        ("sbu", ['{"image_urls": ["x"], "captions": []}'], {}, "1 URLs, 0 captions"),
        ("mscoco", [{"images": [], "categories": []}], {}, "is not a COCO captions JSON .*: it has no rows"),
        ("mscoco", [COCO | {"annotations": [{"bbox": []}]}], {}, "record 1: image_missing, no image_id"),
        ("mscoco", [COCO | {"licenses": [{"id": 3}, {"id": "3"}]}], {}, "several licenses with the id 3"),
        ("wit", ["a caption\tu\n"], IT, "column named language, image_url, caption_reference_description.*a caption"),
        ("wit", [WIT], {}, "languages must name"),
        ("pairs", [""], PAIRS | {"path_column": "p"}, "exactly one of url_column and path_column"),
        ("pairs", [f"image,text\n{URL},x\n"], PAIRS | {"lang": None}, "lang_missing, no language"),
        ("pairs", ["image,text\na.jpg,x\n"], LOCAL_PAIRS | {"images": "/nowhere"}, "images names /nowhere"),
    ],
)
def test_a_wrong_file_or_setting_is_refused(
    read: Any, kind: str, contents: list[Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        read(kind, *contents, name="p.csv" if kind == "pairs" else "file", **settings)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "image,text,image\nx,y,z\n", "exactly one text column named image: .* image, text, image"),
        ("p.jsonl", '{"url": "x"}\n', "exactly one text column named image, text: its text columns are url"),
        ("p.jsonl", "not json\n", r"columns are \(none\)"),
        ("p.parquet.gz", b"x", "unknown suffix"),
    ],
)
def test_a_wrong_table_of_pairs_is_refused_by_name(read: Any, name: str, content: Any, message: str) -> None:
    with pytest.raises(PipelineError, match=message) as caught:
        read("pairs", content, name=name, **PAIRS)
    assert name in str(caught.value)


DEVSET = "http://images.cocodataset.org/val2014/COCO_val2014_"


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("kind", "pattern", "images", "num_samples", "num_rows", "said"),
    [
        ("cc3m", "cc3m/*.tsv", None, 8000, 8000, ("en", "val", "http")),
        ("flickr8k", "flickr8k/*.txt", "flickr8k", 1000, 5000, ("en", None, "None")),
        ("mscoco", "coco/*.json", "coco/train2017", 80, 400, ("en", "train", "None")),
        ("mscoco_it", "mscoco_it/*_validated.json.gz", None, 308, 1541, ("it", "val", DEVSET)),
        ("mscoco_it", "mscoco_it/*_unvalidated.json.gz", None, 1696, 8486, ("it", "val", DEVSET)),
    ],
)
def test_every_row_of_real_files_is_read(
    shared_data: Path, kind: str, pattern: str, images: str | None, num_samples: int, num_rows: int, said: Any
) -> None:
    source, settings = SOURCE_KINDS[kind], {"images": str(shared_data / images)} if images else {}
    config = source.config_type(files=(str(shared_data / pattern),), **settings)
    source.check(config)
    rows = list(source.read(config))
    found = [row for row in rows if isinstance(row, UpstreamRow)]
    assert (len(rows), len(found), len({row.sample_key for row in found})) == (num_rows, num_rows, num_samples)
    assert {(row.lang, row.split, str(row.url).startswith(said[2])) for row in found} == {(*said[:2], True)}
    assert not any(row.caption.endswith("\r") for row in found)
    if kind == "mscoco":
        assert all(row.license and row.page_url for row in found)
        assert all((shared_data / str(images) / str(row.path)).is_file() for row in found)
