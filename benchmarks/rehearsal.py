"""A dress rehearsal of a whole build at growing sizes: python benchmarks/rehearsal.py --out FOLDER.

A stand-in web on loopback draws a distinct small JPEG for each address. Sources have the shares of the paper: WIT in
Italian on one host with its own limit, CC3M in English on hosts by a power law, where 30 % of the addresses are dead,
and COCO with five English captions an image. Captions are recombined from real ones, with near-duplicates. Apertium
translates them by way of Catalan; with `--instant`, a program that answers at once with an Italian caption does.

For each size, one table has a row for each step: calls, rows a second, CPU time a row, peak memory of all processes
while it ran (pages that they share count once), and bytes written. Then come the same build again, a second one with a
raised `clean.min_words`, and the commands that look at the dataset: `why`, `catalog`, `diff`, `verify`, and `forget` of
one host. Growth is the exponent of CPU seconds by rows. What 1.4 and 100 million images would take is computed from it.

`--out` keeps everything; the same command goes on where it was stopped. `--kills N` kills builds of the middle size N
times, `--dask 1 2 4` builds the smallest size on Dask with so many workers; the published files are compared with those
of the first build. `--minutes` stops the first build of the last size after a time, and prints what each step reached
and how its CPU time a call grew. `--quick` builds 300 images.
"""

import asyncio
import csv
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from data_folder import mscoco_it, options_with_data
from harness import Goals, exit_without, in_new_process, judge, print_table, work_folder
from loopback_server import answer_all
from planted_captions import Recombined, planted, real_captions

from flows.build.execution import LocalExecutor

SIZES, QUICK_SIZES = (20_000, 50_000, 200_000), (300,)
WIT_SHARE, COCO_SHARE = 400 / 1400, 118 / 1400
CAPTIONS_OF_COCO = 5
WIT_HOST, COCO_HOST = "127.0.2.1", "127.0.2.2"
WIT_REQUESTS_PER_S, REQUESTS_PER_S = 400, 100
IMAGES_A_HOST = 15  # on average
FORGOTTEN_SHARE = 0.005  # of all images: those of the host that is forgotten
FORGOTTEN_HOST = "127.0.3.1"
COPIES = 100  # one image in so many has the bytes of another
# What a dead address answers, and the shares.
DEAD_SHARE = {"wit": 0.02, "mscoco": 0.0, "cc3m": 0.3}
DEAD = {
    "404 Not Found": 0.60,
    "410 Gone": 0.05,
    "403 Forbidden": 0.10,
    "500 Broken": 0.05,
    "page": 0.08,
    "truncated": 0.04,
    "pixel": 0.05,
    "closed": 0.03,
}
GOALS: Goals = {
    "growth-of-cpu-a-row": ("<=", 1.15),
    "largest-exponent": ("<=", 1.1),
    "peak-mb": ("<=", 2048),
    "same-build-to-first": ("<=", 0.05),  # nothing changed
    "second-build-to-first": ("<=", 0.1),
    "slowest-command-s": ("<=", 10),
    "different-files-after-kills": ("<=", 0),
    "different-files-on-dask": ("<=", 0),
}
RECIPE = f"""\
target_language = "it"

[build]
workers = 2
shard_size = {{shard_size}}

[sources.wit]
files = ["{{upstream}}/wit.tsv.gz"]

[sources.cc3m]
files = ["{{upstream}}/cc3m.tsv"]

[sources.mscoco]
files = ["{{upstream}}/coco.json"]

[translate]
{{engine}}

[fetch]
allow_loopback = true
contact = "vernaclip@localhost"
host_requests_per_s = {REQUESTS_PER_S}
backoff_s = 0.1

[fetch.hosts."{WIT_HOST}"]
concurrency = 32
requests_per_s = {WIT_REQUESTS_PER_S}

[normalise]
image_size = 128

[split]
val = 0.02
test = 0.02
"""
APERTIUM = """\
engine = "command"
command = ["sh", "-c", "apertium -f line -u eng-cat | apertium -f line -u cat-ita"]"""
# Answers with an Italian caption after PAUSE seconds, and notes when it did.
ENGINE = """
import os, sys, time, zlib
from pathlib import Path
here = Path(__file__).parent
lines = (here / "italian.txt").read_text("utf-8").splitlines()
pause = float(os.environ.get("PAUSE", 0))
began, log = time.time(), here / "translated" / f"{time.time_ns()}-{os.getpid()}"
for number, line in enumerate(sys.stdin):
    if pause:
        time.sleep(pause)
    print(lines[zlib.crc32(line.strip().encode()) % len(lines)], flush=True)
    if number % 100 == 0:
        log.write_text(f"{began} {time.time()}")
"""
NAME, RECORD, STOPPED = "rehearsal", "measured.json", "stopped"


