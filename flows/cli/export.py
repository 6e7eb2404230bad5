"""The commands export and export-model, which write datasets and models in the formats of other tools."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from data_catalog.base.errors import SettingsError
from data_catalog.catalog.export_formats import FORMATS
from flows.cli.output import say, say_table
from flows.options import DEFAULT_ROOT, DatasetName, Number, Root, Words
from training.exports.formats import ALL, MODEL_FORMATS, ModelExportConfig

if TYPE_CHECKING:
    from data_catalog.exports.hub import Repository

    FormatName = str
    ModelFormatName = str
else:  # at run time, help, completion and validation take the names from the tables
    FormatName, ModelFormatName = Literal[tuple(FORMATS)], Literal[(*MODEL_FORMATS, ALL)]

Pixels = Annotated[
    Literal["licensed", "noncommercial", "all", "none"],
    Parameter(
        help="Images to include as pixels: with a free license (licensed), also with a license that forbids only "
        "commercial use (noncommercial), all regardless of license (all), or none."
    ),
]


def _listing(helps: Mapping[str, str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that replaces FORMATS in the docstring of a command by the formats and their help."""
    width = max(map(len, helps))
    listed = "\n".join(f"  {name:<{width}}  {text}" for name, text in helps.items())

    def with_formats(command: Callable[..., None]) -> Callable[..., None]:
        command.__doc__ = (inspect.getdoc(command) or "").replace("  FORMATS", listed)
        return command

    return with_formats


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class _HubOptions:
    """Options of an upload of an export."""

    push_to_hub: Annotated[str | None, Parameter(metavar="OWNER/NAME")] = None
    """Upload the export to this repository of the Hugging Face hub, with the token of `hf auth login` or HF_TOKEN."""
    private: Annotated[bool, Parameter(negative="")] = False
    """With --push-to-hub: let only the repository's owner see it."""

    def open(self, kind: str) -> "Repository | None":
        """Return the repository of a "dataset" or "model", which may not exist yet; None if nothing is uploaded."""
        from data_catalog.exports.hub import open_repository

        return None if self.push_to_hub is None else open_repository(self.push_to_hub, kind, private=self.private)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExportOptions(_HubOptions):
    """Options of an export of a dataset."""

    format: FormatName
    """Format of the export; see the list above."""
    out: Annotated[Path | None, Parameter(metavar="DIR")] = None
    """Folder of the export (default: exports/DATASET/FORMAT in the root)."""
    pixels: Pixels = "licensed"
    allowed: Annotated[Words, Parameter(name="--allow", metavar="SOURCE")] = ()
    """Include the images of this source, which you have the right to redistribute. Repeatable."""
    samples_per_shard: Number = 1000
    """Samples in each tar shard."""
    captions: Literal["first", "every"] = "first"
    """In tar shards, write each image once with its first caption, or once for every caption."""
    published: Annotated[str | None, Parameter(metavar="DATE")] = None
    """Date of publication for croissant.json, such as 2026-01-31."""


