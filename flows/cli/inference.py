"""The commands search, classify, localize and demo, which use a trained model."""

import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.plain_text import visible_text
from flows.cli.output import require_own_file, say, say_json, say_table
from flows.options import (
    DEFAULT_ROOT,
    EngineOptions,
    OptionalPort,
    PositiveNumber,
    Root,
    Split,
    Text,
    Texts,
    no_option,
)

MOST_UNREADABLE = 10  # files to list; --json lists all


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Options that choose the model and the files of the result."""

    dataset: str | None = None
    """Dataset whose newest model is used, if the root contains several."""
    model: Annotated[Path | None, Parameter(metavar="FOLDER")] = None
    """Use the model in this folder instead of one in the root."""
    out: Annotated[Path | None, Parameter(metavar="FILE.png")] = None
    """Path of the picture (default: in searches/ of the root; with --model, in the working folder)."""
    json: Annotated[str | None, Parameter(allow_leading_hyphen=True, metavar="FILE")] = None
    """Write the result as JSON to this file; with -, print JSON only."""


_DEFAULTS, _ENGINE = ShowOptions(), EngineOptions()


def search(
    text: Annotated[str | None, Parameter(allow_leading_hyphen=True, converter=no_option)] = None,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    image: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    images: Annotated[Path | None, Parameter(metavar="FOLDER")] = None,
    split: Split | None = None,
    top: PositiveNumber = 12,
    from_code: Annotated[str | None, Parameter(name="--from", metavar="LANG")] = None,
    to_code: Annotated[str | None, Parameter(name="--to", metavar="LANG")] = None,
    options: ShowOptions = _DEFAULTS,
    engine: EngineOptions = _ENGINE,
) -> None:
    """Find the images of a dataset or folder that match a text or an image, and write them as one contact sheet.

    Examples:
      vernaclip search "due cerchi rossi" --root demo-catalog
      vernaclip search "due cerchi rossi" --root demo-catalog --split test --top 5
      vernaclip search "un cane sulla spiaggia" --images ~/Pictures --root demo-catalog --json hits.json
      vernaclip search "un cane sulla spiaggia" --images ~/Pictures --model my-model --json -
      vernaclip search "two red circles" --root demo-catalog --from en --package en_it.argosmodel
      vernaclip search --image photo.jpg --images ~/Pictures --root demo-catalog

    With --from, the text is translated before the search. The options of the engine are those of `vernaclip translate`,
    but a model of ctranslate2 or transformers is given by --set model=DIR.

    The features of a folder's images are cached in its subfolder .vernaclip, or in the root if the folder is not
    writable. Only new and changed files are encoded again.

    Args:
        text: Query in the language of the model, or of --from.
        image: Find images that look like this file, instead of TEXT. Images with the same bytes are not listed.
        images: Search the image files of this folder instead of a dataset.
        split: Search only this split of the dataset.
        top: Number of images to find.
        from_code: Language of the query, such as en. Translate it for the model.
        to_code: Language of the model, such as it (default: that of the dataset it was trained on).
    """
    from data_catalog.catalog.result_files import short_value
    from flows.search import chosen_model, search_images, translated_query
    from training.use.pictures import contact_sheet

    if (text is None) == (image is None):
        raise SettingsError('give one query: a text, as in `vernaclip search "a dog"`, or --image FILE')
    if from_code is None and (to_code is not None or engine != _ENGINE):
        raise SettingsError("--to and the options of the engine need --from: the language of the query")
    query: str | Path = image or text or ""
    read = [path for path in (image, images) if path is not None]
    out = _picture(root, options, query if isinstance(query, str) else f"search-{query.stem}", read=read)
    if from_code is not None:
        model, packs = chosen_model(root, options.dataset, options.model), engine.language_packs
        codes, memory = (from_code, to_code), engine.memory
        query = translated_query(query, codes, model, root, engine.values(), language_packs=packs, memory=memory)
    found = search_images(
        query, root, num_hits=top, dataset=options.dataset, folder=images, model=options.model, split=split
    )
    title = image.name if image is not None else str(query)
    contact_sheet(found.hits, out, title if from_code is None else f"{title} ({text})", image)
    facts = {} if from_code is None else {"translated_from": text}
    if _wrote_json(options, {**found.to_json(), **facts, "picture": str(out)}):
        return
    if from_code is not None:
        say(f"Translated query: {visible_text(title)}\n")
    rows = []
    for hit in found.hits:
        named = {"file": hit.name} if hit.path else {"sample": hit.name, "caption": hit.captions[0]}
        short = {column: short_value(value) for column, value in named.items()}
        rows.append({"rank": hit.rank, "cosine": f"{hit.cosine:.3f}"} | short)
    say_table(rows)
    if found.left_out:
        say(f"\nNot listed, because it is the query image: {visible_text(', '.join(found.left_out))}")
    _say_unreadable(found.unreadable)
    say(f"\nContact sheet: {out}")


def _say_unreadable(files: Sequence[tuple[Path, str]]) -> None:
    if files:
        say(f"\nFiles that could not be read: {len(files):,}")
    for path, reason in files[:MOST_UNREADABLE]:
        say(visible_text(f"  {path}: {reason}"))
    if len(files) > MOST_UNREADABLE:
        say(f"  and {len(files) - MOST_UNREADABLE:,} more (--json lists all)")


def classify(
    image: Path,
    texts: Texts = (),
    /,
    *,
    root: Root = DEFAULT_ROOT,
    classes: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    template: str = "{c}",
    options: ShowOptions = _DEFAULTS,
) -> None:
    """Rank several texts by how well they match an image, and draw their probabilities as a bar chart.

    Examples:
      vernaclip classify photo.jpg "un gatto" "un cane" "un cavallo" --root demo-catalog
      vernaclip classify photo.jpg --classes animals.txt --template "una foto di {c}" --root demo-catalog

    Probabilities compare only the given texts, so one of them comes first even if none matches. Models that were
    trained with the SigLIP loss score each text independently.

    Args:
        image: Image file.
        texts: Two or more texts in the language of the model.
        classes: File with more texts, one on each line.
        template: Sentence in which each text replaces {c}, such as "una foto di {c}".
    """
    from data_catalog.catalog.result_files import short_value
    from flows.search import chosen_model
    from training.use.classify import SOFTMAX
    from training.use.classify import classify as run
    from training.use.pictures import bars

    labels = [*texts]
    if classes is not None:
        with about(f"--classes: {classes} cannot be read as UTF-8 text"):
            lines = classes.read_text(encoding="utf-8-sig").splitlines()
        labels += [line.strip() for line in lines if line.strip()]
    out = _picture(root, options, f"classify-{image.stem}", read=[image])
    found = run(image, labels, chosen_model(root, options.dataset, options.model), template=template)
    bars(found, out)
    if _wrote_json(options, {**found.to_json(), "picture": str(out)}):
        return
    is_cut = any(choice.is_cut for choice in found.choices)
    say_table(
        [
            {"rank": choice.rank, "text": short_value(choice.text), "probability": f"{choice.probability:.1%}"}
            | {"cosine": f"{choice.cosine:.3f}"}
            | ({"note": "too long: its end was cut off" if choice.is_cut else ""} if is_cut else {})
            for choice in found.choices
        ]
    )
    if found.method == SOFTMAX:
        say(f"\nProbabilities compare only these texts: softmax of {found.logit_scale:.1f} times the cosine.")
    else:
        terms = f"{found.logit_scale:.1f} times the cosine {found.logit_bias or 0.0:+.1f}"
        say(f"\nA SigLIP model scores each text independently: sigmoid of {terms}.")
    say(f"Picture: {out}")


def localize(
    image: Path,
    text: Text,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    method: Literal["both", "cover", "reveal"] = "both",
    options: ShowOptions = _DEFAULTS,
) -> None:
    """Find the part of an image that matches a text, and draw a heat map over the image.

    Example:
      vernaclip localize photo.jpg "un gatto" --root demo-catalog

    The method covers squares of the image one after the other, and also shows each square alone. A part matches if the
    cosine of image and text falls without it and rises with it alone. Some part is always hottest, even if the image
    does not show what the text describes.

    Args:
        image: Image file.
        text: Text in the language of the model.
        method: Cover each square, reveal each square alone, or both.
    """
    from flows.search import chosen_model
    from training.use.localize import METHODS
    from training.use.localize import localize as run
    from training.use.pictures import heat_map

    out = _picture(root, options, f"localize-{image.stem}-{text}", read=[image])
    found = run(image, text, chosen_model(root, options.dataset, options.model), method=method)
    heat_map(found, out)
    if _wrote_json(options, {**found.to_json(), "picture": str(out)}):
        return
    say(f"cosine of image and text: {found.cosine:.3f}")
    if found.hottest:
        (x, y), size = found.peak, f"{found.width}x{found.height} pixels"
        say(f"Hottest around x={x:.0f}, y={y:.0f} of {size}: {found.hottest:.3g} ({METHODS[found.method]}).")
    else:
        why = "No part of the image matches the text better than the rest"
        why = why if found.changes else "The cosine is the same with any part covered"
        say(f"{why}: the model does not find the text in the image.")
    say(f"\nHeat map: {out}")


def demo(
    *,
    root: Root = DEFAULT_ROOT,
    dataset: str | None = None,
    model: Annotated[Path | None, Parameter(metavar="FOLDER")] = None,
    images: Annotated[Path | None, Parameter(metavar="FOLDER")] = None,
    language: Annotated[str | None, Parameter(metavar="LANG")] = None,
    host: str = "127.0.0.1",
    port: OptionalPort = None,
) -> None:
    """Serve a page in the browser: find images, describe one, find a part of it.

    Examples:
      vernaclip demo --root demo-catalog
      vernaclip demo --model my-model --images ~/Pictures --language it

    The page answers this machine only, unless --host says otherwise. It loads nothing from elsewhere, sends nothing,
    and deletes uploads after ten minutes. Its texts are in Italian, German or English. Ctrl-C ends it.

    Args:
        dataset: Dataset whose newest model and images are used, if the root contains several.
        model: Use the model in this folder.
        images: Search the image files of this folder.
        language: Language of the model, such as it (default: that of its dataset).
        host: Address to listen on. With another address than 127.0.0.1, anybody who reaches it can use the page.
        port: Port to listen on (default: 7860, or the next free one).
    """
    from data_catalog.base.errors import install_hint
    from data_catalog.base.heap import share_freed_memory
    from data_catalog.base.language_pack import require_language
    from data_catalog.catalog.manifest import require_snapshot
    from data_catalog.catalog.roots import require_root
    from data_catalog.disk.barrier import OpenSnapshot

    if language is not None:
        require_language(language, "--language")
    if find_spec("gradio") is None:
        raise InputError(f"the page needs Gradio: {install_hint('demo')}")
    if root != DEFAULT_ROOT:
        require_root(root)
    from flows.page import Page, served
    from flows.search import chosen_model
    from flows.signals import interrupted_by_sigterm
    from training.towers.lineage import languages_of
    from training.towers.model import open_model
    from training.towers.trained_models import model_of_folder, pair_hashes
    from training.use.search import folder_gallery, shard_gallery

    share_freed_memory(1)
    folder = chosen_model(root, dataset, model)
    own = model_of_folder(folder, root)
    if images is not None:
        gallery = folder_gallery(images, folder, root=root if root.is_dir() else None)
        page = Page(model=gallery.model, gallery=gallery)
    elif own is not None and own.folder.is_relative_to(root.resolve()):
        snapshot = require_snapshot(root, own.snapshot.dataset)
        present, gallery = OpenSnapshot(root, snapshot.folder), shard_gallery(pair_hashes(snapshot), folder)
        page = Page(model=gallery.model, gallery=gallery, require_present=present.require_present)
    else:
        page = Page(model=open_model(folder))
    learned = languages_of(folder) if own is None else [str(own.snapshot.manifest["target_lang"])]
    spoken = language or next(iter(learned), "")
    with interrupted_by_sigterm(), suppress(KeyboardInterrupt), served(page, spoken, host=host, port=port) as url:
        say(f"The page is at {url}")
        threading.Event().wait()


def _picture(root: Path, options: ShowOptions, name: str, *, read: Sequence[Path]) -> Path:
    """Return the path of the picture, made from a name if none is given; no result may replace or join what is read."""
    folder = root / "searches" if options.model is None else Path()
    # Letters and digits stay; other runs of characters become one dash.
    file_name = re.sub(r"\W+", "-", name.lower()).strip("-")[:60] or "search"
    out = options.out or folder / f"{file_name}.png"
    if options.out is None and options.model is not None and out.exists():
        raise SettingsError(f"{out} exists: choose the path of the picture with --out")
    places = {"--out": out} | ({} if options.json in (None, "-") else {"--json": Path(options.json)})
    for option, place in places.items():
        require_own_file(place, option)
        if inside := next((path for path in read if place.resolve().is_relative_to(path.resolve())), None):
            what = "in the folder that is searched" if inside.is_dir() else "the input image"
            raise SettingsError(f"{place} is {what}: choose another path with {option}")
    if len({place.resolve() for place in places.values()}) < len(places):
        raise SettingsError(f"--json and --out both name {out}: use two different files")
    return out


def _wrote_json(options: ShowOptions, value: dict[str, Any]) -> bool:
    """Write the result to the file of `--json`, if given; return True if it was printed and nothing else should be."""
    from data_catalog.disk.files import write_json

    if options.json == "-":
        say_json(value)
    elif options.json is not None:
        write_json(Path(options.json), value)
    return options.json == "-"
