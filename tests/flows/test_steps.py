"""Steps of the table, one at a time: what they ask of engines, what they write, and what their keys depend on."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from cleaning.checks import CheckConfig, apply_rules
from cleaning.duplicates.images import DuplicatesConfig
from data_catalog.base.errors import DamagedError
from data_catalog.disk.files import save_parquet, sha256_of
from data_catalog.fetch.config import FetchConfig
from data_catalog.rows.schema import CAPTIONS, NATIVE, PENDING, REJECTED
from flows.build import captions as caption_steps
from flows.build.engine import Lane
from flows.build.images import decisive_settings, fetch_lane
from flows.recipe.language_packs import load_language_pack
from translation.engine import Translation
from translation.memory import TranslationMemory

Row = dict[str, Any]


def row(number: int, clean: str | None = None, /, **values: Any) -> Row:
    """A row as it comes to be translated."""
    identity = {"sample_id": f"s:{number}", "caption_id": f"s:{number}#0", "source": "s", "upstream_file": "f"}
    text = {"clean_caption": clean, "source_lang": "en", "target_lang": "it", "outcome": PENDING}
    return dict.fromkeys(CAPTIONS.names) | identity | text | {"upstream_line": number} | values


def saved(path: Path, rows: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_parquet(pa.Table.from_pylist(list(rows), CAPTIONS), path)
    return path


class UpperCase:
    """An engine that notes what it is asked; scores tell in which window a caption was, and where there."""

    fingerprint, from_code, to_code = "upper:en-it:1", "en", "it"

    def __init__(self, max_chunk_size: int | None = None, *, dies_after: int | None = None) -> None:
        self.max_chunk_size, self.dies_after = max_chunk_size, dies_after
        self.asked: list[list[str]] = []

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        if len(self.asked) == self.dies_after:
            raise KeyboardInterrupt
        self.asked.append(list(captions))
        return [self.translated(caption, place, len(captions)) for place, caption in enumerate(captions)]

    def translated(self, caption: str, place: int, count: int) -> Translation:
        return Translation(text=caption.upper(), score=-(count + place / 100))


class Root:
    """A root in which shards are translated one after the other, as the engine's lane has it."""

    def __init__(self, call_step: Any, folder: Path, memory: type[TranslationMemory] = TranslationMemory) -> None:
        self.call_step, self.folder = call_step, folder
        self.memory = memory(folder / "memory", UpperCase.fingerprint)

    def translate(self, shards: Sequence[Sequence[str] | Sequence[Row]], engine: Any, work: str = "work") -> list[Path]:
        """Translate shards of captions, or of rows."""
        tools = SimpleNamespace(translator=engine, memory=self.memory, windows=None)
        given_ = {"engine": engine.fingerprint, "from_code": engine.from_code}
        made = []
        for number, shard in enumerate(shards):
            rows = [row(line, found) if isinstance(found, str) else found for line, found in enumerate(shard)]
            path = saved(self.folder / f"{work}-in" / f"{number:05d}.parquet", rows)
            commit = self.call_step("translate", self.folder / work, {"screen": path}, given_, tools=tools)
            made.append(commit.only_file)
        return made

    def rows(self, *args: Any, **more: Any) -> list[Row]:
        return [found for path in self.translate(*args, **more) for found in pq.read_table(path).to_pylist()]


@pytest.fixture
def root(tmp_path: Path, call_step: Any) -> Root:
    return Root(call_step, tmp_path)


