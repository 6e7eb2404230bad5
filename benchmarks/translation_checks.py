"""Precision and recall of the checks of translations: python benchmarks/translation_checks.py [--quick].

Judges hand-labelled captions (`benchmarks/data/labelled_translations.tsv`) as a build would. Prints precision and
recall of each check and each defect, and their dependence on each threshold. Then counts the drops among Multi30k's
human translations, if these are present.
"""

import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import NamedTuple

import pyarrow as pa
from data_folder import DATA, multi30k
from harness import HERE, Goals, judge, options_of, print_table, table_of

from cleaning.checks import CheckConfig, CleanConfig, apply_rules, translation_measure
from data_catalog.rows.schema import CAPTIONS, PENDING
from data_catalog.rows.stages import apply_measure
from flows.recipe.language_packs import language_pack

LABELLED = HERE / "data" / "labelled_translations.tsv"
GOOD = "good"
# The check for names does not judge translations, so it is off.
DEFAULTS = CheckConfig(proper_noun_check=False)


class Example(NamedTuple):
    """A caption and its translation, with its label."""

    source: str
    target: str
    lang: str
    label: str = ""


class Judged:
    """Examples of one language as rows with their quality columns; `reasons` judges them under any settings."""

    def __init__(self, examples: Sequence[Example], *, listed: bool = True) -> None:
        self.examples = examples
        pack = language_pack(examples[0].lang)
        self.pack = pack if listed else replace(pack, shared_words=())
        measure = translation_measure(self.pack)
        self.table = apply_measure(_rows(examples), measure, source="clean_caption", target="caption")

    def reasons(self, config: CheckConfig) -> list[str | None]:
        """Return the drop reason of each example, or None."""
        table = apply_rules(self.table, config.rules(self.pack), step="check")
        found: list[str | None] = table.column("drop_reason").to_pylist()
        return found


def _rows(examples: Sequence[Example]) -> pa.Table:
    columns = {
        "clean_caption": [example.source for example in examples],
        "caption": [example.target for example in examples],
        "source_lang": ["en"] * len(examples),
        "target_lang": [example.lang for example in examples],
        "outcome": [PENDING] * len(examples),
    }
    return table_of(columns, pa.schema([field.with_nullable(True) for field in CAPTIONS]))


def labelled_examples() -> list[Example]:
    """Return the labelled set without examples whose source would be dropped before translation."""
    _, *lines = LABELLED.read_text(encoding="utf-8").splitlines()
    cells = (line.split("\t") for line in lines)
    examples = [Example(*row[:4]) for row in cells]
    judged = apply_rules(_rows(examples), CleanConfig().rules(language_pack("en")), step="clean")
    dropped = [reason is not None for reason in judged.column("drop_reason").to_pylist()]
    kept = [example for example, drop in zip(examples, dropped, strict=True) if not drop]
    counts = Counter(example.label for example in kept)
    print(f"{len(examples)} labelled translations; a build would not translate the sources of {sum(dropped)} of them;")
    print(f"of the others, {counts[GOOD]} are good and {len(kept) - counts[GOOD]} bad.\n")
    return kept


# The defects that each check should find. No check can detect a fluent text about something else.
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
GOALS: Goals = {
    "checks-precision": (">=", 0.95),
    "checks-recall": (">=", 0.8),
    "human-german-dropped": ("<", 0.01),
    "quality-rows-per-second": (">=", 20_000),
}
SWITCHES = [field.name for field in fields(CheckConfig) if field.name.endswith("_check")]
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


def labels_and_reasons(judged: Iterable[Judged], config: CheckConfig) -> list[tuple[str, str | None]]:
    """Return label and drop reason of every example."""
    return [
        (example.label, reason)
        for part in judged
        for example, reason in zip(part.examples, part.reasons(config), strict=True)
    ]


def precision_of(found: Sequence[tuple[str, str | None]]) -> float:
    """Return the share of dropped examples that are bad; 1 if nothing is dropped."""
    dropped = [label != GOOD for label, reason in found if reason]
    return sum(dropped) / len(dropped) if dropped else 1.0


def recall_of(found: Sequence[tuple[str, str | None]], labels: set[str]) -> float:
    """Return the share of examples with one of the labels that are dropped."""
    wanted = [reason is not None for label, reason in found if label in labels]
    return sum(wanted) / len(wanted)


SWITCHED = {name.removesuffix("_check"): name for name in SWITCHES} | {
    "wrong_language": "language_check",
    "repeated_ngrams": "repetition_check",
}


def only(reason: str) -> CheckConfig:
    """Return the defaults with only one check of translations switched on (the length in words is always checked)."""
    return replace(DEFAULTS, **{name: name == SWITCHED.get(reason) for name in SWITCHES})


