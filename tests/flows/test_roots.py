"""Roots that no command works on, told before anything is done: paths that DuckDB misreads, links that lead out."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pyarrow as pa
import pytest

from data_catalog.database.catalog import query, rebuild
from data_catalog.errors import InputError
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.lock import LOCK_FILE, place_lock, writer_lock
from data_catalog.storage.manifest import MANIFEST_FORMAT, require_snapshot
from flows.cli import main
from flows.jobs import BuildReport

# Any name that a folder may have, but for four characters.
ODD_NAME = "a'b\"c %20%s#{d} $HOME;~e=f,g&h@i!\n\t\x1b[A|<k> è \U0001f600 ]^`:".replace("[", "")
COMMANDS = (
    ["sql", "FROM builds"],
    ["verify"],
    ["catalog"],
    ["report", "scenes"],
    ["snapshots"],
    ["export", "scenes", "--format", "webdataset"],
    ["forget", "--domain", "example.org"],
    ["catalog", "--rebuild"],
    ["prune"],
)
Capture = pytest.CaptureFixture[str]
Lock = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture
def root(built: tuple[Path, BuildReport], tmp_path: Path) -> Path:
    """A copy of a small catalog, to be tampered with."""
    root = tmp_path / "catalog"
    shutil.copytree(built[0], root, symlinks=True)
    rebuild(root)
    return root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody's, with files named so that nothing looks like a catalog's own."""
    folder = tmp_path / "outside"
    for name in ("thesis.tex", "web/mine/notes.txt", ".tmp-mine/notes.txt", "index/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("years of work", encoding="utf-8")
    return folder


def state(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(root: Path, arguments: list[str] | None, overrides: list[str]) -> int:
    """A command on a root; None is a build."""
    more = [word for override in overrides for word in ("--set", override)]
    words = ["build", "scenes", "--executor", "local", *more] if arguments is None else arguments
    return main([*words, "--root", str(root)])


def first_image(root: Path) -> str:
    """The URL of an image that a dataset holds."""
    table: pa.Table = query(root, "SELECT url FROM pairs WHERE url IS NOT NULL ORDER BY url LIMIT 1")
    return str(table.column("url")[0])


@pytest.mark.parametrize("name", ["a?b", "a\\b", "a*b", "a[b]", "a/?/b", "\udcff", "link"])
def test_a_path_that_duckdb_misreads_is_refused_before_anything_is_done(
    tmp_path: Path, outside: Path, name: str, english_overrides: list[str], capsys: Capture
) -> None:
    outside.rename(outside.with_name("a?b c"))
    (tmp_path / "link").symlink_to(tmp_path / "a?b c")
    root, before = tmp_path / name, sorted(tmp_path.rglob("*"))
    for arguments in (None, *COMMANDS):
        code = run(root, arguments, english_overrides)
        error = capsys.readouterr().err
        assert (code, error.count("\n")) == (1, 1), arguments
        assert "DuckDB" in error, arguments
        assert "name another --root" in error, arguments
    assert sorted(tmp_path.rglob("*")) == before


def test_flows_that_are_deployed_refuse_what_the_command_line_does(tmp_path: Path) -> None:
    from flows.orchestration.prefect_flows import FLOWS

    (tmp_path / "work").symlink_to(tmp_path)
    write_checksummed(tmp_path / "old" / "datasets" / "scenes" / "0123456789ab" / "manifest.json", {"format": 1})
    refusals = {
        tmp_path / "old": "has format 1, and this version",
        tmp_path / "a?b": "DuckDB misreads such paths",
        tmp_path: "nothing is written or removed through a link",
    }
    for flow in FLOWS.values():
        for root, sentence in refusals.items():
            assert sentence in flow.fn(root=str(root)).message  # its run ends in a failed state


def test_any_other_path_works_to_the_end(
    built: tuple[Path, BuildReport], tmp_path: Path, english_overrides: list[str], capsys: Capture
) -> None:
    root = tmp_path / ODD_NAME / "outcome=kept" / "split=test" / "catalog"
    shutil.copytree(built[0], root)
    assert run(root, None, [*english_overrides, "split.val=0.3"]) == 0
    for arguments in COMMANDS:
        assert main([*arguments, "--root", str(root)]) == 0, arguments
    assert query(root, "SELECT DISTINCT split FROM pairs ORDER BY 1").column(0).to_pylist() == ["test", "train", "val"]
    assert main(["forget", "--url", first_image(root), "--root", str(root)]) == 0
    assert main(["verify", "--root", str(root)]) == 0
    assert "forgotten; snapshot" in capsys.readouterr().out


@pytest.mark.parametrize("number", [MANIFEST_FORMAT - 1, MANIFEST_FORMAT + 1])
def test_a_root_of_another_format_is_refused_and_no_byte_of_it_changes(
    root: Path, english_overrides: list[str], capsys: Capture, number: int
) -> None:
    commands = (
        *(None, *COMMANDS, ["why", first_image(root)], ["diff", "current", "current"], ["mt", "memory", "list"]),
        *(["train", "scenes", "--executor", "local"], ["evaluate", "scenes", "--executor", "local"]),
        *(["search", "a dog"], ["audit", "draw", "scenes"], ["scoreboard"]),
        ["export-model", "--format", "open_clip", "--out", "m"],
    )
    for path in root.glob("datasets/*/*/manifest.json"):
        write_checksummed(path, {**read_checksummed(path, remedy=""), "format": number})
    before = state(root)
    for arguments in commands:
        assert run(root, arguments, english_overrides) == 1, arguments
        error = capsys.readouterr().err
        assert f"{root} has format {number}, and this version reads and writes format {MANIFEST_FORMAT}" in error
        assert "build into a new --root" in error
    with pytest.raises(InputError, match=f"has format {number}"):
        require_snapshot(root, "scenes")
    assert state(root) == before


def test_one_old_snapshot_of_another_format_is_enough_and_a_damaged_one_is_damage(root: Path, capsys: Capture) -> None:
    current = require_snapshot(root, "scenes")
    other = current.folder.with_name("0123456789ab") / "manifest.json"
    write_checksummed(other, {"format": 7, "what": "nobody knows"})
    assert main(["sql", "FROM builds", "--root", str(root)]) == 1
    assert "has format 7" in capsys.readouterr().err
    shutil.rmtree(other.parent)
    manifest = current.folder / "manifest.json"
    ours = f'\n "format": {MANIFEST_FORMAT}'
    assert ours in manifest.read_text("utf-8")
    manifest.write_text(manifest.read_text("utf-8").replace(ours, '\n "format": 7'), "utf-8")
    assert main(["verify", "--root", str(root)]) == 1
    assert f"damage: {manifest} is damaged" in capsys.readouterr().out


WRITTEN = (
    *(".writer-lock", "searches/mine", "work/clean", "memory", "models", "models/scenes/0123/index", "scoreboards"),
    *("packages", "datasets", "datasets/scenes", "datasets/scenes/current.json", "datasets/scenes/runs.jsonl"),
    *("datasets/scenes/fetch-log", "SNAPSHOT", "SNAPSHOT/pairs", "catalog.duckdb", "forgotten.json", "audits"),
    *("file-hashes.json", ".tmp-upstream", "kept-features/0a1b2c3d4e5f6071", "folder-indexes", "ablations"),
)


def test_a_link_where_we_write_or_remove_is_refused_and_nothing_is_touched(
    root: Path, outside: Path, english_overrides: list[str], capsys: Capture
) -> None:
    forget = ["forget", "--url", first_image(root)]
    snapshot = f"datasets/scenes/{require_snapshot(root, 'scenes').snapshot}"
    for place in WRITTEN:
        link = root / place.replace("SNAPSHOT", snapshot)
        link.parent.mkdir(parents=True, exist_ok=True)
        is_file = link.is_file() or bool(link.suffix)
        with suppress(FileNotFoundError):
            link.rename(root / "upstream" / "put-by")
        link.symlink_to(outside / "thesis.tex" if is_file else outside)
        before = state(outside)
        commands = [forget] if place != ".writer-lock" else [forget, *COMMANDS[1:], None]
        for arguments in commands:
            code = run(root, arguments, english_overrides)
            error = capsys.readouterr().err
            assert (code, error.count("\n")) == (1, 1), (place, arguments)
            assert f"{link} is a link to {link.readlink()}, and nothing is written or removed through" in error, place
        assert state(outside) == before, place
        link.unlink()
        with suppress(FileNotFoundError):
            (root / "upstream" / "put-by").rename(link)
    assert main([*forget, "--root", str(root)]) == 0, "without links all is as it was"


@pytest.mark.parametrize("lock", [writer_lock, place_lock])
def test_a_lock_is_never_written_through_a_link(tmp_path: Path, lock: Lock) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / LOCK_FILE if lock is writer_lock else tmp_path / f".out{LOCK_FILE}"
    path.symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(InputError, match=f"{path} is a symbolic link, and nothing is written"), lock(tmp_path / "out"):
        pass
    assert (tmp_path / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_a_root_and_exports_that_are_links_work_and_lose_only_what_is_ours_by_name(
    root: Path, outside: Path, tmp_path: Path
) -> None:
    """As to a larger disk; what no command writes to is nobody's business."""
    (root / "photos").symlink_to(outside)
    (root / "upstream" / "more").symlink_to(outside)
    (root / "exports").symlink_to(outside)
    (outside / "scenes").mkdir()
    for name in ("webdataset", ".tmp-old-webdataset"):
        (outside / "scenes" / name).symlink_to(outside / "web")
    before = state(outside)
    link = tmp_path / "link"
    link.symlink_to(root)
    assert main(["export", "scenes", "--format", "urls", "--root", str(link)]) == 0
    assert (outside / "scenes" / "urls" / "export.json").is_file()
    assert main(["forget", "--url", first_image(root), "--root", str(link)]) == 0
    assert not (outside / "scenes" / "urls").exists()
    assert state(outside) == before
    (root / "exports").unlink()
    assert main(["verify", "--root", str(link)]) == 0
