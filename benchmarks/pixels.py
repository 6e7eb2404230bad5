"""Reading tars of a WebDataset beside the library `webdataset`: python benchmarks/pixels.py [--quick].

The tars have 10,000 samples each, as img2dataset writes: an image of 100 KB (random bytes after a JPEG's start: nothing
is decoded), a text and a JSON. vernaclip reads all captions and then all images, as a build does; `webdataset` yields
all members of each sample in one pass, undecoded. Both work on one thread, from files that the system has in memory.
Peak memory is that of a new process that reads all tars, its modules included. `--quick` times two rounds.
"""

import io
import json
import sys
import tarfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from random import Random

from harness import exit_without, in_new_process, judge, medians, options_of, peak_mb, print_table, race, work_folder

TARS, SAMPLES_PER_TAR, IMAGE_BYTES = 2, 10_000, 100_000
ROUNDS, QUICK_ROUNDS = 5, 2
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


def read_all(name: str, files: Sequence[str]) -> int:
    """Read all samples with a reader, keeping none; return how many."""
    return sum(len(image) == IMAGE_BYTES for _, image in READERS[name](files))


def peak_of(name: str, files: Sequence[str]) -> float:
    """Return the peak memory in MB of a process that reads all samples."""
    read_all(name, files)
    return peak_mb()


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
        files, total = [str(path) for path in paths], sum(path.stat().st_size for path in paths)
        # The same samples in the same order; this also brings the files into the system's memory.
        pairs = zip(read_vernaclip(files), read_webdataset(files), strict=True)
        assert sum(a == b for a, b in pairs) == TARS * SAMPLES_PER_TAR
        peaks = {name: in_new_process(peak_of, name, files) for name in READERS}
        times = race({name: lambda name=name: read_all(name, files) for name in READERS}, rounds)
    rates = {name: TARS * SAMPLES_PER_TAR / seconds for name, seconds in medians(times).items()}
    rows = [
        {
            "reader": name,
            "rows/s": f"{rates[name]:,.0f}",
            "slowest": f"{TARS * SAMPLES_PER_TAR / max(times[name]):,.0f}",
            "fastest": f"{TARS * SAMPLES_PER_TAR / min(times[name]):,.0f}",
            "peak MB": f"{peaks[name]:.0f}",
        }
        for name in READERS
    ]
    print_table(
        rows, f"{TARS} tars, {total / 1e9:.2f} GB, {TARS * SAMPLES_PER_TAR:,} samples; medians of {rounds} rounds"
    )
    beside = rates["vernaclip"] / rates["webdataset"]
    return judge({"peak_mb": peaks["vernaclip"], "rows_beside_webdataset": beside}, GOALS)


if __name__ == "__main__":
    sys.exit(main())
