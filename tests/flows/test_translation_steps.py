"""Planning, translating and joining: what is asked of an engine, once, in which chunks, and what becomes of it."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.errors import ShardError, TransientError
from data_catalog.sample.grammar import write_pairs
from data_catalog.schema import CAPTIONS, PENDING, REJECTED
from data_catalog.storage.shards import save_parquet, sha256_of
from data_catalog.storage.work import Commit, WorkStore
from flows.build.captions import join_translations, plan_translation, translate_chunks
from flows.build.step_outputs import Shard
from translation.config import TranslateConfig
from translation.engine import Translation
from translation.engines.argos import argos_translator
from translation.memory import TranslationMemory
from translation.memory_files import export_memory
from translation.packages.package import open_package

SCENES_PACKAGE = Path(__file__).resolve().parents[2] / "flows" / "packages" / "scenes-en_it.argosmodel"


class UpperCase:
    """An engine that notes what it is asked."""

    fingerprint, from_code, to_code = "upper:en-it:1", "en", "it"

    def __init__(self, max_chunk_size: int | None = None) -> None:
        self.max_chunk_size = max_chunk_size
        self.asked: list[list[str]] = []

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        self.asked.append(list(captions))
        return [Translation(text=caption.upper(), score=-len(caption) / 100) for caption in captions]


def row(number: int, caption: str | None, **values: Any) -> dict[str, Any]:
    cleaned = {"clean_caption": caption, "source_lang": "en", "target_lang": "it", "outcome": PENDING}
    identity = {"sample_id": f"s:{number}", "caption_id": f"s:{number}#0", "source": "s"}
    return dict.fromkeys(CAPTIONS.names) | identity | {"upstream_file": "f", "upstream_line": number} | cleaned | values


def write_shard(folder: Path, number: int, rows: Sequence[dict[str, Any]]) -> Shard:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:05d}.parquet"
    save_parquet(pa.Table.from_pylist(list(rows), CAPTIONS), path)
    return Shard(shard_id=number, path=path, sha256=sha256_of(path), counts={})


def write_shards(folder: Path, shards: Sequence[Sequence[str]]) -> list[Shard]:
    return [
        write_shard(folder, number, [row(line, caption) for line, caption in enumerate(captions)])
        for number, captions in enumerate(shards)
    ]


def chunks(plan: Commit) -> list[list[str]]:
    return [pq.read_table(plan.path(name)).column("clean_caption").to_pylist() for name in sorted(plan.files)]


def translate(
    root: Path, shards: Sequence[Shard], engine: Any, *, work: str = "work", chunk_size: int = 20
) -> tuple[Commit, list[list[dict[str, Any]]]]:
    """All three steps; the plan, and the joined shards' rows."""
    store, memory = WorkStore(root / work), TranslationMemory(root / "memory", engine.fingerprint)
    plan = plan_translation(store, shards, engine, memory, chunk_size=chunk_size)
    for number in range(plan.facts["num_chunks"]):
        translate_chunks(plan, [number], engine, memory)
    joined = [join_translations(store, shard, memory, engine.from_code) for shard in shards]
    return plan, [pq.read_table(shard.path).to_pylist() for shard in joined]


def test_a_caption_is_translated_once_however_often_it_comes(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [["b", "a", "b"], ["c", "a", "d"], ["d", "b"], ["e"]])
    engine = UpperCase()
    plan, joined = translate(tmp_path, shards, engine, chunk_size=2)
    assert chunks(plan) == engine.asked == [["b", "a"], ["c", "d"], ["e"]]
    assert plan.facts == {"num_chunks": 3, "num_captions": 5, "ready_after": [1, 2, 2, 3]}
    assert [[found["caption"] for found in rows] for rows in joined] == [
        ["B", "A", "B"],
        ["C", "A", "D"],
        ["D", "B"],
        ["E"],
    ]


