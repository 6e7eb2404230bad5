"""How the Apertium engine runs programs and finds them, over small programs that misbehave as Apertium's might."""

import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.errors import InputError
from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines.apertium import (
    ApertiumTranslator,
    Pipeline,
    from_stream,
    is_stateful,
    open_engine,
    to_stream,
)

EN, CA = LanguagePack(code="en", iso639_3="eng"), LanguagePack(code="ca", iso639_3="cat")
ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
CONFIG = TranslateConfig(engine="apertium")


def texts(engine: ApertiumTranslator, captions: list[str]) -> list[str]:
    return [translation.text for translation in engine.translate(captions)]


def program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def installed(folder: Path, **modes: str) -> None:
    """An installation that has these modes; the name of a mode has "_" for "-"."""
    program(folder / "bin" / "apertium", "echo Apertium 1.0")
    program(folder / "bin" / "apertium-wblank-mode", 'cat "$2"')
    (folder / "share" / "apertium" / "modes").mkdir(parents=True)
    for name, script in modes.items():
        path = folder / "share" / "apertium" / "modes" / f"{name.replace('_', '-')}.mode"
        path.write_text(script, encoding="utf-8")


def engine_of(script: str, *, timeout_s: float = 60.0, path: Path | None = None) -> ApertiumTranslator:
    environment = ENVIRONMENT | ({"PATH": f"{path}{os.pathsep}{ENVIRONMENT['PATH']}"} if path else {})
    pipeline = Pipeline(script=script, environment=environment, timeout_s=timeout_s)
    return ApertiumTranslator(pipeline, "0" * 64, from_code="en", to_code="ca", num_workers=2)


@given(st.text(), st.integers(min_value=0, max_value=10_000))
def test_any_text_survives_the_stream_format(text: str, number: int) -> None:
    record = to_stream(text, number)
    assert from_stream(record, number) == text
    assert not re.search(r"(?<!\\)[\^$/@<>{}]", record.replace("\\\\", ""))
    with pytest.raises(InputError, match="mixed up"):
        from_stream(record, number + 1)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "cat | bash -c 'cat >/dev/null; echo first >&2; echo no dictionary >&2; exit 3' | cat",
            "code 3: no dictionary$",
        ),
        ("cat | bash -c 'kill -SEGV $BASHPID' | cat", "code 139"),
        (r"tr -d '\000'", "0 texts for 3"),
        (r"sed 's/\x00/\x00\x00/'", r"\d+ texts for 3"),
        (r"sed -z 's/\[1\]/[2]/'", "mixed up its texts: text 2"),
        (r"sed -z 's/\[1\]//'", "mixed up its texts: text 2"),
        ("cat | apertium-tagger -g $2 x.prob | cat", "code 4: broken model$"),
    ],
)
def test_programs_that_fail(script: str, message: str, tmp_path: Path) -> None:
    program(tmp_path / "apertium-tagger", "read -r -d '' text; echo broken model >&2; exit 4")
    with pytest.raises(InputError, match=message):
        engine_of(script, path=tmp_path).translate(["a", "b", "c"])


@pytest.mark.parametrize("stage", ["bash -c '{hang}'", "apertium-tagger -g $2 x.prob"])
def test_programs_that_hang_are_killed(stage: str, tmp_path: Path) -> None:
    alive = tmp_path / "alive"  # has a writer while any of the programs runs
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    hang = f"exec 9>{alive}; echo thinking >&9; echo still thinking >&2; sleep 1000; true"
    program(tmp_path / "apertium-tagger", hang)
    with pytest.raises(InputError, match="1 s: still thinking"):
        engine_of(f"cat | {stage.format(hang=hang)} | cat", timeout_s=1.0, path=tmp_path).translate(["a"])
    os.set_blocking(reader, True)
    assert os.read(reader, 100) == b"thinking\n"
    assert os.read(reader, 100) == b""
    os.close(reader)


