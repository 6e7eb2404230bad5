"""A step whose output changes must get a new version: goldens of what the steps write for fixed rows."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from cleaning.checks import CheckConfig, CleanConfig
from data_catalog.sources.ingest import Source, ingest, shard_names
from data_catalog.sources.rows import MalformedRow, SourceRow, UpstreamRow
from data_catalog.storage.shards import digest
from data_catalog.storage.work import Commit, WorkStore
from flows.build.captions import check, clean, join_translations
from flows.build.step_outputs import CHECK, CLEAN, INGEST, TRANSLATE, VERSIONS, Shard, shard_of_commit
from flows.recipe.language_packs import load_language_packs
from translation.engine import Translation
from translation.memory import TranslationMemory

CAPTIONS = [
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

# (version, digest of the rows): a change of the digest alone means that the version must be raised.
GOLDENS = {
    INGEST: (5, "7d55041ebf862b78"),
    CLEAN: (5, "58f17994820a7258"),
    TRANSLATE: (4, "22fd5ccc282f1419"),
    CHECK: (5, "5e66073143b827f5"),
}


def rows() -> Iterator[SourceRow]:
    for line, (lang, caption) in enumerate(CAPTIONS, start=1):
        yield UpstreamRow(
            upstream_file="a.tsv",
            upstream_line=line,
            sample_key=str(line % 4),
            url=f"http://example.org/{line % 4}.jpg",
            caption=caption,
            lang=lang,
        )
    yield MalformedRow(upstream_file="a.tsv", upstream_line=99, reason="malformed_row", detail="1 field", raw="x")


def content(path: Path) -> str:
    return digest(pq.read_table(path).to_pylist())[:16]


def outputs(folder: Path) -> dict[str, str]:
    work = WorkStore(folder)
    source = Source(name="pairs", files=[Path("a.tsv")], file_hashes=["h"], settings={}, read=rows)
    commit: Commit = ingest(work, [source], target_lang="it", shard_size=100)
    packs = load_language_packs()
    ingested: Shard = shard_of_commit(commit, 0, shard_names(commit)[0])
    cleaned = clean(work, ingested, CleanConfig(), packs)
    memory = TranslationMemory(folder / "memory", "argos:en-it:golden")
    memory.record(list(TRANSLATIONS), list(TRANSLATIONS.values()))
    translated = join_translations(work, cleaned, memory, "en")
    checked = check(work, translated, CheckConfig(proper_noun_tagger="heuristic"), packs, target="it")
    shards = {INGEST: ingested, CLEAN: cleaned, TRANSLATE: translated, CHECK: checked}
    return {step: content(shard.path) for step, shard in shards.items()}


def test_what_steps_write_changes_only_with_their_version(tmp_path: Path) -> None:
    """Where a version was raised, or rows were added here, the message has the lines to put into `GOLDENS`."""
    found = {step: (VERSIONS[step], text) for step, text in outputs(tmp_path).items()}
    lines = [f'{step.upper()}: ({version}, "{text}"),' for step, (version, text) in found.items()]
    assert found == GOLDENS, "\n".join(["now:", *lines])
