"""Zips of images that are damaged, hostile, or packed elsewhere than on Linux."""

import random
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

from data_catalog.errors import InputError
from data_catalog.sources.image_files import ImageFiles, open_images

MIB = 2**20


def packed(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return path


def opened(path: Path) -> ImageFiles:
    return open_images(str(path))


def replaced(path: Path, old: bytes, new: bytes, times: int = -1) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, times))
    return path


def test_a_damaged_member_is_an_os_error(tmp_path: Path) -> None:
    path = packed(tmp_path / "images.zip", {"a.jpg": b"A", "train/b.jpg": b"B" * 1000}, zipfile.ZIP_STORED)
    images = opened(replaced(path, b"B" * 100, b"X" * 100, 1))
    with pytest.raises(OSError, match=r"train/b\.jpg' in .* cannot be read"):
        images.read("train/b.jpg")
    assert images.read("a.jpg") == b"A"
    images.close()


@pytest.mark.parametrize("stated", [10, 2**31])
def test_a_member_with_a_false_size(tmp_path: Path, stated: int) -> None:
    content = b"x" * 70_000
    sizes = [size.to_bytes(4, "little") for size in (len(content), stated)]
    path = replaced(packed(tmp_path / "images.zip", {"a.jpg": content}), *sizes)
    images = opened(path)
    assert images.size("a.jpg") == stated
    with pytest.raises(OSError, match=r"cannot be read|bytes instead of"):
        images.read("a.jpg")
    images.close()


def test_a_zip_bomb_with_a_small_stated_size_is_not_unpacked(tmp_path: Path) -> None:
    """1 GiB that claims to be ten bytes, whose checksum even fits: read by a process that has no room for it."""
    bomb, claimed = 1024 * MIB, b"x" * 10
    squeezed = zlib.compressobj(wbits=-15)
    pieces = [
        squeezed.compress(claimed),
        *(squeezed.compress(bytes(MIB)) for _ in range(bomb // MIB)),
        squeezed.flush(),
    ]
    body = b"".join(pieces)
    path = packed(tmp_path / "images.zip", {"a.jpg": body}, zipfile.ZIP_STORED)
    crcs = [zlib.crc32(data).to_bytes(4, "little") for data in (body, claimed)]
    sizes = [len(body).to_bytes(4, "little") * 2, len(body).to_bytes(4, "little") + (10).to_bytes(4, "little")]
    stored, deflated = b"\0\0\0\0!\0", b"\x08\0\0\0!\0"
    for old, new in (crcs, sizes, (stored, deflated)):
        replaced(path, old, new)
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (512 * 2**20,) * 2)\n"
        "from data_catalog.sources.image_files import open_images\n"
        "images = open_images(sys.argv[1])\n"
        "print(images.size('a.jpg'), images.read('a.jpg'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"10 {claimed!r}\n"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_bound_are_refused(tmp_path: Path, method: int) -> None:
    path = packed(tmp_path / "images.zip", {"a.jpg": b"A"}, method)
    with pytest.raises(InputError, match="not compressed with deflate: create it again"):
        opened(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as file:
        file.writestr("b.jpg", b"B")
    images = opened(path)
    assert images.read("b.jpg") == b"B"
    with pytest.raises(OSError, match="another method than deflate"):
        images.read("a.jpg")
    images.close()


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "images.zip", {"a.jpg": b"A"}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="encrypted"):
        opened(path)


def test_unsafe_members_are_never_read(tmp_path: Path) -> None:
    names = ["../up.jpg", "/abs.jpg", "a/../../b.jpg", "C:\\drive.jpg", "C:/drive2.jpg", "\\\\host\\share\\unc.jpg"]
    images = opened(packed(tmp_path / "images.zip", dict.fromkeys(names, b"out") | {"in.jpg": b"in"}))
    assert images.read("in.jpg") == b"in"
    for name in (*names, "up.jpg", "abs.jpg", "b.jpg", "drive.jpg", "drive2.jpg", "unc.jpg"):
        with pytest.raises(FileNotFoundError):
            images.read(name)
    images.close()


def test_names_of_windows_tools_and_of_macs(tmp_path: Path) -> None:
    path = packed(tmp_path / "images.zip", {"train\\b.jpg": b"B", "c e.jpg": b"C", "d/top.jpg": b"D"})
    # A name in UTF-8 of which the flag that says so is not set.
    images = opened(replaced(path, b"c e.jpg", "ça.jpg".encode()))
    assert images.read("train/b.jpg") == images.read("train\\b.jpg") == images.read("b.jpg") == b"B"
    assert images.read("ça.jpg") == b"C"
    images.close()


def test_exact_names_win_over_other_decodings(tmp_path: Path) -> None:
    images = opened(packed(tmp_path / "images.zip", {"d/a.jpg": b"slash", "d\\a.jpg": b"backslash"}))
    assert (images.read("d/a.jpg"), images.read("d\\a.jpg")) == (b"slash", b"backslash")
    images.close()


def test_the_last_of_a_name_counts(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        file.writestr("d/a.jpg", b"old")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("d/a.jpg", b"new")
    images = opened(tmp_path / "images.zip")
    assert images.read("d/a.jpg") == images.read("a.jpg") == b"new"
    images.close()


def test_damage_anywhere_is_one_of_two_errors(tmp_path: Path) -> None:
    whole = packed(tmp_path / "images.zip", {f"d/è{number}.jpg": bytes([number]) * 500 for number in range(4)})
    content, draw = whole.read_bytes(), random.Random(5)
    outcomes = []
    for _ in range(400):
        damaged = bytearray(content[: draw.choice([len(content), draw.randrange(len(content))])])
        for _ in range(draw.randrange(1, 5)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        (tmp_path / "damaged.zip").write_bytes(damaged)
        outcomes.append(_outcome(tmp_path / "damaged.zip"))
    assert set(outcomes) == {"InputError", "OSError", "FileNotFoundError", "whole"}


def _outcome(path: Path) -> str:
    try:
        images = opened(path)
    except InputError:
        return "InputError"
    try:
        for number in range(4):
            assert images.read(f"d/è{number}.jpg") == bytes([number]) * 500
    except OSError as error:
        return type(error).__name__
    finally:
        images.close()
    return "whole"
