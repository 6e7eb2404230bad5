"""The step that translates: what is asked of an engine, once, in which windows, and what becomes of it."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.errors import DamagedError, TransientError
from data_catalog.sample.grammar import write_pairs
from data_catalog.schema import CAPTIONS, PENDING, REJECTED
from data_catalog.storage.shards import save_parquet, sha256_of
from flows.build import captions as caption_steps
from translation.config import TranslateConfig
from translation.engine import Translation
from translation.engines.argos import argos_translator
from translation.memory import TranslationMemory, export_memory
from translation.packages.package import open_package

SCENES_PACKAGE = Path(__file__).resolve().parents[2] / "flows" / "packages" / "scenes-en_it.argosmodel"


class UpperCase:
    """An engine that notes what it is asked; scores tell in which window a caption was, and where there."""

    fingerprint, from_code, to_code = "upper:en-it:1", "en", "it"

    def __init__(self, max_chunk_size: int | None = None) -> None:
        self.max_chunk_size = max_chunk_size
        self.asked: list[list[str]] = []

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        self.asked.append(list(captions))
        count = len(captions)
        return [
            Translation(text=caption.upper(), score=-(count + place / 100)) for place, caption in enumerate(captions)
        ]


class KilledAfter(UpperCase):
    """An engine that a process dies in, after so many windows."""

    def __init__(self, num_windows: int, max_chunk_size: int | None = None) -> None:
        super().__init__(max_chunk_size)
        self.num_windows = num_windows

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        if len(self.asked) == self.num_windows:
            raise KeyboardInterrupt
        return super().translate(captions)


def row(number: int, caption: str | None, **values: Any) -> dict[str, Any]:
    cleaned = {"clean_caption": caption, "source_lang": "en", "target_lang": "it", "outcome": PENDING}
    identity = {"sample_id": f"s:{number}", "caption_id": f"s:{number}#0", "source": "s"}
    return dict.fromkeys(CAPTIONS.names) | identity | {"upstream_file": "f", "upstream_line": number} | cleaned | values


def write_shard(folder: Path, number: int, rows: Sequence[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:05d}.parquet"
    save_parquet(pa.Table.from_pylist(list(rows), CAPTIONS), path)
    return path


def write_shards(folder: Path, shards: Sequence[Sequence[str]]) -> list[Path]:
    return [
        write_shard(folder, number, [row(line, caption) for line, caption in enumerate(captions)])
        for number, captions in enumerate(shards)
    ]


class Root:
    """A root in which shards are translated one after the other, as the engine's lane has it."""

    def __init__(self, call_step: Any, folder: Path, *, memory: Callable[..., TranslationMemory] | None = None) -> None:
        self.call_step, self.folder = call_step, folder
        self.memory = (memory or TranslationMemory)(folder / "memory", UpperCase.fingerprint)

    def translate(self, shards: Sequence[Path], engine: Any, *, work: str = "work") -> list[Path]:
        tools = SimpleNamespace(translator=engine, memory=self.memory)
        given: Mapping[str, Any] = {"engine": engine.fingerprint, "from_code": engine.from_code}
        return [
            self.call_step("translate", self.folder / work, {"screen": shard}, given, tools=tools).only_file
            for shard in shards
        ]

    def rows(self, shards: Sequence[Path], engine: Any, *, work: str = "work") -> list[list[dict[str, Any]]]:
        return [pq.read_table(path).to_pylist() for path in self.translate(shards, engine, work=work)]


@pytest.fixture
def root(tmp_path: Path, call_step: Any) -> Root:
    return Root(call_step, tmp_path)


def test_a_caption_is_translated_once_however_often_it_comes(tmp_path: Path, root: Root) -> None:
    shards = write_shards(tmp_path, [["b", "a", "b"], ["c", "a", "d"], ["d", "b"], ["e"]])
    engine = UpperCase()
    found = root.rows(shards, engine)
    assert engine.asked == [["b", "a"], ["c", "d"], ["e"]]
    assert [[row["caption"] for row in rows] for rows in found] == [
        ["B", "A", "B"],
        ["C", "A", "D"],
        ["D", "B"],
        ["E"],
    ]


