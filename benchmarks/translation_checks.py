"""What the checks of translations find, and what they wrongly drop: python benchmarks/translation_checks.py [--quick].

Judges captions labelled by hand (`benchmarks/data/labelled_translations.tsv`) as a build would, prints precision and
recall of each check and each defect, and how both follow from each threshold; then counts what is dropped of Multi30k's
human translations, where those are present. `--translations FILE.tsv --lang de` (source, tab, target[, tab, score])
shows instead how an engine's output is spread over each column, and what of it would be dropped.
"""

import argparse
import dataclasses
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from judged_translations import (
    DEFAULTS,
    GOOD,
    MULTI30K,
    Example,
    Judged,
    by_language,
    human_examples,
    labelled_examples,
    read_translations,
)

from cleaning.checks import CheckConfig
from data_catalog.sample.grammar import parallel_pairs
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator
from translation.packages.package import open_package
from translation.scores import sentence_chrf

SAMPLE = Path(__file__).resolve().parents[1] / "flows" / "packages" / "scenes-en_it.argosmodel"

# Which defects a check is meant to find; nothing here can see that a fluent text is about something else.
MEANT_FOR = {
    "copied_through": {"copied"},
    "copied_words": {"partly_copied"},
    "repeated_ngrams": {"loop"},
    "length_ratio": {"truncated", "too_long"},
    "numbers_lost": {"number_lost"},
    "numbers_invented": {"number_changed"},
    "wrong_language": {"wrong_language"},
    "caption_too_short": {"empty"},
}
UNSEEN = {"mistranslated"}
MAX_HUMAN_DROPPED, MIN_PRECISION, MIN_RECALL, MIN_ROWS_PER_SECOND = 0.01, 0.95, 0.8, 20_000
SWITCHES = [field.name for field in dataclasses.fields(CheckConfig) if field.name.endswith("_check")]
SWEEPS: dict[str, tuple[float, ...]] = {
    "max_copied_share": (0.0, 0.05, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5),
    "max_copied_share_unlisted": (0.0, 0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6),
    "max_repetitions": (1, 2, 3, 4),
    "min_length_ratio": (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7),
    "max_length_ratio": (1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 4.0),
    "shorter_slack_letters": (0, 10, 15, 20, 25, 30, 40),
    "longer_slack_letters": (0, 10, 15, 20, 25, 30, 40),
    "min_other_probability": (0.5, 0.8, 0.9, 0.95, 0.99, 0.999),
    "min_language_letters": (0, 10, 15, 20, 25, 30),
}
LANGUAGE_THRESHOLDS = {"min_other_probability", "min_language_letters"}
QUANTILES = (0.0, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0)


def labels_and_reasons(judged: Iterable[Judged], config: CheckConfig) -> list[tuple[str, str | None]]:
    """Label and drop reason of every example."""
    return [
        (example.label, reason)
        for part in judged
        for example, reason in zip(part.examples, part.reasons(config), strict=True)
    ]


def precision_of(found: Sequence[tuple[str, str | None]]) -> float:
    """Share of the dropped that are bad; 1 where nothing is dropped."""
    dropped = [label != GOOD for label, reason in found if reason]
    return sum(dropped) / len(dropped) if dropped else 1.0


def recall_of(found: Sequence[tuple[str, str | None]], labels: set[str]) -> float:
    """Share of those with one of the labels that are dropped."""
    wanted = [reason is not None for label, reason in found if label in labels]
    return sum(wanted) / len(wanted)


def only(reason: str) -> CheckConfig:
    """The defaults with but one check of translations switched on (the length in words always is)."""
    switch = {
        "copied_through": "copied_through_check",
        "copied_words": "copied_words_check",
        "repeated_ngrams": "repetition_check",
        "length_ratio": "length_ratio_check",
        "numbers_lost": "numbers_lost_check",
        "numbers_invented": "numbers_invented_check",
        "wrong_language": "language_check",
    }.get(reason)
    return dataclasses.replace(DEFAULTS, **{name: name == switch for name in SWITCHES})


def print_checks(judged: Sequence[Judged]) -> None:
    """Each check by itself: what it drops, and how much of what it is meant for."""
    print(
        f"{'check, by itself':<20} {'dropped':>8} {'good':>5} {'precision':>10} {'recall':>7}  of what it is meant for"
    )
    for reason, labels in MEANT_FOR.items():
        found = [(label, r if r == reason else None) for label, r in labels_and_reasons(judged, only(reason))]
        dropped = [label for label, r in found if r]
        print(
            f"{reason:<20} {len(dropped):>8} {dropped.count(GOOD):>5} {precision_of(found):>10.3f} "
            f"{recall_of(found, labels):>7.3f}  {', '.join(sorted(labels))}"
        )


