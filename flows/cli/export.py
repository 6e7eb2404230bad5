"""The commands export and export-model, which write datasets and models in the formats of other tools."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from data_catalog.base.errors import SettingsError
from data_catalog.catalog.export_formats import FORMATS, ExportConfig
from flows.cli.output import say, say_table
from flows.options import DEFAULT_ROOT, DatasetName, Root, options_of
from training.exports.formats import ALL, MODEL_FORMATS, ModelExportConfig


def _listing(helps: Mapping[str, str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that replaces FORMATS in the docstring of a command by the formats and their help."""
    width = max(map(len, helps))
    listed = "\n".join(f"  {name:<{width}}  {text}" for name, text in helps.items())

    def with_formats(command: Callable[..., None]) -> Callable[..., None]:
        command.__doc__ = (inspect.getdoc(command) or "").replace("  FORMATS", listed)
        return command

    return with_formats


@_listing(FORMATS)
def export(
    dataset: DatasetName,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    config: Annotated[ExportConfig, options_of(allowed="allow")],
    out: Annotated[Path | None, Parameter(metavar="DIR")] = None,
) -> None:
    """Export a dataset as a folder for other tools: Hugging Face datasets or WebDataset.

    formats:
      FORMATS

    Pixels are included if the license of the row allows it, or if the recipe states it for the source ([sources.NAME]
    license = "..." or redistribution = true). All other images are listed by URL in every format. ATTRIBUTION.csv
    lists the license of each image.

    Examples:
      vernaclip export italian --format huggingface
      vernaclip export italian --format webdataset --pixels noncommercial --out /data/italian-wds
      vernaclip export mine --format huggingface --allow photos

    Args:
        out: Folder of the export (default: exports/DATASET/FORMAT in the root).
    """
    from data_catalog.catalog.manifest import EXPORTS, SPLITS, require_snapshot
    from data_catalog.catalog.roots import require_root
    from data_catalog.disk.lock import writer_lock
    from data_catalog.exports.export import export_snapshot
    from flows.recipe.settings import OPTIONS, checked

    config = checked(config, OPTIONS)
    require_root(root)
    with writer_lock(root):
        snapshot = require_snapshot(root, dataset)
        # `vernaclip forget` removes exports in this folder that contain forgotten images.
        report = export_snapshot(snapshot, config, out or root / EXPORTS / dataset / config.format)
    counts = {"with pixels": report.images, "listed by URL": report.listed}
    say_table([{"split": each, **{name: of.get(each, 0) for name, of in counts.items()}} for each in SPLITS])
    if report.withheld:
        say("\nImages exported without pixels:\n")
        say_table([{"source": source, "images": count, "why": why} for source, why, count in report.withheld])
    for source, count in report.unlisted.items():
        say(f"{count:,} images of {source} are not exported: they have no URL")
    if report.marked:
        say(f"{report.marked:,} pairs are not exported: they are marked as leaks of a test set")
    say(f"\n{'Up to date' if report.up_to_date else 'Exported'}: {report.folder} (README.md explains how to read it)")


@_listing(MODEL_FORMATS | {ALL: "each of these formats that supports the model's architecture"})
def export_model(
    dataset: Annotated[str | None, Parameter(name="RECIPE_OR_DATASET")] = None,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    model: Annotated[Path | None, Parameter(metavar="FOLDER")] = None,
    config: Annotated[ModelExportConfig, options_of(formats="format", replace="force", scoreboards="scores")],
    out: Annotated[Path, Parameter(metavar="FOLDER")],
) -> None:
    """Export a trained model as a folder for open_clip, transformers or other libraries, with a model card.

    formats:
      FORMATS

    Each export is loaded with its library, and must give the same scores as the model; otherwise nothing is written.
    Its README.md is a model card with data, settings, scores, limits and time. See docs/use.md.

    Examples:
      vernaclip export-model scenes --root demo-catalog --format open_clip --out scenes-clip
      vernaclip export-model italian --format all --out clip-it --license cc-by-4.0
      vernaclip export-model --model catalog/models/italian/0123456789ab --format onnx --out clip-it-onnx

    Args:
        dataset: Export the newest model of this dataset: its name, the name of its recipe, or the recipe's TOML file.
        model: Export the model in this folder, also an older one.
        out: Folder of the export.
    """
    from data_catalog.catalog.roots import require_root
    from flows.recipe.recipe import load_recipe
    from training.runs.processes import prepare_for_torch
    from training.towers.trained_models import model_of_folder, newest_folder

    if (model is None) == (dataset is None):
        raise SettingsError("name one model: a dataset or recipe for its newest model, or a folder with --model")
    if dataset is not None:
        require_root(root)
        name = load_recipe(dataset, root=root).name if dataset.endswith(".toml") else dataset
    folder = newest_folder(root, name) if model is None else model
    trained = model_of_folder(folder, root)
    prepare_for_torch()  # before torch is loaded
    from training.exports.model_card import training_data
    from training.exports.model_export import export_model as write_exports

    own_name = f"{trained.snapshot.dataset} {trained.folder.name}" if trained else folder.resolve().name
    seen = training_data(trained.snapshot) if trained else None
    config = replace(config, name=config.name or own_name)
    report = write_exports(folder, config, out, seen=seen, root=root)
    rows = [
        {
            "format": found.format,
            "MB": round(found.num_bytes / 1_000_000, 1),
            "differs by": f"{found.difference:.1e}",
            "": "up to date" if found.up_to_date else "exported",
            "folder": str(found.folder),
        }
        for found in report.exports
    ]
    say_table(rows)
    for format_name, reason in report.refused.items():
        say(f"{format_name} cannot represent this model: {reason}")
    say("\nThe README.md of each export is a model card, which explains how to load it. Edit it before you publish.")
