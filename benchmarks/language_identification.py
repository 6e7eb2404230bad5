"""Engines that tell languages beside each other: python benchmarks/language_identification.py [--data FOLDER].

Accuracy on whole captions and on two to five words in a row out of them, told their language and told a wrong one; what
the decision to drop costs and catches; speed; memory. Each contestant lives in a process of its own and has its turn
in every round; what counts is CPU time of all its threads. Italian captions are MSCOCO-IT's, English, German and French
ones Multi30k's; Spanish, Portuguese and Catalan ones were written for this: the cascade's weights were chosen without
them, the thresholds of dropping with them among the foreign ones.
"""

import argparse
import functools
import random
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from data_folder import mscoco_it, multi30k, options_with_data
from harness import HERE, Goals, in_turn, judge, peak_mb, tell

from cleaning.languages.engines import (
    COMMON_LANGUAGES,
    fast_probabilities,
    langdetect_probabilities,
    lingua_probabilities,
)
from cleaning.languages.identification import LanguageVerdict, caption_language, language_identifier
from flows.recipe.language_packs import load_language_pack

OWN = HERE / "data" / "iberian_captions.tsv"
# The seventeen of the notes, or nearly so: what a user would choose for Italian.
SEVENTEEN = frozenset({*COMMON_LANGUAGES, "ca", "el", "ro"} - {"ko"})
# Captions a set, captions timed, rounds.
SIZES = {"quick": (120, 280, 5), "full": (600, 700, 5)}
NATIVE = {"quick": 300, "full": 2000}
LANGDETECT = {"min_probability": 0.1, "min_other_probability": 0.99, "min_letters": 20}
# Where no pack ships: what one would name.
CONFUSIONS = {
    "es": ["pt", "ca", "gl", "it", "fr"],
    "pt": ["es", "gl", "ca", "it", "fr"],
    "fr": ["it", "es", "ca", "oc", "ro"],
}
Captions = dict[str, tuple[str, list[str]]]  # by name: language and captions
LIMITS = {"speed-to-langdetect": (">=", 20.0), "short-least-gain-over-lingua": (">=", 0.0)}
LIMITS |= {f"short-italian-mscoco-it-{kind}-over-lingua": (">=", 0.0) for kind in ("validated", "unvalidated")}
LIMITS |= {f"{kind}-natives-dropped-less-langdetect": ("<=", 0.0) for kind in ("whole", "short")}
LIMITS |= {f"{kind}-foreign-caught-less-langdetect": (">=", 0.0) for kind in ("whole", "short")}
GOALS: Goals = {f"language-{name}": limit for name, limit in LIMITS.items()}
Told = Callable[[Sequence[str], str], list[str | None]]


def load_captions(num_captions: int, data: Path) -> Captions:
    """Sets of different captions in a seeded order; those whose files are absent are missing, and it says so."""
    found = {f"it, MSCOCO-IT {kind}": ("it", mscoco_it(data, kind)) for kind in ("validated", "unvalidated")}
    found |= {f"{language}, Multi30k": (language, multi30k(data, language)) for language in ("en", "de", "fr")}
    found = {name: captions for name, captions in found.items() if captions[1]}
    for line in OWN.read_text(encoding="utf-8").splitlines()[1:]:
        language, caption = line.split("\t")
        found.setdefault(f"{language}, our own", (language, []))[1].append(caption)
    if len(found) < 8:
        print(f"only {', '.join(found)}: the other captions are absent ({data})")
    return {name: (language, drawn(texts, num_captions)) for name, (language, texts) in found.items()}


def drawn(texts: Iterable[str], num_texts: int) -> list[str]:
    different = sorted({" ".join(text.split()) for text in texts})
    random.Random(1).shuffle(different)
    return different[:num_texts]


def cut(texts: Iterable[str]) -> list[str]:
    """Two to five words in a row of each text, anywhere in it."""
    numbers = random.Random(2)
    found = []
    for words in map(str.split, texts):
        num_words = min(len(words), numbers.randint(2, 5))
        start = numbers.randint(0, len(words) - num_words)
        found.append(" ".join(words[start : start + num_words]))
    return found


@functools.cache
def confusions(language: str) -> Collection[str]:
    """What the language's pack names, or would."""
    return CONFUSIONS.get(language) or load_language_pack(language).confusions


def by_engine(engine: str) -> Told:
    @functools.cache
    def identifier(expected: str) -> Callable[[Sequence[str]], list[LanguageVerdict]]:
        return language_identifier(expected, candidates=confusions(expected), engine=engine)

    return lambda texts, expected: [verdict.language for verdict in identifier(expected)(texts)]


def likeliest(probabilities: Mapping[str, float]) -> str | None:
    return max(probabilities, key=lambda code: probabilities[code], default=None)


CONTESTANTS: dict[str, Told] = {
    "langdetect": by_engine("langdetect"),
    "fast, all 176": lambda texts, _: [likeliest(fast_probabilities(text)) for text in texts],
    "fast, restricted": by_engine("fast"),
    "lingua, 17": lambda texts, _: [likeliest(found) for found in lingua_probabilities(texts, SEVENTEEN)],
    "lingua, restricted": by_engine("lingua"),
    "cascade": by_engine("cascade"),
}


def answer(name: str, texts: Sequence[str], expected: str) -> tuple[list[str | None], float, float]:
    """In a contestant's process: what it makes of texts that should be in `expected`, CPU seconds, MB now."""
    langdetect_probabilities.cache_clear()
    started = time.process_time()
    languages = CONTESTANTS[name](texts, expected)
    return languages, time.process_time() - started, peak_mb("VmRSS")


