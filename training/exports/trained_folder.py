"""Open a trained model for export, and compare an export with it as another library reads it."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from data_catalog.base.errors import DamagedError, DefectError, InputError
from data_catalog.catalog.manifest import RUN_FILE
from data_catalog.disk.records import FOLDER_RECORD, file_problem, read_record
from training.data.images import Features
from training.runs.attempts import Result, read_result
from training.towers.lineage import Lineage, read_lineage
from training.towers.model import OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE, LoadedModel, load_model, read_object
from training.towers.trained_models import RESULT_FILE
from training.towers.weights import quiet_transformers

_REMEDY = "train it again, or use another model"
# Largest allowed difference of a number of a unit feature, or of a cosine.
TOLERANCE = 1e-4
# One word, capitals and punctuation, spaces, other scripts, curly quotes, and a text longer than any context.
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
    """A finished model, loaded into memory, with its open_clip config and `run.json`, as it is and checked."""

    folder: Path
    model_config: dict[str, Any]
    loaded: LoadedModel
    run: dict[str, Any]
    lineage: Lineage
    result: Result

    @property
    def encoder(self) -> Any:
        """Return the config of the Hugging Face text encoder; None for open_clip's own text tower."""
        return self.loaded.module.text.config if "hf_model_name" in self.model_config["text_cfg"] else None

    @property
    def logit_scale(self) -> float:
        """Return the factor of cosines in logits."""
        return float(self.loaded.module.logit_scale.exp().item())

    @property
    def logit_bias(self) -> float | None:
        """Return the bias of logits, or None if the model has none."""
        bias = self.loaded.module.logit_bias
        return None if bias is None else float(bias.item())


def open_trained(folder: Path) -> TrainedFolder:
    """Load a model folder whose files are those that training wrote."""
    for name in (OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE, RUN_FILE, RESULT_FILE):
        if not (folder / name).is_file():
            raise InputError(f"{folder} contains no finished model, because {name} is missing: {_REMEDY}")
    record = folder / FOLDER_RECORD  # written last, by training in a root
    files = read_record(record, remedy=_REMEDY) if record.is_file() else {}
    result, loaded = read_result(folder / RESULT_FILE), load_model(folder)
    problems = [file_problem(folder / name, sha256) for name, sha256 in files.items()]
    if loaded.sha256 != result.model_sha256:
        problems.append(f"{folder / WEIGHTS_FILE} does not match the sha256 in {RESULT_FILE}")
    for problem in filter(None, problems):
        raise DamagedError(f"{problem}: {_REMEDY}")
    return TrainedFolder(
        folder=folder,
        run=read_object(folder / RUN_FILE),
        lineage=read_lineage(folder),
        result=result,
        model_config=read_object(folder / OPEN_CLIP_CONFIG_FILE)["model_cfg"],  # `load_model` has checked it
        loaded=loaded,
    )


class Encoded(NamedTuple):
    """Token ids of `TEXTS`, and unit features of images and of `TEXTS`."""

    ids: Sequence[Sequence[int]]
    images: Features
    texts: Features


class Format(Protocol):
    """A module that exports models in one format. Gradients are off, and libraries quiet, when it is called."""

    def why_not(self, model_config: Mapping[str, Any], encoder: Any, /) -> str | None:
        """Return why an open_clip model config, or the config of its text encoder, has no equivalent in the format."""

    def write(self, trained: TrainedFolder, folder: Path, hub_name: str | None, /) -> None:
        """Write all files but the card into a folder."""

    def encode(self, folder: Path, pixels: torch.Tensor, /) -> Encoded:
        """Encode `TEXTS` and normalised images with the library that the format is for."""


def encode_by_model(trained: TrainedFolder, pixels: torch.Tensor) -> Encoded:
    """Encode `TEXTS` and images with the trained model itself."""
    module, ids = trained.loaded.module, trained.loaded.tokenizer(TEXTS)
    with torch.no_grad():
        images, texts = module.encode_image(pixels, normalize=True), module.encode_text(ids, normalize=True)
    return Encoded(ids.tolist(), images.numpy(), texts.numpy())


def require_same(ours: Encoded, theirs: Encoded, what: str) -> float:
    """Return the largest difference of an export's features and cosines from the model's, if they agree."""
    problem = f"{what}: nothing was written, because"
    for text, one, other in zip(TEXTS, ours.ids, theirs.ids, strict=True):
        if list(one) != list(other):
            raise DefectError(f"{problem} its tokenizer encodes {text[:40]!r} differently from the model's")
    cosines = ours.images @ ours.texts.T, theirs.images @ theirs.texts.T
    pairs = ((ours.texts, theirs.texts), (ours.images, theirs.images), cosines)
    # NaN passes through numpy's maximum, and fails a comparison.
    worst = float(np.max([np.abs(a - b).max() if a.shape == b.shape else np.inf for a, b in pairs]))
    if not worst <= TOLERANCE:
        raise DefectError(f"{problem} its scores differ from the model's by {worst:.2g}, more than {TOLERANCE:g}")
    return worst


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence log messages and warnings of libraries while inside, since the result is compared with the model."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), quiet_transformers():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
