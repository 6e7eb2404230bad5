"""What several languages in one student cost: python benchmarks/several_languages.py --teacher DIR.

Trains one student on Multi30k's sentences in German and French (and Czech, if `train.cs.gz` is there), which reads
English too, and a student of each language alone, of the same size and with the same number of epochs. Sentences of
photographs of Flickr8k outside its train list are left out, as far as its files have them. All are scored on the
1,000 dev photographs: translated captions, native German ones, and English ones, for which the teacher takes the
place of the student of one language. `--teacher` and `--work` are those of `benchmarks/languages.py`. `--vocab` is
the vocabulary of each tokenizer. `--quick` trains tiny students on 2,000 pairs of each language, and scores them
among 200 train photographs.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any
from zipfile import ZipFile

import numpy as np
from data_folder import multi30k, options_with_data
from harness import judge, print_table, work_folder
from languages import SENTENCES, Photographs, recalls_of, student_options
from photographs import FOLDER, english_captions, german_captions, photos_of

GOALS = {"least_R@1_difference": (">=", -0.02)}
QUICK_GOALS = {"quick_R@10": (">=", 0.06)}  # 0.05 by chance


def difference_with_interval(one: tuple[Any, Any], other: tuple[Any, Any], k: int) -> tuple[float, float, float]:
    """Return R@k of one model minus that of another on the same queries, with its 95 % interval over photographs."""
    photos, places = np.unique(one[1], return_inverse=True)
    hits = np.bincount(places, weights=(one[0] <= k).astype(float) - (other[0] <= k), minlength=len(photos))
    counts = np.bincount(places, minlength=len(photos))
    draws = np.random.default_rng(0).integers(len(photos), size=(1000, len(photos)))
    low, high = np.quantile(hits[draws].sum(axis=1) / counts[draws].sum(axis=1), (0.025, 0.975))
    return float(hits.sum() / counts.sum()), float(low), float(high)


def unwanted_texts(data: Path) -> list[str]:
    """Return all English and German captions of the photographs of Flickr8k that its train list does not name."""
    known, english = set(photos_of(data, "train")), english_captions(data)
    sources = [english, *(german_captions(data, by) for by in ("translated by a person", "native"))]
    return [text for found in sources for photo, texts in found.items() if photo not in known for text in texts]


def lesson_of(options: Any, languages: Sequence[str], work: Path) -> dict[str, Any]:
    """Return the settings of a student of some languages, all English sentences included if they are several."""
    pattern = str(options.data / SENTENCES / "train.{lang}.gz")
    found: dict[str, Any] = {
        "teacher": str(options.teacher.resolve()),
        "pairs": {code: [pattern] for code in languages},
        "origin": "human_translation",
        "leave_out": [str(work / "left-out.txt")],
        "precision": options.precision,
        "vocab_size": options.vocab,
        "epochs": options.epochs,
    }
    if options.quick:
        for code in languages:
            columns = [multi30k(options.data, each)[:2000] for each in ("en", code)]
            lines = (f"{source}\t{target}\n" for source, target in zip(*columns, strict=True))
            (work / f"quick-{code}.tsv").write_text("".join(lines))
            found["pairs"][code] = [str(work / f"quick-{code}.tsv")]
        found |= {"student": "tiny", "num_held_out": 100, "batch_size": 64, "warmup_steps": 20}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Train students, score them, and print a table and claims."""
    parser = options_with_data(__doc__)
    parser.add_argument("--epochs", type=int, default=10, help="passes over the pairs of each student")
    parser.add_argument("--vocab", type=int, default=16000, help="vocabulary of each tokenizer")
    options = student_options(parser, arguments)
    import vernaclip
    from training.data.features import FeatureStore
    from training.scores.encoders import open_model_folder

    languages = [code for code in ("de", "fr", "cs") if multi30k(options.data, code)]
    with work_folder(options.work) as work:
        of_language = {code: Photographs(options.data, code, is_quick=options.quick) for code in languages}
        gallery = of_language["de"]
        asked = {f"{code} {each.name}": each.texts for code, found in of_language.items() for each in found.queries}
        asked["en"] = [(text, photo) for photo in gallery.names for text in gallery.english[photo]]
        scored = [text for found in of_language.values() for text in found.unwanted]
        texts = scored + ([] if options.quick else unwanted_texts(options.data))
        (work / "left-out.txt").write_text("".join(f"{text}\n" for text in dict.fromkeys(texts)))
        teacher = FeatureStore(open_model_folder(options.teacher, "teacher"), work / "features")
        with ZipFile(options.data / FOLDER / "images.zip") as pictures:
            images, _ = teacher.images(gallery.names, pictures.read, batch_size=64)
        theirs = gallery.ranks(images, teacher.texts, asked["en"])
        rows = list[dict[str, Any]]()
        values = defaultdict[str, list[float]](list)

        def ranks_of(codes: Sequence[str], seed: int) -> dict[str, tuple[Any, Any]]:
            (work / "lesson.toml").write_text(f'target_language = "{codes[0]}"\n[distil]\n')
            lesson = {**lesson_of(options, codes, work), "seed": seed}
            folder = vernaclip.distil(work / "lesson.toml", work / "root", settings={"distil": lesson}).folder
            student = FeatureStore(open_model_folder(folder, "student"))
            read = [name for name in asked if name.partition(" ")[0] in (*codes, *(["en"] if len(codes) > 1 else []))]
            return {name: gallery.ranks(images, student.texts, asked[name]) for name in read}

        for seed in range(1 if options.quick else options.seeds):
            together = ranks_of(languages, seed)
            alone = {"en": theirs}
            for code in languages:
                alone |= ranks_of([code], seed)
            for name, found in together.items():
                change, low, high = difference_with_interval(found, alone[name], 1)
                single = "teacher" if name == "en" else "alone"
                for model, (ranks, _) in (("together", found), (single, alone[name])):
                    rows.append(
                        {"seed": seed, "queries": f"{name} ({len(ranks):,})", "model": model, **recalls_of(ranks)}
                    )
                    rows[-1] |= {"R@1, together - alone": f"{change:+.4f} ({low:+.4f} to {high:+.4f})"}
                values[name].append(change)
                values["R@10"].append(float((found[0] <= 10).mean()))
        print_table(rows, f"The gallery has {len(gallery.names):,} photographs")
    if options.quick:
        return judge({"quick_R@10": min(values["R@10"])}, QUICK_GOALS)
    return judge({"least_R@1_difference": min(mean(found) for name, found in values.items() if name != "R@10")}, GOALS)


if __name__ == "__main__":
    sys.exit(main())
