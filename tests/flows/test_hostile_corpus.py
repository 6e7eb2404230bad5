"""What a hostile upstream writes stays text: on pages, in a terminal, in artifacts, spreadsheets, SQL and exports."""

import csv
import io
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_catalog.database.catalog import query
from flows.build.execution import LocalExecutor
from flows.cli import main
from flows.jobs import build_dataset
from flows.recipe.recipe import load_recipe

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
RECIPE = """
name = "hostile"
target_language = "en"
source_language = "en"

[sources.local]
kind = "pairs"
files = ["{recipe}/local.jsonl"]
caption_column = "caption"
path_column = "image"
images = "{recipe}/images"
license_column = "license"
attribution_column = "attribution"
page_column = "page"
lang = "en"

[sources.web]
kind = "pairs"
files = ["{recipe}/web.jsonl"]
caption_column = "caption"
url_column = "url"
license_column = "license"
attribution_column = "attribution"
page_column = "page"
lang = "en"

[fetch]
allow_loopback = true
retries = 0
contact = "<script>@example.org"

[duplicates]
near_images = false

[check]
proper_noun_check = false
"""
ENGLISH = (
    "A brown dog is running along the sandy beach",
    "Two children play with a red ball in the park",
    "An old man reads his newspaper under a tree",
    "A white boat lies in the quiet harbour at night",
    "Three cats are sleeping on the warm kitchen floor",
    "A woman with a blue hat rides her bicycle to work",
    "Several people wait for the train at the station",
    "A small bird sits on the branch of an apple tree",
)


def _records(image_of: Any) -> list[dict[str, Any]]:
    """Two rows a payload: it in front of an English sentence, and behind one; in every other field as well."""
    rows = []
    for number, payload in enumerate(PAYLOADS):
        sentence = ENGLISH[number % len(ENGLISH)]
        shared = {"license": payload, "attribution": payload, "page": f"javascript:{RUN}//{number}"}
        rows.append({**image_of(number, payload), "caption": f"{payload} {sentence}", **shared})
        rows.append({**image_of(number, payload), "caption": f"{sentence} number {number} {payload}", **shared})
    return rows


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog built from upstream files in which every text is an attack."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "images").mkdir()

    def local(number: int, payload: str) -> dict[str, str]:
        name = f"{number} " + payload.replace("/", "\u2215").replace("\n", " ")[:120] + ".png"
        noise = random.Random(number).randbytes(96 * 96 * 3)
        Image.frombytes("RGB", (96, 96), noise).save(folder / "images" / name)
        return {"image": name}

    _write(folder / "local.jsonl", _records(local))
    _write(folder / "web.jsonl", _records(lambda number, payload: {"url": f"http://127.0.0.1:1/{number}/{payload}"}))
    (folder / "hostile.toml").write_text(RECIPE, encoding="utf-8")
    recipe = load_recipe(str(folder / "hostile.toml"), root=folder / "root")
    with LocalExecutor() as executor:
        build_dataset(recipe, root=folder / "root", executor=executor)
    return folder / "root"


