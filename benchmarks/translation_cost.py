"""What translation costs a language, on the same photographs: python benchmarks/translation_cost.py --teacher DIR.

Splits Multi30k's English-German pairs, without every photograph of Flickr8k's dev list, in two. One part trains a
package of `vernaclip mt train`, and names none of the photographs here. Of the other part, students learn German from
the translations by people, or from the package's translations of the same sentences. Then both are aligned with
photographs, by captions that people wrote in German, that people translated, or that the package translated from the
same sentences. A package from German to English translates the queries for the teacher, the English model of
`benchmarks/languages.py`.

All are scored on the 1,000 dev photographs, by the same German queries. A row of several seeds has the mean of their
scores. `--work` keeps everything for another run. `--quick` trains tiny models on 2,000 pairs, and scores them on 200
train photographs.
"""

import csv
import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from data_folder import multi30k, options_with_data
from harness import judge, print_table, work_folder
from languages import Photographs, Queries, recalls_of, share_with_interval, student_options
from photographs import FOLDER, german_captions, photos_of

QUICK_GOALS = {"quick_student_R@10_share": (">=", 0.1)}
PACKAGE = {"num_held_out": 500, "threads": len(os.sched_getaffinity(0))}
FEWER, FEWEST = 5_000, 500  # sentence pairs, and ...
FEWER_PHOTOGRAPHS = 500  # ... photographs, of a language that has not more

Pair = tuple[str, str]


