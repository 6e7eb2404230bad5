"""The folder beside a package that keeps its training: to resume it, to look at it, and to continue from it."""

import hashlib
import importlib.metadata
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_catalog.errors import DamagedError, InputError, SettingsError
from data_catalog.storage.shards import digest, read_json, write_bytes, write_json
from translation.train.config import TrainPackageConfig
from translation.train.pairs import Pair, ParallelCaptions
from translation.train.state import REMEDY

SUFFIX = ".training"
RUN_FILE = "run.json"
STATE_FILE = "state.safetensors"
WEIGHTS_FILE = "best.safetensors"
VOCABULARY_FILE = "sentencepiece.model"
HELD_OUT_FILE = "held_out.tsv"
REPORT_FILE = "report.html"

# Settings that an earlier training's weights fix.
SIZES = ("vocabulary_size", "embed_dim", "num_heads", "ffn_dim", "num_encoder_layers", "num_decoder_layers")
_LIBRARIES = ("torch", "sentencepiece", "ctranslate2", "sacrebleu")
_VERSION = 1  # of the training code: raise it when equal settings would no longer give equal weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is trained on.

    Args:
        pairs_sha256: of each file of pairs, in their order.
        held_out_sha256: of the file of held-out pairs, if one was given.
        continued: key of the training whose weights are the start, if any.
    """

    from_code: str
    to_code: str
    pairs_sha256: tuple[str, ...]
    held_out_sha256: str | None
    continued: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A training to continue from."""

    folder: Path
    key: str
    sizes: dict[str, int]
    held_out: list[Pair]

    def sized(self, config: TrainPackageConfig) -> TrainPackageConfig:
        """`config` with the sizes that this training's weights have."""
        return replace(config, **self.sizes)  # type: ignore[arg-type]


def training_folder(out: Path) -> Path:
    """The folder of the training that writes the package `out`."""
    return out.with_name(out.name + SUFFIX)


def training_key(sources: Sources, config: TrainPackageConfig, data: ParallelCaptions) -> str:
    """What a training is made of, as one digest: equal keys give equal packages.

    Of the pairs as well as of their files: what is dropped hangs on the language checks.
    """
    return digest(
        {
            "version": _VERSION,
            "sources": asdict(sources),
            "config": asdict(config),
            "pairs": {"training": _pairs_sha256(data.training), "held_out": _pairs_sha256(data.held_out)},
            "dropped": data.dropped,
            "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        }
    )


def _pairs_sha256(pairs: Iterable[Pair]) -> str:
    hasher = hashlib.sha256()
    for source, target in pairs:
        hasher.update(f"{source}\t{target}\n".encode())
    return hasher.hexdigest()


def begin(folder: Path, sources: Sources, config: TrainPackageConfig, data: ParallelCaptions) -> str:
    """Write what the training is made of, or see that it is what is there already; returns its key.

    Another training that has come to no state yet is replaced: settings that turn out not to work can be corrected.

    Raises:
        SettingsError: the folder holds another training.
    """
    key = training_key(sources, config, data)
    path = folder / RUN_FILE
    if path.is_file() and _read_run(path).key == key:
        return key
    if (folder / STATE_FILE).is_file():
        raise SettingsError(f"{folder} holds a training with other settings, pairs or libraries: {REMEDY}")
    (folder / VOCABULARY_FILE).unlink(missing_ok=True)  # of the other one, and before the record of this one
    write_json(path, {"key": key, "sources": asdict(sources), "config": asdict(config)})
    return key


def save_held_out(folder: Path, held_out: list[Pair]) -> None:
    """Keep the held-out pairs, so that what continues from this training holds them out as well."""
    content = "".join(f"{source}\t{target}\n" for source, target in held_out).encode()
    write_bytes(folder / HELD_OUT_FILE, content)


def read_held_out(folder: Path) -> list[Pair]:
    """The held-out pairs as they were given to `save_held_out`.

    Raises:
        DamagedError: the file is damaged.
    """
    path = folder / HELD_OUT_FILE
    try:
        # Of bytes: a text file would take carriage returns, which texts may hold, for ends of lines.
        lines = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedError(f"{path} cannot be read ({error}): get the folder of that training again") from error
    pairs = [line.split("\t") for line in lines[:-1]]
    if not pairs or lines[-1] or any(len(fields) != 2 for fields in pairs):
        raise DamagedError(f"{path} is damaged, and without it nobody knows what was held out: get the folder again")
    return [(source, target) for source, target in pairs]


def open_earlier(package: Path, *, from_code: str, to_code: str) -> Earlier:
    """The training of an earlier package.

    Args:
        package: the `.argosmodel` that the training wrote.

    Raises:
        InputError: it is not there, unfinished perhaps; or its folder is gone, or of other languages.
        DamagedError: its folder is damaged.
    """
    if not package.is_file():
        raise InputError(f"{package} cannot be continued, for it is no file: give a package whose training has ended")
    folder = training_folder(package)
    files = [folder / name for name in (RUN_FILE, WEIGHTS_FILE, VOCABULARY_FILE, HELD_OUT_FILE)]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise InputError(
            f"{package} cannot be continued: {folder}, which `mt train` writes beside a package, lacks "
            f"{', '.join(missing)}"
        )
    run = _read_run(folder / RUN_FILE)
    if (run.from_code, run.to_code) != (from_code, to_code):
        raise InputError(f"{package} translates {run.from_code} to {run.to_code}, not {from_code} to {to_code}")
    return Earlier(folder=folder, key=run.key, sizes=run.sizes, held_out=read_held_out(folder))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    key: str
    from_code: str
    to_code: str
    sizes: dict[str, int]


def _read_run(path: Path) -> _Run:
    try:
        run = read_json(path)
        return _Run(
            key=run["key"],
            from_code=run["sources"]["from_code"],
            to_code=run["sources"]["to_code"],
            sizes={name: run["config"][name] for name in SIZES},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"{path} is no record of a training ({error}): remove {path.parent} to train anew"
        ) from error
