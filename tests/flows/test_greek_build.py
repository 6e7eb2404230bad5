"""A language of other letters, from its files to its queries: Greek pairs whose images have Greek names."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data_catalog.database.catalog import query
from flows.build.execution import LocalExecutor
from flows.cli import main
from flows.jobs import build_dataset
from flows.recipe.recipe import load_recipe

RECIPE = """
name = "ελληνικά"
target_language = "el"
source_language = "el"

[sources.pairs]
kind = "pairs"
files = ["{recipe}/λεζάντες.tsv"]
caption_column = "λεζάντα"
path_column = "εικόνα"
lang = "el"
"""

# Image, caption, and what it is published as, or the reason why it is not.
ROWS = [
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


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog built from the rows above."""
    folder = tmp_path_factory.mktemp("Ελλάδα")
    (folder / "greek.toml").write_text(RECIPE, encoding="utf-8")
    lines = ["εικόνα\tλεζάντα", *(f"{image}\t{caption}" for image, caption, _ in ROWS)]
    (folder / "λεζάντες.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for seed, image in enumerate({image: None for image, _, _ in ROWS}):
        noise = random.Random(seed).randbytes(128 * 128 * 3)
        Image.frombytes("RGB", (128, 128), noise).save(folder / image)
    recipe = load_recipe(str(folder / "greek.toml"), root=folder / "root", overrides=["build.shard_size=3"])
    with LocalExecutor() as executor:
        build_dataset(recipe, root=folder / "root", executor=executor)
    return folder / "root"


def test_every_caption_ends_as_it_should(root: Path) -> None:
    rows = query(root, "SELECT path, caption, drop_reason FROM captions ORDER BY upstream_line").to_pylist()
    found = [(row["path"], row["drop_reason"] or row["caption"]) for row in rows]
    assert found == [(image, outcome) for image, _, outcome in ROWS]


def test_queries_compare_and_sort_greek(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = "SELECT captions[1] AS λεζάντα FROM pairs WHERE captions[1] LIKE '%;%' ORDER BY ALL"
    assert main(["sql", question, "--root", str(root), "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines() == ["λεζάντα", "Τι κάνει ο γάτος; Κοιμάται"]
    captions = [row["c"] for row in query(root, "SELECT captions[1] AS c FROM pairs ORDER BY c").to_pylist()]
    assert captions == sorted(captions)
    assert len(captions) == 4


def test_a_terminal_that_cannot_show_greek_says_so(root: Path) -> None:
    command = [sys.executable, "-m", "flows.cli", "sql", "SELECT 'Ένα' AS x", "--root", str(root)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is ascii and has no '\\u0388': set PYTHONIOENCODING=utf-8" in done.stderr
    assert len(done.stderr.splitlines()) == 1
