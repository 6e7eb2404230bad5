"""Commands around translation packages: mt train, evaluate, install, packages, memory; and scenes-pairs."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from data_catalog.errors import InputError, SettingsError
from data_catalog.plain_text import command, plain_table
from flows.cli.options import (
    DEFAULT_ROOT,
    EvaluateOptions,
    From,
    MaybeFrom,
    MaybeTo,
    Number,
    PrivateHosts,
    Root,
    To,
    Words,
)
from flows.cli.output import say, say_table

if TYPE_CHECKING:
    from translation.memory import TranslationMemory

MEMORY_FOLDER = "memory"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of the training of a package."""

    out: Annotated[Path, Parameter(metavar="FILE.argosmodel")]
    """Where the package goes."""
    preset: Literal["tiny", "small", "base"] = "tiny"
    """Settings for templates of a small world, tens of thousands of captions, or hundreds of thousands and more."""
    held_out: Annotated[Path | None, Parameter(metavar="PAIRS.tsv")] = None
    """Pairs to validate on, instead of some of the given ones."""
    continued: Annotated[Path | None, Parameter(name="--continue", metavar="FILE.argosmodel")] = None
    """Start from the weights of a package that was trained here, with its vocabulary and sizes."""
    overrides: Annotated[Words, Parameter(name="--set", metavar="KEY=VALUE")] = ()
    """Override a training setting."""


def train(
    pairs: Annotated[tuple[Path, ...], Parameter(name="PAIRS.tsv")],
    /,
    *,
    from_code: From,
    to_code: To,
    options: TrainOptions,
) -> None:
    """Train a compact translation package from parallel captions.

    A killed training goes on where it was when the same command is run again.

    Examples:
      vernaclip mt train captions.tsv --from en --to de --preset small --out en_de.argosmodel
      vernaclip mt train more.tsv --from en --to de --preset small --continue en_de.argosmodel --out en_de-2.argosmodel

    Args:
        pairs: Source text, tab, target text; one pair a line.
    """
    from flows.recipe.language_packs import column_language, language_pack
    from flows.recipe.recipe import override_values
    from flows.recipe.settings import read
    from translation.train.config import PRESETS, SIZES, TrainPackageConfig

    overrides = override_values(options.overrides)
    if options.continued and (fixed := sorted(overrides.keys() & set(SIZES))):
        raise SettingsError(
            f"--set {', '.join(fixed)}: {options.continued} is continued, whose sizes stay: leave that out"
        )
    settings = PRESETS[options.preset] | overrides
    config = read(TrainPackageConfig, settings, "mt_train")
    packs = [language_pack(code) if config.check_languages else None for code in (from_code, to_code)]
    source_check, target_check = (column_language(pack) if pack else None for pack in packs)
    from translation.train.report import REPORT_FILE  # this and the next load torch
    from translation.train.training import train_package, training_folder

    report = train_package(
        pairs,
        from_code=from_code,
        to_code=to_code,
        out=options.out,
        config=config,
        held_out=options.held_out,
        continued=options.continued,
        source_check=source_check,
        target_check=target_check,
    )
    say_table([{"measure": name, "value": value} for name, value in asdict(report).items() if name != "dropped"])
    if report.dropped:
        say_table([{"dropped because": reason, "lines": count} for reason, count in report.dropped.items()])
    say(f"the curve is in {training_folder(options.out) / REPORT_FILE}; the folder keeps what --continue needs")
    say(f"wrote {options.out}; use it with `{command('mt', 'install', options.out)}`, or name it in a recipe")


def evaluate(
    pairs: Annotated[Path, Parameter(name="PAIRS.tsv")],
    /,
    *,
    from_code: From,
    to_code: To,
    options: EvaluateOptions,
) -> None:
    r"""Score translation engines on parallel captions, side by side: BLEU, chrF and speed.

    Examples:
      vernaclip mt evaluate val.tsv --from en --to de --system mine package=en_de.argosmodel
      vernaclip mt evaluate val.tsv --from en --to de --system mine package=en_de.argosmodel \
          --system wide package=en_de.argosmodel beam_size=4 --system opus engine=ctranslate2 model=opus-en-de \
          --system theirs output=theirs.txt --out evaluation

    The first system is what the others are compared with. PAIRS.tsv is UTF-8, source, tab, reference, one pair a line;
    every line counts: lines that are no pair are named, and nothing is evaluated. BLEU, chrF and the paired bootstrap
    (1,000 resamples, seeded) are sacrebleu's. Speed is of one pass over all captions, without loading; other work on
    the machine slows it down.

    Args:
        pairs: Source text, tab, reference; one pair a line.
    """
    from flows.cli.mt_evaluate import evaluate as run

    run(pairs, from_code, to_code, options)