def check_rows(judged: Sequence[Judged]) -> list[dict[str, object]]:
    """Return one row for each check alone: its drops, precision, and recall of the defects that it should find."""
    rows = []
    for reason, labels in MEANT_FOR.items():
        found = [(label, r if r == reason else None) for label, r in labels_and_reasons(judged, only(reason))]
        dropped = [label for label, r in found if r]
        rows.append({"check alone": reason, "dropped": len(dropped), "good": dropped.count(GOOD)})
        rows[-1] |= {"precision": f"{precision_of(found):.3f}", "recall": f"{recall_of(found, labels):.3f}"}
        rows[-1]["of"] = ", ".join(sorted(labels))
    return rows


def defect_rows(found: Sequence[tuple[str, str | None]]) -> list[dict[str, object]]:
    """Return one row for each defect: the recall of all checks together, and the drop reasons."""
    rows = []
    for label, count in Counter(label for label, _ in found).most_common():
        reasons = Counter(reason for other, reason in found if other == label and reason)
        listed = ", ".join(f"{reason} {times}" for reason, times in reasons.most_common())
        rows.append({"defect": label, "rows": count, "recall": f"{recall_of(found, {label}):.3f}", "reasons": listed})
    return rows


def tell_sweeps(
    judged: Sequence[Judged], unlisted: Sequence[Judged], human: Judged | None, plain_human: Judged | None
) -> None:
    """Print precision, recall and dropped human translations by each threshold; other settings have defaults."""
    seen = {example.label for part in judged for example in part.examples} - UNSEEN - {GOOD}
    for name, values in SWEEPS.items():
        examples, humans = (unlisted, plain_human) if name == "max_copied_share_unlisted" else (judged, human)
        rows: list[dict[str, object]] = []
        for value in values:
            config = replace(DEFAULTS, **{name: value})
            found = labels_and_reasons(examples, config)
            mark = "default" if value == getattr(DEFAULTS, name) else ""
            good = sum(reason is not None for label, reason in found if label == GOOD)
            rows.append({name: value, "": mark, "precision": f"{precision_of(found):.3f}"})
            rows[-1] |= {"recall": f"{recall_of(found, seen):.3f}", "good dropped": good}
            if humans and name not in LANGUAGE_THRESHOLDS:
                reasons = humans.reasons(replace(config, language_check=False))
                rows[-1]["human German dropped"] = f"{1 - reasons.count(None) / len(reasons):.4f}"
        print_table(rows)


def human_dropped(judged: Judged, language_sample: int) -> float:
    """Print the drops of human translations by reason; languages are checked on a sample."""
    reasons = Counter(filter(None, judged.reasons(replace(DEFAULTS, language_check=False))))
    sample = Judged(judged.examples[:language_sample]).reasons(only("wrong_language"))
    shares = {reason: count / len(judged.examples) for reason, count in reasons.most_common()}
    shares["wrong_language"] = sample.count("wrong_language") / len(sample)
    rows = [{"dropped for": reason, "share": f"{share:.4%}"} for reason, share in shares.items()]
    print_table(
        rows, f"{len(judged.examples):,} human German translations of Multi30k; language checked for {len(sample):,}"
    )
    return sum(shares.values())


def main() -> int:
    """Print all tables and claims."""
    quick = options_of(__doc__).parse_args().quick
    examples = labelled_examples()
    parts = [[example for example in examples if example.lang == lang] for lang in ("de", "it")]
    judged, unlisted = [Judged(part) for part in parts], [Judged(part, listed=False) for part in parts]
    found = labels_and_reasons(judged, DEFAULTS)
    print_table(check_rows(judged))
    print_table(defect_rows(found))
    pairs = list(zip(*(multi30k(DATA, code, ("train", "val")) for code in ("en", "de")), strict=True))
    pairs = random.Random(0).sample(pairs, min(3_000 if quick else 100_000, len(pairs)))
    german = [Example(source, target, "de") for source, target in pairs]
    human = Judged(german) if german else None
    tell_sweeps(judged, unlisted, human, Judged(german, listed=False) if german else None)
    seen = {label for label, _ in found} - UNSEEN - {GOOD}
    values = {"checks-precision": precision_of(found), "checks-recall": recall_of(found, seen)}
    if human is not None:
        values["human-german-dropped"] = human_dropped(human, 300 if quick else 2_000)
        started = time.process_time()
        Judged(german).reasons(replace(DEFAULTS, language_check=False))
        values["quality-rows-per-second"] = len(german) / (time.process_time() - started)
    return judge(values, GOALS)


if __name__ == "__main__":
    sys.exit(main())
