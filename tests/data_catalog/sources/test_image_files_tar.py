"""Tars of images: every dialect, links, holes, and what is damaged or hostile."""

import gzip
import io
import lzma
import os
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from data_catalog.errors import InputError
from data_catalog.sources.image_files import ImageFiles, open_images
from data_catalog.sources.mscoco import MscocoConfig, check_mscoco, read_mscoco
from data_catalog.sources.rows import UpstreamRow

LONG = f"{'folder/' * 40}{'n' * 120}.jpg"


def member(name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """Return a header; `packed` derives the content of the member from `content`."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info


def packed(path: Path, members: Sequence[tuple[tarfile.TarInfo, bytes]], dialect: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=dialect) as file:
        for info, content in members:
            file.addfile(info, io.BytesIO(content))
    return path


def simple(path: Path, files: dict[str, bytes], dialect: int = tarfile.GNU_FORMAT) -> Path:
    return packed(path, [(member(name, content), content) for name, content in files.items()], dialect)


def opened(path: Path) -> ImageFiles:
    return open_images(str(path))


def absent(images: ImageFiles, *names: str) -> bool:
    for name in names:
        with pytest.raises(FileNotFoundError):
            images.read(name)
        with pytest.raises(FileNotFoundError):
            images.size(name)
    return True


@pytest.mark.parametrize("dialect", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_script(tmp_path: Path, dialect: int) -> None:
    files = {LONG: b"long", "čaj 茶.jpg": b"tea", "0/a.jpg": b"A" * 70_000}
    images = opened(simple(tmp_path / "images.tar", files, dialect))
    assert {name: images.read(name) for name in files} == files
    assert images.read(f"{'n' * 120}.jpg") == b"long"


def test_a_tar_as_webdataset_has_it(tmp_path: Path) -> None:
    files = {
        f"{number:09d}.{suffix}": f"{number}{suffix}".encode() for number in range(50) for suffix in ("jpg", "txt")
    }
    images = opened(simple(tmp_path / "00000.tar", files, tarfile.USTAR_FORMAT))
    assert images.read("000000049.jpg") == b"49jpg"
    assert images.size("000000000.txt") == 4


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = simple(tmp_path / "images.tar", {"ok.jpg": b"ok"})
    with tarfile.open(path, "a", encoding="latin-1", format=tarfile.GNU_FORMAT) as file:
        file.addfile(member("è.jpg", b"latin"), io.BytesIO(b"latin"))
    images = opened(path)
    assert images.read("ok.jpg") == b"ok"
    assert absent(images, "è.jpg")


def test_links_lead_to_files_of_the_tar_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    links = {
        "d/symbolic.jpg": (tarfile.SYMTYPE, "../a.jpg"),
        "d/twice.jpg": (tarfile.SYMTYPE, "symbolic.jpg"),
        "hard.jpg": (tarfile.LNKTYPE, "./a.jpg"),
        "to-hard.jpg": (tarfile.SYMTYPE, "hard.jpg"),
        "later.jpg": (tarfile.SYMTYPE, "b.jpg"),
        "hard-later.jpg": (tarfile.LNKTYPE, "b.jpg"),
        "self.jpg": (tarfile.SYMTYPE, "self.jpg"),
        "absolute.jpg": (tarfile.SYMTYPE, str(tmp_path / "secret.jpg")),
        "up.jpg": (tarfile.SYMTYPE, "../secret.jpg"),
        "hard-up.jpg": (tarfile.LNKTYPE, "../secret.jpg"),
        "hard-absolute.jpg": (tarfile.LNKTYPE, str(tmp_path / "secret.jpg")),
        "empty.jpg": (tarfile.SYMTYPE, ""),
    }
    members = [(member("a.jpg", b"A"), b"A")]
    members += [(member(name, kind=kind, link=link), b"") for name, (kind, link) in links.items()]
    images = opened(packed(tmp_path / "images.tar", [*members, (member("b.jpg", b"B"), b"B")]))
    assert [images.read(name) for name in ("d/symbolic.jpg", "hard.jpg", "to-hard.jpg")] == [b"A"] * 3
    assert images.read("later.jpg") == b"B"
    assert absent(images, "d/twice.jpg", "hard-later.jpg", "self.jpg", "absolute.jpg", "up.jpg", "empty.jpg")
    assert absent(images, "hard-up.jpg", "hard-absolute.jpg", "secret.jpg")


def test_a_file_that_is_packed_twice_is_a_link_to_itself(tmp_path: Path) -> None:
    members = [(member("a.jpg", b"A"), b"A"), (member("a.jpg", kind=tarfile.LNKTYPE, link="a.jpg"), b"")]
    assert opened(packed(tmp_path / "images.tar", members)).read("a.jpg") == b"A"


def test_the_last_of_a_name_counts(tmp_path: Path) -> None:
    members = [(member(name, content), content) for name, content in (("d/a.jpg", b"old"), ("b.jpg", b"B"))]
    members += [(member("hard.jpg", kind=tarfile.LNKTYPE, link="d/a.jpg"), b"")]
    members += [(member("./d/a.jpg", b"newest"), b"newest"), (member("b.jpg", kind=tarfile.DIRTYPE), b"")]
    members += [
        (member("link.jpg", kind=tarfile.SYMTYPE, link="hard.jpg"), b""),
        (member("link.jpg", b"file"), b"file"),
    ]
    images = opened(packed(tmp_path / "images.tar", members))
    assert images.read("d/a.jpg") == images.read("a.jpg") == b"newest"
    assert (images.read("hard.jpg"), images.read("link.jpg")) == (b"old", b"file")
    assert absent(images, "b.jpg")


def test_unsafe_members_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "up.jpg").write_bytes(b"outside")
    out = ["../up.jpg", "/abs.jpg", "a/../../b.jpg", "C:\\drive.jpg", "C:/drive2.jpg"]
    kinds = {"pipe.jpg": tarfile.FIFOTYPE, "device.jpg": tarfile.CHRTYPE, "folder.jpg": tarfile.DIRTYPE}
    members = [(member(name, b"out"), b"out") for name in out]
    members += [(member(name, kind=kind), b"") for name, kind in kinds.items()]
    images = opened(packed(tmp_path / "images.tar", [*members, (member("in.jpg", b"in"), b"in")]))
    assert images.read("in.jpg") == b"in"
    assert absent(images, *out, *kinds, "up.jpg", "abs.jpg", "b.jpg", "drive.jpg", "drive2.jpg")


@pytest.mark.parametrize("version", ["0.1", "1.0"])
def test_members_with_holes(tmp_path: Path, version: str) -> None:
    """Holes as GNU tar leaves them out: the map of what is stored stands in the headers, or before the data."""
    pieces, content = [(0, 512), (4096, 512), (9000, 0)], b"A" * 512 + b"B" * 512
    numbers = [str(number) for piece in pieces for number in piece]
    headers = {"GNU.sparse.name": "holes.bmp"}
    if version == "1.0":
        content = "\n".join([str(len(pieces)), *numbers, ""]).encode().ljust(512, b"\0") + content
        headers |= {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9000"}
    else:
        headers |= {"GNU.sparse.size": "9000", "GNU.sparse.map": ",".join(numbers)}
    info = member("holes.bmp", content)
    info.pax_headers = headers
    images = opened(
        packed(tmp_path / "images.tar", [(info, content), (member("z.jpg", b"Z"), b"Z")], tarfile.PAX_FORMAT)
    )
    whole = (b"A" * 512).ljust(4096, b"\0") + (b"B" * 512).ljust(9000 - 4096, b"\0")
    assert (images.size("holes.bmp"), images.read("holes.bmp")) == (9000, whole)
    assert images.read("z.jpg") == b"Z"


@pytest.mark.parametrize(
    ("magic", "method"),
    [
        (gzip.compress(b"x" * 2000), "gzip"),
        (lzma.compress(b"x" * 2000), "xz"),
        (b"BZh91AY&SY", "bzip2"),
        (b"\x28\xb5\x2f\xfd\x04", "zstandard"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ],
)
def test_compressed_tars_are_refused_whatever_their_name(tmp_path: Path, magic: bytes, method: str) -> None:
    (tmp_path / "images.tar").write_bytes(magic)
    with pytest.raises(InputError, match=f"compressed with {method}: .* Decompress it once"):
        opened(tmp_path / "images.tar")


@pytest.mark.parametrize("dialect", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_truncated_tar_is_an_input_error(tmp_path: Path, dialect: int) -> None:
    path = simple(tmp_path / "images.tar", {LONG: b"long", "a.jpg": b"A" * 700, "b.jpg": b"B" * 512}, dialect)
    content = path.read_bytes()
    end = len(content.rstrip(b"\0"))
    # A multiple of a block that lies between two members is the hardest to notice.
    for cut in sorted({*range(1, end, 97), *range(512, end, 512), end}):
        path.write_bytes(content[:cut])
        with pytest.raises(InputError, match=r"damaged or truncated|not a folder, a tar or a complete zip"):
            opened(path)
    path.write_bytes(content)
    assert opened(path).read("a.jpg") == b"A" * 700


def test_a_damaged_header_between_members_hides_none_of_them(tmp_path: Path) -> None:
    path = simple(tmp_path / "images.tar", {"a.jpg": b"A", "b.jpg": b"B", "c.jpg": b"C"})
    path.write_bytes(path.read_bytes().replace(b"b.jpg", b"x.jpg"))
    with pytest.raises(InputError, match="no header and no end at byte 1024"):
        opened(path)


def forged(path: Path, info: tarfile.TarInfo, *, size: int) -> Path:
    """A tar with a member, of headers only, that claims a size; then a member as it should be."""
    info.size = size
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
    path.write_bytes(header + simple(path, {"a.jpg": b"A"}).read_bytes())
    return path


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("size", [-512, -1024, -(2**40), 2**40, 2**63, 2**80])
def test_impossible_sizes(tmp_path: Path, kind: bytes, size: int) -> None:
    with pytest.raises(InputError, match="damaged or truncated"):
        opened(forged(tmp_path / "images.tar", member("big.jpg", kind=kind), size=size))


def test_a_huge_member_is_known_by_its_size_before_it_is_read(tmp_path: Path) -> None:
    size = 200 * 2**30
    path = tmp_path / "images.tar"
    info = member("huge.jpg")
    info.size = size
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek(size, os.SEEK_CUR)  # a hole: it takes no room on the disk
        file.write(bytes(1024))
    images = opened(path)
    assert images.size("huge.jpg") == size


def test_a_tar_that_changes_after_it_was_opened(tmp_path: Path) -> None:
    path = simple(tmp_path / "images.tar", {"a.jpg": b"A"})
    images = opened(path)
    simple(path, {"0.jpg": b"0" * 600, "a.jpg": b"new"})
    with pytest.raises(OSError, match="has changed since it was opened"):
        images.read("a.jpg")
    assert opened(path).read("a.jpg") == b"new"
    path.unlink()
    with pytest.raises(FileNotFoundError):
        images.read("a.jpg")


def test_damage_anywhere_is_one_of_two_errors(tmp_path: Path) -> None:
    names = ("a.jpg", "č.jpg", LONG, "b.jpg")
    files = {name: name.encode() * 60 for name in names}
    content = bytearray(simple(tmp_path / "images.tar", files, tarfile.PAX_FORMAT).read_bytes())
    draw = random.Random(5)
    outcomes = {_outcome(tmp_path / "damaged.tar", _damaged(content, draw), files) for _ in range(400)}
    assert outcomes == {"InputError", "FileNotFoundError", "other", "whole"}


def _damaged(content: bytearray, draw: random.Random) -> bytes:
    """Bytes of headers changed, their checksums mended, so that the damage comes further than those."""
    damaged = content[:]
    blocks = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    for _ in range(draw.randrange(1, 4)):
        at = draw.choice(blocks)
        place = at + draw.choice([draw.randrange(345), draw.randrange(5), draw.randrange(124, 136), 156])
        damaged[place] = draw.choice([0, 0x80, 0xFF, *b"017-xLSg"])
        header = damaged[at : at + 512]
        header[148:156] = b" " * 8
        damaged[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    return bytes(damaged)


def _outcome(path: Path, content: bytes, files: dict[str, bytes]) -> str:
    path.write_bytes(content)
    try:
        images = opened(path)
        return "whole" if {name: images.read(name) for name in files} == files else "other"
    except (InputError, OSError) as error:
        return type(error).__name__


@pytest.mark.real_data
def test_the_photos_of_mscoco_from_a_tar(tmp_path: Path, shared_data: Path) -> None:
    coco = shared_data / "coco"
    with tarfile.open(tmp_path / "train2017.tar", "w") as file:
        file.add(coco / "train2017", "train2017")
    config = MscocoConfig(files=(str(coco / "captions_train2017.json"),), images=str(tmp_path / "train2017.tar"))
    check_mscoco(config)
    names = {row.path for row in read_mscoco(config) if isinstance(row, UpstreamRow) and row.path}
    from_tar, from_folder = (open_images(location) for location in (str(config.images), str(coco / "train2017")))
    assert len(names) == 80
    assert all(from_tar.read(name) == from_folder.read(name) for name in names)