TAGGER = """
state=clean
while IFS= read -r -d '' text; do
  case $text in *new*) echo '{complaint}' >&2; state=spoilt;; esac
  printf '%s %s\\0' "$state" "$text"
done
"""


@pytest.mark.parametrize("complaint", ["A new ambiguity class was found", ""])
def test_a_tagger_is_replaced_once_it_has_complained(complaint: str, tmp_path: Path) -> None:
    program(tmp_path / "apertium-tagger", TAGGER.replace("{complaint}", complaint))
    engine = engine_of("cat | apertium-tagger -z -g $2 'x.prob' | cat", path=tmp_path)
    captions = ["old", "new", "older", "newer", "newest", "oldest"]
    assert texts(engine, captions) == [f"{'spoilt' if 'new' in caption else 'clean'} {caption}" for caption in captions]


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("apertium-tagger -g $2 'x y.prob'", True),
        ("/opt/bin/apertium-tagger --tagger x.prob", True),
        ("apertium-tagger -gx 'x.prob'", False),
        ("apertium-tagger -z -x -g x.prob", False),
        ("apertium-tagger --perceptron -g x.prob", False),
        ("lt-proc -g 'apertium-tagger.bin'", False),
    ],
)
def test_which_tagger_keeps_a_state(stage: str, expected: bool) -> None:
    assert is_stateful(stage) is expected


def test_opening_without_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="apertium-eng-cat"):
        open_engine(CONFIG, EN, CA, tmp_path)


@pytest.mark.parametrize(
    ("source", "mode"),
    [
        (EN, "eng-cat"),  # both are there: the long codes win
        (LanguagePack(code="es", iso639_3="spa"), "es-ca"),
        (LanguagePack(code="oc"), "oc-ca"),
    ],
)
def test_which_mode_is_taken(source: LanguagePack, mode: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    installed(tmp_path, **{name: f"sed -z s/^/{name}=/" for name in ("eng_cat", "en_ca", "es_ca", "oc_ca")})
    target = LanguagePack(code="ca") if source.code == "oc" else CA
    assert texts(open_engine(CONFIG, source, target, tmp_path), ["x"]) == [f"{mode.replace('-', '_')}=x"]
    with pytest.raises(InputError, match=r"set iso639_3.* --language-pack de\.toml"):
        open_engine(CONFIG, LanguagePack(code="de"), target, tmp_path)
    with pytest.raises(InputError, match="no mode cat-eng"):
        open_engine(CONFIG, CA, EN, tmp_path)


def test_fingerprint_follows_data_options_and_programs_not_the_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = os.environ["PATH"]

    def fingerprint(place: str, data: str = "data", options: str = "", script: str = "exec cat") -> str:
        folder = tmp_path / place
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "x.bin").write_text(data, encoding="utf-8")
        installed(folder, eng_cat=f"lt-proc{options} '{folder}/data/x.bin' | cat")
        program(folder / "bin" / "lt-proc", script)
        monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{path}")
        return open_engine(CONFIG, EN, CA, tmp_path).fingerprint

    first = fingerprint("first")
    assert fingerprint("second") == first
    others = [fingerprint("a", data="other"), fingerprint("b", options=" -x"), fingerprint("c", script="exec tr a b")]
    assert len({first, *others}) == 4


def test_a_damaged_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed(tmp_path, eng_cat="cat '/no/such.bin'")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(InputError, match=r"such\.bin"):
        open_engine(CONFIG, EN, CA, tmp_path)
    program(tmp_path / "bin" / "apertium-wblank-mode", "echo \"cat | cg-none 'x' | lrx-none | cat\"")
    with pytest.raises(InputError, match="cg-none, lrx-none"):
        open_engine(CONFIG, EN, CA, tmp_path)
    program(tmp_path / "bin" / "apertium-wblank-mode", "exit 1")
    with pytest.raises(InputError, match="apertium-wblank-mode"):
        open_engine(CONFIG, EN, CA, tmp_path)
