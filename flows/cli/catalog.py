"""The commands catalog, models (with note and rm), recipes, report, why and sql, which show the contents of a root."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number as Within

from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.base.plain_text import cell_text, command
from flows.cli.output import encoding_errors, output_errors, require_own_file, say, say_json, say_table
from flows.options import DEFAULT_ROOT, DatasetName, Json, PositiveNumber, Root, Text

if TYPE_CHECKING:
    import pyarrow as pa

    from data_catalog.publish.tombstones import Tombstone

MAX_EXAMPLES = 50  # captions of each reason; with more, the page would list the whole dataset
MOST_RECORDS = 10  # one URL may belong to many samples, such as that of a placeholder image


def catalog(*, root: Root = DEFAULT_ROOT, rebuild: bool = False, json: Json = False) -> None:
    """Show the contents of a root: datasets, rows kept and dropped, splits, sources, licenses, exports.

    Args:
        rebuild: Rebuild catalog.duckdb, for example after moving the root.
    """
    from data_catalog.catalog.duckdb_file import catalog_path
    from data_catalog.catalog.duckdb_file import rebuild as write_catalog
    from data_catalog.catalog.manifest import require_datasets, require_snapshot
    from data_catalog.catalog.overview import overview, overview_lines
    from data_catalog.disk.lock import writer_lock

    snapshots = [require_snapshot(root, name) for name in require_datasets(root)]
    if rebuild:
        with writer_lock(root):
            path = write_catalog(root)
        if not json:
            say(f"rebuilt {path}\n")
    if not catalog_path(root).is_file():
        raise DamagedError(
            f"{root} has no catalog.duckdb: write it with `{command('catalog', '--rebuild', '--root', root)}`"
        )
    found = overview(root, snapshots)
    if json:
        say_json(found)
    else:
        say("\n\n".join("\n".join(overview_lines(facts)) for facts in found))


def models(*, root: Root = DEFAULT_ROOT, json: Json = False) -> None:
    """List the trained models of a root, the newest of each dataset, which commands use, with *.

    The score is text-to-image recall at 5 with distinct captions, as in `vernaclip evaluate`. Weights of other people
    that a model started from, with their licenses, and notes are below the table.
    """
    from training.towers.trained_models import list_models

    found = list_models(root)
    if not found:
        raise InputError(f"{root} has no trained model: run `{command('run', 'RECIPE', '--root', root)}` first")
    if json:
        say_json(found)
        return
    rows, remarks = [], []
    for model in found:
        name = f"{model['dataset']}/{model['folder'].name}"
        row = {"": "*" if model["is_current"] else "", "model": name, "snapshot": model["snapshot"]}
        row |= {"config": Path(model["config"]).name}
        row |= {"trained": f"{datetime.fromisoformat(model['trained']):%Y-%m-%d %H:%M}"}
        rows.append(row | {"R@5": model["score"] and round(model["score"], 4), "split": model["split"]})
        borrowed = (
            f"{each['weights']} ({each['tower']}, {each['license'] or 'no license'})" for each in model["borrowed"]
        )
        said = [f"  {cell_text(text)}" for text in (", ".join(borrowed), model["note"]) if text]
        remarks += [f"\n{name}", *said] if said else []
    say_table(rows)
    if remarks:
        say("\n".join(remarks))


ModelName = Annotated[str, Parameter(name="MODEL", help="Name of the model in the list, or its folder.")]


def note_model(model: ModelName, text: Text, /, *, root: Root = DEFAULT_ROOT) -> None:
    """Write a note into a model's folder, in place of an earlier one. `vernaclip models` shows it.

    Example:
      vernaclip models note italian/0123456789ab "twice the captions" --root italy

    Args:
        text: The note, or "" for none.
    """
    from training.towers.trained_models import model_folder, write_note

    write_note(model_folder(model, root), text)


def remove_model(
    model: ModelName, /, *, root: Root = DEFAULT_ROOT, newest: bool = False, dry_run: bool = False
) -> None:
    """Remove a model with its scores. Its exports stay usable, and `vernaclip prune` can remove its snapshot.

    Args:
        newest: Remove it even if it is the newest of its dataset; commands then use the one before it.
        dry_run: Say what would be removed, and remove nothing.
    """
    from data_catalog.catalog.history import freed_bytes
    from data_catalog.catalog.manifest import model_pointer
    from training.towers.trained_models import model_folder
    from training.towers.trained_models import remove_model as remove

    folder = model_folder(model, root)
    freed, dataset = freed_bytes(folder), folder.parent.name
    remove(folder, newest=newest, dry_run=dry_run)
    if dry_run:
        say(f"would be removed: {folder}, {freed:,} bytes")
        return
    say(f"removed: {folder}, {freed:,} bytes freed")
    say(f"newest model of {dataset}: {model_pointer(root, dataset).get('model', 'none')}")


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
    examples: Annotated[int, Parameter(validator=Within(gte=0, lte=MAX_EXAMPLES), metavar="N")] = 3,
) -> None:
    """Write an HTML report of a dataset: its contents with example images, its funnel, and its rejected rows.

    Args:
        out: Path of the page (default: report.html of the dataset).
        examples: Captions to show for each drop reason, at most 50.
    """
    from data_catalog.catalog.manifest import require_snapshot
    from data_catalog.disk.lock import writer_lock
    from data_catalog.report.page import write_report

    if out is not None:
        require_own_file(out)
    require_snapshot(root, dataset)  # before the lock creates the root
    with nullcontext() if out else writer_lock(root):
        snapshot = require_snapshot(root, dataset)
        path = write_report(root, snapshot, out=out, num_examples=examples)
    say(f"Report of {snapshot.dataset} {snapshot.snapshot}: {path}")


def why(
    identity: Annotated[Text, Parameter(name="ID")],
    /,
    *,
    root: Root = DEFAULT_ROOT,
    dataset: str | None = None,
    snapshot: Annotated[str | None, Parameter(metavar="ID")] = None,
    rules: bool = False,
    json: Json = False,
) -> None:
    """Explain why a sample, caption or image is in a dataset or not, step by step from its upstream row.

    Examples:
      vernaclip why mscoco:391895 --root italy
      vernaclip why mscoco:391895#770337 --root italy
      vernaclip why https://upload.wikimedia.org/wikipedia/commons/a/a9/Example.jpg --root italy

    A URL is found in any spelling, as upstream has it or after redirects. The exit code is 1 if nothing
    matches. JSON contains all columns and settings.

    Args:
        identity: A sample_id, a caption_id, an image's URL, or the sha256 of an image's bytes.
        dataset: Look in this dataset only.
        snapshot: Look in this snapshot only: its id, or the start of its id.
        rules: Show the settings of every step, not only of the steps that dropped a row.
    """
    from data_catalog.catalog.manifest import committed_snapshots, require_datasets, require_snapshot
    from data_catalog.catalog.why import find_sample_records, not_found_text, record_lines
    from data_catalog.publish.tombstones import find_tombstone

    names = require_datasets(root, dataset)
    if snapshot is None:
        searched = [require_snapshot(root, name) for name in names]
    else:
        known = [found for name in names for found in committed_snapshots(root, name)]
        searched = [found for found in known if found.snapshot.startswith(snapshot)]
        if not searched:
            there = ", ".join(f"{found.snapshot} of {found.dataset}" for found in known)
            raise InputError(f"{root} has no snapshot {cell_text(snapshot)!r}: it has {there}")
    records = [record for found in searched for record in find_sample_records(found, identity)]
    tombstone = find_tombstone(root, identity, [record["sample_id"] for record in records])
    if json:
        columns = ("kind", "value", "datasets", "reason", "date")
        forgotten = None if tombstone is None else {name: getattr(tombstone, name) for name in columns}
        say_json({"id": identity, "forgotten": forgotten, "stories": records})
    if not records and not tombstone:
        raise InputError(not_found_text(searched, identity))
    if json:
        return
    paragraphs = [] if tombstone is None else [_forgotten(identity, tombstone, is_there=bool(records))]
    identity = identity.strip()
    paragraphs += ("\n".join(record_lines(each, identity=identity, all_rules=rules)) for each in records[:MOST_RECORDS])
    if len(records) > MOST_RECORDS:
        paragraphs.append(f"and {len(records) - MOST_RECORDS} more samples (--json has them all)")
    say("\n\n".join(paragraphs))


def _forgotten(identity: str, tombstone: "Tombstone", *, is_there: bool) -> str:
    """Return the paragraph of `why` about a forgotten image."""
    where = f" in {', '.join(tombstone.datasets)}" if tombstone.datasets else ""
    date = f", since {tombstone.date}" if tombstone.date else ""
    reason = f" ({cell_text(tombstone.reason)})" if tombstone.reason else ""
    text = (
        f"{cell_text(identity)} is forgotten{where}{date}: a take-down of the {tombstone.kind} "
        f"{cell_text(tombstone.value)}{reason}. Builds leave it out."
    )
    return text if is_there else f"{text}\nNo rows of it are in this root."


def sql(
    query: Text,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    format: Literal["table", "csv", "json", "parquet"] = "table",
    out: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    raw: bool = False,
    max_rows: PositiveNumber = 1000,
) -> None:
    """Run an SQL query on the views of the catalog; `FROM duckdb_views()` describes them.

    Examples:
      vernaclip sql "FROM funnel" --root italy
      vernaclip sql "SELECT source, count(*) FROM rejects GROUP BY ALL" --root italy --format csv --out rejects.csv
      vernaclip sql "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal" --root italy

    The query reads the views and no file by its path, and writes nothing. Tables show control characters as codes.
    In CSV, texts that a spreadsheet would run as formulas (they begin with = + - @, a tab or a carriage return) get a
    leading apostrophe, and control characters except tabs and line ends become codes; --raw turns this off. JSON and
    Parquet contain all texts unchanged.

    Args:
        query: One DuckDB SQL statement.
        format: A table, CSV, JSON Lines, or Parquet (with --out).
        out: Write CSV, JSON Lines or Parquet to this file.
        raw: Leave texts in CSV unchanged.
        max_rows: Maximum number of rows in a table; other formats contain all rows.
    """
    import pyarrow as pa

    from data_catalog.catalog.query import stream_query
    from data_catalog.catalog.result_files import distinct_names, write_csv, write_json_lines, write_parquet
    from data_catalog.disk.files import write_atomically
    from flows.signals import interrupted_by_sigterm

    if format == "table" and out:
        raise SettingsError("--out cannot be used with --format table: choose --format csv, json or parquet")
    if format == "parquet" and not out:
        raise SettingsError("--format parquet needs a file: add --out FILE")
    if out:
        require_own_file(out)
    with interrupted_by_sigterm(), stream_query(root, query) as (found, rows):
        names = distinct_names(found.names)
        schema = pa.schema([field.with_name(name) for field, name in zip(found, names, strict=True)])
        batches = (batch.rename_columns(names) for batch in rows)
        write_text = write_csv if format == "csv" else write_json_lines

        def write(path: Path) -> None:
            if format == "parquet":
                write_parquet(path, schema, batches)
                return
            with path.open("w", encoding="utf-8", newline="") as file, encoding_errors():
                write_text(file, schema, batches, raw=raw)

        if format == "table":
            _say_rows(batches, max_rows)
        elif out is not None:
            write_atomically(out, write)
        else:
            with output_errors():
                write_text(sys.stdout, schema, batches, raw=raw)


def _say_rows(batches: "Iterator[pa.RecordBatch]", max_rows: int) -> None:
    """Print the first rows of an answer as a table, with shortened values, and say what is cut."""
    from data_catalog.catalog.result_files import CUT, rows_of, short_value

    rest = rows_of(batches)
    shown = list(islice(rest, max_rows))
    short = [{name: short_value(value) for name, value in row.items()} for row in shown]
    say_table(short)
    pairs = ((cell, row[name]) for row, cells in zip(shown, short, strict=True) for name, cell in cells.items())
    if any(str(cell).endswith(CUT) and cell != value for cell, value in pairs):
        say("a text that ends in ... is cut (--format csv has it whole)")
    if next(rest, None) is not None:
        say(f"... only the first {max_rows:,} rows are shown (--max-rows N; --format csv has all rows)")
