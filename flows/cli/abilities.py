"""Commands that show what a model can do: search, classify, localize."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from data_catalog.errors import InputError, SettingsError
from data_catalog.plain_text import visible_text
from flows.cli.options import DEFAULT_ROOT, Number, Root, Split, Text, Words
from flows.cli.output import require_own_file, say, say_json, say_table

NOTHING_CHANGES = "No part of the image changes it: the model does not find the text in it."
NOTHING_HOT = "Every part of the image fits the text worse than the rest: the model does not find it in any."
MOST_UNREADABLE = 10  # files that are listed; --json has all


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Options of the model that is asked, and of the place of the result."""

    dataset: str | None = None
    """Which dataset's model, where the root holds several."""
    model: Annotated[Path | None, Parameter(metavar="FOLDER")] = None
    """A model's folder, instead of one of the root."""
    out: Annotated[Path | None, Parameter(metavar="FILE.png")] = None
    """Where the picture goes (default: searches/ in the root; with --model, the working folder)."""
    json: Annotated[str | None, Parameter(allow_leading_hyphen=True, metavar="FILE")] = None
    """The result as JSON; - for standard output, and nothing else."""


_DEFAULTS = ShowOptions()


def search(
    text: Text,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    images: Annotated[Path | None, Parameter(metavar="FOLDER")] = None,
    split: Split | None = None,
    top: Number = 12,
    options: ShowOptions = _DEFAULTS,
) -> None:
    """Find the images of a dataset, or of a folder, that fit a text, and write them as a contact sheet.

    Examples:
      vernaclip search "due cerchi rossi" --root demo-catalog
      vernaclip search "due cerchi rossi" --root demo-catalog --split test --top 5
      vernaclip search "un cane sulla spiaggia" --images ~/Pictures --root demo-catalog --json hits.json
      vernaclip search "un cane sulla spiaggia" --images ~/Pictures --model my-model --json -

    The features of a folder's images are kept in it, in .vernaclip, or below the root where it cannot be written to;
    only files that have changed are encoded again.

    Args:
        text: In the language of the model.
        images: Search image files instead of a dataset.
        split: Only the images of one split of the dataset.
        top: How many images.
    """
    from data_catalog.database.result_files import short_value
    from training.use.pictures import contact_sheet
    from training.use.search import search_dataset, search_folder

    out = _picture(root, options, text, read=images)
    if top < 1:
        raise SettingsError(f"--top must be at least 1, got {top}")
    if images is not None and split is not None:
        raise SettingsError("--split is of a dataset, and --images searches a folder: give one of the two")
    if images is not None:
        keeps = root if root.is_dir() else None  # what a folder cannot keep
        found = search_folder(text, images, _chosen_model(root, options), k=top, root=keeps)
    elif options.model is not None:
        raise SettingsError("--model goes with --images; a dataset is searched by its own model")
    else:
        found = search_dataset(root, options.dataset, text, num_hits=top, split=split)
    contact_sheet(found.hits, out, text)
    if _wrote_json(options, {**found.to_json(), "picture": str(out)}):
        return
    say_table(
        [
            {"rank": hit.rank, "cosine": f"{hit.cosine:.3f}", "file": short_value(hit.name)}
            if hit.path
            else {
                "rank": hit.rank,
                "cosine": f"{hit.cosine:.3f}",
                "sample": short_value(hit.name),
                "caption": short_value(hit.captions[0]),
            }
            for hit in found.hits
        ]
    )
    if found.unreadable:
        say(f"\nFiles that could not be read: {len(found.unreadable):,}")
        for path, reason in found.unreadable[:MOST_UNREADABLE]:
            say(visible_text(f"  {path}: {reason}"))
        if len(found.unreadable) > MOST_UNREADABLE:
            say(f"  and {len(found.unreadable) - MOST_UNREADABLE:,} more, which --json lists")
    say(f"\nContact sheet: {out}")


