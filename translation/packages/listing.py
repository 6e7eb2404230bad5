"""Packages as tables: those that are installed, and those that the Argos index offers, sorted by their languages."""

from data_catalog.downloads.download import DownloadConfig
from translation.packages.index import index_url, read_index, usable_links
from translation.packages.origin import read_source
from translation.packages.package import default_packages_dir, installed

SHA256_START = 12


def installed_rows() -> list[dict[str, object]]:
    """Return a row for each installed package; no network is used."""
    rows: list[dict[str, object]] = []
    for package in sorted(installed(default_packages_dir()), key=lambda package: package.pair):
        source = read_source(package.folder)
        num_bytes = sum(file.stat().st_size for file in package.folder.rglob("*") if file.is_file())
        rows.append(
            {
                "pair": package.pair,
                "version": package.package_version,
                "MB": round(num_bytes / 1e6, 1),
                "sha256": package.sha256[:SHA256_START],
                "folder": str(package.folder),
                "from": source.url if source is not None else "",
            }
        )
    return rows


def index_rows(config: DownloadConfig) -> list[dict[str, object]]:
    """Return a row for each package of the index that can be read here, with the installed versions of its pair.

    Raises:
        InputError: the index cannot be had.
    """
    index = index_url()
    versions: dict[str, list[str]] = {}
    for package in installed(default_packages_dir()):
        versions.setdefault(package.pair, []).append(package.package_version)
    return [
        {
            "pair": entry.pair,
            "version": entry.package_version,
            "installed": ", ".join(versions.get(entry.pair, [])),
            "link": next(iter(usable_links(entry.links, index)), ""),
        }
        for entry in sorted(read_index(index, config), key=lambda entry: entry.pair)
        if entry.is_readable
    ]
