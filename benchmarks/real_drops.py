"""Drops of the rules on real captions: python benchmarks/real_drops.py [--quick] [--data FOLDER] [--stamps FOLDER].

Every rule runs with its defaults over all rows of the real files, each source in its language: MSCOCO-IT, CC3M, MSCOCO,
Flickr8k, Multi30k in three languages, WIT, and Tux Paint's stamps in four (Debian's tuxpaint-stamps-default, unpacked;
`--stamps` names the folder). `--examples` prints ten for each rule and source for people to read.

Verdicts are in data/real_drops_checked.tsv, which identifies captions only by their digests. A drop is right if a
careful editor would make it by the rule's own meaning. The drop of a near-duplicate is right if a remaining caption of
the image has all its information about number, colour, age, place or kind. A caption is mostly names if its words are
names of persons or things, whatever their capitals. Verdicts on captions that no rule drops any more are left out;
those on captions that the files lack count as they are. `--quick` runs the rules on samples, and claims nothing.
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
from harness import HERE, Goals, exit_without, judge, print_table

from data_catalog.rows.schema import REJECTED
from flows.dry_run import Dropped, DryRun, dry_run
from flows.recipe.recipe import load_recipe

CHECKED = HERE / "data" / "real_drops_checked.tsv"
QUICK_ROWS, NUM_EXAMPLES = 200, 10
GOALS: Goals = {"checked-drops": (">=", 200), "false-drop-rate": ("<=", 0.1), "false-drops-per-row": ("<=", 0.0005)}
# Packs for languages that have none in the package.
PACKS = {"fr": HERE / "data" / "french.toml"}
# Sources with formats of their own, by language: kind, files and further settings.
WIT = {"caption_kinds": ["reference", "attribution", "alt_text"]}
NATIVE: Mapping[str, Sequence[tuple[str, str, dict[str, Any]]]] = {
    "it": (("mscoco_it", "mscoco_it/*.json.gz", {}), ("wit", "wit/train-*.tsv", WIT)),
    "en": (
        ("cc3m", "cc3m/*.tsv", {}),
        ("flickr8k", "flickr8k/Flickr8k.token*.txt", {"images": "images"}),
        ("mscoco", "coco/captions_*.json", {}),
    ),
    "de": (("wit", "wit/train-*.tsv", WIT),),
    "fr": (),
}
Settings = dict[str, Any]
Verdict = Mapping[str, str]  # source, step, rule, digest of the caption, verdict, reason


def stamps(folder: Path | None, language: str) -> list[str]:
    """Return Tux Paint's captions in one language.

    A file's first line is English, the others are `xx.utf8=caption`.
    """
    found = []
    for path in sorted(folder.rglob("*.txt")) if folder else ():
        if any(path.with_suffix(suffix).exists() for suffix in (".png", ".svg")):
            first, *others = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
            by_code = dict(line.split(".utf8=", 1) for line in others if ".utf8=" in line)
            found.append(first if language == "en" else by_code.get(language, ""))
    return [caption for caption in found if caption]


def sources_of(data: Path, stamps_folder: Path | None, language: str, folder: Path) -> dict[str, Settings]:
    """Return the settings of all sources in a language; sources without a format of their own are written as pairs."""
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
    """Return a recipe in TOML with the defaults of every rule; strings and lists are written as JSON."""
    lines = [f'target_language = "{language}"', f'source_language = "{language}"', 'split.by = "hash"']
    if language in PACKS:
        lines.append(f"language_pack = {json.dumps(str(PACKS[language]))}")
    for name, settings in sources.items():
        lines += [f"[sources.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    return "\n".join(lines)


def run_all(data: Path, stamps_folder: Path | None, num_rows: int) -> DryRun | None:
    """Return the dry run over all sources in all languages; `num_rows` 0 means all rows. None if there is no source."""
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
    """Return the name of the rule that dropped a row, as in the dry run."""
    named = row["drop_reason"] == "caption_boilerplate"
    return f"{row['drop_reason']}: {row['detail']}" if named else str(row["drop_reason"])


def without_mended(verdicts: Sequence[Verdict], captions: pa.Table) -> list[Verdict]:
    """Return the verdicts without those on captions that were read again and are not dropped for that reason now."""
    known = [row for row in captions.to_pylist() if row["source_caption"]]
    rows = [(row, hashlib.sha256(row["source_caption"].encode("utf-8")).hexdigest()[:16]) for row in known]
    seen = {(row["source"], digest) for row, digest in rows}
    drops = {(row["source"], row["step"], rule_of(row), digest) for row, digest in rows if row["outcome"] == REJECTED}

    def is_valid(verdict: Verdict) -> bool:
        is_seen = (verdict["source"], verdict["digest"]) in seen
        return not is_seen or (verdict["source"], verdict["step"], verdict["rule"], verdict["digest"]) in drops

    return list(filter(is_valid, verdicts))


def rates(verdicts: Sequence[Verdict], dropped: Sequence[Dropped]) -> list[dict[str, Any]]:
    """Return one row for each rule: its drops, the checked ones, and the wrong ones among them."""
    checked = Counter((verdict["step"], verdict["rule"]) for verdict in verdicts)
    wrong = Counter((verdict["step"], verdict["rule"]) for verdict in verdicts if verdict["verdict"] == "wrong")
    rows: Counter[tuple[str, str]] = Counter()
    for found in dropped:
        rows[found.step, found.rule] += found.num_rows
    return [
        {"step": key[0], "rule": key[1], "dropped": rows[key], "checked": checked[key], "wrong": wrong[key]}
        for key in sorted(rows.keys() | checked.keys())
    ]


def main() -> int:
    """Print the tables, then one line for each claim."""
    parser = options_with_data(__doc__)
    parser.add_argument("--stamps", type=Path, help="folder of Tux Paint's stamps")
    parser.add_argument("--examples", action="store_true", help="print examples of each rule")
    options = parser.parse_args()
    with CHECKED.open(encoding="utf-8", newline="") as file:
        checked = list(csv.DictReader(file, delimiter="\t"))
    run = run_all(options.data, options.stamps, QUICK_ROWS if options.quick else 0)
    if run is None:
        exit_without(f"no real captions in {options.data}")
    gone = Counter(dict.fromkeys(run.num_rows, 0))
    for found in run.dropped:
        gone[found.source] += found.num_rows
    print_table([{"source": name, "rows": count, "dropped": gone[name]} for name, count in run.num_rows.items()])
    print_table(run.rows())
    for rule in run.dropped if options.examples else ():
        print(
            f"{rule.source}, {rule.step}, {rule.rule}",
            *(f"  {text}  [{detail}]" for text, detail in rule.examples),
            sep="\n",
        )
    title = f"{len(checked)} drops were checked by hand"
    if options.quick:
        print_table(rates(checked, run.dropped), title)
        return 0
    verdicts = without_mended(checked, run.captions)
    table = rates(verdicts, run.dropped)
    print_table(table, f"{title}; {len(checked) - len(verdicts)} are no longer dropped and left out")
    num_wrong = sum(row["wrong"] for row in table)
    # An estimate: the drops of each rule times the share of wrong ones among its checked drops.
    wrong = sum(row["dropped"] * row["wrong"] / row["checked"] for row in table if row["checked"])
    values = {"checked-drops": len(verdicts), "false-drop-rate": num_wrong / max(1, len(verdicts))}
    return judge(values | {"false-drops-per-row": wrong / max(1, sum(run.num_rows.values()))}, GOALS)


if __name__ == "__main__":
    sys.exit(main())
