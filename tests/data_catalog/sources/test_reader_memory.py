"""Small files that unpack to much more are read within little memory."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GB_BYTES = 2**30
# Reads a source as a build does, in a process that cannot take the machine's memory.
READ = """
import collections, json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2)
from data_catalog.sources.registry import SOURCE_KINDS

kind, options = sys.argv[1], json.loads(sys.argv[2])
options["files"] = tuple(options["files"])
found = collections.Counter()
source = SOURCE_KINDS[kind]
config = source.config_type(**options)
source.check(config)
found.update(getattr(row, "reason", "good") for row in source.read(config))
[own] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps({"found": found, "peak": int(own) * 1024}))
"""
URL = "https://host.example/a.jpg"
PAIRS: dict[str, Any] = {"caption_column": "text", "url_column": "image", "lang": "en"}
MANY_LISTS = "[" + "[]," * 400_000 + "[]]"  # 1.2 MB of text, 30 MB of lists
LONG_TEXT = '"' + "y" * 1_500_000 + '\U0001f600"'  # 1.5 MB of text, 6 MB in memory
NUM_LONG = 40  # such records: read one by one they take what one takes, held together more than FEW_BYTES
FEW_BYTES = 280 * 2**20


def write_gzip(path: Path, *texts: str) -> None:
    """Write a gzip of many members; equal texts are compressed once."""
    members = {text: gzip.compress(text.encode(), 1) for text in texts}
    path.write_bytes(b"".join(members[text] for text in texts))


def json_lines(path: Path) -> None:
    record = f'{{"image": "{URL}", "text": "a dog", "x": %s}}\n'
    too_long = f'{{"image": "{URL}", "text": "{"y" * 9_000_000}"}}\n'
    write_gzip(path, record % MANY_LISTS, *[record % LONG_TEXT] * NUM_LONG, *[too_long] * 9)


def lines(path: Path) -> None:
    write_gzip(path, f"a dog\t{URL}\n", *[f"{'y' * 4_000_000}\U0001f600\n"] * 40)


IMAGE = {"id": 1, "file_name": "000000000001.jpg"}
CAPTION = {"id": 1, "image_id": 1, "caption": "a dog"}
HUGE = [{"x": "MANY LISTS"}] + [{"x": "LONG TEXT"}] * NUM_LONG


def huge_annotations(path: Path) -> None:
    content = json.dumps({"images": [IMAGE], "annotations": [CAPTION, *HUGE]})
    parts = re.split('"(MANY LISTS|LONG TEXT)"', content)
    write_gzip(path, *({"MANY LISTS": MANY_LISTS, "LONG TEXT": LONG_TEXT}.get(part, part) for part in parts))


COCO_ROWS = {"good": 1, "image_missing": 1 + NUM_LONG}


# One hostile file for each way of unpacking.
@pytest.mark.slower
@pytest.mark.parametrize(
    ("write", "name", "kind", "options", "most_bytes", "expected"),
    [
        (json_lines, "p.jsonl.gz", "pairs", PAIRS, FEW_BYTES, {"good": 1 + NUM_LONG, "malformed_row": 9}),
        (lines, "train.txt", "cc3m", {}, FEW_BYTES, {"good": 1, "malformed_row": 40}),
        (huge_annotations, "captions_train2017.json.gz", "mscoco", {}, GB_BYTES, COCO_ROWS),
    ],
)
def test_a_file_that_unpacks_to_much_more_is_read_within_little_memory(
    tmp_path: Path, write: Any, name: str, kind: str, options: dict[str, str], most_bytes: int, expected: Any
) -> None:
    write(tmp_path / name)
    words = [sys.executable, "-c", READ, kind, json.dumps({"files": [name], **options})]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout)
    assert answer["peak"] < most_bytes
    assert answer["found"] == expected
