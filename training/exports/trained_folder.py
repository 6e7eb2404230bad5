"""The trained model that is exported, checked to the last byte, and the proof that an export scores as it does."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch

from data_catalog.errors import DamagedError, DefectError, InputError
from data_catalog.storage.integrity import FOLDER_RECORD, file_problem, read_record
from training.data.images import Features
from training.fit.loop import TrainResult
from training.towers.model import OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE, LoadedModel, load_model
from training.towers.model_files import read_object, read_open_clip_config
from training.trained_models import RESULT_FILE, RUN_FILE

_REMEDY = "train it again, or name another model"
# Most that a number of a unit feature, or a cosine, may differ.
TOLERANCE = 1e-4
# One word, capitals and punctuation, blanks, other scripts, curly quotes, and more than fits in any context.
TEXTS = (
    "una",
    "Un CANE nero, che corre sull'erba: verde!",
    "  due\t spazi  e\na capo ",
    "γάτα 猫 кошка",
    "“l’albero” della città",
    "parola " * 300,
)


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
        """Return the config of the text tower."""
        return dict(self.model_config["text_cfg"])

    @property
    def has_encoder(self) -> bool:
        """Tell whether the text tower is an encoder of Hugging Face."""
        return "hf_model_name" in self.text_config

    @property
    def context_length(self) -> int:
        """Return the most tokens of a text."""
        return int(self.text_config["context_length"])

    @property
    def logit_scale(self) -> float:
        """Return what cosines are multiplied with."""
        return float(self.loaded.module.logit_scale.exp().item())

    @property
    def logit_bias(self) -> float | None:
        """Return what is added to them then; None where the model has none."""
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
    record = folder / FOLDER_RECORD  # which training in a root writes at its very end
    for name, sha256 in read_record(record, remedy=_REMEDY).items() if record.is_file() else ():
        problem = file_problem(folder / name, sha256)
        if problem is not None:
            raise DamagedError(f"{problem}: {_REMEDY}")
    result = _result(folder / RESULT_FILE)
    run = read_object(folder / RUN_FILE, remedy=_REMEDY)
    if not isinstance(run.get("key"), str) or not isinstance(run.get("settings"), dict):
        raise DamagedError(f"{folder / RUN_FILE} is damaged (it has no key or no settings of a run): {_REMEDY}")
    model_config, loaded = read_open_clip_config(folder / OPEN_CLIP_CONFIG_FILE), load_model(folder)
    if loaded.sha256 != result.model_sha256:
        raise DamagedError(f"{folder / WEIGHTS_FILE} is not what {RESULT_FILE} says that training wrote: {_REMEDY}")
    return TrainedFolder(folder=folder, model_config=model_config, loaded=loaded, run=run, result=result)


def _result(path: Path) -> TrainResult:
    values = read_object(path, remedy=_REMEDY)
    kinds = get_type_hints(TrainResult)
    try:
        for name, value in values.items():
            # JSON writes 2.0 as 2.0, and people 2.
            kind = kinds[name] | int if float in (kinds[name], *get_args(kinds[name])) else kinds[name]
            if isinstance(value, bool) or not isinstance(value, kind):
                raise TypeError(f"{name} is {value!r}")
        return TrainResult(**values)
    except (TypeError, KeyError) as error:
        raise DamagedError(f"{path} is damaged ({error}): {_REMEDY}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What goes through the models, and what ours made of it.

    Args:
        pixels: normalised images, float32 of shape (images, 3, size, size).
        ids: of `TEXTS`, int64 of shape (texts, longest), filled up with padding.
        image_features: unit rows.
        text_features: unit rows.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    image_features: Features
    text_features: Features


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWriter:
    """What writes a model in one format, proves it, and says how it is read.

    Args:
        write: fills a folder, but for the card; it gets the place where the folder will lie, and its name on the hub.
        check: reads the folder back and compares; returns the largest difference, or raises DefectError.
        how_to_read: Markdown that says how the folder is read; it gets the name on the hub.
        why_not: what of an architecture it has no equivalent for, in words; None if it has all.
        require: raises InputError where what it needs is not installed.
    """

    write: Callable[[TrainedFolder, Path, Path, str | None], None]
    check: Callable[[TrainedFolder, Probe, Path], float]
    how_to_read: Callable[[TrainedFolder, str | None], str]
    why_not: Callable[[dict[str, Any]], str | None] = lambda _: None
    require: Callable[[], None] = lambda: None


def make_probe(trained: TrainedFolder) -> Probe:
    """Run random pixels and `TEXTS` through our own model."""
    size, module = trained.loaded.image_size, trained.loaded.module
    pixels = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    ids = trained.loaded.tokenizer(TEXTS)
    with torch.no_grad():
        return Probe(
            pixels=pixels,
            ids=ids,
            image_features=module.encode_image(pixels, normalize=True).numpy(),
            text_features=module.encode_text(ids, normalize=True).numpy(),
        )


def require_same_ids(probe: Probe, ids: Sequence[Sequence[int]], what: str) -> None:
    """Make sure that an export's tokenizer says what ours does.

    Raises:
        DefectError: it does not.
    """
    for text, ours, theirs in zip(TEXTS, probe.ids.tolist(), ids, strict=True):
        if ours != list(theirs):
            raise DefectError(
                f"{what}: its tokenizer reads {text[:40]!r} otherwise than the model's, so that it would score "
                "otherwise: nothing is written"
            )


def require_same_scores(probe: Probe, image_features: Features, text_features: Features, what: str) -> float:
    """Make sure that an export scores as ours does; returns by how much its numbers differ at most.

    Raises:
        DefectError: it does not, to `TOLERANCE`.
    """
    ours, theirs = probe.image_features @ probe.text_features.T, image_features @ text_features.T
    pairs = [(probe.image_features, image_features), (probe.text_features, text_features), (ours, theirs)]
    # NaN comes through numpy's maximum, and is not within anything.
    worst = float(np.max([np.abs(a - b).max() if a.shape == b.shape else np.inf for a, b in pairs]))
    if not worst <= TOLERANCE:
        raise DefectError(
            f"{what}: it scores otherwise than the model (by {worst:.2g}, where {TOLERANCE:g} is allowed): nothing is "
            "written"
        )
    return worst


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """While inside, libraries warn nobody of their own affairs: what matters is proven by the probe."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
