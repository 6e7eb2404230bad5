"""What `mt evaluate` does: BLEU, chrF and speed of systems side by side, and where the first two differ most."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import SettingsError
from data_catalog.settings import plain
from data_catalog.storage.shards import sha256_of, write_bytes, write_json
from flows.cli.output import say
from flows.cli.systems import Route, Run, System, named_systems, run_systems
from flows.recipe.engines import make_folder
from flows.tables import cell_text, plain_table
from translation.engines.cpus import num_cpus
from translation.evaluate import Pair, largest_differences, read_test_pairs
from translation.scores import Comparison, Estimate, bleu_tokenizer, check_comparable, compare

SCORES = "scores.json"
NUM_EXAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Options of an evaluation, as `flows.cli.mt.evaluate` documents it."""

    pairs: Path
    from_code: str
    to_code: str
    systems: Sequence[Sequence[str]]
    language_packs: Sequence[str] = ()
    memory: Path | None = None
    tokenize: str | None = None
    out: Path | None = None
    force: bool = False


def evaluate(options: Evaluation) -> None:
    """Translate the sources with every system, score what comes out, and show it.

    Raises:
        PipelineError: files, systems or settings are wrong; all is looked at before any work.
    """
    systems = named_systems(options.systems)
    pairs = read_test_pairs(options.pairs)
    tokenizer = options.tokenize or bleu_tokenizer(options.to_code)
    check_comparable(len(pairs), tokenizer)
    if options.out is not None:
        _check_out(options.out, options, systems)
    with tempfile.TemporaryDirectory() as cache:
        route = Route(
            from_code=options.from_code,
            to_code=options.to_code,
            language_packs=options.language_packs,
            memory=options.memory,
        )
        runs = run_systems(systems, [source for source, _ in pairs], route, cache_dir=Path(cache))
    references = [reference for _, reference in pairs]
    comparison = compare({run.system.name: run.texts for run in runs}, references, tokenizer=tokenizer)
    _show(runs, comparison, pairs)
    if options.out is not None:
        _save(options.out, options, runs, comparison)


def _check_out(out: Path, options: Evaluation, systems: Sequence[System]) -> None:
    make_folder(out, "--out")
    inputs = [options.pairs, *(system.output for system in systems if system.output is not None)]
    for name in (SCORES, *(_file_name(system) for system in systems if system.engine is not None)):
        file = out / name
        if not file.exists():
            continue
        if not file.is_file() or any(read.exists() and file.samefile(read) for read in inputs):
            raise SettingsError(f"{file} cannot be replaced, as it is read or no file: name another folder (--out)")
        if not options.force:
            raise SettingsError(f"{file} exists: name another folder (--out), or replace it with --force")


def _file_name(system: System) -> str:
    return f"{system.name}.txt"


def _show(runs: Sequence[Run], comparison: Comparison, pairs: Sequence[Pair]) -> None:
    say(f"{len(pairs):,} pairs, {num_cpus()} CPUs")
    say()
    say(plain_table([_quality(run.system.name, comparison, runs[0].system.name) for run in runs]))
    say()
    say(plain_table([_effort(run) for run in runs]))
    if len(runs) > 1:
        _show_differences(runs[0], runs[1], pairs)
    say()
    say("±: half of the 95 % interval; p: how often chance alone makes such a difference; both by paired bootstrap")
    for signature in comparison.signatures:
        say(signature)


def _quality(name: str, comparison: Comparison, first: str) -> dict[str, object]:
    bleu, chrf = comparison.bleu[name], comparison.chrf[name]
    row = {"system": name, "BLEU": _score(bleu), "chrF": _score(chrf)}
    if len(comparison.bleu) > 1:
        row |= {f"BLEU beside {first}": _difference(bleu), f"chrF beside {first}": _difference(chrf)}
    return dict(row)


def _score(estimate: Estimate) -> str:
    return f"{estimate.score:6.2f} ± {estimate.interval:.2f}"


def _difference(estimate: Estimate) -> str:
    if estimate.difference is None:
        return ""
    p_value = "" if estimate.p_value is None else f" (p {estimate.p_value:.3f})"
    return f"{estimate.difference:+6.2f}{p_value}"


def _effort(run: Run) -> dict[str, object]:
    speed = run.speed
    return {
        "system": run.system.name,
        "captions/s": round(speed.captions_per_second, 1) if speed else None,
        "words/s": round(speed.words_per_second) if speed else None,
        "CPU ms a caption": round(1000 * speed.cpu_seconds / len(run.translations), 2) if speed else None,
        "flagged": run.num_flagged,
        "mean score": None if run.mean_score is None else round(run.mean_score, 3),
    }


def _show_differences(first: Run, second: Run, pairs: Sequence[Pair]) -> None:
    ours, theirs = first.texts, second.texts
    found = largest_differences(ours, theirs, [reference for _, reference in pairs], most=NUM_EXAMPLES)
    say()
    if not found:
        say(f"{first.system.name} and {second.system.name} do equally well on every caption")
        return
    say(f"where {first.system.name} and {second.system.name} differ most, by the chrF of a caption:")
    for item in found:
        source, reference = pairs[item.place]
        say(f"\n  line {item.place + 1}: {cell_text(source)}")
        say(f"         reference: {cell_text(reference)}")
        say(f"  {item.first_chrf:5.1f}  {first.system.name}: {cell_text(ours[item.place])}")
        say(f"  {item.second_chrf:5.1f}  {second.system.name}: {cell_text(theirs[item.place])}")


def _save(out: Path, options: Evaluation, runs: Sequence[Run], comparison: Comparison) -> None:
    for run in runs:
        if run.system.engine is not None:
            content = "".join(f"{text}\n" for text in run.texts).encode()
            write_bytes(out / _file_name(run.system), content)
    report = {
        "pairs": str(options.pairs),
        "pairs_sha256": sha256_of(options.pairs),
        "num_pairs": len(runs[0].translations),
        "from_code": options.from_code,
        "to_code": options.to_code,
        "num_cpus": num_cpus(),
        "signatures": list(comparison.signatures),
        "systems": [_report(run, comparison) for run in runs],
    }
    write_json(out / SCORES, report)
    say()
    say(f"wrote {out / SCORES} and the translations beside it")


def _report(run: Run, comparison: Comparison) -> Mapping[str, Any]:
    system = run.system
    return {
        "name": system.name,
        "settings": None if system.engine is None else plain(system.engine),
        "output": None if system.output is None else str(system.output),
        "fingerprint": run.fingerprint,
        "bleu": asdict(comparison.bleu[system.name]),
        "chrf": asdict(comparison.chrf[system.name]),
        "speed": None if run.speed is None else asdict(run.speed),
        "num_flagged": run.num_flagged,
        "mean_score": run.mean_score,
    }
