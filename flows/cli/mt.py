"""The commands of `mt`: train, evaluate, install, packages."""

from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

from cyclopts import Parameter

from data_catalog.base.errors import SettingsError
from data_catalog.base.plain_text import command
from flows.cli.output import say, say_table
from flows.options import EvaluateOptions, From, To, WholeNumber, Words


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of the training of a package."""

    out: Annotated[Path, Parameter(metavar="FILE.argosmodel")]
    """Path of the new package."""
    preset: Literal["tiny", "small", "base"] = "tiny"
    """tiny: captions from templates; small: tens of thousands of captions; base: hundreds of thousands or more."""
    scenes: WholeNumber = 0
    """Also learn this number of pairs from English to Italian in the grammar of the sample `scenes`."""
    held_out: Annotated[Path | None, Parameter(metavar="PAIRS.tsv")] = None
    """Pairs to validate on, as PAIRS.TSV (default: some of the given pairs); not with --continue."""
    continued: Annotated[Path | None, Parameter(name="--continue", metavar="FILE.argosmodel")] = None
    """Start from a package that `mt train` wrote on this machine, with its vocabulary, sizes and held-out pairs."""
    overrides: Annotated[Words, Parameter(name="--set", metavar="KEY=VALUE")] = ()
    """Override a training setting. Repeatable."""


def train(
    pairs: Annotated[tuple[Path, ...], Parameter(name="PAIRS.tsv")] = (),
    /,
    *,
    from_code: From,
    to_code: To,
    options: TrainOptions,
) -> None:
    """Train a compact translation package from parallel captions.

    After an interruption, run the same command again to resume.

    Examples:
      vernaclip mt train captions.tsv --from en --to de --preset small --out en_de.argosmodel
      vernaclip mt train more.tsv --from en --to de --preset small --continue en_de.argosmodel --out en_de-2.argosmodel

    Args:
        pairs: UTF-8 files with lines of source, tab and target, or a name such as train.{lang} for two files.
    """
    from data_catalog.sample.grammar import write_pairs
    from flows.recipe.language_packs import column_language, language_pack
    from flows.recipe.recipe import override_values
    from flows.recipe.settings import read
    from training.packages.config import KEPT, PRESETS, TrainPackageConfig

    if options.scenes and (from_code, to_code) != ("en", "it"):
        raise SettingsError(f"the pairs of --scenes are English and Italian, not {from_code} and {to_code}")
    if not (pairs or options.scenes):
        raise SettingsError("there is nothing to learn from: give PAIRS.tsv, or --scenes")
    overrides = override_values(options.overrides)
    kept = ", ".join(sorted(set(overrides) & set(KEPT)))
    if options.continued and kept:
        raise SettingsError(
            f"--set {kept} cannot be used with --continue: {options.continued} keeps its sizes and held-out pairs"
        )
    config = read(TrainPackageConfig, PRESETS[options.preset] | overrides, "mt_train")
    source_check, target_check = (
        column_language(language_pack(code)) if config.check_languages else None for code in (from_code, to_code)
    )
    from training.packages.report import REPORT_FILE  # this and the next load torch
    from training.packages.train import train_package, training_folder

    with TemporaryDirectory() as folder:
        if options.scenes:
            drawn = Path(folder) / "scenes.tsv"
            write_pairs(drawn, seed=1, num_pairs=options.scenes)
            pairs = (*pairs, drawn)
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
    say(f"training curve: {training_folder(options.out) / REPORT_FILE} (--continue needs this folder)")
    say(f"wrote {options.out}: install it with `{command('mt', 'install', options.out)}`, or name it in a recipe")


def evaluate(
    pairs: Annotated[Path, Parameter(name="PAIRS.tsv")],
    /,
    *,
    from_code: From,
    to_code: To,
    options: EvaluateOptions,
) -> None:
    r"""Compare translation engines on parallel captions: BLEU, chrF and speed.

    Examples:
      vernaclip mt evaluate val.tsv --from en --to de --system mine package=en_de.argosmodel
      vernaclip mt evaluate val.tsv --from en --to de --system mine package=en_de.argosmodel \
          --system wide package=en_de.argosmodel beam_size=4 --system opus engine=ctranslate2 model=opus-en-de \
          --system theirs output=theirs.txt --out evaluation

    All systems are compared with the first one. If a line of PAIRS.tsv is not a pair, it is reported and nothing is
    evaluated. BLEU, chrF and the paired bootstrap (1,000 resamples, seeded) come from sacrebleu. Speed is measured in
    one pass over all captions, without loading the engine; other work on the machine slows it down.

    Args:
        pairs: UTF-8 file with source text, a tab and the reference translation on each line.
    """
    from flows.cli.mt_evaluate import evaluate as run

    run(pairs, from_code, to_code, options)


def install(
    file: Path | None = None,
    /,
    *,
    from_code: From | None = None,
    to_code: To | None = None,
    sha256: Annotated[str, Parameter(metavar="HEX")] = "",
) -> None:
    """Install a package from the Argos index, or offline from an .argosmodel file.

    Examples:
      vernaclip mt install --from en --to it
      vernaclip mt install translate-en_it-1_0.argosmodel

    Packages are installed into Argos Translate's folder (ARGOS_PACKAGES_DIR), so it can use them too. The index
    is also that of Argos Translate (ARGOS_PACKAGE_INDEX). An interrupted download resumes.

    Args:
        file: Install this .argosmodel file instead of a package from the index.
        sha256: Refuse a file with another SHA-256. The index lists no checksums.
    """
    from translation.engines.argos import try_out
    from translation.packages.install import install_file, install_from_index
    from translation.packages.package import default_packages_dir

    if file is not None and from_code is None and to_code is None:
        found = install_file(file, default_packages_dir(), try_out, sha256=sha256)
    elif file is None and from_code and to_code:
        found = install_from_index(from_code, to_code, default_packages_dir(), try_out, sha256=sha256)
    else:
        raise SettingsError("give either FILE, or both --from and --to to install from the Argos index")
    package, source = found.package, found.source
    what = "installed" if found.changed else "already installed:"
    say(f"{what} {package.pair} {package.package_version} in {package.folder}")
    say(f"sha256 of the file     {source.file_sha256}\nsha256 of the package  {package.sha256}")
    if source.url:
        say(f"downloaded from        {source.url}")


def packages(
    *,
    installed: bool = False,
    from_code: From | None = None,
    to_code: To | None = None,
) -> None:
    """List the packages of the Argos index, or the installed packages.

    Args:
        installed: List the installed packages, without network access.
    """
    from translation.packages.install import index_rows, installed_rows

    rows = installed_rows() if installed else index_rows()
    ends = [(row, str(row["pair"]).partition("-")) for row in rows]
    say_table([row for row, (own, _, to) in ends if from_code in (None, own) and to_code in (None, to)])
