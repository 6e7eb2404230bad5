"""The package of docs/translation.md, installed by pip into a folder, translates a dataset from end to end."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_catalog.errors import InputError
from data_catalog.storage.manifest import require_snapshot
from flows.cli import main
from translation.memory import TranslationMemory

pytestmark = pytest.mark.slow

HOME = Path(__file__).parents[2]
DOCS = (HOME / "docs" / "translation.md").read_text(encoding="utf-8")
WORDS = {"a": "un", "dog": "cane", "sleeps": "dorme", "near": "vicino", "the": "al", "red": "rosso", "table": "tavolo"}


def block(language: str, first_line: str) -> str:
    """The fenced block of the page that begins with a line."""
    found = re.search(rf"```{language}\n{re.escape(first_line)}\n(.*?)```", DOCS, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def folder(own_folder: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package's project, where pip put it (`site`), a recipe, and the catalog built with them."""
    folder = tmp_path_factory.mktemp("plugin")
    project, site = folder / "project", folder / "site"
    project.mkdir()
    (project / "pyproject.toml").write_text(block("toml", "# pyproject.toml"), encoding="utf-8")
    (project / "vernaclip_glossary.py").write_text(block("python", "# vernaclip_glossary.py"), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(project)], check=True, capture_output=True, timeout=300)
    translate = block("toml", '[translate]\nengine = "glossary"')
    assert tomllib.loads(translate) == {"translate": {"settings": {"file": "{recipe}/words.tsv"}}}
    own, captions = own_folder(folder), [f"a red dog sleeps near the table {number}" for number in range(12)]
    for number in range(12):
        own.save(f"{number}.png", number)
    source = own.source("mine", "path caption", [(f"{number}.png", text) for number, text in enumerate(captions)])
    text = f'target_language = "it"\n{source}\n[translate]\nengine = "glossary"\n{translate}'
    (folder / "dogs.toml").write_text(text, encoding="utf-8")
    (folder / "words.tsv").write_text("".join(f"{word}\t{other}\n" for word, other in WORDS.items()), encoding="utf-8")
    command = [sys.executable, "-m", "flows.cli", "build", str(folder / "dogs.toml"), "--root", str(folder / "catalog")]
    places = {"PYTHONPATH": f"{HOME}{os.pathsep}{site}", "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        [*command, "--executor", "local"], env={**os.environ, **places}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_package_of_the_docs_builds_a_dataset(folder: Path) -> None:
    catalog = folder / "catalog"
    snapshot = require_snapshot(catalog, "dogs")
    files = [file for split in ("train", "val", "test") for file in snapshot.pair_files(split)]
    captions = {text for file in files for own in pq.read_table(file).column("captions").to_pylist() for text in own}
    assert "un rosso cane dorme vicino al tavolo 7" in captions
    assert len(captions) > 6
    fingerprint = snapshot.manifest["translator"]
    assert re.fullmatch(r"glossary:en-it:[0-9a-f]{12}", fingerprint)
    assert TranslationMemory(catalog / "memory", fingerprint).count() == 12


def test_training_needs_no_engine(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The package is not installed in this process; a build says so, and training gets as far as its loop."""

    def begun(*_: object, **__: object) -> None:
        raise InputError("training has begun")

    monkeypatch.setattr("training.fit.loop.train", begun)
    options = [str(folder / "dogs.toml"), "--root", str(folder / "catalog"), "--executor", "local"]
    for job, said in (("train", "training has begun"), ("build", "translate.engine must be one of argos, ")):
        assert main([job, *options]) == 1
        assert said in capsys.readouterr().err
    assert main(["build", *options[:3], "--dry-run"]) == 1
    assert "got 'glossary'. A package can add an engine in the entry point group" in capsys.readouterr().err
