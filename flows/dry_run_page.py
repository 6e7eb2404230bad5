"""A dry run as one page of HTML that needs nothing else: how much each rule drops of each source, with examples."""

from importlib.resources import files
from pathlib import Path

from data_catalog.storage.shards import write_bytes
from flows.build.steps import STEPS
from flows.dry_run import DryRun


def write_page(run: DryRun, path: Path, *, name: str) -> None:
    """Write the page of a dry run of the recipe `name`."""
    page = _page(run, name)
    write_bytes(path, page.encode(errors="replace"))  # a lone surrogate cannot be shown


def _page(run: DryRun, name: str) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    template = (files("flows") / "pages" / "dry_run.html").read_text(encoding="utf-8")
    rows = [row for step in STEPS for row in step.rows.values()]
    meanings = {reason: text for row in rows for reason, text in row.reasons.items()}
    sources = [
        {
            "name": source,
            "num_rows": num_rows,
            "num_dropped": sum(rule.num_rows for rule in run.dropped if rule.source == source and not rule.is_mark),
            "num_unjudged": run.num_unjudged.get(source, 0),
            "rules": [rule for rule in run.dropped if rule.source == source],
        }
        for source, num_rows in run.num_rows.items()
    ]
    return environment.from_string(template).render(name=name, sources=sources, meanings=meanings)
