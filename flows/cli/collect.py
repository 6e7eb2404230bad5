"""The commands collect draw, merge and value: captions by the people who speak a language."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from data_catalog.base.plain_text import command, counted
from flows.cli.jobs import BuildOptions, Request, with_executor
from flows.cli.output import require_own_file, say, say_table
from flows.options import DEFAULT_ROOT, CollectConfig, PositiveNumber, RecipeName, Root

_BUILD, _DRAW = BuildOptions(), CollectConfig()


def draw(
    images: Annotated[Path, Parameter(name="IMAGES")],
    /,
    *,
    language: Annotated[str, Parameter(metavar="LANG")],
    out: Annotated[Path, Parameter(metavar="FOLDER")],
    words: Annotated[str | None, Parameter(metavar="LANG|FILE.toml")] = None,
    config: CollectConfig = _DRAW,
) -> None:
    """Draw pictures of a folder, and write a form for each person, in which they caption them.

    A form is one HTML file with the pictures inside. It works offline, on telephones too, and saves a CSV.

    Args:
        images: Folder with the pictures.
        language: Language of the captions: a code such as uk, or the file of a language pack.
        out: Folder for the forms, and for collect.csv, which says who got what.
        words: Language of the form itself (en, it), or a TOML file with its words (default: LANG, else en).
    """
    from flows.collect.draw import SHEET_FILE, draw_pictures, read_words, write_forms
    from flows.language_doctor import find_language

    code = find_language(language).pack.code
    texts = read_words(words, code)
    pictures, left_out = draw_pictures(images, config)
    say_table(write_forms(pictures, out, config, language=code, words=texts))
    if left_out:
        say(f"left out: {', '.join(f'{reason} ({count:,})' for reason, count in left_out.items())}")
    if len(pictures) < config.num_pictures:
        say(f"only {counted(len(pictures), 'picture')} can be used, fewer than {config.num_pictures:,}: all are drawn")
    say(f"\nwrote {out}: give each person one form (any browser opens it), and keep {SHEET_FILE}")
    say(f"then: {command('collect', 'merge', 'ANSWERS.csv', '--drawn', out, '--out', 'captions.csv')}")


def merge(
    answers: Annotated[tuple[Path, ...], Parameter(name="ANSWERS.csv")],
    /,
    *,
    drawn: Annotated[Path, Parameter(metavar="FOLDER")],
    out: Annotated[Path, Parameter(metavar="FILE.csv")] = Path("captions.csv"),
    as_test: bool = False,
) -> None:
    """Merge the answers that people sent into one table of captions; run it again whenever more come.

    Args:
        answers: Files that the forms saved, all that ever came.
        drawn: Folder that `draw` wrote.
        out: Table of captions with image, language, origin and person; what is not handed on is beside it.
        as_test: Use the captions as a test set, which is kept out of training: print its part of a recipe.
    """
    from flows.collect.merge import agreement_line, merge_answers, person_rows, write_merged

    require_own_file(out)
    merged = merge_answers(answers, drawn)
    left_out = write_merged(merged, out)
    say_table(person_rows(merged))
    say(f"\n{agreement_line(merged)}")
    for note in merged.notes:
        say(f"note: {note}")
    num_captions = sum(map(len, merged.captions.values()))
    num_images = len({image for _, image in merged.captions})
    say(f"\nwrote {out}: {counted(num_captions, 'caption')} of {counted(num_images, 'picture')}")
    if merged.left_out:
        say(f"wrote {left_out}: {counted(len(merged.left_out), 'caption')} left out, each with its reason")
    if as_test:
        say(f'''add this to a recipe, with the folder of the pictures; the leak guard keeps them out of training:

[test_sets.speakers]
kind = "pairs"
files = ["{out}"]
path_column = "image"
caption_column = "caption"
images = "IMAGES"''')
        return
    init = command("init", "NAME", "--language", merged.language, "--pairs", out, "--images", "IMAGES")
    say(f"then: {init}")


def value(
    recipe: RecipeName,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    more: PositiveNumber = 500,
    options: BuildOptions = _BUILD,
) -> None:
    """Estimate how much more captions would help, from the recipe's captions so far.

    The dataset is built if need be, the recipe's frozen towers are aligned on an eighth, a quarter, a half and all of
    it, and the curve of R@1 is extended.

    Args:
        more: Number of further captions.
    """
    from flows.collect.value import curve_sizes, value_line
    from flows.models import require_ready

    request = Request(
        recipe=recipe,
        root=root,
        overrides=options.overrides,
        executor=options.executor,
        dask_address=options.dask_address,
    )
    found = request.loaded
    require_ready(replace(found, model=replace(found.model, by="align")), root)
    report = with_executor("align", request, curve=curve_sizes(with_executor("build", request).snapshot))
    say_table(report.curve_rows())
    say(f"\n{value_line(report.curve, more)}")