@settings(deadline=None, max_examples=40)
@given(
    shards=st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=1)), max_size=4),
    window=st.integers(1, 9),
    max_chunk_size=st.none() | st.integers(1, 9),
    num_windows=st.integers(0, 12),
    data=st.data(),
)
def test_windows_are_what_the_memory_lacks_and_a_kill_between_any_two_changes_nothing(
    shards: list[list[str]],
    window: int,
    max_chunk_size: int | None,
    num_windows: int,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
    call_step: Any,
) -> None:
    folder = tmp_path_factory.mktemp("windows")
    captions = list(dict.fromkeys(caption for shard in shards for caption in shard))
    known = data.draw(st.sets(st.sampled_from(captions))) if captions else set()
    whole, killed = Root(call_step, folder / "whole"), Root(call_step, folder / "killed")
    for each in (whole, killed):
        each.memory.record(sorted(known), [Translation(text="known")] * len(known))
    written = write_shards(folder / "shards", shards)
    engine, again = UpperCase(max_chunk_size), UpperCase(max_chunk_size)
    dying = KilledAfter(num_windows, max_chunk_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caption_steps, "STREAM_WINDOW", window)
        expected = whole.translate(written, engine)
        try:
            killed.translate(written, dying)
        except KeyboardInterrupt:
            assert len(dying.asked) == num_windows
        found = killed.translate(written, again)
    seen, windows, size = set(known), [], min(window, max_chunk_size or window)
    for shard in shards:
        missing = [caption for caption in dict.fromkeys(shard) if caption not in seen]
        windows += [missing[start : start + size] for start in range(0, len(missing), size)]
        seen |= set(shard)
    assert engine.asked == windows
    assert dying.asked + again.asked == windows
    assert list(killed.memory.rows()) == list(whole.memory.rows())
    assert [path.read_bytes() for path in found] == [path.read_bytes() for path in expected]


