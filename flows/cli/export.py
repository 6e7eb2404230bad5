"""Commands that write what other people's tools read: export of a dataset, export-model of a trained model."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from data_catalog.errors import SettingsError
from data_catalog.exports.formats import FORMATS
from flows.cli.options import DEFAULT_ROOT, DatasetName, Number, Root, Words
from flows.cli.output import say, say_table
from training.exports.formats import ALL, MODEL_FORMATS

if TYPE_CHECKING:
    FormatName = str
    ModelFormatName = str
else:  # what help and completion list, and what is refused, comes from the tables
    FormatName, ModelFormatName = Literal[tuple(FORMATS)], Literal[(*MODEL_FORMATS, ALL)]

Pixels = Annotated[
    Literal["licensed", "noncommercial", "all", "none"],
    Parameter(
        help="Whose pixels go along: of images under a free license (licensed), also of those whose license forbids "
        "commercial use only, of all of them, whatever the law says where you are, or of none."
    ),
]


def _listing(helps: Mapping[str, str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that puts formats, each with its help, where the docstring of a command says FORMATS."""
    width = max(map(len, helps))
    listed = "\n".join(f"  {name:<{width}}  {text}" for name, text in helps.items())

    def with_formats(command: Callable[..., None]) -> Callable[..., None]:
        command.__doc__ = (inspect.getdoc(command) or "").replace("  FORMATS", listed)
        return command

    return with_formats


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export of a dataset."""

    format: FormatName
    """What reads it."""
    out: Annotated[Path | None, Parameter(metavar="DIR")] = None
    """Where it goes (default: exports/DATASET/FORMAT in the root)."""
    pixels: Pixels = "licensed"
    allowed: Annotated[Words, Parameter(name="--allow", metavar="SOURCE")] = ()
    """You have the right to pass on the images of this source; may be given several times."""
    samples_per_shard: Number = 1000
    """Of tar shards."""
    captions: Literal["first", "every"] = "first"
    """Of tar shards: an image is one sample with its first caption, or one for every caption."""
    published: Annotated[str | None, Parameter(metavar="DATE")] = None
    """Date of publication for croissant.json, as in 2026-01-31."""


@_listing({name: kind.help for name, kind in FORMATS.items()})
def export(dataset: DatasetName, /, *, root: Root = DEFAULT_ROOT, options: ExportOptions) -> None:
    """Write a dataset as a folder that other tools read, such as Hugging Face datasets, WebDataset or img2dataset.

    formats:
      FORMATS

    Pixels go along where the row's license allows it, or the recipe says so of its source ([sources.NAME] license =
    "..." or redistribution = true); other images are listed by address in every format. ATTRIBUTION.csv names each
    one's license.

    Examples:
      vernaclip export italian --format huggingface
      vernaclip export italian --format webdataset --pixels noncommercial --out /data/italian-wds
      vernaclip export mine --format huggingface --allow photos
    """
    from data_catalog.exports.export import ExportConfig, export_snapshot
    from data_catalog.storage.lock import writer_lock
    from data_catalog.storage.manifest import EXPORTS, SPLITS, require_snapshot
    from data_catalog.storage.roots import require_root

    config = ExportConfig(**{name: value for name, value in vars(options).items() if name != "out"})
    require_root(root)
    with writer_lock(root):
        snapshot = require_snapshot(root, dataset)
        # `vernaclip forget` removes what lies here and holds what is forgotten.
        folder = options.out or root / EXPORTS / dataset / options.format
        report = export_snapshot(snapshot, config, folder)
    rows = [
        {"split": split, "with pixels": report.images.get(split, 0), "listed by URL": report.listed.get(split, 0)}
        for split in SPLITS
    ]
    say_table(rows)
    if report.withheld:
        say("\nImages whose pixels are not in it:\n")
        say_table([{"source": source, "images": count, "why": why} for source, why, count in report.withheld])
    for source, count in report.unlisted.items():
        say(f"{count:,} of {source} are not in it at all: they have no URL")
    if report.marked:
        say(f"{report.marked:,} pairs hold something of a test set, and are in no export")
    say(f"\n{'Up to date' if report.up_to_date else 'Exported'}: {report.folder} (README.md says how it is read)")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelExportOptions:
    """Options of an export of a model, and of its card."""

    model: Annotated[Path | None, Parameter(metavar="FOLDER")] = None
    """A trained model's own folder instead; the card then cannot say what it was trained on."""
    formats: Annotated[tuple[ModelFormatName, ...], Parameter(name="--format")]
    """May be given several times; several formats go into folders of these names in FOLDER."""
    out: Annotated[Path, Parameter(metavar="FOLDER")]
    """Where it goes."""
    replace: Annotated[bool, Parameter(name="--force")] = False
    """Replace an earlier export of a model that FOLDER holds, with whatever was added to it since."""
    license: Annotated[str, Parameter(name="--license", metavar="NAME")] = ""
    """License that the model card states, as the hub spells it, as cc-by-4.0; other: one that it has no word for."""
    license_name: Annotated[str, Parameter(name="--license-name", metavar="NAME")] = ""
    """Of --license other: what it is called."""
    license_link: Annotated[str, Parameter(name="--license-link", metavar="URL")] = ""
    """Of --license other: where its text is, or LICENSE for a file of that name that you add to the export."""
    scoreboards: Annotated[tuple[Path, ...], Parameter(name="--scores", metavar="scoreboard.json")] = ()
    """What `vernaclip scoreboard` wrote: its scores of this model go into the card, too; may be given often."""
    hub_name: Annotated[str | None, Parameter(metavar="OWNER/NAME")] = None
    """Name under which it goes to the hub; open_clip's config of a Hugging Face text encoder then names it."""
    dataset_hub_name: Annotated[str | None, Parameter(metavar="OWNER/NAME")] = None
    """Name of the dataset on the hub, if you published it: the card then links it."""