@_listing(FORMATS)
def export(dataset: DatasetName, /, *, root: Root = DEFAULT_ROOT, options: ExportOptions) -> None:
    """Export a dataset as a folder for other tools, such as Hugging Face datasets, WebDataset or img2dataset.

    formats:
      FORMATS

    Pixels are included if the license of the row allows it, or if the recipe states it for the source ([sources.NAME]
    license = "..." or redistribution = true). All other images are listed by URL in every format. ATTRIBUTION.csv
    lists the license of each image.

    Examples:
      vernaclip export italian --format huggingface
      vernaclip export italian --format webdataset --pixels noncommercial --out /data/italian-wds
      vernaclip export mine --format huggingface --allow photos
      vernaclip export italian --format huggingface --push-to-hub somebody/captions-it
    """
    from data_catalog.catalog.manifest import EXPORTS, SPLITS, require_snapshot
    from data_catalog.catalog.roots import require_root
    from data_catalog.disk.lock import writer_lock
    from data_catalog.exports.export import ExportConfig, export_snapshot
    from data_catalog.exports.hub import DATASET, push_export
    from data_catalog.exports.rights import ALL as ALL_PIXELS
    from flows.recipe.settings import OPTIONS, read

    elsewhere = ("out", "push_to_hub", "private")
    given = {name: value for name, value in vars(options).items() if name not in elsewhere}
    config = read(ExportConfig, given, OPTIONS)
    if options.push_to_hub is not None and options.pixels == ALL_PIXELS and not options.private:
        raise SettingsError(
            "--pixels all includes images that nobody may publish: name the sources whose images you may pass on with "
            "--allow SOURCE, or add --private"
        )
    require_root(root)
    with writer_lock(root):
        snapshot = require_snapshot(root, dataset)
        repository = options.open(DATASET)
        # `vernaclip forget` removes exports in this folder that contain forgotten images.
        folder = options.out or root / EXPORTS / dataset / options.format
        report = export_snapshot(snapshot, config, folder)
    rows = [
        {"split": split, "with pixels": report.images.get(split, 0), "listed by URL": report.listed.get(split, 0)}
        for split in SPLITS
    ]
    say_table(rows)
    if report.withheld:
        say("\nImages exported without pixels:\n")
        say_table([{"source": source, "images": count, "why": why} for source, why, count in report.withheld])
    for source, count in report.unlisted.items():
        say(f"{count:,} images of {source} are not exported: they have no URL")
    if report.marked:
        say(f"{report.marked:,} pairs are not exported: they are marked as leaks of a test set")
    say(f"\n{'Up to date' if report.up_to_date else 'Exported'}: {report.folder} (README.md explains how to read it)")
    if repository is not None:
        say(f"Uploaded: {push_export(report.folder, repository)}")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelExportOptions(_HubOptions):
    """Options of an export of a model, and of its card."""

    model: Annotated[Path | None, Parameter(metavar="FOLDER")] = None
    """Export the model in this folder, also an older one."""
    formats: Annotated[tuple[ModelFormatName, ...], Parameter(name="--format")]
    """Format of the export; see the list above. Repeatable: each format then goes into its own subfolder of FOLDER."""
    out: Annotated[Path, Parameter(metavar="FOLDER")]
    """Folder of the export."""
    replace: Annotated[bool, Parameter(name="--force")] = False
    """Replace an earlier export of a model in FOLDER, including files that were added to it."""
    license: Annotated[str, Parameter(name="--license", metavar="NAME")] = ""
    """License for the model card by its identifier on the hub, such as cc-by-4.0, or other."""
    license_name: Annotated[str, Parameter(name="--license-name", metavar="NAME")] = ""
    """With --license other: name of the license."""
    license_link: Annotated[str, Parameter(name="--license-link", metavar="URL")] = ""
    """With --license other: URL of its text, or LICENSE for a file of that name that you add to the export."""
    scoreboards: Annotated[tuple[Path, ...], Parameter(name="--scores", metavar="scoreboard.json")] = ()
    """Add this model's scores from a scoreboard.json of `vernaclip scoreboard` to the card. Repeatable."""
    hub_name: Annotated[str | None, Parameter(metavar="OWNER/NAME")] = None
    """Name of the model on the hub. open_clip's config then refers to it for a Hugging Face text encoder. Implied by
    --push-to-hub."""
    dataset_hub_name: Annotated[str | None, Parameter(metavar="OWNER/NAME")] = None
    """Name of the published dataset on the hub, to which the card then links."""


@_listing(MODEL_FORMATS | {ALL: "each of these formats that supports the model's architecture"})
def export_model(
    dataset: Annotated[str | None, Parameter(name="RECIPE_OR_DATASET")] = None,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    options: ModelExportOptions,
) -> None:
    """Export a trained model as a folder for open_clip, transformers or other libraries, with a model card.

    formats:
      FORMATS

    Each export is loaded with its library, and must give the same scores as the model; otherwise nothing is written.
    Its README.md is a model card with data, settings, scores, limits and time. See docs/use.md.

    Examples:
      vernaclip export-model scenes --root demo-catalog --format open_clip --out scenes-clip
      vernaclip export-model italian --format all --out clip-it --license cc-by-4.0
      vernaclip export-model italian --format open_clip --out clip-it-hub --push-to-hub somebody/clip-it
      vernaclip export-model --model catalog/models/italian/0123456789ab --format onnx --out clip-it-onnx

    Args:
        dataset: Export the newest model of this dataset: its name, the name of its recipe, or the recipe's TOML file.
    """
    from data_catalog.catalog.roots import require_root
    from data_catalog.exports.hub import MODEL, push_export
    from flows.recipe.recipe import load_recipe
    from training.runs.processes import prepare_for_torch
    from training.towers.trained_models import current_model, model_of_folder

    hub_name = options.hub_name if options.push_to_hub is None else options.push_to_hub
    if options.push_to_hub is not None and (len(options.formats) > 1 or ALL in options.formats):
        raise SettingsError("--push-to-hub takes one --format: a repository has one README.md")
    if options.hub_name not in (None, hub_name):
        raise SettingsError("--hub-name and --push-to-hub differ: leave --hub-name out")
    folder = options.model
    if (dataset is None) == (folder is None):
        raise SettingsError("name one model: a dataset or recipe for its newest model, or a folder with --model")
    if folder is not None:
        model = model_of_folder(folder, root)
    else:
        assert dataset is not None
        require_root(root)
        model = current_model(root, load_recipe(dataset, root=root).name if dataset.endswith(".toml") else dataset)
        folder = model.folder
    prepare_for_torch()  # before torch is loaded
    from training.exports.model_card import training_data
    from training.exports.model_export import export_model as write_exports

    name = f"{model.snapshot.dataset} {model.folder.name}" if model else folder.resolve().name
    elsewhere = ("model", "out", "push_to_hub", "private", "hub_name")
    stated = {name: value for name, value in vars(options).items() if name not in elsewhere}
    config = ModelExportConfig(name=name, hub_name=hub_name, **stated)
    repository = options.open(MODEL)
    seen = training_data(model.snapshot) if model else None
    report = write_exports(folder, config, options.out, seen=seen, root=root)
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
    if repository is not None:
        say(f"\nUploaded: {push_export(report.exports[0].folder, repository)}")
        return
    say("\nThe README.md of each export is a model card, which explains how to load it. Edit it before you publish.")
