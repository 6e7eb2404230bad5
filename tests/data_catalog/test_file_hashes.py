"""Content hashes of files and folders: what changes them, and what is remembered."""

from pathlib import Path

import pytest

from data_catalog.storage.upstream_hashes import FileHashes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of its own, and one behind a link to a folder elsewhere."""
    elsewhere, images = tmp_path / "elsewhere", tmp_path / "images"
    elsewhere.mkdir()
    images.mkdir()
    (elsewhere / "b.jpg").write_bytes(b"b")
    (images / "a.jpg").write_bytes(b"a")
    (images / "linked").symlink_to(elsewhere)
    return images


def digest(folder: Path, without: Path | None = None) -> str:
    hashes = FileHashes(folder.parent / "hashes.json")
    return hashes.folder_digest(folder, without=without or folder.parent / "nowhere")


def test_a_folder_is_its_files_wherever_links_lead(folder: Path) -> None:
    before = digest(folder)
    (folder / "linked" / "up").symlink_to(folder)
    (folder / "self").symlink_to(folder)
    assert digest(folder) == before  # links that lead back up come to an end
    (folder.parent / "elsewhere" / "b.jpg").write_bytes(b"changed")
    assert digest(folder) != before
    (folder / "linked").unlink()
    (folder / "linked").mkdir()
    (folder / "linked" / "b.jpg").write_bytes(b"b")
    assert digest(folder) == before


def test_what_is_left_out_does_not_count(folder: Path) -> None:
    before = digest(folder, folder / "catalog")
    (folder / "catalog").mkdir()
    (folder / "catalog" / "c.jpg").write_bytes(b"c")
    assert digest(folder, folder / "catalog") == before
    assert digest(folder) != before


def test_a_damaged_store_is_learnt_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, store = tmp_path / "file", tmp_path / "store.json"
    file.write_bytes(b"first")
    hashes = FileHashes(store)
    found = hashes.sha256(file)
    hashes.save()
    text = store.read_text(encoding="utf-8")
    store.write_text(text.replace(found, found[::-1]), encoding="utf-8")
    assert FileHashes(store).sha256(file) == found
    assert "does not match its checksum): upstream files are hashed again" in caplog.text