@_listing(
    {name: kind.help for name, kind in MODEL_FORMATS.items()}
    | {ALL: "each of them that has an equivalent of the model's architecture"}
)
def export_model(
    dataset: Annotated[str | None, Parameter(name="RECIPE_OR_DATASET")] = None,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    options: ModelExportOptions,
) -> None:
    """Write a trained model as a folder that open_clip, transformers or others read, with a model card.

    formats:
      FORMATS

    Each is read back by the library that it is for, and must score as the model does, or nothing is written. README.md
    in it is a model card: data, settings, scores, limits, time and energy. docs/export-models.md has more.

    Examples:
      vernaclip export-model scenes --root demo-catalog --format open_clip --out scenes-clip
      vernaclip export-model italian --format all --out clip-it --license cc-by-4.0
      vernaclip export-model italian --format open_clip --out clip-it-hub --hub-name somebody/clip-it
      vernaclip export-model --model catalog/models/italian/0123456789ab --format onnx --out clip-it-onnx

    Args:
        dataset: Whose newest model: the name of a dataset, or of its recipe, or the recipe's TOML file.
    """
    from data_catalog.storage.roots import require_root
    from flows.recipe.recipe import load_recipe
    from training.processes import let_threads_sleep
    from training.trained_models import current_model

    folder, snapshot = options.model, None  # of a folder alone nobody knows what it saw
    if (dataset is None) == (folder is None):
        raise SettingsError("name one model: a dataset or recipe whose newest it is, or its folder with --model")
    if dataset is not None:
        require_root(root)
        model = current_model(root, load_recipe(dataset, root=root).name if dataset.endswith(".toml") else dataset)
        folder, snapshot = model.folder, model.snapshot
    assert folder is not None
    let_threads_sleep()  # before torch is loaded
    from training.exports.model_card import training_data
    from training.exports.model_export import ModelExportConfig
    from training.exports.model_export import export_model as write_exports

    name = f"{snapshot.dataset} {folder.name}" if snapshot else folder.resolve().name
    stated = {name: value for name, value in vars(options).items() if name not in ("model", "out")}
    config = ModelExportConfig(name=name, **stated)
    seen = training_data(snapshot) if snapshot else None
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
        say(f"{format_name} has no equivalent of this model, since {reason}")
    say("\nREADME.md in each is a model card, which says how it is read; edit it before you publish.")
