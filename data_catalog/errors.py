"""What can go wrong, by who must act.

PipelineError
  + SettingsError    a setting, an option or a name is wrong: correct the recipe or the command line
  + InputError       what a setting names is missing or is not what it must be: a file, a server, a package, a program
  + DamagedError     a file that vernaclip wrote is damaged or gone: do what the sentence says
  + BusyError        another process holds it: wait for it, or stop it
  + DiskError        the disk is full or refuses to be read or written: make room, or mend it
  + TransientError   may pass: the only kind that is retried
  + DefectError      vernaclip broke its own promise: report it

Trouble with a single row is data, not an exception: the row is rejected with a `drop_reason`.
"""


class PipelineError(Exception):
    """Base of every error that vernaclip raises on purpose; its text is one sentence that says what to do."""


class SettingsError(PipelineError, ValueError):
    """A setting, an option or a name is wrong: found before work starts."""


class InputError(PipelineError):
    """What a setting names is missing or is not what it must be: a file, a server, a package, a program, an engine."""


class DamagedError(PipelineError):
    """A file that vernaclip wrote is damaged or gone; the text names the remedy."""


class BusyError(PipelineError):
    """Another process holds what this one needs."""


class DiskError(PipelineError):
    """A disk is full, or refuses to be read or written."""


class TransientError(PipelineError):
    """A cause outside the program that may be gone at the next try."""


class DefectError(PipelineError):
    """Vernaclip broke its own promise; the text says which, and the user can only report it."""


KINDS = (SettingsError, InputError, DamagedError, BusyError, DiskError, TransientError, DefectError)


def extra_to_install(extra: str) -> str:
    """Say how an extra of vernaclip is installed: from a checkout, since no package of that name is published."""
    return f"run `pip install -e '.[{extra}]'` in the checkout of vernaclip"
