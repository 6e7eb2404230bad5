"""The doctor, on an environment with all that may be wrong, and on languages that lack one thing each."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.findings import Finding
from flows.language_doctor import examine, find_language
from flows.orchestration.doctor import diagnose
from flows.orchestration.prefect_env import Api, write_env_block
from flows.recipe.language_packs import available_language_packs


def test_this_environment_is_sound(tmp_path: Path) -> None:
    assert [finding.text for finding in diagnose(tmp_path, tmp_path / "c") if finding.severity == "broken"] == []


def test_whatever_is_wrong_is_named_with_its_remedy_and_the_backport_removed(tmp_path: Path, unused_port: int) -> None:
    """A backport, another owner of our names, a wrong version, and a folder that hides all Argos packages.

    The process takes the folder for one of pip's. A server is gone, of which `.env` tells, and another is named.
    """
    packages = tmp_path / "site-packages"
    for name, number in (("old-trainer", "1.0"), ("prefect", "99.0")):
        information = packages / f"{name.replace('-', '_')}-{number}.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n", "utf-8")
    (packages / "old_trainer-1.0.dist-info" / "top_level.txt").write_text("training\n", "utf-8")
    (tmp_path / "argos" / "unpacked_by_hand").mkdir(parents=True)
    # What img2dataset drags in has this name; the standard library's own file stands in for its content.
    shutil.copy(str(dataclasses.__file__), packages / "dataclasses.py")
    write_env_block(tmp_path, Api(url=f"http://127.0.0.1:{unused_port}/api"))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH")])),
        "ARGOS_PACKAGES_DIR": str(tmp_path / "argos"),
        "PREFECT_API_URL": "http://127.0.0.1:1/api",
    }
    command = [sys.executable, "-m", "flows.cli", "doctor", "--fix"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 1, ran.stderr
    for said in (
        "broken: old-trainer also installs a package called `training`",
        "warning: prefect is 99.0, but vernaclip needs",
        "unpacked_by_hand is not an Argos package",
        f":{unused_port}/api, named in .env, does not answer: restart it with `vernaclip up`",
        "overrides the server that `vernaclip up` started",
    ):
        assert said in ran.stdout
    assert "backport" not in ran.stdout
    assert not (packages / "dataclasses.py").exists()


def test_an_env_file_that_is_not_utf8_is_named_and_the_doctor_goes_on(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"NAME=\xe9t\xe9\n")
    (said,) = [each for each in diagnose(tmp_path, tmp_path) if each.topic == "Prefect"]
    assert (said.severity, "save it as UTF-8" in said.text) == ("broken", True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    texts = [finding.text for finding in diagnose(tmp_path, tmp_path / "catalog")]
    assert f"{tmp_path} is not writable: choose another --root" in texts


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Argos Translate's own folder on a machine with no package."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("ARGOS_PACKAGES_DIR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    folder = tmp_path / "data" / "argos-translate"
    folder.mkdir(parents=True)
    return folder


def findings(name: str) -> dict[str, Finding]:
    return {finding.topic: finding for finding in examine(find_language(name))}


def lacks(name: str) -> set[str]:
    return {topic for topic, finding in findings(name).items() if finding.severity != "found"}


def install(data: Path, pair: tuple[str, str]) -> None:
    folder = data / "packages" / "-".join(pair)
    (folder / "model").mkdir(parents=True)
    metadata = {"from_code": pair[0], "to_code": pair[1], "package_version": "1.2", "argos_version": "1.9"}
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    (folder / "model" / "model.bin").write_bytes((6).to_bytes(4, "little"))
    (folder / "model" / "config.json").write_text("{}", encoding="utf-8")
    (folder / "sentencepiece.model").write_bytes(b"x")


def test_what_packs_that_ship_lack() -> None:
    on_no_machine = {"translation", "zero-shot"}
    assert {code: lacks(code) - {"letters"} for code in available_language_packs()} == {
        "ca": on_no_machine | {"mirrored images", "test sets"},
        "de": on_no_machine | {"proper nouns"},
        "el": on_no_machine | {"mirrored images"},
        "en": {"zero-shot"},
        "it": on_no_machine,
    }
    for finding in (each for name in ("el", "sw", "xx") for each in findings(name).values()):
        assert bool(finding.cost) is (finding.severity != "found"), "what is missing has a cost"
        assert finding.severity != "found" or not finding.advice


def test_a_language_without_a_pack_is_told_how_to_write_one_which_is_then_examined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], told: Any
) -> None:
    assert main(["doctor", "--language", "sw"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("sw\n\nMISSING  language pack ")
    words = " ".join(out.split())
    for part in ('language_pack = "sw.toml"', "fastText and lingua can identify sw", "set function_words in sw.toml"):
        assert part in words
    assert "`vernaclip doctor --language sw.toml`" in out, "commands are not broken over lines"
    assert main(["doctor", "--language", "sw", "--quiet"]) == 1
    assert capsys.readouterr().out.startswith("MISSING  language pack "), "only what stops a build"
    assert told(["doctor", "--language", "el", "--quiet"]) == ""
    file = tmp_path / "sw.toml"
    file.write_text('code = "sw"\nname = "Swahili"\nfunction_words = ["na", "ya", "wa"]\n', encoding="utf-8")
    out = told(["doctor", "--language", str(file)])
    assert out.startswith("Swahili (sw)\n")
    assert "MISSING" not in out
    assert "3 function words" in out
    assert "set tens in sw.toml" in out


def test_a_language_that_no_engine_tells_is_told_the_codes_that_one_has() -> None:
    check = findings("xx")["language check"]
    assert check.severity == "warning"
    assert check.advice.startswith("set langdetect in xx.toml ")
    assert ", zh-cn, zh-tw" in check.advice


def test_an_installed_package_is_found_by_the_code_of_the_pack_and_the_stored_index_decides_the_advice(
    data: Path, tmp_path: Path
) -> None:
    assert "if `vernaclip mt packages --to el` lists it; else" in findings("el")["translation"].advice
    more = {"package_version": "1.9", "argos_version": "1.9", "links": ["https://a.org/x"]}
    index = [{"from_code": source, "to_code": target, **more} for source, target in (("en", "el"), ("sw", "en"))]
    (data / "index.json").write_text(json.dumps(index), encoding="utf-8")
    assert findings("el")["translation"].advice == "`vernaclip mt install --from en --to el`"
    assert findings("sw")["translation"].advice.startswith("train one, `vernaclip mt train")
    (data / "index.json").write_bytes(b"\xff\x00")
    assert "index.json is not an index of packages" in findings("el")["translation"].text
    for pair in (("el", "en"), ("en", "zt")):
        install(data, pair)
    assert findings("el")["translation"].severity == "warning"
    install(data, ("en", "el"))
    assert findings("el")["translation"] == Finding("found", "the package en-el 1.2 is installed", topic="translation")
    file = tmp_path / "zh.toml"
    file.write_text('code = "zh"\nargos = "zt"\nlangdetect = "zh-tw"\n', encoding="utf-8")
    found = findings(str(file))
    assert found["translation"].severity == "found"
    assert "identify zh-tw" in found["language check"].text


def test_letters_that_no_typeface_has_are_named(tmp_path: Path) -> None:
    file = tmp_path / "xx.toml"
    file.write_text('code = "xx"\nfunction_words = ["\U00016f00\U00016f01"]\n', encoding="utf-8")  # Miao
    letters = findings(str(file))["letters"]
    assert (letters.severity, "\U00016f00" in letters.text) == ("warning", True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ελ"], "code must be lower-case ASCII letters"),
        (["../it"], "takes an ISO 639 code such as el"),
        ([""], "takes an ISO 639 code such as el"),
        (["ell"], "Greek has the code el here: use --language el"),
        (["absent.toml"], "cannot read the language pack absent.toml"),
        (["el", "--fix"], "leave out --fix or --language"),
    ],
)
def test_wrong_use_is_one_sentence(arguments: list[str], message: str, told: Any) -> None:
    error = told(["doctor", "--language", *arguments], code=1)
    assert message in error
    assert len(error.splitlines()) == 1
