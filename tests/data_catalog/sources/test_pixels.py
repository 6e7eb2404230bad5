"""Files that hold their images: what is hostile costs a row or is refused in a sentence; the rest is read whole."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.base.errors import InputError
from data_catalog.rows.identities import canonical_identities
from data_catalog.sources import row_files
from data_catalog.sources.files import MAX_LINE_BYTES
from data_catalog.sources.hashes import FileHashes, images_digest
from data_catalog.sources.image_files import open_images
from data_catalog.sources.ingest import Source, ingest
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.sources.row_files import UnreadableRowsError
from data_catalog.sources.rows import MalformedRow, RowLimit, SourceRow, UpstreamRow
from data_catalog.sources.tables import read_rows
from data_catalog.sources.test_sets import TEST_SET_KINDS

Members = Sequence[tuple[str | tarfile.TarInfo, bytes]]


def tarred(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def sample(key: str, image: bytes, **record: object) -> Members:
    """A sample as img2dataset writes it."""
    text = json.dumps(record, indent=4).encode()
    return [(f"{key}.jpg", image), (f"{key}.txt", str(record.get("caption", "")).encode()), (f"{key}.json", text)]


def linked(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def read(kind: str, *files: Path | str, **settings: Any) -> list[SourceRow]:
    """Check and read a source as a build does."""
    source = SOURCE_KINDS[kind]
    config = source.config_type(files=tuple(map(str, files)), **{"lang": "en", **settings})
    source.check(config)
    return list(source.read(config))


def good(rows: Sequence[SourceRow]) -> list[UpstreamRow]:
    return [row for row in rows if isinstance(row, UpstreamRow)]


def reasons(rows: Sequence[SourceRow]) -> list[tuple[str, str]]:
    return [(row.reason, row.detail) for row in rows if isinstance(row, MalformedRow)]


def images_of(folder: Path, rows: Sequence[SourceRow]) -> list[bytes]:
    images = open_images(str(folder))
    found = [images.read(row.path or "") for row in good(rows)]
    images.close()
    return found


BEST = {"url": "https://a.example/1.jpg", "caption": "a dog", "status": "success", "error_message": None}


def test_hostile_members_cost_a_row_each(tmp_path: Path) -> None:
    failed = {"url": "https://a.example/2.jpg", "caption": "x", "status": "failed", "error_message": "HTTP Error 404"}
    cases: dict[str, tuple[Members, tuple[str, str]]] = {
        "outside": ([("../out.jpg", b"1")], ("malformed_row", "leads outside")),
        "absolute": ([("/etc/out.jpg", b"1")], ("malformed_row", "leads outside")),
        "no suffix": ([("README", b"1")], ("malformed_row", "not named KEY.SUFFIX")),
        "no image": ([("a.txt", b"1"), ("a.json", b"{}")], ("image_missing", "no image beside it")),
        "failed": ([("b.json", json.dumps(failed).encode())], ("image_missing", "(failed: HTTP Error 404)")),
        "no sample": ([("c.jpg", b"1")], ("caption_missing", "no caption")),
        "two captions": ([("d.jpg", b"1"), ("d.txt", b"x"), ("d.txt", b"y")], ("malformed_row", "2 members .txt")),
        "two images": ([("e.jpg", b"1"), ("e.png", b"2"), ("e.txt", b"x")], ("malformed_row", "2 images: jpg, png")),
        "one image twice": ([("f.jpg", b"1"), ("f.jpg", b"2"), ("f.txt", b"x")], ("malformed_row", "2 members .jpg")),
        "link": ([(linked("g.jpg", "../secret.jpg"), b""), ("g.txt", b"x")], ("malformed_row", ".jpg is a link")),
        "device": ([(linked("h.jpg", "", tarfile.CHRTYPE), b""), ("h.txt", b"x")], ("malformed_row", "no regular")),
        "bomb": ([("i.jpg", b"1"), ("i.json", b" " * (MAX_LINE_BYTES + 1))], ("malformed_row", "more than")),
        "nested": ([("j.jpg", b"1"), ("j.json", b"[" * 10**6)], ("malformed_row", "nests too deeply")),
        "no object": ([("k.jpg", b"1"), ("k.json", b"[1]")], ("malformed_row", "a list instead of an object")),
        "no UTF-8": ([("l.jpg", b"1"), ("l.txt", b"\xff")], ("bad_encoding", "not UTF-8")),
        "no text": ([("m.jpg", b"1"), ("m.json", b'{"caption": {"a": 1}}')], ("malformed_row", "instead of a text")),
        "came before": ([("ok.jpg", b"3"), ("ok.txt", b"x")], ("malformed_row", "the key came before")),
        "odd name": ([("\udcff.jpg", b"1"), ("\udcff.txt", b"x")], ("bad_encoding", "")),
    }
    path = tmp_path / "a.tar"
    hidden: Members = [("._ok.jpg", b"mac"), ("folder/.hidden.txt", b"x"), (linked("folder", "", tarfile.DIRTYPE), b"")]
    members = [*sample("first", b"1", **BEST), *sample("ok", b"2", **BEST), *hidden]
    tarred(path, [*members, *(member for found, _ in cases.values() for member in found)])
    rows = read("webdataset", path)
    assert [row.path for row in good(rows)] == ["a.tar/first.jpg", "a.tar/ok.jpg"]
    for found, (name, (_, wanted)) in zip(reasons(rows), cases.items(), strict=True):
        assert found[0] == wanted[0], name
        assert wanted[1] in found[1], name
    images = open_images(str(tmp_path))
    assert images.read("a.tar/first.jpg") == b"1"
    with pytest.raises(FileNotFoundError):  # never the bytes of another sample with this name
        images.read("a.tar/ok.jpg")
    for name in ("a.tar/../a.tar/first.jpg", "a.tar/out.jpg", "a.tar/g.jpg", "b.tar/first.jpg", "a.tar/first.jpg/x"):
        with pytest.raises(FileNotFoundError):
            images.read(name)


def test_damaged_files_are_refused_before_the_build(tmp_path: Path) -> None:
    whole = tarred(tmp_path / "a.tar", [each for n in range(9) for each in sample(f"{n}", bytes([n]) * 9000, **BEST)])
    content = whole.read_bytes()
    for cut in (content[:70_000], content[:512], b"", gzip.compress(content), b"no tar" * 1000):
        whole.write_bytes(cut)
        with pytest.raises(InputError, match=r"a\.tar is not a complete tar .*: decompress a compressed tar, and down"):
            read("webdataset", whole)
    second = 512 + 9216 + 2 * 1024  # the header of the second sample
    whole.write_bytes(content[:second] + b"?" * 512 + content[second + 512 :])
    with pytest.raises(InputError, match=r"a\.tar cannot be read \(no header and no end at byte 11776\)"):
        read("webdataset", whole)
    table = tmp_path / "a.parquet"
    for column in (pa.array(["no image"]), pa.array([{"path": "a.jpg"}]), pa.array([1])):
        pq.write_table(pa.table({"image": column, "text": ["a dog"]}), table)
        with pytest.raises(InputError, match=r"a\.parquet needs exactly one image column named image: its"):
            read("huggingface", table, caption_column="text")
    pq.write_table(pa.table({"image": [b"1"], "text": [1]}), table)
    with pytest.raises(InputError, match="needs exactly one text column named text"):
        read("huggingface", table, caption_column="text")
    table.write_bytes(table.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"a\.parquet cannot be read"):
        read("huggingface", table, caption_column="text")


def test_shards_of_img2dataset_need_no_setting(tmp_path: Path) -> None:
    for number, shard in enumerate(("00000", "00001")):
        found = {"url": f"https://a.example/{number}.jpg", "caption": f"caption {number}", "status": "success"}
        tarred(tmp_path / f"{shard}.tar", sample("000000000", b"%d" % number, **found))
    first, second = rows = good(read("webdataset", tmp_path))
    assert (first.url, first.caption, first.path) == ("https://a.example/0.jpg", "caption 0", "00000.tar/000000000.jpg")
    assert first.sample_key != second.sample_key, "a key is one of its shard"
    assert images_of(tmp_path, rows) == [b"0", b"1"]
    # Numbers in a shard are no numbers of COCO, which have as many digits.
    for path, known in {
        "a.tar/000000391895.jpg": set(),
        "a.tar/COCO_val2014_000000391895.jpg": {"coco:391895"},
    }.items():
        found = canonical_identities(source_kind="webdataset", sample_id="", url=None, path=path, page_url=None)
        assert found == known


def test_settings_name_what_the_json_has(tmp_path: Path) -> None:
    record = {
        "texts": ["ein Hund", "ein Tier"],
        "l": "de",
        "by": "Ada",
        "rights": "CC BY 4.0",
        "part": "Validation",
        "page": "https://a.example/page",
        "url": "no URL",
        "caption": "a dog",
    }
    path = tarred(tmp_path / "train" / "a.tar", sample("x/1", b"1", **record))
    names = {"license_key": "rights", "attribution_key": "by", "page_key": "page", "lang_key": "l"}
    rows = good(read("webdataset", path, caption_key="texts", split_key="part", **names))
    assert [row.caption for row in rows] == ["ein Hund", "ein Tier"]
    assert len({row.sample_key for row in rows}) == 1
    assert [row.caption_key for row in rows] == sorted(row.caption_key or "" for row in rows), "in the list's order"
    facts = [rows[0].lang, rows[0].license, rows[0].attribution, rows[0].page_url, rows[0].split, rows[0].url]
    assert facts == ["de", "CC BY 4.0", "Ada", "https://a.example/page", "val", None]
    with pytest.raises(InputError, match="not an http or https URL: no URL"):
        read("webdataset", path, url_key="url")


NUM_ROWS = 100


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A folder of the hub's layout, with an Arrow stream and an Arrow file beside it, each with `NUM_ROWS` rows."""
    folder = tmp_path / "photos"
    names = (
        "data/train-00000-of-00001.parquet",
        "data/validation-00000-of-00001.parquet",
        "test/data-0.arrow",
        "b.arrow",
    )
    for number, name in enumerate(names):
        images = [{"bytes": b"%d:%d" % (number, row), "path": "/etc/passwd"} for row in range(1, NUM_ROWS + 1)]
        images[4]["bytes"] = None  # type: ignore[assignment]
        captions = [[f"{name} {row}", "again"] for row in range(NUM_ROWS)]
        table = pa.table({"image": pa.array(images), "captions": captions, "rights": ["CC0"] * NUM_ROWS})
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pq.write_table(table, folder / name, row_group_size=30)
            continue
        kind = pa.ipc.new_stream if "test" in name else pa.ipc.new_file
        with pa.OSFile(str(folder / name), "wb") as file, kind(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=40)
    for name in ("dataset_info.json", "test/cache-0.arrow", ".git/x.parquet"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not read")
    return folder


def test_tables_are_read_as_the_hub_and_datasets_lay_them_out(tables: Path) -> None:
    rows = good(read("huggingface", tables, caption_column="captions", license_column="rights"))
    assert len(rows) == 4 * 2 * NUM_ROWS
    by_file = {(row.path or "").rpartition("/")[0]: row for row in rows}
    assert {path: row.split for path, row in by_file.items()} == {
        "data/train-00000-of-00001.parquet/image": "train",
        "data/validation-00000-of-00001.parquet/image": "val",
        "test/data-0.arrow/image": "test",
        "b.arrow/image": None,
    }
    assert {row.license for row in rows} == {"CC0"}
    images, orders = open_images(str(tables)), [rows, rows[::-1], Random(1).sample(rows, 40)]
    for row in (row for order in orders for row in order):
        number = ("train" in (row.path or "") and "0") or str(["val", "test", None].index(row.split) + 1)
        if row.upstream_line == 5:  # no bytes, and never those of the path
            with pytest.raises(FileNotFoundError):
                images.read(row.path or "")
        else:
            assert images.read(row.path or "") == f"{number}:{row.upstream_line}".encode()
    images.close()
    for name in ("image/0", "image/101", "image/9999999999999999999", "image/-1", "image/x", "rights/1"):
        with pytest.raises(FileNotFoundError):
            open_images(str(tables)).read(f"b.arrow/{name}")
    for name in ("none/1", "1"):
        with pytest.raises(UnreadableRowsError, match=r'Field ".*" does not exist'):
            open_images(str(tables)).read(f"b.arrow/{name}")


def test_offsets_of_a_hostile_arrow_file_lead_nowhere(tables: Path) -> None:
    content = (tables / "b.arrow").read_bytes()
    offsets = pa.array([f"b.arrow {row}" for row in range(2)]).buffers()[1]
    assert offsets is not None
    place = content.index(b"b.arrow 0")
    start = content.rindex(offsets.to_pybytes()[:4] + b"\x09\0\0\0", 0, place)
    (tables / "b.arrow").write_bytes(content[: start + 4] + b"\xff\xff\xff\x7f" + content[start + 8 :])
    with pytest.raises(InputError, match=r"b\.arrow cannot be read"):
        read("huggingface", tables / "b.arrow", caption_column="captions")


def zeros(size: int, kind: pa.DataType) -> pa.Array:
    """A row of zeros, which take no memory before they are written."""
    buffers = [None, pa.py_buffer(np.array([0, size], np.int64)), pa.py_buffer(np.zeros(size, np.uint8))]
    return pa.Array.from_buffers(kind, 1, buffers)


def repeated(value: bytes | str, times: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(times, np.int32)), pa.array([value]))


