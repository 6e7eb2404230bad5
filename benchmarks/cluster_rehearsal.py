"""A dress rehearsal on a cluster: python benchmarks/cluster_rehearsal.py --out FOLDER (Linux, as root).

A scheduler and each worker are machines: network namespaces of their own, joined by a bridge. They see one file system;
each worker has a fixed share of this machine's processors. The stand-in web of `rehearsal.py` answers on loopback in
every namespace, as 500 hosts that need 0.05 to 0.5 s: some with a limit of their own, some that ask for a pause first,
some that always fail. The engine is a program that sleeps 10 ms a caption and answers with an Italian caption.

Four workers build, then four of which two are killed while one is added; then this machine alone, where the engine
does not sleep; last one worker. Published files are compared with those of this machine. The servers' logs, all on
one clock, show how many requests a host had at once, and how far apart they began.

`--out` keeps everything; the same command goes on with the build that it was stopped in. `--quick` has 400 images,
and only the build with kills.
"""

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import time
import zlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from data_folder import mscoco_it, options_with_data
from harness import Goals, exit_without, judge, print_table, work_folder
from loopback_server import LoopbackServer, answer_all, busy_hosts, most_at_once
from rehearsal import (
    COCO_HOST,
    COCO_SHARE,
    NAME,
    RECIPE,
    WIT_HOST,
    WIT_SHARE,
    answer_of,
    picture,
    published,
    stand_in_engine,
    write_upstream,
)

NUM_HOSTS, WORKERS, SHARE = 500, 4, 0.4
HOSTS = [f"127.4.{1 + host // 250}.{1 + host % 250}" for host in range(NUM_HOSTS)]
FAILING, PAUSING, LIMITED = HOSTS[:10], HOSTS[10:20], HOSTS[20:40]  # the last ones as the recipe says
PAUSE_S, REQUESTS_PER_S, AT_ONCE, LIMITED_AT_ONCE = 3.0, 20, 8, 2
ENGINE_S = 0.01
PERIOD_US = 10_000
SOURCE_STEP = 10**8  # between the numbers of images of WIT, CC3M and COCO
NETWORK, BRIDGE, PORT = "10.203.0", "rehearsal0", 8768
SCHEDULER = f"tcp://{NETWORK}.2:8786"
GOALS: Goals = {
    "efficiency_of_4": (">=", 0.85),
    "translate_efficiency_of_4": (">=", 0.85),
    "requests_at_once": ("<=", AT_ONCE),
    "requests_at_once_of_limited": ("<=", LIMITED_AT_ONCE),
    "requests_in_a_second": ("<=", REQUESTS_PER_S),
    "least_seconds_between": (">=", 0.9 / REQUESTS_PER_S),
    "different_files": ("<=", 0),
}


def hosts_of(num_images: int) -> list[str]:
    """Return a host for each image, each with as many."""
    return [HOSTS[zlib.crc32(str(number).encode()) % NUM_HOSTS] for number in range(num_images)]


def draw(folder: Path, num_images: int) -> None:
    """Draw all images of the stand-in web, once, since machines have no processor to draw with."""
    if (folder / "ends.npy").is_file():
        return
    cv2.setNumThreads(1)
    num_wit, num_coco = round(num_images * WIT_SHARE), round(num_images * COCO_SHARE)
    counts = num_wit, num_images - num_wit - num_coco, num_coco
    numbers = [SOURCE_STEP * source + number for source, count in enumerate(counts) for number in range(count)]
    folder.mkdir(exist_ok=True)
    ends = list[int]()
    with (folder / "pictures").open("wb") as file:
        for number in numbers:
            file.write(picture(number))
            ends.append(file.tell())
    np.save(folder / "numbers.npy", numbers)
    np.save(folder / "ends.npy", ends)


def serve(log: Path) -> None:
    """Answer on all loopback addresses of this namespace."""
    folder = log.parents[1] / "drawn"
    numbers, ends = np.load(folder / "numbers.npy"), np.load(folder / "ends.npy")
    pictures = np.memmap(folder / "pictures", mode="r")

    def drawn(number: int) -> bytes:
        place = int(np.searchsorted(numbers, number))
        return pictures[int(ends[place - 1]) if place else 0 : int(ends[place])].tobytes()

    busy = busy_hosts(dict.fromkeys(PAUSING, PAUSE_S))

    def response(host: str, path: str) -> tuple[str, bytes] | None:
        if path == "/robots.txt":
            return "404 None", b""
        return ("503 Broken", b"") if host in FAILING else busy(host) or answer_of(path, drawn)

    def seconds(host: str) -> float:
        return 0.05 if host in (WIT_HOST, COCO_HOST) else random.Random(host).uniform(0.05, 0.5)

    asyncio.run(answer_all(response, log, seconds, PORT))