def print_defects(found: Sequence[tuple[str, str | None]]) -> None:
    """Each defect: how much of it all checks together find, and which."""
    print(f"\n{'defect':<16} {'rows':>5} {'recall':>7}  dropped for")
    for label, count in Counter(label for label, _ in found).most_common():
        reasons = Counter(reason for other, reason in found if other == label and reason)
        listed = ", ".join(f"{reason} {times}" for reason, times in reasons.most_common())
        print(f"{label:<16} {count:>5} {recall_of(found, {label}):>7.3f}  {listed}")


def print_good_dropped(judged: Sequence[Judged]) -> None:
    """The good translations that are lost, one by one."""
    print("\ngood translations that are dropped:")
    for part in judged:
        for example, reason in zip(part.examples, part.reasons(DEFAULTS), strict=True):
            if reason and example.label == GOOD:
                print(f"  {reason}: {example.source} | {example.target}")


def print_sweeps(
    judged: Sequence[Judged], unlisted: Sequence[Judged], human: Judged | None, plain_human: Judged | None
) -> None:
    """How precision, recall and the loss of human translations follow from each threshold, all else as by default."""
    seen = {example.label for part in judged for example in part.examples} - UNSEEN - {GOOD}
    for name, values in SWEEPS.items():
        without_list = name == "max_copied_share_unlisted"
        examples, humans = (unlisted, plain_human) if without_list else (judged, human)
        print(f"\n{name:<26} {'precision':>10} {'recall':>7} {'good dropped':>13} {'human German dropped':>21}")
        for value in values:
            config = dataclasses.replace(DEFAULTS, **{name: value})
            found = labels_and_reasons(examples, config)
            lost = sum(1 for label, reason in found if reason and label == GOOD)
            share = f"{share_dropped(humans, config):.4f}" if humans and name not in LANGUAGE_THRESHOLDS else "-"
            mark = " <- default" if value == getattr(DEFAULTS, name) else ""
            print(
                f"{value:<26g} {precision_of(found):>10.3f} {recall_of(found, seen):>7.3f} {lost:>13} {share:>21}{mark}"
            )


def round_trips(examples: Sequence[Example]) -> list[float]:
    """ChrF of Italian translations, sent back to English through Catalan, against their sources."""
    text = "".join(f"{example.target}\n" for example in examples)
    for pair in ("ita-cat", "cat-eng"):
        text = subprocess.run(["apertium", "-u", pair], input=text, capture_output=True, text=True, check=True).stdout
    return [sentence_chrf(back, example.source) for back, example in zip(text.splitlines(), examples, strict=True)]


def print_round_trips(examples: Sequence[Example]) -> None:
    """What a chrF of the translation back tells good from mistranslated Italian, if the reverse engine is at hand."""
    if shutil.which("apertium") is None:
        print("\nround trips are not measured: the command apertium (pairs eng-cat and cat-ita) is not installed")
        return
    italian = [example for example in examples if example.lang == "it"]
    scored = list(zip(italian, round_trips(italian), strict=True))
    print(f"\n{'min_round_trip_chrf':<26} {'good dropped':>13} {'of mistranslated':>17} {'of other defects':>17}")
    for value in (0, 5, 10, 15, 20, 25, 30, 40, 50):
        groups = [
            [chrf < value for example, chrf in scored if chosen(example.label)]
            for chosen in (GOOD.__eq__, UNSEEN.__contains__, lambda label: label not in {GOOD, *UNSEEN})
        ]
        mark = " <- default" if value == DEFAULTS.min_round_trip_chrf else ""
        print(
            f"{value:<26} "
            + " ".join(f"{sum(found) / len(found):>{w}.3f}" for found, w in zip(groups, (13, 17, 17), strict=True))
            + mark
        )


def print_scores(examples: Sequence[Example]) -> None:
    """What scores tell of the sample's own package: captions of its grammar, and any others, which are beyond it."""
    pairs = sorted(dict(parallel_pairs(seed=77, num_pairs=400)).items())
    with tempfile.TemporaryDirectory() as folder:
        engine = argos_translator(open_package(SAMPLE, Path(folder)), TranslateConfig())
        known = engine.translate([source for source, _ in pairs])
        beyond = engine.translate(sorted({example.source for example in examples}))
    right = [found.score or 0.0 for found, (_, wanted) in zip(known, pairs, strict=True) if found.text == wanted]
    wrong = [found.score for found in beyond if found.score is not None]
    print(f"\n{'min_translation_score':<26} {'right dropped':>14} {'nonsense dropped':>17}")
    for value in (-2.0, -1.5, -1.0, -0.8, -0.6, -0.4, -0.2, -0.1):
        shares = [sum(score < value for score in scores) / len(scores) for scores in (right, wrong)]
        mark = " <- default" if value == DEFAULTS.min_translation_score else ""
        print(f"{value:<26g} {shares[0]:>14.3f} {shares[1]:>17.3f}{mark}")