def test_what_a_few_kilobytes_unpack_to_is_bounded(tmp_path: Path) -> None:
    """A text of 40 MiB, 300 times, and a batch of 1 GiB end with a sentence; images of 40 MiB cost their row group."""
    path, text, refused = tmp_path / "a.parquet", "\0" * (40 * 2**20), r"\(its rows take more than .* bytes of memory\)"
    codes = repeated(text, 300)
    for texts, keeps_codes in ((codes, False), (pa.ListArray.from_arrays(pa.array([*range(301)]), codes), True)):
        table = pa.table({"image": [b"1"] * 300, "text": texts})
        pq.write_table(table, path, compression="zstd", store_schema=keeps_codes)
        with pytest.raises(InputError, match=rf"a\.parquet cannot be read {refused}"):
            read("huggingface", path, caption_column="text")
    table = pa.table({"image": zeros(2**30, pa.large_binary()), "text": ["a dog"]})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema, options=options) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match=rf"a\.arrow cannot be read {refused}"):
        read("huggingface", tmp_path / "a.arrow", caption_column="text")
    texts = ["a dog", "x" * (MAX_LINE_BYTES + 1), "a cat"]
    small = pa.table({"image": pa.array([b"1", b"2", b"3"]).dictionary_encode(), "text": texts})
    bomb = pa.table({"image": repeated(text.encode(), 300), "text": ["a kite"] * 300})
    with pq.ParquetWriter(path, small.schema, compression="zstd", store_schema=False) as parquet:
        for group in (small, bomb, small):
            parquet.write_table(group)
    rows = read("huggingface", path, caption_column="text")
    assert reasons(rows) == [("malformed_row", f"the row has more than {MAX_LINE_BYTES} bytes")] * 2
    images, found = open_images(str(tmp_path)), []
    for row in good(rows):
        with suppress(UnreadableRowsError):
            found.append(images.read(row.path or ""))
    images.close()
    assert found == [b"1", b"3"] * 2, "those of the row groups before and behind"


