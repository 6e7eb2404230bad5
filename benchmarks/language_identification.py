"""Comparison of language identifiers: python benchmarks/language_identification.py [--data FOLDER].

Measured are the accuracy on whole captions and on two to five consecutive words of them, with the right and with a
wrong expected language; losses and recall of the decision to drop; speed; and memory. Each contestant has its own
process and one turn in every round; CPU time of all its threads is measured. Italian captions are MSCOCO-IT's, English,
German and French ones Multi30k's. Spanish, Portuguese and Catalan ones were written for this benchmark. The cascade's
weights were chosen without them; the thresholds of dropping were chosen with them among the foreign captions.
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
from harness import HERE, Goals, in_turn, judge, peak_mb, print_table

from cleaning.languages.engines import (
    COMMON_LANGUAGES,
    fast_probabilities,
    langdetect_probabilities,
    lingua_probabilities,
)
from cleaning.languages.identification import LanguageVerdict, caption_language, language_identifier
from flows.recipe.language_packs import load_language_pack

OWN = HERE / "data" / "iberian_captions.tsv"
# Seventeen languages that a user would choose for Italian.
SEVENTEEN = frozenset({*COMMON_LANGUAGES, "ca", "el", "ro"} - {"ko"})
# Captions of each set, captions timed, rounds.
SIZES = {"quick": (120, 280, 5), "full": (600, 700, 5)}
NATIVE = {"quick": 300, "full": 2000}
LANGDETECT = {"min_probability": 0.1, "min_other_probability": 0.99, "min_letters": 20}
# Confusions of languages without a pack.
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
Identify = Callable[[Sequence[str], str], list[str | None]]


def load_captions(num_captions: int, data: Path) -> Captions:
    """Return sets of distinct captions in a seeded order; sets without files are left out with a message."""
    found = {f"it, MSCOCO-IT {kind}": ("it", mscoco_it(data, kind)) for kind in ("validated", "unvalidated")}
    found |= {f"{language}, Multi30k": (language, multi30k(data, language)) for language in ("en", "de", "fr")}
    found = {name: captions for name, captions in found.items() if captions[1]}
    for line in OWN.read_text(encoding="utf-8").splitlines()[1:]:
        language, caption = line.split("\t")
        found.setdefault(f"{language}, our own", (language, []))[1].append(caption)
    if len(found) < 8:
        print(f"only {', '.join(found)}: {data} does not contain the other captions")
    return {name: (language, drawn(texts, num_captions)) for name, (language, texts) in found.items()}


def drawn(texts: Iterable[str], num_texts: int) -> list[str]:
    different = sorted({" ".join(text.split()) for text in texts})
    random.Random(1).shuffle(different)
    return different[:num_texts]


def cut(texts: Iterable[str]) -> list[str]:
    """Return two to five consecutive words of each text, at a random position."""
    numbers = random.Random(2)
    found = []
    for words in map(str.split, texts):
        num_words = min(len(words), numbers.randint(2, 5))
        start = numbers.randint(0, len(words) - num_words)
        found.append(" ".join(words[start : start + num_words]))
    return found


@functools.cache
def confusions(language: str) -> Collection[str]:
    """Return the languages that the language's pack names as confusions."""
    return CONFUSIONS.get(language) or load_language_pack(language).confusions


def by_engine(engine: str) -> Identify:
    @functools.cache
    def identifier(expected: str) -> Callable[[Sequence[str]], list[LanguageVerdict]]:
        return language_identifier(expected, candidates=confusions(expected), engine=engine)

    return lambda texts, expected: [verdict.language for verdict in identifier(expected)(texts)]


def likeliest(probabilities: Mapping[str, float]) -> str | None:
    return max(probabilities, key=lambda code: probabilities[code], default=None)


CONTESTANTS: dict[str, Identify] = {
    "langdetect": by_engine("langdetect"),
    "fast, all 176": lambda texts, _: [likeliest(fast_probabilities(text)) for text in texts],
    "fast, restricted": by_engine("fast"),
    "lingua, 17": lambda texts, _: [likeliest(found) for found in lingua_probabilities(texts, SEVENTEEN)],
    "lingua, restricted": by_engine("lingua"),
    "cascade": by_engine("cascade"),
}


