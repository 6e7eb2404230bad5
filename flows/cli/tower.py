"""The command tower, which makes a text tower for other languages from pairs of sentences."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from data_catalog.base.plain_text import command
from flows.cli.jobs import SAY, Request, with_executor
from flows.cli.output import is_quiet, say
from flows.options import Overrides


def make(
    language: Annotated[str, Parameter(metavar="LANG")],
    /,
    *languages: Annotated[str, Parameter(metavar="LANG")],
    like: Annotated[str, Parameter(metavar="TEACHER")],
    pairs: Annotated[str, Parameter(metavar="FILE")],
    root: Annotated[Path, Parameter(name="--out", metavar="FOLDER")],
    source: Annotated[str, Parameter(name="--from", metavar="LANG")] = "en",
    overrides: Overrides = (),
) -> None:
    """Make a text tower in other languages for a model whose image vectors stay as they are, from pairs of sentences.

    Example:
      vernaclip tower uk de --like ViT-B-32/openai --pairs 'en-{lang}.tsv' --out tower

    A small student learns to give sentences the features that the teacher's text tower gives their source sentences.
    It needs no images. With several languages it reads the source language, too. After an interruption, run the same
    command again to resume.

    Args:
        language: Code of a language to learn, such as uk.
        languages: Codes of more languages.
        like: Model whose text tower is learned: MODEL/PRETRAINED of open_clip, or the folder of a model.
        pairs: Lines of source, tab, target, {lang} for the language's code; or train.{lang} for train.en and train.uk.
        root: Folder of the recipe, tower.toml, and of the model.
        source: Language of the source sentences, which the teacher reads.
    """
    from flows.tower_recipe import write_tower_recipe

    file = write_tower_recipe((language, *languages), source, like, pairs, root, overrides)
    request = Request(recipe=str(file), root=root, executor="local", overrides=overrides)
    report = with_executor("distil", request)
    SAY["model"](report, request)
    if not is_quiet():
        say(f"\nTry next:\n  {command('search', '...', '--images', 'DIR', '--root', root)}")
        small = ("--format", "immich", "--as", "NAME", "--precision", "int8", "--measure", file)
        out = ("--root", root, "--out", f"{root.resolve().name}-immich")
        say(f"  {command('export-model', 'tower', *small, *out)}")
