"""The command line as a user meets it: help, answers, one-sentence errors, exit codes."""

import gzip
import io
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App, CycloptsError
from PIL import Image

from data_catalog.base.errors import BusyError, DefectError, InputError, TransientError
from data_catalog.base.progress import Progress
from data_catalog.catalog.duckdb_file import rebuild
from flows.cli import main
from flows.cli.app import app, parse
from flows.cli.jobs import NEXT, Request
from flows.cli.output import say


def commands(parent: App = app, *words: str) -> Iterator[tuple[str, App]]:
    """All commands that do something, by the words that call them."""
    for name in parent:
        command = parent[name]
        if not name.startswith("-"):
            if command.default_command is not None:
                yield " ".join([*words, name]), command
            yield from commands(command, *words, name)


COMMANDS = dict(commands())


def test_neither_help_nor_wrong_usage_needs_anything_heavy() -> None:
    wrong = [[], ["fly"], ["mt", "trian"], ["train"], ["search", "a", "--bogus"], ["export", "a", "--format", "zip"]]
    calls = [["--help"], *([*name.split(), "--help"] for name in COMMANDS), *wrong]
    code = (
        "import contextlib, sys\nfrom flows.cli import main\n"
        f"for words in {calls!r}:\n    with contextlib.suppress(SystemExit): main(words)\n"
        "names = ('torch', 'duckdb', 'pyarrow', 'prefect', 'numpy', 'pydantic', 'transformers')\n"
        "print([name for name in names if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words", ["train scenes", "run scenes", "distil scenes", "mt train pairs.tsv --from en --to it"]
)
def test_bf16_is_refused_before_work_on_a_processor_without_it(
    words: str, tmp_path: Path, processor: Callable[[str], None], told: Any
) -> None:
    processor("fp32")
    setting = "precision" if words.startswith("mt") else f"{words.split()[0].replace('run', 'train')}.precision"
    place = ["--out", str(tmp_path / "new.argosmodel")]
    if not words.startswith("mt"):
        place = ["--executor", "local", "--root", str(tmp_path)]
    error = " ".join(told([*words.split(), "--set", f"{setting}=bf16", *place], code=1).split())
    assert f"{setting} is bf16" in error
    assert f"use --set {setting}=auto" in error
    assert not list(tmp_path.iterdir())