def answer(name: str, texts: Sequence[str], expected: str) -> tuple[list[str | None], float, float]:
    """Return a contestant's languages of texts that should be in `expected`, CPU seconds, and present MB.

    It is called in the contestant's process.
    """
    langdetect_probabilities.cache_clear()
    started = time.process_time()
    languages = CONTESTANTS[name](texts, expected)
    return languages, time.process_time() - started, peak_mb("VmRSS")


class Ring:
    """The contestants' processes."""

    def __init__(self) -> None:
        self.pools = {name: ProcessPoolExecutor(1, mp_context=get_context("spawn")) for name in CONTESTANTS}

    def ask(self, name: str, texts: list[str], expected: str) -> tuple[list[str | None], float, float]:
        """Call `answer` in the contestant's process."""
        return self.pools[name].submit(answer, name, texts, expected).result()


def accuracy(ring: Ring, sets: Captions, expected: str | None, title: str) -> dict[str, dict[str, float]]:
    """Print the table of captions with the right language, in per cent, by set and contestant.

    Args:
        ring: the contestants' processes.
        sets: the captions.
        expected: expected language for all captions; None for each caption's own language.
        title: title of the table.
    """
    found: dict[str, dict[str, float]] = {}
    for name, (language, texts) in sets.items():
        answers = {contestant: ring.ask(contestant, texts, expected or language)[0] for contestant in CONTESTANTS}
        found[name] = {key: 100 * languages.count(language) / len(texts) for key, languages in answers.items()}
    print_table([{"per cent": name, **{key: f"{v:.1f}" for key, v in found[name].items()}} for name in found], title)
    return found


def compare_speed(ring: Ring, sets: Captions, num_texts: int, rounds: int) -> float:
    """Print whole captions a CPU second, with the right expected language; return cascade over langdetect."""
    by_language: dict[str, list[str]] = {}
    for language, texts in sets.values():
        by_language.setdefault(language, []).extend(texts)
    whole = {language: drawn(texts, num_texts // len(by_language)) for language, texts in by_language.items()}

    def ask(name: str) -> tuple[float, float]:
        answers = [ring.ask(name, texts, language) for language, texts in whole.items()]
        return sum(seconds for _, seconds, _ in answers), answers[-1][2]

    works = {name: functools.partial(ask, name) for name in CONTESTANTS}
    in_turn(works, 1)  # loads the models
    runs = in_turn(works, rounds)
    taken = {name: statistics.median(seconds for seconds, _ in found) for name, found in runs.items()}
    num_timed = sum(map(len, whole.values()))
    rows = [
        {"engine": name, "MB": round(runs[name][-1][1]), "texts a CPU second": round(num_timed / seconds)}
        | {"x langdetect": f"{taken['langdetect'] / seconds:.1f}"}
        for name, seconds in taken.items()
    ]
    print_table(rows, f"{num_timed} captions in {len(whole)} languages, medians of {rounds} rounds; memory")
    return taken["langdetect"] / taken["cascade"]


def compare_drops(sets: Captions, natives: Captions) -> dict[str, list[float]]:
    """Print the drops of each policy: native captions lost, whole and short, and per cent of foreign ones caught.

    Returns:
        The four columns by policy: sums of the lost captions, means of the shares caught.
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
    print_table(rows, "Native captions dropped, whole and short; per cent of foreign captions caught, whole and short")
    columns = {name: list(zip(*lines, strict=True)) for name, lines in found.items()}
    return {name: [*map(sum, parts[:2]), *map(statistics.mean, parts[2:])] for name, parts in columns.items()}


def measure(options: argparse.Namespace) -> tuple[dict[str, float], Goals]:
    """Print the tables; return the claims' values and goals."""
    size = "quick" if options.quick else "full"
    num_captions, num_timed, rounds = SIZES[size]
    sets = load_captions(num_captions, options.data)
    short = {name: (language, cut(texts)) for name, (language, texts) in sets.items()}
    ring = Ring()
    values = {"speed-to-langdetect": compare_speed(ring, sets, num_timed, rounds)}
    accuracy(ring, sets, None, "Right on whole captions, expected language right")
    found = accuracy(ring, short, None, "Right on two to five words, expected language right")
    accuracy(ring, short, "it", "Right on two to five words, expected language always Italian")
    for pool in ring.pools.values():
        pool.shutdown()
    drops = compare_drops(sets, load_captions(NATIVE[size], options.data))
    gains = {name: shares["cascade"] - shares["lingua, 17"] for name, shares in found.items()}
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
