"""The trained model that is exported: a folder that training finished, checked to the last byte."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.checksummed import read_checksummed
from data_catalog.errors import ConfigError
from data_catalog.recorded_files import FOLDER_RECORD
from data_catalog.shards import read_json, sha256_of
from training.loop import TrainResult
from training.model import OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE, LoadedModel, load_model
from training.run import RESULT_FILE, RUN_FILE

_REMEDY = "train it again, or name another model"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedFolder:
    """A finished model, in memory.

    Args:
        folder: where it lies.
        model_config: the open_clip model config.
        loaded: the model and its tokenizer.
        run: what `run.json` says: the run's key and settings.
        result: what training made.
    """

    folder: Path
    model_config: dict[str, Any]
    loaded: LoadedModel
    run: dict[str, Any]
    result: TrainResult

    @property
    def text_config(self) -> dict[str, Any]:
        """Of the text tower."""
        return dict(self.model_config["text_cfg"])

    @property
    def has_encoder(self) -> bool:
        """Whether the text tower is an encoder of Hugging Face."""
        return "hf_model_name" in self.text_config

    @property
    def context_length(self) -> int:
        """Most tokens of a text."""
        return int(self.text_config["context_length"])

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied with."""
        return float(self.loaded.module.logit_scale.exp().item())

    @property
    def logit_bias(self) -> float | None:
        """What is added to them then; None where the model has none."""
        bias = self.loaded.module.logit_bias
        return None if bias is None else float(bias.item())


def open_trained(folder: Path) -> TrainedFolder:
    """Read a model folder, and make sure that it is what training wrote.

    Raises:
        ConfigError: it holds no model whose training was finished, or a file is missing, damaged or another's.
    """
    for name in (OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE, RUN_FILE, RESULT_FILE):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} holds no finished model, since it has no {name}: {_REMEDY}")
    _require_as_written(folder)
    result = _result(folder / RESULT_FILE)
    if sha256_of(folder / WEIGHTS_FILE) != result.model_sha256:
        raise ConfigError(f"{folder / WEIGHTS_FILE} is not what {RESULT_FILE} says that training wrote: {_REMEDY}")
    model_config = _read(folder / OPEN_CLIP_CONFIG_FILE).get("model_cfg")
    if not isinstance(model_config, dict):
        raise ConfigError(f"{folder / OPEN_CLIP_CONFIG_FILE} has no model_cfg: {_REMEDY}")
    return TrainedFolder(
        folder=folder,
        model_config=model_config,
        loaded=load_model(folder),
        run=_read(folder / RUN_FILE),
        result=result,
    )


def _require_as_written(folder: Path) -> None:
    """Compare with `files.json`, which training in a root writes at its very end."""
    record = folder / FOLDER_RECORD
    if not record.is_file():
        return
    for name, sha256 in read_checksummed(record, remedy=_REMEDY).get("files", {}).items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != sha256:
            problem = "is not what training wrote" if path.is_file() else "is missing"
            raise ConfigError(f"{path} {problem}: {_REMEDY}")


def _result(path: Path) -> TrainResult:
    try:
        return TrainResult(**_read(path))
    except TypeError as error:
        raise ConfigError(f"{path} is damaged ({error}): {_REMEDY}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is damaged ({error}): {_REMEDY}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is damaged (it is no JSON object): {_REMEDY}")
    return found
