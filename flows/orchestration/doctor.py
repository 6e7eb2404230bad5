"""Diagnosis and safe repair of an environment, for `vernaclip doctor [--fix]`.

No heavy library is imported, so that the diagnosis also works in a broken environment.
"""

import importlib.util
import os
import shutil
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

from data_catalog.base.boundary import about
from data_catalog.base.errors import DiskError, InputError, SettingsError, install_hint
from data_catalog.disk.disk_errors import nearest_existing
from flows import PACKAGES
from flows.findings import Finding
from flows.orchestration.prefect_env import ANSWERS, probe, read_env_block
from translation.packages.package import default_packages_dir

DISTRIBUTION = "vernaclip"
MIN_FREE_BYTES = 5 << 30


def require_dask() -> None:
    """Refuse a build on Dask if the extra is not installed."""
    if importlib.util.find_spec("prefect_dask") is None:
        raise InputError(f"a build on Dask needs an extra: {install_hint('dask')}")


def diagnose(project: Path, root: Path) -> list[Finding]:
    """Return all problems of the environment, worst first.

    Args:
        project: folder in which `vernaclip up` keeps its state.
        root: folder of the catalog, which need not exist yet.
    """
    found = [replace(each, topic=topic) for topic, check in CHECKS.items() for each in check(project, root)]
    return sorted(found, key=lambda finding: finding.severity)


def mend(findings: list[Finding]) -> list[Finding]:
    """Repair what can be repaired, and return the remaining findings."""
    for finding in findings:
        if finding.mend is not None:
            finding.mend()
    return [finding for finding in findings if finding.mend is None]


def _python(_project: Path, _root: Path) -> Iterator[Finding]:
    # Wherever pip installs packages for this interpreter, PYTHONPATH included; the standard library is in neither.
    folders = [Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    folders += [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    folders += [Path(site.getusersitepackages())] if site.ENABLE_USER_SITE else []
    for backport in {folder / "dataclasses.py" for folder in folders if (folder / "dataclasses.py").is_file()}:
        # Prefect starts them with `uvicorn --app-dir site-packages`; ours have the usual path.
        text = (
            f"{backport}, a backport for Python 3.6 that img2dataset requires, stops servers that Prefect itself "
            "starts in the background; those of `vernaclip run` and `vernaclip up` work: `vernaclip doctor --fix` "
            "removes it"
        )
        yield Finding("warning", text, mend=partial(_remove, backport))


def _remove(module: Path) -> None:
    """Delete the only module of a distribution; its record stays, so that nothing installs it again."""
    with about(f"{module} cannot be removed", kind=DiskError, remedy="remove it by hand"):
        module.unlink()


def _packages(_project: Path, _root: Path) -> Iterator[Finding]:
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requires(DISTRIBUTION) or ()):
        name, wanted = requirement.name, requirement.specifier
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        advice = f"install it with `pip install '{name}{wanted}'`"
        try:
            # Prefect's version matters most, as our plugin wraps a private part of it.
            if not wanted.contains(version(name), prereleases=True):
                yield Finding("warning", f"{name} is {version(name)}, but vernaclip needs {wanted}: {advice}")
        except PackageNotFoundError:
            yield Finding("broken", f"{name} is not installed: {advice}")
    owners = packages_distributions()
    for name in (DISTRIBUTION, *PACKAGES):
        others = sorted({owner for owner in owners.get(name, []) if owner.lower() != DISTRIBUTION})
        if others:  # the one installed last has overwritten the other
            text = (
                f"{', '.join(others)} also installs a package called `{name}`, so one overwrites the other: "
                f"uninstall {others[0]}, then install vernaclip again"
            )
            yield Finding("broken", text)


def _places(_project: Path, root: Path) -> Iterator[Finding]:
    folder = nearest_existing(root)
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        text = f"only {free / 1e9:.1f} GB are free in {folder}: a build of real sources needs far more"
        yield Finding("warning", text)
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Finding("broken", f"{folder} is not writable: choose another --root")
    # One folder without metadata.json makes Argos Translate fail to list any package.
    packages = default_packages_dir()
    for package in sorted(packages.iterdir()) if packages.is_dir() else ():
        if package.is_dir() and not (package / "metadata.json").is_file():
            text = f"{package} is not an Argos package (it has no metadata.json) and hides all others: move it away"
            yield Finding("broken", text)


def _api(project: Path, _root: Path) -> Iterator[Finding]:
    try:
        api = read_env_block(project)
    except SettingsError as error:
        yield Finding("broken", str(error))
        return
    if api is None:
        return
    if probe(api) != ANSWERS:
        text = f"the Prefect server at {api.url}, named in .env, does not answer: restart it with `vernaclip up`"
        yield Finding("warning", text)
    url = os.environ.get("PREFECT_API_URL")
    if url and url != api.url:
        text = f"PREFECT_API_URL is {url} and overrides the server that `vernaclip up` started ({api.url}): unset it"
        yield Finding("warning", text)


# Checks by topic, in the order of the report. Each gets the project's folder and the root.
CHECKS: dict[str, Callable[[Path, Path], Iterator[Finding]]] = {
    "Python": _python,
    "packages": _packages,
    "places": _places,
    "Prefect": _api,
}
