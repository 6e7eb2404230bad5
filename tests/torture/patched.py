"""The command line with constants set to other numbers: patched.py [MODULE.NAME=NUMBER ...] -- ARGUMENTS."""

import importlib
import sys

from flows.cli import main


def patch(text: str) -> None:
    """Set one constant, which must be there."""
    place, _, number = text.partition("=")
    module_name, _, name = place.rpartition(".")
    module = importlib.import_module(module_name)
    if not isinstance(getattr(module, name), int):
        raise TypeError(f"{place} is no number")
    setattr(module, name, int(number))


if __name__ == "__main__":
    end = sys.argv.index("--")
    for argument in sys.argv[1:end]:
        patch(argument)
    sys.exit(main(sys.argv[end + 1 :]))