def test_a_process_that_dies_ends_no_table_early(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"{n}" * 5000 for n in range(2000)]}), path)
    entries = read_rows(path, ["text"])
    next(entries)
    row_files._zygote().kill()
    with pytest.raises(InputError, match="the process that reads it has died"):
        list(entries)
    assert len(list(read_rows(path, ["text"]))) == 2000


def test_a_changed_image_inside_a_file_of_a_folder_changes_its_digest(tmp_path: Path) -> None:
    """Also that of a test set; a table of captions is none of images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    names = ["a.parquet/image/1", "a.tar/1.jpg"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"image": name}) + "\n" for name in names), "utf-8")
    kind = TEST_SET_KINDS["pairs"]
    config = kind.config_type(files=(str(tmp_path / "a.jsonl"),), path_column="image", images=str(folder))

    def digests(image: bytes, member: bytes, caption: str) -> tuple[str, str | None]:
        pq.write_table(pa.table({"image": [{"bytes": image, "path": None}]}), folder / "a.parquet")
        pq.write_table(pa.table({"caption": [caption]}), folder / "captions.parquet")
        tarred(folder / "a.tar", [("1.jpg", member)])
        hashes = FileHashes(tmp_path / "hashes.json")
        return hashes.folder_digest(folder), images_digest(kind, config, hashes)

    first, *others = (
        digests(*each) for each in ((b"1", b"2", "x"), (b"1", b"2", "y"), (b"0", b"2", "x"), (b"1", b"0", "x"))
    )
    assert others[0] == first
    assert all(now != before for other in others[1:] for now, before in zip(other, first, strict=True))


@pytest.mark.slower
def test_libraries_files_are_read(tmp_path: Path) -> None:
    datasets, webdataset = pytest.importorskip("datasets"), pytest.importorskip("webdataset")
    from PIL import Image

    pictures = []
    for number in range(3):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = [{"image": {"bytes": raw, "path": None}, "text": f"caption {n}"} for n, raw in enumerate(pictures)]
    saved = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(str(tmp_path / "saved"))
    saved.to_parquet(str(tmp_path / "hub" / "val-00000.parquet"))
    with webdataset.TarWriter(str(tmp_path / "one.tar")) as writer:
        for number, raw in enumerate(pictures):
            writer.write({"__key__": f"a/{number}", "png": raw, "txt": f"caption {number}", "cls": number})
    for kind, name, splits in (
        ("huggingface", "saved", {"train", "test"}),
        ("huggingface", "hub", {"val"}),
        ("webdataset", "one.tar", {None}),
    ):
        settings = {"caption_column": "text"} if kind == "huggingface" else {}
        found = good(read(kind, tmp_path / name, **settings))
        assert {row.split for row in found} == splits
        assert images_of(tmp_path / name if (tmp_path / name).is_dir() else tmp_path, found) == pictures * len(splits)
        assert [row.caption for row in found] == [f"caption {number}" for number in range(3)] * len(splits)


def test_a_shard_of_a_build_reads_a_run_of_its_files(tmp_path: Path) -> None:
    def source(limit: int) -> Source:
        def rows() -> Iterator[SourceRow]:
            return SOURCE_KINDS["webdataset"].read(config)

        config = SOURCE_KINDS["webdataset"].config_type(files=(str(tmp_path / "*.tar"),), lang="en")
        files = sorted(tmp_path.glob("*.tar"))
        drawn = RowLimit(limit=limit)
        return Source(name="a", files=files, file_entries=[], settings={}, read=rows, limit=drawn, in_order=True)

    for shard in range(3):
        members = [
            each for n in Random(shard).sample(range(100), 40) for each in sample(f"{n}", b"1", caption=f"c {n}")
        ]
        tarred(tmp_path / f"{shard}.tar", [("odd", b""), *members])
    for limit, num_samples in ((0, 123), (50, 50)):
        (tmp_path / f"work{limit}").mkdir()
        facts = ingest(tmp_path / f"work{limit}", [source(limit)], target_lang="en", shard_size=25)
        shards = [pq.read_table(path) for path in sorted((tmp_path / f"work{limit}").glob("*.parquet"))]
        assert facts["num_shards"] == len(shards) == -(-num_samples // 25)
        assert {len(shard) for shard in shards} <= {num_samples // len(shards), num_samples // len(shards) + 1}
        places = [(row["upstream_file"], row["upstream_line"]) for shard in shards for row in shard.to_pylist()]
        assert places == sorted(places)


def test_a_test_set_may_hold_its_pixels(tmp_path: Path, tables: Path) -> None:
    url = "https://a.example/1.jpg"
    tarred(tmp_path / "held" / "test-0.tar", [*sample("1", b"1", url=url, caption="a dog"), ("../x.jpg", b"")])
    kinds = {"webdataset": tmp_path / "held", "huggingface": tables / "b.arrow"}
    settings: Mapping[str, Any] = {"webdataset": {}, "huggingface": {"caption_column": "captions"}}
    hashes, digests = FileHashes(tmp_path / "hashes.json"), []
    for name, place in kinds.items():
        kind = TEST_SET_KINDS[name]
        config = kind.config_type(files=(str(place),), **settings[name])
        kind.check(config)
        found = kind.load(config)
        assert open_images(config.images).read(found.images[0].name)
        digests.append(images_digest(kind, config, hashes))
        if name == "webdataset":
            assert found.images[0].captions == ("a dog",)
            assert found.images[0].identities == {"url:a.example/1.jpg"}
            assert [row.reason for row in found.malformed] == ["malformed_row"]
            (tmp_path / "held" / "beside.jpg").write_bytes(b"not of the set")
            assert images_digest(kind, config, hashes) == digests[0]
        else:
            assert len(found.images) == NUM_ROWS
            assert found.images[0].captions == ("b.arrow 0", "again")
    assert None not in digests
