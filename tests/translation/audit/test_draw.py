"""`vernaclip audit draw`: who is drawn, and what is written of them."""

import csv
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from shutil import copytree
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.database.catalog import rebuild
from data_catalog.errors import InputError
from data_catalog.schema import CAPTIONS, KEPT, NATIVE, REJECTED
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.manifest import MANIFEST_FORMAT, commit_snapshot, file_entry, snapshot_folder
from data_catalog.storage.shards import save_parquet
from flows.cli import main
from translation.audit.draw import AUDIT_COLUMNS, QUALITY_COLUMNS, Audit, allocate, draw_audit
from translation.audit.form import plain_cell

Caption = dict[str, Any]


def caption(number: int, source: str = "mscoco", **cells: object) -> Caption:
    """A kept, translated caption row."""
    return {
        **dict.fromkeys(CAPTIONS.names),
        "sample_id": f"{source}:{number}",
        "caption_id": f"{source}:{number}#0",
        "source": source,
        "source_caption": f" a dog , number {number}",
        "source_lang": "en",
        "clean_caption": f"a dog, number {number}",
        "caption": f"un cane, numero {number}",
        "target_lang": "it",
        "translator": "argos:en-it:0123456789ab",
        "translation_score": -0.1 - number / 1000,
        "translation_truncated": False,
        "numbers_lost": [],
        "upstream_file": "captions.json",
        "upstream_line": number + 1,
        "outcome": KEPT,
        **cells,
    }


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    """Called with caption rows, gives a root whose dataset `captions` holds them, in several shards."""

    def built(rows: Sequence[Caption], num_shards: int = 3, name: str = "catalog") -> Path:
        root = tmp_path / name
        folder = snapshot_folder(root, "captions", "0123456789ab")
        (folder / "captions").mkdir(parents=True)
        entries = []
        for shard in range(num_shards):
            path = folder / "captions" / f"{shard:05d}.parquet"
            save_parquet(pa.Table.from_pylist(rows[shard::num_shards], CAPTIONS), path)
            entries.append(file_entry(path, folder, rows=len(rows[shard::num_shards])))
        manifest: Mapping[str, Any] = {
            "format": MANIFEST_FORMAT,
            "dataset": "captions",
            "snapshot": "0123456789ab",
            "settings": {},
            "target_lang": "it",
            "translator": NATIVE,
            "sources": {},
            "steps": [],
            "funnel": [],
            "files": {"captions": entries, "pairs": [], "images": []},
        }
        commit_snapshot(root, manifest)
        rebuild(root)
        return root

    return built


def draw(root: Path, num_rows: int = 100, seed: int = 1) -> Audit:
    return draw_audit(root, "captions", num_rows=num_rows, seed=seed)


def texts(audit: Audit) -> list[tuple[str, str]]:
    return [(row["source_text"], row["text"]) for row in audit.rows]


def test_the_sample_follows_the_seed_and_not_the_order_of_rows(build: Callable[..., Path]) -> None:
    rows = [caption(number, ("mscoco", "cc3m")[number % 2]) for number in range(600)]
    shuffled = random.Random(5).sample(rows, len(rows))
    first, again = draw(build(rows)), draw(build(shuffled, num_shards=1, name="other"))
    assert first == again
    assert len(set(texts(first))) == 100
    other = draw(build(rows, name="third"), seed=2)
    assert other.audit_id != first.audit_id
    assert len(set(texts(other)) & set(texts(first))) < 50
    # Raters see strata mixed.
    assert len({row["source"] for row in first.rows[:20]}) == 2


def test_strata_are_sources_thirds_of_scores_and_warnings(build: Callable[..., Path]) -> None:
    warnings: Sequence[Caption] = (
        {"translation_truncated": True},
        {"translation_repetitive": True},
        {"repeated_ngrams": 2},
        {"numbers_lost": ["30"]},
        {"numbers_invented": ["30"]},
        {"language_margin": -0.01},
    )
    rows = [caption(number) for number in range(90)]
    rows += [caption(100 + place, **cells) for place, cells in enumerate(warnings)]
    rows += [caption(number, "wit", translation_score=None) for number in range(200, 210)]
    audit = draw(build(rows), num_rows=20)
    found = [(stratum.name, stratum.num_pairs, stratum.num_drawn) for stratum in audit.strata]
    assert found == [
        ("mscoco: high score", 30, 6),
        ("mscoco: low score", 30, 6),
        ("mscoco: middle score", 30, 5),
        ("mscoco: warning", 6, 1),
        ("wit: no score", 10, 2),
    ]
    scores = defaultdict(list)
    for row in audit.rows:
        scores[row["stratum"]].append(row["translation_score"])
    assert max(scores["mscoco: low score"]) < min(scores["mscoco: middle score"])
    assert max(scores["mscoco: middle score"]) < min(scores["mscoco: high score"])


