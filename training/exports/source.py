"""The trained model that is exported: a folder that training finished, checked to the last byte."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from data_catalog.errors import DamagedError, InputError
from data_catalog.storage.integrity import FOLDER_RECORD, file_problem, read_record
from data_catalog.storage.shards import sha256_of
from training.fit.loop import TrainResult
from training.towers.model import OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE, LoadedModel, load_model
from training.towers.model_files import read_object, read_open_clip_config
from training.trained_models import RESULT_FILE, RUN_FILE

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
        InputError: it holds no model whose training was finished.
        DamagedError: a file is missing, damaged or another's.
    """
    for name in (OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE, RUN_FILE, RESULT_FILE):
        if not (folder / name).is_file():
            raise InputError(f"{folder} holds no finished model, since it has no {name}: {_REMEDY}")
    _require_as_written(folder)
    result = _result(folder / RESULT_FILE)
    if sha256_of(folder / WEIGHTS_FILE) != result.model_sha256:
        raise DamagedError(f"{folder / WEIGHTS_FILE} is not what {RESULT_FILE} says that training wrote: {_REMEDY}")
    return TrainedFolder(
        folder=folder,
        model_config=read_open_clip_config(folder / OPEN_CLIP_CONFIG_FILE),
        loaded=load_model(folder),
        run=_run(folder / RUN_FILE),
        result=result,
    )


def _require_as_written(folder: Path) -> None:
    """Compare with `files.json`, which training in a root writes at its very end."""
    record = folder / FOLDER_RECORD
    if not record.is_file():
        return
    for name, sha256 in read_record(record, remedy=_REMEDY).items():
        problem = file_problem(folder / name, sha256)
        if problem is not None:
            raise DamagedError(f"{problem}: {_REMEDY}")


def _result(path: Path) -> TrainResult:
    values = read_object(path, remedy=_REMEDY)
    kinds = get_type_hints(TrainResult)
    try:
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, _also_whole(kinds[name])):
                raise TypeError(f"{name} is {value!r}")
        return TrainResult(**values)
    except (TypeError, KeyError) as error:
        raise DamagedError(f"{path} is damaged ({error}): {_REMEDY}") from error


def _also_whole(kind: Any) -> Any:
    """JSON writes 2.0 as 2.0, and people 2."""
    return kind | int if float in (kind, *get_args(kind)) else kind


def _run(path: Path) -> dict[str, Any]:
    found = read_object(path, remedy=_REMEDY)
    if not isinstance(found.get("key"), str) or not isinstance(found.get("settings"), dict):
        raise DamagedError(f"{path} is damaged (it has no key or no settings of a run): {_REMEDY}")
    return found
