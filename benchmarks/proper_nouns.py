"""Precision and recall of the checks for captions that are mostly names: python benchmarks/proper_nouns.py [--quick].

Compared are the heuristic, spaCy's tags, and the heuristic with a list of common nouns ("nouns"): here, the words that
occur three or more times in lower case in Multi30k's captions. They judge `data/french_captions.tsv`: Wikipedia's
captions, written and labelled by hand before either check was run on them. "names" means that only names are left
without function words, numbers and dates. "more" means that some word describes in its ordinary sense something
visible, even the "Rue" of "Rue Victor Hugo". Then they judge Multi30k's French captions, if present: each of these that
is dropped is a false drop. Captions of one word are left out, because a build drops them for their length. The goals
record the present results, so that a change is noticed: neither check is reliable alone, and on French names spaCy's
small model is no better than the heuristic.
"""

import csv
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
from data_folder import DATA, multi30k
from harness import HERE, Goals, judge, medians, options_of, print_table, race

from cleaning.checks.captions import Length
from cleaning.checks.definition import Captions
from cleaning.checks.proper_nouns import find_tagger, proper_noun_share, tagged_proper_nouns
from data_catalog.base.language_pack import LanguagePack
from data_catalog.rows.stages import Check
from flows.recipe.language_packs import load_language_pack

# Rounds; captions timed in each round; captions of Multi30k that are judged.
SIZES = {"quick": (5, 600, 2_000), "full": (7, 1_500, 29_000)}
LEAST = {
    "heuristic-to-labels-precision": 0.6,
    "heuristic-to-labels-recall": 0.6,
    "spacy-to-labels-precision": 0.6,
    "spacy-to-labels-recall": 0.3,
    "nouns-to-labels-precision": 0.8,
    "nouns-to-labels-recall": 0.6,
    "heuristic-to-spacy-precision": 0.4,
    "heuristic-to-spacy-recall": 0.7,
    "spacy-to-whole-pipeline": 2.0,
    "heuristic-to-spacy": 20.0,
}
GOALS: Goals = {name: (">=", goal) for name, goal in LEAST.items()} | {
    f"{name}-false-drops": ("<=", 0.001) for name in ("heuristic", "spacy", "nouns")
}
Verdicts = list[bool]


def labelled_captions() -> list[dict[str, str]]:
    """Return rows of label, kind and caption that a build would judge."""
    with (HERE / "data" / "french_captions.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    length = Length().rule(Captions(pack=LanguagePack.minimal("fr")))
    assert length is not None
    drops = length.check(pa.table({"caption": [row["caption"] for row in rows]}))
    return [row for row, drop in zip(rows, drops, strict=True) if drop is None]


def common_nouns(captions: Sequence[str]) -> set[str]:
    """Return words that occur three or more times in lower case."""
    counts = Counter(word for caption in captions for word in re.findall(r"[^\W\d_]{3,}", caption) if word.islower())
    return {word for word, count in counts.items() if count >= 3}


def verdicts_of(check: Check, captions: Sequence[str]) -> Verdicts:
    return [drop is not None for drop in check(captions)]


def judge_labelled(checks: dict[str, Check], rows: list[dict[str, str]]) -> dict[str, float]:
    """Print the drops of each check by kind, and its precision and recall; return these by claim."""
    names = [row["label"] == "names" for row in rows]
    drops = {name: verdicts_of(check, [row["caption"] for row in rows]) for name, check in checks.items()}
    kinds = [(row["label"], row["kind"]) for row in rows]
    counts = {name: Counter(kind for kind, drop in zip(kinds, drops[name], strict=True) if drop) for name in drops}
    lines = []
    for key, count in sorted(Counter(kinds).items(), reverse=True):
        dropped = {f"{name} drops": counts[name][key] for name in drops}
        lines.append({"label": key[0], "kind": key[1], "captions": count, **dropped})
    print_table(lines)
    pairs = {f"{name}-to-labels": (found, names) for name, found in drops.items()}
    pairs["heuristic-to-spacy"] = (drops["heuristic"], drops["spacy"])
    values: dict[str, float] = {}
    lines = []
    for name, (found, truth) in pairs.items():
        hits = sum(drop and right for drop, right in zip(found, truth, strict=True))
        precision, recall = hits / max(1, sum(found)), hits / max(1, sum(truth))
        lines.append({"verdicts compared with": name, "drops": sum(found), "correct drops": sum(truth)})
        lines[-1] |= {"precision": f"{precision:.3f}", "recall": f"{recall:.3f}"}
        values |= {f"{name}-precision": precision, f"{name}-recall": recall}
    print_table(lines)
    return values


def whole_pipeline(model: str) -> Check:
    """Return a check as a first attempt would be: all components of the model, one caption at a time."""
    import spacy

    nlp = spacy.load(model)

    def check(texts: Sequence[str]) -> list[None]:
        for text in texts:
            _ = [token.pos_ for token in nlp(text)]
        return [None] * len(texts)

    return check


def main() -> int:
    """Judge labelled captions and descriptions, measure speed, and judge the claims."""
    rounds, num_timed, num_judged = SIZES["quick" if options_of(__doc__).parse_args().quick else "full"]
    pack = load_language_pack(str(HERE / "data" / "french.toml"))
    tagger = find_tagger(pack, "spacy")
    assert tagger is not None
    assert pack.spacy is not None
    checks = {
        "heuristic": proper_noun_share(function_words=pack.function_words),
        "spacy": tagged_proper_nouns(tagger),
    }
    described = [line.strip() for line in multi30k(DATA, "fr")]
    if nouns := common_nouns(described):
        checks["nouns"] = proper_noun_share(function_words=pack.function_words, common_nouns=nouns)
    rows = labelled_captions()
    values = judge_labelled(checks, rows)
    if described := described[:num_judged]:
        false = {f"{name}-false-drops": sum(verdicts_of(check, described)) for name, check in checks.items()}
        print_table([{"descriptions of Multi30k": len(described), **false}])
        values |= {name: count / len(described) for name, count in false.items()}
    captions = [*(row["caption"] for row in rows), *described][:num_timed]
    racers = {"heuristic": checks["heuristic"], "spacy": checks["spacy"], "whole": whole_pipeline(pack.spacy)}
    works = {name: lambda check=check: check(captions) for name, check in racers.items()}
    seconds = medians(race(works, rounds, clock=time.process_time, warm_up=True))
    print_table([{"speed": name, "captions a CPU second": round(len(captions) / s)} for name, s in seconds.items()])
    values["spacy-to-whole-pipeline"] = seconds["whole"] / seconds["spacy"]
    values["heuristic-to-spacy"] = seconds["spacy"] / seconds["heuristic"]
    return judge(values, GOALS, "proper-nouns-")


if __name__ == "__main__":
    sys.exit(main())
