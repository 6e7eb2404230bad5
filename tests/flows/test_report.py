"""The page of a build: what it says is so, whatever a dataset holds, and none of it is markup."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.database.catalog import query
from data_catalog.report.page import refresh_report, report_path, write_report
from data_catalog.report.texts import linked, percent
from data_catalog.schema import CAPTIONS, OUTCOMES, PAIRS
from data_catalog.storage.history import runs
from data_catalog.storage.manifest import Snapshot, commit_snapshot, file_entry, require_snapshot

VOID = {"meta", "img", "br", "link", "input", "hr", "path", "use", "rect"}
CELLS = {"td", "th", "dt", "dd", "li", "p"}  # between them is a blank
# Elements that a browser would load or run something for; none has a place on the page.
ACTIVE = {"script", "iframe", "object", "embed", "link", "form", "base", "audio", "video", "source", "foreignobject"}
ATTACKS = (
    *("<script>alert(1)</script>", "</style></title><script>alert(1)</script>", "]]><svg/onload=alert(1)>"),
    *('"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "javascript:alert(1)"),
    *(
        "\x1b[31mred\x1b[0m",
        "\u202egnp.exe\u202c",
        "{{ 7 * 7 }}",
        "$\\frac{1}{2}$ text",
        "日本語のキャプション العربية",
    ),
)


class Page(HTMLParser):
    """A parsed page: its elements in order, what stands in them, and whether all of them were closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(self.source)
        self.close()
        self.text = " ".join("".join(self.texts).split())  # what a reader sees, with single blanks

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open += [tag] if tag not in VOID else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else"
        self.texts += [" "] if tag in CELLS else []

    def handle_data(self, data: str) -> None:
        self.texts += [data] if not self.open or self.open[-1] not in ("style", "script") else []

    def values(self, name: str) -> list[str]:
        """All values of an attribute."""
        return [str(attributes[name]) for _, attributes in self.elements if name in attributes]


def read_page(path: Path) -> Page:
    """A page on which nothing runs or loads, all is closed, links lead somewhere, and pictures are described."""
    page = Page(path)
    assert not page.open
    assert not {tag for tag, _ in page.elements} & ACTIVE
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert all(value.startswith("data:image/webp;base64,") for value in page.values("src"))
    for tag, attributes in page.elements:
        if "href" in attributes and tag == "a":
            assert re.match(r"https?://|#", str(attributes["href"])), attributes
            assert str(attributes["href"]).startswith("#") or attributes["rel"] == "noopener noreferrer nofollow"
    assert all(value.startswith("#") for value in page.values("xlink:href"))
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page.source)
    assert "url(http" not in page.source
    names = page.values("id")
    assert len(names) == len(set(names))
    assert {value[1:] for value in page.values("href") if value.startswith("#")} <= set(names)
    assert all("alt" in attributes for tag, attributes in page.elements if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in page.elements if tag == "svg")
    return page


@pytest.fixture(scope="module")
def page(built: Any) -> Page:
    """The page that the build wrote."""
    return read_page(report_path(built[0], "scenes"))


def test_a_build_leaves_a_page_that_is_whole_and_inert(page: Page, built: Any) -> None:
    assert len(page.source) < 1_000_000
    assert len([tag for tag, _ in page.elements if tag == "svg"]) >= 7
    run = list(runs(built[0], "scenes"))[-1]
    assert {"ingest", "clean", "fetch", "normalise", "deduplicate", "publish"} <= set(run["seconds_by_step"])
    assert "Time of the latest run by step" in page.text
    assert "No captions were translated" in page.text


def test_the_numbers_are_those_of_the_catalog(page: Page, built: Any) -> None:
    root, report = built
    num_read = sum(row["read"] for row in report.funnel if row["step"] == "ingest")
    counts = query(root, "SELECT count(*) AS images, sum(len(captions))::INT AS captions FROM pairs").to_pylist()[0]
    assert f"{counts['images']:,} images with {counts['captions']:,} English captions" in page.text
    assert f"from {num_read:,} captions of 4 sources" in page.text
    counts_of_reasons = "SELECT step, drop_reason, sum(dropped)::INT AS n FROM drop_reasons GROUP BY ALL"
    for row in query(root, counts_of_reasons).to_pylist():
        assert f"{row['step']} {row['drop_reason']} {row['n']:,} " in page.text
    assert "an earlier caption of the same image is nearly the same text (repeats." in page.text
    assert page.text.count("repeats.min_similarity = 0.85") == 2, "in the table, and above the examples"
    groups = query(root, "SELECT DISTINCT source, split FROM pairs").to_pylist()
    assert all(f"{group['source']} {group['split']}" in page.text for group in groups)
    gallery = [a for tag, a in page.elements if tag == "img" and int(str(a["width"])) > 80]
    assert len(gallery) >= min(36, counts["images"])
    assert all(int(str(a["width"])) <= 160 and int(str(a["height"])) <= 160 for a in gallery)


