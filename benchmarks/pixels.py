"""Reading tars of a WebDataset beside the library `webdataset`: python benchmarks/pixels.py [--quick].

The tars have 10,000 samples each, as img2dataset writes: an image of 100 KB (random bytes after a JPEG's start: nothing
is decoded), a text and a JSON. vernaclip reads all captions and then all images, as a build does; `webdataset` yields
all members of each sample in one pass, undecoded. Each round is a new process, without an index of an earlier one, and
works on one thread; the files were just written, so that the system has them in memory. Peak memory is that of such a
process, with its modules. `--quick` times one round.
"""

import io
import json
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median

from harness import exit_without, in_new_process, in_turn, judge, options_of, peak_mb, print_table, ratio, work_folder

TARS, SAMPLES_PER_TAR, IMAGE_BYTES = 2, 10_000, 100_000
ROUNDS, QUICK_ROUNDS = 5, 1
GOALS = {"peak_mb": ("<=", 600), "rows_beside_webdataset": (">=", 1.0)}
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000")
Pairs = Iterator[tuple[str, bytes]]


def write_tar(path: Path, first: int) -> None:
    """Write a tar of samples, numbered from `first`."""
    rng = Random(first)
    noise = rng.randbytes(8 * IMAGE_BYTES)
    with tarfile.open(path, "w") as tar:
        for number in range(first, first + SAMPLES_PER_TAR):
            start = rng.randrange(7 * IMAGE_BYTES)
            key, caption = f"{number:09d}", f"a photograph of {number} boats in a harbour"
            url = f"https://images.example.com/{number}.jpg"
            record = {"caption": caption, "url": url, "key": key, "status": "success", "width": 256, "height": 256}
            image = JPEG + noise[start : start + IMAGE_BYTES - len(JPEG)]
            for suffix, body in (("jpg", image), ("txt", caption.encode()), ("json", json.dumps(record).encode())):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))


def read_vernaclip(files: Sequence[str]) -> Pairs:
    """Read all captions, then the image of each."""
    from data_catalog.sources.image_files import open_images
    from data_catalog.sources.registry import SOURCE_KINDS

    kind = SOURCE_KINDS["webdataset"]
    config = kind.config_type(files=tuple(files), lang="en")
    rows = list(kind.read(config))
    images = open_images(config.images)
    yield from ((row.caption, images.read(row.path)) for row in rows)
    images.close()


def read_webdataset(files: Sequence[str]) -> Pairs:
    """Read samples with `webdataset`."""
    from webdataset import WebDataset

    for sample in WebDataset(list(files), shardshuffle=False):
        yield sample["txt"].decode(), sample["jpg"]


READERS = {"vernaclip": read_vernaclip, "webdataset": read_webdataset}


def read_all(name: str, files: Sequence[str]) -> tuple[float, float, float]:
    """Read all samples with a reader, keeping none; return wall seconds, CPU seconds, and this process's peak in MB."""
    import webdataset

    import data_catalog.sources.registry  # noqa: F401  both, so that no import is timed

    assert webdataset.WebDataset
    wall, cpu = time.perf_counter(), time.process_time()
    found = sum(len(image) == IMAGE_BYTES for _, image in READERS[name](files))
    assert found == TARS * SAMPLES_PER_TAR
    return time.perf_counter() - wall, time.process_time() - cpu, peak_mb()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table and claims."""
    parser = options_of(__doc__)
    rounds = QUICK_ROUNDS if parser.parse_args(arguments).quick else ROUNDS
    if find_spec("webdataset") is None:
        exit_without("webdataset is not installed: pip install webdataset")
    with work_folder(None) as folder:
        paths = [folder / f"{number:05d}.tar" for number in range(TARS)]
        for number, path in enumerate(paths):
            write_tar(path, number * SAMPLES_PER_TAR)
        files, size = [str(path) for path in paths], sum(path.stat().st_size for path in paths)
        # The same samples in the same order; the start is enough, and the counts are checked in each round.
        pairs = islice(zip(read_vernaclip(files[:1]), read_webdataset(files[:1]), strict=True), 1_000)
        assert all(ours == theirs for ours, theirs in pairs)
        found = in_turn({name: partial(in_new_process, read_all, name, files) for name in READERS}, rounds)
    walls, cpus, peaks = ({name: [each[at] for each in found[name]] for name in READERS} for at in range(3))
    samples = TARS * SAMPLES_PER_TAR
    rows = [
        {
            "reader": name,
            "rows/s": f"{samples / median(walls[name]):,.0f}",
            "slowest": f"{samples / max(walls[name]):,.0f}",
            "fastest": f"{samples / min(walls[name]):,.0f}",
            "CPU ms/row": f"{median(cpus[name]) * 1000 / samples:.3f}",
            "peak MB": f"{max(peaks[name]):.0f}",
        }
        for name in READERS
    ]
    print_table(rows, f"{TARS} tars, {size / 1e9:.2f} GB, {samples:,} samples; medians of {rounds} rounds")
    beside = ratio(walls["webdataset"], walls["vernaclip"])
    return judge({"peak_mb": max(peaks["vernaclip"]), "rows_beside_webdataset": beside}, GOALS)


if __name__ == "__main__":
    sys.exit(main())
