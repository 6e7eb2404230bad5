"""Children that are killed, hang or run out of memory: every row still comes out, once and in order."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_catalog.errors import DefectError, DiskError, SettingsError
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.images.workers import ImageWorkers, end_process_workers
from data_catalog.schema import RAW_IMAGES

Rows = list[dict[str, Any]]
MakeRequests = Callable[..., pa.Table]

SMALL = NormaliseConfig(image_size=32)


def children(kind: str, of: int | None = None) -> list[int]:
    """Process ids of the children of that kind that a process, by default this one, has."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if parent == (of or os.getpid()) and b"data_catalog.images.children" in command and kind.encode() in command:
            found.append(int(folder.name))
    return found


def send(signal_number: int, kind: str) -> None:
    for pid in children(kind):
        os.kill(pid, signal_number)


def raw_file(bodies: list[bytes | None], out: Path) -> Path:
    """A file as `ImageWorkers.fetch` writes it; None stands for a row that was not fetched."""
    rows = [
        {"sample_id": f"raw:{index}", "drop_reason": None if body else "dns", "sha256": "0" * 64, "bytes": body}
        for index, body in enumerate(bodies)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=RAW_IMAGES), out)
    return out


@pytest.fixture
def own_workers() -> Iterator[ImageWorkers]:
    """Workers that have no child yet."""
    with ImageWorkers() as image_workers:
        yield image_workers


@pytest.fixture
def gallery(server: Any, pictures: dict[str, bytes]) -> list[str]:
    """URLs of twelve good images."""
    server.files.update({f"/gallery/{index}": pictures["plain.jpg"] for index in range(12)})
    return [server.url(f"/gallery/{index}") for index in range(12)]


def test_a_shard_whose_child_is_killed_is_finished_by_another(
    server: Any, gallery: list[str], quick: FetchConfig, make_requests: MakeRequests, tmp_path: Path
) -> None:
    body = server.files["/gallery/0"]

    def kill(it: Any) -> None:
        send(signal.SIGKILL, "fetch")
        it.answer(200, body)

    server.behaviours["/kill"] = kill
    urls = [*gallery[:5], server.url("/kill"), *gallery[5:]]
    with ImageWorkers() as workers:
        workers.fetch(make_requests(*urls), replace(quick, threads=2), tmp_path / "raw.parquet")
    rows = pq.read_table(tmp_path / "raw.parquet").to_pylist()
    assert [row["sample_id"] for row in rows] == [f"test:{index}" for index in range(len(urls))]
    assert {row["sample_id"]: row["drop_reason"] for row in rows if row["drop_reason"]} == {"test:5": "fetch_crash"}
    assert [row["bytes"] for row in rows if row["drop_reason"] is None] == [body] * 12
    assert server.hits["/kill"] == 3


def test_only_what_may_pass_is_tried_again(
    server: Any,
    pictures: dict[str, bytes],
    workers: ImageWorkers,
    quick: FetchConfig,
    make_requests: MakeRequests,
    tmp_path: Path,
) -> None:
    def after_two(status: int, path: str) -> Callable[[Any], None]:
        return lambda it: it.answer(status if server.hits[path] <= 2 else 200, pictures["plain.jpg"])

    for path, status in {"/429-429-200": 429, "/503-503-200": 503, "/404-404-200": 404}.items():
        server.behaviours[path] = after_two(status, path)
    server.behaviours["/noai-always"] = lambda it: it.answer(200, b"x", X_Robots_Tag="noai")
    server.behaviours["/cut-always"] = lambda it: it.answer(200, b"x", 2)
    paths = ["/429-429-200", "/503-503-200", "/404-404-200", "/noai-always", "/cut-always"]
    config = replace(quick, retries=2, backoff_s=0.01)
    workers.fetch(make_requests(*map(server.url, paths)), config, tmp_path / "raw.parquet")
    rows = pq.read_table(tmp_path / "raw.parquet").to_pylist()
    assert [row["drop_reason"] for row in rows] == [None, None, "http_404", "robots_tag", "truncated_body"]
    assert [server.hits[path] for path in paths] == [3, 3, 1, 1, 3]


