"""Local images: found by name only inside their folder, zip or tar, on a disk and on a store; hostile ones too."""

import gzip
import io
import os
import random
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from data_catalog.base.errors import InputError, SettingsError, TransientError
from data_catalog.sources.hashes import FileHashes, location_digest
from data_catalog.sources.image_files import ImageFiles, open_images

FILES = {"a.jpg": b"A", "train/b.jpg": b"B" * 700_000, "val/b.jpg": b"other", "val/c è [1].jpg": b"C", "empty.jpg": b""}
LEADING_OUT = dict.fromkeys(("../up.jpg", "/abs.jpg", "a/../../b.jpg"), b"out")
NOT_FOUND = [
    *(*LEADING_OUT, "up.jpg", "abs.jpg", "b.jpg", "link.jpg", "secret.jpg", "../secret.jpg"),
    *("none.jpg", "", ".", "/a.jpg", "../a.jpg", "train/../a.jpg", "../folder/a.jpg", "train", "a.jpg/x", "a\0.jpg"),
    *("A.jpg", "a.JPG", "train\\b.jpg", "\\\\server\\a.jpg", "\ud800.jpg", "x" * 5000, "memory://bucket/secret.jpg"),
]


def opened(location: Path | str) -> ImageFiles:
    return open_images(str(location))


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return path


def replaced(path: Path, old: bytes, new: bytes, times: int = -1) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, times))
    return path


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


def tarred(path: Path, files: dict[str, bytes], dialect: int = tarfile.GNU_FORMAT) -> Path:
    return packed(path, [(member(name, content), content) for name, content in files.items()], dialect)


@pytest.fixture
def disk(tmp_path: Path) -> str:
    """A folder of images, the same packed, and files beside them."""
    for name, content in FILES.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    zipped(tmp_path / "images.zip", {**FILES, **LEADING_OUT, "top/": b"", "__MACOSX/top/._a.jpg": b"junk"})
    members = [(member(name, content), content) for name, content in (FILES | LEADING_OUT).items()]
    link = member("link.jpg", kind=tarfile.SYMTYPE, link="../secret.jpg")
    packed(tmp_path / "images.tar", [*members, (link, b"")])
    for name in ("secret.jpg", "up.jpg", "a.jpg"):
        (tmp_path / name).write_bytes(b"outside")
    return str(tmp_path)


@pytest.fixture
def store(disk: str) -> Iterator[fsspec.AbstractFileSystem]:
    """The same in the bucket `memory://bucket`."""
    memory = fsspec.filesystem("memory")
    memory.put(f"{disk}/", "/bucket/", recursive=True)
    yield memory
    memory.rm("/bucket", recursive=True)


@pytest.fixture(params=["disk", "store"])
def base(request: pytest.FixtureRequest) -> str:
    """Both."""
    found = request.getfixturevalue(request.param)
    return found if isinstance(found, str) else "memory://bucket"


def absent(images: ImageFiles, *names: str) -> bool:
    for name in names:
        for act in (images.read, images.size):
            with pytest.raises(FileNotFoundError):
                act(name)
    return True


PLACES = pytest.mark.parametrize("place", ["folder", "folder/", "images.zip", "images.tar"])


@PLACES
def test_images_are_read_by_name_and_nothing_outside_them(base: str, place: str) -> None:
    images = opened(f"{base}/{place}")
    assert {name: images.read(name) for name in FILES} == FILES
    assert {name: images.size(name) for name in FILES} == {name: len(content) for name, content in FILES.items()}
    assert absent(images, *NOT_FOUND)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images.read, [*FILES] * 8)) == [*FILES.values()] * 8
    assert images.read("./a.jpg") == b"A"
    # Only archives find a member by its last parts.
    for name, content in {"c è [1].jpg": b"C", "other/val/b.jpg": b"other"}.items():
        assert images.read(name) == content if "." in place else absent(images, name)
    assert absent(images, "b.jpg", "test/b.jpg", "elsewhere/c è [1].jpg")
    images.close()


