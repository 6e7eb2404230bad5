"""What a language gets from text alone: python benchmarks/languages.py --teacher DIR.

Trains students on Multi30k's English sentences and their translations by people, without every photograph of
Flickr8k's dev list, and scores them on its 1,000 dev photographs. `--teacher` is an English model that has not seen
those, such as that of `vernaclip align flickr8k` on the data of `benchmarks/photographs.py`. Scores are shares of the
teacher's own, when it is asked with the English originals of the same photographs.

`--language fr` does the same in French. `--pairs FILE` takes other translations of the same sentences, such as a
machine's, as lines of source, tab, target. `--work` keeps the students. `--quick` trains a tiny student on 2,000 pairs,
and scores it among 200 train photographs.
"""

import sys
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any
from zipfile import ZipFile

import numpy as np
from data_folder import multi30k, options_with_data, require_files
from harness import exit_without, judge, print_table, work_folder
from photographs import FOLDER, english_captions, german_captions, photos_of

SENTENCES = "multi30k"
FILES = (
    f"{FOLDER}/images.zip",
    f"{FOLDER}/Flickr8k.token.txt",
    f"{FOLDER}/german.csv",
    f"{FOLDER}/Flickr_8k.*Images.txt",
    *(f"{SENTENCES}/{part}.{code}.gz" for part in ("train", "val") for code in ("de", "en", "fr")),
)
GOALS = {
    "translated_R@1_share": (">=", 0.70),
    "translated_R@10_share": (">=", 0.88),
    "native_R@1_share": (">=", 0.62),
    "native_R@10_share": (">=", 0.82),
    "student_minutes": ("<=", 25.0),
}
QUICK_GOALS = {"quick_translated_R@10_share": (">=", 0.15)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Queries:
    """Captions of photographs in the language, and the teacher's English captions of the same photographs.

    Args:
        name: what they are.
        texts: captions in the language, each with its photograph.
        english: English captions: the originals of `texts`, or as many of the same photographs.
    """

    name: str
    texts: Sequence[tuple[str, str]]
    english: Sequence[tuple[str, str]]


class Photographs:
    """The scored photographs and their captions, and the sentences that name none of them."""

    def __init__(self, data: Path, language: str, *, is_quick: bool) -> None:
        self.names = photos_of(data, "train")[:200] if is_quick else photos_of(data, "dev")[:1000]
        self.english = english_captions(data)
        by_people, native = (
            [(text, photo) for photo in self.names for text in found.get(photo, ())]
            for found in (german_captions(data, made) for made in ("translated by a person", "native"))
        )
        by_german = {text.strip(): photo for text, photo in by_people}
        translated: list[tuple[str, str]] = []
        originals: list[tuple[str, str]] = []
        columns = (multi30k(data, code, ("train", "val")) for code in ("de", "en", language))
        for in_german, in_english, text in zip(*columns, strict=True):
            if photo := by_german.get(in_german.strip()):
                translated.append((text, photo))
                originals.append((in_english, photo))
        self.queries = [Queries(name="translated", texts=translated, english=originals)]
        if language == "de":
            there = sorted({photo for _, photo in native})
            english = [(text, photo) for photo in there for text in self.english[photo]]
            self.queries.append(Queries(name="native", texts=native, english=english))
        self.unwanted = [text for photo in self.names for text in self.english[photo]]
        self.unwanted += [text for text, _ in (*by_people, *native, *translated, *originals)]

    def ranks(self, images: Any, encode: Any, asked: Sequence[tuple[str, str]]) -> tuple[Any, Any]:
        """Return the rank of each caption's photograph, and the places of the photographs."""
        from training.scores.metrics import text_to_image_ranks

        place = {name: number for number, name in enumerate(self.names)}
        owners = np.array([place[photo] for _, photo in asked])
        return text_to_image_ranks(encode([text for text, _ in asked]), images, owners), owners


def share_with_interval(student: tuple[Any, Any], teacher: tuple[Any, Any], k: int) -> tuple[float, float, float]:
    """Return the student's R@k as a share of the teacher's, and its paired 95 % interval over photographs."""
    photos = np.union1d(student[1], teacher[1])
    sums = []
    for ranks, owners in (student, teacher):
        places = np.searchsorted(photos, owners)
        hits = np.bincount(places, weights=ranks <= k, minlength=len(photos))
        sums.append((hits, np.bincount(places, minlength=len(photos))))
    draws = np.random.default_rng(0).integers(len(photos), size=(1000, len(photos)))

    def shares(rows: Any) -> Any:
        found = [hits[rows].sum(axis=-1) / counts[rows].sum(axis=-1) for hits, counts in sums]
        return found[0] / found[1]

    low, high = np.quantile(shares(draws), (0.025, 0.975))
    return float(shares(np.arange(len(photos)))), float(low), float(high)


def student_options(parser: ArgumentParser, arguments: Sequence[str] | None) -> Any:
    """Return the options of a benchmark that trains students; exit without the files or a teacher."""
    parser.add_argument("--teacher", type=Path, help="model folder of an English model")
    parser.add_argument("--seeds", type=int, default=3, help="students of each kind")
    parser.add_argument("--work", type=Path, help="folder that keeps everything")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    options = parser.parse_args(arguments)
    require_files(options.data, FILES)
    if options.teacher is None:
        exit_without("--teacher is needed: see --help")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Train students, score them, and print a table and claims."""
    parser = options_with_data(__doc__)
    parser.add_argument("--language", default="de", choices=("de", "fr"))
    parser.add_argument("--pairs", type=Path, help="other translations of the sentences: lines of source, tab, target")
    parser.add_argument("--origin", default="human_translation", help="origin of those translations")
    parser.add_argument("--unpaired", type=Path, action="append", default=[], help="text without translations")
    parser.add_argument("--epochs", type=int, help="passes over the pairs (default: that of the command)")
    options = student_options(parser, arguments)
    from flows.recipe.recipe import load_recipe
    from flows.sentences import sentence_pairs
    from training.data.features import FeatureStore
    from training.distil.distil import distil, distil_key
    from training.runs.attempts import read_attempts
    from training.scores.encoders import open_model_folder

    with work_folder(options.work) as work:
        photographs = Photographs(options.data, options.language, is_quick=options.quick)
        (work / "left-out.txt").write_text("".join(f"{text}\n" for text in photographs.unwanted))
        named = options.pairs or options.data / SENTENCES / "train.{lang}.gz"
        lesson: dict[str, Any] = {
            "teacher": str(options.teacher.resolve()),
            "pairs": [str(named)],
            "origin": options.origin,
            "leave_out": [str(work / "left-out.txt")],
            "unpaired": [str(path) for path in options.unpaired],
            "precision": options.precision,
        }
        lesson |= {"epochs": options.epochs} if options.epochs else {}
        if options.quick:
            columns = [multi30k(options.data, code)[:2000] for code in ("en", options.language)]
            lines = "".join(f"{source}\t{target}\n" for source, target in zip(*columns, strict=True))
            (work / "quick.tsv").write_text(lines)
            lesson |= {"pairs": [str(work / "quick.tsv")], "student": "tiny", "num_held_out": 100}
            lesson |= {"epochs": 12, "batch_size": 64, "warmup_steps": 20, "lr": 2e-3}
        (work / "language.toml").write_text(f'target_language = "{options.language}"\n[distil]\n')
        teacher = FeatureStore(open_model_folder(options.teacher, "teacher"), work / "features")
        with ZipFile(options.data / FOLDER / "images.zip") as pictures:
            images, _ = teacher.images(photographs.names, pictures.read, batch_size=64)
        theirs = {
            queries.name: photographs.ranks(images, teacher.texts, queries.english) for queries in photographs.queries
        }
        rows: list[Mapping[str, Any]] = [
            {"model": "teacher, English", "queries": f"{name} ({len(ranks):,})", **recalls_of(ranks)}
            | {f"share of R@{k}": "1" for k in (1, 10)}
            for name, (ranks, _) in theirs.items()
        ]
        values, minutes = defaultdict[str, list[float]](list), []
        for seed in range(1 if options.quick else options.seeds):
            recipe = load_recipe(str(work / "language.toml"), root=work, overrides={"distil": {**lesson, "seed": seed}})
            pairs = sentence_pairs(recipe, None)
            key = distil_key(recipe.distil, pairs)
            result = distil(pairs, recipe.distil, work / key[:12], cache=work / "features")
            # Of all attempts, also of an earlier call with the same --work; without the teacher's features.
            attempts = read_attempts(work / key[:12] / "effort.json")
            minutes.append(sum(attempt.seconds for attempt in attempts) / 60)
            student = FeatureStore(open_model_folder(work / key[:12], "student"))
            for queries in photographs.queries:
                found = photographs.ranks(images, student.texts, queries.texts)
                row = {"model": f"student {seed}, {result.num_samples:,} pairs, epoch {result.best_epoch}"}
                row |= {"queries": f"{queries.name} ({len(queries.texts):,})", **recalls_of(found[0])}
                for k in (1, 10):
                    share, low, high = share_with_interval(found, theirs[queries.name], k)
                    row[f"share of R@{k}"] = f"{share:.3f} ({low:.3f}-{high:.3f})"
                    values[f"{queries.name}_R@{k}_share"].append(share)
                rows.append(row)
        print_table(rows, f"The gallery has {len(photographs.names):,} photographs")
    means = {name: mean(found) for name, found in values.items()}
    if options.quick:
        return judge({f"quick_{name}": means[name] for name in ("translated_R@10_share",)}, QUICK_GOALS)
    means["student_minutes"] = max(minutes)
    if options.language != "de" or options.pairs:
        print_table(
            [{name: f"{value:.3f}" for name, value in means.items()}], "Means; the goals are for German by people"
        )
        return 0
    return judge(means, GOALS)


def recalls_of(ranks: Any) -> dict[str, str]:
    """Return R@1, R@5 and R@10 for a table."""
    return {f"R@{k}": f"{float((ranks <= k).mean()):.4f}" for k in (1, 5, 10)}


if __name__ == "__main__":
    sys.exit(main())