def classify(
    image: Path,
    texts: Words = (),
    /,
    *,
    root: Root = DEFAULT_ROOT,
    classes: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    template: str = "{c}",
    options: ShowOptions = _DEFAULTS,
) -> None:
    """Say which of several texts fits an image best, with a picture of the probabilities.

    Examples:
      vernaclip classify photo.jpg "un gatto" "un cane" "un cavallo" --root demo-catalog
      vernaclip classify photo.jpg --classes animals.txt --template "una foto di {c}" --root demo-catalog

    Probabilities compare the given texts with each other only: one of them comes out on top even where none fits.
    Models that were trained with the SigLIP loss judge each text by itself.

    Args:
        image: The image.
        texts: Two or more, in the language of the model.
        classes: More texts, one a line.
        template: What is made of each text, such as "una foto di {c}".
    """
    from data_catalog.database.result_files import short_value
    from training.use.classify import SOFTMAX
    from training.use.classify import classify as run
    from training.use.pictures import bars

    labels = [*texts, *(_lines(classes) if classes else [])]
    out = _picture(root, options, f"classify-{image.stem}", read=image)
    found = run(image, labels, _chosen_model(root, options), template=template)
    bars(found, out)
    if _wrote_json(options, {**found.to_json(), "picture": str(out)}):
        return
    rows = [
        {"rank": choice.rank, "text": short_value(choice.text), "probability": f"{choice.probability:.1%}"}
        | {"cosine": f"{choice.cosine:.3f}", "note": "its end was left out: too long" if choice.is_cut else ""}
        for choice in found.choices
    ]
    is_noted = any(row["note"] for row in rows)
    say_table([{name: row[name] for name in row if is_noted or name != "note"} for row in rows])
    if found.method == SOFTMAX:
        say(f"\nProbabilities compare these texts only: softmax of {found.logit_scale:.1f} times the cosine.")
    else:
        terms = f"{found.logit_scale:.1f} times the cosine {found.logit_bias or 0.0:+.1f}"
        say(f"\nEach text is judged by itself, as a SigLIP model is trained to: sigmoid of {terms}.")
    say(f"Picture: {out}")


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"--classes: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--classes: {path} is not UTF-8 text: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def localize(
    image: Path,
    text: Text,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    method: Literal["both", "cover", "reveal"] = "both",
    options: ShowOptions = _DEFAULTS,
) -> None:
    """Find where in an image a text is, with a heat map over the image.

    Example:
      vernaclip localize photo.jpg "un gatto" --root demo-catalog

    Squares of the image are covered one after the other, and each is shown alone. Where the cosine of image and text
    falls most without a part, and rises most by it alone, there the text is. Something is hottest even where the text
    is not in the image at all.

    Args:
        image: The image.
        text: In the language of the model.
        method: Cover squares, reveal them alone, or both.
    """
    from training.use.localize import METHODS
    from training.use.localize import localize as run
    from training.use.pictures import heat_map

    out = _picture(root, options, f"localize-{image.stem}-{text}", read=image)
    found = run(image, text, _chosen_model(root, options), method=method)
    heat_map(found, out)
    if _wrote_json(options, {**found.to_json(), "picture": str(out)}):
        return
    say(f"cosine of image and text: {found.cosine:.3f}")
    if found.hottest:
        (x, y), size = found.peak, f"{found.width}x{found.height} pixels"
        say(f"Hottest around x={x:.0f}, y={y:.0f} of {size}: {found.hottest:.3g} ({METHODS[found.method]}).")
    else:
        say(NOTHING_HOT if found.changes else NOTHING_CHANGES)
    say(f"\nHeat map: {out}")


def _chosen_model(root: Path, options: ShowOptions) -> Path:
    """Return the folder of the model that is named, or of the newest one of a dataset, or of the root's only one."""
    from training.trained_models import current_model

    if options.model is None:
        return current_model(root, options.dataset).folder
    if options.dataset is not None:
        raise SettingsError("--model names a model, and --dataset another: give one of the two")
    return options.model


def _picture(root: Path, options: ShowOptions, name: str, *, read: Path | None) -> Path:
    """Return where the picture goes: with a model from elsewhere there may be no root, and none is made for it.

    Args:
        root: of the catalog.
        options: of the command.
        name: what the picture is called.
        read: the image, or the folder of images, that is looked at.

    Raises:
        SettingsError: it would take the place of something else, or lie among the images that are searched.
    """
    folder = root / "searches" if options.model is None else Path()
    # Letters and digits stay; other runs of characters become one dash.
    file_name = re.sub(r"\W+", "-", name.lower()).strip("-")[:60] or "search"
    out = options.out or folder / f"{file_name}.png"
    if options.out is None and options.model is not None and out.exists():
        raise SettingsError(f"{out} is there already: say by --out where the picture goes")
    places = {"--out": out}
    if options.json not in (None, "-"):
        places["--json"] = Path(options.json)
    for option, place in places.items():
        require_own_file(place, option)
        if read is not None and place.resolve() == read.resolve():
            raise SettingsError(f"{place} is the image itself, which is not overwritten: name another file")
        if read is not None and read.is_dir() and place.resolve().is_relative_to(read.resolve()):
            raise SettingsError(f"{place} would lie among the images that are searched: say by {option} where it goes")
    if out.suffix.lower() != ".png":
        raise SettingsError(f"--out: pictures are PNG files, so {out.name} must end in .png")
    if len({place.resolve() for place in places.values()}) < len(places):
        raise SettingsError(f"--json and --out both name {out}: give two files")
    return out


def _wrote_json(options: ShowOptions, value: dict[str, Any]) -> bool:
    """Write the result where `--json` says, if it says so; return True if it went to standard output, alone."""
    from data_catalog.storage.shards import write_json

    if options.json == "-":
        say_json(value)
        return True
    if options.json is not None:
        write_json(Path(options.json), value)
    return False
