"""Commands that say what there is: catalog, models, recipes, report."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from data_catalog.errors import DamagedError, InputError, SettingsError
from data_catalog.plain_text import command
from flows.cli.options import DEFAULT_ROOT, DatasetName, Json, Number, Root
from flows.cli.output import require_own_file, say, say_json, say_table

# Of each reason: with more, the page would be a list of the dataset.
MAX_EXAMPLES = 50


def catalog(*, root: Root = DEFAULT_ROOT, rebuild: bool = False, json: Json = False) -> None:
    """Say what a root holds: datasets, rows kept and dropped, splits, sources, licenses, exports.

    Args:
        rebuild: Write catalog.duckdb anew, as after moving the root.
    """
    from data_catalog.database.catalog import catalog_path
    from data_catalog.database.catalog import rebuild as write_catalog
    from data_catalog.overview import overview, overview_lines
    from data_catalog.storage.lock import writer_lock
    from data_catalog.storage.manifest import require_datasets, require_snapshot

    snapshots = [require_snapshot(root, name) for name in require_datasets(root)]
    if rebuild:
        with writer_lock(root):
            path = write_catalog(root)
        if not json:
            say(f"rebuilt {path}\n")
    if not catalog_path(root).is_file():
        raise DamagedError(f"{root} holds no catalog: `{command('catalog', '--rebuild', '--root', root)}` writes it")
    found = overview(root, snapshots)
    if json:
        say_json(found)
    else:
        say("\n\n".join("\n".join(overview_lines(facts)) for facts in found))


def models(*, root: Root = DEFAULT_ROOT, json: Json = False) -> None:
    """List the trained models of a root: dataset, snapshot, model config, when, and the best score.

    The score is recall at 5 of texts to images among distinct captions, as `vernaclip evaluate` shows it; of the
    snapshot only the newest model of each dataset has a record.
    """
    from training.trained_models import list_models

    found = list_models(root)
    if not found:
        raise InputError(f"{root} holds no trained model: run `{command('run', 'RECIPE', '--root', root)}` first")
    if json:
        say_json([asdict(model) for model in found])
        return
    rows = [
        {
            "dataset": model.dataset,
            "model": model.folder.name,
            "current": model.is_current,
            "snapshot": model.snapshot,
            "config": model.config,
            "trained": model.trained,
            "R@5": None if model.score is None else round(model.score, 4),
            "split": model.split,
        }
        for model in found
    ]
    say_table(rows)


def recipes() -> None:
    """List the recipes that come with vernaclip."""
    from flows.recipe.recipe import recipe_names, recipe_summary

    say_table([{"recipe": name, "what it does": recipe_summary(name)} for name in recipe_names()])


def report(
    dataset: DatasetName,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    out: Annotated[Path | None, Parameter(metavar="FILE.html")] = None,
    examples: Number = 3,
) -> None:
    """Write the page of a dataset: what is in it, with pictures, and what became of the rest.

    Args:
        out: Where the page goes (default: report.html of the dataset).
        examples: Captions shown for each reason, at most 50.
    """
    from data_catalog.report.page import write_report
    from data_catalog.storage.lock import writer_lock
    from data_catalog.storage.manifest import require_snapshot

    if not 0 <= examples <= MAX_EXAMPLES:
        raise SettingsError(f"--examples must be from 0 to {MAX_EXAMPLES}, got {examples}")
    if out is not None:
        require_own_file(out)
    require_snapshot(root, dataset)  # before a lock makes the root
    with nullcontext() if out else writer_lock(root):
        snapshot = require_snapshot(root, dataset)
        path = write_report(root, snapshot, out=out, num_examples=examples)
    say(f"Report of {snapshot.dataset} {snapshot.snapshot}: {path}")
