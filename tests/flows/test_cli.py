"""The command line as a user meets it: help, answers, one-sentence errors, exit codes."""

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from cyclopts import App, CycloptsError

from data_catalog.errors import BusyError, DefectError, InputError, TransientError
from data_catalog.progress import Progress
from flows.cli import main
from flows.cli.app import app, parse
from flows.jobs import BuildReport

Built = tuple[Path, BuildReport]


def commands(parent: App = app, *words: str) -> Iterator[tuple[str, App]]:
    """All commands that do something, by the words that call them."""
    for name in parent:
        command = parent[name]
        if not name.startswith("-") and command.default_command is not None:
            yield " ".join([*words, name]), command
        elif not name.startswith("-"):
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


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_says_what_it_is_for(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*name.split(), "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: vernaclip {name}")
    assert text.split("\n\n")[1].endswith((".", "any"))
    assert "--quiet -q" in text
    options = COMMANDS[name].assemble_argument_collection(parse_docstring=True)
    shown = [option for option in options if option.show]
    assert [option.name for option in shown if not option.parameter.help] == []
    assert set(re.findall(r"--(?:no|empty)-[\w-]+", text)) <= {"--no-split"}
    with pytest.raises(CycloptsError):
        parse([*name.split(), "--no-quiet"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "vernaclip: A command is missing. See `vernaclip --help`"),
        (["fly"], 'vernaclip: Unknown command "fly". See `vernaclip --help`'),
        (["biuld", "scenes"], 'Did you mean "build"?'),
        (["mt", "trian"], 'vernaclip mt: Unknown command "trian". Did you mean "train"?'),
        (["build"], "vernaclip build: RECIPE is missing. See `vernaclip build --help`"),
        (["build", "scenes", "--executor", "magic"], '"magic" for --executor. Choose from: "prefect", "local", "dask"'),
        (["build", "scenes", "--exekutor", "local"], "Unknown option: --exekutor. Did you mean --executor?"),
        (["build", "scenes", "--set"], "--set needs a value"),
        (["build", "scenes", "--rows", "1.5"], "for --rows: '1.5' is not a whole number"),
        (["export", "scenes"], "--format is missing"),
        (["mt", "evaluate", "a.tsv", "--from", "en", "--to", "it", "--system"], "--system needs a value"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == version("vernaclip")


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        (["recipes"], "INFO"),
        (["-q", "recipes"], "WARNING"),
        (["recipes", "--quiet"], "WARNING"),
        (["recipes", "-v"], "DEBUG"),
        (["--debug", "recipes"], "DEBUG"),
    ],
)
def test_every_command_can_say_less_and_more(
    arguments: list[str], level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    assert "italian" in capsys.readouterr().out
    assert logging.getLevelName(logging.getLogger("flows").level) == level


def test_the_environment_names_the_root_and_the_last_option_holds(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["catalog", "--root", "elsewhere", f"--root={built[0]}"]) == 0
    assert built[1].snapshot.snapshot in capsys.readouterr().out
    monkeypatch.setenv("VERNACLIP_ROOT", str(built[0]))
    assert main(["catalog", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["snapshot"] == built[1].snapshot.snapshot
    assert main(["catalog", "--root", "elsewhere"]) == 1
    assert capsys.readouterr().err.startswith("vernaclip: elsewhere holds no dataset")


@pytest.mark.parametrize("arguments", [["catalog"], ["report", "photos"], ["search", "a"], ["prune"]])
def test_an_error_on_the_default_root_says_that_none_was_given(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    none_given = f"(neither --root nor VERNACLIP_ROOT is set, so the root is catalog in {tmp_path})"
    assert main(arguments) == 1
    assert none_given in capsys.readouterr().err
    assert main([*arguments, "--root", "catalog"]) == 1
    assert main(["build", "klingon"]) == 1, "an error that is not about the root"
    assert "neither --root nor" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "klingon", "--executor", "local"],
        ["build", "missing.toml", "--executor", "local"],
        ["train", "scenes", "--executor", "local"],
        ["scoreboard", "--language", "it"],
        ["catalog", "--rebuild"],
        ["export", "photos", "--format", "urls"],
        ["forget", "--url", "https://example.org/a.jpg"],
        ["mt", "memory", "import", "none.parquet"],
        ["verify", "--dataset", "photos"],
        ["sql", "SELECT 1"],
    ],
)
def test_a_start_that_fails_leaves_no_folders(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Path("missing.toml")
    recipe.write_text('target_language = "en"\n[sources.mscoco]\nfiles = ["none.json"]\n', encoding="utf-8")
    assert main([*arguments, "--root", "new/root"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [tmp_path / recipe]


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
    error: Exception, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Path) -> list[str]:
        raise error

    monkeypatch.setattr("data_catalog.storage.manifest.dataset_names", fail)
    for flags in ([], ["--debug"]):
        assert main([*flags, "snapshots", "--root", str(tmp_path)]) == code
        lines = capsys.readouterr().err.splitlines()
        assert any(line.startswith("Traceback") for line in lines) == (code == 70 or bool(flags))
        told = [number for number, line in enumerate(lines) if line.startswith("vernaclip: ") and str(error) in line]
        assert told == [len(lines) - (2 if code == 70 else 1)]
        assert ("`vernaclip doctor`" in lines[-1]) == (code == 70)


@pytest.mark.parametrize("arguments", [["build", "scenes", "--executor", "local"], ["train", "scenes"]])
def test_several_processes_only_train(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As torchrun starts them, which tells them by their environment."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*arguments, "--root", str(tmp_path)]) == 1
    assert "several processes can only train, and without Prefect" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "is_drawn"), [(["recipes"], True), (["recipes", "-q"], False)])
def test_quiet_commands_draw_no_bars(words: list[str], is_drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    assert main(words) == 0
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("verify", total=2, unit="files") as progress:
        progress.advance(2)
    assert ("verify" in terminal.getvalue()) is is_drawn
