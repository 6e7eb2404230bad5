"""Install vernaclip into .venv: `python3 install.py .`, or `'.[dev]'`; `make` runs it.

uv installs: this machine's, or one that is put into .venv first; pip does where uv cannot be had. uv does not read
pip's configuration, so it is given what it says. Needs nothing but the standard library.
"""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - `python3` of the machine may be any
    found = ".".join(map(str, sys.version_info[:3]))
    sys.exit(f"vernaclip needs Python 3.11 or newer, and this is {found}: try make PYTHON=python3.13")

VENV = Path(".venv")
PYTHON = str(VENV / "bin" / "python")
INDEXES = ("index-url", "extra-index-url", "find-links")
UV_INDEXES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")


def install(requirement: str) -> int:
    """Create .venv unless it is there, install into it, and return the installer's exit code."""
    if not (VENV / "bin" / "pip").exists():
        make_venv()
    configured = pip_configuration()
    uv = shutil.which("uv") or shutil.which(str(VENV / "bin" / "uv")) or fetch_uv(configured)
    if uv:
        command = [uv, "pip", "install", "--python", PYTHON, *uv_options(configured)]
        if os.environ.get("PYTHONDONTWRITEBYTECODE"):  # else each process would compile all that it imports
            command.append("--compile-bytecode")
    else:
        command = [PYTHON, "-m", "pip", "install", "--no-compile"]
    quiet = () if sys.stderr.isatty() else ("--quiet",)
    code = subprocess.run([*command, *quiet, "--editable", requirement], check=False).returncode
    if code:
        require_indexes(configured)
    return code


def make_venv() -> None:
    """Create .venv, or say which Debian package brings what is missing for that."""
    if importlib.util.find_spec("ensurepip") is None:
        package = f"python3.{sys.version_info.minor}-venv"
        sys.exit(f"{sys.executable} cannot create virtual environments: on Debian and Ubuntu, apt install {package}")
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)


def pip_configuration() -> dict[str, list[str]]:
    """Return the values of pip's options, from its files and from variables `PIP_*`."""
    listed = subprocess.run([PYTHON, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True).stdout
    found: dict[str, list[str]] = {}
    for section in ("global.", "install.", ":env:."):  # later ones win
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(section):
                found[name.removeprefix(section)] = ast.literal_eval(value).split()
    return found


def uv_options(configured: dict[str, list[str]]) -> list[str]:
    """Return pip's configuration as options of uv, for machines behind a mirror.

    Without a mirror, uv takes PyTorch for this machine's GPU, or the one for CPUs: PyPI's is 2.5 GB of CUDA.
    """
    if configured.get("cert"):
        os.environ.setdefault("SSL_CERT_FILE", configured["cert"][0])
    own_indexes = any(name in os.environ for name in UV_INDEXES)
    if not own_indexes and not any(configured.get(name) for name in INDEXES):
        os.environ.setdefault("UV_TORCH_BACKEND", "auto")
    for name, variables in (("proxy", ("HTTPS_PROXY", "HTTP_PROXY")), ("timeout", ("UV_HTTP_TIMEOUT",))):
        for value in configured.get(name) or configured.get(f"default-{name}", []):
            for variable in variables:
                os.environ.setdefault(variable, value.partition(".")[0] if name == "timeout" else value)
    handed = ["constraint", "trusted-host", *(() if own_indexes else INDEXES)]
    options = [word for name in handed for value in configured.get(name, ()) for word in (f"--{name}", value)]
    options += ["--no-index"] if has_no_index(configured) else []
    # pip takes the newest version of all indexes, uv that of the first index which has any.
    return [*options, "--index-strategy", "unsafe-best-match"] if "--extra-index-url" in options else options


def has_no_index(configured: dict[str, list[str]]) -> bool:
    """Return whether pip is told to take packages from folders alone."""
    return configured.get("no-index", ["0"])[0].lower() in ("1", "true", "yes", "on")


def fetch_uv(configured: dict[str, list[str]]) -> str | None:
    """Install uv into .venv with pip; return its path, or None where no index has it for this machine."""
    command = [PYTHON, "-m", "pip", "install", "--quiet", "--no-compile", "uv"]
    if subprocess.run(command, check=False, capture_output=True).returncode == 0:
        return str(VENV / "bin" / "uv")
    require_indexes(configured)
    sys.stderr.write("uv cannot be installed here: pip installs, which takes ten times the processor time\n")
    return None


def require_indexes(configured: dict[str, list[str]]) -> None:
    """End with a sentence if a package index does not answer."""
    if has_no_index(configured):
        return
    indexes = [os.environ[name] for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL") if name in os.environ]
    indexes = indexes or [url for name in INDEXES[:2] for url in configured.get(name, ())] or ["https://pypi.org"]
    if os.environ.get("UV_TORCH_BACKEND"):
        indexes.append("https://download.pytorch.org")
    for index in indexes:
        place = urllib.parse.urlsplit(index)
        host = f"{place.scheme}://{place.netloc.rpartition('@')[2]}"  # without a password
        try:
            urllib.request.urlopen(host, timeout=20).close()  # noqa: S310 - the index that the user has named
        except urllib.error.HTTPError:
            continue  # it answers
        except OSError as error:
            reason = getattr(error, "reason", error)
            advice = "connect this machine, or name a mirror: PIP_INDEX_URL=https://... make demo"
            sys.exit(f"vernaclip cannot be installed, as {host} does not answer ({reason}): {advice}")


if __name__ == "__main__":
    sys.exit(install(sys.argv[1]))
