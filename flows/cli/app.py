"""The table of all commands and the entry point `main`, with usage errors, error messages and exit codes."""

import inspect
import logging
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import (
    App,
    CoercionError,
    ConsumeMultipleError,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from data_catalog.base.plain_text import visible_lines, visible_text
from data_catalog.base.progress import lines_above_progress
from flows import PACKAGES
from flows.cli import (
    catalog,
    comparisons,
    export,
    first_steps,
    inference,
    jobs,
    mt,
    services,
    site,
    snapshots,
    translate,
)
from flows.cli.output import discard_output, output_errors
from flows.options import DEFAULT_ROOT, ROOT_VARIABLE, option_value
from training.runs.processes import process_rank

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
EXIT_UNREAD = 141  # as of a program that SIGPIPE ends
EXIT_DEFECT, EXIT_LATER = 70, 75  # EX_SOFTWARE and EX_TEMPFAIL of sysexits.h
HOW_TO_REPORT = (
    "This is a defect of vernaclip. Please report it to whoever gave you this copy. Send the lines above, the command, "
    "and the output of `vernaclip doctor`."
)
HELP_FLAGS = frozenset({"--help", "-h"})

DESCRIPTION = (
    "Give any language its own CLIP: build a translated, cleaned and queryable dataset of images with captions, then "
    "train and score a compact open_clip model on it.\n\n"
    "exit codes: 0 success; 1 failure, the message says what to do; 2 wrong usage; 70 a defect of vernaclip, please "
    "report it; 75 temporary failure, the same command may succeed later; 141 the reader of the output closed the pipe"
)

Command = Callable[..., Any]
# Commands by the title of their group in the help.
COMMANDS: dict[str, Sequence[Command]] = {
    "Jobs": (
        first_steps.init,
        *jobs.commands(),
        comparisons.scoreboard,
    ),
    "Datasets": (
        *(catalog.catalog, catalog.report, catalog.why, catalog.sql, catalog.recipes, first_steps.download),
        *(snapshots.snapshots, snapshots.diff, snapshots.verify, snapshots.prune, snapshots.forget, export.export),
    ),
    "Models": (
        *(first_steps.towers, inference.search, inference.classify, inference.localize, inference.demo),
        *(export.export_model, site.export_site),
    ),
    "Translation": (translate.translate,),
    "Environment": (services.up, services.down, services.doctor),
}


def _help_of(command: Command) -> str:
    """Return the part of a command's docstring before `Args:`, with paragraphs unwrapped and lists kept as they are."""
    text = (inspect.getdoc(command) or "").partition("\n\nArgs:\n")[0]
    text = re.sub(r"\n\nExample(s?):\n", r"\n\nexample\1:\n", text)  # cyclopts hides a section with this title
    return "\n\n".join(part if "\n  " in part else part.replace("\n", " ") for part in text.split("\n\n"))


def _family(name: str, text: str, **commands: Command) -> App:
    """Return a command that has only subcommands."""
    family = App(name=name, help=text)
    for word, command in commands.items():
        family.command(command, name=word, help=_help_of(command))
    return family


def _assembled() -> App:
    """Return the whole command line."""

    def shown_default(value: object) -> str | None:
        return None if value in (None, False, "", (), 0) else str(value)

    top = App(
        name="vernaclip",
        help=DESCRIPTION,
        help_format="plaintext",
        version=lambda: version("vernaclip"),
        # As in argparse: there are no --no-FLAG options, and the last value of a repeated option wins.
        default_parameter=Parameter(
            negative="", allow_repeating=True, show_default=shown_default, converter=option_value
        ),
    )
    groups = {title: Group(title, sort_key=place) for place, title in enumerate(COMMANDS)}
    for title, commands in COMMANDS.items():
        for command in commands:
            top.command(command, group=groups[title], help=_help_of(command))
    packages = _family(
        "mt",
        "Train, evaluate, list or install translation packages.",
        train=mt.train,
        evaluate=mt.evaluate,
        install=mt.install,
        packages=mt.packages,
    )
    audit = "Let people rate a sample of translations, as in the CLIP-Italian paper."
    raters = _family("audit", audit, draw=translate.draw, score=translate.score)
    models = _family("models", _help_of(catalog.models), note=catalog.note_model, rm=catalog.remove_model)
    models.default(catalog.models)
    for family, title in ((packages, "Translation"), (raters, "Translation"), (models, "Models")):
        family.group = (groups[title],)
        top.command(family)
    top.register_install_completion_command(help="Install shell completion for commands and options.")
    return top


app = _assembled()


@Parameter(name="*", group=Group("Every command", sort_key=9))
@dataclass(frozen=True, kw_only=True)
class Verbosity:
    """Options of every command that decide how much it logs."""

    quiet: Annotated[bool, Parameter(alias="-q")] = False
    """Print results, warnings and errors only."""
    verbose: Annotated[bool, Parameter(alias="-v")] = False
    """Also log debug messages."""
    debug: bool = False
    """Also log debug messages, and print the tracebacks of errors."""


_VERBOSITY = Verbosity()
# Removed from the command line before the command's own options are read, so that they may be anywhere in it.
VERBOSITY_FLAGS = {"-q": "quiet", "--quiet": "quiet", "-v": "verbose", "--verbose": "verbose", "--debug": "debug"}


@app.meta.default
def _any_command(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], verbosity: Verbosity = _VERBOSITY
) -> None:
    """Declare the options of every command for help and completion; never called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A command with its arguments, and how much it logs."""

    command: Command
    bound: inspect.BoundArguments
    verbosity: Verbosity = _VERBOSITY

    @property
    def root(self) -> Path | None:
        """Return the root that the command works on, or None for a command without a root."""
        if "root" not in self.bound.signature.parameters:
            return None
        return Path(self.bound.arguments.get("root", DEFAULT_ROOT))

    @property
    def is_command(self) -> bool:
        """Return False for help, version and completion, which cyclopts implements."""
        return self.command.__module__.startswith("flows.")

    def run(self) -> Any:
        """Run the command."""
        return self.command(*self.bound.args, **self.bound.kwargs)