def test_weights_say_how_many_pairs_a_row_stands_for(build: Callable[..., Path]) -> None:
    audit = draw(
        build([caption(number) for number in range(250)] + [caption(number, "wit") for number in range(300, 307)])
    )
    assert sum(row["weight"] for row in audit.rows) == pytest.approx(257)
    sizes = {stratum.name: stratum.num_pairs / stratum.num_drawn for stratum in audit.strata}
    assert all(row["weight"] == sizes[row["stratum"]] for row in audit.rows)


def test_a_pair_is_rated_once_however_often_it_stands_in_the_dataset(build: Callable[..., Path]) -> None:
    twin = {"clean_caption": "a cat", "caption": "un gatto"}
    rows = [caption(1, "wit", **twin), caption(2, "mscoco", **twin), caption(3, "wit", **twin)]
    other = caption(4, clean_caption="a cat", caption="una gatta")
    audit = draw(build([*rows, other]))
    assert sorted(texts(audit)) == [("a cat", "un gatto"), ("a cat", "una gatta")]
    first = next(row for row in audit.rows if row["text"] == "un gatto")
    assert (first["num_captions"], first["caption_id"], first["source"]) == (3, "mscoco:2#0", "mscoco")


def test_only_translations_that_were_kept_are_drawn(build: Callable[..., Path]) -> None:
    rows = [
        caption(1),
        caption(2, outcome=REJECTED, step="clean", drop_reason="numbers_lost"),
        caption(3, translator=NATIVE, source_lang="it"),
        caption(5, translator="Bing", source_lang="it"),  # upstream's translation: its original is not there
        caption(4, caption=None, translator=None, outcome=REJECTED, step="ingest", drop_reason="malformed_row"),
    ]
    assert texts(draw(build(rows))) == [("a dog, number 1", "un cane, numero 1")]


