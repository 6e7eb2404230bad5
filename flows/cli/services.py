"""Commands around Prefect and the environment: up, down, doctor."""

import os
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from data_catalog.errors import SettingsError
from flows.cli.options import DEFAULT_ROOT, ROOT_VARIABLE, OptionalNumber
from flows.cli.output import is_quiet, say

if TYPE_CHECKING:
    from flows.doctor import Finding

REPORT_WIDTH = 110  # characters
NO_BREAK = "\xa0"


def up(*, port: OptionalNumber = None) -> None:
    """Start Prefect's server, a worker and the deployments, on this machine only, or what is gone of them.

    Args:
        port: Where a new server listens (default: 4200, or the next free one).
    """
    from flows.orchestration.services import up as start_services

    services = start_services(Path.cwd(), port=port)
    for name in ("server", "worker"):
        say(f"{name}: {'started' if name in services.started else 'was up already'}")
    say(f"pages:  {services.api.url.removesuffix('/api')}")
    say("login:  paste, once a browser, the text between the quotes behind PREFECT_API_AUTH_STRING in .env; to see it:")
    say("        grep PREFECT_API_AUTH_STRING .env")
    say("deployments, for `prefect deployment run` in this folder (build-dataset alone will do for the first):")
    for deployment in services.deployments:
        say(f"  {deployment}")
    say("after a crash: vernaclip up again, then prefect flow-run retry ID (prefect flow-run ls shows runs and IDs)")


def down(*, now: bool = False) -> None:
    """Stop what `up` started, after the runs that have begun.

    Args:
        now: Kill runs that have begun; they go on when run again.
    """
    from flows.orchestration.services import down as stop_services

    stopped = stop_services(Path.cwd(), now=now)
    say(f"stopped {' and '.join(stopped)}" if stopped else "nothing was running")


def doctor(*, fix: bool = False, language: Annotated[str | None, Parameter(metavar="LANG")] = None) -> int:
    """Say what is wrong with this environment, or what a language lacks; with --quiet, nothing where nothing is wrong.

    Args:
        fix: Mend what can be mended.
        language: Say instead what this language has and lacks here: a code such as el, or a language pack's file.
    """
    if language is not None:
        if fix:
            raise SettingsError("--fix mends the environment, not a language: leave out --fix or --language")
        from flows.language_doctor import examine, find_language

        spoken = find_language(language)
        findings = examine(spoken)
        if not is_quiet():
            say(f"{spoken.title}\n")
        for finding in findings:
            if finding.severity == "broken" or not is_quiet():
                say(finding_text(finding))
        if not is_quiet():
            say(f"\n{sum(finding.severity == 'found' for finding in findings)} of {len(findings)} found")
        return int(any(finding.severity == "broken" for finding in findings))
    from flows.doctor import diagnose, mend

    findings = diagnose(Path.cwd(), Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT))
    if fix:
        findings = mend(findings)
    for finding in findings:
        if finding.severity == "broken" or not is_quiet():
            say(f"{finding.severity}: {finding.text}")
    if not findings and not is_quiet():
        say("nothing is wrong")
    return int(any(finding.severity == "broken" for finding in findings))


def finding_text(finding: "Finding") -> str:
    """Return what a language has or lacks, with costs and advice, in lines for a terminal.

    Commands stay on one line, to be copied.
    """
    state = {"found": "found", "broken": "MISSING", "warning": "missing"}[finding.severity]
    parts = [(state, finding.topic, finding.text)]
    parts += [("", label, text) for label, text in (("  costs", finding.cost), ("  to do", finding.advice)) if text]
    lines = []
    for mark, label, text in parts:
        head = f"{mark:<9}{label:<18}"
        whole = re.sub("`[^`]*`", lambda command: command[0].replace(" ", NO_BREAK), text)
        lines += textwrap.wrap(
            whole,
            width=REPORT_WIDTH,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines).replace(NO_BREAK, " ")
