"""What `mt evaluate` does: BLEU, chrF and speed of systems side by side, and where the first two differ most."""

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from data_catalog.errors import PipelineError, SettingsError
from data_catalog.plain_text import cell_text
from data_catalog.storage.disk_errors import make_writable_folder
from data_catalog.storage.shards import sha256_of, write_bytes, write_json
from flows.cli.options import EvaluateOptions
from flows.cli.output import say, say_table
from flows.recipe.engines import one_way_config, packs_of, route_codes, setting_values
from translation.config import TranslateConfig
from translation.engine import Translator, is_paid
from translation.evaluate import Pair, largest_differences, read_test_pairs
from translation.memory import remembering
from translation.registry import open_translator
from translation.scores import Comparison, bleu_tokenizer, check_comparable, compare
from translation.systems import Run, System, effort_rows, quality_rows, run_json, run_systems

SCORES = "scores.json"
NUM_EXAMPLES = 5
MAX_NAME_LETTERS = 60  # of four bytes at most, in the name of a file
_NAME = re.compile(rf"\w[\w.+-]{{0,{MAX_NAME_LETTERS - 1}}}")
_OUTPUT = "output="


def evaluate(pairs_file: Path, from_code: str, to_code: str, options: EvaluateOptions) -> None:
    """Translate the sources with every system, score what comes out, and show it.

    Raises:
        PipelineError: files, systems or settings are wrong; all is looked at before any work.
    """
    systems = named_systems(options.systems)
    pairs = read_test_pairs(pairs_file)
    tokenizer = options.tokenize or bleu_tokenizer(to_code)
    check_comparable(len(pairs), tokenizer)
    if options.out is not None:
        _check_out(options.out, pairs_file, systems, force=options.force)
    with tempfile.TemporaryDirectory() as cache:
        engines = _opened(systems, (from_code, to_code), options, Path(cache))
        runs = run_systems(systems, engines, [source for source, _ in pairs])
    references = [reference for _, reference in pairs]
    comparison = compare({run.system.name: run.texts for run in runs}, references, tokenizer=tokenizer)
    _show(runs, comparison, pairs)
    if options.out is not None:
        report = {
            "pairs": str(pairs_file),
            "pairs_sha256": sha256_of(pairs_file),
            "num_pairs": len(pairs),
            "from_code": from_code,
            "to_code": to_code,
            "num_cpus": len(os.sched_getaffinity(0)),
            "signatures": list(comparison.signatures),
            "systems": [run_json(run, comparison) for run in runs],
        }
        for run in runs:
            if run.system.engine is not None:
                content = "".join(f"{text}\n" for text in run.texts).encode()
                write_bytes(options.out / _file_name(run.system), content)
        write_json(options.out / SCORES, report)
        say()
        say(f"wrote {options.out / SCORES} and the translations beside it")


def named_systems(named: Sequence[Sequence[str]]) -> list[System]:
    """Systems as `--system NAME KEY=VALUE ...` names them.

    Raises:
        SettingsError: a name is missing, unfit for a file or given twice; settings are missing, wrong or none of ours.
    """
    systems = [_system(name, words) for name, *words in named]
    names: dict[str, str] = {}
    for system in systems:
        key = system.name.casefold()  # some disks tell no capitals from small letters
        if key in names:
            raise SettingsError(f"--system {system.name}: {names[key]} is there already: name one of them otherwise")
        names[key] = system.name
    return systems


def _system(name: str, words: Sequence[str]) -> System:
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"--system {name}: a system's name comes first, of up to {MAX_NAME_LETTERS} letters, digits, '.', '+', '-' "
            "and '_', as in --system mine package=FILE"
        )
    _check_words(name, words)
    outputs = [word.removeprefix(_OUTPUT) for word in words if word.startswith(_OUTPUT)]
    if outputs and len(words) > 1:
        raise SettingsError(f"--system {name}: {_OUTPUT}FILE stands alone; its translations are there already")
    if outputs:
        return System(name=name, output=Path(outputs[0]))
    try:
        return System(name=name, engine=one_way_config(setting_values(words)))
    except SettingsError as error:
        raise SettingsError(f"--system {name}: {error}") from error


def _check_words(name: str, words: Sequence[str]) -> None:
    if not words:
        raise SettingsError(f"--system {name} says nothing of it: give engine=argos for the package that is installed")
    for word in words:
        _, equals, value = word.partition("=")
        if not equals:
            raise SettingsError(
                f"--system {name}: {word} is no KEY=VALUE, such as package=FILE; PAIRS.tsv stands before the options"
            )
        if not value:
            raise SettingsError(f"--system {name}: {word} names nothing: write its value behind the =")


def _opened(
    systems: Sequence[System], asked: tuple[str, str], options: EvaluateOptions, cache_dir: Path
) -> dict[str, Translator]:
    """Return engines by the name of their system."""
    from_code, to_code = asked
    routes = {
        system.name: route_codes(from_code, system.engine, to_code) for system in systems if system.engine is not None
    }
    ends = route_codes(from_code, TranslateConfig(), to_code)
    packs = packs_of([*ends, *(code for codes in routes.values() for code in codes)], options.language_packs)
    engines = {}
    for system in systems:
        if system.engine is None:
            continue
        route = [packs[code] for code in routes[system.name]]
        try:
            engine = open_translator(system.engine, route, cache_dir=cache_dir)
        except PipelineError as error:
            raise type(error)(f"--system {system.name}: {error}") from error
        # What is not paid for is never taken from a memory: its speed is asked for.
        engines[system.name] = remembering(engine, options.memory) if is_paid(engine) else engine
    return engines


def _check_out(out: Path, pairs: Path, systems: Sequence[System], *, force: bool) -> None:
    make_writable_folder(out, "--out")
    inputs = [pairs, *(system.output for system in systems if system.output is not None)]
    for name in (SCORES, *(_file_name(system) for system in systems if system.engine is not None)):
        file = out / name
        if not file.exists():
            continue
        if not file.is_file() or any(read.exists() and file.samefile(read) for read in inputs):
            raise SettingsError(f"{file} cannot be replaced, as it is read or no file: name another folder (--out)")
        if not force:
            raise SettingsError(f"{file} exists: name another folder (--out), or replace it with --force")


def _file_name(system: System) -> str:
    return f"{system.name}.txt"


def _show(runs: Sequence[Run], comparison: Comparison, pairs: Sequence[Pair]) -> None:
    say(f"{len(pairs):,} pairs, {len(os.sched_getaffinity(0))} CPUs")
    say()
    say_table(quality_rows(runs, comparison))
    say()
    say_table(effort_rows(runs))
    if len(runs) > 1:
        _show_differences(runs[0], runs[1], pairs)
    say()
    say("±: half of the 95 % interval; p: how often chance alone makes such a difference; both by paired bootstrap")
    for signature in comparison.signatures:
        say(signature)


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
