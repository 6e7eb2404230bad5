"""Captions a second, beside stock Argos Translate with one caption a call: python benchmarks/translation_speed.py [--quick].

Stock is measured as a user has it, and with `ARGOS_INTRA_THREADS=1`, which alone makes it faster on small batches; its
sentence splitter, which would be downloaded, is replaced by one that costs nothing. The model is the sample's package.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_catalog.sources.scenes.grammar import parallel_pairs
from translation.argos import TranslateConfig, open_translator

PACKAGE = Path(__file__).resolve().parents[1] / "flows" / "packages" / "scenes-en_it.argosmodel"
GOAL_RATIO = 5.0
GOAL_RATIO_ONE_THREAD = 5.0
Translate = Callable[[Sequence[str]], list[str]]


class OneSentence:
    """Takes the place of Argos Translate's sentence splitter."""

    def split_sentences(self, text: str) -> list[str]:
        """The whole text."""
        return [text]


def stock(package: Any, intra_threads: int) -> Translate:
    """Argos Translate's own translation object over an installed package."""
    from argostranslate import settings, translate

    english, italian = translate.Language("en", "English"), translate.Language("it", "Italian")
    translation = translate.PackageTranslation(english, italian, package)
    translation.sentencizer = OneSentence()
    settings.intra_threads = intra_threads
    translation.translate("a red star")  # loads the model with these settings
    cached = translate.CachedTranslation(translation)
    return lambda captions: [cached.translate(caption) for caption in captions]


def contestants(folder: Path) -> dict[str, Translate]:
    """Every way of translating, ready and warm."""
    os.environ |= {"HOME": str(folder), "ARGOS_PACKAGES_DIR": str(folder / "packages")}
    from argostranslate import package

    package.install_from_path(PACKAGE)
    (installed,) = package.get_installed_packages()
    ours = open_translator(TranslateConfig(package=str(PACKAGE)), "en", "it", cache_dir=folder / "cache")
    ours.translate(["a red star"])
    return {
        "vernaclip": lambda captions: [found.text for found in ours.translate(captions)],
        "argostranslate": stock(installed, 0),
        "argostranslate, 1 thread": stock(installed, 1),
    }


def main() -> int:
    """Interleave the contestants over fresh captions, print medians, judge the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer captions")
    quick = parser.parse_args().quick
    rounds, num_ours, num_stock = (5, 2_000, 100) if quick else (9, 10_000, 400)
    captions = sorted({source for source, _ in parallel_pairs(seed=77, num_pairs=num_ours)})
    rates: dict[str, list[float]] = {}
    texts: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ways = contestants(Path(folder))
        for _ in range(rounds):
            for name, translate in ways.items():
                mine = captions if name == "vernaclip" else captions[:: len(captions) // num_stock]
                started = time.perf_counter()
                found = translate(mine)
                rates.setdefault(name, []).append(len(mine) / (time.perf_counter() - started))
                texts[name] = found[:: len(captions) // num_stock] if name == "vernaclip" else found
    medians = {name: statistics.median(found) for name, found in rates.items()}
    print(f"{'':<26} {'captions/s':>10} {'lowest':>8} {'highest':>8}   ({rounds} rounds, interleaved)")
    for name, found in rates.items():
        print(f"{name:<26} {medians[name]:>10.0f} {min(found):>8.0f} {max(found):>8.0f}")
    equal = statistics.mean(ours == theirs for ours, theirs in zip(*list(texts.values())[:2], strict=True))
    claims = [
        ("translation-speed-ratio", medians["vernaclip"] / medians["argostranslate"], GOAL_RATIO),
        (
            "translation-speed-ratio-one-thread",
            medians["vernaclip"] / medians["argostranslate, 1 thread"],
            GOAL_RATIO_ONE_THREAD,
        ),
        ("translation-equal-share", equal, 0.99),
    ]
    for name, value, goal in claims:
        print(f"claim {name} {value:.2f} goal >={goal} {'ok' if value >= goal else 'short'}")
    return int(any(value < goal for _, value, goal in claims))


if __name__ == "__main__":
    sys.exit(main())