def test_the_robots_tag_can_be_disregarded(
    server: Any, workers: ImageWorkers, quick: FetchConfig, make_requests: MakeRequests, tmp_path: Path
) -> None:
    server.behaviours["/noai-asked"] = lambda it: it.answer(200, b"x", X_Robots_Tag="noai")
    config = replace(quick, consent=ConsentConfig(ignore=("x-robots-tag",)), contact="mailto:someone@example.org")
    workers.fetch(make_requests(server.url("/noai-asked")), config, tmp_path / "raw.parquet")
    assert pq.read_table(tmp_path / "raw.parquet")["bytes"].to_pylist() == [b"x"]
    assert server.seen["/noai-asked"]["User-Agent"] == f"{quick.user_agent} mailto:someone@example.org"


def test_loopback_is_refused_by_default(
    server: Any, workers: ImageWorkers, make_requests: MakeRequests, tmp_path: Path
) -> None:
    server.files["/secret"] = b"x"
    urls = [server.url("/secret"), "http://127.0.0.1/", "http://localhost/", "http://2130706433/"]
    workers.fetch(make_requests(*urls), FetchConfig(), tmp_path / "raw.parquet")
    rows = pq.read_table(tmp_path / "raw.parquet").to_pylist()
    assert [row["drop_reason"] for row in rows] == ["port", *["private_address"] * 3]
    assert server.hits["/secret"] == 0


