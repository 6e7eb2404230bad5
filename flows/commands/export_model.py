"""The command `export-model`: a trained model as a folder that other people's libraries read."""

from argparse import Namespace
from dataclasses import replace

from flows.commands.output import say
from flows.models import chosen_model
from flows.tables import plain_table
from training.exports.model_export import ModelExportConfig, ModelExportReport, export_model
from training.threads import let_threads_sleep

_MEGABYTE = 1_000_000


def export_model_command(options: Namespace) -> None:
    """Write exports of a model, and say what was written and what has no equivalent."""
    let_threads_sleep()
    config = ModelExportConfig(
        formats=tuple(options.formats),
        name="",
        licence=options.licence,
        licence_name=options.licence_name,
        licence_link=options.licence_link,
        hub_name=options.hub_name,
        dataset_hub_name=options.dataset_hub_name,
        scoreboards=tuple(options.scores),
        replace=options.force,
    )
    model = chosen_model(options.dataset, options.model, options.root)  # of a dataset, whose pairs it counts
    config = replace(config, name=model.name)
    _tell(export_model(model.folder, config, options.out, seen=model.seen, root=options.root))


def _tell(report: ModelExportReport) -> None:
    rows = [
        {
            "format": found.format,
            "MB": round(found.num_bytes / _MEGABYTE, 1),
            "differs by": f"{found.difference:.1e}",
            "": "up to date" if found.up_to_date else "exported",
            "folder": str(found.folder),
        }
        for found in report.exports
    ]
    say(plain_table(rows))
    for name, reason in report.refused.items():
        say(f"{name} has no equivalent of this model, since {reason}")
    say("\nREADME.md in each is a model card, which says how it is read; edit it before you publish.")
