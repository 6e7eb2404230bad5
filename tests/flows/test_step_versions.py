"""A step whose output changes must get a new version: goldens of what every step of the table writes for fixed rows."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cleaning.checks import CheckConfig, CleanConfig
from cleaning.duplicates.captions import RepeatsConfig
from cleaning.duplicates.images import DuplicatesConfig
from cleaning.leaks import PIXELS_FILE, LeaksConfig
from data_catalog.catalog.work import Commit
from data_catalog.disk.files import digest, save_parquet, sha256_of
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.image_views import VIEWS
from data_catalog.fetch.outcomes import Fetching, RecordedOutcomes
from data_catalog.fetch.workers import ImageWorkers
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.publish.publish import SplitConfig
from data_catalog.publish.tombstones import ActiveTombstones, Tombstones, new_tombstone
from data_catalog.rows.schema import CAPTIONS, IMAGES, NATIVE, PENDING, RAW_IMAGES
from data_catalog.sources.ingest import Source
from data_catalog.sources.rows import MalformedRow, SourceRow, UpstreamRow
from flows.build.captions import Threads
from flows.build.engine import SHARD
from flows.build.fit import Judges
from flows.build.images import MARKS_FILE, decisive_settings
from flows.build.steps import STEPS
from flows.recipe.language_packs import load_language_packs
from flows.recipe.sources import read_test_sets
from training.config import ImageTextConfig
from training.data.features import Encoder, ImageEncoder, TextEncoder
from translation.engine import Translation
from translation.memory import TranslationMemory

# By step its version and the digest of its rows: a change of the digest alone means that the version must be raised.
GOLDENS = {
    "ingest": (8, "54ce6dec5dffc029"),
    "forget": (2, "86a63a1259defcdd"),
    "clean": (7, "07d0402d9cdd7143"),
    "test-set": (3, "acfc906c52ec017c"),
    "find-repeats": (4, "aa18e8f4e28f513e"),
    "screen": (4, "ffe818c856c75d80"),
    "translate": (5, "c14dda2295fe6877"),
    "round-trip": (4, "f7019a8c9d0435f9"),
    "check": (7, "c74282f74eff34fe"),
    "fetch": (6, "21498958bdacf3ef"),
    "normalise": (6, "d3e10c5e7b0dd5f4"),
    "forget-images": (4, "515545927aa4d307"),
    "measure-fit": (1, "96dc9c41649adc91"),
    "fit": (1, "aa672f437368cce7"),
    "find-duplicates": (4, "34a8f8fc11340af4"),
    "deduplicate": (6, "54c5e7f8e63ec82d"),
    "publish": (7, "4336591668b8bdba"),
}

CAPTIONS_OF_LANGUAGES = [
    ("it", "Un gatto nero dorme sopra una sedia di legno"),
    ("it", "PerchÃ© il cane guarda la finestra?"),
    ("it", "  due   stelle\u200b rosse &amp; un cerchio\n<b>blu</b> "),
    ("it", "Giuseppe Garibaldi"),
    ("it", "una chiesa a Roma"),
    ("it", "IMG_2041.jpg"),
    ("it", "Ein kleiner Hund spielt mit einem roten Ball auf der grünen Wiese"),
    ("it", "gatto"),
    ("it", "\u202euna scritta al contrario\u202c"),
    ("en", "A man riding a horse on the beach"),
    ("en", "The old church of 1998 and 24 dogs"),
    ("de", "Ein Hund auf der Wiese"),
]
TRANSLATIONS = {
    "A man riding a horse on the beach": Translation(text="Un uomo a cavallo sulla beach", score=-0.5),
    "The old church of 1998 and 24 dogs": Translation(text="I cani e i cani e i cani e i cani e 25", truncated=True),
}
BACK = {
    "Un uomo a cavallo sulla beach": Translation(text="A man on horseback on the beach"),
    "I cani e i cani e i cani e i cani e 25": Translation(text="The dogs and the dogs"),
}

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
    ("9", "c.jpg", "Un ragazzo dorme sopra il tavolo"),
    ("9", "c.jpg", "Un ragazzo dorme sotto il tavolo"),
]
HELD_OUT = [
    {"url": "http://example.org/held.jpg", "identity": "coco:391895", "caption": "Tre barche a vela al tramonto!"},
    {"url": "http://example.org/other%20one.jpg", "identity": "flickr:1000268201", "caption": "Un gatto"},
    {"url": "http://example.org/held.jpg", "identity": "coco:391895", "caption": "两只狗在沙滩上奔跑着追球"},
]
FUNCTION_WORDS = {
    "it": dict.fromkeys(("a", "al", "di", "e", "un", "una", "في"), "")
    | {"su": "su", "sulla": "su", "sopra": "su", "sotto": "sotto"}
}

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

TOMBSTONES = Tombstones(
    tombstones=(
        new_tombstone("domain", "poor.example.org"),
        new_tombstone("url", "http://example.org/2.jpg"),
        new_tombstone("sample", "pairs:4").with_found([digest("alone")], []),
        new_tombstone("phash", "5a5a0f0f96963c3c", distance=2),
    )
)


def content(*paths: Path, without: Sequence[str] = ()) -> str:
    """The digest of some files' rows, bytes as text."""
    tables = [pq.read_table(path) for path in paths]
    kept = (table.select([name for name in table.column_names if name not in without]) for table in tables)
    return digest([plain(table.to_pylist()) for table in kept])[:16]


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(found) for found in value]
    if isinstance(value, Mapping):
        return {name: plain(found) for name, found in value.items()}
    return value.hex() if isinstance(value, bytes) else value


