"""What the rules drop of real captions: python benchmarks/real_drops.py [--quick] [--data FOLDER] [--stamps FOLDER].

Every rule with its defaults over all rows of the real files, each source in the language that suits it: MSCOCO-IT,
CC3M, MSCOCO, Flickr8k, Multi30k in three languages, WIT and Tux Paint's stamps in four (Debian's
tuxpaint-stamps-default, unpacked somewhere; `--stamps` names the folder). `--page` writes ten examples a rule and
source for people to read.

Verdicts stand in data/real_drops_checked.tsv, which knows captions by their digests alone. A drop is right if a careful
editor would make it by the rule's own meaning. A near-duplicate is dropped rightly if all that it says of number,
colour, age, place or kind is said by some caption of the image that stays; a caption is mostly names if these are names
of somebody or something, whatever the capitals. `--quick` takes the verdicts as they stand; otherwise those on captions
that no rule drops any more are left out.
"""

import csv
import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
from data_folder import multi30k, options_with_data
from harness import HERE, Goals, judge, tell

from data_catalog.schema import REJECTED
from flows.dry_run import Dropped, DryRun, dry_run, write_page
from flows.recipe.recipe import load_recipe

CHECKED = HERE / "data" / "real_drops_checked.tsv"
QUICK_ROWS, NUM_EXAMPLES = 200, 10
GOALS: Goals = {"checked-drops": (">=", 200), "false-drop-rate": ("<=", 0.1), "false-drops-per-row": ("<=", 0.0005)}
# Languages that no pack ships for.
PACKS = {"fr": HERE / "data" / "french.toml"}
# Kind, files and more settings of the sources in files of their own formats, by language.
WIT = {"caption_kinds": ["reference", "attribution", "alt_text"]}
NATIVE: Mapping[str, Sequence[tuple[str, str, dict[str, Any]]]] = {
    "it": (("mscoco_it", "mscoco_it/*.json.gz", {}), ("wit", "wit/*.tsv", WIT)),
    "en": (
        ("cc3m", "cc3m/*.tsv", {}),
        ("flickr8k", "flickr8k/Flickr8k.token*.txt", {"images": "images"}),
        ("mscoco", "coco/captions_*.json", {}),
    ),
    "de": (("wit", "wit/train-*.tsv", WIT),),
    "fr": (),
}
Settings = dict[str, Any]
Verdict = Mapping[str, str]  # source, step, rule, digest of the caption, verdict, why


def stamps(folder: Path | None, language: str) -> list[str]:
    """Tux Paint's captions in one language: a file's first line is English, the others are `xx.utf8=caption`."""
    found = []
    for path in sorted(folder.rglob("*.txt")) if folder else ():
        if any(path.with_suffix(suffix).exists() for suffix in (".png", ".svg")):
            first, *others = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
            by_code = dict(line.split(".utf8=", 1) for line in others if ".utf8=" in line)
            found.append(first if language == "en" else by_code.get(language, ""))
    return [caption for caption in found if caption]


def sources_of(data: Path, stamps_folder: Path | None, language: str, folder: Path) -> dict[str, Settings]:
    """Settings of all sources in a language; those without a format of their own are written as pairs."""
    (folder / "images").mkdir(exist_ok=True)
    sources: dict[str, Settings] = {}
    for kind, files, more in NATIVE[language]:
        if any(data.glob(files)):
            name = "wit_de" if (kind, language) == ("wit", "de") else kind
            sources[name] = {"kind": kind, "files": [str(data / files)], **more}
            if "images" in more:
                sources[name]["images"] = str(folder / "images")
    own = {"multi30k": multi30k(data, language, ("train", "val")), "tuxpaint": stamps(stamps_folder, language)}
    for name, captions in own.items():
        if captions:
            path = folder / f"{name}.{language}.jsonl"
            rows = ({"url": f"https://{name}.example/{at}.jpg", "caption": text} for at, text in enumerate(captions))
            path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
            columns = {"url_column": "url", "caption_column": "caption", "lang": language}
            sources[f"{name}_{language}"] = {"kind": "pairs", "files": [str(path)], **columns}
    return sources


