"""Diagnosis of a cluster, for `vernaclip doctor --dask ADDRESS`: what each worker lacks."""

import socket
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from distributed import Client

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.disk.files import TEMPORARY_PREFIX, write_json
from flows.findings import Finding
from flows.orchestration.dask_executor import require_scheduler
from flows.orchestration.dask_workers import FlowEnvironment, enter, versions
from translation.packages.package import default_packages_dir

# A host of images, and its port.
_WEB = ("upload.wikimedia.org", 443)
_CONNECT_S = 10.0
_WAIT_S = 10


def abilities() -> dict[str, str]:
    """Return what this machine has; with each, what is to be said of a machine that lacks it."""
    found = {}
    folder = default_packages_dir()
    for package in sorted(folder.iterdir()) if folder.is_dir() else ():
        found[package.name] = f"it lacks the Argos package {package.name}: install it, or name a file in the root"
    try:
        socket.create_connection(_WEB, _CONNECT_S).close()
    except OSError:
        return found
    return {**found, _WEB[0]: f"it cannot reach {_WEB[0]}, and so cannot fetch images"}


def examine_worker(environment: FlowEnvironment) -> dict[str, str]:
    """Check, in the process of a worker, that it has the flow's files and versions and can write; return the rest."""
    enter(environment)
    own = environment.mark.with_name(f"{TEMPORARY_PREFIX}doctor-{uuid4().hex}")
    with about(f"the worker on {socket.gethostname()} cannot write to {own.parent}"):
        own.write_bytes(b"")
        own.unlink()
    return abilities()


def diagnose_cluster(address: str, root: Path) -> list[Finding]:
    """Return what the workers of a cluster lack that this machine has; they must see the root under the same path."""
    require_scheduler(address)
    mark = root.absolute() / "work" / f"{TEMPORARY_PREFIX}doctor-{uuid4().hex}"
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_json(mark, {})
    environment = FlowEnvironment(folder=Path.cwd(), mark=mark, versions=versions())
    try:
        with Client(address, timeout=_WAIT_S) as client:  # type: ignore[no-untyped-call]
            answers: dict[str, Any] = client.run(partial(examine_worker, environment), on_error="return")
    finally:
        mark.unlink()
    if not answers:
        return [Finding("broken", f"the cluster at {address} has no workers: start some, `dask worker {address}`")]
    here, findings = abilities(), []
    for worker, answer in sorted(answers.items()):
        if isinstance(answer, dict):
            lacks = [text for name, text in here.items() if name not in answer]
            findings += [Finding("warning", f"{worker}: {text}") for text in lacks]
        else:
            text = str(answer) if isinstance(answer, InputError) else f"it cannot run vernaclip ({answer!r})"
            findings.append(Finding("broken", f"{worker}: {text}"))
    return findings
