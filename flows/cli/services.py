"""The commands up, down and doctor, which start and stop Prefect and diagnose the environment."""

import os
import re
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from data_catalog.base.errors import SettingsError
from flows.cli.output import is_quiet, say
from flows.options import DEFAULT_ROOT, ROOT_VARIABLE, OptionalPort

if TYPE_CHECKING:
    from flows.findings import Finding

REPORT_WIDTH = 110  # characters
NO_BREAK = "\xa0"


def up(*, port: OptionalPort = None) -> None:
    """Start the Prefect server, a worker and the deployments on this machine; restart whichever are down.

    Args:
        port: Port of a new server (default: 4200, or the next free one).
    """
    from flows.orchestration.services import deploy_all
    from flows.orchestration.services import up as start_services

    api, started, deployments = start_services(Path.cwd(), deploy=partial(deploy_all, root=str(_root())), port=port)
    for name in ("server", "worker"):
        say(f"{name}: {'started' if name in started else 'was already running'}")
    say(f"pages:  {api.ui_url}")
    say(
        "login:  paste the value of PREFECT_API_AUTH_STRING from .env, without quotes, once in each browser; to see it:"
    )
    say("        grep PREFECT_API_AUTH_STRING .env")
    say("deployments, for `prefect deployment run` in this folder (the last part is enough, such as train-clip):")
    for deployment in deployments:
        say(f"  {deployment}")
    say("if a run failed: prefect flow-run logs ID says why (prefect flow-run ls lists runs and IDs)")
    say("after a crash: vernaclip up, then prefect flow-run retry ID")


def down(*, now: bool = False) -> None:
    """Stop the server and the worker that `up` started, after the active runs have ended.

    Args:
        now: Kill active runs. They resume when they are run again.
    """
    from flows.orchestration.services import down as stop_services

    stopped = stop_services(Path.cwd(), now=now)
    say(f"stopped {' and '.join(stopped)}" if stopped else "nothing was running")


def doctor(
    *,
    fix: bool = False,
    language: Annotated[str | None, Parameter(metavar="LANG")] = None,
    dask: Annotated[str | None, Parameter(metavar="ADDRESS")] = None,
) -> int:
    """Diagnose this environment, or report what a language or a cluster lacks. With --quiet, print problems only.

    Args:
        fix: Repair what can be repaired.
        language: Report on this language instead: a code such as el, or the file of a language pack.
        dask: Report on the workers of the Dask cluster at this address instead.
    """
    if fix + (language is not None) + (dask is not None) > 1:
        raise SettingsError("--fix repairs this environment only: leave out --fix or --language, or --dask")
    if language is not None:
        from flows.language_doctor import examine, find_language

        spoken = find_language(language)
        findings = examine(spoken)
        num_found = sum(finding.severity == "found" for finding in findings)
        lines, head = [finding_text(finding) for finding in findings], f"{spoken.title}\n"
        foot = f"\n{num_found} of {len(findings)} found"
    else:
        from flows.orchestration.doctor import diagnose, mend, require_dask

        if dask is not None:
            require_dask()
            from flows.orchestration.dask_doctor import diagnose_cluster
        findings = diagnose(Path.cwd(), _root()) if dask is None else diagnose_cluster(dask, _root())
        findings = mend(findings) if fix else findings
        lines, head = [f"{finding.severity}: {finding.text}" for finding in findings], ""
        foot = "" if findings else "no problems found"
    if head and not is_quiet():
        say(head)
    for finding, line in zip(findings, lines, strict=True):
        if finding.severity == "broken" or not is_quiet():
            say(line)
    if foot and not is_quiet():
        say(foot)
    return int(any(finding.severity == "broken" for finding in findings))


def _root() -> Path:
    """Return the root of commands that are given none."""
    return Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT)


def finding_text(finding: "Finding") -> str:
    """Return a finding about a language as lines for a terminal, with its consequences and advice.

    Commands are never wrapped, so that they can be copied.
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
