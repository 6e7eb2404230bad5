"""The doctor, on environments that are broken in one way each: a folder of packages put in front of the real ones."""

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.doctor import diagnose, port_is_busy, require_sound_environment
from flows.orchestration.prefect_env import Api, write_env_block

Run = Callable[..., str]


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder that a process takes for one of pip's."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    return folder


@pytest.fixture
def run(packages: Path) -> Run:
    """`run(code)`: what Python prints, with `packages` first on its path."""

    def printed(code: str, **environment: str) -> str:
        variables = {**os.environ, "PYTHONPATH": str(packages), **environment}
        command = [sys.executable, "-c", textwrap.dedent(code)]
        return subprocess.run(
            command, env=variables, capture_output=True, text=True, check=True, cwd=packages.parent
        ).stdout

    return printed


def test_this_environment_is_sound(tmp_path: Path) -> None:
    require_sound_environment()
    assert [finding.text for finding in diagnose(tmp_path, tmp_path / "c") if finding.severity == "broken"] == []


def test_the_backport_is_refused_and_removed(packages: Path, run: Run) -> None:
    # What img2dataset drags in has this name; the standard library's own file stands in for its content.
    shutil.copy(str(dataclasses.__file__), packages / "dataclasses.py")
    printed = run("""
        from pathlib import Path
        from data_catalog.errors import InputError
        from flows.doctor import diagnose, mend, require_sound_environment
        try:
            require_sound_environment()
        except InputError as error:
            print("refused:", error)
        findings = [finding for finding in diagnose(Path("."), Path("catalog")) if "backport" in finding.text]
        print(len(findings), mend(findings))
        require_sound_environment()
        print("sound")
        """)
    assert printed.splitlines()[0].startswith("refused: the package `dataclasses`")
    assert "run `vernaclip doctor --fix`" in printed
    assert printed.splitlines()[1:] == ["1 []", "sound"]
    assert not (packages / "dataclasses.py").exists()


def test_whatever_is_wrong_with_packages_is_named(packages: Path, run: Run) -> None:
    """Another owner of our names, a wrong version, and a folder that hides all Argos packages."""
    for name, number in (("old-trainer", "1.0"), ("prefect", "99.0")):
        information = packages / f"{name.replace('-', '_')}-{number}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n", "utf-8")
    (packages / "old_trainer-1.0.dist-info" / "top_level.txt").write_text("training\n", "utf-8")
    (packages.parent / "argos" / "unpacked_by_hand").mkdir(parents=True)
    code = """
        from pathlib import Path
        from flows.doctor import diagnose
        for finding in diagnose(Path("."), Path("catalog")):
            print(finding.severity, finding.text)
        """
    printed = run(code, ARGOS_PACKAGES_DIR=str(packages.parent / "argos"))
    assert "broken old-trainer also installs a package called `training`" in printed
    assert "warning prefect is 99.0, but vernaclip needs" in printed
    assert "unpacked_by_hand is not an Argos package" in printed


def test_a_server_that_is_gone_and_a_busy_port_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert port_is_busy(port)
    assert not port_is_busy(port)
    url = f"http://127.0.0.1:{port}/api"
    write_env_block(tmp_path, Api(url=url))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    texts = [finding.text for finding in diagnose(tmp_path, tmp_path)]
    assert any(f"{url}, named in .env, does not answer" in text for text in texts)
    assert any("overrides the server that `vernaclip up` started" in text for text in texts)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    texts = [finding.text for finding in diagnose(tmp_path, tmp_path / "catalog")]
    assert f"{tmp_path} is not writable: choose another --root" in texts
