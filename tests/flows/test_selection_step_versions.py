"""As `test_step_versions`, of the steps that compare captions and images with test sets and with each other."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cleaning.duplicates.captions import RepeatsConfig
from cleaning.duplicates.images import DuplicatesConfig
from cleaning.leaks import LeaksConfig
from data_catalog.images.views import VIEWS
from data_catalog.images.workers import ImageWorkers
from data_catalog.publish import SplitConfig
from data_catalog.schema import CAPTIONS, IMAGES, NATIVE, PENDING
from data_catalog.storage.shards import digest, save_parquet, sha256_of
from data_catalog.storage.work import WorkStore
from flows.build import test_sets as test_set_steps
from flows.build.duplicates import MARKS_FILE, find_duplicates
from flows.build.finish_steps import finish
from flows.build.merge_steps import merge_captions
from flows.build.screen import find_repeats, screen
from flows.build.step_outputs import (
    DEDUPLICATE,
    FIND_DUPLICATES,
    FIND_REPEATS,
    MERGE_CAPTIONS,
    SCREEN,
    SHARD,
    TEST_SET,
    VERSIONS,
    Shard,
    step_key,
)
from flows.recipe.sources import read_test_sets

# Sample, address of its image, caption.
REPEATS = [
    ("1", "a.jpg", "Un cane nero corre sulla spiaggia al tramonto"),
    ("1", "a.jpg", "un cane nero corre sulla spiaggia, al tramonto!"),
    ("1", "a.jpg", "Un cane nero corre su una spiaggia al tramonto"),
    ("1", "a.jpg", "Un gatto nero corre sulla spiaggia al tramonto"),
    ("1", "a.jpg", "Un cane nero corre sulla spiaggia al tramonto 😀"),
    ("2", "b.jpg", "كلب صغير يلعب في الحديقة الخضراء"),
    ("2", "b.jpg", "كلب صغير يلعب الحديقة الخضراء"),
    ("2", "b.jpg", "Due cani e 3 gatti davanti a una casa"),
    ("2", "b.jpg", "Due cani e 4 gatti davanti a una casa"),
    *((number, f"{number}.jpg", "una foto di un gatto") for number in "34567"),
    ("8", "held.jpg", "Un treno in una stazione di montagna"),
    ("9", "c.jpg", "TRE BARCHE A VELA, al tramonto"),
    ("9", "c.jpg", "Tre barche a remi in un porto"),
]
HELD_OUT = [
    {"url": "http://example.org/held.jpg", "identity": "coco:391895", "caption": "Tre barche a vela al tramonto!"},
    {"url": "http://example.org/other%20one.jpg", "identity": "flickr:1000268201", "caption": "Un gatto"},
    {"url": "http://example.org/held.jpg", "identity": "coco:391895", "caption": "两只狗在沙滩上奔跑着追球"},
]
FUNCTION_WORDS = ("a", "al", "di", "e", "su", "sulla", "un", "una", "في")

# Sample, sha256, perceptual hash, look of the thumbnail, pixels a side, caption. Its host is the sample's source.
PICTURES: list[tuple[str, str, int, int, int, str]] = [
    ("good:1", "same", 0x0F1E2D3C4B5A6978, 1, 100, "Un cane"),
    ("poor:1", "same", 0x0F1E2D3C4B5A6978, 1, 100, "Un cane nero"),
    ("good:2", "small", 0x8123456789ABCDEF, 2, 100, "Un gatto"),
    ("good:3", "large", 0x8123456789ABCDE0, 2, 200, "un gatto!"),
    ("good:4", "unlike", 0x8123456789ABCDEE, 3, 300, "Un ponte"),
    ("good:5", "train", 0xF0F0CCCCAAAA5555, 4, 100, "Un treno"),
    ("good:6", "val", 0xF0F0CCCCAAAA5554, 4, 100, "Un treno rosso"),
    ("poor:7", "gone", 0x00FF00FF33CC33CC, 5, 50, "Un fiore"),
    ("poor:8", "gone", 0x00FF00FF33CC33CC, 5, 50, "Una nave"),
    ("poor:9", "gone", 0x00FF00FF33CC33CC, 5, 50, "Un aereo"),
    ("good:10", "held", 0x5A5A0F0F96963C3C, 6, 100, "Tre barche"),
    ("good:11", "held, smaller", 0x5A5A0F0F96963C38, 6, 80, "Tre barche a vela"),
    ("good:12", "alone", 0x369CF08421DEB7A5, 7, 100, "Una montagna"),
    ("good:12", "alone", 0x369CF08421DEB7A5, 7, 100, "una montagna."),
    # Each is like the next one, and the first is not like the last.
    ("good:15", "chain 1", 0x00007777EEEE1111, 8, 100, "Un libro"),
    ("good:16", "chain 2", 0x001F7777EEEE1111, 8, 100, "Un vaso"),
    ("good:17", "chain 3", 0x1F1F7777EEEE1111, 8, 100, "Una sedia"),
]
# It has each of two that look the same in one split, but for the trains.
SPLIT = SplitConfig(val=0.3, salt="salt 67")
LOST_PICTURES = {"good:13": "http_404", "poor:14": "decode_failed"}

# (version, digest of the rows): a change of the digest alone means that the version must be raised.
GOLDENS = {
    TEST_SET: (2, "acfc906c52ec017c"),
    FIND_REPEATS: (2, "4841bace4e4e495b"),
    SCREEN: (2, "230010b8636ced93"),
    FIND_DUPLICATES: (3, "34a8f8fc11340af4"),
    MERGE_CAPTIONS: (2, "1bb6a24659c2485f"),
    DEDUPLICATE: (6, "afaf4399dc3c844a"),
}


def content(*paths: Path) -> str:
    return digest([pq.read_table(path).to_pylist() for path in paths])[:16]


def shard_of(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, path: Path) -> Shard:
    path.parent.mkdir(exist_ok=True)
    save_parquet(pa.Table.from_pylist(list(rows), schema), path)
    return Shard(shard_id=0, path=path, sha256=sha256_of(path), counts={})


def caption_row(number: int, sample_id: str, url: str, caption: str) -> dict[str, Any]:
    return {
        "sample_id": sample_id,
        "caption_id": f"{sample_id}#{number}",
        "source": sample_id.split(":")[0],
        "url": url,
        "source_caption": caption,
        "source_lang": "it",
        "clean_caption": caption,
        "caption": caption,
        "target_lang": "it",
        "translator": NATIVE,
        "upstream_file": "a.tsv",
        "upstream_line": number,
        "outcome": PENDING,
    }


def held_out(work: WorkStore, folder: Path) -> test_set_steps.TestContents:
    path = folder / "held.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in HELD_OUT), "utf-8")
    columns = {"url_column": "url", "identity_column": "identity", "caption_column": "caption"}
    (held,) = read_test_sets({"held": {"kind": "pairs", "files": [str(path)], **columns}}, "it")
    hashes = [{"name": path.name, "sha256": sha256_of(path)}]
    with ImageWorkers(folder / "hosts") as workers:
        return test_set_steps.read_test_set(work, held, workers, min_words=4, file_hashes=hashes, location_digest=None)


def repeats_through_steps(folder: Path) -> dict[str, str]:
    work = WorkStore(folder)
    held = held_out(work, folder)
    captions = shard_of(
        [
            caption_row(number, f"pairs:{sample}", f"http://example.org/{image}", caption)
            for number, (sample, image, caption) in enumerate(REPEATS)
        ],
        CAPTIONS,
        folder / "captions.parquet",
    )
    config = RepeatsConfig(max_images_per_caption=2)
    repeats = find_repeats(work, [captions], config, function_words=FUNCTION_WORDS)
    dropped, marked = (
        screen(
            work,
            captions,
            repeats,
            [held],
            config=config,
            function_words=FUNCTION_WORDS,
            leaks=LeaksConfig(action=action),
            kinds={"pairs": "pairs"},
        )
        for action in ("drop", "mark")
    )
    return {
        TEST_SET: content(*(held.commit.path(name) for name in sorted(held.commit.files))),
        FIND_REPEATS: content(repeats.path(f"{captions.label}.parquet")),
        SCREEN: content(dropped.path, marked.path),
    }


def thumbnail(look: int) -> bytes:
    """Pixels of which no two looks have many alike."""
    return bytes((place * place * (2 * look + 1) + 41 * look) % 251 for place in range(192))


def picture_rows() -> Iterator[dict[str, Any]]:
    pictures = {sample_id: facts for sample_id, *facts in PICTURES}
    for sample_id, (sha256, phash, look, side, _) in pictures.items():
        source, number = sample_id.split(":")
        yield {
            "sample_id": sample_id,
            "bytes": b"",
            "width": side,
            "height": side,
            "original_width": side,
            "original_height": side,
            "original_format": "JPEG",
            "sha256": digest(sha256),
            "phash": f"{phash:016x}",
            "thumbnail": thumbnail(look),
            "http_status": 200,
            "final_url": f"http://{source}.example.org/{number}.jpg",
        }
    for sample_id, reason in LOST_PICTURES.items():
        yield {"sample_id": sample_id, "drop_reason": reason}


def with_pixels(held: test_set_steps.TestContents, work: WorkStore) -> test_set_steps.TestContents:
    """A test set with a view of an image: decoded nowhere, since decoders differ in what they make of a file."""
    view = {"name": "held.jpg", "view": "whole", "sha256": digest("held"), "thumbnail": thumbnail(6)}

    def produce(folder: Path) -> dict[str, Any]:
        rows = [{**view, "phash": "5a5a0f0f96963c3c"}]
        save_parquet(pa.Table.from_pylist(rows, VIEWS), folder / test_set_steps.PIXELS_FILE)
        return {}

    return dataclasses.replace(held, commit=work.run(step_key(TEST_SET, ["pixels"], {}), produce))


def images_through_steps(folder: Path) -> dict[str, str]:
    work = WorkStore(folder)
    told = [*((row[0], row[-1]) for row in PICTURES), *((sample_id, "Un albero") for sample_id in LOST_PICTURES)]
    captions = shard_of(
        [
            caption_row(number, sample_id, f"http://example.org/{number}.jpg", caption)
            for number, (sample_id, caption) in enumerate(told)
        ],
        CAPTIONS,
        folder / "captions.parquet",
    )
    images = shard_of(list(picture_rows()), IMAGES, folder / "images" / SHARD)
    tests = [with_pixels(held_out(work, folder), work)]
    found, merged, finished = [], [], []
    for action in ("drop", "mark"):
        config, leaks = DuplicatesConfig(placeholder_urls=3), LeaksConfig(action=action)
        duplicates = find_duplicates(
            work, [captions], [images], ["good", "poor"], tests, config=config, leaks=leaks, split=SPLIT
        )
        into = merge_captions(work, [captions], duplicates)
        one = finish(work, captions, images, duplicates, into, leaks, drop_repeated_captions=False)
        other = finish(work, captions, images, duplicates, None, leaks, drop_repeated_captions=True)
        found += [duplicates.path(SHARD), duplicates.path(MARKS_FILE)]
        merged.append(into.path(SHARD))
        finished += [one.path, other.path]
    return {FIND_DUPLICATES: content(*found), MERGE_CAPTIONS: content(*merged), DEDUPLICATE: content(*finished)}


def test_what_steps_write_changes_only_with_their_version(tmp_path: Path) -> None:
    """Where a version was raised, or rows were added here, the message has the lines to put into `GOLDENS`."""
    found: dict[str, str] = {}
    for number, through_steps in enumerate((repeats_through_steps, images_through_steps)):
        folder = tmp_path / str(number)
        folder.mkdir()
        found |= through_steps(folder)
    present = {step: (VERSIONS[step], found[step]) for step in GOLDENS}
    lines = (f'{step.upper().replace("-", "_")}: ({version}, "{text}"),' for step, (version, text) in present.items())
    assert present == GOLDENS, "\n".join(["now:", *lines])