def parse(words: Sequence[str]) -> Call:
    """Return the call that the words of a command line ask for."""
    end = words.index("--") if "--" in words else len(words)
    verbosity = Verbosity(**{VERBOSITY_FLAGS[word]: True for word in words[:end] if word in VERBOSITY_FLAGS})
    own = [*(word for word in words[:end] if word not in VERBOSITY_FLAGS), *words[end:]]
    asks_help = not HELP_FLAGS.isdisjoint(words[:end])
    command, bound, _ = app.parse_args(own, print_error=False, exit_on_error=False)
    if asks_help:  # the help of `app.meta` also has the options of every command, but it knows no unknown command
        command, bound, _ = app.meta.parse_args(own, print_error=False, exit_on_error=False)
    if getattr(command, "__func__", None) is App.help_print and not asks_help:
        raise CycloptsError(msg="A command is missing.", command_chain=own)
    return Call(command=command, bound=bound, verbosity=verbosity)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; raise `SystemExit` after help (0) and wrong usage (2)."""
    try:
        call = parse(sys.argv[1:] if arguments is None else arguments)
    except CycloptsError as error:
        sys.stderr.write(f"{visible_text(_usage_text(error))}\n")
        raise SystemExit(EXIT_USAGE) from None
    if sys.stdout is None:
        sys.stderr.write("vernaclip: standard output is closed: send it to a file, a pipe or /dev/null\n")
        return EXIT_FAILED
    if not call.is_command:
        try:
            call.run()
        except SystemExit:
            # Rich exits when a pager closes its pipe early, which is no error.
            if getattr(call.command, "__func__", None) not in (App.help_print, App.version_print):
                raise
        raise SystemExit(EXIT_OK)
    with lines_above_progress():
        _start_log(call.verbosity)
        return _run(call)


def _start_log(verbosity: Verbosity) -> None:
    """Send the log that the options ask for to standard error."""
    is_quiet = verbosity.quiet or process_rank() > 0
    is_verbose = verbosity.debug or verbosity.verbose
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_SafeFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    for package in PACKAGES:
        level = logging.DEBUG if is_verbose else logging.WARNING if is_quiet else logging.INFO
        logging.getLogger(package).setLevel(level)


def _usage_text(error: CycloptsError) -> str:
    """Return one line with the mistake, the nearest name if there is one, and the help command."""
    if isinstance(error, CoercionError) and error.token and error.app and "Unknown option" in str(error):
        options = error.app.assemble_argument_collection()  # `no_option` has no access to them
        error = UnknownOptionError(token=error.token, argument_collection=options, command_chain=error.command_chain)
    error.verbose = False
    chain = " ".join(["vernaclip", *(error.command_chain or ())])
    text = str(error)
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        is_there = error.keyword is not None or isinstance(error, ConsumeMultipleError)
        text = f"{error.keyword or error.argument.name} {'needs a value' if is_there else 'is missing'}."
    if isinstance(error, UnusedCliTokensError):
        text = f"Unknown arguments: {' '.join(error.unused_tokens or ())}."
    if isinstance(error, UnknownCommandError):
        text = text.partition(" Available commands:")[0]  # an incomplete list; the help has all
    return f"{chain}: {text} See `{chain} --help`."


def _run(call: Call) -> int:
    """Run a command of ours, print its error, and return the exit code."""
    from data_catalog.base.errors import BusyError, DefectError, PipelineError, TransientError
    from data_catalog.catalog.roots import open_root, refuse_misread
    from data_catalog.disk.barrier import running_job
    from data_catalog.disk.lock import holder_of, remove_empty

    root = call.root
    given: list[object] = [root]
    for value in call.bound.arguments.values():
        given += vars(value).values() if is_dataclass(value) else [value]
    paths = [value for value in given if isinstance(value, Path)]
    missing = [path for path in paths if not path.exists()]
    try:
        for path in paths:
            refuse_misread(path)
        if root is not None:
            # `sql` writes nothing, and does not read through links.
            open_root(root, writes=call.command is not catalog.sql)
        with running_job(root or Path()):
            code = int(call.run() or EXIT_OK)
            with output_errors():
                sys.stdout.flush()
            return code
    except PipelineError as error:
        # A failed command leaves no empty folder at a path that it was given, unless another process works there.
        for folder in missing:
            if not isinstance(error, BusyError) and holder_of(folder) is None:
                remove_empty(folder)
        text = f"{error}{_about_root(call, str(error))}"
        if isinstance(error, DefectError):
            return _fail_by_defect(text)
        trace = traceback.format_exc() if call.verbosity.debug else ""
        sys.stderr.write(visible_lines(f"{trace}vernaclip: {text}\n"))
        return EXIT_LATER if isinstance(error, BusyError | TransientError) else EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: run the same command again to resume\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        discard_output()  # its reader (a pager, head) has enough
        return EXIT_UNREAD
    except Exception as error:  # noqa: BLE001 - the outermost boundary: an unexpected exception is a defect
        return _fail_by_defect(f"unexpected {type(error).__name__}: {error}")


def _about_root(call: Call, text: str) -> str:
    """Return a remark for an error that names the default root, since the user did not type that folder."""
    if call.root is None or "root" in call.bound.arguments:
        return ""
    named = re.search(rf"(?<![\w/.-])(?<!vernaclip )(?<!the ){re.escape(str(call.root))}(?![\w.-])", text)
    if named is None and str(call.root.absolute()) not in text:
        return ""
    return f" (neither --root nor {ROOT_VARIABLE} is set, so the root is {call.root} in {Path.cwd()})"


def _fail_by_defect(text: str) -> int:
    """Print the current exception with how to report it, and return the exit code of a defect."""
    sys.stderr.write(visible_lines(f"{traceback.format_exc()}vernaclip: {text}\n{HOW_TO_REPORT}\n"))
    return EXIT_DEFECT


class _SafeFormatter(logging.Formatter):
    """A formatter of log messages as lines that are safe for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, with its traceback if there is one."""
        return visible_lines(super().format(record))
