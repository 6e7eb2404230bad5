"""The command line, `vernaclip`. Its modules import little; each command imports the code that does its work."""

from flows.cli.app import main

__all__ = ["main"]
