"""Wrong captions that are found by a model that looks at the image.

python benchmarks/fitting_captions.py --english DIR --german DIR

Plants faults in the captions of Flickr8k's 1,000 dev photographs, which the models must not have seen: a caption of a
random photograph, of the most similar photograph, and one wrong noun, colour or number in a German caption, by the
rules of the language pack. `--english` is such as the teacher of `benchmarks/languages.py`, `--german` its student.

Thresholds are those at which 2 % of the right captions of one half of the photographs are dropped. Rates are of the
other half: the share of faults found, and of right captions dropped. `--quick` uses 200 train photographs.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from data_folder import options_with_data, require_files
from harness import exit_without, judge, print_table
from languages import FILES, Photographs
from photographs import FOLDER

FALSE = 0.02  # share of right captions that may be dropped
MOST_CHANGED = 200  # captions of each kind of change
KINDS = ("noun", "colour", "count")
GOALS = {
    "english_random_photograph": (">=", 0.80),
    "german_random_photograph": (">=", 0.70),
    "drop_random_photograph": (">=", 0.80),
}
QUICK_GOALS = dict.fromkeys(GOALS, (">=", 0.3))


def found_and_false(right: Any, wrong: Any, halves: tuple[Any, Any]) -> tuple[float, float, int]:
    """Return the share of faults found and of right captions dropped in the second half, and the number of faults.

    Args:
        right: scores of right captions; low ones are dropped.
        wrong: scores of faults.
        halves: for right captions and faults, whether they are of the first half, which gives the threshold.
    """
    threshold = np.quantile(right[halves[0]], FALSE)
    others = wrong[~halves[1]]
    return float((others < threshold).mean()), float((right[~halves[0]] < threshold).mean()), len(others)


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant faults, score them, and print a table and claims."""
    parser = options_with_data(__doc__)
    parser.add_argument("--english", type=Path, help="model folder of an English model")
    parser.add_argument("--german", type=Path, help="model folder of a German model")
    options = parser.parse_args(arguments)
    require_files(options.data, FILES)
    if options.english is None or options.german is None:
        exit_without("--english and --german are needed: see --help")
    from flows.recipe.language_packs import language_pack
    from training.changes import ChangeRules
    from training.data.features import FeatureStore
    from training.scores.encoders import open_model_folder

    photographs = Photographs(options.data, "de", is_quick=options.quick)
    names, place = photographs.names, {name: number for number, name in enumerate(photographs.names)}
    models = {
        language: FeatureStore(open_model_folder(folder, language))
        for language, folder in (("english", options.english), ("german", options.german))
    }
    with ZipFile(options.data / FOLDER / "images.zip") as pictures:
        images = {language: store.images(names, pictures.read, batch_size=64)[0] for language, store in models.items()}
    draws = np.random.default_rng(0)
    is_first = draws.permutation(len(names)) < len(names) // 2
    likeness = images["english"] @ images["english"].T
    np.fill_diagonal(likeness, -1)
    nearest = likeness.argmax(axis=1)
    translated, native = photographs.queries

    def score(language: str, texts: Sequence[str], owners: Any) -> Any:
        """Return cosines. A threshold on them drops the same captions as one on `image_text_score`."""
        return (models[language].texts(texts) * images[language][owners]).sum(axis=1)

    rows: list[Mapping[str, Any]] = []
    claims: dict[str, float] = {}

    def note(name: str, fault: str, right: Any, wrong: Any, owners: tuple[Any, Any]) -> None:
        found, false, number = found_and_false(right, wrong, (is_first[owners[0]], is_first[owners[1]]))
        rows.append({"by": name, "fault": fault, "faults": number, "found": f"{found:.3f}", "false": f"{false:.3f}"})
        claims[f"{name}_{fault.replace(' ', '_')}"] = found

    every = [(text, name) for name in names for text in photographs.english[name]]
    for language, captions in (("english", every), ("german", [*translated.texts, *native.texts])):
        texts, owners = [text for text, _ in captions], np.array([place[name] for _, name in captions])
        right = score(language, texts, owners)
        others = (owners + draws.integers(1, len(names), len(owners))) % len(names)
        note(language, "random photograph", right, score(language, texts, others), (owners, owners))
        note(language, "most similar photograph", right, score(language, texts, nearest[owners]), (owners, owners))

    texts, owners = [text for text, _ in translated.texts], np.array([place[name] for _, name in translated.texts])
    source = score("english", [text for text, _ in translated.english], owners)
    target = score("german", texts, owners)
    mistaken = [*texts[len(texts) // 2 :], *texts[: len(texts) // 2]]  # they are in the order of photographs
    right = target - source  # a low value is a large drop
    note("drop", "random photograph", right, score("german", mistaken, owners) - source, (owners, owners))
    rules = ChangeRules.of(language_pack("de", {}))
    for kind in KINDS:
        changed = [
            (number, found[int(draws.integers(len(found)))].caption)
            for number, text in enumerate(texts)
            if (found := [change for change in rules.changes(text) if change.kind == kind])
        ][:MOST_CHANGED]
        if changed:
            of = np.array([number for number, _ in changed])
            wrong = score("german", [text for _, text in changed], owners[of])
            note("german", f"one wrong {kind}", target, wrong, (owners, owners[of]))
            note("drop", f"one wrong {kind}", right, wrong - source[of], (owners, owners[of]))
    print_table(
        rows, f"{len(names):,} photographs; thresholds at {FALSE:.0%} false from one half, rates from the other"
    )
    if options.quick:
        return judge({name: claims[name] for name in GOALS}, QUICK_GOALS, "quick_")
    return judge({name: claims[name] for name in GOALS}, GOALS)


if __name__ == "__main__":
    sys.exit(main())
