"""The command export-site, which writes a searchable collection as static files."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from data_catalog.base.errors import SettingsError
from data_catalog.base.plain_text import counted
from flows.cli.output import say, say_table
from flows.options import DEFAULT_ROOT, Root, options_of
from training.exports.formats import SiteConfig

_DEFAULTS = SiteConfig()


def export_site(
    dataset: str | None = None,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    images: Annotated[Path | None, Parameter(metavar="FOLDER")] = None,
    model: Annotated[Path | None, Parameter(metavar="FOLDER")] = None,
    config: Annotated[SiteConfig, options_of(languages="language", allowed="allow")] = _DEFAULTS,
    out: Annotated[Path, Parameter(metavar="FOLDER")],
) -> None:
    """Export a dataset or a folder of images as static files: a page that anybody can search, in the browser alone.

    Examples:
      vernaclip export-site scenes --root demo-catalog --out public
      vernaclip export-site --images ~/Pictures --model my-model --language it --title "The garden" --out public
      python -m http.server --directory public

    Any web host serves the folder; nothing is loaded from elsewhere, and what visitors write stays in their browsers.
    Of a dataset, images are included whose licenses allow it, as in `vernaclip export`; a folder is shown whole, with
    the names of its files. The first export downloads onnxruntime-web (MIT) and tokenizers.js (Apache-2.0) of npm.

    Args:
        dataset: Show the images of this dataset.
        images: Show the image files of this folder instead.
        model: Search with the model in this folder (default: the newest of the dataset).
        out: Folder of the site. An earlier site there is replaced.
    """
    from data_catalog.catalog.manifest import require_snapshot
    from data_catalog.catalog.roots import require_root
    from data_catalog.disk.lock import writer_lock
    from data_catalog.exports.export import require_sources
    from flows.recipe.settings import OPTIONS, checked
    from flows.search import chosen_model
    from training.runs.processes import prepare_for_torch
    from training.towers.lineage import languages_of
    from training.towers.trained_models import model_of_folder, pair_hashes

    config = checked(config, OPTIONS)
    if (dataset is None) == (images is None):
        raise SettingsError("name what the site shows: a dataset, or a folder with --images")
    prepare_for_torch()  # before torch is loaded
    from training.exports.site import dataset_collection, export_site, folder_collection
    from training.towers.model import open_model
    from training.use.search import folder_gallery, shard_gallery

    folder = chosen_model(root, dataset, None) if model is None else model
    found = model_of_folder(folder, root)
    if not config.languages:
        trained_on = [] if found is None else [str(found.snapshot.manifest["target_lang"])]
        config = replace(config, languages=tuple(languages_of(folder) or trained_on))
    if dataset is not None:
        require_root(root)
    with nullcontext() if dataset is None else writer_lock(root):
        if images is not None:
            gallery = folder_gallery(images, folder, root=root if root.is_dir() else None)
            collection = folder_collection(images, gallery)
        else:
            snapshot = require_snapshot(root, str(dataset))
            require_sources(snapshot, config.allowed)
            gallery = shard_gallery(pair_hashes(snapshot), folder if model is None else open_model(folder))
            collection = dataset_collection(snapshot, gallery, config)
        record, is_current = export_site(collection, folder, config, out, root=root)
    loaded: dict[str, int] = record["loaded"]
    say_table([{"what a browser loads": name, "MB": f"{size / 1e6:,.2f}"} for name, size in loaded.items()])
    if record["left_out"]:
        say("\nImages that the site does not have:\n")
        say_table([{"source": source, "images": count, "why": why} for source, why, count in record["left_out"]])
    say(f"\n{'Up to date' if is_current else 'Exported'}: {out}, {counted(record['images'], 'image')}")
    say(f"To look at it: python -m http.server --directory {out}")
