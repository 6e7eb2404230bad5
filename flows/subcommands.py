"""Adding one command to the command line: its name, what handles it, and the sentence that `--help` has of it."""

import argparse
from typing import Any

Commands = Any  # argparse has no public name for what add_subparsers returns


def add_command(commands: Commands, name: str, handler: str, text: str) -> argparse.ArgumentParser:
    """Add a command; `handler` is a module of `flows.commands` and a function of it, as "jobs:run"."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(handler=handler)
    return command
