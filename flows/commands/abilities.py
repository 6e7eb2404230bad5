"""Commands that show what a model can do: search, classify, localize."""

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.errors import ConfigError
from data_catalog.storage.shards import write_json
from flows.commands.output import require_own_file, say
from flows.commands.sql import short_value
from flows.tables import escaped_json, plain_table, visible_text

if TYPE_CHECKING:
    from training.search import SearchResult

NOTHING_CHANGES = "No part of the image changes it: the model does not find the text in it."
NOTHING_HOT = "Every part of the image fits the text worse than the rest: the model does not find it in any."
MOST_UNREADABLE = 10  # files that are listed; --json has all


def search(options: Namespace) -> None:
    """Find the images that fit a text; print them and write a contact sheet."""
    from flows.abilities import chosen_model, search_dataset, search_images
    from training.contact_sheet import contact_sheet

    out = _picture(options, options.text)
    if options.top < 1:
        raise ConfigError(f"--top must be at least 1, got {options.top}")
    if options.images is not None and options.split is not None:
        raise ConfigError("--split is of a dataset, and --images searches a folder: give one of the two")
    if options.images is not None:
        model = chosen_model(options.root, options.dataset, options.model)
        found = search_images(options.root, options.images, options.text, model, num_hits=options.top)
    elif options.model is not None:
        raise ConfigError("--model goes with --images; a dataset is searched by its own model")
    else:
        found = search_dataset(options.root, options.dataset, options.text, num_hits=options.top, split=options.split)
    contact_sheet(found.hits, out, options.text)
    if not _wrote_json(options, {**found.to_json(), "picture": str(out)}):
        _say_hits(found)
        say(f"\nContact sheet: {out}")


def _say_hits(found: "SearchResult") -> None:
    rows = [
        {
            "rank": hit.rank,
            "cosine": f"{hit.cosine:.3f}",
            "file" if hit.path else "sample": hit.name,
            **({} if hit.path else {"caption": hit.captions[0]}),
        }
        for hit in found.hits
    ]
    say(plain_table([{name: short_value(value) for name, value in row.items()} for row in rows]))
    if found.unreadable:
        say(f"\nFiles that could not be read: {len(found.unreadable):,}")
        for path, reason in found.unreadable[:MOST_UNREADABLE]:
            say(visible_text(f"  {path}: {reason}"))
        if len(found.unreadable) > MOST_UNREADABLE:
            say(f"  and {len(found.unreadable) - MOST_UNREADABLE:,} more, which --json lists")


def classify(options: Namespace) -> None:
    """Say which of several texts fits an image best; print a table and write a picture with bars."""
    from flows.abilities import chosen_model
    from training.bars import bars
    from training.classify import SOFTMAX
    from training.classify import classify as run

    labels = [*options.texts, *(_lines(options.classes) if options.classes else [])]
    out = _picture(options, f"classify-{options.image.stem}")
    model = chosen_model(options.root, options.dataset, options.model)
    found = run(options.image, labels, model, template=options.template)
    bars(found, out)
    if _wrote_json(options, {**found.to_json(), "picture": str(out)}):
        return
    rows = [
        {"rank": choice.rank, "text": short_value(choice.text), "probability": f"{choice.probability:.1%}"}
        | {"cosine": f"{choice.cosine:.3f}", "note": "its end was left out: too long" if choice.is_cut else ""}
        for choice in found.choices
    ]
    is_noted = any(row["note"] for row in rows)
    say(plain_table([{name: row[name] for name in row if is_noted or name != "note"} for row in rows]))
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
        raise ConfigError(f"--classes: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--classes: {path} is not UTF-8 text: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def localize(options: Namespace) -> None:
    """Say where in an image a text is; write a heat map."""
    from flows.abilities import chosen_model
    from training.heat_map import heat_map
    from training.localize import METHODS
    from training.localize import localize as run

    out = _picture(options, f"localize-{options.image.stem}-{options.text}")
    model = chosen_model(options.root, options.dataset, options.model)
    found = run(options.image, options.text, model, method=options.method)
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


def _picture(options: Namespace, name: str) -> Path:
    """Where the picture goes: with a model from elsewhere there may be no root, and none is made for it.

    Raises:
        ConfigError: it would take the place of something else, or lie among the images that are searched.
    """
    folder = options.root / "searches" if options.model is None else Path()
    out: Path = options.out or folder / f"{_file_name(name)}.png"
    require_own_file(out)
    nearest = next(parent for parent in out.parents if parent.exists())
    if not nearest.is_dir():
        raise ConfigError(f"--out: {nearest} is no folder")
    if options.out is None and options.model is not None and out.exists():
        raise ConfigError(f"{out} is there already: say by --out where the picture goes")
    _refuse_inputs(options, out, "--out")
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out: pictures are PNG files, so {out.name} must end in .png")
    if options.json not in (None, "-"):
        written = Path(options.json)
        require_own_file(written)
        if written.resolve() == out.resolve():
            raise ConfigError(f"--json and --out both name {out}: give two files")
        _refuse_inputs(options, written, "--json")
    return out


def _refuse_inputs(options: Namespace, out: Path, option: str) -> None:
    image, images = getattr(options, "image", None), getattr(options, "images", None)
    if image is not None and out.resolve() == image.resolve():
        raise ConfigError(f"{out} is the image itself, which is not overwritten: name another file")
    if images is not None and out.resolve().is_relative_to(images.resolve()):
        raise ConfigError(f"{out} would lie among the images that are searched: say by {option} where it goes")


def _file_name(text: str) -> str:
    """A text as a file name: its letters and digits, other runs of characters as one dash."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:60] or "search"


def _wrote_json(options: Namespace, value: dict[str, Any]) -> bool:
    """Write the result where `--json` says, if it says so; whether it went to standard output, alone."""
    if options.json == "-":
        say("\n".join(map(escaped_json, json.dumps(value, indent=1, ensure_ascii=False).split("\n"))))
        return True
    if options.json is not None:
        write_json(Path(options.json), value)
    return False
