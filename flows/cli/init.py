"""`vernaclip init`: a first recipe, of one's own pairs or of public sources, and what to type next."""

from typing import Annotated

from cyclopts import Parameter

from data_catalog.plain_text import visible_text
from flows.cli.output import is_quiet, say


def init(
    name: str,
    /,
    *,
    language: Annotated[str, Parameter(metavar="LANG")],
    pairs: Annotated[str | None, Parameter(metavar="FILE")] = None,
    images: Annotated[str | None, Parameter(metavar="DIR")] = None,
) -> None:
    """Write a first recipe into the working folder, of your own images and captions or of public sources.

    Examples:
      vernaclip init garden --language uk --pairs captions.csv --images photos
      vernaclip init ukrainian --language uk

    It looks at the files, chooses settings for what is in them, and writes each into NAME.toml with what it means. A
    language that comes without a pack gets a small one beside it. It overwrites nothing.

    Args:
        name: Name of the dataset: NAME.toml becomes its recipe.
        language: Language of the captions and of the queries: a code such as uk, or a language pack's file.
        pairs: CSV, TSV, JSON Lines or Parquet with a column of images and one of captions.
        images: Folder, zip or tar of the images that the file names (default: the folder of the file).
    """
    from flows.cli.services import trait_text
    from flows.recipe.starting import start

    started = start(name, language, pairs=pairs, images=images)
    if is_quiet():
        return
    for line in started.found:
        say(visible_text(f"{line.topic:<10}{line.text}"))
    if started.lacking:
        say("\nWhat the language lacks here:\n")
    for trait in started.lacking:
        say(trait_text(trait))
    say(f"\nWritten: {', '.join(map(str, started.files))}\n\nType next:")
    width = max(len(line.topic) for line in started.commands)
    for line in started.commands:
        say(visible_text(f"  {line.topic:<{width}}  # {line.text}"))
