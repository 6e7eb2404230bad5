"""Small files that unpack to gigabytes: read within 1 GB, with children, or refused in a sentence."""

import gzip
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.errors import InputError
from data_catalog.sources import files as source_files
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.test_sets import TEST_SET_KINDS

GB_BYTES = 2**30
# Reads a source or a test set as a build does, in a process that cannot take the machine's memory.
READ = """
import collections, json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2)
from data_catalog.errors import InputError
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.test_sets import TEST_SET_KINDS

kind, options = sys.argv[1], json.loads(sys.argv[2])
options["files"] = tuple(options["files"])
found, refused = collections.Counter(), None
try:
    if kind in SOURCE_KINDS:
        source = SOURCE_KINDS[kind]
        config = source.config_type(**options)
        source.check(config)
        found.update(getattr(row, "reason", "good") for row in source.read(config))
    else:
        test_set = TEST_SET_KINDS[kind.removeprefix("test set ")]
        found["images"] = len(test_set.load(test_set.config_type(**options)).images)
except InputError as error:
    refused = str(error)
[own] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
peak = int(own) + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"found": found, "refused": refused, "peak": peak * 1024}))
"""
URL = "https://host.example/a.jpg"
PAIRS: dict[str, Any] = {"caption_column": "text", "url_column": "image", "lang": "en"}
TEST_PAIRS: dict[str, Any] = {"caption_column": "text", "url_column": "image"}
MANY_LISTS = "[" + "[]," * 400_000 + "[]]"  # 1.2 MB of text, 30 MB of lists
NUM_HUGE = 9  # such records: read one by one they take what one takes, held together more than FEW_BYTES
FEW_BYTES = 280 * 2**20


def read(path: Path, kind: str, most_bytes: int = GB_BYTES, **options: Any) -> dict[str, Any]:
    words = [sys.executable, "-c", READ, kind, json.dumps({"files": [str(path)], **options})]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["peak"] < most_bytes
    return answer


def parquet(path: Path, text: pa.Array, **options: Any) -> Path:
    table = pa.table({"image": pa.array([URL] * len(text)), "text": text})
    pq.write_table(table, path, compression="zstd", **options)
    return path


def test_a_parquet_dictionary_of_one_huge_value(tmp_path: Path) -> None:
    indices = pa.array([0] * 4000 + [1], pa.int32())
    text = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 2**23, "a dog"]))
    path = parquet(tmp_path / "p.parquet", text, dictionary_pagesize_limit=2**24)
    assert path.stat().st_size < 2**20
    assert read(path, "pairs", **PAIRS)["found"] == {"malformed_row": 4000, "good": 1}
    assert read(path, "test set pairs", **TEST_PAIRS)["found"] == {"images": 1}


def test_parquet_pages_of_huge_values(tmp_path: Path) -> None:
    table = pa.concat_tables(pa.table({"image": [URL], "text": [f"{n}" + "x" * 2**23]}) for n in range(100))
    path = tmp_path / "p.parquet"
    pq.write_table(table, path, 50, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2**20
    refused = read(path, "pairs", **PAIRS)["refused"]
    assert "p.parquet cannot be decompressed within 1 GB of memory: write it again" in (refused or "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f'{{"image": "{URL}", "text": "a dog", "x": {MANY_LISTS}}}', {"good": NUM_HUGE}),
        pytest.param(
            f'{{"image": "{URL}", "text": "a dog", "x": "{"y" * 3_000_000}\U0001f600"}}',
            {"good": NUM_HUGE},
            marks=pytest.mark.slow,
        ),
        (f'{{"image": "{URL}", "text": "{"y" * 9_000_000}"}}', {"malformed_row": NUM_HUGE}),
    ],
)
def test_json_lines_of_megabytes(tmp_path: Path, line: str, expected: dict[str, int]) -> None:
    path = tmp_path / "p.jsonl.gz"
    good = json.dumps({"image": URL, "text": "a cat"}) + "\n"
    path.write_bytes(gzip.compress((good + f"{line}\n" * NUM_HUGE).encode(), 1))
    found = read(path, "pairs", FEW_BYTES, **PAIRS)["found"]
    assert found == {"good": 1} | {reason: num + (reason == "good") for reason, num in expected.items()}


