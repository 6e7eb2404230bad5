"""Builds of local pictures: whose rights hold, which files cost a row, and a language of other letters."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main

TOO_SHORT = "A dog"  # a row that is dropped for its caption is still a row of the image
ARR, BY, BY_SA, NC = "All rights reserved", "CC BY 4.0", "CC BY-SA 4.0", "CC BY-NC 4.0"
A, B = "https://a.example/", "https://b.example/"
# What each row of an image says (license, attribution, page), and which of them is published.
RIGHTS: dict[str, tuple[list[tuple[str, str, str]], int]] = {
    "forbidden": ([("CC0", "Anna", ""), (BY, "Bea", ""), (ARR, "", "")], 2),
    "noncommercial": ([(BY, "Anna", A), (NC, "", B)], 1),
    "unknown": ([("CC0", "", ""), ("mine, ask me", "Bea", "")], 1),
    "silent": ([("CC0", "Anna", ""), ("", "", B)], 1),
    "silence-does-not-lift-a-ban": ([("", "Anna", ""), (NC, "", B)], 1),
    "sharealike": ([(BY, "Anna", ""), (BY_SA, "Bea", "")], 1),
    "credited": ([(BY, "", ""), (BY, "Bea", B)], 1),
    "dropped-caption": ([("CC0", "Anna", ""), (ARR, "Bea", TOO_SHORT)], 1),
}


def test_the_strictest_row_of_an_image_tells_its_rights_also_where_a_duplicate_is_merged(own: Any) -> None:
    columns, numbers = "path caption license attribution page", iter(range(99))
    rows, expected = [], {}
    for seed, (name, (stated, chosen)) in enumerate(RIGHTS.items()):
        own.save(f"{name}.png", seed)
        for license, attribution, page in stated:
            caption = TOO_SHORT if page == TOO_SHORT else own.caption(next(numbers))
            rows.append((f"{name}.png", caption, license, attribution, page.replace(TOO_SHORT, "")))
        expected[name] = tuple(text.replace(TOO_SHORT, "") or None for text in stated[chosen])
    for seed, name in ((90, "here"), (91, "also-here"), (90, "there"), (91, "also-there")):
        own.save(f"{name}.png", seed)
    rows += [("here.png", own.caption(40), BY, "Anna", ""), ("also-here.png", own.caption(41), BY, "Bea", "")]
    others = [("there.png", own.caption(42), ARR, "Cleo", ""), ("also-there.png", own.caption(43), "", "", "")]
    expected |= {"here": (ARR, "Cleo", None), "also-here": (BY, "Bea", None)}  # silence takes nothing away
    sources = own.source("own", columns, rows) + own.source("elsewhere", columns, others)
    own.build(sources, 'duplicates.sources=["own","elsewhere"]', "duplicates.merge_captions=true")
    found = own.rows("SELECT sample_id, license, attribution, page_url FROM pairs")
    assert {
        row["sample_id"].removeprefix("own:").removesuffix(".png"): (
            row["license"],
            row["attribution"],
            row["page_url"],
        )
        for row in found
    } == expected


def test_files_that_nobody_can_read_cost_the_rows_that_want_them_and_end_no_build(own: Any) -> None:
    for number, name in enumerate(("good.jpg", "fine.jpg")):
        own.save(name, number)
    spoiled = ["dangling.jpg", "itself.jpg", "pipe.jpg", "folder.jpg"]
    (own.photos / "dangling.jpg").symlink_to(own.photos / "nowhere.jpg")
    (own.photos / "itself.jpg").symlink_to(own.photos / "itself.jpg")
    os.mkfifo(own.photos / "pipe.jpg")
    (own.photos / "folder.jpg").mkdir()
    # What no row wants: a name that is not UTF-8, and what fails only when it is read.
    Path(os.fsdecode(os.fsencode(own.photos) + b"/caff\xe8.jpg")).write_bytes(b"latin-1")
    (own.photos / "locked.jpg").write_bytes(b"locked")
    (own.photos / "locked.jpg").chmod(0)
    (own.photos / "unreadable.jpg").symlink_to("/proc/self/mem")  # a file that root cannot read either
    (own.photos / "loop").symlink_to(own.photos)
    names = ["good.jpg", *spoiled, "fine.jpg"]
    own.build(own.source("own", "path caption", [(name, own.caption(n)) for n, name in enumerate(names)]))
    found = {row["path"]: row["drop_reason"] for row in own.rows("SELECT path, drop_reason FROM captions")}
    assert found == {**dict.fromkeys(spoiled, "missing_file"), "good.jpg": None, "fine.jpg": None}


# Image, caption, and what it is published as, or the reason why it is not.
GREEK = [
    ("σκύλος.png", "Ένας σκύλος τρέχει στην παραλία", "Ένας σκύλος τρέχει στην παραλία"),
    ("σκύλος.png", "ΕΝΑΣ ΣΚΥΛΟΣ ΤΡΕΧΕΙ ΣΤΗΝ ΠΑΡΑΛΙΑ.", "near_duplicate_caption"),
    ("γάτος.png", "Τι κάνει ο γάτος\u037e Κοιµάται", "Τι κάνει ο γάτος; Κοιμάται"),
    ("σπίτι.png", "Ε\u0301να σπι\u0301τι  δίπλα στη «θάλασσα»", "Ένα σπίτι δίπλα στη «θάλασσα»"),
    ("λίμνη.png", "Μια λίμνη στο βουνό".encode().decode("latin-1"), "Μια λίμνη στο βουνό"),
    ("ποιητής.png", "Γιώργος Σεφέρης", "mostly_proper_nouns"),
    ("πύργος.png", "Αρχείο:Ο Λευκός Πύργος τη νύχτα.jpg", "caption_boilerplate"),
    ("ποδήλατο.png", "Ein Mann fährt mit dem Fahrrad über die Straße vor dem Markt", "wrong_language"),
    ("δέντρο.png", "δέντρο", "caption_too_short"),
]
GREEK_RECIPE = """
name = "ελληνικά"
target_language = "el"
source_language = "el"

