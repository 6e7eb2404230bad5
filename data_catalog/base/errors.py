"""Exceptions of vernaclip, grouped by who must act.

PipelineError
  + SettingsError    a setting, an option or a name is wrong: correct the recipe or the command line
  + InputError       something that a setting names is missing or invalid: a file, a server, a package, a program
  + DamagedError     a file that vernaclip wrote is damaged or missing: do what the message says
  + BusyError        another process holds a lock, a file or a port: wait for it, or stop it
  + DiskError        the disk is full, or cannot be read or written: free space, or repair it
  + TransientError   the cause may pass by itself: the only kind that is retried
  + DefectError      vernaclip has a bug: report it

A problem with a single row is data, not an exception: the row is rejected with a `drop_reason`.
"""


class PipelineError(Exception):
    """Base of all errors that vernaclip raises on purpose; the message says what is wrong and what to do."""


class SettingsError(PipelineError, ValueError):
    """A wrong setting, option or name; raised before work starts."""


class InputError(PipelineError):
    """A missing or invalid thing that a setting names: a file, a server, a package, a program or an engine."""


class DamagedError(PipelineError):
    """A damaged or missing file that vernaclip wrote; the message says how to repair it."""


class BusyError(PipelineError):
    """A lock, file or port that another process holds."""


class DiskError(PipelineError):
    """A disk that is full, or that cannot be read or written."""


class TransientError(PipelineError):
    """A cause outside the program that may be gone at the next try, such as a server that does not answer."""


class DefectError(PipelineError):
    """A bug of vernaclip; the message says what failed, and asks the user to report it."""


KINDS = (SettingsError, InputError, DamagedError, BusyError, DiskError, TransientError, DefectError)


class Refusals:
    """Errors of independent checks, each made in `with refusals:`, that `raise_all` raises as one."""

    def __init__(self) -> None:
        self.errors: list[PipelineError] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """Keep an error of ours, and go on."""
        if not isinstance(error, PipelineError):
            return False
        several = error.__cause__.exceptions if isinstance(error.__cause__, ExceptionGroup) else [error]
        self.errors += [each for each in several if isinstance(each, PipelineError)]
        return True

    def raise_all(self) -> None:
        """Raise the only error, or one with the text of each, of the kind among theirs that comes first in `KINDS`."""
        found = list({str(error): error for error in self.errors}.values())
        if len(found) == 1:
            raise found[0]
        if found:
            kind = next(kind for kind in KINDS if any(isinstance(error, kind) for error in found))
            text = "\n- ".join([f"{len(found)} things are wrong:", *map(str, found)])
            raise kind(text) from ExceptionGroup("refusals", found)


def install_hint(extra: str) -> str:
    """Return how to install the distributions of an extra: no package called vernaclip is published."""
    from importlib.metadata import requires

    found = (line.partition(";") for line in requires("vernaclip") or ())
    names = " ".join(f"'{name.strip()}'" for name, _, marker in found if f"extra == '{extra}'" in marker)
    return f"run `pip install {names}`"
