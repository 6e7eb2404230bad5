"""Diagnosis of a cluster, for `vernaclip doctor --dask ADDRESS`: what each worker lacks."""

import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from distributed import Client

from data_catalog.base.errors import InputError
from data_catalog.disk.files import TEMPORARY_PREFIX, write_json
from flows.findings import Finding
from flows.orchestration.dask_executor import require_scheduler
from flows.orchestration.dask_workers import FlowEnvironment, enter, versions
from translation.packages.package import default_packages_dir

_PROGRAMS = ("apertium",)
# A host of images, and its port.
_WEB = ("upload.wikimedia.org", 443)
_CONNECT_S = 10.0
_WAIT_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The programs, packages and network of a machine."""

    programs: frozenset[str]
    packages: frozenset[str]  # of Argos, outside the root
    has_web: bool

    @classmethod
    def here(cls) -> "Machine":
        """Look at this machine."""
        folder = default_packages_dir()
        try:
            socket.create_connection(_WEB, _CONNECT_S).close()
            has_web = True
        except OSError:
            has_web = False
        return cls(
            programs=frozenset(filter(shutil.which, _PROGRAMS)),
            packages=frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset(),
            has_web=has_web,
        )


def examine_worker(environment: FlowEnvironment) -> Machine:
    """Check, in the process of a worker, that it has the flow's files and versions and can write; return the rest."""
    enter(environment)
    own = environment.mark.with_name(f"{TEMPORARY_PREFIX}doctor-{uuid4().hex}")
    try:
        own.write_bytes(b"")
        own.unlink()
    except OSError as error:
        raise InputError(f"the worker on {socket.gethostname()} cannot write to {own.parent} ({error})") from error
    return Machine.here()


def diagnose_cluster(address: str, root: Path) -> list[Finding]:
    """Return what the workers of a cluster lack that this machine has.

    Args:
        address: of the scheduler.
        root: of the catalog, which workers must see under the same path.

    Raises:
        InputError: no scheduler answers at the address.
    """
    require_scheduler(address)
    folder = root.absolute() / "work"
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f"{TEMPORARY_PREFIX}doctor-{uuid4().hex}"
    write_json(mark, {})
    environment = FlowEnvironment(folder=Path.cwd(), mark=mark, versions=versions())
    call = partial(examine_worker, environment)
    try:
        with Client(address, timeout=_WAIT_S) as client:  # type: ignore[no-untyped-call]
            answers: dict[str, Any] = client.run(call, on_error="return")
    finally:
        mark.unlink()
    if not answers:
        return [Finding("broken", f"the cluster at {address} has no workers: start some, `dask worker {address}`")]
    here = Machine.here()
    return [finding for worker, answer in sorted(answers.items()) for finding in _findings(worker, answer, here)]


def _findings(worker: str, answer: Any, here: Machine) -> Iterator[Finding]:
    if not isinstance(answer, Machine):
        text = str(answer) if isinstance(answer, InputError) else f"it cannot run vernaclip ({answer!r})"
        yield Finding("broken", f"{worker}: {text}")
        return
    for program in sorted(here.programs - answer.programs):
        yield Finding("warning", f"{worker}: it has no {program}, and so cannot translate with that engine")
    for package in sorted(here.packages - answer.packages):
        yield Finding(
            "warning", f"{worker}: it lacks the Argos package {package}: install it, or name a file in the root"
        )
    if here.has_web and not answer.has_web:
        yield Finding("warning", f"{worker}: it cannot reach {_WEB[0]}, and so cannot fetch images")