@pytest.mark.parametrize("zipped", [False, True])
def test_local_files_need_no_child(
    zipped: bool, own_workers: ImageWorkers, quick: FetchConfig, make_requests: MakeRequests, tmp_path: Path
) -> None:
    files = {"sub/a.jpg": b"good", "empty.jpg": b"", "big.jpg": bytes(2_000_000)}
    location = tmp_path / ("images.zip" if zipped else "images")
    if zipped:
        with zipfile.ZipFile(location, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, body in files.items():
                archive.writestr(name, body)
    else:
        (location / "sub").mkdir(parents=True)
        for name, body in files.items():
            (location / name).write_bytes(body)
    names = ["sub/a.jpg", "empty.jpg", "big.jpg", "absent.jpg", "../images/sub/a.jpg", "/etc/passwd"]
    requests = make_requests(*[(None, name, str(location)) for name in names], (None, "a.jpg", None))
    before = children("fetch")
    own_workers.fetch(requests, quick, tmp_path / "raw.parquet")
    assert children("fetch") == before
    rows = pq.read_table(tmp_path / "raw.parquet").to_pylist()
    reasons = [None, "empty_body", "too_large", *["missing_file"] * 4]
    assert [row["drop_reason"] for row in rows] == reasons
    assert rows[0]["bytes"] == b"good"


def test_the_same_bytes_give_the_same_files(
    gallery: list[str],
    pictures: dict[str, bytes],
    workers: ImageWorkers,
    quick: FetchConfig,
    make_requests: MakeRequests,
    tmp_path: Path,
) -> None:
    for attempt, threads in enumerate([1, 7]):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        workers.fetch(make_requests(*gallery, None), replace(quick, threads=threads), folder / "raw")
        workers.normalise(folder / "raw", SMALL, folder / "images")
    for name in ("raw", "images"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


def test_an_image_that_takes_all_memory_is_given_up_alone(
    pictures: dict[str, bytes], workers: ImageWorkers, tmp_path: Path
) -> None:
    wide = tmp_path / "wide.png"
    Image.new("RGB", (7000, 6000)).save(wide, compress_level=1)
    good = pictures["plain.jpg"]
    raw = raw_file([good, wide.read_bytes(), good, None, wide.read_bytes(), good], tmp_path / "raw.parquet")
    workers.normalise(raw, replace(SMALL, memory_bytes=220_000_000), tmp_path / "images.parquet")
    rows = pq.read_table(tmp_path / "images.parquet").to_pylist()
    reasons = [None, "decode_crash", None, "dns", "decode_crash", None]
    assert [row["drop_reason"] for row in rows] == reasons
    assert [row["detail"] for row in rows] == [None, "out of memory", None, None, "out of memory", None]
    workers.normalise(raw, SMALL, tmp_path / "images.parquet")
    rows = pq.read_table(tmp_path / "images.parquet").to_pylist()
    assert [row["drop_reason"] for row in rows] == [None, "one_colour", None, "dns", "one_colour", None]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_decoding_child_that_is_killed_or_stopped_costs_no_image(
    signal_number: int, own_workers: ImageWorkers, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    raw = raw_file([pictures["plain.jpg"]] * 3000, tmp_path / "raw.parquet")
    others = children("normalise")
    hit = threading.Event()

    def strike() -> None:
        while not any(file.stat().st_size for file in tmp_path.rglob("pictures.bin")):
            time.sleep(0.01)
        for pid in set(children("normalise")) - set(others):
            os.kill(pid, signal_number)
            hit.set()

    attacker = threading.Thread(target=strike)
    attacker.start()
    own_workers.normalise(raw, replace(SMALL, timeout_s=1.0), tmp_path / "images.parquet")
    attacker.join()
    assert hit.is_set()
    table = pq.read_table(tmp_path / "images.parquet")
    assert table["sample_id"].to_pylist() == [f"raw:{index}" for index in range(3000)]
    assert table["drop_reason"].null_count == 3000


def test_a_decoding_child_that_is_killed_while_it_starts_blames_no_image(
    own_workers: ImageWorkers, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    raw = raw_file([pictures["plain.jpg"]] * 3, tmp_path / "raw.parquet")
    others = children("normalise")
    struck: list[int] = []

    def strike_twice() -> None:
        while len(struck) < 2:
            for pid in set(children("normalise")) - {*others, *struck}:
                os.kill(pid, signal.SIGKILL)
                struck.append(pid)

    attacker = threading.Thread(target=strike_twice)
    attacker.start()
    own_workers.normalise(raw, SMALL, tmp_path / "images.parquet")
    attacker.join()
    assert pq.read_table(tmp_path / "images.parquet")["drop_reason"].to_pylist() == [None] * 3


def test_children_end_with_the_context(own_workers: ImageWorkers, pictures: dict[str, bytes], tmp_path: Path) -> None:
    raw = raw_file([pictures["plain.jpg"]], tmp_path / "raw.parquet")
    others = children("normalise")
    with own_workers:
        own_workers.normalise(raw, SMALL, tmp_path / "images.parquet")
        assert len(children("normalise")) == len(others) + 1
    assert children("normalise") == others
    with pytest.raises(DefectError, match="ended"):
        own_workers.normalise(raw, SMALL, tmp_path / "images.parquet")


PARENT = """
import sys
from pathlib import Path
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.images.workers import ImageWorkers, end_process_workers
with ImageWorkers() as workers:
    workers.normalise(Path(sys.argv[1]), NormaliseConfig(), Path(sys.argv[2]))
"""


def test_what_one_flow_ends_on_a_worker_disturbs_no_step_of_another(pictures: dict[str, bytes], tmp_path: Path) -> None:
    before = set(children("normalise"))
    here: ImageWorkers = pickle.loads(pickle.dumps(ImageWorkers(tmp_path / "hosts")))
    raw = raw_file([pictures["plain.jpg"]] * 40, tmp_path / "raw.parquet")
    with ThreadPoolExecutor(1) as executor:
        step = executor.submit(here.normalise, raw, SMALL, tmp_path / "out.parquet")
        while not step.done():
            end_process_workers()
    step.result()
    assert pq.read_table(tmp_path / "out.parquet")["drop_reason"].null_count == 40
    end_process_workers()
    assert set(children("normalise")) <= before


def test_a_child_finds_its_files_from_whatever_folder_it_was_started_in(
    own_workers: ImageWorkers, pictures: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        raw_file([pictures["plain.jpg"]], folder / "raw.parquet")
        own_workers.normalise(Path("raw.parquet"), SMALL, Path("out.parquet"))
        assert (folder / "out.parquet").is_file()


def test_children_end_when_their_parent_is_killed(pictures: dict[str, bytes], tmp_path: Path) -> None:
    raw = raw_file([pictures["plain.jpg"]] * 20_000, tmp_path / "raw.parquet")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, raw, tmp_path / "images.parquet"])
    while not any(file.stat().st_size for file in tmp_path.rglob("pictures.bin")):
        time.sleep(0.01)
    (child,) = children("normalise", parent.pid)
    parent.kill()
    parent.wait()
    waited = 0
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        time.sleep(0.05)
        waited += 1
        assert waited < 200


def test_threads_have_a_child_each(workers: ImageWorkers, pictures: dict[str, bytes], tmp_path: Path) -> None:
    bodies: list[bytes | None] = [pictures["plain.jpg"], None, pictures["dot.png"], pictures["grey.png"]] * 50
    raw = raw_file(bodies, tmp_path / "raw.parquet")
    outs = [tmp_path / f"images-{index}.parquet" for index in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda out: workers.normalise(raw, SMALL, out), outs))
    assert {out.read_bytes() for out in outs} == {outs[0].read_bytes()}
    assert pq.read_table(outs[0])["drop_reason"].to_pylist() == [None, "dns", "too_small", None] * 50


def test_a_full_or_absent_disk_is_a_shard_error(
    workers: ImageWorkers, quick: FetchConfig, make_requests: MakeRequests, tmp_path: Path
) -> None:
    with pytest.raises(DiskError, match="cannot be written"):
        workers.fetch(make_requests(None), quick, tmp_path / "absent" / "raw.parquet")


@pytest.mark.parametrize(
    ("settings_type", "field", "value"),
    [
        (FetchConfig, "max_bytes", -1),
        (FetchConfig, "timeout_s", 0),
        (FetchConfig, "threads", 0),
        (FetchConfig, "retries", -1),
        (FetchConfig, "user_agent", "two\nlines"),
        (FetchConfig, "contact", ""),
        (NormaliseConfig, "image_size", 0),
        (NormaliseConfig, "encode_quality", 101),
        (NormaliseConfig, "max_aspect_ratio", 0.5),
        (NormaliseConfig, "memory_bytes", 1),
    ],
)
def test_settings_out_of_range_name_their_field(settings_type: Any, field: str, value: object) -> None:
    with pytest.raises(SettingsError, match=rf"\w+\.{field} must be"):
        settings_type(**{field: value})


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_conservation(
    data: st.DataObject,
    server: Any,
    pictures: dict[str, bytes],
    workers: ImageWorkers,
    quick: FetchConfig,
    make_requests: MakeRequests,
    tmp_path: Path,
) -> None:
    server.files.update({f"/{name}": body for name, body in pictures.items()})
    names = [name for name in sorted(pictures) if name != "bomb.png"]
    url = st.one_of(st.sampled_from(names).map(lambda name: server.url(f"/{name}")), st.text(max_size=20), st.none())
    path = st.one_of(st.none(), st.none(), st.text(max_size=20))
    rows = data.draw(st.lists(st.tuples(url, path, st.just(str(tmp_path))), max_size=30))
    requests = make_requests(*rows)
    workers.fetch(requests, quick, tmp_path / "raw.parquet")
    workers.normalise(tmp_path / "raw.parquet", SMALL, tmp_path / "images.parquet")
    for name in ("raw", "images"):
        table = pq.read_table(tmp_path / f"{name}.parquet")
        assert table["sample_id"].to_pylist() == requests["sample_id"].to_pylist()
        kept = [row["bytes"] is not None for row in table.to_pylist()]
        assert kept == [row["drop_reason"] is None for row in table.to_pylist()]
