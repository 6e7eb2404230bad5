"""Stock Argos Translate's texts, and what a beam is worth: python benchmarks/translation_quality.py [--quick].

Without arguments, with the sample's package and captions of its own grammar. `--package FILE --pairs FILE.tsv` takes
any package and parallel captions (source, tab, reference). Stock's sentence splitter, which would be downloaded, is
replaced by one that takes each caption for one sentence: parity is measured on captions that are one sentence to us,
too, and have nothing that we keep from the model.
"""

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from stock_argos import stock

from data_catalog.sample.grammar import parallel_pairs
from translation.config import TranslateConfig
from translation.engine import Translation
from translation.engines.argos import argos_translator
from translation.engines.ctranslate2_model import CTranslate2Translator
from translation.guards import prepare
from translation.packages.package import Package, open_package
from translation.scores import corpus_chrf, sentence_chrf

SAMPLE = Path(__file__).resolve().parents[1] / "flows" / "packages" / "scenes-en_it.argosmodel"
# Beam size and patience; the last is what stock does.
BEAMS = ((1, 1), (2, 1), (2, 2), (4, 2), (4, 1))
Beam = tuple[int, int]
ROUNDS = 5
# One to forty letters three times in a row, within a word or of words.
LOOP = re.compile(r"(.{1,40}?)\1\1")
MIN_EQUAL, MAX_CHRF_DIFFERENCE = 0.98, 0.1


