"""The main jobs: run, build, train, evaluate; each prints what it came to and what to try next."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from data_catalog.database.catalog import query
from data_catalog.fetch.diagnosis import Diagnosis
from data_catalog.storage.manifest import require_snapshot
from flows.commands.jobs_executor import with_executor
from flows.commands.output import say
from flows.job_options import dry_run_options
from flows.jobs import BuildReport, require_ready, require_scorable
from flows.recipe.recipe import load_recipe
from flows.report.page import report_path
from flows.tables import cell_text, plain_table
from training.processes import process_rank

if TYPE_CHECKING:
    from flows.models import EvaluateReport, TrainReport

# A funnel says how many; this says why, most frequent first.
TOP_REASONS = "SELECT source, step, drop_reason, dropped FROM drop_reasons WHERE dataset = '{}' ORDER BY ALL"


def build(options: Namespace) -> None:
    """Build a recipe's dataset and print its funnel, or what its rules would drop."""
    dry = dry_run_options(options)
    if options.dry_run:
        tell_dry_run(options, dry)
        return
    report = with_executor("build", options)
    tell_build(report, options)
    tell_next(options, ("report", "train", "sql", "duckdb"))


def train(options: Namespace) -> None:
    """Train a recipe's model and print what the run made."""
    report = with_executor("train", options)
    if process_rank() == 0:
        tell_training(report)
        tell_next(options, ("evaluate",))


def evaluate(options: Namespace) -> None:
    """Score a recipe's model and print the scoreboard."""
    tell_scores(with_executor("evaluate", options))
    tell_next(options, ("search",))


def run(options: Namespace) -> None:
    """Build, train, evaluate, one after the other; what can be known to fail is said before the first."""
    recipe = load_recipe(options.recipe, root=options.root, overrides=options.overrides)
    require_ready(recipe, options.root)
    tell_build(with_executor("build", options), options)
    require_scorable(recipe, options.root)
    tell_training(with_executor("train", options))
    tell_scores(with_executor("evaluate", options))
    tell_next(options, ("report", "search", "sql", "duckdb", "verify", "up"))


def tell_dry_run(options: Namespace, dry: Mapping[str, Any]) -> None:
    """Judge a sample of each source, and print what each rule drops, with examples."""
    from flows.dry_run import dry_run, write_page

    recipe = load_recipe(options.recipe, root=options.root, overrides=options.overrides)
    found = dry_run(
        recipe,
        root=options.root,
        num_rows=dry["rows"],
        num_examples=dry["examples"],
        seed=dry["seed"],
        translate=dry["translate"],
    )
    say(f"\nWhat the rules of {recipe.name} would drop\n")
    say(plain_table(found.rows()))
    for source, num_rows in found.num_rows.items():
        unjudged = found.num_unjudged.get(source, 0)
        said = f"; {unjudged:,} would be translated, and are judged as far as that" if unjudged else ""
        say(f"\n{source}: {num_rows:,} row{'' if num_rows == 1 else 's'} looked at{said}")
        for rule in (rule for rule in found.dropped if rule.source == source):
            say(f"  {rule.rule} ({rule.step})")
            for caption, detail in rule.examples:
                say(f"    {cell_text(caption)}" + (f"  [{cell_text(detail)}]" if detail else ""))
    asked, known = found.num_images
    say(f"\nImages of the captions that stay: {asked:,} would be asked for, {known:,} are known already.")
    if any(found.num_unjudged.values()):
        say("\nTranslations are judged as well with --translate.")
    if dry["page"]:
        write_page(found, dry["page"], name=recipe.name)
        say(f"\nAs a page: {dry['page']}")


def tell_build(report: BuildReport, options: Namespace) -> None:
    """Print a build's funnel and reasons."""
    dataset = report.snapshot.dataset
    say(f"\nFunnel of {dataset}: captions that each step read, kept and dropped\n")
    say(plain_table(report.funnel))
    say("\nWhy captions were dropped\n")
    say(plain_table(query(options.root, TOP_REASONS.format(dataset)).to_pylist()))
    tell_downloads(report.downloads)
    num_pairs = sum(file["rows"] for file in report.snapshot.manifest["files"]["pairs"])
    if report.up_to_date:
        say(f"\n{dataset} {report.snapshot.snapshot} is up to date: nothing to do ({report.seconds:.1f} s).")
    else:
        say(f"\n{dataset} {report.snapshot.snapshot}: {num_pairs:,} images with captions in {report.seconds:,.0f} s.")


def tell_downloads(downloads: Diagnosis) -> None:
    """Print what became of the images that were asked of the web, and what that means."""
    if downloads.rows():
        say("\nWhat became of the images that were asked of the web\n")
        say(plain_table(downloads.rows()))
    for finding in downloads.findings:
        say("\n" + fill(finding, 110))


def tell_training(report: "TrainReport") -> None:
    """Print where a model lies and how well it fits the validation split."""
    result = report.result
    loss = "" if result.best_val_loss is None else f", validation loss {result.best_val_loss:.3f}"
    say(f"\nModel: {report.folder}")
    say(f"{result.num_samples:,} images, {result.epochs} epochs, the best was epoch {result.best_epoch}{loss}")


def tell_scores(report: "EvaluateReport") -> None:
    """Print the scoreboard."""
    say(f"\nScoreboard: retrieval among the images of the {report.scores.split} split\n")
    say(report.scores.table("distinct"))
    say(f"\nThese and the other ways to count captions: {report.path}")


def tell_next(options: Namespace, topics: tuple[str, ...]) -> None:
    """Print commands that make sense now."""
    say("\nTry next:")
    for topic in topics:
        say(f"  {NEXT[topic](options)}")


def _dataset(options: Namespace) -> str:
    return load_recipe(options.recipe, root=options.root, overrides=options.overrides).name


def _some_caption(options: Namespace) -> str:
    """A short caption of a held-out image, as an example of a query."""
    snapshot = require_snapshot(options.root, _dataset(options))
    files = [*snapshot.pair_files("test"), *snapshot.pair_files("val")]
    captions = pq.read_table(files[0], columns=["captions"]).column("captions").to_pylist() if files else []
    shortest = min((own[0] for own in captions), key=lambda text: (len(text), text), default="...")
    return str(shortest).replace('"', "'")


NEXT: dict[str, Callable[[Namespace], str]] = {
    "report": lambda options: (
        f"open {report_path(options.root, _dataset(options))} in a browser: the report of the build"
    ),
    "train": lambda options: f"vernaclip train {options.recipe} --root {options.root}",
    "evaluate": lambda options: f"vernaclip evaluate {options.recipe} --root {options.root}",
    "search": lambda options: (
        f'vernaclip search "{_some_caption(options)}" --root {options.root} --dataset {_dataset(options)}'
    ),
    "sql": lambda options: f'vernaclip sql "SELECT * FROM drop_reasons" --root {options.root}',
    "duckdb": lambda options: f"duckdb -readonly {options.root}/catalog.duckdb  (any DuckDB opens it: FROM rejects)",
    "verify": lambda options: f"vernaclip verify --root {options.root}",
    "up": lambda options: "vernaclip up, then: prefect deployment run build-dataset",
}
