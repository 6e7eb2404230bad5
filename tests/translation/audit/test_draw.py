"""`vernaclip audit draw`: who is drawn, and a form in which no text can become markup, script or formula."""

import base64
import csv
import hashlib
import json
import random
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from shutil import copytree
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.catalog.duckdb_file import rebuild
from data_catalog.catalog.manifest import MANIFEST_FORMAT, commit_snapshot, file_entry, snapshot_folder
from data_catalog.disk.files import save_parquet
from data_catalog.disk.records import read_checksummed, write_checksummed
from data_catalog.report.forms import plain_cell, safe_cell
from data_catalog.rows.schema import CAPTIONS, KEPT, NATIVE, REJECTED, SCORED_CAPTIONS
from flows.cli import main
from translation.audit.draw import AUDIT_COLUMNS, QUALITY_COLUMNS, Audit, allocate, draw_audit
from translation.audit.form import render_audit

Caption = dict[str, Any]


def caption(number: int, source: str = "mscoco", **cells: object) -> Caption:
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
def build(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Called with caption rows, gives a root whose dataset `captions` holds them, in several shards."""

    def built(rows: Sequence[Caption], num_shards: int = 3, dataset: str = "captions") -> Path:
        root = tmp_path_factory.mktemp("root")
        folder = snapshot_folder(root, dataset, "0123456789ab")
        files: dict[str, Any] = {"captions": [], "pairs": [], "images": []}
        for shard in range(num_shards):
            path = folder / "captions" / f"{shard:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_parquet(pa.Table.from_pylist(rows[shard::num_shards], SCORED_CAPTIONS), path)
            files["captions"].append(file_entry(path, folder, rows=len(rows[shard::num_shards])))
        names = {"dataset": dataset, "snapshot": "0123456789ab", "target_lang": "it", "translator": NATIVE}
        nothing = {"settings": {}, "sources": {}, "steps": [], "funnel": []}
        commit_snapshot(root, {"format": MANIFEST_FORMAT, **names, **nothing, "files": files})
        rebuild(root)
        return root

    return built


def draw(root: Path, num_rows: int = 100, seed: int = 1) -> Audit:
    return draw_audit(root, "captions", num_rows=num_rows, seed=seed)


def texts(audit: Audit) -> list[tuple[str, str]]:
    return [(row["source_text"], row["text"]) for row in audit.rows]


def test_the_sample_follows_the_seed_and_not_the_order_of_rows(build: Any) -> None:
    rows = [caption(number, ("mscoco", "cc3m")[number % 2]) for number in range(400)]
    shuffled = random.Random(5).sample(rows, len(rows))
    first, again = draw(build(rows)), draw(build(shuffled, num_shards=1))
    assert first == again
    assert len(set(texts(first))) == 100
    other = draw(build(rows), seed=2)
    assert other.audit_id != first.audit_id
    assert len(set(texts(other)) & set(texts(first))) < 50
    assert len({row["source"] for row in first.rows[:20]}) == 2, "raters see strata mixed"


THIRDS = [f"mscoco: {third} score" for third in ("low", "middle", "high")]


def test_strata_are_sources_thirds_of_scores_and_warnings(build: Any) -> None:
    warnings = {
        **dict.fromkeys(("translation_truncated", "translation_repetitive"), True),
        "numbers_lost": ["30"],
        "numbers_invented": ["30"],
        "repeated_ngrams": 2,
        "language_margin": -0.01,
    }
    rows = [caption(number) for number in range(90)]
    rows += [caption(100 + place, **{name: warnings[name]}) for place, name in enumerate(warnings)]
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
    sizes = {stratum.name: stratum.num_pairs / stratum.num_drawn for stratum in audit.strata}
    assert all(row["weight"] == sizes[row["stratum"]] for row in audit.rows), "as many pairs as a row stands for"
    graded = sorted((row["translation_score"], row["stratum"]) for row in audit.rows if row["stratum"] in THIRDS)
    assert [name for name, _ in groupby(name for _, name in graded)] == THIRDS


def test_where_a_model_judged_captions_strata_are_thirds_of_its_scores(build: Any) -> None:
    rows = [caption(number, image_text_score=number / 10) for number in range(30)]
    rows.append(caption(30, image_text_score=None))
    audit = draw(build(rows), num_rows=31)
    found = {row["text"]: (row["stratum"], row["image_text_score"]) for row in audit.rows}
    assert found["un cane, numero 0"] == ("mscoco: low image-text score", 0)
    assert found["un cane, numero 29"][0] == "mscoco: high image-text score"
    assert found["un cane, numero 30"] == ("mscoco: no image-text score", None)


def test_kept_translations_are_drawn_once_however_often_they_stand_in_the_dataset(build: Any) -> None:
    twin = {"clean_caption": "a cat", "caption": "un gatto"}
    rows = [caption(1, "wit", **twin), caption(2, "mscoco", **twin), caption(3, "wit", **twin)]
    others = [
        caption(4, outcome=REJECTED, step="clean", drop_reason="numbers_lost"),
        caption(5, translator=NATIVE, source_lang="it"),
        caption(6, translator="Bing", source_lang="it"),  # upstream's translation: its original is not there
    ]
    audit = draw(build([*rows, caption(7, clean_caption="a cat", caption="una gatta"), *others]))
    assert sorted(texts(audit)) == [("a cat", "un gatto"), ("a cat", "una gatta")]
    first = next(row for row in audit.rows if row["text"] == "un gatto")
    assert (first["num_captions"], first["caption_id"], first["source"]) == (3, "mscoco:2#0", "mscoco")


def test_a_name_cannot_speak_sql(build: Any) -> None:
    root, name = build([caption(1)]), "x' OR '1'='1"
    copytree(root / "datasets" / "captions", root / "datasets" / name)
    for path in (root / "datasets" / name).glob("*/manifest.json"):
        write_checksummed(path, {**read_checksummed(path, remedy=""), "dataset": name})
    assert len(draw_audit(root, name, num_rows=5, seed=1).rows) == 1


def test_the_sheet_holds_exact_texts_and_no_formula_and_the_form_no_score(
    build: Any, tmp_path: Path, page: Any
) -> None:
    nasty = ["=1+1", "\tx", "'Twas", "''", 'a "b", c', "two\r\nlines", "nul\0", "😀"]
    root = build([caption(number, clean_caption=text, caption=text) for number, text in enumerate(nasty)])
    assert main(["audit", "draw", "captions", "--root", str(root), "--out", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "audit.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == AUDIT_COLUMNS, "no ratings, which raters save, and nobody reads here"
    assert {plain_cell(row["source_text"]) for row in table} == {plain_cell(row["text"]) for row in table} == set(nasty)
    for row in table:
        assert not row["text"].startswith(("=", "\t"))
        assert (row["translation_truncated"], row["numbers_lost"], row["language_margin"]) == ("false", "[]", "")
        # A spreadsheet would make a number of 123456789012 or 12345e678901.
        assert (row["row_id"][0] + row["audit_id"][0]).isalpha()
    assert len({row["row_id"] for row in table}) == len(nasty)
    form = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    data = json.loads(page(form).inline["script"][0])
    assert data["id"] == table[0]["audit_id"]
    shown = ["row_id", "source_text", "text", "source_lang", "target_lang"]
    assert [(list(row), row["row_id"]) for row in data["rows"]] == [(shown, row["row_id"]) for row in table]
    assert not any(name in form for name in (*QUALITY_COLUMNS, "stratum", "middle score")), "raters see no score"


@given(text=st.one_of(st.text(), st.text(alphabet="'=+-@\t\r\n＝x", max_size=4)))
def test_cells_give_their_texts_back(text: str) -> None:
    cell = safe_cell(text)
    assert plain_cell(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))


@pytest.mark.parametrize(
    "text",
    [
        "</script><img src=x onerror=alert(1)>",
        "<!--<script>alert(1)</script>",
        "@@DATA@@ @@SCRIPT@@ @@POLICY@@",
        "a\u2028b\u2029c",
        "\\u003c \\n $& ${x} nul\0 &lt;b&gt;",
    ],
)
def test_no_text_becomes_markup_and_only_the_forms_own_script_runs(text: str, page: Any) -> None:
    def form_of(text: str) -> Any:
        row = {**dict.fromkeys(AUDIT_COLUMNS), "row_id": "r0", "source_text": text, "text": text[::-1]}
        return page(render_audit(Audit(audit_id="0123456789abcdef", dataset=text, rows=[row], strata=[])))

    plain, form = form_of("a dog"), form_of(text)
    assert form.tags == plain.tags
    assert form.inline["script"][1:] == plain.inline["script"][1:]
    data = json.loads(form.inline["script"][0])
    assert data["rows"][0]["source_text"] == data["dataset"] == text
    assert data["columns"] == ["audit_id", "row_id", "rating", "comment", "rater"]
    directives = dict(directive.strip().split(" ", 1) for directive in form.policy().split(";"))
    (_, script), (style,) = form.inline["script"], form.inline["style"]
    hashes = {
        name: f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for name, text in (("script-src", script), ("style-src", style))
    }
    assert directives == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'", **hashes}


def test_the_command_tells_what_it_drew_and_overwrites_no_other_audit(build: Any, tmp_path: Path, told: Any) -> None:
    root = build([caption(number) for number in range(9)])
    command = ["audit", "draw", "captions", "--root", str(root)]
    said = told(command)
    assert "only 9 distinct pairs" in said
    assert re.search(r"mscoco: low score +3 +3", said)
    (folder,) = (root / "audits").iterdir()
    sheet = (folder / "audit.csv").read_bytes()
    told(command)  # the same audit may be written again
    assert "--n 3 or more" in told([*command, "--n", "2"])
    assert "belongs to another audit" in told([*command, "--n", "4", "--out", str(folder)], code=1)
    assert (folder / "audit.csv").read_bytes() == sheet
    assert "cannot be written to" in told([*command, "--out", str(folder / "audit.csv")], code=1)


@pytest.mark.parametrize(
    ("sizes", "num_rows", "counts"),
    [
        ([500, 300, 200], 3, [1, 1, 1]),
        ([10, 10, 10], 2, [1, 1, 0]),
        ([60, 1, 4, 35], 10, [5, 1, 1, 3]),
        ([0, 7, 0], 3, [0, 3, 0]),
        ([997, 1, 1, 1], 10, [7, 1, 1, 1]),
        ([60, 25, 15], 7, [4, 2, 1]),
    ],
)
def test_allocation_by_hand(sizes: list[int], num_rows: int, counts: list[int]) -> None:
    assert allocate(sizes, num_rows) == counts