def read_pairs(path: Path | None, count: int) -> list[tuple[str, str]]:
    """Captions and their references: distinct captions, evenly drawn."""
    if path is None:
        found = sorted(dict(parallel_pairs(seed=77, num_pairs=2 * count)).items())
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [(source, target) for source, _, target in (line.partition("\t") for line in lines) if target]
    return found[:: max(1, len(found) // count)][:count]


def beams(package: Package, sources: Sequence[str], references: Sequence[str]) -> dict[Beam, list[Translation]]:
    """Print chrF, score and speed of every beam, interleaved; returns their translations."""
    engines = {
        (size, patience): argos_translator(package, TranslateConfig(beam_size=size, patience=patience))
        for size, patience in BEAMS
    }
    rates: dict[Beam, list[float]] = {beam: [] for beam in BEAMS}
    found: dict[Beam, list[Translation]] = {}
    for engine in engines.values():
        engine.translate(sources[:8])
    for _ in range(ROUNDS):
        for beam, engine in engines.items():
            started = time.perf_counter()
            found[beam] = engine.translate(sources)
            rates[beam].append(len(sources) / (time.perf_counter() - started))
    print(f"{len(sources):,} captions, {ROUNDS} rounds interleaved, medians; the last row decodes as stock does")
    print(f"{'beam':>4} {'patience':>8} {'chrF':>7} {'mean score':>11} {'flagged':>8} {'captions/s':>11} {'x last':>7}")
    for beam in BEAMS:
        chrf = corpus_chrf([item.text for item in found[beam]], references)
        score = statistics.mean(item.score for item in found[beam] if item.score is not None)
        flagged = sum(item.truncated or item.repetitive for item in found[beam])
        rate = statistics.median(rates[beam])
        ratio = rate / statistics.median(rates[BEAMS[-1]])
        size, patience = beam
        print(f"{size:>4} {patience:>8} {chrf:>7.2f} {score:>11.3f} {flagged:>8} {rate:>11.1f} {ratio:>7.2f}")
    return found


def score_bands(found: Sequence[Translation], references: Sequence[str]) -> None:
    """Print what translations below each score are worth, for `check.min_translation_score`."""
    judged = [
        (item.score, sentence_chrf(item.text, reference))
        for item, reference in zip(found, references, strict=True)
        if item.score is not None
    ]
    print(f"\n{'score below':>11} {'captions':>9} {'share':>7} {'mean chrF':>10} {'chrF >= 60':>11}")
    for least in (-2.0, -1.5, -1.2, -1.0, -0.9, -0.8, -0.7, -0.5, 0.0):
        below = [chrf for score, chrf in judged if score < least]
        if below:
            good = sum(chrf >= 60 for chrf in below)
            share = len(below) / len(judged)
            print(f"{least:>11} {len(below):>9} {share:>7.1%} {statistics.mean(below):>10.1f} {good:>11}")


def parity(package: Package, pairs: Sequence[tuple[str, str]], ours: Sequence[Translation]) -> tuple[float, float]:
    """Share of single-sentence captions with stock's text, and how far the chrF of all of them differs."""
    engine = argos_translator(package, TranslateConfig(beam_size=4, patience=1))
    single = [number for number, (source, _) in enumerate(pairs) if is_plain(source, engine)]
    theirs = stock(package.folder, 1)([pairs[number][0] for number in single])
    mine = [ours[number].text for number in single]
    references = [pairs[number][1] for number in single]
    ours_chrf, stock_chrf = corpus_chrf(mine, references), corpus_chrf(theirs, references)
    print(f"\n{len(single):,} of {len(pairs):,} captions are one sentence that goes whole to the model")
    print(f"chrF: ours {ours_chrf:.3f}, stock {stock_chrf:.3f}")
    explain([pairs[number][0] for number in single], mine, theirs)
    return sum(a == b for a, b in zip(mine, theirs, strict=True)) / len(single), abs(ours_chrf - stock_chrf)


def is_plain(caption: str, engine: CTranslate2Translator) -> bool:
    """Whether a caption goes to the model as it is."""
    prepared = prepare(caption, engine.alphabet)
    return prepared.sentences == (caption.strip(),) and not any(part.strip() for part in prepared.around)


def explain(sources: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Print what differs from stock, and why."""
    causes: Counter[str] = Counter()
    for source, mine, other in zip(sources, ours, theirs, strict=True):
        if mine == other:
            continue
        cause = cause_of(source, mine, other)
        causes[cause] += 1
        if causes[cause] <= 3:
            print(f"  {cause}: {source!r}\n    ours  {mine!r}\n    stock {other!r}")
    print("differences:", dict(causes) or "none")


def cause_of(source: str, mine: str, other: str) -> str:
    """Why two translations of a caption differ."""
    if mine.split() == other.split():
        return "white space"
    if LOOP.search(other):
        return "stock loops, ours had its second try"
    return "in capitals" if source.isupper() else "rounding in another batch"


def main() -> int:
    """Compare and judge the claims."""
    parser = argparse.ArgumentParser(description="Parity with stock Argos Translate, and chrF by beam.")
    parser.add_argument("--quick", action="store_true", help="at most 300 captions")
    parser.add_argument("--package", type=Path, default=SAMPLE, help="an .argosmodel file (default: the sample's)")
    parser.add_argument("--pairs", type=Path, help="parallel captions: source, tab, reference")
    options = parser.parse_args()
    pairs = read_pairs(options.pairs, 300 if options.quick else 5_000)
    with tempfile.TemporaryDirectory() as name:
        os.environ["HOME"] = name  # importing Argos Translate creates folders there
        package = open_package(options.package, Path(name))
        found = beams(package, [source for source, _ in pairs], [reference for _, reference in pairs])
        config = TranslateConfig()
        score_bands(found[config.beam_size, config.patience], [reference for _, reference in pairs])
        equal, difference = parity(package, pairs, found[BEAMS[-1]])
    ok = equal >= MIN_EQUAL, difference <= MAX_CHRF_DIFFERENCE
    print(f"claim translation-equal-to-stock {equal:.4f} goal >={MIN_EQUAL} {'ok' if ok[0] else 'short'}")
    print(
        f"claim translation-chrf-difference {difference:.3f} goal <={MAX_CHRF_DIFFERENCE} {'ok' if ok[1] else 'short'}"
    )
    return int(not all(ok))


if __name__ == "__main__":
    sys.exit(main())
