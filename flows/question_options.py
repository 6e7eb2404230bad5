"""Options of the commands that answer questions on a catalog: sql, why, catalog."""

import argparse
from pathlib import Path

from flows.job_options import add_root

SQL_EPILOG = """examples:
  vernaclip sql "FROM funnel" --root italy
  vernaclip sql "SELECT source, count(*) FROM rejects GROUP BY ALL" --root italy --format csv --out rejects.csv
  vernaclip sql "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal" --root italy

The connection reads the datasets of this root and nothing else, and writes nothing. In tables, characters that steer a
terminal are shown as their codes. In CSV, texts that a spreadsheet would take for formulas (they begin with = + - @, a
tab or a carriage return) get an apostrophe in front, and control characters but tabs and line ends become their codes;
--raw leaves texts as they are. JSON and Parquet hold everything as it is."""

WHY_EPILOG = """examples:
  vernaclip why mscoco:391895 --root italy
  vernaclip why mscoco:391895#770337 --root italy
  vernaclip why https://upload.wikimedia.org/wikipedia/commons/a/a9/Example.jpg --root italy

An address is found in any spelling, as upstream has it and as it was after redirects. Exit code 1: nothing is called so
there."""


def add_sql_options(command: argparse.ArgumentParser) -> None:
    """What to ask, and in which form the answer comes."""
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, SQL_EPILOG
    command.add_argument("query", metavar="QUERY")
    add_root(command)
    command.add_argument(
        "--format",
        choices=("table", "csv", "json", "parquet"),
        default="table",
        help="table (the default), CSV, JSON lines, or Parquet (with --out)",
    )
    command.add_argument("--out", type=Path, metavar="FILE", help="write CSV, JSON lines or Parquet there")
    command.add_argument("--raw", action="store_true", help="CSV with all texts as they are")
    command.add_argument(
        "--max-rows", type=int, default=1000, metavar="N", help="rows of a table; other forms have all (default: 1000)"
    )


def add_why_options(command: argparse.ArgumentParser) -> None:
    """Whose story is told, and where it is looked for."""
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, WHY_EPILOG
    command.add_argument(
        "id", metavar="ID", help="a sample_id, a caption_id, an image's URL, or the sha256 of an image's bytes"
    )
    add_root(command)
    command.add_argument("--dataset", metavar="NAME", help="look in this dataset only")
    command.add_argument("--snapshot", metavar="ID", help="look in the snapshot of this id, or start of an id")
    command.add_argument(
        "--rules", action="store_true", help="tell the settings of every step, not only where it dropped"
    )
    command.add_argument("--json", action="store_true", help="the same, with all columns and settings, as JSON")


def add_catalog_options(command: argparse.ArgumentParser) -> None:
    """Which root, and whether its DuckDB file is written anew."""
    add_root(command)
    command.add_argument("--rebuild", action="store_true", help="write catalog.duckdb anew, as after moving the root")
    command.add_argument("--json", action="store_true", help="the same as JSON")
