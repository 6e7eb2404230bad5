"""The page of a build: what it says is so, whatever a dataset holds, and none of it is markup."""

import io
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.database.catalog import query
from data_catalog.report.page import refresh_report, report_path, write_report
from data_catalog.report.texts import caption, decimal, duration, linked, percent, plain, size, text
from data_catalog.schema import CAPTIONS, OUTCOMES, PAIRS
from data_catalog.storage.history import runs
from data_catalog.storage.manifest import MANIFEST_FORMAT, Snapshot, commit_snapshot, file_entry, require_snapshot
from flows.build.build import step_entries
from flows.build.steps import STEPS
from flows.cli import main
from flows.jobs import BuildReport

VOID = {"meta", "img", "br", "link", "input", "hr", "path", "use", "rect"}
CELLS = {"td", "th", "dt", "dd", "li", "p"}  # between them is a blank
# Elements that a browser would load or run something for; none has a place on the page.
ACTIVE = {"script", "iframe", "object", "embed", "link", "form", "base", "audio", "video", "source", "foreignobject"}
ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></title><script>alert(1)</script>",
    "javascript:alert(1)",
    "]]><svg/onload=alert(1)>",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe\u202c",
    "{{ 7 * 7 }}",
    "$\\frac{1}{2}$ text",
    "日本語のキャプション العربية",
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


def assert_inert(page: Page) -> None:
    """Nothing on the page runs, loads, or leads elsewhere than to the web; every element is closed."""
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


def assert_whole(page: Page) -> None:
    """Links within the page lead somewhere, names are unique, images are described."""
    names = page.values("id")
    assert len(names) == len(set(names))
    assert {value[1:] for value in page.values("href") if value.startswith("#")} <= set(names)
    assert all("alt" in attributes for tag, attributes in page.elements if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in page.elements if tag == "svg")


@pytest.fixture(scope="module")
def page(built: tuple[Path, BuildReport]) -> Page:
    """The page that the build wrote."""
    return Page(report_path(built[0], "scenes"))


def test_a_build_leaves_a_page_that_is_whole_and_inert(page: Page, built: tuple[Path, BuildReport]) -> None:
    assert_inert(page)
    assert_whole(page)
    assert len(page.source) < 1_000_000
    assert len([tag for tag, _ in page.elements if tag == "svg"]) >= 7
    run = list(runs(built[0], "scenes"))[-1]
    assert {"ingest", "clean", "fetch", "normalise", "deduplicate", "publish"} <= set(run["seconds_by_step"])
    assert "Time of the latest run by step" in page.text
    assert "No captions were translated: all captions that reached this step were in English already." in page.text


def test_the_numbers_are_those_of_the_catalog(page: Page, built: tuple[Path, BuildReport]) -> None:
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


def test_a_page_is_written_again_only_where_it_is_missing_or_of_another_snapshot(
    built: tuple[Path, BuildReport], copied: Path
) -> None:
    root = copied
    snapshot, path = require_snapshot(root, "scenes"), report_path(root, "scenes")
    before = path.stat().st_mtime_ns
    assert refresh_report(root, snapshot, has_run=False) == path
    assert path.stat().st_mtime_ns == before
    path.write_text(path.read_text(encoding="utf-8").replace(snapshot.snapshot, "0" * 12), encoding="utf-8")
    refresh_report(root, snapshot, has_run=False)
    assert path.read_bytes() == report_path(built[0], "scenes").read_bytes(), "the same snapshot has the same page"
    path.unlink()
    path.symlink_to(path.name)  # opening it is an error, as of a file without rights to read it
    refresh_report(root, snapshot, has_run=True)
    assert snapshot.snapshot in path.read_text(encoding="utf-8")