class Trials:
    """The models that are compared, each made by the public function that a user would call.

    Args:
        options: options of the command line.
        photographs: the scored photographs.
        work: folder for everything that is written.
    """

    def __init__(self, options: Any, photographs: Photographs, work: Path) -> None:
        self.options, self.photographs, self.work = options, photographs, work
        unwanted = set(photographs.unwanted)
        columns = [multi30k(options.data, code) for code in ("en", "de")]
        pairs = [pair for pair in zip(*columns, strict=True) if unwanted.isdisjoint(pair)]
        self.photo_of = {
            text: photo
            for photo, texts in german_captions(options.data, "translated by a person").items()
            for text in texts
        }
        # Pairs of the photographs here are for students, so the package has seen no caption of them.
        random.Random(0).shuffle(pairs)
        pairs.sort(key=lambda pair: pair[1] not in self.photo_of)
        pairs = pairs[: 2000 if options.quick else None]
        half = len(pairs) // 2
        self.of_students, self.of_package = pairs[:half], pairs[half:]
        random.Random(1).shuffle(self.of_students)

    def package(self, name: str, pairs: Sequence[Pair], codes: tuple[str, str]) -> Path:
        """Train a translation package; return its file."""
        from training.packages.config import PRESETS, TrainPackageConfig
        from training.packages.train import train_package

        out = self.work / f"{name}.argosmodel"
        if not out.is_file():
            steps = {
                "precision": self.options.precision,
                "num_steps": self.options.mt_steps,
                "warmup_steps": self.options.mt_steps // 10,
            }
            settings: Mapping[str, Any] = {**PRESETS["tiny" if self.options.quick else "small"], **PACKAGE, **steps}
            settings = {**settings, "num_held_out": 100} if self.options.quick else settings
            file = self.written(name, pairs)
            train_package([file], from_code=codes[0], to_code=codes[1], out=out, config=TrainPackageConfig(**settings))
        return out

    def translated(self, texts: Sequence[str], package: Path, codes: tuple[str, str]) -> list[str]:
        """Return translations, empty where there is none."""
        import vernaclip

        settings = {"package": str(package)}
        found = vernaclip.translate(texts, *codes, settings=settings, memory=self.work / "memory")
        return [each.text or "" for each in found]

    def written(self, name: str, pairs: Sequence[Pair]) -> Path:
        """Write pairs as lines of source, tab, target."""
        path = self.work / f"{name}.tsv"
        path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
        return path

    def students(
        self, name: str, pairs: Sequence[Pair], origin: str, *, epochs: int, unpaired: Sequence[str] = ()
    ) -> list[Path]:
        """Distil the teacher, once for each seed; return the models' folders."""
        import vernaclip

        recipe = self.work / f"{name}.toml"
        recipe.write_text('target_language = "de"\n')
        lesson: dict[str, Any] = {
            "teacher": str(self.options.teacher.resolve()),
            "pairs": [str(self.written(name, pairs))],
            "origin": origin,
            "precision": self.options.precision,
            "epochs": epochs,
            "num_held_out": min(500, len(pairs) // 20),
        }
        if unpaired:
            texts = self.work / f"{name}-unpaired.txt"
            texts.write_text("".join(f"{text}\n" for text in unpaired))
            lesson["unpaired"] = [str(texts)]
        if self.options.quick:
            lesson |= {"student": "tiny", "num_held_out": 50, "batch_size": 64, "warmup_steps": 20}
        root = self.work / "root"
        return [
            vernaclip.distil(recipe, root, settings={"distil": {**lesson, "seed": seed}}).folder
            for seed in range(self.options.seeds)
        ]

    def aligned(
        self, name: str, captions: Mapping[str, Sequence[str]], students: Sequence[Path], *, limit: int = 0
    ) -> list[Path]:
        """Build a dataset of captioned train photographs, and align each student with it; return the folders."""
        import vernaclip

        photos = photos_of(self.options.data, "train")
        random.Random(0).shuffle(photos)
        photos = photos[: 300 if self.options.quick else None]
        val = set(photos[: len(photos) // 10])
        photos = photos[: len(val) + limit] if limit else photos
        with (self.work / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "caption", "split"])
            for photo in photos:
                if photo not in self.photographs.names:
                    rows.writerows(
                        [photo, text, "val" if photo in val else "train"] for text in captions.get(photo, ())
                    )
        source = {"kind": "pairs", "files": [str(self.work / f"{name}.csv")], "path_column": "image"}
        source |= {"caption_column": "caption", "split_column": "split", "lang": "de"}
        source |= {"images": str(self.options.data / FOLDER / "images.zip")}
        recipe = self.work / f"{name}.toml"
        recipe.write_text(
            'target_language = "de"\n[sources.photographs]\n'
            + "".join(f"{key} = {value!r}\n" for key, value in source.items())
            + "[normalise]\nimage_size = 256\n"
            + '[split]\nby = "upstream"\nval = 0.0\ntest = 0.0\n'
            + '[align]\nstart = "model"\nrefit = true\n'
        )
        root = self.work / "root"
        vernaclip.build(recipe, root)
        return [
            vernaclip.align(
                recipe, root, settings={"train": {"model": str(student.resolve())}, "align": {"seed": seed}}
            ).folder
            for seed, student in enumerate(students)
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train everything, score it, and print one table."""
    parser = options_with_data(__doc__)
    parser.add_argument("--epochs", type=int, default=10, help="passes of a student over 13,000 pairs")
    parser.add_argument("--mt-steps", type=int, default=1000, help="steps of a package")
    options = student_options(parser, arguments)
    if options.quick:
        options.mt_steps, options.epochs, options.seeds = 20, 12, 1
    from training.data.features import FeatureStore, rewording
    from training.scores.encoders import open_model_folder

    with work_folder(options.work) as work:
        photographs = Photographs(options.data, "de", is_quick=options.quick)
        trials = Trials(options, photographs, work)
        forth = trials.package("en-de", trials.of_package, ("en", "de"))
        sources, by_people = zip(*trials.of_students, strict=True)
        by_machine = trials.translated(sources, forth, ("en", "de"))
        machine_pairs = [pair for pair in zip(sources, by_machine, strict=True) if pair[1]]
        translated, machine = dict[str, list[str]](), dict[str, list[str]]()
        for person, program in zip(by_people, by_machine, strict=True):
            if photo := trials.photo_of.get(person):
                translated.setdefault(photo, []).append(person)
                machine.setdefault(photo, []).extend([program] * bool(program))
        native = german_captions(options.data, "native")

        people = trials.students("people", trials.of_students, "human_translation", epochs=options.epochs)
        fewer = trials.of_students[: 500 if options.quick else FEWER]
        models = {
            f"student, {len(trials.of_students):,} sentences by people": people,
            f"student, the same {len(machine_pairs):,} by machine": trials.students(
                "machine", machine_pairs, "machine_translation", epochs=options.epochs
            ),
            f"student, {len(fewer):,} sentences by people": trials.students(
                "fewer", fewer, "human_translation", epochs=2 * options.epochs
            ),
        }
        _, of_machine, _ = models.values()
        unpaired = [text for photo in photos_of(options.data, "train") for text in native.get(photo, ())]
        if not options.quick:
            models[f"student, {FEWEST:,} sentences by people"] = trials.students(
                "fewest", fewer[:FEWEST], "human_translation", epochs=4 * options.epochs
            )
            models[f"the same, and {len(unpaired):,} unpaired native captions"] = trials.students(
                "unpaired", fewer, "human_translation", epochs=2 * options.epochs, unpaired=unpaired
            )
        # Name, captions, students to go on from, and number of photographs (0: all).
        aligned: list[tuple[str, Mapping[str, Sequence[str]], Sequence[Path], int]] = [
            ("people, then captions that people translated", translated, people, 0),
            (
                "people, then native captions, as many",
                {photo: native.get(photo, ())[:1] for photo in translated},
                people,
                0,
            ),
            ("people, then all native captions", native, people, 0),
            (f"people, then native captions of {FEWER_PHOTOGRAPHS} photographs", native, people, FEWER_PHOTOGRAPHS),
            ("machine, then machine-translated captions", machine, of_machine, 0),
        ]
        for number, (name, captions, students, limit) in enumerate(aligned[: 1 if options.quick else None]):
            models[f"students by {name}"] = trials.aligned(f"aligned-{number}", captions, students, limit=limit)

        english = open_model_folder(options.teacher, "teacher")
        teacher = FeatureStore(english, work / "features")
        back = trials.package("de-en", [pair[::-1] for pair in (*trials.of_package, *trials.of_students)], ("de", "en"))
        translator = rewording(
            english, lambda texts: trials.translated(texts, back, ("de", "en")), "translated queries"
        )
        with ZipFile(options.data / FOLDER / "images.zip") as pictures:

            def images_of(store: FeatureStore) -> Any:
                return store.images(photographs.names, pictures.read, batch_size=64)[0]

            shared, queries = images_of(teacher), photographs.queries
            theirs = {each.name: photographs.ranks(shared, teacher.texts, each.english) for each in queries}
            rows: list[Mapping[str, Any]] = [row_of("English model, English captions", queries, theirs, theirs)]
            shares = []
            translating = FeatureStore(translator, work / "features")
            for name, folders in {**models, "English model, queries translated": []}.items():
                opened = [open_model_folder(folder, name) for folder in folders]
                stores = [FeatureStore(each, work / "features") for each in opened] or [translating]
                # Students have the image tower and projection of their teacher. Aligned models have another projection.
                images = [images_of(store) if " then " in name else shared for store in stores]
                found = {}
                for each in queries:
                    asked = [
                        photographs.ranks(some, store.texts, each.texts)
                        for some, store in zip(images, stores, strict=True)
                    ]
                    ranks, owners = zip(*asked, strict=True)
                    found[each.name] = np.concatenate(ranks), np.concatenate(owners)
                rows.append(row_of(name, queries, found, theirs))
                shares.append(share_with_interval(found["translated"], theirs["translated"], 10)[0])
        print_table(rows, f"The gallery has {len(photographs.names):,} photographs; queries and 95 % intervals")
    return judge({"quick_student_R@10_share": shares[0]}, QUICK_GOALS) if options.quick else 0


def row_of(
    name: str, queries: Sequence[Queries], found: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return a model's scores, and its share of the teacher's R@1 with a paired interval."""
    row: dict[str, Any] = {"model": name}
    for each in queries:
        ranks = found[each.name]
        share, low, high = share_with_interval(ranks, theirs[each.name], 1)
        recalls = recalls_of(ranks[0])
        row |= {f"{each.name} ({len(each.texts):,}) R@1": recalls["R@1"], f"{each.name} R@10": recalls["R@10"]}
        row[f"{each.name} share of R@1"] = f"{share:.3f} ({low:.3f}-{high:.3f})"
    return row


if __name__ == "__main__":
    sys.exit(main())
