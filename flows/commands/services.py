"""Commands around Prefect and the environment: up, down, doctor."""

from argparse import Namespace
from pathlib import Path

from flows.commands.output import say
from flows.recipe import DEFAULT_ROOT


def up(options: Namespace) -> None:
    """Start server, worker and deployments for the current folder."""
    from flows.services import up as start_services

    services = start_services(Path.cwd(), port=options.port)
    for name in ("server", "worker"):
        say(f"{name}: {'started' if name in services.started else 'was up already'}")
    say(f"pages:  {services.api.url.removesuffix('/api')} (they ask once for the auth string that .env holds)")
    say("deployments, for `prefect deployment run` in this folder (build-dataset alone will do for the first):")
    for deployment in services.deployments:
        say(f"  {deployment.full_name}")


def down(options: Namespace) -> None:
    """Stop what `up` started from the current folder."""
    from flows.services import down as stop_services

    stopped = stop_services(Path.cwd(), now=options.now)
    say(f"stopped {' and '.join(stopped)}" if stopped else "nothing was running")


def doctor(options: Namespace) -> int:
    """Print what is wrong with the environment; with --fix, mend it first."""
    from flows.doctor import diagnose, mend

    findings = diagnose(Path.cwd(), DEFAULT_ROOT)
    if options.fix:
        findings = mend(findings)
    for finding in findings:
        if finding.severity == "broken" or not options.quiet:
            say(f"{finding.severity}: {finding.text}")
    if not findings and not options.quiet:
        say("nothing is wrong")
    return int(any(finding.severity == "broken" for finding in findings))
