"""Findings of `vernaclip doctor`, in an environment or of a language."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["broken", "warning", "found"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem of the environment, or something that a language has or lacks.

    Args:
        severity: "broken" if no run or build can succeed, "warning" if something does not work, "found" if all is well.
        text: the finding; for an environment, including what to do.
        cost: for a language, the consequence of lacking this.
        advice: for a language, what to do; "" if there is nothing to do.
        topic: name of the check.
        mend: function that repairs the problem, or None if a person must.
    """

    severity: Severity
    text: str
    cost: str = ""
    advice: str = ""
    topic: str = ""
    mend: Callable[[], None] | None = None
