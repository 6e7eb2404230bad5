"""The command line: `vernaclip --help`. Its modules are light; each command imports what does its work."""

from flows.cli.app import main

__all__ = ["main"]
