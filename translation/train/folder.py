"""The folder beside a package that keeps its training: to resume it, to look at it, and to continue from it."""

import importlib.metadata
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_catalog.errors import ConfigError
from data_catalog.shards import digest, read_json, write_atomically, write_json
from translation.train.config import TrainPackageConfig
from translation.train.pairs import Pair
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


def training_key(sources: Sources, config: TrainPackageConfig) -> str:
    """What a training is made of, as one digest: equal keys give equal packages."""
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return digest({"version": _VERSION, "sources": asdict(sources), "config": asdict(config), "libraries": versions})


def begin(folder: Path, sources: Sources, config: TrainPackageConfig) -> str:
    """Write what the training is made of, or see that it is what is there already; returns its key.

    Raises:
        ConfigError: the folder holds another training.
    """
    key = training_key(sources, config)
    path = folder / RUN_FILE
    if path.is_file():
        if _read_run(path).key != key:
            raise ConfigError(f"{folder} holds a training with other settings, pairs or libraries: {REMEDY}")
    else:
        write_json(path, {"key": key, "sources": asdict(sources), "config": asdict(config)})
    return key


def save_held_out(folder: Path, held_out: list[Pair]) -> None:
    """Keep the held-out pairs, so that what continues from this training holds them out as well."""
    text = "".join(f"{source}\t{target}\n" for source, target in held_out)
    write_atomically(folder / HELD_OUT_FILE, lambda temporary: _write(temporary, text))


def open_earlier(package: Path, *, from_code: str, to_code: str) -> Earlier:
    """The training of an earlier package.

    Args:
        package: the `.argosmodel` that the training wrote.

    Raises:
        ConfigError: its folder is gone, unfinished, or of another pair of languages.
    """
    folder = training_folder(package)
    files = [folder / name for name in (RUN_FILE, WEIGHTS_FILE, VOCABULARY_FILE, HELD_OUT_FILE)]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ConfigError(
            f"{package} cannot be continued: {folder}, which `mt train` writes beside a package, lacks "
            f"{', '.join(missing)}"
        )
    run = _read_run(folder / RUN_FILE)
    if (run.from_code, run.to_code) != (from_code, to_code):
        raise ConfigError(f"{package} translates {run.from_code} to {run.to_code}, not {from_code} to {to_code}")
    lines = (folder / HELD_OUT_FILE).read_text(encoding="utf-8").split("\n")[:-1]
    held_out = [(source, target) for source, _, target in (line.partition("\t") for line in lines)]
    return Earlier(folder=folder, key=run.key, sizes=run.sizes, held_out=held_out)


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
        raise ConfigError(f"{path} is no record of a training ({error}): remove {path.parent} to train anew") from error


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
