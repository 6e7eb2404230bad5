"""The command that says what a root holds, and writes its DuckDB file anew."""

import json
from argparse import Namespace

from data_catalog.database.catalog import catalog_path, rebuild
from data_catalog.errors import ConfigError
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.manifest import current_snapshots
from flows.commands.output import say
from flows.overview import overview, overview_lines
from flows.tables import escaped_json


def catalog(options: Namespace) -> None:
    """Say what the datasets of a root hold; with --rebuild, write its DuckDB file anew first."""
    snapshots = list(current_snapshots(options.root))
    if not snapshots:
        raise ConfigError(f"{options.root} holds no dataset: run `vernaclip build RECIPE --root {options.root}` first")
    if options.rebuild:
        with writer_lock(options.root):
            path = rebuild(options.root)
        if not options.json:
            say(f"rebuilt {path}\n")
    if not catalog_path(options.root).is_file():
        raise ConfigError(
            f"{options.root} holds no catalog: `vernaclip catalog --rebuild --root {options.root}` writes it"
        )
    found = overview(options.root, snapshots)
    if options.json:
        say("\n".join(escaped_json(line) for line in json.dumps(found, ensure_ascii=False, indent=1).split("\n")))
        return
    say("\n\n".join("\n".join(overview_lines(facts)) for facts in found))
