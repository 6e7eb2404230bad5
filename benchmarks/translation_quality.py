"""Texts equal to Argos Translate's, and the effect of beam size: python benchmarks/translation_quality.py [--quick].

Without arguments it uses the sample's package and captions of the sample's grammar. `--package FILE --pairs FILE.tsv`
takes any package and parallel captions (source, tab, reference). Argos Translate's sentence splitter, which would be
downloaded, is replaced by one that treats each caption as one sentence. So equality is measured on captions that we
also treat as one sentence, and that go to the model completely.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import HERE, judge, medians, options_of, print_table, race
from translation_speed import stock

from data_catalog.sample.grammar import parallel_pairs
from translation.config import TranslateConfig
from translation.engine import Translation
from translation.engines.argos import argos_translator
from translation.engines.ctranslate2_model import CTranslate2Translator
from translation.evaluate import corpus_chrf, sentence_chrf
from translation.guards import prepare
from translation.packages.package import Package, open_package

SAMPLE = HERE.parent / "flows" / "packages" / "scenes-en_it.argosmodel"
# Beam size and patience; the last pair is Argos Translate's.
BEAMS = ((1, 1), (2, 1), (2, 2), (4, 2), (4, 1))
Beam = tuple[int, int]
ROUNDS = 5
GOALS = {"translation-equal-to-stock": (">=", 0.98), "translation-chrf-difference": ("<=", 0.1)}


def read_pairs(path: Path | None, count: int) -> list[tuple[str, str]]:
    """Return captions and their references: distinct captions, evenly sampled."""
    if path is None:
        found = sorted(dict(parallel_pairs(seed=77, num_pairs=2 * count)).items())
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [(source, target) for source, _, target in (line.partition("\t") for line in lines) if target]
    return found[:: max(1, len(found) // count)][:count]


def beams(package: Package, sources: Sequence[str], references: Sequence[str]) -> dict[Beam, list[Translation]]:
    """Print chrF, score and speed of every beam, interleaved; return their translations."""
    found: dict[Beam, list[Translation]] = {}

    def translate(beam: Beam, engine: CTranslate2Translator) -> None:
        found[beam] = engine.translate(sources)

    engines = {beam: argos_translator(package, TranslateConfig(beam_size=beam[0], patience=beam[1])) for beam in BEAMS}
    works = {beam: lambda beam=beam: translate(beam, engines[beam]) for beam in BEAMS}
    seconds = medians(race(works, ROUNDS, warm_up=True))
    rows = []
    for beam in BEAMS:
        chrf = corpus_chrf([item.text for item in found[beam]], references)
        score = statistics.mean(item.score for item in found[beam] if item.score is not None)
        flagged = sum(item.truncated or item.repetitive for item in found[beam])
        rows.append({"beam": beam[0], "patience": beam[1], "chrF": f"{chrf:.2f}", "mean score": f"{score:.3f}"})
        rows[-1] |= {"flagged": flagged, "captions/s": f"{len(sources) / seconds[beam]:.1f}"}
        rows[-1] |= {"times last": f"{seconds[BEAMS[-1]] / seconds[beam]:.2f}"}
    print_table(
        rows, f"{len(sources):,} captions, medians of {ROUNDS} interleaved rounds; the last row is Argos Translate's"
    )
    return found


def score_bands(found: Sequence[Translation], references: Sequence[str]) -> None:
    """Print the chrF of translations below each score, for `check.min_translation_score`."""
    both = zip(found, references, strict=True)
    judged = [(item.score, sentence_chrf(item.text, text)) for item, text in both if item.score is not None]
    rows = []
    for least in (-2.0, -1.5, -1.2, -1.0, -0.9, -0.8, -0.7, -0.5, 0.0):
        if below := [chrf for score, chrf in judged if score < least]:
            rows.append({"score below": least, "captions": len(below), "share": f"{len(below) / len(judged):.1%}"})
            rows[-1] |= {"mean chrF": f"{statistics.mean(below):.1f}", "chrF >= 60": sum(chrf >= 60 for chrf in below)}
    print_table(rows)


def parity(package: Package, pairs: Sequence[tuple[str, str]], ours: Sequence[Translation]) -> tuple[float, float]:
    """Return the share of single-sentence captions with Argos Translate's text, and the difference in chrF."""
    engine = argos_translator(package, TranslateConfig(beam_size=4, patience=1))
    single = []  # captions that go to the model unchanged
    for number, (source, _) in enumerate(pairs):
        prepared = prepare(source, engine.alphabet)
        if prepared.sentences == (source.strip(),) and not any(part.strip() for part in prepared.around):
            single.append(number)
    theirs = stock(package.folder, 1)([pairs[number][0] for number in single])
    mine = [ours[number].text for number in single]
    references = [pairs[number][1] for number in single]
    ours_chrf, stock_chrf = corpus_chrf(mine, references), corpus_chrf(theirs, references)
    print(f"{len(single):,} of {len(pairs):,} captions are one sentence that goes unchanged to the model")
    print(f"chrF: vernaclip {ours_chrf:.3f}, Argos Translate {stock_chrf:.3f}")
    return sum(a == b for a, b in zip(mine, theirs, strict=True)) / len(single), abs(ours_chrf - stock_chrf)


def main() -> int:
    """Compare and judge the claims."""
    parser = options_of(__doc__)
    parser.add_argument("--package", type=Path, default=SAMPLE, help="an .argosmodel file (default: the sample's)")
    parser.add_argument("--pairs", type=Path, help="parallel captions: source, tab, reference")
    options = parser.parse_args()
    pairs = read_pairs(options.pairs, 300 if options.quick else 5_000)
    with tempfile.TemporaryDirectory() as name:
        os.environ["HOME"] = name  # the import of Argos Translate creates folders in it
        package = open_package(options.package, Path(name))
        found = beams(package, [source for source, _ in pairs], [reference for _, reference in pairs])
        config = TranslateConfig()
        score_bands(found[config.beam_size, config.patience], [reference for _, reference in pairs])
        values = dict(zip(GOALS, parity(package, pairs, found[BEAMS[-1]]), strict=True))
    return judge(values, GOALS)


if __name__ == "__main__":
    sys.exit(main())