def test_rows_that_need_no_translation_are_not_asked_for(tmp_path: Path, root: Root) -> None:
    rows = [
        row(0, "a gatto", source_lang="it", origin="native", translator="native"),
        row(1, "eine Katze", source_lang="de"),
        row(2, "rejected", outcome=REJECTED, step="clean", drop_reason="too_short"),
        row(3, None, outcome=REJECTED, step="ingest", drop_reason="malformed_row"),
        row(4, "no language", source_lang=None),
    ]
    engine = UpperCase()
    (found,) = root.rows([write_shard(tmp_path, 0, rows)], engine)
    assert engine.asked == []
    assert [(row["caption"], row["translator"], row["drop_reason"], row["detail"]) for row in found] == [
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


def test_what_is_known_of_a_translation_is_filled_in(tmp_path: Path, root: Root) -> None:
    rows = [row(number, caption) for number, caption in enumerate(RESULTS)]
    rows.append(row(9, "nativo", source_lang="it", origin="native", translator="native"))
    (joined,) = root.rows([write_shard(tmp_path, 0, rows)], OfManyKinds())
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


def test_a_second_build_translates_nothing_and_one_with_new_captions_only_those(tmp_path: Path, root: Root) -> None:
    captions = [f"caption {number}" for number in range(1_000)]
    shards = [captions[start : start + 100] for start in range(0, 1_000, 100)]
    root.translate(write_shards(tmp_path / "first", shards), UpperCase(), work="first-work")
    second = UpperCase()
    found = root.rows(write_shards(tmp_path / "second", shards), second, work="second-work")
    assert second.asked == []
    assert [row["caption"] for rows in found for row in rows] == [caption.upper() for caption in captions]
    grown = [[*shard, f"new {number}"] for number, shard in enumerate(shards)]
    third = UpperCase()
    found = root.rows(write_shards(tmp_path / "third", grown), third, work="third-work")
    assert third.asked == [[f"new {number}"] for number in range(10)]
    assert [row["caption"] for rows in found for row in rows] == [name.upper() for shard in grown for name in shard]


def test_what_was_recorded_first_holds(tmp_path: Path, root: Root) -> None:
    class Late(UpperCase):
        """Another command records captions while they are translated here."""

        def translate(
            self, captions: Sequence[str], on_done: Callable[[int], object] | None = None
        ) -> list[Translation]:
            TranslationMemory(tmp_path / "memory", self.fingerprint).record(["a"], [Translation(text="other")])
            return super().translate(captions)

    (found,) = root.rows(write_shards(tmp_path, [list("abc")]), Late())
    assert [row["caption"] for row in found] == ["other", "B", "C"]


def test_an_engine_that_fails_leaves_its_window_to_the_next_run(tmp_path: Path, root: Root) -> None:
    class Failing(UpperCase):
        def translate(
            self, captions: Sequence[str], on_done: Callable[[int], object] | None = None
        ) -> list[Translation]:
            if "d" in captions:
                raise TransientError("not now")
            return super().translate(captions)

    shards = write_shards(tmp_path, [list("abcdef")])
    with pytest.raises(TransientError):
        root.translate(shards, Failing(max_chunk_size=3))
    engine = UpperCase(max_chunk_size=3)
    root.translate(shards, engine)
    assert engine.asked == [list("def")]


def test_a_lost_translation_is_named(tmp_path: Path, call_step: Any) -> None:
    class Forgetful(TranslationMemory):
        def record(self, captions: Sequence[str], translations: Sequence[Translation]) -> None:
            super().record(captions[:1], translations[:1])

    forgetful = Root(call_step, tmp_path, memory=Forgetful)
    with pytest.raises(DamagedError, match="shard 00000: the translation memory lost 'b': run the same command again"):
        forgetful.translate(write_shards(tmp_path, [["a", "b"]]), UpperCase())


TRANSLATING = """
from pathlib import Path
from types import SimpleNamespace
import argostranslate.tokenizer, ctranslate2, pyarrow.dataset  # once, not in every child
from data_catalog.storage.shards import sha256_of
from data_catalog.storage.work import Commit, WorkStore
from flows.build import captions
from flows.build.engine import call_of
from flows.build.steps import STEPS
from translation.engines.argos import argos_translator
from translation.config import TranslateConfig
from translation.memory import TranslationMemory
from translation.packages.package import open_package

class Announcing:
    '''An engine that says when it starts on a window.'''
    max_chunk_size = None
    def __init__(self, engine, started):
        self.engine, self.started = engine, started
    def translate(self, captions, on_done):
        self.started()
        return self.engine.translate(captions, on_done)

def opened(root, package):
    return argos_translator(open_package(Path(package), root / "packages"), TranslateConfig(inter_threads=1))

def build(root, engine, shards, started=lambda: None):
    work = WorkStore(root / "work")
    work.sweep()
    engine.translate(["a red circle"])  # loads the model, so that kills meet windows
    (step,) = [step for step in STEPS if step.name == "translate"]
    tools = SimpleNamespace(
        translator=Announcing(engine, started), memory=TranslationMemory(root / "memory", engine.fingerprint)
    )
    made = []
    for number, shard in enumerate(map(Path, shards)):
        reads = {"screen": Commit(folder=shard.parent, files={shard.name: sha256_of(shard)}, facts={})}
        settings = {"engine": engine.fingerprint, "from_code": "en"}
        made.append(call_of(step, reads, settings, work=work, number=number, tools=tools)().commit.only_file)
    return [sha256_of(path) for path in made]
"""

KILLED_AGAIN_AND_AGAIN = """
import json, os, random, signal, sys, time
root, window, shards = Path(sys.argv[1]), int(sys.argv[3]), json.loads(sys.argv[4])
captions.STREAM_WINDOW = window
engine = opened(root, sys.argv[2])
counts = []
for seed in range(10):
    rng = random.Random(seed)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        build(root, engine, shards, lambda: os.write(writer, b"."))
        os._exit(0)
    os.close(writer)
    for _ in range(rng.randint(1, 2)):
        os.read(reader, 1)
    time.sleep(rng.uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] in (0, signal.SIGKILL)
    os.close(reader)
    counts.append(TranslationMemory(root / "memory", engine.fingerprint).count())
print(json.dumps({"counts": counts, "translated": build(root, engine, shards)}))
"""


def scenes_shards(folder: Path, num_captions: int) -> list[Path]:
    write_pairs(folder / "pairs.tsv", seed=7, num_pairs=num_captions)
    lines = (folder / "pairs.tsv").read_text(encoding="utf-8").splitlines()
    captions = [line.split("\t")[0] for line in lines]
    return write_shards(folder / "shards", [captions[::2], captions[1::2]])


def test_ten_kills_while_translating_change_neither_texts_nor_scores(
    tmp_path: Path, call_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, window = scenes_shards(tmp_path, 600), 25
    command = [sys.executable, "-c", TRANSLATING + KILLED_AGAIN_AND_AGAIN, str(tmp_path / "killed")]
    command += [str(SCENES_PACKAGE), str(window), json.dumps([str(path) for path in shards])]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(child.stdout)
    assert all(count % window == 0 for count in found["counts"]), "a window is there whole, or not at all"
    assert found["counts"] == sorted(found["counts"])
    assert any(0 < count < 600 for count in found["counts"])

    monkeypatch.setattr(caption_steps, "STREAM_WINDOW", window)
    engine = argos_translator(open_package(SCENES_PACKAGE, tmp_path / "packages"), TranslateConfig(inter_threads=1))
    memory = TranslationMemory(tmp_path / "whole", engine.fingerprint)
    whole = Root(call_step, tmp_path, memory=lambda *_: memory)
    assert found["translated"] == [sha256_of(path) for path in whole.translate(shards, engine)]
    killed = TranslationMemory(tmp_path / "killed" / "memory", engine.fingerprint)
    for name, each in (("killed", killed), ("whole", memory)):
        export_memory(each, tmp_path / f"{name}.parquet")
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert len({translation.score for _, translation in memory.rows()}) > 100, "scores tell captions apart"
