"""What the rules drop of real captions: python benchmarks/real_drops.py [--quick] [--data FOLDER] [--stamps FOLDER].

Every rule with its defaults over all rows of the real files, each source in the language that suits it: MSCOCO-IT,
CC3M, MSCOCO, Flickr8k, Multi30k in three languages, WIT and Tux Paint's stamps in four (Debian's
tuxpaint-stamps-default, unpacked somewhere; `--stamps` names the folder). `--page` writes ten examples a rule and
source for people to read. `--sample OUT.tsv` draws drops to be checked by hand, `--sample-size` of them, and
`--kept` captions of each source that stay, to be searched for what should have gone.

Verdicts stand in data/real_drops_checked.tsv, which knows captions by their digests alone. A drop is right if a careful
editor would make it by the rule's own meaning. A near-duplicate is dropped rightly if all that it says of number,
colour, age, place or kind is said by some caption of the image that stays; a caption is mostly names if these are names
of somebody or something, whatever the capitals. `--quick` takes the verdicts as they stand; otherwise those on captions
that no rule drops any more are left out.
"""

import argparse
import csv
import dataclasses
import hashlib
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from data_folder import add_data_option
from real_captions import judge

from data_catalog.plain_text import plain_table
from data_catalog.schema import REJECTED
from flows.dry_run import Dropped, DryRun, write_page