def test_nothing_to_audit_is_an_error(build: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = build([caption(1, translator=NATIVE, source_lang="it")])
    for options, message in (
        (["captions"], "has no kept captions with a translation"),
        (["other"], "has no dataset 'other'"),
        (["captions", "--n", "0"], "give --n 1 or more"),
    ):
        assert main(["audit", "draw", *options, "--root", str(root)]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_name_cannot_speak_sql(build: Callable[..., Path]) -> None:
    name = "x' OR '1'='1"
    root = build([caption(1)])
    copytree(root / "datasets" / "captions", root / "datasets" / name)
    for path in (root / "datasets" / name).glob("*/manifest.json"):
        write_checksummed(path, {**read_checksummed(path, remedy=""), "dataset": name})
    with pytest.raises(InputError, match="has no kept captions with a translation"):  # it is not in the catalog's views
        draw_audit(root, name, num_rows=5, seed=1)


def test_the_sheet_holds_exact_texts_and_no_formula(build: Callable[..., Path], tmp_path: Path) -> None:
    nasty = [
        "=1+1",
        "+39 06",
        "-5 °C",
        "@home",
        "'Twas",
        "''",
        "\tx",
        'a "b", c',
        "two\r\nlines",
        "\rx",
        "＝1",
        "nul\0",
        "😀",
    ]
    root = build([caption(number, clean_caption=text, caption=text) for number, text in enumerate(nasty)])
    assert main(["audit", "draw", "captions", "--root", str(root), "--out", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "audit.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == AUDIT_COLUMNS
    assert {plain_cell(row["source_text"]) for row in table} == {plain_cell(row["text"]) for row in table} == set(nasty)
    for row in table:
        assert not row["text"].startswith(("=", "+", "-", "@", "\t", "\r", "＝"))
        assert "rating" not in row, "ratings are what raters save, and nobody reads them here"
        assert float(row["translation_score"]) == pytest.approx(-0.1, abs=0.05)
        assert (row["translation_truncated"], row["numbers_lost"], row["language_margin"]) == ("false", "[]", "")
    assert len({row["row_id"] for row in table}) == len(nasty)
    # A spreadsheet would make a number of 123456789012 or 12345e678901.
    assert all(row[name][0].isalpha() for row in table for name in ("row_id", "audit_id"))


def test_the_command_tells_what_it_drew(
    build: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = build([caption(number) for number in range(9)])
    command = ["audit", "draw", "captions", "--root", str(root)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "only 9 distinct pairs exist, fewer than 100: all are drawn" in said
    assert re.search(r"mscoco: low score +3 +3", said)
    (folder,) = (root / "audits").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["audit.csv", "audit.html"]
    sheet = (folder / "audit.csv").read_bytes()
    assert main(command) == 0  # the same audit may be written again
    assert (folder / "audit.csv").read_bytes() == sheet
    assert main([*command, "--n", "2"]) == 0
    assert "1 strata have no row in the sample: --n 3 or more gives each one a row" in capsys.readouterr().out
    assert main([*command, "--n", "4", "--out", str(folder)]) == 1
    assert "belongs to another audit, which may have ratings" in capsys.readouterr().err
    assert (folder / "audit.csv").read_bytes() == sheet
    (tmp_path / "file").touch()
    assert main([*command, "--out", str(tmp_path / "file")]) == 1
    assert "cannot be written to" in capsys.readouterr().err


def test_what_raters_get_holds_no_score(build: Callable[..., Path]) -> None:
    root = build([caption(number) for number in range(30)])
    assert main(["audit", "draw", "captions", "--root", str(root), "--n", "7"]) == 0
    (folder,) = (root / "audits").iterdir()
    form = (folder / "audit.html").read_text(encoding="utf-8")
    found = re.search('<script type="application/json" id="audit">(.*?)</script>', form, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    with (folder / "audit.csv").open(encoding="utf-8", newline="") as file:
        sheet = list(csv.DictReader(file))
    shown = ("row_id", "source_text", "text", "source_lang", "target_lang")
    assert data["rows"] == [{name: row[name] for name in shown} for row in sheet]
    assert data["audit_id"] == sheet[0]["audit_id"]
    assert not any(name in form for name in (*QUALITY_COLUMNS, "stratum", "middle score"))


def test_quality_columns_are_the_schemas() -> None:
    names = CAPTIONS.names
    assert tuple(names[names.index("translator") + 1 : names.index("license")]) == QUALITY_COLUMNS


SIZES = st.lists(st.integers(0, 10_000), max_size=30)


@given(sizes=SIZES, num_rows=st.integers(1, 500))
def test_allocation_keeps_its_promises(sizes: list[int], num_rows: int) -> None:
    counts = allocate(sizes, num_rows)
    assert sum(counts) == min(num_rows, sum(sizes))
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    if num_rows >= sum(size > 0 for size in sizes):
        assert all(count >= 1 for count, size in zip(counts, sizes, strict=True) if size)
    for size, count in zip(sizes, counts, strict=True):
        share = size * num_rows / max(sum(sizes), num_rows)
        assert count <= share + 1 or count == size  # a stratum gets more than its share by less than one row
        # Those with a row of their own are paid for by the others.
        assert count >= share - 1 - sum(other > 0 for other in sizes)
    by_size = sorted(zip(sizes, counts, strict=True))
    assert all(less[1] <= more[1] for less, more in pairwise(by_size) if less[0] < more[0])


@pytest.mark.parametrize(
    ("sizes", "num_rows", "counts"),
    [
        ([], 5, []),
        ([500, 300, 200], 10, [5, 3, 2]),
        ([500, 300, 200], 3, [1, 1, 1]),
        ([10, 10, 10], 2, [1, 1, 0]),
        ([0, 7, 0], 3, [0, 3, 0]),
        ([997, 1, 1, 1], 10, [7, 1, 1, 1]),
        ([60, 25, 15], 7, [4, 2, 1]),
        ([2, 1], 100, [2, 1]),
    ],
)
def test_allocation_by_hand(sizes: list[int], num_rows: int, counts: list[int]) -> None:
    assert allocate(sizes, num_rows) == counts


def test_weighted_means_estimate_the_dataset(build: Callable[..., Path]) -> None:
    # Over many seeds, the weighted mean of a column is the mean over all pairs.
    rows = [caption(number) for number in range(60)] + [caption(number, "wit") for number in range(500, 520)]
    root = build(rows)
    wanted = sum(row["translation_score"] for row in rows) / len(rows)
    means = []
    for seed in range(20):
        audit = draw(root, num_rows=12, seed=seed)
        num_pairs = sum(stratum.num_pairs for stratum in audit.strata)
        means.append(sum(row["weight"] * row["translation_score"] for row in audit.rows) / num_pairs)
    assert sum(means) / len(means) == pytest.approx(wanted, abs=0.007)
    assert Counter(len(set(texts(draw(root, num_rows=12, seed=seed)))) for seed in range(3)) == {12: 3}
