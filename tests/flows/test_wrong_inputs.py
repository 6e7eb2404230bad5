"""What is wrong with what a user gives: each with the class of who must act, an exit code, and one sentence."""

import gzip
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from data_catalog.errors import DiskError, InputError, PipelineError, SettingsError
from data_catalog.storage.lock import writer_lock
from flows.cli import main

FAILED, LATER = 1, 75
RECIPE = """
target_language = "en"
[sources.mine]
kind = "pairs"
files = ["captions.csv"]
path_column = "photo"
caption_column = "text"
lang = "en"
"""
BUILD = ("build", "{here}/photos.toml", "--root", "{here}/catalog", "--executor", "local")


class Wrong(NamedTuple):
    """One wrong input.

    Args:
        words: the command; `{here}` is the test's folder, `{built}` a root with a dataset `scenes`.
        error: the class of the error.
        sentence: what is said, as a pattern.
        before: what is done to the folder before.
        is_run: the build ran, and its report says what became of the captions.
    """

    words: Sequence[str]
    error: type[PipelineError]
    sentence: str
    before: Callable[[Path], object] = lambda _: None
    is_run: bool = False


def setting(text: str, error: type[PipelineError], sentence: str) -> Wrong:
    """A build of one's own photographs with one setting that is wrong."""
    return Wrong((*BUILD, "--set", text), error, sentence)


def recipe(old: str, new: str) -> Callable[[Path], object]:
    def change(here: Path) -> None:
        text = (here / "photos.toml").read_text("utf-8")
        assert old in text
        (here / "photos.toml").write_text(text.replace(old, new), "utf-8")

    return change


