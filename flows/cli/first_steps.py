"""The commands init, towers and download: what a first recipe needs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from data_catalog.base.errors import DamagedError, InputError, SettingsError, TransientError
from flows.cli.output import is_quiet, say, say_json, say_table
from flows.options import Json

if TYPE_CHECKING:
    from data_catalog.downloads.annotation_files import DownloadJob, FileResult
    from data_catalog.downloads.registry import UpstreamFile, UpstreamSource


def init(
    name: str,
    /,
    *,
    language: Annotated[str, Parameter(metavar="LANG")],
    pairs: Annotated[str | None, Parameter(metavar="FILE")] = None,
    webdataset: Annotated[str | None, Parameter(metavar="TARS")] = None,
    huggingface: Annotated[str | None, Parameter(metavar="DIR")] = None,
    images: Annotated[str | None, Parameter(metavar="DIR")] = None,
    parallel: Annotated[str | None, Parameter(metavar="FILE")] = None,
) -> None:
    """Write a first recipe into the working folder, for your own images and captions or for public sources.

    Examples:
      vernaclip init garden --language uk --pairs captions.csv --images photos
      vernaclip init cc12m --language it --webdataset 'cc12m-train-{0000..0010}.tar'
      vernaclip init ukrainian --language uk

    The command reads your files, chooses fitting settings, and writes them to NAME.toml with explanations. If no
    language pack comes with vernaclip for the language, it writes a small one beside the recipe. It overwrites nothing.

    Args:
        name: Name of the dataset. The recipe is NAME.toml.
        language: Language of captions and queries: a code such as uk, or the file of a language pack.
        pairs: CSV, TSV, JSON Lines or Parquet file with one column of images and one of captions.
        webdataset: Tars of images with captions (KEY.jpg, KEY.txt, KEY.json), as a pattern or a folder.
        huggingface: Folder of Parquet or Arrow files of `datasets` with images and captions, or a pattern.
        images: Folder, zip or tar with the images that the file names (default: the folder of the file).
        parallel: Lines of an English sentence, a tab and its translation, from which a text tower learns the language.
    """
    from flows.cli.services import finding_text
    from flows.first_recipe import write_first_recipe

    started = write_first_recipe(
        name, language, pairs=pairs, webdataset=webdataset, huggingface=huggingface, images=images, parallel=parallel
    )
    if is_quiet():
        return
    say(started.found)
    first, others = started.lacking[:2], started.lacking[2:]
    for finding in first:
        say(finding_text(finding))
    if others:
        topics = ", ".join(finding.topic for finding in others)
        say(f"{'missing':<9}{topics}: `vernaclip doctor --language {started.language}` says what each costs")
    say(f"\nWritten: {', '.join(map(str, started.files))}\n\nTry next:\n{started.commands}")


def towers(*, language: Annotated[str | None, Parameter(metavar="LANG")] = None, json: Json = False) -> None:
    """List the pretrained towers that recipes can name: in Python packages, and in the cache of the Hugging Face hub.

    A tower of the list needs no network once it is here. Any timm backbone and any encoder of the hub works as well.

    Args:
        language: Only text encoders that read this language, and the one that its pack recommends.
    """
    from flows.language_doctor import find_language
    from flows.towers import find_towers

    found = find_towers(find_language(language).pack if language else None)
    if json:
        say_json([asdict(tower) for tower in found])
        return
    say_table([tower.row() for tower in found])


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """Options that select files, their origin and their folder."""

    to: Annotated[Path, Parameter(metavar="DIR")] = Path("data")
    """Folder for the annotation files of all sources."""
    accept: Annotated[str | None, Parameter(metavar="LICENSE")] = None
    """Accept the license of the source, by its name in the list."""
    only: Annotated[str | None, Parameter(metavar="PATTERN")] = None
    """Only files whose path or name matches, such as '*-00000-of-*'."""
    check: bool = False
    """Download nothing. Compare the files with their recorded checksums, and try to read them."""
    registry: Annotated[Path | None, Parameter(metavar="FILE.toml")] = None
    """File with other URLs, such as those of a mirror (default: the URLs that come with vernaclip)."""


_DEFAULTS = DownloadOptions()


def download(source: str | None = None, /, *, options: DownloadOptions = _DEFAULTS) -> None:
    """List the annotation files of public datasets and their licenses, or download the files of one dataset.

    Examples:
      vernaclip download
      vernaclip download wit --to data --accept "CC BY-SA 3.0" --only "*-00000-of-*"

    It downloads annotation files, not images, and only after you accept the license by its name. Files go where the
    recipes expect them below DIR; recipes take that folder as --set data=DIR. An interrupted download resumes. Sizes
    and checksums are compared with the published ones. downloads.json beside the files records their URLs, checksums
    and licenses.

    Args:
        source: Source to download; without it, all sources are listed.
    """
    from data_catalog.downloads.registry import read_registry

    registry = read_registry(options.registry)
    if source is None:
        if options.check or options.accept or options.only:
            raise SettingsError("--accept, --only and --check need a source: `vernaclip download` lists their names")
        from data_catalog.downloads.annotation_files import file_rows, read_record

        record = read_record(options.to)
        say_table([row for each in registry.values() for row in file_rows(each, options.to, record)])
        for each in registry.values():
            say()
            _say_terms(each)
        return
    found = registry.get(source)
    if found is None:
        raise SettingsError(f"unknown source {source!r}: use one of {', '.join(registry)}")
    files = found.files_matching(options.only)
    if options.check:
        _check(found, files, options.to)
    else:
        _get(found, files, options)


def _say_terms(source: "UpstreamSource") -> None:
    say(f"{source.name}: {source.title}")
    say(f"  license  {source.license}")
    say(f"  terms    {source.terms}")
    say(f"  page     {source.page}")
    say(f"  record   {source.recorded_in}")


def _get(source: "UpstreamSource", files: "Sequence[UpstreamFile]", options: DownloadOptions) -> None:
    """Download missing files if their license is accepted, then check the files that a person must fetch by hand."""
    from data_catalog.downloads.annotation_files import DownloadJob, download_file, download_lock, is_pending

    accepted = _folded(options.accept or "") == _folded(source.license)
    job = DownloadJob(source=source, folder=options.to, license_accepted=accepted)
    if options.accept and not accepted:
        raise SettingsError(
            f"the license of {source.name} is not called {options.accept!r}: read it, then use "
            f'--accept "{source.license}"'
        )
    if not accepted and any(is_pending(file, job) for file in files):
        _say_terms(source)
        raise SettingsError(
            f'the license of {source.name} is not accepted, so nothing is downloaded: add --accept "{source.license}"'
        )
    if with_url := [file for file in files if file.url]:
        with download_lock(job.folder):
            for file in with_url:
                try:
                    found = download_file(file, job)
                except TransientError as error:
                    raise TransientError(f"{error}: run the same command again to resume the download") from error
                for each in found:
                    _say_result(each, job)
    if by_hand := [file for file in files if not file.url]:
        _by_hand(source, by_hand, job)


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def _say_result(result: "FileResult", job: "DownloadJob") -> None:
    path, entry = job.folder / result.path, result.download
    if entry is None:
        say(f"kept {path}: not downloaded by this command, and no checksum is published to verify it")
        return
    verified = f"matches the published {entry.verified_by}" if entry.verified_by else "no checksum is published"
    of_archive = " of its archive" if entry.archive_sha256 and entry.verified_by else ""
    say(f"{'downloaded' if result.is_new else 'present'} {path}: {entry.num_bytes:,} bytes, {verified}{of_archive}")
    say(f"  sha256 {entry.sha256}")


def _by_hand(source: "UpstreamSource", files: "Sequence[UpstreamFile]", job: "DownloadJob") -> None:
    """Check and record the files that a person fetched by hand; refuse missing ones, and print where to get them."""
    from data_catalog.downloads.annotation_files import check_readable, download_lock, existing_files, record_existing

    places = [(path, file) for file in files for path in file.paths if not (job.folder / path).is_file()]
    if places:
        _say_terms(source)
        for path, file in places:
            say(f"  to do    {job.folder / path}: {file.by_hand}")
        if source.images:
            say(f"  to do    {job.folder / source.images}: the images, in a folder or a zip of this name")
        raise InputError(
            f"{places[0][0]} of {source.name} must be fetched by hand: fetch it, then run the same command again"
        )
    there = existing_files(files, job.folder)
    check_readable(source, there, images=job.folder / source.images)
    with download_lock(job.folder):
        for file in files:
            record_existing(file, job)
    say(f"present, and readable as {source.kind}: {', '.join(map(str, there))}")


def _check(source: "UpstreamSource", files: "Sequence[UpstreamFile]", folder: Path) -> None:
    """Compare present files with their recorded checksums, and read each with the reader of its source."""
    from data_catalog.disk.files import sha256_of
    from data_catalog.downloads.annotation_files import check_readable, existing_files, read_record

    record, there = read_record(folder), existing_files(files, folder)
    if not there:
        raise InputError(f"{folder} has none of these files of {source.name}: download them first")
    for path in there:
        entry = record.get(path.relative_to(folder).as_posix())
        if entry is not None and sha256_of(path) != entry.sha256:
            raise DamagedError(f"{path} has changed since its download: move it away, then download it again")
        say(f"{'unchanged' if entry is not None else 'not recorded'}: {path}")
    check_readable(source, there, images=folder / source.images)
    say(f"all {len(there)} files are readable as {source.kind}")