def test_a_page_is_written_again_where_it_is_missing_or_of_another_snapshot(page: Page, copied: Path) -> None:
    snapshot, path = require_snapshot(copied, "scenes"), report_path(copied, "scenes")
    before = path.stat().st_mtime_ns
    refresh_report(copied, snapshot, has_run=False)
    assert path.stat().st_mtime_ns == before
    path.write_text(page.source.replace(snapshot.snapshot, "0" * 12), encoding="utf-8")
    refresh_report(copied, snapshot, has_run=False)
    assert path.read_text(encoding="utf-8") == page.source, "the same snapshot has the same page"


def test_the_command_writes_the_page_where_it_is_asked_to(built: Any, page: Page, tmp_path: Path, told: Any) -> None:
    out = tmp_path / "page.html"
    assert str(out) in told(["report", "scenes", "--root", str(built[0]), "--out", str(out), "--examples", "0"])
    assert len(read_page(out).source) < len(page.source)


# Snapshots as no build would make them.


Row = dict[str, Any]


def _caption(number: int, **more: Any) -> Row:
    names = {"sample_id": f"made:{number}", "caption_id": f"made:{number}#0", "source": "made", "origin": "native"}
    texts = dict.fromkeys(("source_caption", "clean_caption", "caption"), "un cane")
    languages = {"source_lang": "it", "target_lang": "it", "translator": "native"}
    place = {"upstream_file": "made.tsv", "upstream_line": number, "url": f"https://example.org/{number}.jpg"}
    return {**names, **texts, **languages, **place, "outcome": "kept", **more}


def _pair(row: Row, **more: Any) -> Row:
    file = io.BytesIO()
    Image.new("RGB", (300, 150), (200, 30, 30)).save(file, format="JPEG")
    names = ("sample_id", "source", "url", "license", "attribution", "page_url")
    lists = ("caption_id", "caption", "source_caption", "source_lang", "translator")
    sizes = {"width": 300, "height": 150, "original_width": 600, "original_height": 300, "sha256": "00"}
    image = {"image": {"bytes": file.getvalue(), "path": None}, "split": "train", "scores": [None]}
    return {name: row.get(name) for name in names} | {f"{name}s": [row[name]] for name in lists} | sizes | image | more


def _outcome(row: Row, **more: Any) -> Row:
    names = ("sample_id", "source", "url")
    return {**{name: row[name] for name in names}, "num_bytes": 5000, "original_format": "JPEG", **more}


class Make:
    """Commits what it is given as a snapshot with a funnel of one step; the rest is that of a build."""

    def __init__(self, manifest: Mapping[str, Any], root: Path) -> None:
        self.manifest, self.root = manifest, root

    def snapshot(
        self, captions: Sequence[Row], pairs: Sequence[Row] = (), outcomes: Sequence[Row] = (), **more: Any
    ) -> Snapshot:
        folder = self.root / "datasets" / "made" / "0123456789ab"
        files: dict[str, list[Row]] = {"captions": [], "pairs": [], "images": []}
        for kind, rows, schema in zip(files, (captions, pairs, outcomes), (CAPTIONS, PAIRS, OUTCOMES), strict=True):
            (folder / kind).mkdir(parents=True)
            path = folder / kind / f"{kind}.parquet"
            if rows:
                pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
                split = {"split": "train"} if kind == "pairs" else {}
                files[kind] = [file_entry(path, folder, rows=len(rows), **split)]
        sources, funnel = sorted({row["source"] for row in captions}), []
        for source in sources:
            kept = [row["outcome"] == "kept" for row in captions if row["source"] == source]
            counts = {"read": len(kept), "kept": sum(kept), "dropped": len(kept) - sum(kept)}
            funnel.append({"source": source, "step_number": 1, "step": "ingest", **counts})
        facts = {
            "dataset": "made",
            "snapshot": folder.name,
            "documents": [],
            "target_lang": "it",
            "test_sets": {},
            "settings": {"check": {"max_words": 3}},
            "sources": {source: {"files": [], "license": None, "unselected": {}} for source in sources},
        }
        return commit_snapshot(self.root, {**self.manifest, **facts, "funnel": funnel, "files": files, **more})

    def page(self, *rows: Sequence[Row], **more: Any) -> Page:
        return read_page(write_report(self.root, self.snapshot(*rows, **more)))


@pytest.fixture
def make(built: Any, tmp_path: Path) -> Make:
    return Make(built[1].snapshot.manifest, tmp_path)


def test_a_dataset_of_which_nothing_is_left_says_why(make: Make) -> None:
    lost = {"outcome": "rejected", "step": "fetch", "drop_reason": "http_404", "detail": "HTTP 404", "translator": None}
    rows = [_caption(n, **lost) for n in range(3)]
    rows.append(_caption(3, url=None, path="folder/dog.jpg", outcome="rejected", step="fetch", drop_reason="no_file"))
    none = {"step": "fetch", "drop_reason": "http_404", "num_bytes": None, "original_format": None}
    page = make.page(rows, [], [_outcome(row, **none) for row in rows[:3]])
    assert "No caption was kept: all 4 captions of 1 source were dropped." in page.text
    assert "HTTP 404: the file does not exist any more" in page.text
    assert not [style for style in page.values("style") if style == "width: 0.00%"]  # of nothing there is no bar
    assert "3 images were requested from the web. 0 of them (0.0%) are good." in page.text
    assert "folder/dog.jpg" in page.text


