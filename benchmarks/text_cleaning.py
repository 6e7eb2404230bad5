"""Speed of text cleaning compared with ftfy: python benchmarks/text_cleaning.py [--quick] [--data FOLDER].

English captions are the ASCII ones of Conceptual Captions, Flickr8k and Multi30k (3 : 2 : 5), French ones those of
Multi30k, all from the publishers' files. ftfy is `ftfy.fix_text` with its defaults. Rounds are interleaved; CPU time is
measured. `fix_encoding` is also compared with ftfy's output at the same settings, for every caption and for captions
garbled through code pages.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ftfy
from data_folder import cc3m_captions, flickr8k_captions, mscoco_it, multi30k, options_with_data, require_files
from harness import Goals, judge, medians, print_table, race

from cleaning.checks import CleanConfig
from cleaning.checks.mending import clean_text, encoding_rewrite, ftfy_settings

NEEDED = (
    *("cc3m/*.tsv", "flickr8k/Flickr8k.token*.txt"),
    *(f"mscoco_it/captions_ita_devset_{kind}.json.gz" for kind in ("validated", "unvalidated")),
    *(f"multi30k/train.{language}.gz" for language in ("en", "fr", "de")),
)
# Rounds, captions of each set.
SIZES = {"quick": (5, 20_000), "full": (15, 20_000)}
GOALS: Goals = {
    **{f"text-{name}-to-ftfy": (">=", 20.0) for name in ("ascii-fix-encoding", "ascii-clean-text")},
    **{f"text-{name}-to-ftfy": (">=", 1.8) for name in ("french-fix-encoding", "french-clean-text")},
    "text-differences-from-ftfy": ("<=", 0),
}
CODE_PAGES = ("latin-1", "cp1252", "cp1250", "cp1251", "cp437", "iso8859-2", "mac-roman")


def caption_sets(size: int, data: Path) -> dict[str, list[str]]:
    """Return at most `size` captions of each language."""
    english = [*cc3m_captions(data), *flickr8k_captions(data)]
    english += multi30k(data, "en")[: len(english)]
    sets = {"ascii": [text for text in english if text.isascii()], "french": multi30k(data, "fr")}
    return {name: random.Random(name).sample(texts, min(size, len(texts))) for name, texts in sets.items()}


def mojibake(texts: Sequence[str], at_most: int) -> list[str]:
    """Return captions with accents, garbled once and twice through each code page, as far as it has the bytes."""
    accented = [text for text in texts if not text.isascii()]
    chosen = random.Random(1).sample(accented, min(at_most, len(accented)))
    garbled = []
    for page in CODE_PAGES:
        once = [text.encode().decode(page, "replace") for text in chosen]
        garbled += once + [text.encode().decode(page, "replace") for text in once[: at_most // 4]]
    return garbled


def count_differences(texts: Sequence[str]) -> int:
    """Return the number of texts that `encoding_rewrite` changes differently from ftfy with the same settings."""
    settings, rewrite = ftfy_settings(), encoding_rewrite()
    return sum(rewrite(text) != ftfy.fix_text(text, settings) for text in texts)


def measure(options: argparse.Namespace) -> tuple[dict[str, float], Goals]:
    """Time, compare, print the table; return the claims' values and goals."""
    require_files(options.data, NEEDED)
    rounds, size = SIZES["quick" if options.quick else "full"]
    sets, rewrite = caption_sets(size, options.data), encoding_rewrite()
    ways: dict[str, Callable[[Sequence[str]], object]] = {
        "plain-ftfy": lambda texts: [ftfy.fix_text(text) for text in texts],
        "fix-encoding": lambda texts: list(map(rewrite, texts)),
        "clean-text": clean_text(CleanConfig()),
    }
    works = {(label, name): lambda do=ways[name], texts=sets[label]: do(texts) for label in sets for name in ways}
    found = medians(race(works, rounds, clock=time.process_time, warm_up=True))
    rows, values = [], {}
    for (label, name), seconds in found.items():
        times = found[label, "plain-ftfy"] / seconds
        micros = 1e6 * seconds / len(sets[label])
        rows.append({"captions": label, "number": len(sets[label]), "": name, "us a caption": f"{micros:.3f}"})
        rows[-1] |= {"times ftfy": f"{times:.1f}"}
        if name != "plain-ftfy":
            values[f"text-{label}-{name}-to-ftfy"] = times
    print_table(rows, f"medians of CPU time over {rounds} interleaved rounds")
    known = {*cc3m_captions(options.data), *flickr8k_captions(options.data)}
    known.update(*(mscoco_it(options.data, kind) for kind in ("validated", "unvalidated")))
    captions = sorted(known.union(*(multi30k(options.data, language) for language in ("en", "fr", "de"))))
    if options.quick:
        captions = random.Random(2).sample(captions, 20_000)
    garbled = mojibake(captions, 500 if options.quick else 2_000)
    different = values["text-differences-from-ftfy"] = count_differences(captions) + count_differences(garbled)
    print(f"fix_encoding and ftfy differ in {different} of {len(captions):,} captions, {len(garbled):,} garbled ones")
    return values, GOALS


if __name__ == "__main__":
    sys.exit(judge(*measure(options_with_data(__doc__).parse_args())))