@settings(deadline=None, max_examples=25)
@given(
    shards=st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=1)), max_size=4),
    chunk_size=st.integers(1, 9),
    max_chunk_size=st.none() | st.integers(1, 9),
    data=st.data(),
)
def test_the_plan_is_what_the_memory_lacks_in_the_order_of_the_shards(
    shards: list[list[str]],
    chunk_size: int,
    max_chunk_size: int | None,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("plan")
    engine, memory = UpperCase(max_chunk_size), TranslationMemory(root / "memory", UpperCase.fingerprint)
    captions = list(dict.fromkeys(caption for shard in shards for caption in shard))
    known = data.draw(st.sets(st.sampled_from(captions))) if captions else set()
    memory.record(list(known), [Translation(text="known")] * len(known))
    written = write_shards(root / "shards", shards)
    plan = plan_translation(WorkStore(root / "work"), written, engine, memory, chunk_size=chunk_size)
    size = min(chunk_size, max_chunk_size or chunk_size)
    missing = [caption for caption in captions if caption not in known]
    assert chunks(plan) == [missing[start : start + size] for start in range(0, len(missing), size)]
    assert (plan.facts["num_captions"], plan.facts["num_chunks"]) == (len(missing), len(plan.files))
    for shard, after in zip(shards, plan.facts["ready_after"], strict=True):
        translated = {caption for chunk in chunks(plan)[:after] for caption in chunk}
        assert set(shard) <= translated | known, "a shard is ready when all its captions are there"
    again = plan_translation(WorkStore(root / "again"), written, engine, memory, chunk_size=chunk_size)
    assert (again.files, again.facts) == (plan.files, plan.facts)


def test_rows_that_need_no_translation_are_not_planned(tmp_path: Path) -> None:
    rows = [
        row(0, "a gatto", source_lang="it", origin="native", translator="native"),
        row(1, "eine Katze", source_lang="de"),
        row(2, "rejected", outcome=REJECTED, step="clean", drop_reason="too_short"),
        row(3, None, outcome=REJECTED, step="ingest", drop_reason="malformed_row"),
        row(4, "no language", source_lang=None),
    ]
    engine = UpperCase()
    plan, (joined,) = translate(tmp_path, [write_shard(tmp_path, 0, rows)], engine)
    assert (plan.facts, engine.asked) == ({"num_chunks": 0, "num_captions": 0, "ready_after": [0]}, [])
    assert [(found["caption"], found["translator"], found["drop_reason"], found["detail"]) for found in joined] == [
        ("a gatto", "native", None, None),
        (None, None, "language_not_served", "de"),
        (None, None, "too_short", None),
        (None, None, "malformed_row", None),
        (None, None, "language_not_served", None),
    ]


RESULTS = {
    "plain": Translation(text="semplice", score=-0.25),
    "long": Translation(text="lungo", score=-1.5, truncated=True),
    "loop": Translation(text="giro giro", score=-2.0, repetitive=True),
    "scoreless": Translation(text="senza"),
    "nothing": Translation(text="", score=None),
}


class OfManyKinds(UpperCase):
    """An engine whose results have every flag, no score, no text."""

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        return [RESULTS[caption] for caption in captions]


def test_joining_fills_what_is_known_of_a_translation(tmp_path: Path) -> None:
    rows = [row(number, caption) for number, caption in enumerate(RESULTS)]
    rows.append(row(9, "nativo", source_lang="it", origin="native", translator="native"))
    _, (joined,) = translate(tmp_path, [write_shard(tmp_path, 0, rows)], OfManyKinds())
    names = ("caption", "origin", "translator", "translation_score", "translation_truncated", "translation_repetitive")
    engine = OfManyKinds.fingerprint
    assert [tuple(found[name] for name in names) for found in joined] == [
        ("semplice", "machine_translation", engine, -0.25, False, False),
        ("lungo", "machine_translation", engine, -1.5, True, False),
        ("giro giro", "machine_translation", engine, -2.0, False, True),
        ("senza", "machine_translation", engine, None, False, False),
        ("", "machine_translation", engine, None, False, False),
        ("nativo", "native", "native", None, None, None),
    ]
    assert [(found["outcome"], found["step"], found["drop_reason"]) for found in joined if found["drop_reason"]] == [
        (REJECTED, "translate", "translation_empty")
    ]
    for before, after in zip(rows, joined, strict=True):
        changed = {name for name in CAPTIONS.names if before[name] != after[name]}
        assert changed <= {*names, "outcome", "step", "drop_reason"}


def test_a_second_build_translates_nothing_and_one_with_new_captions_only_those(tmp_path: Path) -> None:
    captions = [f"caption {number}" for number in range(1_000)]
    shards = [captions[start : start + 100] for start in range(0, 1_000, 100)]
    translate(tmp_path, write_shards(tmp_path / "first", shards), UpperCase(), work="first-work")
    second = UpperCase()
    plan, joined = translate(tmp_path, write_shards(tmp_path / "second", shards), second, work="second-work")
    assert (plan.facts["num_captions"], second.asked) == (0, [])
    assert [found["caption"] for rows in joined for found in rows] == [caption.upper() for caption in captions]
    grown = [[*shard, f"new {number}"] for number, shard in enumerate(shards)]
    third = UpperCase()
    plan, joined = translate(tmp_path, write_shards(tmp_path / "third", grown), third, work="third-work")
    assert third.asked == [[f"new {number}" for number in range(10)]]
    assert [found["caption"] for rows in joined for found in rows] == [
        name.upper() for shard in grown for name in shard
    ]


def test_a_plan_is_kept_so_that_chunks_are_those_of_the_first_try(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [list("abcdef")])
    store, engine = WorkStore(tmp_path / "work"), UpperCase()
    memory = TranslationMemory(tmp_path / "memory", engine.fingerprint)
    plan = plan_translation(store, shards, engine, memory, chunk_size=4)
    memory.record(["a", "f"], [Translation(text="other")] * 2)
    again = plan_translation(store, shards, engine, memory, chunk_size=4)
    assert (again.reused, chunks(again)) == (True, chunks(plan))
    for number in range(2):
        translate_chunks(again, [number], engine, memory)
        translate_chunks(again, [number], engine, memory)
    assert engine.asked == [list("abcd"), list("ef")], "whole chunks, once each"
    joined = join_translations(store, shards[0], memory, "en")
    found = pq.read_table(joined.path).column("caption").to_pylist()
    assert found == ["other", "B", "C", "D", "E", "other"], "what was recorded first holds"


def test_an_engine_that_fails_leaves_its_chunk_to_the_next_run(tmp_path: Path) -> None:
    class Failing(UpperCase):
        def translate(
            self, captions: Sequence[str], on_done: Callable[[int], object] | None = None
        ) -> list[Translation]:
            if "d" in captions:
                raise TransientError("not now")
            return super().translate(captions)

    shards = write_shards(tmp_path, [list("abcdef")])
    with pytest.raises(TransientError):
        translate(tmp_path, shards, Failing(), chunk_size=3)
    engine = UpperCase()
    translate(tmp_path, shards, engine, chunk_size=3)
    assert engine.asked == [list("def")]


def test_a_lost_translation_is_named(tmp_path: Path) -> None:
    (shard,) = write_shards(tmp_path, [["a", "b"]])
    memory = TranslationMemory(tmp_path / "memory", "x")
    memory.record(["a"], [Translation(text="A")])
    with pytest.raises(ShardError, match="shard 00000: the translation memory lost 'b': delete work/plan and run"):
        join_translations(WorkStore(tmp_path / "work"), shard, memory, "en")


KILLED_AGAIN_AND_AGAIN = """
import json, os, random, signal, sys, time
from pathlib import Path
import argostranslate.tokenizer, ctranslate2, pyarrow.dataset  # once, not in every child
from data_catalog.storage.work import WorkStore
from flows.build.captions import join_translations, plan_translation, translate_chunks
from flows.build.step_outputs import Shard
from translation.engines.argos import argos_translator
from translation.config import TranslateConfig
from translation.memory import TranslationMemory
from translation.packages.package import open_package

root, package, chunk_size, shards = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
shards = [Shard(shard_id=n, path=Path(path), sha256=sha256, counts={}) for n, (path, sha256) in enumerate(shards)]
engine = argos_translator(open_package(package, root / "packages"), TranslateConfig(inter_threads=1))

def build(started):
    memory, work = TranslationMemory(root / "memory", engine.fingerprint), WorkStore(root / "work")
    work.sweep()
    engine.translate(["a red circle"])  # loads the model, so that kills meet chunks
    plan = plan_translation(work, shards, engine, memory, chunk_size=chunk_size)
    for number in range(plan.facts["num_chunks"]):
        started()
        translate_chunks(plan, [number], engine, memory)
    return [join_translations(work, shard, memory, "en").sha256 for shard in shards]

counts = []
for seed in range(10):
    rng = random.Random(seed)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        build(lambda: os.write(writer, b"."))
        os._exit(0)
    os.close(writer)
    num_done = counts[-1] // chunk_size if counts else 0
    for _ in range(num_done + rng.randint(1, 2)):
        os.read(reader, 1)  # it starts on chunks that are done, then on one or two that are not
    time.sleep(rng.uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] in (0, signal.SIGKILL)
    os.close(reader)
    counts.append(TranslationMemory(root / "memory", engine.fingerprint).count())
print(json.dumps({"counts": counts, "joined": build(lambda: None)}))
"""


def scenes_shards(folder: Path, num_captions: int) -> list[Shard]:
    write_pairs(folder / "pairs.tsv", seed=7, num_pairs=num_captions)
    lines = (folder / "pairs.tsv").read_text(encoding="utf-8").splitlines()
    captions = [line.split("\t")[0] for line in lines]
    return write_shards(folder / "shards", [captions[::2], captions[1::2]])


def test_ten_kills_while_translating_change_neither_texts_nor_scores(tmp_path: Path) -> None:
    shards, chunk_size = scenes_shards(tmp_path, 600), 25
    references = json.dumps([(str(shard.path), shard.sha256) for shard in shards])
    command = [sys.executable, "-c", KILLED_AGAIN_AND_AGAIN, str(tmp_path / "killed"), str(SCENES_PACKAGE)]
    child = subprocess.run([*command, str(chunk_size), references], check=True, capture_output=True, text=True)
    found = json.loads(child.stdout)
    assert all(count % chunk_size == 0 for count in found["counts"]), "a chunk is there whole, or not at all"
    assert found["counts"] == sorted(found["counts"])
    assert any(0 < count < 600 for count in found["counts"])

    package = open_package(SCENES_PACKAGE, tmp_path / "packages")
    engine = argos_translator(package, TranslateConfig(inter_threads=1))
    store, memory = WorkStore(tmp_path / "whole" / "work"), TranslationMemory(tmp_path / "whole", engine.fingerprint)
    plan = plan_translation(store, shards, engine, memory, chunk_size=chunk_size)
    for number in range(plan.facts["num_chunks"]):
        translate_chunks(plan, [number], engine, memory)
    joined = [join_translations(store, shard, memory, "en").sha256 for shard in shards]
    assert found["joined"] == joined
    killed = TranslationMemory(tmp_path / "killed" / "memory", engine.fingerprint)
    for name, each in (("killed", killed), ("whole", memory)):
        export_memory(each, tmp_path / f"{name}.parquet")
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert len({translation.score for _, translation in memory.rows()}) > 100, "scores tell captions apart"
