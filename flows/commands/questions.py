"""Commands that look something up by words: search and recipes."""

import re
from argparse import Namespace

from flows.commands.output import say
from flows.commands.sql import short_value
from flows.recipe import recipe_names, recipe_summary
from flows.tables import plain_table


def search(options: Namespace) -> None:
    """Find the images that fit a text; print them and write a contact sheet."""
    from flows.models import only_dataset, search_images

    dataset = options.dataset or only_dataset(options.root)
    out = options.out or options.root / "searches" / f"{_file_name(options.text)}.png"
    hits = search_images(options.root, dataset, options.text, num_hits=options.top, out=out)
    rows = [
        {"rank": hit.rank, "cosine": f"{hit.score:.3f}", "sample": hit.sample_id, "caption": hit.captions[0]}
        for hit in hits
    ]
    say(plain_table([{name: short_value(value) for name, value in row.items()} for row in rows]))
    say(f"\nContact sheet: {out}")


def _file_name(text: str) -> str:
    """A text as a file name: its letters and digits, other runs of characters as one dash."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:60] or "search"


def recipes(_: Namespace) -> None:
    """List the recipes that come with vernaclip, with their first lines."""
    say(plain_table([{"recipe": name, "what it does": recipe_summary(name)} for name in recipe_names()]))