def install(
    file: Path | None = None,
    /,
    *,
    from_code: MaybeFrom = None,
    to_code: MaybeTo = None,
    sha256: Annotated[str, Parameter(metavar="HEX")] = "",
    private_hosts: PrivateHosts = (),
) -> None:
    """Install a package from the Argos index, or offline from an .argosmodel file.

    Examples:
      vernaclip mt install --from en --to it
      vernaclip mt install translate-en_it-1_0.argosmodel

    A package goes where Argos Translate looks for packages (ARGOS_PACKAGES_DIR), and serves both. The index is Argos
    Translate's own (ARGOS_PACKAGE_INDEX). An interrupted download goes on where it stopped.

    Args:
        file: An .argosmodel file, instead of the index.
        sha256: Refuse a file with another sha256; the index has none.
    """
    from data_catalog.downloads.download import DownloadConfig
    from translation.packages.install import install_file, install_from_index
    from translation.packages.package import default_packages_dir

    if file is not None and from_code is None and to_code is None:
        found = install_file(file, default_packages_dir(), sha256=sha256)
    elif file is None and from_code and to_code:
        config = DownloadConfig(private_hosts=private_hosts)
        found = install_from_index(from_code, to_code, default_packages_dir(), sha256=sha256, config=config)
    else:
        raise SettingsError("give either FILE, or both --from and --to to install from the Argos index")
    package, source = found.package, found.source
    what = "installed" if found.changed else "unchanged, it was installed already:"
    say(f"{what} {package.pair} {package.package_version} in {package.folder}")
    say(f"sha256 of the file     {source.file_sha256}")
    say(f"sha256 of the package  {package.sha256}")
    if source.url:
        say(f"downloaded from        {source.url}")


def packages(
    *,
    installed: bool = False,
    from_code: MaybeFrom = None,
    to_code: MaybeTo = None,
    private_hosts: PrivateHosts = (),
) -> None:
    """List what the Argos index offers, or what is installed.

    Args:
        installed: List what is installed; no network is used.
    """
    from data_catalog.downloads.download import DownloadConfig
    from translation.packages.install import index_rows, installed_rows

    rows = installed_rows() if installed else index_rows(DownloadConfig(private_hosts=private_hosts))
    ends = [(row, str(row["pair"]).partition("-")) for row in rows]
    say_table([row for row, (own, _, to) in ends if from_code in (None, own) and to_code in (None, to)])


def list_memories(*, root: Root = DEFAULT_ROOT) -> None:
    """List the engines whose translations are remembered."""
    rows = [
        {"fingerprint": found.fingerprint, "captions": found.count(), "bytes": found.num_bytes()}
        for found in _memories(root)
    ]
    say(plain_table(rows) if rows else f"no memories in {root}")


def export_translations(
    fingerprint: str,
    file: Annotated[Path, Parameter(name="OUT.parquet")],
    /,
    *,
    root: Root = DEFAULT_ROOT,
    force: bool = False,
) -> None:
    """Write an engine's translations to a Parquet file.

    Args:
        fingerprint: Of the engine, as `list` shows it.
        file: Where they go.
        force: Replace a file that is there.
    """
    from translation.memory import export_memory

    found = {each.fingerprint: each for each in _memories(root)}
    if fingerprint not in found:
        there = ", ".join(found) or "no memory"
        raise InputError(f"{root} has no memory of the engine {fingerprint!r}: it has {there}")
    num_rows = export_memory(found[fingerprint], file, overwrite=force)
    say(f"wrote {num_rows:,} translations to {file}")


def _memories(root: Path) -> "list[TranslationMemory]":
    from data_catalog.storage.reading import open_to_readers
    from data_catalog.storage.roots import require_root
    from translation.memory import memories

    require_root(root)
    open_to_readers(root, [])
    return memories(root / MEMORY_FOLDER)


def import_translations(file: Annotated[Path, Parameter(name="FILE.parquet")], /, *, root: Root = DEFAULT_ROOT) -> None:
    """Merge an exported file; captions known already stay as they are.

    Args:
        file: What `export` wrote.
    """
    from data_catalog.storage.lock import writer_lock
    from translation.memory import TranslationMemory, import_memory, read_export

    read_export(file)  # before any folder is made
    with writer_lock(root):
        found = import_memory(file, root / MEMORY_FOLDER)
        TranslationMemory(root / MEMORY_FOLDER, found.fingerprint).seal()
    say(
        f"{found.new:,} new translations of {found.fingerprint}; {found.known:,} were known, "
        f"{found.different:,} are different here and stay as they are"
    )


def scenes_pairs(
    out: Annotated[Path, Parameter(name="PAIRS.tsv")],
    /,
    *,
    to: Annotated[str, Parameter(metavar="LANG")] = "it",
    seed: Number = 1,
    num_pairs: Number = 60_000,
) -> None:
    """Write parallel captions of the sample's grammar, to train a package on.

    Args:
        out: Where they go.
        to: Language beside the English: it or de.
        seed: Another one draws others.
        num_pairs: How many.
    """
    from data_catalog.sample.grammar import write_pairs

    write_pairs(out, seed=seed, num_pairs=num_pairs, lang=to)
    say(f"wrote {num_pairs:,} pairs to {out}")