def test_a_dataset_without_rows_has_a_page(make: Make) -> None:
    page = make.page([])
    assert "No captions were read." in page.text
    assert "No image is published." in page.text


def test_a_broken_image_leaves_a_gap(make: Make) -> None:
    row = _caption(1)
    page = make.page([row], [_pair(row, image={"bytes": b"\xff\xd8\xffno image", "path": None})], [_outcome(row)])
    assert "1 image with 1 Italian caption, from 1 caption of 1 source: 100.0% were kept." in page.text
    assert (page.text.count("no picture"), page.values("src")) == (1, [])


def test_translations_stand_beside_what_they_were_made_of_worst_first(make: Make) -> None:
    made = {"source_lang": "en", "origin": "machine_translation", "translator": "argos:en-it:1", "detected_lang": "it"}
    rows = [
        _caption(n, source_caption=f"dog {n}", clean_caption=f"dog {n}", caption=f"cane {n}", **made)
        | {"translation_score": -n / 10}
        for n in range(10)
    ]
    rows[9] |= {"translation_truncated": True, "numbers_lost": ["7"]}
    rows[8] |= {"detected_lang": "es"}
    page = make.page(rows, [_pair(row) for row in rows], translator="argos:en-it:1")
    assert "All were translated from English." in page.text
    assert re.findall(r"dog (\d) cane \1", page.text) == [str(n) for n in reversed(range(10))]
    assert all(flag in page.text for flag in ("truncated", "numbers lost: 7", "looks like es"))


def test_nothing_that_a_dataset_says_is_markup(make: Make) -> None:
    rows = []
    for number, attack in enumerate(ATTACKS):
        shared = dict.fromkeys(("source_caption", "clean_caption", "caption", "license", "attribution"), attack)
        more = {"url": f"https://{attack}/{attack}", "page_url": attack, "upstream_file": attack, "source_lang": attack}
        names = {"sample_id": f"{attack}:{number}", "caption_id": f"{attack}:{number}#0", "source": attack}
        rows.append(_caption(number, **shared, **more, **names, translator=attack, translation_score=-0.5))
        dropped = {"outcome": "rejected", "step": "deduplicate", "drop_reason": "duplicate_image"}
        rows.append({**rows[-1], **dropped, "caption_id": f"{number}-again", "detail": f"same as {attack}"})
        rows.append({**rows[-1], "caption_id": f"{number}-odd", "step": attack, "drop_reason": attack})
    kept = rows[::3]
    pairs, outcomes = map(_pair, kept), [_outcome(row, original_format=row["source"]) for row in kept]
    file = {attack: {"files": [{"name": attack, "sha256": attack}]} for attack in ATTACKS}
    sources = {attack: {**file[attack], "license": attack, "unselected": {attack: 3}} for attack in ATTACKS}
    languages = {"translator": ATTACKS[0], "target_lang": ATTACKS[1]}
    snapshot = make.snapshot(
        rows, list(pairs), outcomes, sources=sources, test_sets={attack: {} for attack in ATTACKS}, **languages
    )
    settings = {"clean": {attack: attack for attack in ATTACKS}, ATTACKS[0]: {"\ud800": "\udfff"}}
    hostile = replace(snapshot, manifest={**snapshot.manifest, "settings": settings, "dataset": ATTACKS[3]})
    page = read_page(write_report(make.root, hostile))
    for attack in ATTACKS:
        shown = re.sub("[\x1b\u202e\u202c]", lambda match: ascii(match[0])[1:-1], attack)
        assert shown.replace("\\u202e", "U+202E").replace("\\u202c", "U+202C") in page.text, attack


@pytest.mark.parametrize(
    ("value", "targets"),
    [
        ("see https://a.example/x?y=1&z=2 or http://b.ex", ["https://a.example/x?y=1&amp;z=2", "http://b.ex"]),
        ('https://f.example/"onclick="x', ["https://f.example/"]),
        ("javascript:alert(1) data:text/html,x //c.example ftp://d.example", []),
        *((text, []) for text in ("https://", "https://:443/x", "https://[bad", "http://e.example/\u202e")),
    ],
)
def test_only_addresses_of_the_web_are_links(value: str, targets: list[str]) -> None:
    assert re.findall(r'<a href="([^"]*)" rel="noopener noreferrer nofollow">', str(linked(value))) == targets


def test_numbers_are_written_for_people() -> None:
    shares = [percent(1, 3), percent(1, 100_000), percent(0, 0), percent(99_999, 100_000), percent(5, 5)]
    assert shares == ["33.3%", "< 0.1%", "0.0%", "> 99.9%", "100.0%"]