def test_what_is_missing_or_of_another_format_is_refused(base: str, tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04 cut", bytes(10_240), b"\xff\xd8\xff", gzip.compress(bytes(10_240))):
        (tmp_path / "images.tar").write_bytes(content)
        with pytest.raises(InputError, match=r"a tar or a complete zip .*: decompress a compressed tar"):
            opened(f"{tmp_path}/images.tar")
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(InputError, match="cannot be opened"):
        opened(tmp_path / "pipe.zip")
    chains = f"simplecache::{base}/folder", f"{base}/a.jpg::http://127.0.0.1/"
    for name in (f"{base}/none*", f"{base}/none", *chains):
        with pytest.raises(InputError, match=r"images names .*, which does not exist"):
            opened(name)
    for url in ("http://h/i.zip", "HTTPS://h/i", "ssh://h/i", "zip://a::s3://b/c", "hf://x"):
        with pytest.raises(SettingsError, match=r"neither a path nor an s3:// or gs:// URL"):
            opened(url)


def test_links_of_a_folder_are_followed_to_regular_files_only(disk: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0af3").write_bytes(b"blob")
    (folder / "linked.jpg").symlink_to("../blobs/0af3")
    (folder / "blobs").symlink_to(tmp_path / "blobs")
    os.mkfifo(folder / "pipe.jpg")
    for name, target in {"device.jpg": "/dev/zero", "dangling.jpg": "none", "loop.jpg": "loop.jpg"}.items():
        (folder / name).symlink_to(target)
    images = opened(folder)
    assert (images.read("linked.jpg"), images.read("blobs/0af3"), images.size("linked.jpg")) == (b"blob", b"blob", 4)
    assert absent(images, "pipe.jpg", "device.jpg", "dangling.jpg", "loop.jpg")


def test_a_glob_of_several_places_finds_what_one_of_them_has(disk: str, tmp_path: Path) -> None:
    zipped(tmp_path / "images-2.zip", {"zipped.jpg": b"Z", "both.jpg": b"1"})
    tarred(tmp_path / "images-3.tar", {"tarred.jpg": b"T", "deep/both.jpg": b"2"})
    (tmp_path / "images-4.zip").symlink_to("images-2.zip")  # matches twice, and is opened once
    (tmp_path / "images-5").mkdir()
    (tmp_path / "images-5" / "plain.jpg").write_bytes(b"P")
    images = opened(f"{disk}/images-?*")
    assert [images.read(name) for name in ("plain.jpg", "zipped.jpg", "tarred.jpg")] == [b"P", b"Z", b"T"]
    assert images.size("zipped.jpg") == 1
    for name, where in {"none.jpg": "in none of 3", "both.jpg": "in 2 of 3"}.items():
        with pytest.raises(FileNotFoundError, match=where):
            images.read(name)
    images.close()
    (tmp_path / "images-6.zip").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"images-6\.zip, which is not a folder, a tar or a complete zip"):
        opened(f"{disk}/images-?*")
    (tmp_path / "images-6.zip").unlink()
    (tmp_path / "images-6.zip").symlink_to("unmounted/images-6.zip")
    with pytest.raises(InputError, match=r"images-6\.zip, which cannot be opened"):
        opened(f"{tmp_path}/images-?*")


@pytest.mark.parametrize(("url", "client"), [("s3://b/i", "s3fs"), ("gcs://b/i", "gcsfs")])
def test_a_missing_extra_is_named(url: str, client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, client, None)
    with pytest.raises(InputError, match=rf"needs an extra of vernaclip: run `pip install '{client}>=2024.6'`"):
        opened(url)


@PLACES
def test_a_failing_store_is_a_transient_error(
    store: fsspec.AbstractFileSystem, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = opened(f"memory://bucket/{place}")

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.readinto", fail)
    with pytest.raises(TransientError, match=r"cannot be read now \(no route\): check the store"):
        images.read("train/b.jpg")
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.info", fail)
    with pytest.raises(TransientError, match=r"cannot be read now \(no route\): check the store"):
        opened(f"memory://bucket/{place}")


def test_the_digest_of_a_location_changes_with_names_and_content(
    store: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    def hashed(place: str) -> str:
        return location_digest(f"memory://bucket/{place}", tmp_path, FileHashes(tmp_path / "hashes.json"))

    before = {place: hashed(place) for place in ("folder", "images.zip", "images.*")}
    store.copy("/bucket/folder", "/bucket/copy", recursive=True)
    assert hashed("copy") == hashed("folder") == before["folder"]
    store.pipe("/bucket/images.zip", store.cat("/bucket/images.zip") + b"x")
    store.pipe("/bucket/folder/val/b.jpg", b"longer")
    assert len({*before.values(), *(hashed(place) for place in before)}) == 6
    changed = hashed("folder")
    store.mv("/bucket/folder/a.jpg", "/bucket/folder/d.jpg")
    assert hashed("folder") != changed


LONG = f"{'folder/' * 40}{'n' * 120}.jpg"


@pytest.mark.parametrize(
    ("old", "new", "size"),
    [
        (b"B" * 100, b"X" * 100, 70_000),  # another content
        *(((70_000).to_bytes(4, "little"), size.to_bytes(4, "little"), size) for size in (10, 2**31)),  # a false size
    ],
)
def test_a_damaged_member_of_a_zip_is_an_os_error(tmp_path: Path, old: bytes, new: bytes, size: int) -> None:
    path = zipped(tmp_path / "images.zip", {"a.jpg": b"A", "train/b.jpg": b"B" * 70_000}, zipfile.ZIP_STORED)
    images = opened(replaced(path, old, new))
    assert images.size("train/b.jpg") == size
    with pytest.raises(OSError, match=r"train/b\.jpg' (cannot be read|has .* more than any image)"):
        images.read("train/b.jpg")
    assert images.read("a.jpg") == b"A"
    images.close()


def test_a_zip_bomb_with_a_small_stated_size_is_not_unpacked(tmp_path: Path) -> None:
    """Megabytes that claim to be ten bytes, whose checksum even fits: read by a process that has no room for them."""
    claimed, squeezed = b"x" * 10, zlib.compressobj(1, wbits=-15)
    pieces = [squeezed.compress(claimed), *(squeezed.compress(bytes(2**20)) for _ in range(512)), squeezed.flush()]
    body = b"".join(pieces)
    path = zipped(tmp_path / "images.zip", {"a.jpg": body}, zipfile.ZIP_STORED)
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
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"10 {claimed!r}\n"


def test_what_is_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    size = 2**43
    (tmp_path / "folder").mkdir()
    with (tmp_path / "folder" / "a.jpg").open("wb") as file:
        file.truncate(2**33)  # a hole: it takes no room on the disk
    with zipfile.ZipFile(zipped(tmp_path / "images.zip", {"b.jpg": b"B"}), "a") as archive:
        archive.writestr("a.jpg", bytes(99))
        archive.filelist[-1].file_size = size
    info = member("a.jpg")
    info.size = 2**33
    with (tmp_path / "images.tar").open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek(info.size, os.SEEK_CUR)
        file.write(bytes(1024))
    for place in ("folder", "images.zip", "images.tar"):
        images = opened(tmp_path / place)
        assert images.size("a.jpg") in (2**33, size)
        with pytest.raises(OSError, match=r"'a\.jpg' has .* bytes, more than any image"):
            images.read("a.jpg")
        images.close()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_bound_are_refused_and_so_is_what_is_encrypted(tmp_path: Path, method: int) -> None:
    path = zipped(tmp_path / "images.zip", {"a.jpg": b"A"}, method)
    with pytest.raises(InputError, match="not compressed with deflate"):
        opened(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as file:
        file.writestr("b.jpg", b"B")
    images = opened(path)
    assert images.read("b.jpg") == b"B"
    assert absent(images, "a.jpg")
    images.close()
    path = zipped(tmp_path / "encrypted.zip", {"a.jpg": b"A"}, zipfile.ZIP_STORED)
    for version in (b"PK\3\4\x14\0", b"PK\1\2\x14\3\x14\0"):
        replaced(path, version + b"\0\0", version + b"\1\0")
    with pytest.raises(InputError, match="encrypted"):
        opened(path)


@pytest.mark.parametrize("dialect", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_have_long_names_in_every_script(tmp_path: Path, dialect: int) -> None:
    files = {LONG: b"long", "čaj 茶.jpg": b"tea", "0/a.jpg": b"A" * 70_000}
    path = tarred(tmp_path / "images.tar", files, dialect)
    with tarfile.open(path, "a", encoding="latin-1", format=tarfile.GNU_FORMAT) as file:
        file.addfile(member("è.jpg", b"latin"), io.BytesIO(b"latin"))
    images = opened(path)
    assert {name: images.read(name) for name in files} == files
    assert images.read(f"{'n' * 120}.jpg") == b"long"
    assert absent(images, "è.jpg")


@pytest.mark.parametrize("dialect", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_read_as_the_standard_library_reads_it(tmp_path: Path, dialect: int) -> None:
    rng, path = random.Random(dialect), tmp_path / "t.tar"
    names = [f"{'d' * rng.choice((1, 90, 120))}/{number}.jpg" for number in range(200)]
    members = [(member(name, content), content) for name in names if (content := rng.randbytes(rng.randrange(1500)))]
    with tarfile.open(path, "w", format=dialect, pax_headers={"comment": "global"} if dialect == 2 else None) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    with tarfile.open(path) as tar:
        wanted = {info.name: tar.extractfile(info).read() for info in tar if info.isreg()}
    images = open_images(str(path))
    assert len(wanted) == len(members)
    assert {name: images.read(name) for name in wanted} == wanted
    data = bytearray(path.read_bytes())
    for at in (0, 148, 124, 156):  # damage of one header ends the reading, whatever parses it
        data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises(InputError):
            open_images(str(path))
        data[at] ^= 1


def test_symbolic_links_lead_to_files_of_the_tar_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    links = {"d/symbolic.jpg": "../a.jpg", "d/twice.jpg": "symbolic.jpg", "later.jpg": "b.jpg", "self.jpg": "self.jpg"}
    links |= {"up.jpg": "../secret.jpg", "empty.jpg": "", "absolute.jpg": f"{tmp_path}/secret.jpg"}
    kinds = {"pipe.jpg": tarfile.FIFOTYPE, "device.jpg": tarfile.CHRTYPE, "folder.jpg": tarfile.DIRTYPE}
    members = [(member("a.jpg", b"A"), b"A")]
    members += [(member(name, kind=tarfile.SYMTYPE, link=link), b"") for name, link in links.items()]
    members += [(member(name, kind=kind), b"") for name, kind in kinds.items()]
    images = opened(packed(tmp_path / "images.tar", [*members, (member("b.jpg", b"B"), b"B")]))
    assert [images.read(name) for name in ("a.jpg", "d/symbolic.jpg", "later.jpg")] == [b"A", b"A", b"B"]
    assert absent(images, "d/twice.jpg", "self.jpg", "absolute.jpg", "up.jpg", "empty.jpg", *kinds, "secret.jpg")


def test_the_last_member_of_a_name_in_an_archive_counts(tmp_path: Path) -> None:
    path = zipped(tmp_path / "images.zip", {"d/a.jpg": b"old"})
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("d/a.jpg", b"new")
    images = opened(path)
    assert images.read("d/a.jpg") == images.read("a.jpg") == b"new"
    images.close()
    members = [(member(name, content), content) for name, content in (("d/a.jpg", b"old"), ("b.jpg", b"B"))]
    members += [
        (member("./d/a.jpg", b"newest"), b"newest"),
        (member("b.jpg", kind=tarfile.DIRTYPE), b""),
        (member("link.jpg", kind=tarfile.SYMTYPE, link="d/a.jpg"), b""),
        (member("link.jpg", b"file"), b"file"),
    ]
    images = opened(packed(tmp_path / "images.tar", members))
    assert images.read("d/a.jpg") == images.read("a.jpg") == b"newest"
    assert images.read("link.jpg") == b"file"
    assert absent(images, "b.jpg")


def test_no_other_member_is_taken_for_a_hard_link_or_a_file_with_holes(tmp_path: Path) -> None:
    holes = member("holes.jpg", b"H")
    values = {"name": "holes.jpg", "size": "9000", "map": "0,1,9000,0"}
    holes.pax_headers = {f"GNU.sparse.{name}": value for name, value in values.items()}
    members = [(member(f"d/{name}", b"D"), b"D") for name in ("holes.jpg", "hard.jpg")]
    members += [(holes, b"H"), (member("hard.jpg", kind=tarfile.LNKTYPE, link="d/hard.jpg"), b"")]
    images = opened(packed(tmp_path / "images.tar", members, tarfile.PAX_FORMAT))
    assert absent(images, "holes.jpg", "hard.jpg")
    assert images.read("d/holes.jpg") == images.read("d/hard.jpg") == b"D"


def test_a_truncated_or_damaged_tar_is_an_input_error(tmp_path: Path) -> None:
    path = tarred(tmp_path / "images.tar", {LONG: b"long", "a.jpg": b"A" * 700, "b.jpg": b"B" * 512})
    content = path.read_bytes()
    end = len(content.rstrip(b"\0"))
    # A multiple of a block that lies between two members is the hardest to notice.
    for cut in sorted({*range(1, end, 397), *range(512, end, 512), end}):
        path.write_bytes(content[:cut])
        with pytest.raises(InputError, match="not a folder, a tar or a complete zip"):
            opened(path)
    path.write_bytes(content)
    assert opened(path).read("a.jpg") == b"A" * 700
    with pytest.raises(InputError, match="no header and no end at byte"):
        opened(replaced(path, b"b.jpg", b"x.jpg"))  # a damaged header hides no member behind it
    for size in (-512, 2**40, 2**80):
        info = member("big.jpg")
        info.size = size
        path.write_bytes(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict") + content)
        with pytest.raises(InputError, match="not a folder, a tar or a complete zip"):
            opened(path)


def test_a_tar_that_changes_after_it_was_opened_is_an_os_error(tmp_path: Path) -> None:
    path = tarred(tmp_path / "images.tar", {"a.jpg": b"A"})
    images = opened(path)
    tarred(path, {"0.jpg": b"0" * 600, "a.jpg": b"new"})
    with pytest.raises(OSError, match="has changed since it was opened"):
        images.read("a.jpg")
    assert opened(path).read("a.jpg") == b"new"
    path.unlink()
    with pytest.raises(FileNotFoundError):
        images.read("a.jpg")


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_damage_anywhere_is_one_of_two_errors(tmp_path: Path, pack: Callable[..., Path]) -> None:
    files = {name: name.encode() * 60 for name in ("d/a.jpg", "č.jpg", LONG, "b.jpg")}
    content, draw = pack(tmp_path / "whole", files).read_bytes(), random.Random(5)
    outcomes = set()
    for _ in range(100):
        damaged = bytearray(content[: draw.choice([len(content), draw.randrange(1, len(content))])])
        for _ in range(draw.randrange(1, 5)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            images = opened(tmp_path / "damaged")
        except InputError:
            outcomes.add("InputError")
            continue
        try:
            outcomes.add("whole" if {name: images.read(name) for name in files} == files else "other")
        except OSError as error:
            outcomes.add(type(error).__name__)
        finally:
            images.close()
    # Other bytes: a tar has no checksum of its members.
    assert {"InputError", "whole"} <= outcomes <= {"InputError", "FileNotFoundError", "OSError", "whole", "other"}


def test_a_relative_path_or_a_file_url_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here [x]"
    for name in ("images:1", "file:a"):
        (here / name).mkdir(parents=True)
        (here / name / "a.jpg").write_bytes(b"A")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(here)
    (tmp_path / "plain").symlink_to(here)
    urls = [f"file://{tmp_path}/plain/{name}" for name in ("file:a", "f*")]
    for location in ("images:1", "./images:1", "im*:1", "~/here [x]/images:1", "~/here*/im*", "file:a", *urls):
        assert opened(location).read("a.jpg") == b"A", location
