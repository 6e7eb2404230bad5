"""The formats that a trained model is exported to: what each cannot hold, how it is written, checked and read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.exports import card_texts
from training.exports.hugging_face import check_hugging_face, class_name, why_no_hugging_face, write_hugging_face
from training.exports.model_card import CardFormat
from training.exports.onnx_graphs import check_onnx, require_onnx, write_onnx
from training.exports.open_clip_hub import check_open_clip, write_open_clip
from training.exports.probe import Probe
from training.exports.source import TrainedFolder

OPEN_CLIP, TRANSFORMERS, ONNX = "open_clip", "transformers", "onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where an export goes.

    Args:
        folder: that is filled.
        place: where it will lie.
        hub_name: its name on the Hugging Face hub; None for disk only.
    """

    folder: Path
    place: Path
    hub_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFormat:
    """One format.

    Args:
        why_not: what of an architecture it has no equivalent for, in words; None if it has all.
        require: raises InputError where what it needs is not installed.
        write: fills a folder, but for the card.
        check: reads the folder back and compares; returns the largest difference, or raises DefectError.
        card: what the card says of it.
    """

    why_not: Callable[[dict[str, Any]], str | None]
    require: Callable[[], None]
    write: Callable[[TrainedFolder, Target], None]
    check: Callable[[TrainedFolder, Probe, Path], float]
    card: Callable[[TrainedFolder, Target], CardFormat]


def _nothing() -> None:
    """What is needed is there wherever models are trained."""


def _any(_model_config: dict[str, Any]) -> str | None:
    """Every architecture of ours fits."""
    return None


def _write_open_clip(trained: TrainedFolder, target: Target) -> None:
    write_open_clip(trained, target.folder, place=target.place, hub_name=target.hub_name)


def _write_hugging_face(trained: TrainedFolder, target: Target) -> None:
    write_hugging_face(trained, target.folder)


def _write_onnx(trained: TrainedFolder, target: Target) -> None:
    write_onnx(trained, target.folder)


def _check_open_clip(_trained: TrainedFolder, probe: Probe, folder: Path) -> float:
    return check_open_clip(probe, folder)


def _open_clip_card(trained: TrainedFolder, target: Target) -> CardFormat:
    name = f"hf-hub:{target.hub_name}" if target.hub_name else "local-dir:FOLDER"
    loading = card_texts.OPEN_CLIP_LOADING.substitute(name=name)
    if trained.has_encoder and not target.hub_name:
        loading = f"{loading}\n\n{card_texts.MOVED_FOLDER}"
    return CardFormat(library="open_clip", loading=loading)


def _hugging_face_card(trained: TrainedFolder, target: Target) -> CardFormat:
    names = {"model": class_name(trained.model_config), "name": target.hub_name or "FOLDER"}
    loading = f"{card_texts.HUGGING_FACE_LOADING.substitute(names)}\n\n{card_texts.CLEANING}"
    bias = trained.logit_bias
    lacks = () if bias is None else (card_texts.NO_BIAS.substitute(bias=f"{bias:.4f}"),)
    return CardFormat(library="transformers", loading=loading, lacks=lacks)


def _onnx_card(_trained: TrainedFolder, _target: Target) -> CardFormat:
    return CardFormat(library="onnx", loading=f"{card_texts.ONNX_LOADING}\n\n{card_texts.CLEANING}")


MODEL_FORMATS = {
    OPEN_CLIP: ModelFormat(
        why_not=_any, require=_nothing, write=_write_open_clip, check=_check_open_clip, card=_open_clip_card
    ),
    TRANSFORMERS: ModelFormat(
        why_not=why_no_hugging_face,
        require=_nothing,
        write=_write_hugging_face,
        check=check_hugging_face,
        card=_hugging_face_card,
    ),
    ONNX: ModelFormat(why_not=_any, require=require_onnx, write=_write_onnx, check=check_onnx, card=_onnx_card),
}
