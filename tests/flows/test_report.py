"""The page of a build: what it says is so, whatever a dataset holds, and none of it is markup."""

import csv
import io
import re
import shutil
import subprocess
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from data_catalog.catalog.history import runs
from data_catalog.catalog.manifest import require_snapshot
from data_catalog.catalog.query import query
from data_catalog.report.page import refresh_report, report_path, write_report
from data_catalog.report.texts import linked, percent
from flows.cli import main

VOID = {"meta", "img", "br", "link", "input", "hr", "path", "use", "rect"}
CELLS = {"td", "th", "dt", "dd", "li", "p"}  # between them is a blank
# Elements that a browser would load or run something for; none has a place on the page.
ACTIVE = {"script", "iframe", "object", "embed", "link", "form", "base", "audio", "video", "source", "foreignobject"}


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
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page.source)
    assert "url(http" not in page.source
    names = page.values("id")
    assert len(names) == len(set(names))
    assert {value[1:] for value in page.values("href") if value.startswith("#")} <= set(names)
    assert all("alt" in attributes for tag, attributes in page.elements if tag == "img")
    return page


@pytest.fixture(scope="module")
def page(built: Any) -> Page:
    """The page that the build wrote."""
    return read_page(report_path(built[0], "scenes"))


def test_a_build_leaves_a_page_that_is_whole_and_inert(page: Page, built: Any) -> None:
    assert len(page.source) < 1_000_000
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
    near = "drop_reason = 'near_duplicate_caption'"
    found = query(root, f"SELECT count(*) AS n, count(DISTINCT sample_id) AS images FROM captions WHERE {near}")
    [row] = found.to_pylist()
    section = page.text.partition("Duplicates and test sets")[2].partition("Test sets ")[0]
    assert f"near_duplicate_caption {row['images']:,} {row['n']:,} " in section
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


# Whatever of these runs in a browser leaves this mark on the document.
MARK = "data-owned"
RUN = f"document.documentElement.setAttribute('{MARK}','1')"
PAYLOADS = (
    f"<script>{RUN}</script>",
    f'"><img src=x onerror="{RUN}">',
    f"'><svg/onload={RUN}>",
    f"</style></title></textarea></script><script>{RUN}</script>",
    f'<a href="javascript:{RUN}">click</a>',
    f"[click](javascript:{RUN}) ![x](http://127.0.0.1:1/x.png)",
    "| a | b |\n|---|---|\n# heading `code` **bold**",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b31m",
    "\u202egnp.exe\u202c \u2066isolated\u2069 \u200bhidden",
    "=cmd|' /C calc'!A0",
    "+1+1 @SUM(A1) -2+3",
    "'; DROP TABLE captions; -- \" OR 1=1",
    "../../../etc/passwd ..\\..\\x",
    "{{7*7}} ${7*7} <%= 7*7 %> %s %(x)s {0}",
    "]]> <!-- --> &lt;script&gt; &#x3c;script&#x3e;",
    "---\nlicense: mit\n---",
)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
SETTINGS = """
[fetch]
allow_loopback = true
retries = 0
contact = "<script>@example.org"
[duplicates]
near_images = false
[check]
proper_noun_check = false
"""
COLUMNS = "caption license attribution page"


def _rows(payload: str, number: int, sentence: str) -> list[tuple[str, ...]]:
    """A payload in front of an English sentence, and behind one; in every other field as well."""
    rights = (payload, payload, f"javascript:{RUN}//{number}")
    return [(f"{payload} {sentence}", *rights), (f"{sentence} number {number} {payload}", *rights)]


@pytest.fixture(scope="module")
def hostile(own_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog built from upstream files in which every text is an attack."""
    own = own_folder(tmp_path_factory.mktemp("hostile"))
    local, web = [], []
    for number, payload in enumerate(PAYLOADS):
        rows = _rows(payload, number, own.caption(number))
        name = f"{number} " + payload.replace("/", "\u2215").replace("\n", " ")[:120] + ".png"
        own.save(name, number)
        local += [(name, *row) for row in rows]
        web += [(f"http://127.0.0.1:1/{number}/{payload}", *row) for row in rows]
    sources = own.source("local", f"path {COLUMNS}", local) + own.source("web", f"url {COLUMNS}", web)
    own.build(sources + SETTINGS, name="hostile")
    return write_report(own.root, require_snapshot(own.root, "hostile")).parents[2]


def _is_inert(text: str) -> bool:
    """Whether a terminal shows this as it stands: no escapes, nothing that turns the reading direction around."""
    return not any(unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") for char in text if char not in "\n")


def test_the_corpus_reaches_the_catalog_as_it_stands_and_a_terminal_and_a_spreadsheet_as_mere_text(
    hostile: Path, told: Any
) -> None:
    texts = {row["source_caption"] for row in query(hostile, "SELECT source_caption FROM captions").to_pylist()}
    assert all(any(payload in text for text in texts) for payload in PAYLOADS)
    kept = query(hostile, "SELECT count(*) AS n FROM captions WHERE outcome = 'kept'").to_pylist()
    assert kept[0]["n"] >= 10
    for view in ("captions", "rejects", "images", "image_outcomes", "drop_reasons", "pairs"):
        assert _is_inert(told(["sql", f"FROM {view}", "--root", str(hostile)])), view
    found = query(hostile, "SELECT DISTINCT sample_id FROM captions ORDER BY ALL").to_pylist()
    for row in found[::6]:
        assert _is_inert(told(["why", row["sample_id"], "--root", str(hostile)]))
    assert main(["why", "' OR 1=1 --", "--root", str(hostile)]) == 1
    question = "SELECT source_caption, caption, url, path, license, attribution, page_url FROM captions"
    table = list(csv.reader(io.StringIO(told(["sql", question, "--root", str(hostile), "--format", "csv"]))))
    assert len(table) == 1 + 4 * len(PAYLOADS)
    assert not [cell for row in table for cell in row if cell.startswith(FORMULA_STARTS)]
    assert any("cmd|" in cell for row in table for cell in row)


def test_the_page_of_a_hostile_dataset_is_whole_inert_and_shows_it_as_text(hostile: Path) -> None:
    page = read_page(report_path(hostile, "hostile"))
    assert all(payload in page.text for payload in PAYLOADS if payload.isprintable())


def _document(browser: str, page: Path, profile: Path) -> str:
    """The document as a browser has it after all scripts of a page have run."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
    command = [browser, *flags, "--virtual-time-budget=3000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_a_browser_runs_nothing_of_the_report(hostile: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("Chromium is not installed")
    control = tmp_path / "control.html"
    control.write_text(f"<!doctype html><html><body>{PAYLOADS[1]}</body></html>", encoding="utf-8")
    assert MARK in _document(browser, control, tmp_path / "profile")[:100]
    document = _document(browser, report_path(hostile, "hostile"), tmp_path / "profile")
    assert MARK not in document[: document.index("<body")]
    assert document.count("&lt;script&gt;") >= 2  # the corpus is on the page, as text
    assert not re.search(
        r"<[^>]+\s(href|src|action|formaction|data)\s*=\s*[\"']?\s*(javascript|vbscript):", document, re.I
    )
