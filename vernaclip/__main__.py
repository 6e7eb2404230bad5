"""Run the command line, as `vernaclip` or `python -m vernaclip`, with our packages first on the import path."""

import os
import sys
from pathlib import Path

_HOME = Path(__file__).resolve().parents[1]
_PACKAGES = ("cleaning", "data_catalog", "flows", "training", "translation")


def main() -> int:
    """Run one command and return its exit code."""
    prefer_own_packages()
    from flows.cli import main as command

    return command()


def prefer_own_packages() -> None:
    """Move folders that hide our packages, such as a user's own folder `training`, to the end of the import path.

    They are removed from `PYTHONPATH`, which child processes would search first.
    """
    folders = [os.path.realpath(entry) for entry in sys.path]
    if str(_HOME) not in folders:
        sys.path.append(str(_HOME))
        folders.append(str(_HOME))
    own = folders.index(str(_HOME))
    others = {folder for folder in folders[:own] if _hides_our_packages(folder)}
    sys.path.sort(key=lambda entry: os.path.realpath(entry) in others)
    given = os.environ.get("PYTHONPATH", "")
    kept = [entry for entry in given.split(os.pathsep) if os.path.realpath(entry) not in others]
    if given and others:
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)


def _hides_our_packages(folder: str) -> bool:
    return any(Path(folder, name).is_dir() or Path(folder, f"{name}.py").is_file() for name in _PACKAGES)


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # remove the current folder, which the command `vernaclip` does not search either
    sys.exit(main())
