"""Implementation of `mt evaluate`: BLEU, chrF and speed of systems, and the captions on which the first two differ."""

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from data_catalog.base.errors import SettingsError
from data_catalog.base.plain_text import cell_text
from data_catalog.disk.disk_errors import make_writable_folder
from data_catalog.disk.files import sha256_of, write_bytes, write_json
from flows.cli.output import say, say_table
from flows.options import EvaluateOptions
from flows.recipe.engines import one_way_config, packs_of, route_codes, setting_values
from flows.recipe.settings import errors_of
from translation.config import TranslateConfig
from translation.engine import Translator, is_paid
from translation.engines.registry import open_translator
from translation.evaluate import (
    Comparison,
    Pair,
    Run,
    System,
    bleu_tokenizer,
    check_comparable,
    compare,
    effort_rows,
    largest_differences,
    quality_rows,
    read_test_pairs,
    run_json,
    run_systems,
)
from translation.memory import with_memory

SCORES = "scores.json"
NUM_EXAMPLES = 5
MAX_NAME_LETTERS = 60  # of four bytes at most, in the name of a file
_NAME = re.compile(rf"\w[\w.+-]{{0,{MAX_NAME_LETTERS - 1}}}")
_OUTPUT = "output="


def evaluate(pairs_file: Path, from_code: str, to_code: str, options: EvaluateOptions) -> None:
    """Translate the source texts with every system, score the translations, and print the scores.

    Files, systems and settings are checked before any work.
    """
    systems = [_system(name, words) for name, *words in options.systems]
    names: dict[str, str] = {}
    for system in systems:
        key = system.name.casefold()  # some file systems ignore case
        if key in names:
            raise SettingsError(f"--system {system.name}: another system is called {names[key]}: rename one of them")
        names[key] = system.name
    pairs = read_test_pairs(pairs_file)
    tokenizer = options.tokenize or bleu_tokenizer(to_code)
    check_comparable(len(pairs), tokenizer)
    if options.out is not None:
        make_writable_folder(options.out, "--out")
        inputs = [pairs_file, *(system.output for system in systems if system.output is not None)]
        for name in (SCORES, *(f"{system.name}.txt" for system in systems if system.engine is not None)):
            _require_replaceable(options.out / name, inputs, force=options.force)
    with tempfile.TemporaryDirectory() as cache:
        engines = _opened(systems, from_code, to_code, options, Path(cache))
        runs = run_systems(systems, engines, [source for source, _ in pairs])
    references = [reference for _, reference in pairs]
    comparison = compare({run.system.name: run.texts for run in runs}, references, tokenizer=tokenizer)
    _show(runs, comparison, pairs)
    if options.out is not None:
        for run in runs:
            if run.system.engine is not None:
                text = "".join(f"{text}\n" for text in run.texts)
                write_bytes(options.out / f"{run.system.name}.txt", text.encode())
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
        write_json(options.out / SCORES, report)
        say(f"\nwrote {options.out / SCORES} and the translations beside it")


def _system(name: str, words: Sequence[str]) -> System:
    """Return the system that `--system NAME KEY=VALUE ...` describes."""
    with errors_of(f"--system {name}"):
        if not _NAME.fullmatch(name):
            raise SettingsError(
                f"the first word must be a name of up to {MAX_NAME_LETTERS} letters, digits, '.', '+', '-' and '_', as "
                "in --system mine package=FILE"
            )
        if not words:
            raise SettingsError("it has no settings: add engine=argos to use the installed package")
        for word in words:
            _, equals, value = word.partition("=")
            if not equals:
                raise SettingsError(
                    f"{word} is not KEY=VALUE, such as package=FILE. PAIRS.tsv goes before the options."
                )
            if not value:
                raise SettingsError(f"{word} has no value: write one after the =")
        outputs = [word.removeprefix(_OUTPUT) for word in words if word.startswith(_OUTPUT)]
        if outputs and len(words) > 1:
            raise SettingsError(f"{_OUTPUT}FILE takes no other settings, as nothing is translated")
        if outputs:
            return System(name=name, output=Path(outputs[0]))
        return System(name=name, engine=one_way_config(setting_values(words)))


def _require_replaceable(file: Path, inputs: Sequence[Path], *, force: bool) -> None:
    """Refuse to replace an input, what is not a file, and, without `--force`, any file."""
    if not file.exists():
        return
    if not file.is_file() or any(read.exists() and file.samefile(read) for read in inputs):
        raise SettingsError(f"{file} is an input or not a file, so it is not replaced: choose another --out")
    if not force:
        raise SettingsError(f"{file} exists: choose another --out, or replace it with --force")


def _opened(
    systems: Sequence[System], from_code: str, to_code: str, options: EvaluateOptions, cache_dir: Path
) -> dict[str, Translator]:
    """Return the opened engines by the names of their systems."""
    configs = {system.name: system.engine for system in systems if system.engine is not None}
    routes = {name: route_codes(from_code, config, to_code) for name, config in configs.items()}
    ends = route_codes(from_code, TranslateConfig(), to_code)
    packs = packs_of([*ends, *(code for codes in routes.values() for code in codes)], options.language_packs)
    engines = {}
    for name, config in configs.items():
        with errors_of(f"--system {name}"):
            engine = open_translator(config, [packs[code] for code in routes[name]], cache_dir=cache_dir)
        # A memory is used for paid engines only, since a cached translation would distort the measured speed.
        engines[name] = with_memory(engine, options.memory) if is_paid(engine) else engine
    return engines


def _show(runs: Sequence[Run], comparison: Comparison, pairs: Sequence[Pair]) -> None:
    """Print the scores and speeds of all systems, and the captions on which the first two differ most."""
    say(f"{len(pairs):,} pairs, {len(os.sched_getaffinity(0))} CPUs\n")
    say_table(quality_rows(runs, comparison))
    say()
    say_table(effort_rows(runs))
    if len(runs) > 1:
        (first, ours), (second, theirs) = ((run.system.name, run.texts) for run in runs[:2])
        found = largest_differences(ours, theirs, [reference for _, reference in pairs], most=NUM_EXAMPLES)
        equal = f"{first} and {second} have equal chrF on every caption"
        say(f"\n{f'captions on which {first} and {second} differ most in chrF:' if found else equal}")
        for item in found:
            source, reference = pairs[item.place]
            say(f"\n  line {item.place + 1}: {cell_text(source)}")
            say(f"         reference: {cell_text(reference)}")
            say(f"  {item.first_chrf:5.1f}  {first}: {cell_text(ours[item.place])}")
            say(f"  {item.second_chrf:5.1f}  {second}: {cell_text(theirs[item.place])}")
    say("\n±: half of the 95 % confidence interval; p: probability of such a difference by chance; by paired bootstrap")
    for signature in comparison.signatures:
        say(signature)
