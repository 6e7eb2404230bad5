"""Engines that tell languages beside each other: python benchmarks/language_identification.py [--data FOLDER].

Accuracy on whole captions and on two to five words in a row out of them, told their language and told a wrong one; what
the decision to drop costs and catches; speed; memory. Each contestant lives in a process of its own and has its turn
in every round; what counts is CPU time of all its threads. Italian captions are MSCOCO-IT's, English, German and French
ones Multi30k's; Spanish, Portuguese and Catalan ones were written for this: the cascade's weights were chosen without
them, the thresholds of dropping with them among the foreign ones. Tux Paint's captions of some 80 languages, the
hardest, are in Debian's tuxpaint-stamps-default: unpack it somewhere, and name the folder by `--tuxpaint`.
"""

import argparse
import functools
import gzip
import json
import multiprocessing
import multiprocessing.connection
import random
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from data_folder import add_data_option

from cleaning.languages.engines import (
    COMMON_LANGUAGES,
    fast_probabilities,
    langdetect_probabilities,
    lingua_probabilities,
)
from cleaning.languages.identification import (
    Candidates,
    LanguageVerdict,
    caption_language,
    is_sure,
    language_identifier,
    restricted_probabilities,
)
from flows.recipe.language_packs import load_language_pack

OWN = Path(__file__).resolve().parent / "data" / "iberian_captions.tsv"
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
Claim = tuple[str, float, str, bool]
Told = Callable[[Sequence[str], str], list[str | None]]


def load_captions(num_captions: int, data: Path, tuxpaint: Path | None) -> Captions:
    """Sets of different captions in a seeded order; those whose files are absent are missing, and it says so."""
    found: dict[str, tuple[str, Iterable[str]]] = {}
    for kind in ("validated", "unvalidated"):
        path = data / "mscoco_it" / f"captions_ita_devset_{kind}.json.gz"
        if path.is_file():
            rows = json.loads(gzip.decompress(path.read_bytes()))["annotations"]
            found[f"it, MSCOCO-IT {kind}"] = ("it", [row["caption"] for row in rows])
    for language in ("en", "de", "fr"):
        if (path := data / "multi30k" / f"train.{language}.gz").is_file():
            found[f"{language}, Multi30k"] = (language, gzip.decompress(path.read_bytes()).decode().splitlines())
    for line in OWN.read_text(encoding="utf-8").splitlines()[1:]:
        language, caption = line.split("\t")
        found.setdefault(f"{language}, our own", (language, []))[1].append(caption)  # type: ignore[attr-defined]
    if len(found) < 8:
        print(f"only {', '.join(found)}: the other captions are absent ({data})")
    found |= tuxpaint_captions(tuxpaint) if tuxpaint else {}
    return {name: (language, drawn(texts, num_captions)) for name, (language, texts) in found.items()}