class Machine:
    """A network namespace with an address, a stand-in web, and a share of this machine's processors."""

    def __init__(self, number: int, folder: Path, share: float) -> None:
        self.name, self.address = f"rehearsal{number}", f"{NETWORK}.{number}"
        self.folder, self._processes = folder, list[subprocess.Popen[bytes]]()
        self._group = _group(self.name, share)
        inside = f"v{number}i"
        for command in (
            f"ip netns add {self.name}",
            f"ip link add v{number} type veth peer name {inside}",
            f"ip link set {inside} netns {self.name}",
            f"ip link set v{number} master {BRIDGE} up",
            f"ip -n {self.name} addr add {self.address}/24 dev {inside}",
            f"ip -n {self.name} link set {inside} up",
            f"ip -n {self.name} link set lo up",
        ):
            subprocess.run(command.split(), check=True)

    def start(self, command: Sequence[str], *, shared: bool = True) -> None:
        """Start a program of this machine, with its share of the processors or without."""
        # In the namespace, the control groups cannot be seen.
        enter = f"echo $$ > {self._group}/cgroup.procs || exit; " if shared else ""
        inside = ["sh", "-c", f'{enter}exec "$@"', "sh", "ip", "netns", "exec", self.name, *command]
        with (self.folder / "programs.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    inside,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env={**os.environ, "PAUSE": str(ENGINE_S), "PREFECT_PLUGINS_ENABLED": "false"},
                )
            )

    def start_web(self) -> None:
        """Start the stand-in web, which has no share of the processors taken away."""
        log = self.folder / "requests" / f"{self.name}-{time.time_ns()}"
        self.start([sys.executable, __file__, "--serve", str(log)], shared=False)

    def start_worker(self) -> None:
        """Start a Dask worker as docs/operations.md says."""
        options = ["--nthreads", "1", "--memory-limit", "0", "--no-dashboard", "--host", self.address]
        self.start([sys.executable, "-m", "distributed.cli.dask_worker", SCHEDULER, *options])

    def kill(self) -> None:
        """Kill every process, as a power cut does."""
        pids = ["ip", "netns", "pids", self.name]
        while found := subprocess.run(pids, capture_output=True, text=True, check=True).stdout.split():
            subprocess.run(["kill", "-9", *found], check=False, capture_output=True)
            time.sleep(0.1)

    def end(self) -> None:
        """Kill every process, and remove the namespace."""
        self.kill()
        for process in self._processes:
            process.wait()
        subprocess.run(["ip", "netns", "del", self.name], check=True)
        with suppress(OSError):
            self._group.rmdir()


def _group(name: str, share: float) -> Path:
    """Return a new control group with a share of one processor, in slices as short as a scheduler's own."""
    old = Path("/sys/fs/cgroup/cpu")
    group = (old if old.is_dir() else Path("/sys/fs/cgroup")) / name
    group.mkdir(exist_ok=True)
    if old.is_dir():
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(int(share * PERIOD_US)))
    else:
        (group / "cpu.max").write_text(f"{int(share * PERIOD_US)} {PERIOD_US}")
    return group


@contextmanager
def bridged() -> Iterator[None]:
    """Make the bridge between the machines, which this machine is on, too."""
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE], check=True)
        subprocess.run(["ip", "link", "set", BRIDGE, "up"], check=True)
        yield
    finally:
        subprocess.run(["ip", "link", "del", BRIDGE], check=True)


def build(folder: Path, root: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start a build as a user does."""
    command = [sys.executable, "-m", "vernaclip", "build", str(folder / f"{NAME}.toml"), "--root", str(root), *options]
    with (folder / "build.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)


def wait_for(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for a build to end well."""
    if process.wait():
        raise SystemExit(f"a build failed:\n{(folder / 'build.log').read_text('utf-8')[-3000:]}")


def on_cluster(folder: Path, root: Path, workers: int, kill_after_s: Sequence[float]) -> float:
    """Build with so many workers; return the seconds.

    A worker is killed after each of some seconds; after the last of them, one is added.
    """
    with ExitStack() as exits:
        exits.enter_context(bridged())
        scheduler = Machine(2, folder, 1.0)
        exits.callback(scheduler.end)
        scheduler.start(
            [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", f"{NETWORK}.2", "--no-dashboard"],
        )
        machines = [Machine(3 + number, folder, SHARE) for number in range(workers + bool(kill_after_s))]
        for machine in machines:
            exits.callback(machine.end)
            machine.start_web()
        for machine in machines[:workers]:
            machine.start_worker()
        time.sleep(15)  # workers load what they need
        started = time.perf_counter()
        process = build(folder, root, "--executor", "dask", "--dask-address", SCHEDULER)
        for number, seconds in enumerate(kill_after_s):
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, seconds - (time.perf_counter() - started)))
            if process.poll() is not None:
                raise SystemExit("the build ended before its workers were killed")
            machines[number].kill()
        if kill_after_s:
            machines[-1].start_worker()
        wait_for(process, folder)
        return time.perf_counter() - started