def saved(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    save_parquet(pa.Table.from_pylist(list(rows), schema), path)
    return path


def caption_row(number: int, sample_id: str, url: str | None, caption: str, **more: Any) -> dict[str, Any]:
    identity = {"sample_id": sample_id, "caption_id": f"{sample_id}#{number}", "source": sample_id.split(":")[0]}
    texts = dict.fromkeys(("source_caption", "clean_caption", "caption"), caption)
    origin = {"source_lang": "it", "target_lang": "it", "translator": NATIVE, "outcome": PENDING}
    return {"url": url, "upstream_file": "a.tsv", "upstream_line": number, **identity, **texts, **origin, **more}


def upstream_rows() -> Iterator[SourceRow]:
    for line, (lang, caption) in enumerate(CAPTIONS_OF_LANGUAGES, start=1):
        where = {"sample_key": str(line % 4), "url": f"http://example.org/{line % 4}.jpg"}
        yield UpstreamRow(upstream_file="a.tsv", upstream_line=line, caption=caption, lang=lang, **where)
    yield MalformedRow(upstream_file="a.tsv", upstream_line=99, reason="malformed_row", detail="1 field", raw="x")


def texts_through_steps(call_step: Any, folder: Path) -> dict[str, str]:
    packs = load_language_packs()
    memories = TranslationMemory(folder / "memory", "argos:en-it:golden"), TranslationMemory(folder / "memory", "back")
    for memory, known in zip(memories, (TRANSLATIONS, BACK), strict=True):
        memory.record(list(known), list(known.values()))
    tools = SimpleNamespace(
        windows=None,
        reverse_windows=None,
        sources=[Source(name="pairs", files=[Path("a.tsv")], file_entries=[], settings={}, read=upstream_rows)],
        translator=SimpleNamespace(fingerprint="argos:en-it:golden", max_chunk_size=None),
        memory=memories[0],
        reverse=SimpleNamespace(fingerprint="back", from_code="it", to_code="en", max_chunk_size=None),
        reverse_memory=memories[1],
        tagger=None,
    )

    def call(step: str, inputs: Mapping[str, Any], **settings: Any) -> Commit:
        made: Commit = call_step(step, folder / "work", inputs, settings, tools=tools)
        return made

    reading = {"target_lang": "it", "shard_size": 100, "keep_splits": False}
    ingested = call("ingest", {}, sources={}, files={}, **reading)
    forgotten = call("forget", {"ingest": ingested}, in_force=ActiveTombstones.of(TOMBSTONES))
    cleaned = call("clean", {"forget": ingested}, config=CleanConfig(), packs=packs)
    translated = call("translate", {"screen": cleaned}, engine="argos:en-it:golden", from_code="en")
    there_and_back = call("round-trip", {"translate": translated}, engine="back")
    checking = {"config": CheckConfig(proper_noun_tagger="heuristic"), "packs": packs, "target": "it", "tagger": None}
    checking |= {"leaks": LeaksConfig(), "source_engine": None, "test_sets": []}
    checked = call("check", {"round-trip": translated}, **checking)
    made = (ingested, forgotten, cleaned, translated, there_and_back, checked)
    return {commit.folder.parent.name: content(commit.only_file) for commit in made}


def held_out(call_step: Any, folder: Path) -> Commit:
    path = folder / "held.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in HELD_OUT), "utf-8")
    columns = {"url_column": "url", "identity_column": "identity", "caption_column": "caption"}
    (held,) = read_test_sets({"held": {"kind": "pairs", "files": [str(path)], **columns}}, "it")
    settings = {"name": "held", "kind": held.kind.kind, "config": held.config, "images": None, "min_words": 4}
    settings |= {"files": [[path.name, sha256_of(path)]]}
    found: Commit = call_step("test-set", folder / "work", {}, settings)
    return found


def repeats_through_steps(call_step: Any, folder: Path) -> dict[str, str]:
    held = held_out(call_step, folder)
    rows = [
        caption_row(number, f"pairs:{sample}", f"http://example.org/{image}", caption)
        for number, (sample, image, caption) in enumerate(REPEATS)
    ]
    captions = saved(rows, CAPTIONS, folder / "captions.parquet")
    shared = {"config": RepeatsConfig(max_images_per_caption=2), "function_words": FUNCTION_WORDS}
    repeats = call_step("find-repeats", folder / "work", {"clean": [captions]}, {**shared, "threads": Threads(1)})
    dropped, marked = (
        call_step(
            "screen",
            folder / "work",
            {"clean": captions, "test-set": [held], "find-repeats": repeats},
            {**shared, "leaks": LeaksConfig(action=action), "kinds": {"pairs": "pairs"}, "test_sets": ["held"]},
        )
        for action in ("drop", "mark")
    )
    return {
        "test-set": content(*(held.path(name) for name in sorted(held.files))),
        "find-repeats": content(repeats.only_file),
        "screen": content(dropped.only_file, marked.only_file),
    }


def thumbnail(look: int) -> bytes:
    """Pixels of which no two looks have many alike."""
    return bytes((place * place * (2 * look + 1) + 41 * look) % 251 for place in range(192))


def picture_rows() -> Iterator[dict[str, Any]]:
    pictures = {sample_id: facts for sample_id, *facts in PICTURES}
    for sample_id, (sha256, phash, look, side, _) in pictures.items():
        source, number = sample_id.split(":")
        sides = dict.fromkeys(("width", "height", "original_width", "original_height"), side)
        looks = {"sha256": digest(sha256), "phash": f"{phash:016x}", "thumbnail": thumbnail(look)}
        final = {"http_status": 200, "final_url": f"http://{source}.example.org/{number}.jpg"}
        told = {"bytes": b"", "original_format": "JPEG", "url": f"http://example.org/{number}.jpg", "attempt": 0}
        yield {"sample_id": sample_id, **sides, **looks, **final, **told}
    yield from ({"sample_id": sample_id, "drop_reason": reason} for sample_id, reason in LOST_PICTURES.items())


def images_through_steps(call_step: Any, folder: Path) -> dict[str, str]:
    told = [*((row[0], row[-1]) for row in PICTURES), *((sample_id, "Un albero") for sample_id in LOST_PICTURES)]
    rows = [
        caption_row(number, sample_id, f"http://example.org/{number}.jpg", caption)
        for number, (sample_id, caption) in enumerate(told)
    ]
    captions = saved(rows, CAPTIONS, folder / "captions.parquet")
    images = saved(list(picture_rows()), IMAGES, folder / "images" / SHARD)
    # A view of an image of a test set: decoded nowhere, since decoders differ in what they make of a file.
    view = {"name": "held.jpg", "view": "whole", "sha256": digest("held"), "phash": "5a5a0f0f96963c3c"}
    held = saved([{**view, "thumbnail": thumbnail(6)}], VIEWS, folder / "held" / PIXELS_FILE)
    work, shards = folder / "work", {"fit": captions, "forget-images": images}
    found, finished, published = [], [], []
    for action in ("drop", "mark"):
        leaks, config = LeaksConfig(action=action), decisive_settings(DuplicatesConfig(placeholder_urls=3))
        deciding = {"sources": ["good", "poor"], "config": config, "leaks": leaks, "split": SPLIT}
        deciding |= {"test_sets": ["held"]}
        all_shards = {"fit": [captions], "forget-images": [images], "test-set": [held]}
        duplicates = call_step("find-duplicates", work, all_shards, deciding)
        reads = {**shards, "find-duplicates": duplicates}
        dropping = {"leaks": leaks, "drop_repeated_captions": False}
        one = call_step("deduplicate", work, reads, dropping)
        other = call_step("deduplicate", work, reads, dropping | {"drop_repeated_captions": True})
        snapshot = {"deduplicate": one, "forget-images": images}
        publishing = {"split": SPLIT, "image_rows": ["fetch", "normalise", "deduplicate"]}
        files = call_step("publish", work, snapshot, publishing)
        found += [duplicates.path(SHARD), duplicates.path(MARKS_FILE)]
        finished += [one.only_file, other.only_file]
        published += [files.path(name) for name in sorted(files.files)]
    forgotten = call_step("forget-images", work, {"normalise": images}, {"in_force": ActiveTombstones.of(TOMBSTONES)})
    return {
        "find-duplicates": content(*found),
        "deduplicate": content(*finished),
        "publish": content(*published),
        "forget-images": content(forgotten.only_file),
    }


def fetching_through_steps(call_step: Any, folder: Path) -> dict[str, str]:
    """Local images: what an encoder makes of a picture is another version's otherwise, and is left out."""
    (folder / "images").mkdir()
    (folder / "images" / "a.ppm").write_bytes(b"P6 64 64 255\n" + bytes(range(256)) * 48)
    (folder / "images" / "b.jpg").write_bytes(b"<html>")
    (folder / "images" / "c.jpg").touch()
    rows = [
        caption_row(number, f"own:{name}", None, "Un cane", path=name)
        for number, name in enumerate(["a.ppm", "b.jpg", "c.jpg", "d.jpg", "a.ppm"])
    ]
    rows.append(caption_row(9, "own:9", "ftp://example.org/9.jpg", "Un gatto"))
    config, normalise = FetchConfig(), NormaliseConfig(image_size=32)
    with ImageWorkers(folder / "hosts") as workers:
        tools = SimpleNamespace(
            locations={"own": str(folder / "images")},
            known=RecordedOutcomes(folder, Fetching(dataset="golden", attempt=0, fetch={}, normalise={})),
            workers=workers,
            log_folder=folder / "log",
            owners=None,
        )
        captions = {"check": saved(rows, CAPTIONS, folder / "captions.parquet")}
        settings = {"config": config, "normalise": normalise, "attempt": 0, "locations": {"own": "h"}}
        fetched = call_step("fetch", folder / "work", captions, settings, tools=tools)
        normalised = call_step("normalise", folder / "work", {"fetch": fetched}, {"config": normalise}, tools=tools)
    assert pq.read_schema(fetched.path("asked.parquet")).equals(RAW_IMAGES)
    return {
        "fetch": content(*(fetched.path(name) for name in sorted(fetched.files))),
        "normalise": content(normalised.only_file, without=["bytes", "phash", "thumbnail"]),
    }


def fit_through_steps(call_step: Any, folder: Path) -> dict[str, str]:
    """A model that looks at the colour of a picture, and at the colours that a caption names."""
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "rosso": (255, 0, 0)}
    encoder = Encoder(
        name="colours",
        origin="golden",
        image=ImageEncoder(
            prepare=lambda image: torch.tensor(image.resize((1, 1)).getpixel((0, 0)), dtype=torch.float32),
            encode=lambda pixels: pixels,
        ),
        text=TextEncoder(
            encode=lambda texts: torch.tensor(
                [
                    [8.0 + sum(rgb[band] for word, rgb in colours.items() if word in text) for band in range(3)]
                    for text in texts
                ]
            )
        ),
    )
    pictures, rows = [], []
    for number, (colour, drop) in enumerate([("red", None), ("green", None), ("blue", None), ("red", "http_404")]):
        file = io.BytesIO()
        Image.new("RGB", (8, 8), colours[colour]).save(file, "PNG")
        pictures.append(
            {"sample_id": f"own:{number}", "drop_reason": drop, "bytes": file.getvalue() if not drop else None}
        )
        rows += [caption_row(number, f"own:{number}", None, f"the {colour} one", source_lang="en", target_lang="it")]
    rows[0] |= {"caption": "il rosso"}
    rows[2] |= {"caption": "il red"}
    judges = Judges(target=encoder, source=encoder, learned={}, cache=folder / "features")
    captions, images = saved(rows, CAPTIONS, folder / "captions.parquet"), saved(pictures, IMAGES, folder / "i" / SHARD)
    tools = SimpleNamespace(judges=judges, recipe=None, root=folder)
    work, all_shards = folder / "work", {"check": [captions], "forget-images": [images]}
    measured = call_step("measure-fit", work, all_shards, {"identities": {}}, tools=tools)
    config = ImageTextConfig(model="golden", min_score=-5.0, max_drop=1.0)
    reads = {"check": captions, "forget-images": images, "measure-fit": measured}
    fitted = call_step("fit", work, reads, {"config": config})
    return {"measure-fit": rounded(measured.only_file), "fit": rounded(fitted.only_file)}


def rounded(path: Path) -> str:
    """The digest of a file's rows whose last bits depend on the processor."""
    rows = pq.read_table(path).to_pylist()
    return digest([{k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in rows])[:16]


@pytest.mark.usefixtures("quick_builds")
def test_what_steps_write_changes_only_with_their_version(tmp_path: Path, call_step: Any) -> None:
    """Where a version was raised, or rows were added here, the message has the lines to put into `GOLDENS`."""
    found: dict[str, str] = {}
    ways = (texts_through_steps, repeats_through_steps, images_through_steps, fetching_through_steps, fit_through_steps)
    for number, through_steps in enumerate(ways):
        folder = tmp_path / str(number)
        folder.mkdir()
        found |= through_steps(call_step, folder)
    assert found.keys() == {step.name for step in STEPS}, "every step of the table has a golden"
    present = {step.name: (step.version, found[step.name]) for step in STEPS}
    lines = (f'"{step}": ({version}, "{text}"),' for step, (version, text) in present.items())
    assert present == GOLDENS, "\n".join(["now:", *lines])