def test_the_command_writes_the_page_where_it_is_asked_to(
    built: tuple[Path, BuildReport], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["report", "scenes", "--root", str(built[0])]
    assert main([*arguments, "--out", str(tmp_path / "page.html"), "--examples", "0"]) == 0
    assert str(tmp_path / "page.html") in capsys.readouterr().out
    short = Page(tmp_path / "page.html")
    assert_whole(short)
    assert len(short.source) < len(report_path(built[0], "scenes").read_text(encoding="utf-8"))


def test_a_damaged_file_is_named(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = min(require_snapshot(copied, "scenes").folder.glob("pairs/*.parquet"))
    path.write_bytes(path.read_bytes()[:50])
    assert main(["report", "scenes", "--root", str(copied)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(path) in error
    assert "see `vernaclip verify`" in error


# Snapshots as no build would make them.


def _caption(number: int, **more: Any) -> dict[str, Any]:
    names = {"sample_id": f"made:{number}", "caption_id": f"made:{number}#0", "source": "made", "origin": "native"}
    texts = dict.fromkeys(("source_caption", "clean_caption", "caption"), "un cane")
    languages = {"source_lang": "it", "target_lang": "it", "translator": "native"}
    place = {"upstream_file": "made.tsv", "upstream_line": number, "url": f"https://example.org/{number}.jpg"}
    return {**names, **texts, **languages, **place, "outcome": "kept", **more}


def _pair(row: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (300, 150), (200, 30, 30)).save(file, format="JPEG")
    names = ("sample_id", "source", "url", "license", "attribution", "page_url")
    sizes = {"width": 300, "height": 150, "original_width": 600, "original_height": 300, "sha256": "00"}
    lists = {
        f"{name}s": [row[name]] for name in ("caption_id", "caption", "source_caption", "source_lang", "translator")
    }
    image = {"image": {"bytes": file.getvalue(), "path": None}, "split": "train", "scores": [None]}
    return {**{name: row.get(name) for name in names}, **sizes, **lists, **image, **more}


def _outcome(row: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    names = ("sample_id", "source", "url")
    return {**{name: row[name] for name in names}, "num_bytes": 5000, "original_format": "JPEG", **more}


def _snapshot(
    root: Path,
    captions: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]] = (),
    outcomes: Sequence[Mapping[str, Any]] = (),
    **more: Any,
) -> Snapshot:
    """Commit what is given, with a funnel of one step."""
    folder = root / "datasets" / "made" / "0123456789ab"
    files: dict[str, list[dict[str, Any]]] = {"pairs": [], "captions": [], "images": []}
    parts = (("captions", captions, CAPTIONS), ("pairs", pairs, PAIRS), ("images", outcomes, OUTCOMES))
    for kind, rows, schema in parts:
        if rows:
            (folder / kind).mkdir(parents=True)
            path = folder / kind / f"{kind}.parquet"
            pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), path)
            split = {"split": "train"} if kind == "pairs" else {}
            files[kind].append(file_entry(path, folder, rows=len(rows), **split))
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted({row["source"] for row in captions})
    funnel = []
    for source in sources:
        mine = [row["outcome"] == "kept" for row in captions if row["source"] == source]
        counts = {"read": len(mine), "kept": sum(mine), "dropped": len(mine) - sum(mine)}
        funnel.append({"source": source, "step_number": 1, "step": "ingest", **counts})
    manifest = {
        "format": MANIFEST_FORMAT,
        "dataset": "made",
        "snapshot": folder.name,
        "build_key": "key",
        "settings": {"check": {"max_words": 3}},
        "documents": [],
        "target_lang": "it",
        "translator": "native",
        "sources": {source: {"files": [], "license": None, "unselected": {}} for source in sources},
        "test_sets": {},
        "steps": step_entries([step for step in STEPS if step.name != "forget"]),
        "funnel": funnel,
        "files": files,
    }
    return commit_snapshot(root, {**manifest, **more})


def _page_of(root: Path, snapshot: Snapshot) -> Page:
    page = Page(write_report(root, snapshot))
    assert_inert(page)
    assert_whole(page)
    return page


def test_a_dataset_of_which_nothing_is_left_says_why(tmp_path: Path) -> None:
    rows = [
        _caption(n, outcome="rejected", step="fetch", drop_reason="http_404", detail="HTTP 404", translator=None)
        for n in range(3)
    ]
    rows.append(_caption(3, url=None, path="folder/dog.jpg", outcome="rejected", step="fetch", drop_reason="no_file"))
    lost = [
        _outcome(row, step="fetch", drop_reason="http_404", num_bytes=None, original_format=None) for row in rows[:3]
    ]
    page = _page_of(tmp_path, _snapshot(tmp_path, rows, outcomes=lost))
    assert "No caption was kept: all 4 captions of 1 source were dropped." in page.text
    assert "HTTP 404: the file does not exist any more" in page.text
    assert not [style for style in page.values("style") if style == "width: 0.00%"]  # of nothing there is no bar
    assert "3 images were requested from the web. 0 of them (0.0%) are good." in page.text
    assert "folder/dog.jpg" in page.text
    nothing = _page_of(tmp_path / "empty", _snapshot(tmp_path / "empty", []))
    assert "No captions were read." in nothing.text
    assert "No image is published." in nothing.text


def test_a_dataset_of_one_row_is_told_in_the_singular_and_a_broken_image_leaves_a_gap(tmp_path: Path) -> None:
    row = _caption(1)
    pair = _pair(row, image={"bytes": b"\xff\xd8\xffno image", "path": None})
    page = _page_of(tmp_path, _snapshot(tmp_path, [row], [pair], [_outcome(row)]))
    assert "1 image with 1 Italian caption, from 1 caption of 1 source: 100.0% were kept." in page.text
    assert "For 90 % of the images, the width is 600 pixels; for 90 %, the height is 300 pixels." in page.text
    assert "no side is shorter than 150 or longer than 300 pixels" in page.text
    assert (page.text.count("no picture"), page.values("src")) == (1, [])


def test_translations_stand_beside_what_they_were_made_of_worst_first(tmp_path: Path) -> None:
    rows = []
    for n in range(10):
        texts = {"source_caption": f"dog {n}", "clean_caption": f"dog {n}", "caption": f"cane {n}"}
        made = {"source_lang": "en", "origin": "machine_translation", "translator": "argos:en-it:1"}
        odd = {
            "translation_truncated": n == 9,
            "numbers_lost": ["7"] * (n == 9),
            "detected_lang": "es" if n == 8 else "it",
        }
        rows.append(_caption(n, **texts, **made, **odd, translation_score=-n / 10))
    page = _page_of(tmp_path, _snapshot(tmp_path, rows, [_pair(row) for row in rows], translator="argos:en-it:1"))
    assert "All were translated from English." in page.text
    samples = re.findall(r"dog (\d) cane \1", page.text)
    assert samples == sorted(samples, reverse=True)
    assert len(samples) == 10
    assert all(flag in page.text for flag in ("truncated", "numbers lost: 7", "looks like es"))


def test_nothing_that_a_dataset_says_is_markup(tmp_path: Path) -> None:
    rows = []
    for number, attack in enumerate(ATTACKS):
        shared = dict.fromkeys(("source_caption", "clean_caption", "caption", "license", "attribution"), attack)
        more = {"url": f"https://{attack}/{attack}", "page_url": attack, "upstream_file": attack, "source_lang": attack}
        names = {"sample_id": f"{attack}:{number}", "caption_id": f"{attack}:{number}#0", "source": attack}
        rows.append(_caption(number, **shared, **more, **names, translator=attack, translation_score=-0.5))
        dropped = {"outcome": "rejected", "step": "deduplicate", "drop_reason": "duplicate_image"}
        rows.append({**rows[-1], **dropped, "caption_id": f"{number}-again", "detail": f"same as {attack}"})
        rows.append({**rows[-1], "caption_id": f"{number}-odd", "step": attack, "drop_reason": attack})
    kept = [row for row in rows if row["outcome"] == "kept"]
    pairs = [_pair(row, split="train") for row in kept]
    settings = {"clean": {attack: attack for attack in ATTACKS}, ATTACKS[0]: {"\ud800": "\udfff"}}
    snapshot = _snapshot(
        tmp_path,
        rows,
        pairs,
        [_outcome(row, original_format=row["source"]) for row in kept],
        sources={
            attack: {"files": [{"name": attack, "sha256": attack}], "license": attack, "unselected": {attack: 3}}
            for attack in ATTACKS
        },
        test_sets={attack: {} for attack in ATTACKS},
        translator=ATTACKS[0],
        target_lang=ATTACKS[1],
    )
    hostile = Snapshot(
        dataset=snapshot.dataset,
        snapshot=snapshot.snapshot,
        folder=snapshot.folder,
        manifest={**snapshot.manifest, "settings": settings, "dataset": ATTACKS[3]},
    )
    page = _page_of(tmp_path, hostile)
    for attack in ATTACKS:
        shown = re.sub("[\x1b\u202e\u202c]", lambda match: ascii(match[0])[1:-1], attack)
        shown = shown.replace("\\u202e", "U+202E").replace("\\u202c", "U+202C")
        assert shown in page.text, attack


@pytest.mark.parametrize(
    ("value", "targets"),
    [
        (
            "see https://a.example/x?y=1&z=2 and http://b.example",
            ["https://a.example/x?y=1&amp;z=2", "http://b.example"],
        ),
        ("javascript:alert(1) data:text/html,x //c.example ftp://d.example", []),
        ("https://", []),
        ("https://:443/x", []),
        ("https://[bad", []),
        ("http://e.example/\u202e", []),
        ('https://f.example/"onclick="x', ["https://f.example/"]),
    ],
)
def test_only_addresses_of_the_web_are_links(value: str, targets: list[str]) -> None:
    assert re.findall(r'<a href="([^"]*)" rel="noopener noreferrer nofollow">', str(linked(value))) == targets


def test_long_text_is_cut_and_languages_that_are_no_codes_are_left_unsaid() -> None:
    assert str(text("a" * 1400)).endswith('<span class="unseen">… 1,000 more characters</span></bdi>')
    assert str(caption("ciao", "it")) == '<bdi lang="it">ciao</bdi>'
    assert str(caption("ciao", '" onclick="')) == '<bdi lang="">ciao</bdi>'


def test_numbers_are_written_for_people() -> None:
    assert [percent(1, 3), percent(1, 100_000), percent(0, 0)] == ["33.3%", "< 0.1%", "0.0%"]
    assert [percent(99_999, 100_000), percent(5, 5)] == ["> 99.9%", "100.0%"]
    assert [size(999), size(1500), size(2.5e6), size(3e13)] == ["999 bytes", "1.5 kB", "2.5 MB", "30.0 TB"]
    assert [duration(8.24), duration(200), duration(7500)] == ["8.2 s", "3 min 20 s", "2 h 5 min"]
    assert [decimal(-0.5, 2), decimal(None, 2)] == ["−0.50", "–"]
    assert plain("a\nb\ud800\u202ec") == "a b c"
