"""Options that several commands take, each with its type and help; the help of a command is its docstring."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

DEFAULT_ROOT = Path("catalog")
ROOT_VARIABLE = "VERNACLIP_ROOT"


def whole_number(_: Any, tokens: Sequence[Token]) -> int:
    """Read an integer as Python does: cyclopts itself would round 1.5.

    Raises:
        ValueError: it is none.
    """
    try:
        return int(tokens[0].value)
    except ValueError as error:
        raise ValueError(f"{tokens[0].value!r} is no whole number.") from error


def word_groups(_: Any, tokens: Sequence[Token]) -> tuple[tuple[str, ...], ...]:
    """Group the words of an option that is given often and takes several each time."""
    groups: list[list[str]] = []
    for token in tokens:
        if token.index == 0:
            groups.append([])
        groups[-1].append(token.value)
    return tuple(map(tuple, groups))


def no_option(_: Any, tokens: Sequence[Token]) -> str:
    """Read a text that may begin with a hyphen, where a mistyped option would pass for one: - alone, or with spaces.

    Raises:
        ValueError: it looks like an option.
    """
    value = tokens[0].value
    if value.startswith("-") and value != "-" and " " not in value:
        raise ValueError(f"Unknown option: {value}.")
    return value


Number = Annotated[int, Parameter(converter=whole_number, metavar="N")]
OptionalNumber = Annotated[int | None, Parameter(converter=whole_number, metavar="N")]
Words = tuple[str, ...]
Text = Annotated[str, Parameter(allow_leading_hyphen=True, converter=no_option)]
Groups = Annotated[
    tuple[tuple[str, ...], ...], Parameter(converter=word_groups, consume_multiple=1, metavar="NAME KEY=VALUE...")
]
KeyValues = Annotated[Words, Parameter(consume_multiple=1, metavar="KEY=VALUE...")]

RecipeName = Annotated[str, Parameter(help="Name of a recipe (see `vernaclip recipes`) or a TOML file.")]
DatasetName = Annotated[str, Parameter(help="Name of a dataset (see `vernaclip catalog`).")]
Root = Annotated[Path, Parameter(env_var=ROOT_VARIABLE, metavar="DIR", help="Folder of the catalog.")]
Json = Annotated[bool, Parameter(help="Print the same as JSON, and nothing else.")]
Overrides = Annotated[Words, Parameter(name="--set", metavar="SECTION.KEY=VALUE")]
From = Annotated[str, Parameter(name="--from", metavar="LANG", help="Language of the input, such as en.")]
To = Annotated[str, Parameter(name="--to", metavar="LANG", help="Language of the output, such as it.")]
MaybeFrom = Annotated[str | None, Parameter(name="--from", metavar="LANG", help="Language of the input, such as en.")]
MaybeTo = Annotated[str | None, Parameter(name="--to", metavar="LANG", help="Language of the output, such as it.")]
LanguagePacks = Annotated[Words, Parameter(name="--language-pack", metavar="FILE")]
PrivateHosts = Annotated[
    Words,
    Parameter(
        name="--private-host",
        metavar="HOST",
        help="Also ask this host, such as a mirror on your own network, at whatever address and port; may be repeated.",
    ),
]
Split = Literal["train", "val", "test"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of `mt evaluate`: the systems that are scored."""

    systems: Annotated[Groups, Parameter(name="--system")]
    """An engine by any settings of [translate], as package=FILE; or output=FILE, translations; may be given often."""
    language_packs: LanguagePacks = ()
    """TOML file of a language's codes, for --from, --to or a pivot; may be given often."""
    memory: Annotated[Path | None, Parameter(metavar="DIR")] = None
    """Keep here what a paid engine translates; its speed is not measured."""
    # sacrebleu's others fetch a model from the network.
    tokenize: Literal["13a", "intl", "zh", "char", "ja-mecab", "ko-mecab"] | None = None
    """sacrebleu's tokenizer for BLEU (default: 13a; zh for zh; char for ja, ko, th, lo, km and my)."""
    out: Annotated[Path | None, Parameter(metavar="FOLDER")] = None
    """Write scores.json, and NAME.txt with what each engine made."""
    force: bool = False
    """Replace what FOLDER holds of an earlier evaluation."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ScoreboardOptions:
    """Options of `scoreboard` beside recipe and root."""

    overrides: Overrides = ()
    """Override a setting of the recipe; without one, of [evaluate] only; may be given often."""
    language: str | None = None
    """Of captions and class names, where no recipe is given."""
    models: Annotated[Groups, Parameter(name="--model")] = ()
    """A model to score beside the recipe's; may be given often."""
    english: KeyValues | None = None
    """An English model as two baselines: asked in the target language as it is, and in translation."""
    test_sets: Annotated[Groups, Parameter(name="--test-set")] = ()
    """A set to score on beside the recipe's; may be given often."""
    protocol: Annotated[KeyValues | None, Parameter(metavar="NAME KEY=VALUE...")] = None
    """As a paper measured: clip-italian captions=FILE images=DIR imagenet=DIR class_names=FILE."""
    no_split: bool = False
    """Leave out the dataset's own held-out images (evaluate.split)."""
    report_anyway: bool = False
    """Where a model was trained on images of a set: score all images, and those that are left, side by side."""
    language_packs: LanguagePacks = ()
    """TOML file of a language's class names, templates and codes; may be given often."""
    out: Annotated[Path | None, Parameter(metavar="FOLDER")] = None
    """Where the files go (default: in the root)."""
