"""Text cleaning beside plain ftfy on real captions: python benchmarks/text_cleaning.py [--quick] [--data FOLDER].

English captions are the ASCII ones of Conceptual Captions, Flickr8k and Multi30k (3 : 2 : 5), French ones those of
Multi30k, all as their publishers have them. Plain ftfy is `ftfy.fix_text` as it comes. Rounds are interleaved; what
counts is CPU time. That `fix_encoding` gives what ftfy gives with the same settings is compared for every caption that
there is, and for captions garbled through code pages.
"""

import argparse
import gzip
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ftfy
from data_folder import absent, add_data_option, cc3m_captions, flickr8k_captions

from cleaning.checks import CleanConfig
from cleaning.text.mending import clean_text
from cleaning.text.mojibake import encoding_rewrite, ftfy_settings

NEEDED = (
    "cc3m/*.tsv",
    "flickr8k/Flickr8k.token*.txt",
    "mscoco_it/captions_ita_devset_validated.json.gz",
    "mscoco_it/captions_ita_devset_unvalidated.json.gz",
    "multi30k/train.en.gz",
    "multi30k/train.fr.gz",
    "multi30k/train.de.gz",
)
# Rounds, captions a set.
SIZES = {"quick": (5, 20_000), "full": (15, 20_000)}
GOALS = {"ascii": 20.0, "french": 1.8}
CODE_PAGES = ("latin-1", "cp1252", "cp1250", "cp1251", "cp437", "iso8859-2", "mac-roman")

Claim = tuple[str, float, str, bool]


def lines(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def caption_sets(size: int, data: Path) -> dict[str, list[str]]:
    """As many captions of each language as asked for."""
    english = [*cc3m_captions(data), *flickr8k_captions(data)]
    english += lines(data / "multi30k" / "train.en.gz")[: len(english)]
    french = lines(data / "multi30k" / "train.fr.gz")
    sets = {"ascii": [text for text in english if text.isascii()], "french": french}
    return {name: random.Random(name).sample(texts, min(size, len(texts))) for name, texts in sets.items()}


def all_captions(data: Path) -> list[str]:
    """Every caption of the samples, in four languages, once."""
    found = [*cc3m_captions(data), *flickr8k_captions(data)]
    for name in ("validated", "unvalidated"):
        path = data / "mscoco_it" / f"captions_ita_devset_{name}.json.gz"
        found += [row["caption"] for row in json.loads(gzip.decompress(path.read_bytes()))["annotations"]]
    for lang in ("en", "fr", "de"):
        found += lines(data / "multi30k" / f"train.{lang}.gz")
    return sorted(set(found))


def mojibake(texts: Sequence[str], at_most: int) -> list[str]:
    """Captions with accents, garbled through each code page as far as that has the bytes, once and twice."""
    accented = [text for text in texts if not text.isascii()]
    chosen = random.Random(1).sample(accented, min(at_most, len(accented)))
    garbled = []
    for page in CODE_PAGES:
        once = [text.encode().decode(page, "replace") for text in chosen]
        garbled += once + [text.encode().decode(page, "replace") for text in once[: at_most // 4]]
    return garbled


def count_differences(texts: Sequence[str]) -> int:
    """Texts that `encoding_rewrite` gives back otherwise than ftfy does with the same settings."""
    settings, rewrite = ftfy_settings(), encoding_rewrite()
    return sum(rewrite(text) != ftfy.fix_text(text, settings) for text in texts)


def contestants() -> dict[str, Callable[[Sequence[str]], object]]:
    rewrite = encoding_rewrite()
    return {
        "plain ftfy": lambda texts: [ftfy.fix_text(text) for text in texts],
        "fix_encoding": lambda texts: list(map(rewrite, texts)),
        "clean_text": clean_text(CleanConfig()),
    }


def race(sets: dict[str, list[str]], rounds: int) -> dict[tuple[str, str], float]:
    """Microseconds of CPU a caption, medians over interleaved rounds, by (set, contestant)."""
    times: dict[tuple[str, str], list[float]] = {}
    work = contestants()
    for turn in range(rounds + 1):
        for label, texts in sets.items():
            for name, run in work.items():
                started = time.process_time()
                run(texts)
                if turn:  # the first one warms up
                    times.setdefault((label, name), []).append(1e6 * (time.process_time() - started) / len(texts))
    return {key: statistics.median(found) for key, found in times.items()}


def claims(quick: bool, data: Path) -> list[Claim]:
    """Race, compare, print the table; (name, value, goal, whether it is met) a claim. `data` has all of `NEEDED`."""
    rounds, size = SIZES["quick" if quick else "full"]
    sets = caption_sets(size, data)
    found = race(sets, rounds)
    print(f"{rounds} rounds interleaved, medians of CPU time")
    print(f"{'captions':<10} {'number':>7} {'':<14} {'us a caption':>12} {'a second':>10} {'x plain ftfy':>13}")
    judged: list[Claim] = []
    for (label, name), micros in found.items():
        ratio = found[label, "plain ftfy"] / micros
        print(f"{label:<10} {len(sets[label]):>7} {name:<14} {micros:>12.3f} {1e6 / micros:>10,.0f} {ratio:>13.1f}")
        if name != "plain ftfy":
            goal = GOALS[label]
            judged.append((f"text-{label}-{name.replace('_', '-')}-to-ftfy", ratio, f">={goal:g}", ratio >= goal))
    captions = all_captions(data)
    if quick:
        captions = random.Random(2).sample(captions, 20_000)
    garbled = mojibake(captions, 500 if quick else 2_000)
    differences = count_differences(captions) + count_differences(garbled)
    print(
        f"fix_encoding and ftfy differ in {differences} of {len(captions):,} captions and {len(garbled):,} garbled ones"
    )
    return [*judged, ("text-differences-from-ftfy", differences, "<=0", differences == 0)]


def main() -> int:
    """Print the table and the claims; 1 if one is short, 2 where the real captions are absent."""
    parser = argparse.ArgumentParser(description="Text cleaning beside plain ftfy.")
    parser.add_argument("--quick", action="store_true", help="fewer captions and rounds")
    add_data_option(parser)
    options = parser.parse_args()
    if missing := absent(options.data, NEEDED):
        print(f"this benchmark reads real captions, and {options.data} lacks {', '.join(missing)}")
        return 2
    judged = claims(options.quick, options.data)
    for name, value, goal, met in judged:
        print(f"claim {name} {value:.2f} goal {goal} {'ok' if met else 'short'}")
    return int(not all(met for *_, met in judged))


if __name__ == "__main__":
    sys.exit(main())
