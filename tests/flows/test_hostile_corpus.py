"""What a hostile upstream writes stays text: on pages, in a terminal, in artifacts, spreadsheets, SQL and exports."""

import csv
import io
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from data_catalog.database.catalog import query
from data_catalog.report.page import write_report
from data_catalog.storage.manifest import require_snapshot
from flows.cli import main

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
def root(own_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    found: Path = own.root
    return found


def _is_inert(text: str) -> bool:
    """Whether a terminal shows this as it stands: no escapes, nothing that turns the reading direction around."""
    return not any(unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") for char in text if char not in "\n")


def test_the_corpus_reaches_the_catalog_as_it_stands_and_a_terminal_and_a_spreadsheet_as_mere_text(
    root: Path, told: Any
) -> None:
    texts = {row["source_caption"] for row in query(root, "SELECT source_caption FROM captions").to_pylist()}
    assert all(any(payload in text for text in texts) for payload in PAYLOADS)
    kept = query(root, "SELECT count(*) AS n FROM captions WHERE outcome = 'kept'").to_pylist()
    assert kept[0]["n"] >= 10
    for view in ("captions", "rejects", "images", "image_outcomes", "drop_reasons", "pairs"):
        assert _is_inert(told(["sql", f"FROM {view}", "--root", str(root)])), view
    found = query(root, "SELECT DISTINCT sample_id FROM captions ORDER BY ALL").to_pylist()
    for row in found[::6]:
        assert _is_inert(told(["why", row["sample_id"], "--root", str(root)]))
    assert main(["why", "' OR 1=1 --", "--root", str(root)]) == 1
    question = "SELECT source_caption, caption, url, path, license, attribution, page_url FROM captions"
    table = list(csv.reader(io.StringIO(told(["sql", question, "--root", str(root), "--format", "csv"]))))
    assert len(table) == 1 + 4 * len(PAYLOADS)
    assert not [cell for row in table for cell in row if cell.startswith(FORMULA_STARTS)]
    assert any("cmd|" in cell for row in table for cell in row)


@pytest.fixture(scope="module")
def page(root: Path) -> Path:
    """The report of that build."""
    return write_report(root, require_snapshot(root, "hostile"))


def _document(browser: str, page: Path, profile: Path) -> str:
    """The document as a browser has it after all scripts of a page have run."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
    command = [browser, *flags, "--virtual-time-budget=3000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_a_browser_runs_nothing_of_the_report(page: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("Chromium is not installed")
    control = tmp_path / "control.html"
    control.write_text(f"<!doctype html><html><body>{PAYLOADS[1]}</body></html>", encoding="utf-8")
    assert MARK in _document(browser, control, tmp_path / "profile")[:100]
    document = _document(browser, page, tmp_path / "profile")
    assert MARK not in document[: document.index("<body")]
    assert document.count("&lt;script&gt;") >= 2  # the corpus is on the page, as text
    assert not re.search(
        r"<[^>]+\s(href|src|action|formaction|data)\s*=\s*[\"']?\s*(javascript|vbscript):", document, re.I
    )