def share_dropped(judged: Judged, config: CheckConfig) -> float:
    """Share of examples that are dropped, language aside."""
    reasons = judged.reasons(dataclasses.replace(config, language_check=False))
    return sum(reason is not None for reason in reasons) / len(reasons)


def human_dropped(judged: Judged, language_sample: int) -> float:
    """Print what is dropped of human translations, per reason; languages are told of a sample."""
    reasons = Counter(filter(None, judged.reasons(dataclasses.replace(DEFAULTS, language_check=False))))
    sample = Judged(judged.examples[:language_sample])
    wrong = Counter(filter(None, sample.reasons(only("wrong_language"))))["wrong_language"]
    shares = {reason: count / len(judged.examples) for reason, count in reasons.most_common()}
    shares["wrong_language"] = wrong / len(sample.examples)
    print(f"\n{len(judged.examples):,} human {judged.pack.name or judged.pack.code} translations of Multi30k")
    for reason, share in shares.items():
        note = f"  of a sample of {len(sample.examples):,}" if reason == "wrong_language" else ""
        print(f"  {reason:<20} {share:>8.4%}{note}")
    print(f"  {'all':<20} {sum(shares.values()):>8.4%}")
    return sum(shares.values())


def rows_per_second(examples: Sequence[Example]) -> float:
    """Rows whose columns are filled and judged in a second of processor time, languages aside."""
    started = time.process_time()
    Judged(examples).reasons(dataclasses.replace(DEFAULTS, language_check=False))
    return len(examples) / (time.process_time() - started)


def claim(name: str, value: float, goal: str, holds: bool) -> bool:
    """Print one claim; returns whether it holds."""
    print(f"claim {name} {value:.4g} goal {goal} {'ok' if holds else 'short'}")
    return holds


def calibrate(quick: bool) -> int:
    """All tables and claims; 1 if a claim is short."""
    examples = labelled_examples()
    judged, unlisted = by_language(examples), by_language(examples, listed=False)
    found = labels_and_reasons(judged, DEFAULTS)
    print_checks(judged)
    print_defects(found)
    print_good_dropped(judged)
    german = human_examples("de", 3_000 if quick else 100_000)
    human = Judged(german) if german else None
    plain_human = Judged(german, listed=False) if german else None
    print_sweeps(judged, unlisted, human, plain_human)
    print_round_trips(examples)
    print_scores(examples)
    verdicts = [
        claim("checks-precision", precision_of(found), f">={MIN_PRECISION}", precision_of(found) >= MIN_PRECISION),
    ]
    seen = {label for label, _ in found} - UNSEEN - {GOOD}
    recall = recall_of(found, seen)
    verdicts.append(claim("checks-recall", recall, f">={MIN_RECALL}", recall >= MIN_RECALL))
    if human is None:
        print(f"human translations are not measured: {MULTI30K} is not there")
        return int(not all(verdicts))
    share = human_dropped(human, 300 if quick else 2_000)
    verdicts.append(claim("human-german-dropped", share, f"<{MAX_HUMAN_DROPPED}", share < MAX_HUMAN_DROPPED))
    rate = rows_per_second(german)
    verdicts.append(claim("quality-rows-per-second", rate, f">={MIN_ROWS_PER_SECOND}", rate >= MIN_ROWS_PER_SECOND))
    return int(not all(verdicts))


def print_distribution(judged: Judged) -> None:
    """Quantiles of each number column, how many rows have numbers lost or invented, and what would be dropped."""
    print(
        f"{len(judged.examples):,} translations\n{'column':<18} {'null':>6} " + " ".join(f"{q:>7g}" for q in QUANTILES)
    )
    for name in ("length_ratio", "copied_share", "repeated_ngrams", "translation_score"):
        values = sorted(value for value in judged.table.column(name).to_pylist() if value is not None)
        shown = " ".join(f"{values[int(q * (len(values) - 1))]:>7.2f}" for q in QUANTILES) if values else ""
        print(f"{name:<18} {len(judged.examples) - len(values):>6} {shown}")
    for name in ("numbers_lost", "numbers_invented"):
        print(f"{name:<18} {sum(map(bool, judged.table.column(name).to_pylist())):>6} rows have some")
    reasons = judged.reasons(DEFAULTS)
    print(f"\nwould be dropped: {sum(map(bool, reasons)) / len(reasons):.2%}")
    for reason, count in Counter(filter(None, reasons)).most_common():
        example = judged.examples[reasons.index(reason)]
        print(f"  {reason:<22} {count / len(reasons):>7.2%}  {example.source} | {example.target}")


def main() -> int:
    """Calibrate on the labelled set, or describe an engine's output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer human translations")
    parser.add_argument("--translations", type=Path, help="TSV of an engine's output: source, target[, score]")
    parser.add_argument("--lang", default="it", help="language of those translations (default: it)")
    options = parser.parse_args()
    if options.translations is None:
        return calibrate(options.quick)
    print_distribution(Judged(read_translations(options.translations, options.lang)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
