"""The page of `vernaclip demo` under load: python benchmarks/page_load.py [--quick] [--scratch FOLDER].

A small sample is built, a model trained on it for one step, and `vernaclip demo` serves both in a process of its own.
Of ten requests, four search, three upload an image to classify, one uploads an image to localize, and two filter the
dataset. A request is lost if it gets no answer, an error, or the answer to another request. After a warm-up of 100
requests, and after every further 100, while the clients wait, the table shows the memory, threads, open files and
uploads of the server. The page keeps uploads for ten minutes at most: the last claim is about those left when it has
ended. `--quick` sends 40 and 40.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from gradio_client import Client, handle_file
from harness import Goals, judge, options_of, print_table, work_folder
from pictures import write_photographs

CLIENTS = 20
BATCH, NUM_BATCHES = 100, 10
QUICK_BATCH, QUICK_NUM_BATCHES = 40, 1
KINDS = ("search", "classify", "samples", "search", "classify", "localize", "search", "classify", "samples", "search")
ALL_SAMPLES = ("", "", "", "", "", "translation_score", "", "")  # what an untouched form sends
NUM_IMAGES = 80
WAIT_S = 600.0  # the answer of a busy machine is late, not lost
GOALS: Goals = {
    "lost-requests": ("<=", 0),
    "memory-growth": ("<=", 1.1),
    "more-threads": ("<=", 5),  # pools of threads grow and shrink
    "more-open-files": ("<=", 5),
    "uploads-left": ("<=", 0),
}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prepare(root: Path) -> None:
    """Build the sample in English, and train a model on it for one step."""
    import vernaclip

    port = free_port()
    settings = {"target_language": "en", "scenes.target_language": "en", "scenes.num_images": NUM_IMAGES}
    # Splits depend on addresses, and so on the port: a small val could have a single image.
    settings |= {"scenes.base_url": f"http://127.0.0.1:{port}", "serve.port": port, "split.val": 0.2}
    vernaclip.build("scenes", root, settings=settings)
    vernaclip.train("scenes", root, settings={**settings, "train": {"steps": 1, "precision": "fp32"}})


@contextmanager
def serving(root: Path, uploads: Path) -> Iterator[tuple[str, int]]:
    """Serve the page in a new process; yield its address and process id."""
    port = free_port()
    command = [sys.executable, "-m", "vernaclip", "demo", "--root", str(root), "--port", str(port)]
    environment = {**os.environ, "TMPDIR": str(uploads)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            print(process.stdout.readline())
            yield f"http://127.0.0.1:{port}/", process.pid
        finally:
            process.terminate()


def is_answered(client: Client, number: int, picture: Path) -> bool:
    """Send one request; return True if its own answer comes."""
    kind, wanted = KINDS[(number + number // CLIENTS) % len(KINDS)], f"two red circles {number}"
    try:
        if kind == "search":
            num_images = 1 + number % 12
            return str(client.predict(wanted, num_images, api_name="/search")).count("<figure>") == num_images
        if kind == "samples":
            page = 1 + number % 3
            answer = client.predict(*ALL_SAMPLES, page, api_name="/samples")
            return f"; page {page} of" in answer[0]
        if kind == "classify":
            labels = client.predict(handle_file(picture), f"{wanted}\na blue star", api_name="/classify")[0]
            return wanted in (choice["label"] for choice in labels["confidences"])
        heat, note = client.predict(handle_file(picture), wanted, api_name="/localize")
        return Path(heat).stat().st_size > 0 and "osine" in note
    except Exception as error:  # noqa: BLE001 -- whatever a client raises, the request is lost
        print(f"{kind} {number}: {type(error).__name__}: {error}")
        return False


def state_of(process: int, uploads: Path) -> dict[str, int]:
    """Return the memory in MB, threads, open files and uploads of a server."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text("utf-8").splitlines())
    return {
        "MB": int(status["VmRSS"].split()[0]) // 1024,
        "threads": int(status["Threads"]),
        "open files": len(list(Path(f"/proc/{process}/fd").iterdir())),
        "uploads": sum(path.is_file() for path in uploads.rglob("*")),
    }


def load(
    address: str, process: int, uploads: Path, pictures: Sequence[Path], *, batch: int, num_batches: int
) -> tuple[list[dict[str, float]], int]:
    """Send the warm-up and the batches; return the rows of the table and the number of lost requests."""
    clients = [
        Client(address, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": WAIT_S})
        for _ in range(CLIENTS)
    ]
    rows: list[dict[str, float]] = []
    lost = 0

    def ask(place: int, first: int) -> int:
        numbers = range(first + place, first + batch, CLIENTS)
        return sum(not is_answered(clients[place], number, pictures[number % len(pictures)]) for number in numbers)

    with ThreadPoolExecutor(CLIENTS) as pool:
        for first in range(0, batch * (num_batches + 1), batch):
            started = time.perf_counter()
            lost += sum(pool.map(ask, range(CLIENTS), [first] * CLIENTS))
            rate = batch / (time.perf_counter() - started)
            time.sleep(1)  # the server closes what a finished request opened
            rows.append({"requests": first + batch, "requests/s": round(rate, 1), **state_of(process, uploads)})
    return rows, lost


def main() -> int:
    """Build, serve, ask, and judge the claims."""
    parser = options_of(__doc__)
    parser.add_argument("--scratch", type=Path, help="folder to build in, or that already contains the sample")
    options = parser.parse_args()
    with work_folder(options.scratch) as work:
        root, uploads = work / "root", work / "uploads"
        uploads.mkdir(exist_ok=True)
        if not (root / "models").is_dir():
            prepare(root)
        (work / "pictures").mkdir(exist_ok=True)
        write_photographs(work / "pictures", 8)
        pictures = sorted((work / "pictures").iterdir())
        with serving(root, uploads) as (address, process):
            batch, num_batches = (QUICK_BATCH, QUICK_NUM_BATCHES) if options.quick else (BATCH, NUM_BATCHES)
            rows, lost = load(address, process, uploads, pictures, batch=batch, num_batches=num_batches)
        left = sum(path.is_file() for path in uploads.rglob("*"))
    print_table(rows, f"{CLIENTS} clients; the first row is the warm-up; {lost} requests lost")
    first, last = rows[0], rows[-1]
    return judge(
        {
            "lost-requests": float(lost),
            "memory-growth": max(row["MB"] for row in rows[1:]) / first["MB"],
            "more-threads": last["threads"] - first["threads"],
            "more-open-files": last["open files"] - first["open files"],
            "uploads-left": left,
        },
        GOALS,
        "page-",
    )


if __name__ == "__main__":
    sys.exit(main())
