"""Open a trained model for export, with all checksums verified, and check that exports score like it."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_catalog.base.errors import DamagedError, DefectError, InputError
from data_catalog.catalog.manifest import RUN_FILE
from data_catalog.disk.records import FOLDER_RECORD, file_problem, read_record
from training.data.images import Features
from training.runs.attempts import Result, read_result
from training.towers.lineage import read_lineage
from training.towers.model import OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE, LoadedModel, load_model
from training.towers.model_files import read_object, read_open_clip_config
from training.towers.trained_models import RESULT_FILE

_REMEDY = "train it again, or use another model"
# Largest allowed difference of a number of a unit feature, or of a cosine.
TOLERANCE = 1e-4
# Test texts: one word, capitals and punctuation, spaces, other scripts, curly quotes, and one longer than any context.
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
    """A finished model, loaded into memory.

    Args:
        folder: the model folder.
        model_config: the open_clip model config.
        loaded: the model and its tokenizer.
        run: content of `run.json`: the run's key and settings.
        result: result of the training.
    """

    folder: Path
    model_config: dict[str, Any]
    loaded: LoadedModel
    run: dict[str, Any]
    result: Result

    @property
    def learned(self) -> frozenset[str]:
        """Return the sha256 of the pair shards that the model learned from, also through its start and teacher."""
        return frozenset(self.run["learned"])

    @property
    def borrowed(self) -> list[dict[str, str]]:
        """Return the initial weights of other people: `tower`, `weights` and `license`."""
        found: list[dict[str, str]] = self.run["borrowed"]
        return found

    @property
    def text_config(self) -> dict[str, Any]:
        """Return the config of the text tower."""
        return dict(self.model_config["text_cfg"])

    @property
    def has_encoder(self) -> bool:
        """Return whether the text tower is a Hugging Face encoder."""
        return "hf_model_name" in self.text_config

    @property
    def encoder(self) -> Any:
        """Return the config of the Hugging Face encoder, or None."""
        return self.loaded.module.text.config if self.has_encoder else None

    @property
    def context_length(self) -> int:
        """Return the maximum number of tokens of a text."""
        return int(self.text_config["context_length"])

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
    """Load a model folder, and check that its files are those that training wrote.

    Raises:
        InputError: it contains no finished model.
        DamagedError: a file is missing, damaged, or belongs to another model.
    """
    for name in (OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE, RUN_FILE, RESULT_FILE):
        if not (folder / name).is_file():
            raise InputError(f"{folder} contains no finished model, because {name} is missing: {_REMEDY}")
    record = folder / FOLDER_RECORD  # written last, by training in a root
    for name, sha256 in read_record(record, remedy=_REMEDY).items() if record.is_file() else ():
        problem = file_problem(folder / name, sha256)
        if problem is not None:
            raise DamagedError(f"{problem}: {_REMEDY}")
    result = read_result(folder / RESULT_FILE)
    run = read_object(folder / RUN_FILE, remedy=_REMEDY)
    if not all(
        isinstance(run.get(name), kind) for name, kind in (("key", str), ("settings", dict), ("borrowed", list))
    ):
        raise DamagedError(f"{folder / RUN_FILE} is damaged (its key or settings are missing): {_REMEDY}")
    read_lineage(folder)  # raises if it is damaged
    model_config, loaded = read_open_clip_config(folder / OPEN_CLIP_CONFIG_FILE), load_model(folder)
    if loaded.sha256 != result.model_sha256:
        raise DamagedError(f"{folder / WEIGHTS_FILE} does not match the sha256 in {RESULT_FILE}: {_REMEDY}")
    return TrainedFolder(folder=folder, model_config=model_config, loaded=loaded, run=run, result=result)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Test inputs, and the model's features of them.

    Args:
        pixels: normalised images, float32, shape (images, 3, size, size).
        ids: padded token ids of `TEXTS`, int64, shape (texts, longest).
        image_features: unit rows.
        text_features: unit rows.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    image_features: Features
    text_features: Features


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWriter:
    """A set of functions that write, check and describe a model in one format.

    Args:
        write: writes all files but the card into a folder. Also gets the hub name.
        check: loads the folder, compares it with the model, and returns the largest difference. Raises DefectError if
            it is too large.
        how_to_read: returns Markdown that explains how to load the folder. Gets the hub name.
        why_not: returns why an architecture has no equivalent in the format, or None if it has one. Gets the model
            config, and the config of a Hugging Face text encoder, or None.
        needs: returns what a model needs beside the format's library, as a sentence, or "". Gets the same as `why_not`.
        require: raises InputError if a needed package is not installed.
    """

    write: Callable[[TrainedFolder, Path, str | None], None]
    check: Callable[[TrainedFolder, Probe, Path], float]
    how_to_read: Callable[[TrainedFolder, str | None], str]
    why_not: Callable[[dict[str, Any], Any], str | None] = lambda _config, _encoder: None
    needs: Callable[[dict[str, Any], Any], str] = lambda _config, _encoder: ""
    require: Callable[[], None] = lambda: None


def make_probe(trained: TrainedFolder) -> Probe:
    """Encode random images and `TEXTS` with the trained model."""
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
    """Check that an export's tokenizer gives the same ids as the model's.

    Raises:
        DefectError: the ids of a text differ.
    """
    for text, ours, theirs in zip(TEXTS, probe.ids.tolist(), ids, strict=True):
        if ours != list(theirs):
            raise DefectError(
                f"{what}: its tokenizer encodes {text[:40]!r} differently from the model's, so its scores would "
                "differ. Nothing was written"
            )


def require_same_scores(probe: Probe, image_features: Features, text_features: Features, what: str) -> float:
    """Check that an export scores like the model, and return the largest difference.

    Raises:
        DefectError: a feature or cosine differs by more than `TOLERANCE`.
    """
    ours, theirs = probe.image_features @ probe.text_features.T, image_features @ text_features.T
    pairs = [(probe.image_features, image_features), (probe.text_features, text_features), (ours, theirs)]
    # NaN passes through numpy's maximum, and fails the comparison.
    worst = float(np.max([np.abs(a - b).max() if a.shape == b.shape else np.inf for a, b in pairs]))
    if not worst <= TOLERANCE:
        raise DefectError(
            f"{what}: its scores differ from the model's by {worst:.2g}, and {TOLERANCE:g} is allowed. "
            "Nothing was written"
        )
    return worst


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence log messages and warnings of libraries while inside, since the probe checks the result."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