def recipe_text(language: str, sources: Mapping[str, Settings]) -> str:
    """A recipe in TOML, every rule as it is by default; texts and lists of texts are JSON's."""
    lines = [f'target_language = "{language}"', f'source_language = "{language}"', 'split.by = "hash"']
    if language in PACKS:
        lines.append(f"language_pack = {json.dumps(str(PACKS[language]))}")
    for name, settings in sources.items():
        lines += [f"[sources.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    return "\n".join(lines)


def run_all(data: Path, stamps_folder: Path | None, num_rows: int) -> DryRun | None:
    """What became of the rows of all sources in all languages, 0 rows: all; None where there is no source."""
    runs = []
    with tempfile.TemporaryDirectory(prefix="real-drops-") as temporary:
        folder = Path(temporary)
        for language in NATIVE:
            if sources := sources_of(data, stamps_folder, language, folder):
                recipe = folder / f"real-{language}.toml"
                recipe.write_text(recipe_text(language, sources), "utf-8")
                loaded = load_recipe(str(recipe), root=folder)
                runs.append(dry_run(loaded, root=folder, num_rows=num_rows, num_examples=NUM_EXAMPLES))
    if not runs:
        return None
    return DryRun(
        num_rows={name: count for run in runs for name, count in run.num_rows.items()},
        dropped=list(chain.from_iterable(run.dropped for run in runs)),
        num_unjudged={name: count for run in runs for name, count in run.num_unjudged.items()},
        captions=pa.concat_tables([run.captions for run in runs]),
    )


def rule_of(row: Mapping[str, Any]) -> str:
    """As the dry run names rules."""
    named = row["drop_reason"] == "caption_boilerplate"
    return f"{row['drop_reason']}: {row['detail']}" if named else str(row["drop_reason"])


def without_mended(verdicts: Sequence[Verdict], captions: pa.Table) -> list[Verdict]:
    """Without those on captions that were looked at and are no longer dropped for the same reason."""
    known = [row for row in captions.to_pylist() if row["source_caption"]]
    rows = [(row, hashlib.sha256(row["source_caption"].encode("utf-8")).hexdigest()[:16]) for row in known]
    seen = {(row["source"], digest) for row, digest in rows}
    drops = {(row["source"], row["step"], rule_of(row), digest) for row, digest in rows if row["outcome"] == REJECTED}

    def stands(said: Verdict) -> bool:
        is_seen = (said["source"], said["digest"]) in seen
        return not is_seen or (said["source"], said["step"], said["rule"], said["digest"]) in drops

    return list(filter(stands, verdicts))


def rates(verdicts: Sequence[Verdict], dropped: Sequence[Dropped]) -> list[dict[str, Any]]:
    """A row a rule: what was checked and found wrong, beside how much the rule drops."""
    checked = Counter((said["step"], said["rule"]) for said in verdicts)
    wrong = Counter((said["step"], said["rule"]) for said in verdicts if said["verdict"] == "wrong")
    rows: Counter[tuple[str, str]] = Counter()
    for found in dropped:
        rows[found.step, found.rule] += found.num_rows
    return [
        {"step": key[0], "rule": key[1], "dropped": rows[key], "checked": checked[key], "wrong": wrong[key]}
        for key in sorted(rows.keys() | checked.keys())
    ]


def main() -> int:
    """The tables, then a line a claim."""
    parser = options_with_data(__doc__)
    parser.add_argument("--stamps", type=Path, help="folder of Tux Paint's stamps")
    parser.add_argument("--page", type=Path, help="write examples as a page of HTML")
    options = parser.parse_args()
    with CHECKED.open(encoding="utf-8", newline="") as file:
        checked = verdicts = list(csv.DictReader(file, delimiter="\t"))
    run = run_all(options.data, options.stamps, QUICK_ROWS if options.quick else 0)
    if run is None:
        print(f"no real captions in {options.data}: what follows is what was checked by hand\n")
    else:
        gone = Counter(dict.fromkeys(run.num_rows, 0))
        for found in run.dropped:
            gone[found.source] += found.num_rows
        tell([{"source": name, "rows": count, "dropped": gone[name]} for name, count in run.num_rows.items()])
        tell(run.rows())
        if options.page:
            write_page(run, options.page, name="a recipe of defaults")
        if not options.quick:  # a sample has drops that are none in the whole, and lacks others
            verdicts = without_mended(checked, run.captions)
    left_out = len(checked) - len(verdicts)
    table = rates(verdicts, run.dropped if run else [])
    tell(table, f"{len(checked)} drops were checked by hand; {left_out} of them are drops no more, and are left out")
    num_wrong = sum(row["wrong"] for row in table)
    values = {"checked-drops": len(verdicts), "false-drop-rate": num_wrong / max(1, len(verdicts))}
    if run and not options.quick:
        # An estimate: what each rule drops, times the share that was wrong of what was checked of it.
        wrong = sum(row["dropped"] * row["wrong"] / row["checked"] for row in table if row["checked"])
        values["false-drops-per-row"] = wrong / max(1, sum(run.num_rows.values()))
    return judge(values, GOALS)


if __name__ == "__main__":
    sys.exit(main())