def tuxpaint_captions(folder: Path) -> dict[str, tuple[str, Iterable[str]]]:
    """Captions of Tux Paint's stamps: the first line is English, the others are `xx.utf8=caption`."""
    found: dict[str, tuple[str, list[str]]] = {}
    wanted = {"ca", "de", "es", "fr", "it", "pt"}
    for path in sorted(folder.rglob("*.txt")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            code, _, caption = line.partition(".utf8=")
            if code in wanted and len(caption.split()) > 1:
                found.setdefault(f"{code}, Tux Paint", (code, []))[1].append(caption)
    return dict(found)


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
    def told(texts: Sequence[str], expected: str) -> list[str | None]:
        return [verdict.language for verdict in identifier(expected, engine)(texts)]

    return told


@functools.cache
def identifier(expected: str, engine: str) -> Callable[[Sequence[str]], list[LanguageVerdict]]:
    return language_identifier(expected, candidates=confusions(expected), engine=engine)


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


def serve(name: str, pipe: multiprocessing.connection.Connection) -> None:
    """In a contestant's process: answer (texts, expected) with languages, CPU seconds and resident MB; until None."""
    work = CONTESTANTS[name]
    while (job := pipe.recv()) is not None:
        langdetect_probabilities.cache_clear()
        started = time.process_time()
        languages = work(*job)
        seconds = time.process_time() - started
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        pipe.send((languages, seconds, pages * 4096 / 1e6))


class Ring:
    """The contestants' processes."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes = {}
        for name in CONTESTANTS:
            mine, its = context.Pipe()
            context.Process(target=serve, args=(name, its), daemon=True).start()
            self._pipes[name] = mine

    def ask(self, name: str, texts: list[str], expected: str) -> tuple[list[str | None], float, float]:
        """What a contestant makes of texts that should be in `expected`: languages, CPU seconds, resident MB."""
        self._pipes[name].send((texts, expected))
        answer: tuple[list[str | None], float, float] = self._pipes[name].recv()
        return answer

    def close(self) -> None:
        """Let the processes end."""
        for pipe in self._pipes.values():
            pipe.send(None)


def accuracy(ring: Ring, sets: Captions, expected: str | None) -> dict[str, dict[str, float]]:
    """Per cent of captions whose language is told, by contestant and set; each is told `expected`, or its own."""
    found: dict[str, dict[str, float]] = {}
    for contestant in CONTESTANTS:
        for name, (language, texts) in sets.items():
            languages = ring.ask(contestant, texts, expected or language)[0]
            found.setdefault(contestant, {})[name] = 100 * languages.count(language) / len(texts)
    return found


def print_accuracy(title: str, found: dict[str, dict[str, float]]) -> None:
    columns = list(CONTESTANTS)
    print(f"\n{title}\n{'':<24}" + "".join(f"{column:>19}" for column in columns))
    for name in found[columns[0]]:
        print(f"{name:<24}" + "".join(f"{found[column][name]:>19.1f}" for column in columns))


def print_speed(ring: Ring, sets: Captions, num_texts: int, rounds: int) -> float:
    """Print texts a CPU second, each told its own language or all told Italian; returns cascade over langdetect."""
    by_language: dict[str, list[str]] = {}
    for language, texts in sets.values():
        by_language.setdefault(language, []).extend(texts)
    whole = {language: drawn(texts, num_texts // len(by_language)) for language, texts in by_language.items()}
    kinds = {
        "whole": whole,
        "short": {language: cut(texts) for language, texts in whole.items()},
        "told Italian": {"it": [text for texts in whole.values() for text in texts]},
    }
    memory = {name: ring.ask(name, kinds["told Italian"]["it"], "it")[2] for name in CONTESTANTS}
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + 1):
        for kind, jobs in kinds.items():
            for name in CONTESTANTS:
                seconds = sum(ring.ask(name, texts, language)[1] for language, texts in jobs.items())
                if turn:  # the first one loads models
                    times.setdefault((kind, name), []).append(seconds)
    num_timed = sum(map(len, whole.values()))
    speeds = {key: num_timed / statistics.median(found) for key, found in times.items()}
    print(f"\nTexts a CPU second, {num_timed} captions, {len(whole)} languages, medians of {rounds} rounds; memory")
    for name in CONTESTANTS:
        ratios = {kind: speeds[kind, name] / speeds[kind, "langdetect"] for kind in kinds}
        cells = (f"{kind} {speeds[kind, name]:>7,.0f} ({ratio:>5.1f} x)" for kind, ratio in ratios.items())
        print(f"{name:<18} " + "  ".join(cells) + f"  {memory[name]:>4.0f} MB")
    shares = (f"{slow_share(jobs):.1f} % ({kind})" for kind, jobs in kinds.items())
    print("the cascade asks lingua about " + ", ".join(shares))
    return speeds["whole", "cascade"] / speeds["whole", "langdetect"]


def slow_share(jobs: dict[str, list[str]]) -> float:
    """Per cent of captions that the cascade asks lingua about."""
    unsure = []
    for expected, texts in jobs.items():
        candidates = Candidates(expected, frozenset({expected, *confusions(expected), *COMMON_LANGUAGES}))
        found = zip(texts, restricted_probabilities(texts, candidates), strict=True)
        unsure += [not is_sure(text, probabilities, expected) for text, probabilities in found]
    return 100 * statistics.mean(unsure)


def print_drops(sets: Captions, natives: Captions) -> dict[str, list[float]]:
    """Print whom each policy drops: native captions lost, whole and short, and per cent of foreign ones caught.

    Returns, by policy, the four columns: sums of those lost, means of the shares caught.
    """
    policies = {"langdetect": {"engine": "langdetect", **LANGDETECT}, "cascade": {"engine": "cascade"}}
    rows: dict[str, list[list[float]]] = {name: [] for name in policies}
    print("\nThe decision to drop: native captions lost, whole and short; per cent of foreign ones caught, likewise")
    for expected in sorted({language for language, _ in sets.values()}):
        own = [text for language, texts in natives.values() if language == expected for text in texts]
        others = [text for language, texts in sets.values() if language != expected for text in texts]
        for name, options in policies.items():
            check = caption_language(expected, confusions=confusions(expected), **options)  # type: ignore[arg-type]
            num_dropped = [sum(drop is not None for drop in check(t)) for t in (own, cut(own), others, cut(others))]
            rows[name].append([*num_dropped[:2], *(100 * number / len(others) for number in num_dropped[2:])])
        cells = (f"{name} {a:>3.0f} {b:>3.0f}  {c:>5.1f} {d:>5.1f}" for name, (a, b, c, d) in last(rows))
        print(f"{expected}  of {len(own):>5,} native, {len(others):>5,} foreign   " + "   ".join(cells))
    columns = {name: list(zip(*found, strict=True)) for name, found in rows.items()}
    return {name: [*map(sum, found[:2]), *map(statistics.mean, found[2:])] for name, found in columns.items()}


def last(rows: dict[str, list[list[float]]]) -> list[tuple[str, list[float]]]:
    return [(name, found[-1]) for name, found in rows.items()]


def claims(quick: bool, data: Path, tuxpaint: Path | None = None) -> list[Claim]:
    """Print the tables; returns (name, value, goal, whether it is met) of each claim."""
    size = "quick" if quick else "full"
    num_captions, num_timed, rounds = SIZES[size]
    sets = load_captions(num_captions, data, tuxpaint)
    short = {name: (language, cut(texts)) for name, (language, texts) in sets.items()}
    ring = Ring()
    speed = print_speed(ring, sets, num_timed, rounds)
    print_accuracy("Right on whole captions, per cent, each told its own language", accuracy(ring, sets, None))
    found = accuracy(ring, short, None)
    print_accuracy("Right on two to five words, per cent, each told its own language", found)
    print_accuracy("The same, all told that they should be Italian", accuracy(ring, short, "it"))
    ring.close()
    drops = print_drops(sets, load_captions(NATIVE[size], data, tuxpaint))
    gains = {name: found["cascade"][name] - found["lingua, 17"][name] for name in sets}
    judged = [("language-speed-to-langdetect", speed, ">=20", speed >= 20)]
    for name, gain in gains.items():
        if name.startswith("it"):
            label = name.split(", ")[1].lower().replace(" ", "-")
            judged.append((f"language-short-italian-{label}-over-lingua", gain, ">=0", gain >= 0))
    least = min(gains.values())
    judged.append(("language-short-least-gain-over-lingua", least, ">=0", least >= 0))
    ours, theirs = drops["cascade"], drops["langdetect"]
    for at, kind in enumerate(("whole", "short")):
        lost, caught = ours[at] - theirs[at], ours[at + 2] - theirs[at + 2]
        judged.append((f"language-{kind}-natives-dropped-less-langdetect", lost, "<=0", lost <= 0))
        judged.append((f"language-{kind}-foreign-caught-less-langdetect", caught, ">=0", caught >= 0))
    return judged


def main() -> int:
    """Print tables and claims; 1 if one is short."""
    parser = argparse.ArgumentParser(description="Engines that tell languages, beside each other.")
    parser.add_argument("--quick", action="store_true", help="fewer captions and rounds")
    parser.add_argument(
        "--tuxpaint", type=Path, help="a folder with Tux Paint's stamps, for captions in more languages"
    )
    add_data_option(parser)
    options = parser.parse_args()
    judged = claims(options.quick, options.data, options.tuxpaint)
    print()
    for name, value, goal, met in judged:
        print(f"claim {name} {value:.1f} goal {goal} {'ok' if met else 'short'}")
    return int(not all(met for *_, met in judged))


if __name__ == "__main__":
    sys.exit(main())
