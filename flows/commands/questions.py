"""Commands that answer questions on a catalog: sql, search, catalog, recipes."""

import csv
import json
import re
import sys
from argparse import Namespace
from pathlib import Path

from data_catalog.catalog import query, rebuild
from data_catalog.errors import ConfigError
from data_catalog.lock import writer_lock
from data_catalog.manifest import Snapshot, current_snapshots
from flows.commands.output import say
from flows.recipe import recipe_names, recipe_summary
from flows.tables import plain_table

# Long texts and image bytes would make a table unreadable; csv and json print everything.
MAX_CELL = 60


def sql(options: Namespace) -> None:
    """Print the answer of a query as a table, CSV or JSON lines."""
    answer = query(options.root, options.query)
    rows = answer.to_pylist()
    if options.format == "table":
        say(plain_table([{name: _short(value) for name, value in row.items()} for row in rows]))
    elif options.format == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(answer.column_names)
        columns = [column.to_pylist() for column in answer.columns]
        writer.writerows([_plain(value) for value in row] for row in zip(*columns, strict=True))
    else:
        for row in rows:
            say(json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False, default=str))


def _short(value: object) -> object:
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    if isinstance(value, dict):
        value = {name: _short(item) for name, item in value.items()}
    if isinstance(value, list | dict | str) and len(str(value)) > MAX_CELL:
        return str(value)[: MAX_CELL - 3] + "..."
    return value


def _plain(value: object) -> object:
    """A value as text files can hold it: image bytes in hexadecimal digits."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def search(options: Namespace) -> None:
    """Find the images that fit a text; print them and write a contact sheet."""
    from flows.models import only_dataset, search_images

    dataset = options.dataset or only_dataset(options.root)
    out = options.out or options.root / "searches" / f"{_file_name(options.text)}.png"
    hits = search_images(options.root, dataset, options.text, num_hits=options.top, out=out)
    rows = [
        {"rank": hit.rank, "cosine": f"{hit.score:.3f}", "sample": hit.sample_id, "caption": hit.captions[0]}
        for hit in hits
    ]
    say(plain_table([{name: _short(value) for name, value in row.items()} for row in rows]))
    say(f"\nContact sheet: {out}")


def _file_name(text: str) -> str:
    """A text as a file name: its letters and digits, other runs of characters as one dash."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:60] or "search"


def catalog(options: Namespace) -> None:
    """List the datasets of a root; with --rebuild, write its DuckDB file anew."""
    snapshots = _snapshots(options.root)
    if options.rebuild:
        with writer_lock(options.root):
            say(f"rebuilt {rebuild(options.root)}")
    builds = "SELECT dataset, snapshot, target_lang, translator, num_captions, num_kept, num_pairs FROM builds"
    say(plain_table(query(options.root, builds).to_pylist()))
    for snapshot in snapshots:
        say(f"{snapshot.dataset}: {snapshot.folder}")


def _snapshots(root: Path) -> list[Snapshot]:
    found = list(current_snapshots(root))
    if not found:
        raise ConfigError(f"{root} holds no dataset: run `vernaclip build RECIPE --root {root}` first")
    return found


def recipes(_: Namespace) -> None:
    """List the recipes that come with vernaclip, with their first lines."""
    say(plain_table([{"recipe": name, "what it does": recipe_summary(name)} for name in recipe_names()]))
