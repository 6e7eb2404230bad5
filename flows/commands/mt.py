"""Commands around translation: translate, mt train, mt install, scenes-pairs."""

import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from flows.commands.output import say


def translate(options: Namespace) -> None:
    """Translate standard input line by line."""
    from translation.argos import TranslateConfig, open_translator

    with tempfile.TemporaryDirectory() as cache:
        config = TranslateConfig(package=options.package)
        translator = open_translator(config, options.from_code, options.to_code, cache_dir=Path(cache))
        lines = [line.rstrip("\n") for line in sys.stdin]
        for translation in translator.translate(lines):
            score = f"{translation.score:.4f}\t" if options.scores else ""
            say(f"{score}{translation.text}")


def scenes_pairs(options: Namespace) -> None:
    """Write parallel captions of the sample's grammar."""
    from data_catalog.sources.scenes.grammar import write_pairs

    write_pairs(options.out, seed=options.seed, num_pairs=options.num_pairs)
    say(f"wrote {options.num_pairs:,} pairs to {options.out}")
