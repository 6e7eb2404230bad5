"""Steps of the table, one at a time: what they ask of engines, what they write, and what their keys depend on."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from cleaning.checks import CheckConfig, apply_rules
from cleaning.duplicates.images import DuplicatesConfig
from cleaning.leaks import LeaksConfig
from data_catalog.errors import DamagedError
from data_catalog.fetch.config import FetchConfig, HostLimits
from data_catalog.images.tables import write_rows
from data_catalog.schema import CAPTIONS, IMAGES, NATIVE, PENDING, REJECTED
from data_catalog.storage.publish import SplitConfig
from data_catalog.storage.shards import save_parquet, sha256_of
from data_catalog.storage.work import Commit
from data_catalog.tombstones import STAYING, ActiveTombstones, Tombstones, new_tombstone
from flows.build import captions as caption_steps
from flows.build.engine import Lane
from flows.build.images import decisive_settings, fetch_lane
from flows.recipe.language_packs import load_language_pack
from translation.engine import Translation
from translation.memory import TranslationMemory

Row = dict[str, Any]
ENGINE = "argos:en-it:0123456789ab"


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
        tools = SimpleNamespace(translator=engine, memory=self.memory)
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


def test_a_second_build_translates_nothing_and_one_with_new_captions_only_those(root: Root) -> None:
    shards = [["b", "a", "b"], ["c", "a", "d"], ["d", "b"], ["e"]]
    first, second, third = UpperCase(), UpperCase(), UpperCase()
    root.translate(shards, first, work="first")
    assert first.asked == [["b", "a"], ["c", "d"], ["e"]]
    found = root.rows(shards, second, work="second")
    assert second.asked == []
    assert [found["caption"] for found in found] == list("BABCADDBE")
    root.translate([[*shard, f"new {number}"] for number, shard in enumerate(shards)], third, work="third")
    assert third.asked == [[f"new {number}"] for number in range(4)]


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
    assert list(killed.memory.rows()) == list(whole.memory.rows())
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
    shard = saved(tmp_path / "shard.parquet", rows)

    def through_the_step(work: str, engine: Backwards) -> Path:
        tools = SimpleNamespace(
            reverse=engine, reverse_memory=TranslationMemory(tmp_path / "memory", engine.fingerprint)
        )
        settings = {"engine": engine.fingerprint}
        found: Path = call_step("round-trip", tmp_path / work, {"translate": shard}, settings, tools=tools).only_file
        return found

    engine, again = Backwards(), Backwards()
    done = through_the_step("work", engine)
    wolf = sacrebleu.sentence_chrf("a wolf", ["one dog"]).score
    found = pq.read_table(done).column("round_trip_chrf").to_pylist()
    assert found == pytest.approx([100.0, wolf, None, None, None])
    assert [sorted(asked) for asked in engine.asked] == [["due cerchi rossi", "un cane"]]
    assert sha256_of(through_the_step("other", again)) == sha256_of(done)
    assert again.asked == []


MEASURED = ("length_ratio", "repeated_ngrams", "numbers_lost", "numbers_invented")
Checked = Callable[..., list[Row]]


def translated(source: str, target: str | None, **cells: Any) -> Row:
    return row(1, source, **({"caption": target, "translator": ENGINE} | cells))


@pytest.fixture
def checked(tmp_path: Path, call_step: Any) -> Checked:
    """`checked(rows, config)`: the rows after the step that checks."""

    def through_the_step(rows: list[Row], config: CheckConfig | None = None) -> list[Row]:
        settings = {"config": config or CheckConfig(), "packs": {"it": load_language_pack("it")}, "target": "it"}
        settings |= {"tagger": None, "leaks": LeaksConfig(), "source_engine": None, "test_sets": []}
        reads, tools = {"round-trip": saved(tmp_path / "in.parquet", rows)}, SimpleNamespace(tagger=None)
        table = pq.read_table(call_step("check", tmp_path, reads, settings, tools=tools).only_file)
        assert table.schema.equals(CAPTIONS)
        found: list[Row] = table.to_pylist()
        return found

    return through_the_step


def test_a_good_translation_is_measured_and_kept(checked: Checked) -> None:
    (found,) = checked([translated("A black cat sleeps on the red sofa", "Un gatto nero dorme sul divano rosso")])
    assert found["outcome"] == PENDING
    assert found["length_ratio"] == pytest.approx(30 / 27)
    assert (found["copied_share"], found["repeated_ngrams"]) == (0, 1)
    assert found["numbers_lost"] == found["numbers_invented"] == []
    assert (found["detected_lang"], found["detected_probability"]) == ("it", pytest.approx(1, abs=0.1))
    assert found["language_margin"] == pytest.approx(1, abs=0.2)
    assert found["round_trip_chrf"] is None


@pytest.mark.parametrize(
    ("source", "target", "cells", "reason", "detail"),
    [
        ("A dog on the grass", "a dog on the grass", {}, "copied_through", None),
        ("A dog", "Un cane nero", {"translation_repetitive": True}, "translation_repetitive", None),
        ("A brown horse is jumping over a white fence", "Un cavallo", {}, "length_ratio", "ratio 0.26"),
        ("Bus number 345 at the stop", "L'autobus alla fermata", {}, "numbers_lost", "lost 345"),
        ("A dog", "Un cane nero", {"translation_score": -1.75}, "low_translation_score", "score -1.75"),
        ("A dog", "Un cane nero", {"round_trip_chrf": 4.5}, "low_round_trip", "chrF 4.5"),
        ("A man repairs the roof", "Ein Mann repariert das Dach des Hauses", {}, "wrong_language", "de 0.99"),
        ("A tailor works", "E", {}, "caption_too_short", "1 character"),
    ],
)
def test_a_bad_translation_is_rejected_and_keeps_what_was_measured(
    checked: Checked, source: str, target: str, cells: Row, reason: str, detail: str | None
) -> None:
    (found,) = checked([translated(source, target, **cells)])
    assert (found["outcome"], found["step"], found["drop_reason"]) == (REJECTED, "check", reason)
    assert detail is None or found["detail"] == detail
    assert None not in [found[name] for name in MEASURED]


def test_rows_that_are_native_or_lost_before_are_not_measured(checked: Checked) -> None:
    native = translated("un cane sull'erba verde", "un cane sull'erba verde", source_lang="it", translator=NATIVE)
    lost = translated("A dog", None, translator=None, outcome=REJECTED, step="translate", drop_reason="x")
    found = checked([native, lost])
    language = dict.fromkeys(("detected_lang", "detected_probability", "language_margin"))
    assert [{**each, **language} for each in found] == [native, lost]
    assert [each["detected_lang"] for each in found] == ["it", None]


def test_a_language_is_detected_once_and_not_where_nobody_asks(checked: Checked) -> None:
    text = "un cane sull'erba verde"
    told = {"detected_source_lang": "eo", "detected_source_probability": 0.5, "source_language_margin": -0.25}
    cells = {"source_lang": "it", "translator": NATIVE, **told}
    table = pa.Table.from_pylist([translated(text, text, **cells), translated("un gatto", text, **cells)], CAPTIONS)
    for more, expected in (
        ({"source_engine": "cascade"}, ["eo", "it"]),
        ({"source_engine": "langdetect"}, ["it", "it"]),
        ({}, ["it", "it"]),
    ):
        rules = CheckConfig().rules(load_language_pack("it"), **more)
        assert apply_rules(table, rules, step="check").column("detected_lang").to_pylist() == expected
    german = translated("A man repairs the roof", "Ein Mann repariert das Dach")
    (found,) = checked([german], CheckConfig(language_check=False))
    assert (found["outcome"], found["language_margin"]) == (PENDING, None)


TOMBSTONES = Tombstones(
    tombstones=(
        new_tombstone("domain", "example.org"),
        new_tombstone("url", "http://other.net/a.jpg"),
        new_tombstone("sample", "s:4").with_found(["hash of 6"], []),
        new_tombstone("phash", "00ff00ff33cc33cc", distance=2),
    )
)
URLS = ["http://a.net/1.jpg", "http://img.example.org/1.jpg", "https://other.net/a.jpg", "http://a.net/4.jpg"]


def test_tombstones_drop_what_they_mean_and_change_nothing_elsewhere(tmp_path: Path, call_step: Any) -> None:
    rows = [row(number, source_caption="Un gatto", url=url) for number, url in enumerate(URLS, start=1)]
    rows[0]["page_url"] = "https://www.example.org/page"
    captions, pictures = saved(tmp_path / "captions.parquet", rows), tmp_path / "images.parquet"
    none = dict.fromkeys(IMAGES.names)
    there = none | {"bytes": b"pixels", "thumbnail": b"few"}
    images = [
        there | {"sample_id": "s:5", "final_url": "http://example.org/5.jpg"},
        there | {"sample_id": "s:6", "sha256": "hash of 6", "original": b"original"},
        there | {"sample_id": "s:7", "phash": "00ff00ff33cc33cf"},
        there | {"sample_id": "s:8", "phash": "0000000000000000", "sha256": "other", "final_url": "http://a.net/"},
        none | {"sample_id": "s:9", "drop_reason": "http_404", "final_url": "http://example.org"},
    ]
    write_rows(images, IMAGES, pictures)

    def forget(step: str, reads: Mapping[str, Path], tombstones: Tombstones) -> Commit:
        found: Commit = call_step(step, tmp_path / "work", reads, {"in_force": ActiveTombstones.of(tombstones)})
        return found

    after = forget("forget", {"ingest": captions}, TOMBSTONES)
    found = pq.read_table(after.only_file).to_pylist()
    assert [each["drop_reason"] for each in found] == ["forgotten"] * 4
    assert {name for each in found for name, value in each.items() if value is not None} <= set(STAYING)
    assert after.facts == {"counts": {"forget": {"s": {"read": 4, "kept": 0, "dropped": 4}}}}

    found = pq.read_table(forget("forget-images", {"normalise": pictures}, TOMBSTONES).only_file).to_pylist()
    assert found.pop(3) == images[3]
    assert [{name: value for name, value in each.items() if value is not None} for each in found] == [
        {"sample_id": f"s:{number}", "drop_reason": "forgotten"} for number in (5, 6, 7, 9)
    ]

    elsewhere = Tombstones(tombstones=(new_tombstone("domain", "elsewhere.org"),))
    counts = {"forget": {"s": {"read": 4, "kept": 4, "dropped": 0}}}
    same = forget("forget", {"ingest": captions}, elsewhere)
    assert (same.files, same.facts) == ({}, {"unchanged": True, "counts": counts})
    same = forget("forget-images", {"normalise": pictures}, elsewhere)
    assert (same.files, same.facts) == ({}, {"unchanged": True})


@pytest.mark.parametrize(
    ("config", "is_decisive"),
    [
        (DuplicatesConfig(captions=False), False),
        (DuplicatesConfig(merge_captions=True), False),
        (DuplicatesConfig(images=False), True),
        (DuplicatesConfig(keep=("captions",)), True),
    ],
)
def test_duplicates_are_found_again_only_where_a_setting_changed_that_decides_them(
    config: DuplicatesConfig, is_decisive: bool, tmp_path: Path, call_step: Any
) -> None:
    for schema, name in ((CAPTIONS, "captions"), (IMAGES, "images")):
        save_parquet(schema.empty_table(), tmp_path / f"{name}.parquet")

    def found_by(config: DuplicatesConfig) -> Path:
        reads = {"check": [tmp_path / "captions.parquet"], "forget-images": [tmp_path / "images.parquet"]}
        settings = {"sources": ["own"], "config": decisive_settings(config), "leaks": LeaksConfig()}
        settings |= {"split": SplitConfig(), "test_sets": []}
        commit: Commit = call_step("find-duplicates", tmp_path, reads, settings)
        return commit.folder

    assert (found_by(config) != found_by(DuplicatesConfig())) is is_decisive


WIDE = Lane("fetch", 3)
WIKIMEDIA = [f"https://upload.wikimedia.org/wikipedia/commons/a/ab/{number}.jpg" for number in range(10)]
MANY_HOSTS: list[str | None] = [f"http://host{number}.example/a.jpg" for number in range(10)]


@pytest.mark.parametrize(
    ("urls", "rejected", "lane"),
    [
        (WIKIMEDIA, 0, Lane("fetch-upload.wikimedia.org")),
        ([*WIKIMEDIA, *MANY_HOSTS[:9]], 0, Lane("fetch-upload.wikimedia.org")),
        ([*WIKIMEDIA[:5], *MANY_HOSTS], 0, WIDE),
        ([*WIKIMEDIA, *MANY_HOSTS], 10, WIDE),
        ([f"http://farm{number}.staticflickr.com/a.jpg" for number in range(9)], 0, Lane("fetch-staticflickr.com")),
        ([f"http://fast.example/{number}.jpg" for number in range(9)], 0, WIDE),
        ([None] * 5, 0, WIDE),
        ([], 0, WIDE),
        (["http://[broken/a.jpg", "no url"], 0, WIDE),
    ],
)
def test_a_shard_on_one_slow_host_has_a_lane_of_its_own(
    urls: list[str | None], rejected: int, lane: Lane, tmp_path: Path
) -> None:
    outcomes = [REJECTED] * rejected + [PENDING] * len(urls)
    rows = [row(n, url=url, outcome=outcome) for n, (url, outcome) in enumerate(zip(urls, outcomes, strict=False))]
    config = FetchConfig(hosts={"fast.example": HostLimits(concurrency=64, requests_per_s=0)})
    assert fetch_lane(config, 3, saved(tmp_path / "shard.parquet", rows)) == lane
