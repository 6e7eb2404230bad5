"""Commands around translation packages: mt train, scenes-pairs."""

from argparse import Namespace
from dataclasses import asdict

from flows.commands.output import say
from flows.tables import plain_table


def train(options: Namespace) -> None:
    """Train a package from parallel captions."""
    from flows.recipe import override_values
    from flows.settings import build
    from translation.train.config import TrainPackageConfig
    from translation.train.package import train_package

    config = build(TrainPackageConfig, override_values(options.overrides), "mt_train")
    report = train_package(
        options.pairs, from_code=options.from_code, to_code=options.to_code, out=options.out, config=config
    )
    say(plain_table([asdict(report)]))
    say(f"wrote {options.out}; use it with `vernaclip mt install {options.out}`, or name it in a recipe")


def scenes_pairs(options: Namespace) -> None:
    """Write parallel captions of the sample's grammar."""
    from data_catalog.sources.scenes.grammar import write_pairs

    write_pairs(options.out, seed=options.seed, num_pairs=options.num_pairs)
    say(f"wrote {options.num_pairs:,} pairs to {options.out}")