def _said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints, when it does well."""
    capsys.readouterr()
    status, streams = main([*arguments]), capsys.readouterr()
    assert status == 0, streams.err
    return streams.out + streams.err


def _is_inert(text: str) -> bool:
    """Whether a terminal shows this as it stands: no escapes, nothing that turns the reading direction around."""
    return not any(unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") for char in text if char not in "\n")


def test_the_corpus_reaches_the_catalog_as_it_stands(root: Path) -> None:
    texts = {row["source_caption"] for row in query(root, "SELECT source_caption FROM captions").to_pylist()}
    assert all(any(payload in text for text in texts) for payload in PAYLOADS)
    kept = query(root, "SELECT count(*) AS n FROM captions WHERE outcome = 'kept'").to_pylist()
    assert kept[0]["n"] >= 10


@pytest.mark.parametrize("view", ["captions", "rejects", "images", "image_outcomes", "drop_reasons", "pairs"])
def test_a_terminal_shows_text_and_nothing_else(root: Path, capsys: pytest.CaptureFixture[str], view: str) -> None:
    assert _is_inert(_said(capsys, "sql", f"FROM {view}", "--root", str(root)))


def test_a_spreadsheet_finds_no_formula(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = "SELECT source_caption, caption, url, path, license, attribution, page_url FROM captions"
    table = list(csv.reader(io.StringIO(_said(capsys, "sql", question, "--root", str(root), "--format", "csv"))))
    assert len(table) == 1 + 4 * len(PAYLOADS)
    assert not [cell for row in table for cell in row if cell.startswith(FORMULA_STARTS)]
    assert any("cmd|" in cell for row in table for cell in row)


def test_a_story_is_told_of_any_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = query(root, "SELECT DISTINCT sample_id, coalesce(url, '') AS url FROM captions").to_pylist()
    for row in found:
        assert _is_inert(_said(capsys, "why", row["sample_id"], "--root", str(root)))
    assert main(["why", "' OR 1=1 --", "--root", str(root)]) == 1


@pytest.fixture(scope="module")
def page(root: Path) -> Path:
    """The report of that build."""
    found = root / "datasets" / "hostile" / "report.html"
    assert found.is_file()
    return found


def _document(browser: str, page: Path, profile: Path) -> str:
    """The document as a browser has it after all scripts of a page have run."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
    command = [browser, *flags, "--virtual-time-budget=3000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture(scope="module")
def browser() -> str:
    """A browser without a window."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("Chromium is not installed")
    return found


def test_a_browser_runs_nothing_of_the_report(browser: str, page: Path, tmp_path: Path) -> None:
    control = tmp_path / "control.html"
    control.write_text(f"<!doctype html><html><body>{PAYLOADS[1]}</body></html>", encoding="utf-8")
    assert MARK in _document(browser, control, tmp_path / "profile")[:100]
    document = _document(browser, page, tmp_path / "profile")
    assert MARK not in document[: document.index("<body")]
    assert document.count("&lt;script&gt;") >= 2  # the corpus is on the page, as text
    assert not re.search(
        r"<[^>]+\s(href|src|action|formaction|data)\s*=\s*[\"']?\s*(javascript|vbscript):", document, re.I
    )
    assert not re.search(r"<[a-z][^>]*\son[a-z]+\s*=\s*[^>]*setAttribute", document.replace("&quot;", "'"), re.I)


def test_the_report_asks_nobody_for_anything(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(
        r"<(img|script|link|iframe|source|video|audio|object|embed)\b[^>]*\b(src|href|data)=[\"']?(https?:)?//",
        text,
        re.I,
    )
    assert "Content-Security-Policy" in text
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]", text)


@pytest.mark.slow  # of a flow of steps, test_services.py shows the same
def test_prefects_pages_get_no_markup(root: Path, tmp_path: Path) -> None:
    """The run finds everything done: what it shows is what it would show anyway."""
    recipe = root.parent / "hostile.toml"
    command = [sys.executable, "-m", "flows.cli", "build", str(recipe), "--root", str(root)]
    names = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**names, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "HOME": str(tmp_path)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    with sqlite3.connect(tmp_path / ".vernaclip" / "temporary-1.db") as database:
        artifacts = database.execute("SELECT type, data, description FROM artifact").fetchall()
    database.close()
    tables = [data for kind, data, _ in artifacts if kind == "table"]
    assert tables
    for _, data, description in artifacts:
        shown = re.sub(r"&#\d+;", "", str(description or "") + " ".join(_strings(data)))
        assert not set("<>[]()`|\\") & set(shown.replace("(", "").replace(")", "")), shown
        assert _is_inert(shown)


def _strings(data: str | None) -> list[str]:
    """All texts inside an artifact's JSON."""
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, str):
            try:
                walk(json.loads(value))
            except ValueError:
                found.append(value)
        elif isinstance(value, dict):
            for name, item in value.items():
                found.append(name)
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(data or "")
    return found


@pytest.fixture(scope="module")
def exports(root: Path) -> Path:
    """All exports, pixels included."""
    for kind in ("huggingface", "webdataset"):  # no image has an address that could be listed
        assert main(["export", "hostile", "--format", kind, "--pixels", "all", "--root", str(root)]) == 0
    return root / "exports" / "hostile"


def test_names_inside_exports_are_safe(exports: Path) -> None:
    names = [path.relative_to(exports).as_posix() for path in exports.rglob("*")]
    for archive in exports.rglob("*.tar"):
        with tarfile.open(archive) as tar:
            names += tar.getnames()
    assert len(names) > 20
    assert not [name for name in names if not re.fullmatch(r"[A-Za-z0-9._/-]+", name) or ".." in name]


def test_the_card_is_text(exports: Path) -> None:
    import yaml

    text = (exports / "huggingface" / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    assert set(yaml.safe_load(front)) >= {"configs", "dataset_info", "license"}
    assert "<script" not in body.lower()
    assert not re.search(r"\]\(\s*javascript:", body, re.I)
    assert _is_inert(text)


def test_tables_of_rights_hold_no_formula(exports: Path) -> None:
    files = [*exports.rglob("*.csv"), *exports.rglob("*.tsv")]
    assert files
    for path in files:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
        assert not [cell for row in rows for cell in row if cell.startswith(FORMULA_STARTS)]