def file(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda here: (here / name).write_bytes(content.encode() if isinstance(content, str) else content)


WRONG = {
    # Keys.
    "an unknown key": setting(
        "clean.min_wrods=3", SettingsError, r"unknown key clean\.min_wrods: did you mean min_words"
    ),
    "an unknown section": setting("trian.steps=3", SettingsError, "unknown key trian: did you mean train"),
    "an unknown key of a source": setting(
        "sources.mine.flies=x", SettingsError, r"sources\.mine\.flies: did you mean files"
    ),
    "an unknown key of a host": setting(
        'fetch.hosts."a.org".speed=1', SettingsError, r"unknown key fetch\.hosts\.a\.org\.speed"
    ),
    "a key of before": setting(
        "build.chunk_size=5", SettingsError, "build.chunk_size is no longer a setting: .* remove this key"
    ),
    "no key": setting("workers", SettingsError, "--set takes section.key=value, got 'workers'"),
    "a missing key": Wrong(
        BUILD, SettingsError, r"sources\.mine\.caption_column is missing", recipe("caption_column", "license_column")
    ),
    # Types and bounds.
    "a text for a number": setting(
        "build.workers=many", SettingsError, "build.workers must be a whole number, got 'many'"
    ),
    "half a worker": setting("build.workers=1.5", SettingsError, r"build\.workers must be a whole number, got 1\.5"),
    "a number for yes or no": setting("fetch.allow_loopback=1", SettingsError, "must be true or false, got 1"),
    "a number for a table": setting(
        "sources.mine=5", SettingsError, r"sources\.mine must be a table of settings, got 5"
    ),
    "not a number": setting("split.val=nan", SettingsError, r"split\.val must be a finite number, got nan"),
    "nothing to train on": setting("split={val=0.5,test=0.5}", SettingsError, "together leave nothing to train on"),
    "a batch of one": setting("train.batch_size=1", SettingsError, r"train\.batch_size must be at least 2"),
    "a date": setting(
        "split.by=2026-11-27", SettingsError, r"split\.by is datetime\.date\(2026, 11, 27\), a type that no setting has"
    ),
    # Ports and hosts.
    "a port that is none": setting("fetch.ports=[70000]", SettingsError, r"fetch\.ports must be between 1 and 65535"),
    "a contact that is none": setting(
        "fetch.contact=me", SettingsError, "fetch.contact must be a mail address or a URL"
    ),
    "a host with a scheme": setting('fetch.hosts."http://a.org".concurrency=1', SettingsError, "a host or domain"),
    # Files.
    "no recipe file": Wrong(("build", "{here}/no.toml"), SettingsError, "there is no recipe file .*no.toml"),
    "no such recipe": Wrong(("build", "klingon"), SettingsError, "there is no recipe 'klingon': name one of .*scenes"),
    "a recipe that is no TOML": Wrong(
        BUILD, SettingsError, "photos.toml is not TOML", file("photos.toml", "target = ")
    ),
    "a recipe without sources": Wrong(
        BUILD, SettingsError, r"at least one \[sources.NAME\]", file("photos.toml", 'target_language = "en"')
    ),
    "no captions": Wrong(
        BUILD,
        InputError,
        "captions.csv, which does not exist: correct the path",
        lambda here: (here / "captions.csv").unlink(),
    ),
    "captions without the column": Wrong(
        BUILD, InputError, r"sources\.mine: .*captions\.csv .*text", file("captions.csv", "photo,caption\n1.png,a")
    ),
    "captions in no encoding": Wrong(
        BUILD,
        InputError,
        "keeps none of 1 captions: ingest dropped 1 as bad_encoding",
        file("captions.csv", b"photo,text\n1.png,caf\xe9 na\xefve\n"),
        is_run=True,
    ),
    "half a gzip": Wrong(
        BUILD,
        InputError,
        r"captions\.csv\.gz",
        lambda here: (
            (here / "captions.csv.gz").write_bytes(gzip.compress(b"photo,text\n" + b"1.png,a red box\n" * 9)[:-9]),
            recipe("captions.csv", "captions.csv.gz")(here),
        ),
    ),
    "no images": setting("sources.mine.images=nowhere", InputError, "nowhere"),
    "a zip of images that is none": Wrong(
        (*BUILD, "--set", "sources.mine.images={here}/a.zip"), InputError, r"a\.zip", file("a.zip", "no")
    ),
    # Packages and engines.
    "no such engine": setting(
        "translate.engine=babelfish", SettingsError, r"translate\.engine must be one of argos, .*got 'babelfish'"
    ),
    "no model": setting("translate.engine=ctranslate2", SettingsError, r"translate\.model is missing"),
    "a setting of another engine": setting("translate.model=x", SettingsError, "the engine 'argos' does not use it"),
    "no package file": Wrong(("mt", "install", "{here}/no.argosmodel"), InputError, r"no\.argosmodel"),
    "a package that is none": Wrong(
        ("mt", "install", "{here}/a.argosmodel"), InputError, r"a\.argosmodel", file("a.argosmodel", "no")
    ),
    # Languages.
    "a language without a pack": Wrong(
        BUILD, SettingsError, "no language pack 'tlh'", recipe('target_language = "en"', 'target_language = "tlh"')
    ),
    "a language that is no code": Wrong(
        ("translate", "--from", "English", "--to", "it"), SettingsError, "--from English is not a language code"
    ),
    "a pack of another language": setting("language_pack=it", SettingsError, "is of it, but target_language is en"),
    "a pack that is no TOML": Wrong(
        (*BUILD, "--set", "language_pack={here}/en.toml"),
        InputError,
        r"en\.toml is not TOML",
        file("en.toml", "code = "),
    ),
    # Roots, datasets, models.
    "a root that is a file": Wrong(("catalog", "--root", "{here}/captions.csv"), InputError, r"captions\.csv"),
    "a root without datasets": Wrong(
        ("catalog", "--root", "{here}"), InputError, "holds no dataset: run `vernaclip build"
    ),
    "nothing built": Wrong(
        ("train", "{here}/photos.toml", "--root", "{here}/catalog", "--executor", "local"), InputError, "photos"
    ),
    "nothing trained": Wrong(
        ("evaluate", "scenes", "--root", "{built}", "--executor", "local"),
        InputError,
        "contains no model of 'scenes': run `vernaclip train",
    ),
    "no such dataset": Wrong(("report", "tlh", "--root", "{built}"), InputError, "has no dataset 'tlh': run"),
    "no such sample": Wrong(("why", "mscoco:0", "--root", "{built}"), InputError, "mscoco:0"),
    "a question that is no SQL": Wrong(("sql", "selekt 1", "--root", "{built}"), SettingsError, "selekt"),
    "a question of other files": Wrong(("sql", "from '/etc/passwd'", "--root", "{built}"), SettingsError, "passwd"),
    # Disks.
    "a disk that takes nothing": Wrong((*BUILD[:3], "/proc/catalog", *BUILD[4:]), DiskError, "/proc"),
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a recipe of one photograph."""
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "1.png")
    (tmp_path / "captions.csv").write_text("photo,text\n1.png,A grey box lies on the table of the garden\n", "utf-8")
    (tmp_path / "photos.toml").write_text(RECIPE, "utf-8")
    return tmp_path


def outcome(words: Sequence[str], here: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Return the exit code, the class of the error, and the sentence."""
    code = main([*(word.replace("{here}", str(here)).replace("{built}", str(root)) for word in words), "--debug"])
    said = capsys.readouterr().err
    raised = re.findall(r"^data_catalog\.errors\.(\w+): ", said, re.MULTILINE)
    return code, raised[-1] if raised else said, said.rpartition("vernaclip: ")[2]


@pytest.mark.parametrize("name", WRONG)
def test_it_is_said_who_must_act(
    name: str, here: Path, built: tuple[Path, object], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = WRONG[name]
    wrong.before(here)
    there = sorted(here.iterdir())
    code, raised, sentence = outcome(wrong.words, here, built[0], capsys)
    assert (code, raised) == (FAILED, wrong.error.__name__), sentence
    assert re.search(wrong.sentence, sentence), sentence
    assert "Traceback" not in sentence
    assert wrong.is_run or sorted(here.iterdir()) == there, "a start that failed leaves nothing"


def test_a_root_that_another_process_writes_to_may_work_later(
    here: Path, built: tuple[Path, object], capsys: pytest.CaptureFixture[str]
) -> None:
    with writer_lock(here / "catalog"):
        assert outcome(BUILD, here, built[0], capsys)[:2] == (LATER, "BusyError")


def test_a_damaged_dataset_has_a_remedy(
    here: Path, built: tuple[Path, object], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(built[0], here / "copy")
    manifest = next((here / "copy/datasets/scenes").glob("*/manifest.json"))
    manifest.write_text(manifest.read_text("utf-8").replace("scenes", "scents"), "utf-8")
    code, raised, sentence = outcome(["catalog", "--root", str(here / "copy")], here, built[0], capsys)
    assert (code, raised) == (FAILED, "DamagedError"), sentence
    assert re.search("verify|remove|build", sentence), "what to do"


def test_a_defect_shows_where_and_how_to_report_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr("flows.recipe.recipe.load_recipe", fail)
    monkeypatch.setattr("flows.cli.jobs.load_recipe", fail, raising=False)
    assert main([word.format(here=here) for word in BUILD]) == 70
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "unexpected ZeroDivisionError: nobody thought of this" in said
    assert "report" in said.splitlines()[-1]


def test_forty_are_tried() -> None:
    assert len(WRONG) >= 40
