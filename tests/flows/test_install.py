"""Installing by make, on machines that have a mirror or lack something; and the wheel, outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from hatchling.build import build_wheel

from data_catalog.catalog.manifest import require_snapshot

CHECKOUT = Path(__file__).resolve().parents[2]

PACKAGES = Path(sysconfig.get_path("purelib"))

Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make(target, python, code, **environment)`: what make says on a machine without uv, and without pip's settings.

    Its `.venv` has pip, and nothing else.
    """
    for name in ("Makefile", "install.py", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, tmp_path)
    venv.create(tmp_path / ".venv", symlinks=True)
    next(tmp_path.glob(".venv/lib/python*/site-packages")).joinpath("pip").symlink_to(PACKAGES / "pip")
    (tmp_path / ".venv/bin/pip").touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "MAKE"))}
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if not Path(folder, "uv").exists()]
    alone = {**kept, "PATH": os.pathsep.join(folders), "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}

    def said(target: str, python: str = sys.executable, code: int = 2, **environment: str) -> str:
        command = [str(shutil.which("make")), "--silent", target, f"PYTHON={python}"]
        ran = subprocess.run(
            command, cwd=tmp_path, env={**alone, **environment}, capture_output=True, text=True, check=False
        )
        assert ran.returncode == code, ran.stderr
        return ran.stdout + "".join(line for line in ran.stderr.splitlines(True) if not line.startswith("make"))

    return said


@pytest.fixture
def uv(tmp_path: Path) -> Path:
    """A folder for the path, with a `uv` that writes its arguments and the variable for PyTorch's build to a file."""
    program = tmp_path / "bin/uv"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$* torch=$UV_TORCH_BACKEND" > "{tmp_path}/installed"\n', "utf-8")
    program.chmod(0o755)
    return program.parent


def test_uv_is_given_the_mirror_that_pip_is_configured_with(make: Make, uv: Path, tmp_path: Path) -> None:
    path = f"{uv}{os.pathsep}{os.environ['PATH']}"
    settings = "[global]\nindex-url = https://old.example\nconstraint = /c.txt\n[install]\nfind-links =\n  /a\n  /b\n"
    (tmp_path / "pip.conf").write_text(settings, "utf-8")
    mirror = {
        "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
        "PIP_INDEX_URL": "https://new.example",
        "PIP_NO_INDEX": "1",
    }
    make(".venv/.base", code=0, PATH=path, PYTHONDONTWRITEBYTECODE="1", **mirror)
    begin = "pip install --python .venv/bin/python"
    given = "--constraint /c.txt --index-url https://new.example --find-links /a --find-links /b --no-index"
    assert (tmp_path / "installed").read_text(
        "utf-8"
    ) == f"{begin} {given} --compile-bytecode --quiet --editable . torch=\n"
    make("setup", code=0, PATH=path, PYTHONDONTWRITEBYTECODE="")
    assert (tmp_path / "installed").read_text("utf-8") == f"{begin} --quiet --editable .[dev] torch=auto\n"


def test_a_machine_that_lacks_something_is_told_so_in_a_sentence(make: Make, unused_port: int, tmp_path: Path) -> None:
    dead = {"PIP_INDEX_URL": f"http://user:secret@127.0.0.1:{unused_port}/simple"}
    assert make("demo", **dead) == (
        f"vernaclip cannot be installed, as http://127.0.0.1:{unused_port} does not answer ([Errno 111] Connection "
        "refused): connect this machine, or name a mirror: PIP_INDEX_URL=https://... make demo\n"
    )
    assert make("demo", python="python3.0") == (
        "there is no python3.0: install Python 3.11 or newer, or name one: make PYTHON=python3.13\n"
    )
    customised = tmp_path / "sitecustomize.py"
    customised.write_text("import sys\nsys.version_info = (3, 9, 2)\n", "utf-8")
    assert make("demo", PYTHONPATH=str(tmp_path)) == (
        "vernaclip needs Python 3.11 or newer, and this is 3.9.2: try make PYTHON=python3.13\n"
    )
    customised.write_text("import sys\nsys.modules['ensurepip'] = None\n", "utf-8")
    shutil.rmtree(tmp_path / ".venv")
    said = make("demo", PYTHONPATH=str(tmp_path))
    assert "cannot create virtual environments: on Debian and Ubuntu, apt install python3." in said
    assert said.count("\n") == 1


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, outside the checkout, and with what this one has of other distributions.

    Prefect itself puts their folder first on the path of its servers: `dataclasses`, the backport that img2dataset
    requires, is there to be imported by mistake.
    """
    environment = tmp_path_factory.mktemp("elsewhere") / "env"
    venv.create(environment, symlinks=True)
    packages = next(environment.glob("lib/python*/site-packages"))
    ours = {"dataclasses.py", "__pycache__", *(path.name for path in PACKAGES.glob("*vernaclip*"))}
    for path in PACKAGES.iterdir():
        if path.name not in ours and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    (packages / "dataclasses.py").write_text("raise ImportError('the backport for Python 3.6 is imported')\n", "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(CHECKOUT)
        wheel = build_wheel(str(environment))
    command = [environment / "bin/python", "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*command, "--quiet", environment / wheel], check=True)
    return environment


@pytest.mark.slower
def test_the_wheel_runs_the_sample_with_the_default_executor(
    elsewhere: Path, tmp_path: Path, unused_port: int, small_model: str
) -> None:
    (tmp_path / "small.json").write_text(small_model, "utf-8")
    settings = [
        "scenes.num_images=240",
        f'scenes.base_url="http://127.0.0.1:{unused_port}"',
        f"serve.port={unused_port}",
        "build.shard_size=120",
        "split.test=0.2",
        "normalise.image_size=32",
        'train.model="small.json"',
        "train.epochs=1",
        "evaluate.bootstrap_rounds=20",
    ]
    command = [elsewhere / "bin/vernaclip", "run", "scenes", "--root", "c", "--quiet"]
    command += [word for setting in settings for word in ("--set", setting)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHON"))}
    environment = {**kept, "PREFECT_HOME": str(tmp_path / "home")}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert require_snapshot(tmp_path / "c", "scenes").num_pairs > 200
    (scores,) = (tmp_path / "c/models/scenes").glob("*/scores-test.json")
    assert json.loads(scores.read_text("utf-8"))
