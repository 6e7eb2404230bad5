"""Options that several commands share, each with its type and help text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token, convert, default_name_transform
from cyclopts.validators import Number as Within

from data_catalog.base.errors import SettingsError
from translation.config import ENGINES

DEFAULT_ROOT = Path("catalog")
ROOT_VARIABLE = "VERNACLIP_ROOT"


def option_value(kind: Any, tokens: Sequence[Token]) -> Any:
    """Return the value of an option without a converter of its own; cyclopts itself would round 1.5."""
    if kind not in (int, int | None):
        return convert(kind, tokens)
    try:
        return int(tokens[0].value)
    except ValueError as error:
        raise ValueError(f"{tokens[0].value!r} is not a whole number.") from error


def word_groups(_: Any, tokens: Sequence[Token]) -> tuple[tuple[str, ...], ...]:
    """Return the words of a repeatable option that takes several words, as one tuple for each occurrence."""
    groups: list[list[str]] = []
    for token in tokens:
        if token.index == 0:
            groups.append([])
        groups[-1].append(token.value)
    return tuple(map(tuple, groups))


_OPTION = re.compile(r"--?[A-Za-z][A-Za-z0-9-]*(=\S*)?")


def no_option(_: Any, tokens: Sequence[Token]) -> str:
    """Return a text that may begin with a hyphen, but refuse one that may be a mistyped option."""
    if _OPTION.fullmatch(tokens[0].value):
        raise ValueError(f"Unknown option: {tokens[0].value}.")
    return tokens[0].value


def no_options(_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Return texts that are read as `no_option` reads one."""
    return tuple(no_option(_, [token]) for token in tokens)


Number = Annotated[int, Parameter(metavar="N")]
WholeNumber = Annotated[int, Parameter(validator=Within(gte=0), metavar="N")]
PositiveNumber = Annotated[int, Parameter(validator=Within(gte=1), metavar="N")]
OptionalPort = Annotated[int | None, Parameter(validator=Within(gte=1, lte=65535), metavar="N")]
Words = tuple[str, ...]
Text = Annotated[str, Parameter(allow_leading_hyphen=True, converter=no_option)]
Texts = Annotated[Words, Parameter(allow_leading_hyphen=True, converter=no_options)]
Groups = Annotated[tuple[Words, ...], Parameter(converter=word_groups, consume_multiple=1, metavar="NAME KEY=VALUE...")]
KeyValues = Annotated[Words, Parameter(consume_multiple=1, metavar="KEY=VALUE...")]

RecipeName = Annotated[str, Parameter(help="Name of a recipe (see `vernaclip recipes`), or a TOML file.")]
DatasetName = Annotated[str, Parameter(help="Name of a dataset (see `vernaclip catalog`).")]
Root = Annotated[Path, Parameter(env_var=ROOT_VARIABLE, metavar="DIR", help="Root folder of the catalog.")]
Json = Annotated[bool, Parameter(help="Print the result as JSON only.")]
Overrides = Annotated[
    Words,
    Parameter(name="--set", metavar="SECTION.KEY=VALUE", help="Override a setting of the recipe. Repeatable."),
]
From = Annotated[str, Parameter(name="--from", metavar="LANG", help="Language of the input, such as en.")]
To = Annotated[str, Parameter(name="--to", metavar="LANG", help="Language of the output, such as it.")]
LanguagePacks = Annotated[Words, Parameter(name="--language-pack", metavar="FILE")]
Split = Literal["train", "val", "test"]


def options_of(**names: str) -> Parameter:
    """Return the mark of a config class whose fields are a command's options, some of them under other names."""
    return Parameter(name="*", name_transform=lambda field: names.get(field, default_name_transform(field)))


_ENGINE_NAMES = f"{ENGINES[0]} (default), {', '.join(ENGINES[1:])}."


@Parameter(name="*", group=Group("Engine", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of a translation engine."""

    engine: Annotated[str | None, Parameter(metavar="NAME", help=_ENGINE_NAMES)] = None
    package: Annotated[Words, Parameter(metavar="FILE")] = ()
    """For argos: .argosmodel file or folder (default: the installed package)."""
    language_packs: LanguagePacks = ()
    """Language pack (TOML file) for --from, --to or --pivot. Repeatable."""
    pivot: Annotated[str | None, Parameter(metavar="LANG")] = None
    """Translate by way of this language; needs two packages or models."""
    memory: Annotated[Path | None, Parameter(metavar="DIR")] = None
    """Cache translations in this folder, and never translate a cached text again."""
    overrides: Annotated[Words, Parameter(name="--set", metavar="KEY=VALUE")] = ()
    """Set any key of the [translate] section of recipes, such as beam_size=1. Repeatable."""

    def values(self) -> dict[str, Any]:
        """Return the engine's settings, of the options and of `--set`."""
        from flows.recipe.engines import setting_values

        values = setting_values(self.overrides)
        for name in ("engine", "package", "model", "pivot"):
            given = getattr(self, name, None)  # only some commands have a `model` here
            if given and name in values:
                raise SettingsError(f"translate.{name} is given twice, by --{name} and by --set {name}=...: keep one")
            if given:
                values[name] = list(given) if isinstance(given, tuple) else given
        return values


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of `mt evaluate`: the systems to score, and where the results go."""

    systems: Annotated[Groups, Parameter(name="--system")]
    """Engine by settings of [translate], such as package=FILE, or translations in a file, output=FILE. Repeatable."""
    language_packs: LanguagePacks = ()
    """Language pack (TOML file) for --from, --to or a pivot. Repeatable."""
    memory: Annotated[Path | None, Parameter(metavar="DIR")] = None
    """Cache the translations of paid engines in this folder. The speed of a paid engine is not measured."""
    # sacrebleu's other tokenizers fetch a model from the network.
    tokenize: Literal["13a", "intl", "zh", "char", "ja-mecab", "ko-mecab"] | None = None
    """sacrebleu's tokenizer for BLEU (default: 13a; zh for zh; char for ja, ko, th, lo, km and my)."""
    out: Annotated[Path | None, Parameter(metavar="FOLDER")] = None
    """Write scores.json and the translations of each engine (NAME.txt) into this folder."""
    force: bool = False
    """Replace the files of an earlier evaluation in FOLDER."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ScoreboardConfig:
    """Settings of a scoreboard: the models to score, and their test sets."""

    overrides: Annotated[
        Overrides, Parameter(help="Override a setting of the recipe; without one, of [evaluate] only. Repeatable.")
    ] = ()
    language: str | None = None
    """Language of captions and class names, if no recipe is given."""
    models: Annotated[Groups, Parameter(name="--model")] = ()
    """Also score this model. Repeatable."""
    test_sets: Annotated[Groups, Parameter(name="--test-set")] = ()
    """Also score on this test set. Repeatable."""
    no_split: bool = False
    """Do not score on the dataset's own held-out images (evaluate.split)."""
    report_anyway: bool = False
    """If a model was trained on images of a test set, score it on all images and on the unseen ones, side by side."""
    language_packs: LanguagePacks = ()
    """Language pack (TOML file) with class names, templates and codes. Repeatable."""
    protocol: Annotated[KeyValues | None, Parameter(metavar="NAME KEY=VALUE...")] = None
    """Measure as a paper did: clip-italian captions=FILE images=DIR imagenet=DIR class_names=FILE."""
    out: Annotated[Path | None, Parameter(metavar="FOLDER")] = None
    """Folder of the results (default: scoreboards/ in the root)."""