@pytest.mark.parametrize(("kind", "first"), [("cc3m", "a dog\t"), ("flickr8k", "1.jpg#0\ta dog")])
def test_lines_of_megabytes_at_the_head_of_a_file(tmp_path: Path, kind: str, first: str) -> None:
    path = tmp_path / "train.txt"
    line = f"{first}{URL}\n"
    path.write_bytes(gzip.compress((line + f"{'y' * 4_000_000}\U0001f600\n" * 40).encode(), 1))
    options = {"images": str(tmp_path)} if kind == "flickr8k" else {}
    assert read(path, kind, FEW_BYTES, **options)["found"] == {"good": 1, "malformed_row": 40}


IMAGE = {"id": 1, "file_name": "000000000001.jpg", "filename": "000000000001.jpg", "cocoid": 1, "split": "test"}
CAPTION = {"id": 1, "image_id": 1, "caption": "a dog", "sentid": 1, "raw": "a dog"}
HUGE = {"x": "MANY LISTS"}
DOCUMENTS: dict[str, dict[str, Any]] = {
    "mscoco": {"images": [IMAGE], "annotations": [CAPTION] + [HUGE] * NUM_HUGE},
    "test set coco": {"images": [IMAGE] + [HUGE] * NUM_HUGE, "annotations": [CAPTION]},
    "flickr8k": {"images": [IMAGE | {"sentences": [CAPTION]}] + [IMAGE | HUGE] * NUM_HUGE},
    "test set karpathy": {"images": [IMAGE | {"sentences": [CAPTION]}] + [IMAGE | HUGE] * NUM_HUGE},
    "sbu": {"image_urls": [URL] + [1] * NUM_HUGE, "captions": ["a dog"] + [HUGE] * NUM_HUGE},
}


# All are read by one reader of documents; the quick ones prove a source and a test set.
@pytest.mark.parametrize(
    "kind", [kind if "coco" in kind else pytest.param(kind, marks=pytest.mark.slow) for kind in DOCUMENTS]
)
def test_json_documents_that_unpack_to_gigabytes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "captions_train2017.json.gz"
    text = json.dumps(DOCUMENTS[kind]).replace('"MANY LISTS"', MANY_LISTS)
    path.write_bytes(gzip.compress(text.encode()))
    assert path.stat().st_size < 2**20
    options = {"images": str(tmp_path)} if kind == "flickr8k" else {}
    answer = read(path, kind, FEW_BYTES, **options)
    assert answer["refused"] is None
    assert answer["found"]["images" if kind.startswith("test") else "good"] == 1


COCO = json.dumps({"images": [IMAGE | {"id": n} for n in range(200)], "annotations": [CAPTION]})


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("mscoco", "a.json", COCO),
        ("coco", "a.json", COCO),
        ("list", "a.txt", "".join(f"{n}.jpg\n" for n in range(200))),
        ("list", "a.txt", "coco:x\n" * 200),
        ("xtd10", "test_image_names.txt", "a.jpg\n" * 200),
    ],
)
def test_more_records_than_a_reader_may_hold_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    files = (str(tmp_path / name),)
    monkeypatch.setattr(source_files, "MEMORY_BUDGET_BYTES", 2**16)
    kinds: dict[str, Any] = {**TEST_SET_KINDS, **SOURCE_KINDS}
    config = kinds[kind].config_type(files=files)
    act = TEST_SET_KINDS[kind].load if kind in TEST_SET_KINDS else lambda config: list(SOURCE_KINDS[kind].read(config))
    with pytest.raises(InputError, match="too many records to be read within 1 GB of memory: split it"):
        act(config)


def test_a_zip_of_more_names_than_fit(tmp_path: Path) -> None:
    path, num = tmp_path / "images.zip", 1_200_000
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry + b"%08x" % i for i in range(num))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(directory), 30, 0)
    path.write_bytes(b"PK\3\4" + b"\0" * 26 + directory + end)
    captions = tmp_path / "p.jsonl"
    captions.write_text(json.dumps({"image": "a.jpg", "text": "a dog"}))
    options = {"caption_column": "text", "path_column": "image", "lang": "en", "images": str(path)}
    assert "its directory of" in read(captions, "pairs", **options)["refused"]