def ended(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What a call that ends by itself prints, and what it says of an error."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == code
    captured = capsys.readouterr()
    return captured.out, captured.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_says_what_it_is_for(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = ended([*name.split(), "--help"], 0, capsys)
    assert text.startswith(f"Usage: vernaclip {name}")
    assert text.split("\n\n")[1].endswith((".", "any"))
    assert "--quiet -q" in text
    options = COMMANDS[name].assemble_argument_collection(parse_docstring=True)
    assert [option.name for option in options if option.show and not option.parameter.help] == []
    assert [option.name for option in options if "\n" in (option.parameter.help or "")] == []  # printed as it is
    assert set(re.findall(r"--(?:no|empty)-[\w-]+", text)) <= {"--no-split"}
    with pytest.raises(CycloptsError):
        parse([*name.split(), "--no-quiet"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "vernaclip: A command is missing. See `vernaclip --help`"),
        ("biuld scenes", 'Did you mean "build"?'),
        ("search -- --help", "vernaclip search: Unknown option: --help."),
        ("-h nonsense", 'vernaclip: Unknown command "nonsense". See `vernaclip --help`'),
        ("mt trian", 'vernaclip mt: Unknown command "trian". Did you mean "train"?'),
        ("build", "vernaclip build: RECIPE is missing. See `vernaclip build --help`"),
        ("build scenes --executor magic", '"magic" for --executor. Choose from: "prefect", "local", "dask"'),
        ("build scenes --exekutor local", "Unknown option: --exekutor. Did you mean --executor?"),
        ("build scenes --rows 1.5", "for --rows: '1.5' is not a whole number"),
        ("export a --format webdataset --samples-per-shard 1.5", "for --samples-per-shard: '1.5' is not a whole"),
        ("report scenes --examples 51", 'Invalid value "51" for --examples. Must be <= 50'),
        ("up --port 99999", 'Invalid value "99999" for --port. Must be <= 65535'),
        ("mt evaluate a.tsv --from en --to it --system", "--system needs a value"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(arguments: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, error = ended(arguments.split(), 2, capsys)
    assert said in error
    assert (out, error.count("\n")) == ("", 1)


@pytest.mark.parametrize("command", ["search", "localize a.jpg", "classify a.jpg un\\ cane", "sql", "why"])
def test_a_text_may_begin_with_a_hyphen_and_a_mistyped_option_is_none(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command)
    for text in ("-1 grado", "-a:1", "-1", "-", "--a SELECT 1"):
        call = parse([*words, text, "--root", "elsewhere"])
        assert (call.bound.args[-1][-1] if "classify" in command else call.bound.args[-1]) == text
        assert call.root == Path("elsewhere")
    for option in ("--rot", "--rot=a:b", "-x"):
        assert f"Unknown option: {option}" in ended([*words, option], 2, capsys)[1]


@pytest.mark.parametrize(
    ("arguments", "level"),
    [("recipes", "INFO"), ("-q recipes", "WARNING"), ("recipes --quiet", "WARNING"), ("recipes -v", "DEBUG")],
)
def test_every_command_can_say_less_and_more_and_quiet_ones_draw_no_bars(
    arguments: str, level: str, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "italian" in told(arguments.split())
    assert logging.getLevelName(logging.getLogger("flows").level) == level
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("verify", total=2, unit="files") as progress:
        progress.advance(2)
    assert ("verify" in terminal.getvalue()) is (level != "WARNING")


def test_what_a_command_says_stands_above_the_line_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("verify", total=2, unit="files"):
        assert main(["build", "missing.toml"]) == 1
    line = "verify [..........] 0 of 2 files"
    assert terminal.getvalue().startswith(f"\r{line}\r{' ' * len(line)}\rvernaclip: ")


def test_the_environment_names_the_root_and_the_last_option_holds(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    root, snapshot = str(built[0]), built[1].snapshot.snapshot
    assert snapshot in told(["catalog", "--root", "elsewhere", f"--root={root}"])
    monkeypatch.setenv("VERNACLIP_ROOT", root)
    assert json.loads(told(["catalog", "--json"]))[0]["snapshot"] == snapshot
    assert told(["catalog", "--root", "elsewhere"], code=1).startswith("vernaclip: elsewhere holds no dataset")


@pytest.mark.parametrize("words", [["catalog"], ["search", "a"]])
def test_an_error_on_the_default_root_says_that_none_was_given(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"is set, so the root is catalog in {tmp_path})" in told(words, code=1)
    assert "is set, so the root" not in told([*words, "--root", "catalog"], code=1)
    assert "is set, so the root" not in told(["build", "klingon"], code=1), "an error that is not about the root"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        "build missing.toml --executor local",
        "train scenes --executor local",
        "catalog --rebuild",
        "forget --url https://example.org/a.jpg",
    ],
)
def test_a_start_that_fails_leaves_no_folders(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "missing.toml"
    recipe.write_text('target_language = "en"\n[sources.mscoco]\nfiles = ["none.json"]\n', encoding="utf-8")
    assert told([*arguments.split(), "--root", "new/root"], code=1).count("\n") == 1
    assert list(tmp_path.iterdir()) == [recipe]


def test_neither_an_answer_nor_a_log_message_steers_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say("a file named \x1b[2J\x9b\nand another, \u202etxt")
    assert capsys.readouterr().out == "a file named \\x1b[2J\\x9b\nand another, \\u202etxt\n"
    (tmp_path / "a\x1b[2Jb").mkdir()  # no package, which is logged
    command = [sys.executable, "-m", "vernaclip", "translate", "--from", "en", "--to", "it", str(Path(__file__))]
    environment = {**os.environ, "ARGOS_PACKAGES_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert r"a\x1b[2Jb is not an Argos package" in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BusyError("another build is at work here"), 75),
        (TransientError("the index does not answer"), 75),
        (InputError("there is no such file"), 1),
        (DefectError("the snapshot breaks a law"), 70),
        (KeyError("nobody thought of it"), 70),
    ],
)
def test_exit_codes_tell_who_must_act_and_only_defects_show_where(
    error: Exception, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    def fail(_: Path) -> list[str]:
        raise error

    monkeypatch.setattr("data_catalog.catalog.manifest.dataset_names", fail)
    for flags in ([], ["--debug"]):
        lines = told([*flags, "snapshots", "--root", str(tmp_path)], code=code).splitlines()
        assert any(line.startswith("Traceback") for line in lines) == (code == 70 or bool(flags))
        said = [number for number, line in enumerate(lines) if line.startswith("vernaclip: ") and str(error) in line]
        assert said == [len(lines) - (2 if code == 70 else 1)]
        assert ("`vernaclip doctor`" in lines[-1]) == (code == 70)


@pytest.mark.parametrize("arguments", ["build scenes --executor local", "train scenes"])
def test_several_processes_only_train(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    """As torchrun starts them, which tells them by their environment."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    error = told([*arguments.split(), "--root", str(tmp_path)], code=1)
    assert "several processes can only train, and without Prefect" in error
    assert list(tmp_path.iterdir()) == []


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


# By the error: the words, and files that are changed before (None: removed). `{here}` is the test's folder, `{built}`
# a root with a dataset `scenes`. tests/flows/test_recipe.py has more settings.
WRONG: dict[str, tuple[Sequence[str], dict[str, str | bytes | None]]] = {
    r"SettingsError: .*at least one \[sources.NAME\]": (BUILD, {"photos.toml": 'target_language = "en"'}),
    r"InputError: .*captions.csv does not exist": (BUILD, {"captions.csv": None}),
    r"InputError: sources\.mine: .*captions\.csv .*text": (BUILD, {"captions.csv": "photo,caption\n1.png,a"}),
    r"InputError: .*captions\.csv": (
        BUILD,
        {"captions.csv": gzip.compress(b"photo,text\n" + b"1.png,a box\n" * 9)[:-9]},
    ),
    r"InputError: .*a\.zip": ((*BUILD, "--set", "sources.mine.images={here}/a.zip"), {"a.zip": "no"}),
    r"SettingsError: .*the engine 'argos' does not use it": ((*BUILD, "--set", "translate.model=x"), {}),
    r"InputError: .*a\.argosmodel": (("mt", "install", "{here}/a.argosmodel"), {"a.argosmodel": "no"}),
    r"SettingsError: .*no language pack 'tlh'": (BUILD, {"photos.toml": RECIPE.replace('e = "en"', 'e = "tlh"')}),
    r"SettingsError: .*'it', but target_language is 'en'": ((*BUILD, "--set", "language_pack=it"), {}),
    r"InputError: .*/captions\.csv": (("catalog", "--root", "{here}/captions.csv"), {}),
    r"InputError: .*holds no dataset: run `vernaclip build": (("catalog", "--root", "{here}"), {}),
    r"InputError: .*has no dataset 'tlh': run": (("report", "tlh", "--root", "{built}"), {}),
    r"SettingsError: .*a link, a pipe or a device": (
        ("report", "scenes", "--root", "{built}", "--out", "/dev/stdout"),
        {},
    ),
    r"DiskError: .*/proc": ((*BUILD[:3], "/proc/catalog", *BUILD[4:]), {}),
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a recipe of one photograph."""
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "1.png")
    (tmp_path / "captions.csv").write_text("photo,text\n1.png,A grey box lies on the table of the garden\n", "utf-8")
    (tmp_path / "photos.toml").write_text(RECIPE, "utf-8")
    return tmp_path


@pytest.mark.parametrize("error", WRONG)
def test_it_is_said_who_must_act(error: str, here: Path, built: Any, told: Any) -> None:
    words, changes = WRONG[error]
    for name, content in changes.items():
        (here / name).unlink(missing_ok=True)
        if content is not None:
            (here / name).write_bytes(content.encode() if isinstance(content, str) else content)
    there = sorted(here.iterdir())
    words = [word.replace("{here}", str(here)).replace("{built}", str(built[0])) for word in words]
    said = told([*words, "--debug"], code=1)
    assert re.search(rf"^data_catalog\.base\.errors\.{error}", said, re.MULTILINE), said
    assert sorted(here.iterdir()) == there, "a start that failed leaves nothing"


def test_a_folder_that_may_not_be_written_is_no_defect(monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    monkeypatch.chdir("/sys")  # where not even the superuser may
    error = told(["init", "garden", "--language", "it"], code=1)
    assert re.match(r"vernaclip: /sys cannot be written \(.+\): ", error)


@pytest.fixture
def quoted(here: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe with a space in its name, in a folder whose name has an apostrophe; the current folder is above it."""
    monkeypatch.chdir(here)
    path = Path("anna's recipes") / "my photos.toml"
    path.parent.mkdir()
    path.write_text(f'name = "photos"\n{RECIPE}', "utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (["train", "RECIPE FILE", "--executor", "local"], ["build", "RECIPE FILE"]),
        (["evaluate", "RECIPE FILE", "--executor", "local"], ["train", "RECIPE FILE"]),
        (["export", "photos", "--format", "huggingface"], ["build", "RECIPE"]),
    ],
)
def test_a_command_in_an_error_can_be_typed_as_it_stands(
    typed: list[str], wanted: list[str], quoted: str, told: Any
) -> None:
    Path("the root").mkdir()
    error = told([*(word.replace("RECIPE FILE", quoted) for word in typed), "--root", "the root"], code=1)
    [hint] = re.findall(r"`(vernaclip [^`]*)`", error)
    words = [word.replace("RECIPE FILE", quoted) for word in wanted]
    assert shlex.split(hint) == ["vernaclip", *words, "--root", "the root"]


def test_what_to_try_next_can_be_typed_and_a_deployment_builds_the_same_dataset(quoted: str) -> None:
    request = Request(recipe=quoted, root=Path("the root"), overrides=('name="other"', "evaluate.split=val"))
    settings = ["--set", 'name="other"', "--set", "evaluate.split=val"]
    for topic, ending in (("train", settings), ("evaluate", settings), ("verify", []), ("sql", [])):
        words = shlex.split(NEXT[topic](request))
        assert words[:2] == ["vernaclip", topic]
        assert words[words.index("--root") :] == ["--root", "the root", *ending]
        assert (quoted in words) == bool(ending)
    words = shlex.split(NEXT["up"](request).partition(": ")[2])
    assert words[:4] == ["prefect", "deployment", "run", "build-dataset"]
    given = dict(word.split("=", 1) for word in words[5::2])
    assert (given["recipe"], given["root"]) == (quoted, "the root")
    assert json.loads(given["settings"]) == {"name": "other", "evaluate": {"split": "val"}}


def test_a_terminal_that_cannot_show_an_answer_says_so(built: Any) -> None:
    command = [sys.executable, "-m", "flows.cli", "sql", "SELECT 'Ένα' AS x", "--root", str(built[0])]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "set PYTHONIOENCODING=utf-8" in done.stderr


MANY_ROWS = ["sql", "SELECT range AS number, repeat('x', 50) AS text FROM range(20000)", "--max-rows", "9000"]


def test_a_reader_that_closes_the_pipe_ends_a_command_quietly(tmp_path: Path, child: Any) -> None:
    rebuild(tmp_path)
    with child([*MANY_ROWS, "--format", "csv", "--root", str(tmp_path)]) as process:
        assert "number" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, child: Any) -> None:
    rebuild(tmp_path)
    closed = {"stdout": None, "preexec_fn": partial(os.close, 1)}
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        for words, where, text in (
            (["recipes"], closed, "standard output is closed"),
            (["recipes"], {"stdout": full}, "standard output cannot be written (No space left on device)"),
            ([*MANY_ROWS, "--format=csv", "--root", str(tmp_path)], {"stdout": full}, "(No space left on device)"),
            (["sql", "SELECT 1", "--format=csv", "--root", str(tmp_path)], {"stdout": full}, "standard output cannot"),
        ):
            with child(words, **where) as process:
                lines = process.stderr.read().splitlines()
            assert (process.returncode, len(lines)) == (1, 1), lines
            assert text in lines[0]
            assert "disk" not in lines[0]