[sources.pairs]
kind = "pairs"
files = ["{recipe}/λεζάντες.tsv"]
images = "{recipe}/photos"
caption_column = "λεζάντα"
path_column = "εικόνα"
lang = "el"
"""


@pytest.fixture(scope="module")
def greek(own_folder: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder of Greek names and captions, and what is built from it."""
    own = own_folder(tmp_path_factory.mktemp("Ελλάδα"))
    lines = ["εικόνα\tλεζάντα", *(f"{image}\t{caption}" for image, caption, _ in GREEK)]
    (own.folder / "λεζάντες.tsv").write_text("\n".join([*lines, ""]), "utf-8")
    for seed, image in enumerate({image: None for image, _, _ in GREEK}):
        own.save(image, seed)
    own.build(GREEK_RECIPE, "build.shard_size=3")
    return own


def test_every_greek_caption_ends_as_it_should(greek: Any) -> None:
    rows = greek.rows("SELECT path, caption, drop_reason FROM captions ORDER BY upstream_line")
    found = [(row["path"], row["drop_reason"] or row["caption"]) for row in rows]
    assert found == [(image, outcome) for image, _, outcome in GREEK]


def test_queries_compare_and_sort_greek(greek: Any, capsys: pytest.CaptureFixture[str]) -> None:
    question = "SELECT captions[1] AS λεζάντα FROM pairs WHERE captions[1] LIKE '%;%' ORDER BY ALL"
    assert main(["sql", question, "--root", str(greek.root), "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines() == ["λεζάντα", "Τι κάνει ο γάτος; Κοιμάται"]
    captions = [row["c"] for row in greek.rows("SELECT captions[1] AS c FROM pairs ORDER BY c")]
    assert captions == sorted(captions)
    assert len(captions) == 4


def test_a_terminal_that_cannot_show_greek_says_so(greek: Any) -> None:
    command = [sys.executable, "-m", "flows.cli", "sql", "SELECT 'Ένα' AS x", "--root", str(greek.root)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "'\\u0388': set PYTHONIOENCODING=utf-8" in done.stderr
    assert len(done.stderr.splitlines()) == 1