CHECKED = Path(__file__).resolve().parent / "data" / "real_drops_checked.tsv"
QUICK_ROWS = 200
MIN_CHECKED = 200
GOALS = {"false-drop-rate": 0.1, "false-drops-per-row": 0.0005}
WRONG = "wrong"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a reader said of one drop; `digest` stands for the caption."""

    source: str
    step: str
    rule: str
    digest: str
    verdict: str
    why: str


def digest_of(caption: str) -> str:
    return hashlib.sha256(caption.encode("utf-8")).hexdigest()[:16]


def rule_of(row: Mapping[str, Any]) -> str:
    """As the dry run names rules."""
    named = row["drop_reason"] == "caption_boilerplate"
    return f"{row['drop_reason']}: {row['detail']}" if named else str(row["drop_reason"])


def drops_by_rule(captions: pa.Table) -> dict[tuple[str, str, str], list[Mapping[str, Any]]]:
    """Rejected rows by source, step and rule, each caption once."""
    found: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in captions.to_pylist():
        if row["outcome"] == REJECTED and row["source_caption"]:
            found[row["source"], row["step"], rule_of(row)][row["source_caption"]] = row
    return {key: list(rows.values()) for key, rows in sorted(found.items())}


def drawn_drops(captions: pa.Table, size: int, seed: int) -> list[Mapping[str, Any]]:
    """Drops in turns from every rule of every source, so that small rules are seen whole."""
    queues = [random.Random(seed).sample(rows, len(rows)) for rows in drops_by_rule(captions).values()]
    drawn: list[Mapping[str, Any]] = []
    while len(drawn) < size and any(queues):
        for queue in queues:
            if queue and len(drawn) < size:
                drawn.append(queue.pop())
    return sorted(drawn, key=lambda row: (row["source"], row["step"], rule_of(row), row["source_caption"]))


def sample_rows(captions: pa.Table, size: int, num_kept: int, seed: int) -> Iterator[list[str]]:
    """The sheet that a reader fills: drops, then captions of each source that stay."""
    yield ["source", "step", "rule", "digest", "verdict", "why", "detail", "caption"]
    for row in drawn_drops(captions, size, seed):
        caption = row["source_caption"]
        yield [row["source"], row["step"], rule_of(row), digest_of(caption), "", "", row["detail"] or "", caption]
    kept: dict[str, list[str]] = defaultdict(list)
    for row in captions.select(["source", "source_caption", "outcome"]).to_pylist() if num_kept else ():
        if row["outcome"] != REJECTED:
            kept[row["source"]].append(row["source_caption"])
    for source, texts in kept.items():
        for text in random.Random(seed).sample(texts, min(num_kept, len(texts))):
            yield [source, "", "", digest_of(text), "", "", "", text]


def write_sample(path: Path, rows: Iterator[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)


def read_verdicts() -> list[Verdict]:
    """What was checked by hand."""
    with CHECKED.open(encoding="utf-8", newline="") as file:
        return [Verdict(**cells) for cells in csv.DictReader(file, delimiter="\t")]


def without_mended(verdicts: Sequence[Verdict], captions: pa.Table) -> list[Verdict]:
    """Without those on captions that were looked at and are no longer dropped for the same reason."""
    drops = {(*key, digest_of(row["source_caption"])) for key, rows in drops_by_rule(captions).items() for row in rows}
    cells = zip(captions.column("source").to_pylist(), captions.column("source_caption").to_pylist(), strict=True)
    seen = {(source, digest_of(caption)) for source, caption in set(cells) if caption}
    return [
        said
        for said in verdicts
        if (said.source, said.digest) not in seen or (said.source, said.step, said.rule, said.digest) in drops
    ]


def source_table(run: DryRun) -> list[dict[str, object]]:
    """A row a source: how many rows were looked at, and how many go."""
    gone = Counter[str]()
    for found in run.dropped:
        gone[found.source] += found.num_rows
    return [
        {"source": name, "rows": count, "dropped": gone[name], "share": f"{gone[name] / count:.2%}" if count else ""}
        for name, count in run.num_rows.items()
    ]


def rates(verdicts: Sequence[Verdict], dropped: Sequence[Dropped]) -> list[dict[str, object]]:
    """A row a rule: what was checked and found wrong, beside how much the rule drops."""
    checked = Counter((said.step, said.rule) for said in verdicts)
    wrong = Counter((said.step, said.rule) for said in verdicts if said.verdict == WRONG)
    rows: Counter[tuple[str, str]] = Counter()
    for found in dropped:
        rows[found.step, found.rule] += found.num_rows
    return [
        {
            "step": step,
            "rule": rule,
            "dropped": rows[step, rule],
            "checked": checked[step, rule],
            "wrong": wrong[step, rule],
            "share": f"{wrong[step, rule] / checked[step, rule]:.1%}" if checked[step, rule] else "",
        }
        for step, rule in sorted(rows.keys() | checked.keys())
    ]


def tell_claims(verdicts: Sequence[Verdict], false_per_row: float | None) -> bool:
    """Print a line a claim; whether all hold."""
    wrong = sum(said.verdict == WRONG for said in verdicts)
    measured = {"false-drop-rate": wrong / max(1, len(verdicts))}
    if false_per_row is not None:
        measured["false-drops-per-row"] = false_per_row
    enough = len(verdicts) >= MIN_CHECKED
    print(f"claim checked-drops {len(verdicts)} goal {MIN_CHECKED} {'ok' if enough else 'short'}")
    for name, value in measured.items():
        print(f"claim {name} {value:.4g} goal {GOALS[name]:g} {'ok' if value <= GOALS[name] else 'short'}")
    return enough and all(value <= GOALS[name] for name, value in measured.items())


def false_drops_per_row(table: Sequence[Mapping[str, Any]], num_rows: int) -> float:
    """An estimate: what each rule drops, times the share that was wrong of what was checked of it."""
    wrong: float = sum(row["dropped"] * row["wrong"] / row["checked"] for row in table if row["checked"])
    return wrong / max(1, num_rows)


def main() -> int:
    """The tables, then a line a claim; 1 if a claim is short."""
    options = parsed_options()
    checked = verdicts = read_verdicts()
    run = judge(options.data, options.stamps, QUICK_ROWS if options.quick else 0)
    if run is None:
        print(f"no real captions in {options.data}: what follows is what was checked by hand\n")
    else:
        tell_run(run, options)
        if not options.quick:  # a sample has drops that are none in the whole, and lacks others
            verdicts = without_mended(checked, run.captions)
    num_wrong = sum(said.verdict == WRONG for said in checked)
    print(f"{len(checked)} drops were checked by hand, {num_wrong} of them wrong;", end=" ")
    print(f"{len(checked) - len(verdicts)} of them are drops no more, and are left out:\n")
    table = rates(verdicts, run.dropped if run else [])
    print(plain_table(table))
    num_rows = sum(run.num_rows.values()) if run and not options.quick else 0
    holds = tell_claims(verdicts, false_drops_per_row(table, num_rows) if num_rows else None)
    return 0 if holds else 1


def tell_run(run: DryRun, options: argparse.Namespace) -> None:
    """Print what each rule drops; write the page and the sample that are asked for."""
    print(f"{plain_table(source_table(run))}\n\n{plain_table(run.rows())}\n")
    if options.page:
        write_page(run, options.page, name="a recipe of defaults")
    if options.sample:
        rows = sample_rows(run.captions, options.sample_size, options.kept, options.seed)
        write_sample(options.sample, rows)


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS} rows of each source")
    add_data_option(parser)
    parser.add_argument("--stamps", type=Path, help="folder of Tux Paint's stamps")
    parser.add_argument("--page", type=Path, help="write examples as a page of HTML")
    parser.add_argument("--sample", type=Path, help="write drops to be checked by hand as TSV")
    parser.add_argument("--sample-size", type=int, default=200, help="how many")
    parser.add_argument("--kept", type=int, default=0, help="and how many captions that stay, of each source")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
