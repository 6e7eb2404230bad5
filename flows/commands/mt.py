"""Commands around translation packages: mt train, scenes-pairs."""

from argparse import Namespace
from dataclasses import asdict

from data_catalog.errors import ConfigError
from flows.commands.output import say
from flows.tables import plain_table


def train(options: Namespace) -> None:
    """Train a package from parallel captions."""
    from flows.recipe.language_packs import column_language, language_pack
    from flows.recipe.recipe import override_values
    from flows.recipe.settings import build
    from translation.train.config import PRESETS, TrainPackageConfig
    from translation.train.folder import REPORT_FILE, SIZES, training_folder
    from translation.train.package import train_package

    overrides = override_values(options.overrides)
    if options.continued and (fixed := sorted(overrides.keys() & set(SIZES))):
        raise ConfigError(
            f"--set {', '.join(fixed)}: {options.continued} is continued, whose sizes stay: leave that out"
        )
    settings = PRESETS[options.preset] | overrides
    config = build(TrainPackageConfig, settings, "mt_train")
    packs = [language_pack(code) if config.check_languages else None for code in (options.from_code, options.to_code)]
    source_check, target_check = (column_language(pack) if pack else None for pack in packs)
    report = train_package(
        options.pairs,
        from_code=options.from_code,
        to_code=options.to_code,
        out=options.out,
        config=config,
        held_out=options.held_out,
        continued=options.continued,
        source_check=source_check,
        target_check=target_check,
    )
    say(plain_table([{"measure": name, "value": value} for name, value in asdict(report).items() if name != "dropped"]))
    if report.dropped:
        say(plain_table([{"dropped because": reason, "lines": count} for reason, count in report.dropped.items()]))
    say(f"the curve is in {training_folder(options.out) / REPORT_FILE}; the folder keeps what --continue needs")
    say(f"wrote {options.out}; use it with `vernaclip mt install {options.out}`, or name it in a recipe")


def scenes_pairs(options: Namespace) -> None:
    """Write parallel captions of the sample's grammar."""
    from data_catalog.sample.grammar import write_pairs

    write_pairs(options.out, seed=options.seed, num_pairs=options.num_pairs, lang=options.to)
    say(f"wrote {options.num_pairs:,} pairs to {options.out}")