@settings(max_examples=settings.default.max_examples // 2)  # each translates three times, and syncs what it writes
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
    engine, again = UpperCase(max_chunk_size), UpperCase(max_chunk_size)
    dying = UpperCase(max_chunk_size, dies_after=num_windows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caption_steps, "STREAM_WINDOW", window)
        expected = whole.translate(shards, engine)
        try:
            killed.translate(shards, dying)
        except KeyboardInterrupt:
            assert len(dying.asked) == num_windows
        found = killed.translate(shards, again)
    seen, windows, size = set(known), [], min(window, max_chunk_size or window)
    for shard in shards:
        missing = [caption for caption in dict.fromkeys(shard) if caption not in seen]
        windows += [missing[start : start + size] for start in range(0, len(missing), size)]
        seen |= set(shard)
    assert engine.asked == windows
    assert dying.asked + again.asked == windows
    assert killed.memory.known(captions) == whole.memory.known(captions)
    assert [path.read_bytes() for path in found] == [path.read_bytes() for path in expected]


RESULTS = {
    "plain": Translation(text="semplice", score=-0.25),
    "long": Translation(text="lungo", score=-1.5, truncated=True),
    "loop": Translation(text="giro giro", score=-2.0, repetitive=True),
    "scoreless": Translation(text="senza"),
    "nothing": Translation(text="", score=None),
}


def test_what_is_known_of_a_translation_is_filled_in_and_other_rows_are_not_asked_for(root: Root) -> None:
    class OfManyKinds(UpperCase):
        def translated(self, caption: str, place: int, count: int) -> Translation:
            return RESULTS[caption]

    rows = [row(number, caption) for number, caption in enumerate(RESULTS)]
    rows += [
        row(10, "a gatto", source_lang="it", origin="native", translator="native"),
        row(11, "eine Katze", source_lang="de"),
        row(12, "rejected", outcome=REJECTED, step="clean", drop_reason="too_short"),
        row(13, None, outcome=REJECTED, step="ingest", drop_reason="malformed_row"),
        row(14, "no language", source_lang=None),
    ]
    engine = OfManyKinds()
    found = root.rows([rows], engine)
    assert engine.asked == [list(RESULTS)]
    texts = ("caption", "origin", "translator", "translation_score", "translation_truncated", "translation_repetitive")
    names = (*texts, "step", "drop_reason", "detail")
    made, lost, kept = ("machine_translation", UpperCase.fingerprint), (None,) * 6, (None,) * 3
    assert [tuple(each[name] for name in names) for each in found] == [
        ("semplice", *made, -0.25, False, False, *kept),
        ("lungo", *made, -1.5, True, False, *kept),
        ("giro giro", *made, -2.0, False, True, *kept),
        ("senza", *made, None, False, False, *kept),
        ("", *made, None, False, False, "translate", "translation_empty", None),
        ("a gatto", "native", "native", None, None, None, *kept),
        (*lost, "translate", "language_not_served", "de"),
        (*lost, "clean", "too_short", None),
        (*lost, "ingest", "malformed_row", None),
        (*lost, "translate", "language_not_served", None),
    ]
    for before, after in zip(rows, found, strict=True):
        assert (after["outcome"] == REJECTED) is (after["drop_reason"] is not None)
        assert {name for name in CAPTIONS.names if before[name] != after[name]} <= {*names, "outcome"}


def test_what_was_recorded_first_holds(root: Root) -> None:
    class Late(UpperCase):
        """Another command records captions while they are translated here."""

        def translate(self, captions: Sequence[str], on_done: Any = None) -> list[Translation]:
            TranslationMemory(root.folder / "memory", self.fingerprint).record(["a"], [Translation(text="other")])
            return super().translate(captions)

    assert [found["caption"] for found in root.rows([list("abc")], Late())] == ["other", "B", "C"]


def test_a_lost_translation_is_named(tmp_path: Path, call_step: Any) -> None:
    class Forgetful(TranslationMemory):
        def record(self, captions: Sequence[str], translations: Sequence[Translation]) -> None:
            super().record(captions[:1], translations[:1])

    with pytest.raises(DamagedError, match="shard 00000: the translation memory lost 'b'"):
        Root(call_step, tmp_path, Forgetful).translate([["a", "b"]], UpperCase())


def test_translations_are_translated_back_once_and_compared_with_their_sources(tmp_path: Path, call_step: Any) -> None:
    class Backwards(UpperCase):
        fingerprint, from_code, to_code = "words:it-en:1", "it", "en"

        def translated(self, caption: str, place: int, count: int) -> Translation:
            return Translation(text={"due cerchi rossi": "two red circles", "un cane": "a wolf"}[caption])

    rows = [
        row(0, "two red circles", caption="due cerchi rossi"),
        row(1, "one dog", caption="un cane"),
        row(2, "un cane", caption="un cane", source_lang="it"),
        row(3, "a cat", caption="", outcome=REJECTED),
        # Of a translation of upstream's from a third language the way back is another engine's.
        row(4, "zwei rote Kreise", caption="due cerchi rossi", source_lang="de"),
    ]
    shard, engine = saved(tmp_path / "shard.parquet", rows), Backwards()
    made = []
    for work in ("work", "other"):
        tools = SimpleNamespace(
            reverse=engine, reverse_windows=None, reverse_memory=TranslationMemory(tmp_path / "memory", "words:it-en:1")
        )
        settings = {"engine": engine.fingerprint}
        commit = call_step("round-trip", tmp_path / work, {"translate": shard}, settings, tools=tools)
        made.append(commit.only_file)
    wolf = sacrebleu.sentence_chrf("a wolf", ["one dog"]).score
    assert pq.read_table(made[0])["round_trip_chrf"].to_pylist() == pytest.approx([100.0, wolf, None, None, None])
    assert [sorted(asked) for asked in engine.asked] == [["due cerchi rossi", "un cane"]]
    assert sha256_of(made[0]) == sha256_of(made[1])


@pytest.mark.parametrize(
    ("more", "found"), [({"source_engine": "cascade"}, "eo"), ({"source_engine": "langdetect"}, "it"), ({}, "it")]
)
def test_what_the_same_engine_said_of_an_unchanged_text_is_not_asked_again(more: dict[str, str], found: str) -> None:
    told = {"detected_source_lang": "eo", "detected_source_probability": 0.5, "source_language_margin": -0.25}
    text, cells = "un cane sull'erba verde", {"source_lang": "it", "translator": NATIVE, **told}
    rows = [row(1, clean, caption=text, **cells) for clean in (text, "un gatto")]
    rules = CheckConfig().rules(load_language_pack("it"), **more)
    after = apply_rules(pa.Table.from_pylist(rows, CAPTIONS), rules, step="check")
    assert after["detected_lang"].to_pylist() == [found, "it"]


@pytest.mark.parametrize(
    ("config", "is_decisive"),
    [
        (DuplicatesConfig(captions=False), False),
        (DuplicatesConfig(images=False), True),
        (DuplicatesConfig(keep=("captions",)), True),
    ],
)
def test_duplicates_are_found_again_only_where_a_setting_changed_that_decides_them(
    config: DuplicatesConfig, is_decisive: bool
) -> None:
    assert (decisive_settings(config) != decisive_settings(DuplicatesConfig())) is is_decisive


WIDE = Lane("fetch", 3)
WIKIMEDIA = [f"https://upload.wikimedia.org/wikipedia/commons/a/ab/{number}.jpg" for number in range(10)]
MANY_HOSTS: list[str | None] = [f"http://host{number}.example/a.jpg" for number in range(10)]


@pytest.mark.parametrize(
    ("urls", "rejected", "lane"),
    [
        (WIKIMEDIA, 0, Lane("fetch-upload.wikimedia.org", 3)),
        ([*WIKIMEDIA, *MANY_HOSTS[:9]], 0, Lane("fetch-upload.wikimedia.org", 3)),
        ([*WIKIMEDIA[:5], *MANY_HOSTS], 0, WIDE),
        ([*WIKIMEDIA, *MANY_HOSTS], 10, WIDE),
        ([f"http://farm{number}.staticflickr.com/a.jpg" for number in range(9)], 0, Lane("fetch-staticflickr.com", 3)),
        ([f"http://fast.example/{number}.jpg" for number in range(9)], 0, Lane("fetch-fast.example", 3)),
        ([None] * 5, 0, WIDE),
        ([], 0, WIDE),
        (["http://[broken/a.jpg", "no url"], 0, WIDE),
    ],
)
def test_shards_of_one_host_have_a_lane_of_their_own(
    urls: list[str | None], rejected: int, lane: Lane, tmp_path: Path
) -> None:
    outcomes = [REJECTED] * rejected + [PENDING] * len(urls)
    rows = [row(n, url=url, outcome=outcome) for n, (url, outcome) in enumerate(zip(urls, outcomes, strict=False))]
    assert fetch_lane(FetchConfig(), 3, saved(tmp_path / "shard.parquet", rows)) == lane
