"""Commands around installed translation packages: mt install, mt packages."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from data_catalog.errors import ConfigError
from flows.commands.output import say
from flows.tables import plain_table

if TYPE_CHECKING:
    from translation.packages.install import Installation
    from translation.packages.package import Package

SHA256_START = 12


def install(options: Namespace) -> None:
    """Install a package where Argos Translate looks for packages, from a file or from the Argos index."""
    from data_catalog.downloads.download import DownloadConfig
    from translation.packages.install import install_file, install_from_index
    from translation.packages.package import default_packages_dir

    pair = (options.from_code, options.to_code)
    packages_dir, sha256 = default_packages_dir(), options.sha256 or ""
    if options.file is not None and pair == (None, None):
        _tell(install_file(options.file, packages_dir, sha256=sha256))
    elif options.file is None and all(pair):
        config = DownloadConfig(private_hosts=tuple(options.private_hosts))
        _tell(install_from_index(*pair, packages_dir, sha256=sha256, config=config))
    else:
        raise ConfigError("give either FILE, or both --from and --to to install from the Argos index")


def _tell(installation: "Installation") -> None:
    package, source = installation.package, installation.source
    what = "installed" if installation.changed else "unchanged, it was installed already:"
    say(f"{what} {package.pair} {package.package_version} in {package.folder}")
    say(f"sha256 of the file     {source.file_sha256}")
    say(f"sha256 of the package  {package.sha256}")
    if source.url:
        say(f"downloaded from        {source.url}")


def show(options: Namespace) -> None:
    """List what the Argos index offers, or what is installed."""
    from translation.packages.package import default_packages_dir, installed

    packages = installed(default_packages_dir())
    rows = (
        [_installed_row(package) for package in packages]
        if options.installed
        else _index_rows(packages, options.private_hosts)
    )
    chosen = [row for row in rows if _fits(str(row["pair"]), options)]
    say(plain_table(sorted(chosen, key=lambda row: str(row["pair"]))))


def _installed_row(package: "Package") -> dict[str, object]:
    from translation.packages.origin import read_source

    source = read_source(package.folder)
    return {
        "pair": package.pair,
        "version": package.package_version,
        "MB": round(_num_bytes(package.folder) / 1e6, 1),
        "sha256": package.sha256[:SHA256_START],
        "folder": str(package.folder),
        "from": source.url if source is not None else "",
    }


def _index_rows(packages: list["Package"], private_hosts: list[str]) -> list[dict[str, object]]:
    from data_catalog.downloads.download import DownloadConfig
    from translation.packages.index import index_url, read_index, usable_links

    index = index_url()
    versions: dict[str, list[str]] = {}
    for package in packages:
        versions.setdefault(package.pair, []).append(package.package_version)
    return [
        {
            "pair": entry.pair,
            "version": entry.package_version,
            "installed": ", ".join(versions.get(entry.pair, [])),
            "link": next(iter(usable_links(entry.links, index)), ""),
        }
        for entry in read_index(index, DownloadConfig(private_hosts=tuple(private_hosts)))
        if entry.is_readable
    ]


def _num_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _fits(pair: str, options: Namespace) -> bool:
    source, _, target = pair.partition("-")
    return options.from_code in (None, source) and options.to_code in (None, target)
