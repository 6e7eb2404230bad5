"""Cleaning and language identification beside what a user would do otherwise: benchmarks/cleaning.py [--data FOLDER].

The two parts run by themselves, too: `text_cleaning.py` and `language_identification.py`, which say what they compare.
Real captions are those of the upstream samples, where these are present.
"""

import argparse
import importlib.machinery
import importlib.util
import sys
from pathlib import Path


def step_aside() -> None:
    """Put the package `cleaning` in the place of this script, which hides it from scripts that lie beside it."""
    here = str(Path(__file__).resolve().parent)
    spec = importlib.machinery.PathFinder.find_spec("cleaning", [place for place in sys.path if place != here])
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["cleaning"] = package
    spec.loader.exec_module(package)


def main() -> int:
    """Both parts' tables, then a line a claim; 1 if a claim is short, 2 where the real captions are absent."""
    import language_identification
    import text_cleaning
    from data_folder import absent, add_data_option

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer captions and rounds")
    add_data_option(parser)
    options = parser.parse_args()
    if missing := absent(options.data, text_cleaning.NEEDED):
        print(f"this benchmark reads real captions, and {options.data} lacks {', '.join(missing)}")
        return 2
    size = options.quick, options.data
    claims = [*text_cleaning.claims(*size), *language_identification.claims(*size)]
    print()
    for name, value, goal, is_reached in claims:
        print(f"claim cleaning-{name} {value:.4g} goal {goal} {'ok' if is_reached else 'short'}")
    return int(not all(is_reached for *_, is_reached in claims))


step_aside()
if __name__ == "__main__":
    sys.exit(main())
