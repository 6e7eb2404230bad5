"""The main jobs: run, build, train, evaluate."""

from argparse import Namespace

from flows import runs
from flows.build import BuildReport
from flows.commands.output import say
from flows.execution import LocalExecutor
from flows.tables import plain_table


def build(options: Namespace) -> None:
    """Build a recipe's dataset and print its funnel."""
    with LocalExecutor(4) as executor:
        report = runs.build(options.recipe, root=options.root, overrides=options.overrides, executor=executor)
    tell_build(report)


def tell_build(report: BuildReport) -> None:
    """Print what a build came to."""
    say(plain_table([{k: v for k, v in row.items() if k != "step_number"} for row in report.funnel]))