def picture(number: int) -> bytes:
    """Return the JPEG of an image: a smooth pattern and noise, both drawn from the number."""
    rng = np.random.default_rng(number - 7 if number % COPIES == COPIES - 1 else number)
    width, height = rng.integers(128, 257, 2).tolist()
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.float32)
    fine = rng.normal(0, 12, (height // 8, width // 8, 3)).astype(np.float32)
    pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) + cv2.resize(fine, (width, height))
    return cv2.imencode(".jpg", pixels.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def fault_of(source: str, number: int) -> str | None:
    """Return what the address of an image answers instead of the image, or None."""
    drawn = random.Random(f"{source}:{number}").random()
    if drawn >= DEAD_SHARE[source]:
        return None
    place, shares = drawn / DEAD_SHARE[source], list(DEAD.items())
    for name, share in shares:
        place -= share
        if place < 0:
            return name
    return shares[0][0]


@cache
def one_pixel() -> bytes:
    """Return the JPEG of an image of one pixel."""
    return cv2.imencode(".jpg", np.zeros((1, 1, 3), np.uint8))[1].tobytes()


def answer_of(path: str, picture: Callable[[int], bytes] = picture) -> tuple[str, bytes] | None:
    """Return status and headers, and body, of `/SOURCE/NUMBER.jpg`; None: the connection is closed."""
    source, _, name = path[1:].partition("/")
    if source not in DEAD_SHARE:
        return "404 Not Found", b""
    number = int(name.partition(".")[0])
    match fault_of(source, number):
        case None:
            return "200 OK\r\nContent-Type: image/jpeg", picture(number)
        case "closed":
            return None
        case "page":
            return "200 OK\r\nContent-Type: text/html", b"<!doctype html><title>Moved</title>"
        case "pixel":
            return "200 OK\r\nContent-Type: image/jpeg", one_pixel()
        case "truncated":
            return "200 OK\r\nContent-Type: image/jpeg", picture(number)[:400]
        case status:
            return status, b""


def _serve(port: int, ready: Any) -> None:
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()  # a parent that is killed terminates no child
    cv2.setNumThreads(1)
    response = lambda _, path: answer_of(path)  # noqa: E731
    asyncio.run(answer_all(response, Path(os.devnull), lambda _: 0.0, port, ready.send))


@contextmanager
def web(port: int) -> Iterator[None]:
    """Run the stand-in web in a process of its own."""
    context = get_context("spawn")
    ours, its = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(port, its), daemon=True)
    process.start()
    its.close()
    try:
        ours.recv()
        yield
    except EOFError:
        exit_without(f"port {port} is taken: choose another with --port")
    finally:
        process.terminate()
        process.join()


def hosts_of(num_images: int) -> list[str]:
    """Return a host for each image: the k-th of the hosts has about 1/k of the images of the first."""
    num_hosts = max(1, num_images // IMAGES_A_HOST)
    weights = 1 / np.arange(1, num_hosts + 1)
    drawn = np.random.default_rng(3).choice(num_hosts, num_images, p=weights / weights.sum())
    forgotten = set(range(0, num_images, round(1 / FORGOTTEN_SHARE)))
    return [
        FORGOTTEN_HOST if place in forgotten else f"127.{4 + host // 62_500}.{host // 250 % 250}.{1 + host % 250}"
        for place, host in enumerate(drawn.tolist())
    ]


def stand_in_engine(folder: Path, data: Path, num_lines: int) -> str:
    """Write a program that answers with one of so many Italian captions; return the settings that name it."""
    captions = Recombined(mscoco_it(data, "validated"), ())
    count = min(captions.count, num_lines)
    (folder / "translated").mkdir(parents=True, exist_ok=True)
    (folder / "italian.txt").write_text("".join(f"{captions.caption(n)}\n" for n in range(count)), "utf-8")
    (folder / "engine.py").write_text(ENGINE)
    return f'engine = "command"\ncommand = {json.dumps([sys.executable, str(folder / "engine.py")])}'


def write_upstream(
    folder: Path, data: Path, num_images: int, port: int, hosts: Callable[[int], list[str]] = hosts_of
) -> None:
    """Write files of WIT, CC3M and COCO, once; `hosts` returns the hosts of so many images of CC3M."""
    if (folder / "done").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    num_wit, num_coco = round(num_images * WIT_SHARE), round(num_images * COCO_SHARE)
    num_cc3m = num_images - num_wit - num_coco
    italian = Recombined([text for kind in ("validated", "unvalidated") for text in mscoco_it(data, kind)], ())
    english = (row.caption for row in planted(real_captions(data), num_cc3m + CAPTIONS_OF_COCO * num_coco))
    columns = (
        *("language", "page_url", "image_url", "page_title", "section_title", "hierarchical_section_title"),
        *("caption_reference_description", "caption_attribution_description", "caption_alt_text_description"),
        *("mime_type", "original_height", "original_width", "is_main_image", "attribution_passes_lang_id"),
        *("page_changed_recently", "context_page_description", "context_section_description"),
    )
    with gzip.open(folder / "wit.tsv.gz", "wt", encoding="utf-8", newline="", compresslevel=1) as file:
        rows = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n", restval="")
        rows.writeheader()
        for number in range(num_wit):
            address = f"http://{WIT_HOST}:{port}/wit/{number}.jpg"
            row = {"language": "it", "page_url": f"https://it.wikipedia.org/wiki/Pagina_{number}", "image_url": address}
            rows.writerow({**row, "caption_reference_description": italian.caption(number), "mime_type": "image/jpeg"})
    with (folder / "cc3m.tsv").open("w", encoding="utf-8") as file:
        for number, host in enumerate(hosts(num_cc3m)):
            file.write(f"{next(english)}\thttp://{host}:{port}/cc3m/{10**8 + number}.jpg\n")
    images = list[dict[str, Any]]()
    annotations = list[dict[str, Any]]()
    for number in range(num_coco):
        address = f"http://{COCO_HOST}:{port}/mscoco/{2 * 10**8 + number}.jpg"
        images.append({"id": number + 1, "file_name": f"{number + 1:012d}.jpg", "coco_url": address, "license": 4})
        for text in islice(english, CAPTIONS_OF_COCO):
            annotations.append({"id": len(annotations) + 1, "image_id": number + 1, "caption": text})
    licenses = [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}]
    found = {"images": images, "annotations": annotations, "licenses": licenses}
    (folder / "coco.json").write_text(json.dumps(found), "utf-8")
    (folder / "done").write_text("")


class MeasuredExecutor(LocalExecutor):
    """An executor that records its calls, and that knows which steps run."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.cpu: defaultdict[str, list[float]] = defaultdict(list)  # of each call
        self.bytes: Counter[str] = Counter()
        self.running: Counter[str] = Counter()

    def submit(self, name: str, call: Any, *, remote: bool = False) -> Any:
        """Start a call in a thread."""
        return super().submit(name, partial(self._measured, name.partition(" ")[0], call), remote=remote)

    def run(self, name: str, call: Any) -> Any:
        """Run a call in this thread."""
        return super().run(name, partial(self._measured, name.partition(" ")[0], call))

    def _measured(self, step: str, call: Any) -> Any:
        self.running[step] += 1
        started, cpu = time.perf_counter(), time.thread_time()
        try:
            done = call()
        finally:
            self.running[step] -= 1
            self.calls[step] += 1
            self.seconds[step] += time.perf_counter() - started
            self.cpu[step].append(time.thread_time() - cpu)
        commit = getattr(done, "commit", None)
        if commit is not None:
            self.bytes[step] += sum((commit.folder / name).stat().st_size for name in commit.files)
        return done


class Watch(threading.Thread):
    """Samples a process and its children twice a second: memory, open files, and the CPU seconds of children by use.

    Children that are not of the image workers belong to the engine.
    """

    USES: Mapping[bytes, str] = {b"data_catalog.fetch.owner": "fetch", b"data_catalog.images.decoders": "normalise"}

    def __init__(self, executor: MeasuredExecutor) -> None:
        super().__init__(daemon=True)
        self.executor = executor
        self.peak_mb: defaultdict[str, float] = defaultdict(float)
        self.peak_files = 0
        self.children_cpu: defaultdict[str, float] = defaultdict(float)
        self._last: dict[int, float] = {}
        self._ended = threading.Event()

    def run(self) -> None:
        """Sample until `end`."""
        while not self._ended.wait(0.5):
            self._sample()

    def end(self) -> None:
        """Stop sampling."""
        self._ended.set()
        self.join()

    def steps(self) -> dict[str, dict[str, Any]]:
        """Return what the steps took so far, by name."""
        executor = self.executor
        return {
            step: {
                "calls": count,
                "seconds": executor.seconds[step],
                "cpu": sum(executor.cpu[step]) + self.children_cpu.get(step, 0.0),
                "peak": self.peak_mb[step],
                "bytes": executor.bytes[step],
            }
            for step, count in list(executor.calls.items())
        }

    def _sample(self) -> None:
        megabytes, files = 0.0, 0
        for process in [os.getpid(), *descendants(os.getpid())]:
            try:
                folder = Path(f"/proc/{process}")
                fields = (folder / "stat").read_text("utf-8").rpartition(") ")[2].split()
                command = (folder / "cmdline").read_bytes()
                rollup = (folder / "smaps_rollup").read_text("utf-8")
                megabytes += int(rollup.partition("\nPss:")[2].split()[0]) / 1024
                files += sum(1 for _ in (folder / "fd").iterdir())
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            if process == os.getpid():
                continue
            cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            use = next((use for module, use in self.USES.items() if module in command), "translate")
            self.children_cpu[use] += cpu - self._last.get(process, 0.0)
            self._last[process] = cpu
        self.peak_files = max(self.peak_files, files)
        for step in ["all", *(step for step, count in self.executor.running.items() if count)]:
            self.peak_mb[step] = max(self.peak_mb[step], megabytes)


def descendants(process: int) -> list[int]:
    """Return all children of a process, their children and so on."""
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text("utf-8").split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [found for child in children for found in (child, *descendants(child))]


def build(recipe: Path, root: Path, settings: Mapping[str, Any], minutes: float) -> dict[str, Any]:
    """Build once; return what was measured. Called in a new process.

    After `minutes`, if they are not 0, print what was reached, and end this process.
    """
    from flows.datasets import build_dataset
    from flows.recipe.recipe import load_recipe

    cpu_before, started = os.times(), time.perf_counter()
    with MeasuredExecutor() as executor:
        watch = Watch(executor)
        watch.start()
        timer = threading.Timer(60 * minutes, partial(_stop, watch, root, started))
        if minutes:
            timer.start()
        loaded = load_recipe(str(recipe), root=root, overrides=settings)
        report = build_dataset(loaded, root=root, executor=executor)
        timer.cancel()
        watch.end()
    seconds, cpu = time.perf_counter() - started, os.times()
    own_cpu = cpu.user + cpu.system - cpu_before.user - cpu_before.system
    steps, of_calls = watch.steps(), sum(map(sum, executor.cpu.values()))
    # Threads of libraries, the commit of the snapshot, the report.
    steps["rest"] = {"calls": 0, "seconds": 0.0, "cpu": own_cpu - of_calls, "peak": 0.0, "bytes": 0}
    files = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    return {
        "rows": sum(row["read"] for row in report.snapshot.manifest["funnel"] if row["step_number"] == 1),
        "seconds": seconds,
        "cpu": own_cpu + sum(watch.children_cpu.values()),
        "peak": watch.peak_mb["all"],
        "open files": watch.peak_files,
        "kept bytes": sum(files),
        "files": len(files),
        "steps": steps,
    }


def _stop(watch: Watch, root: Path, started: float) -> None:
    rows = []
    for step, each in watch.steps().items():
        calls = watch.executor.cpu[step]
        tenth = len(calls) // 10
        growth = sum(calls[-tenth:]) / sum(calls[:tenth]) if tenth and sum(calls[:tenth]) else None
        rows.append(
            {
                "step": step,
                "calls": each["calls"],
                "seconds": f"{each['seconds']:,.0f}",
                "CPU s": f"{each['cpu']:,.0f}",
                "last tenth to first": "" if growth is None else f"{growth:.2f}",
                "peak MB": f"{each['peak']:,.0f}",
                "MB written": f"{each['bytes'] / 1e6:,.1f}",
                "running": watch.executor.running[step] or "",
            }
        )
    kept = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    print_table(
        rows, f"Stopped after {(time.perf_counter() - started) / 60:.0f} minutes; CPU time of calls in this process"
    )
    state = {"peak MB": f"{watch.peak_mb['all']:,.0f}", "open files": watch.peak_files}
    print_table([{**state, "kept MB": f"{sum(kept) / 1e6:,.0f}", "files": len(kept)}])
    sys.stdout.flush()
    (root.parent / STOPPED).write_text("")
    os._exit(0)


def timed(command: Sequence[str], root: Path) -> float:
    """Return the seconds that a command of vernaclip takes as a user starts it."""
    started = time.perf_counter()
    found = subprocess.run(
        [sys.executable, "-m", "vernaclip", *command, "--root", str(root)], capture_output=True, text=True
    )
    if found.returncode:
        raise SystemExit(f"vernaclip {' '.join(command)}: {found.stderr[-2000:]}")
    return time.perf_counter() - started


def measured(
    folder: Path, data: Path, num_images: int, port: int, minutes: float, *, is_instant: bool
) -> dict[str, Any]:
    """Build a size, look at it with commands; return the measurements, which the folder keeps.

    Raises:
        BrokenProcessPool: the first build was stopped after `minutes`.
    """
    record = folder / RECORD
    found: dict[str, Any] = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    root = folder / "root"
    (folder / STOPPED).unlink(missing_ok=True)

    def keep(name: str, value: Any) -> None:
        found[name] = value
        record.write_text(json.dumps(found, indent=1), "utf-8")

    write_upstream(folder / "upstream", data, num_images, port)
    recipe = folder / f"{NAME}.toml"
    shard_size = max(50, min(2000, num_images // 8))
    engine = stand_in_engine(folder, data, 4 * num_images) if is_instant else APERTIUM
    recipe.write_text(RECIPE.format(upstream=folder / "upstream", shard_size=shard_size, engine=engine), "utf-8")
    if "build" not in found:
        is_continued = root.exists()
        root.mkdir(exist_ok=True)
        result = in_new_process(build, recipe, root, {}, minutes)
        keep("build", {**result, "continued": is_continued})
        keep("files", published(root))
        keep("same", timed(["build", str(recipe), "--executor", "local"], root))
    if "again" not in found:
        result = in_new_process(build, recipe, root, {"clean": {"min_words": 8}, "check": {"min_words": 8}}, 0)
        keep("again", result)
    if "commands" not in found:
        commands = {
            "why": ["why", f"http://{COCO_HOST}:{port}/mscoco/{2 * 10**8}.jpg"],
            "catalog": ["catalog"],
            "diff": ["diff", "previous", "current"],
            "verify": ["verify"],
            "forget": ["forget", "--domain", FORGOTTEN_HOST, "--reason", "rehearsal"],
        }
        keep("commands", {name: timed(command, root) for name, command in commands.items()})
    return found


def published(root: Path) -> dict[str, str]:
    """Return the hashes of the current snapshot's files."""
    from data_catalog.catalog.manifest import current_snapshot

    snapshot = current_snapshot(root, NAME)
    assert snapshot is not None
    return {entry["path"]: entry["sha256"] for kind in snapshot.manifest["files"].values() for entry in kind}


def num_different(root: Path, folder: Path) -> int:
    """Return how many published files of a root differ from those of the size's first build."""
    first = json.loads((folder / RECORD).read_text("utf-8"))["files"]
    files = published(root)
    return sum(files.get(name) != first.get(name) for name in {**files, **first})


def command_of(folder: Path, root: Path, *options: str) -> list[str]:
    """Return the command that builds a size in a new root."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    recipe = str(folder / f"{NAME}.toml")
    return [sys.executable, "-m", "vernaclip", "build", recipe, "--root", str(root), *options]


def differences_after_kills(folder: Path, kills: int) -> int:
    """Kill builds of a size at random moments; return how many published files differ from the first build's."""
    root, draws = folder / "killed", random.Random(5)
    seconds = json.loads((folder / RECORD).read_text("utf-8"))["build"]["seconds"]
    command = command_of(folder, root, "--executor", "local")
    for _ in range(kills):
        with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as (
            process
        ):
            try:
                process.wait(5 + draws.random() * seconds / kills)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(command, check=True, capture_output=True)
    return num_different(root, folder)


def differences_on_dask(folder: Path, workers: Sequence[int]) -> int:
    """Build a size on Dask clusters of this machine; print their seconds, and return how many files differ."""
    rows, different = [], 0
    for count in workers:
        root = folder / f"dask-{count}"
        started = time.perf_counter()
        command = command_of(folder, root, "--executor", "dask", "--set", f"build.workers={count}")
        subprocess.run(command, check=True, capture_output=True)
        rows.append({"Dask workers": count, "seconds": round(time.perf_counter() - started, 1)})
        different += num_different(root, folder)
    print_table(rows, f"{folder.name} images")
    return different


def exponents(sizes: Mapping[int, Mapping[str, Any]]) -> dict[str, float]:
    """Return the exponent of growth of each step's CPU seconds with the rows, by least squares over the sizes."""
    found: dict[str, float] = {}
    steps = {step for each in sizes.values() for step in each["build"]["steps"]}
    for step in sorted(steps):
        points = [
            (each["build"]["rows"], each["build"]["steps"].get(step, {}).get("cpu", 0.0)) for each in sizes.values()
        ]
        if min(cpu for _, cpu in points) > 5.0:  # below, start-up decides
            rows, cpu = np.log(np.array(points)).T
            found[step] = float(np.polyfit(rows, cpu, 1)[0])
    return found


def print_size(num_images: int, found: Mapping[str, Any]) -> None:
    """Print the tables of a size."""
    built = found["build"]
    lines = [
        {
            "step": step,
            "calls": each["calls"],
            "rows/s": f"{built['rows'] / each['seconds']:,.0f}" if each["seconds"] else "",
            "CPU ms a row": f"{1000 * each['cpu'] / built['rows']:.3f}",
            "peak MB": f"{each['peak']:,.0f}" if each["peak"] else "",
            "MB written": f"{each['bytes'] / 1e6:,.1f}",
        }
        for step, each in built["steps"].items()
    ]
    print_table(lines, f"{num_images:,} images, {built['rows']:,} caption rows" + ", continued" * built["continued"])
    whole = {"seconds": f"{built['seconds']:,.0f}", "CPU s": f"{built['cpu']:,.0f}", "peak MB": f"{built['peak']:,.0f}"}
    whole |= {
        "open files": built["open files"],
        "kept MB": f"{built['kept bytes'] / 1e6:,.0f}",
        "files": built["files"],
    }
    seconds = {name: f"{value:.1f}" for name, value in found["commands"].items()}
    whole |= {"same build s": f"{found['same']:.0f}"} if "same" in found else {}
    print_table([{**whole, "second build s": f"{found['again']['seconds']:.0f}", **seconds}])


def main(arguments: Sequence[str] | None = None) -> int:
    """Build all sizes, print the tables, and judge the claims."""
    parser = options_with_data(__doc__)
    parser.add_argument("--out", type=Path, help="folder that keeps everything (default: temporary)")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of images, in ascending order")
    parser.add_argument("--kills", type=int, default=0, help="kill builds of the middle size so many times")
    parser.add_argument("--dask", type=int, nargs="+", help="build the smallest size on Dask with so many workers")
    parser.add_argument("--minutes", type=float, default=0, help="stop the first build of the last size after so many")
    parser.add_argument("--instant", action="store_true", help="translate by a program that answers at once")
    parser.add_argument("--port", type=int, default=8767, help="of the stand-in web")
    options = parser.parse_args(arguments)
    if not options.instant and shutil.which("apertium") is None:
        exit_without("Apertium is not installed")
    if not mscoco_it(options.data, "validated"):
        exit_without(f"{options.data} lacks mscoco_it")
    sizes = options.sizes or (QUICK_SIZES if options.quick else SIZES)
    with work_folder(options.out) as out, web(options.port):
        found = {}
        for size in sizes:
            minutes = options.minutes if size == sizes[-1] else 0
            try:
                found[size] = measured(
                    out / str(size), options.data, size, options.port, minutes, is_instant=options.instant
                )
            except BrokenProcessPool:
                if not (out / str(size) / STOPPED).exists():
                    raise
                sizes = sizes[:-1]
                break
            print_size(size, found[size])
        if not sizes:
            return 0
        middle, differences = sizes[len(sizes) // 2], dict[str, float]()
        if options.dask:
            differences["different-files-on-dask"] = differences_on_dask(out / str(sizes[0]), options.dask)
        if options.kills:
            differences["different-files-after-kills"] = differences_after_kills(out / str(middle), options.kills)
    whole = {size: each for size, each in found.items() if not each["build"]["continued"]}
    last, growth = found[sizes[-1]], exponents(whole) if len(whole) > 1 else {}
    if growth:
        built = last["build"]
        rows = [{"step": step, "exponent": f"{exponent:.2f}"} for step, exponent in growth.items()]
        for line in rows:
            each, exponent = built["steps"][line["step"]], growth[line["step"]]
            for images in (1_400_000, 100_000_000):
                hours = each["cpu"] * (images / sizes[-1]) ** exponent / 3600
                line[f"CPU hours of {images / 1e6:g} million images"] = f"{hours:,.1f}"
        print_table(rows, "Growth, and what more images would take by it")
    values = {"peak-mb": last["build"]["peak"]}
    if not options.quick:
        a_row = {size: each["build"]["cpu"] / each["build"]["rows"] for size, each in whole.items()}
        if middle in a_row and sizes[-1] in a_row and middle != sizes[-1]:
            values["growth-of-cpu-a-row"] = a_row[sizes[-1]] / a_row[middle]
        if growth:
            values["largest-exponent"] = max(growth.values())
        if "same" in last:
            values["same-build-to-first"] = last["same"] / last["build"]["seconds"]
        values["second-build-to-first"] = last["again"]["seconds"] / last["build"]["seconds"]
        values["slowest-command-s"] = max(last["commands"].values())
    return judge(values | differences, GOALS, "rehearsal-")


if __name__ == "__main__":
    sys.exit(main())