def politeness(folder: Path) -> dict[str, float]:
    """Return the most requests that a host had at once and in a second, and the least seconds between two."""
    requests = [each for log in (folder / "requests").iterdir() for each in LoopbackServer(PORT, log).requests()]
    most, began = most_at_once(requests), defaultdict[str, list[float]](list)
    for each in requests:
        began[each.address].append(each.time_s)
    others = [host for host in HOSTS if host in most and host not in LIMITED]
    return {
        "requests_at_once": max(most[host] for host in others),
        "requests_at_once_of_limited": max((most[host] for host in LIMITED if host in most), default=0),
        "requests_in_a_second": max(
            bisect_left(times, first + 1.0) - place
            for times in map(sorted, map(began.__getitem__, others))
            for place, first in enumerate(times)
        ),
        "least_seconds_between": min(then - now for host in others for now, then in pairwise(sorted(began[host]))),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Build on clusters and here, and print a table and claims."""
    parser = options_with_data(__doc__)
    parser.add_argument("--out", type=Path, help="folder that keeps everything (default: temporary)")
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--serve", type=Path, help="(of the program itself) be the stand-in web, with this log")
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.serve)
    if os.geteuid() or shutil.which("ip") is None:
        exit_without("network namespaces need root, and `ip`")
    if not mscoco_it(options.data, "validated"):
        exit_without(f"{options.data} lacks mscoco_it")
    num_images = 400 if options.quick else options.images
    with work_folder(options.out) as folder:
        write_upstream(folder / "upstream", options.data, num_images, PORT, hosts_of)
        draw(folder / "drawn", num_images)
        engine = stand_in_engine(folder, options.data, 4 * num_images)
        shard_size = max(50, min(2000, num_images // 8))
        recipe = RECIPE.format(upstream=folder / "upstream", shard_size=shard_size, engine=engine)
        limits = "".join(f'[fetch.hosts."{host}"]\nconcurrency = {LIMITED_AT_ONCE}\n\n' for host in LIMITED)
        recipe = recipe.replace("host_requests_per_s = 100", f"host_requests_per_s = {REQUESTS_PER_S}")
        recipe = recipe.replace(
            "[normalise]", f'[fetch.hosts."{COCO_HOST}"]\nrequests_per_s = 400\n\n{limits}[normalise]'
        )
        (folder / f"{NAME}.toml").write_text(recipe)
        return rehearse(folder, is_quick=options.quick)


def rehearse(folder: Path, *, is_quick: bool) -> int:
    """Run all builds that the folder does not have, and print what they took."""
    record = folder / "measured.json"
    found = json.loads(record.read_text("utf-8")) if record.is_file() else {}

    def measured(name: str, run: Callable[[Path], float]) -> None:
        if name in found:
            return
        root = folder / name
        shutil.rmtree(root, ignore_errors=True)
        for each in ("requests", "translated"):
            shutil.rmtree(folder / each, ignore_errors=True)
            (folder / each).mkdir()
        root.mkdir()
        seconds = run(root)
        times = [tuple(map(float, log.read_text().split())) for log in (folder / "translated").iterdir()]
        translating = max(end for _, end in times) - min(start for start, _ in times)
        found[name] = {"seconds": seconds, "translating": translating, "files": published(root), **politeness(folder)}
        record.write_text(json.dumps(found), "utf-8")
        shutil.copytree(folder / "requests", root / "requests")

    if not is_quick:
        measured("four", lambda root: on_cluster(folder, root, WORKERS, ()))
    whole = 60 if is_quick else found["four"]["seconds"]
    measured("killed", lambda root: on_cluster(folder, root, WORKERS, (0.4 * whole, 0.5 * whole)))

    def here(root: Path) -> float:
        with ExitStack() as exits:
            log = folder / "requests" / "here"
            web = subprocess.Popen([sys.executable, __file__, "--serve", str(log)])
            exits.callback(web.wait)
            exits.callback(web.kill)
            time.sleep(3)
            started = time.perf_counter()
            wait_for(build(folder, root, "--executor", "local"), folder)
            return time.perf_counter() - started

    measured("here", here)
    if not is_quick:
        measured("one", lambda root: on_cluster(folder, root, 1, ()))
    first = found["here"]["files"]
    rows = [
        {
            "build": name,
            "seconds": f"{each['seconds']:,.0f}",
            "translating s": f"{each['translating']:,.0f}",
            "most requests at once": each["requests_at_once"],
            "of limited hosts": each["requests_at_once_of_limited"],
            "in a second": each["requests_in_a_second"],
            "least s between": f"{each['least_seconds_between']:.4f}",
            "different files": sum(each["files"].get(file) != first.get(file) for file in {**each["files"], **first}),
            "files": len(each["files"]),
        }
        for name, each in found.items()
    ]
    print_table(rows)
    values = {name: max(each[name] for each in found.values()) for name in GOALS if name.startswith("requests_")}
    values["least_seconds_between"] = min(each["least_seconds_between"] for each in found.values())
    values["different_files"] = sum(row["different files"] for row in rows)
    if "one" in found:
        values["efficiency_of_4"] = found["one"]["seconds"] / found["four"]["seconds"] / WORKERS
        values["translate_efficiency_of_4"] = found["one"]["translating"] / found["four"]["translating"] / WORKERS
    return judge(values, GOALS)


if __name__ == "__main__":
    sys.exit(main())