class Ring:
    """The contestants' processes."""

    def __init__(self) -> None:
        self.pools = {name: ProcessPoolExecutor(1, mp_context=get_context("spawn")) for name in CONTESTANTS}

    def ask(self, name: str, texts: list[str], expected: str) -> tuple[list[str | None], float, float]:
        """See `answer`."""
        return self.pools[name].submit(answer, name, texts, expected).result()


def accuracy(ring: Ring, sets: Captions, expected: str | None, title: str) -> dict[str, dict[str, float]]:
    """Print the table of captions whose language is told, in per cent, by set and contestant.

    Args:
        expected: what each is told that it should be; None for its own language.
    """
    found: dict[str, dict[str, float]] = {}
    for name, (language, texts) in sets.items():
        told = {contestant: ring.ask(contestant, texts, expected or language)[0] for contestant in CONTESTANTS}
        found[name] = {key: 100 * languages.count(language) / len(texts) for key, languages in told.items()}
    tell([{"per cent": name, **{key: f"{v:.1f}" for key, v in found[name].items()}} for name in found], title)
    return found


def compare_speed(ring: Ring, sets: Captions, num_texts: int, rounds: int) -> float:
    """Print whole captions a CPU second, each told its own language; returns cascade over langdetect."""
    by_language: dict[str, list[str]] = {}
    for language, texts in sets.values():
        by_language.setdefault(language, []).extend(texts)
    whole = {language: drawn(texts, num_texts // len(by_language)) for language, texts in by_language.items()}

    def ask(name: str) -> tuple[float, float]:
        answers = [ring.ask(name, texts, language) for language, texts in whole.items()]
        return sum(seconds for _, seconds, _ in answers), answers[-1][2]

    works = {name: functools.partial(ask, name) for name in CONTESTANTS}
    in_turn(works, 1)  # loads models
    runs = in_turn(works, rounds)
    taken = {name: statistics.median(seconds for seconds, _ in found) for name, found in runs.items()}
    num_timed = sum(map(len, whole.values()))
    rows = [
        {"engine": name, "MB": round(runs[name][-1][1]), "texts a CPU second": round(num_timed / seconds)}
        | {"x langdetect": f"{taken['langdetect'] / seconds:.1f}"}
        for name, seconds in taken.items()
    ]
    tell(rows, f"{num_timed} captions in {len(whole)} languages, medians of {rounds} rounds; memory")
    return taken["langdetect"] / taken["cascade"]


def compare_drops(sets: Captions, natives: Captions) -> dict[str, list[float]]:
    """Print whom each policy drops: native captions lost, whole and short, and per cent of foreign ones caught.

    Returns, by policy, the four columns: sums of those lost, means of the shares caught.
    """
    policies = {"langdetect": {"engine": "langdetect", **LANGDETECT}, "cascade": {"engine": "cascade"}}
    found: dict[str, list[list[float]]] = {name: [] for name in policies}
    rows = []
    for expected in sorted({language for language, _ in sets.values()}):
        own = [text for language, texts in natives.values() if language == expected for text in texts]
        others = [text for language, texts in sets.values() if language != expected for text in texts]
        rows.append({"expected": expected, "native": len(own), "foreign": len(others)})
        for name, options in policies.items():
            check = caption_language(expected, confusions=confusions(expected), **options)  # type: ignore[arg-type]
            num_dropped = [sum(drop is not None for drop in check(t)) for t in (own, cut(own), others, cut(others))]
            found[name].append([*num_dropped[:2], *(100 * number / len(others) for number in num_dropped[2:])])
            rows[-1][name] = " ".join(f"{value:.4g}" for value in found[name][-1])
    tell(rows, "Native captions dropped, whole and short; per cent of foreign ones caught, likewise")
    columns = {name: list(zip(*lines, strict=True)) for name, lines in found.items()}
    return {name: [*map(sum, parts[:2]), *map(statistics.mean, parts[2:])] for name, parts in columns.items()}


def measure(options: argparse.Namespace) -> tuple[dict[str, float], Goals]:
    """Print the tables; the claims' values and goals."""
    size = "quick" if options.quick else "full"
    num_captions, num_timed, rounds = SIZES[size]
    sets = load_captions(num_captions, options.data)
    short = {name: (language, cut(texts)) for name, (language, texts) in sets.items()}
    ring = Ring()
    values = {"speed-to-langdetect": compare_speed(ring, sets, num_timed, rounds)}
    accuracy(ring, sets, None, "Right on whole captions, each told its own language")
    found = accuracy(ring, short, None, "Right on two to five words, each told its own language")
    accuracy(ring, short, "it", "The same, all told that they should be Italian")
    for pool in ring.pools.values():
        pool.shutdown()
    drops = compare_drops(sets, load_captions(NATIVE[size], options.data))
    gains = {name: told["cascade"] - told["lingua, 17"] for name, told in found.items()}
    for name, gain in gains.items():
        if name.startswith("it"):
            values[f"short-italian-{name.split(', ')[1].lower().replace(' ', '-')}-over-lingua"] = gain
    values["short-least-gain-over-lingua"] = min(gains.values())
    for at, kind in enumerate(("whole", "short")):
        values[f"{kind}-natives-dropped-less-langdetect"] = drops["cascade"][at] - drops["langdetect"][at]
        values[f"{kind}-foreign-caught-less-langdetect"] = drops["cascade"][at + 2] - drops["langdetect"][at + 2]
    return {f"language-{name}": value for name, value in values.items()}, GOALS


if __name__ == "__main__":
    sys.exit(judge(*measure(options_with_data(__doc__).parse_args())))
