"""A model as transformers has it: `VisionTextDualEncoderModel`, or `CLIPModel` where the text tower is open_clip's own.

Weights are renamed and reshaped, never approximated: an architecture without an equivalent is refused.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from data_catalog.storage.shards import save_tensors, write_json
from training.exports.clip_towers import (
    clip_text_tensors,
    clip_vision_tensors,
    text_settings,
    vision_settings,
    why_no_clip_text,
    why_no_clip_vision,
)
from training.exports.probe import TEXTS, Probe, quiet_libraries, require_same_ids, require_same_scores
from training.exports.processors import write_image_processor, write_tokenizer
from training.exports.source import TrainedFolder

# open_clip pools a Hugging Face encoder by this name as transformers' dual encoder does: by the encoder's own pooler.
_OWN_POOLER = "cls_pooler"
# Of both classes: CLIP's own, in transformers 4, takes any tokenizer for OpenAI's.
_PROCESSOR = "VisionTextDualEncoderProcessor"
# As transformers calls them.
CONFIG_FILE, SAFETENSORS_FILE = "config.json", "model.safetensors"


def class_name(model_config: dict[str, Any]) -> str:
    """The class of transformers that such a model becomes."""
    return "VisionTextDualEncoderModel" if "hf_model_name" in model_config["text_cfg"] else "CLIPModel"


def why_no_hugging_face(model_config: dict[str, Any]) -> str | None:
    """What of an architecture has no equivalent in transformers, in words; None if all has."""
    text = model_config["text_cfg"]
    odd = why_no_clip_vision(model_config["vision_cfg"])
    if odd is not None or "hf_model_name" not in text:
        return odd or why_no_clip_text(text)
    pooler, projection = text.get("hf_pooler_type", "mean_pooler"), text.get("hf_proj_type", "mlp")
    if pooler != _OWN_POOLER:
        return f"its text tower is pooled by {pooler}, where transformers takes the encoder's own pooler"
    if projection not in ("linear", None):
        return f"its text tower is projected by {projection}, where transformers has one linear layer"
    return None


def write_hugging_face(trained: TrainedFolder, folder: Path) -> None:
    """Write config.json, model.safetensors, tokenizer and image processor."""
    with quiet_libraries(), _without_bars():
        model = _dual_encoder(trained) if trained.has_encoder else _clip(trained)
        model.config.architectures = [class_name(trained.model_config)]
        write_json(folder / CONFIG_FILE, json.loads(model.config.to_json_string()))
    save_tensors(dict(_named_for_all(model.state_dict(), trained)), folder / SAFETENSORS_FILE, {"format": "pt"})
    write_tokenizer(trained, folder, processor=_PROCESSOR)
    write_image_processor(trained, folder, processor=_PROCESSOR)


def check_hugging_face(trained: TrainedFolder, probe: Probe, folder: Path) -> float:
    """Read the folder back by transformers, and compare; returns the largest difference.

    Raises:
        DefectError: it scores otherwise.
    """
    import transformers

    with quiet_libraries(), _without_bars(), torch.no_grad():
        model = getattr(transformers, class_name(trained.model_config)).from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        told = tokenizer(list(TEXTS), padding=True, truncation=True, return_tensors="pt")
        found = model(pixel_values=probe.pixels, **told)
    require_same_ids(probe, told["input_ids"].tolist(), "the export to transformers")
    images, texts = found.image_embeds.numpy(), found.text_embeds.numpy()
    return require_same_scores(probe, images, texts, "the export to transformers")


def _named_for_all(tensors: dict[str, torch.Tensor], trained: TrainedFolder) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors by names that transformers 4 and 5 both know.

    In a dual encoder, 4 has the image tower one module deeper. Of names that it does not know it makes random weights,
    with a warning; 5 knows both.
    """
    for name, tensor in tensors.items():
        is_short = name.startswith("vision_model.") and not name.startswith("vision_model.vision_model.")
        yield f"vision_model.{name}" if is_short and trained.has_encoder else name, tensor


@contextmanager
def _without_bars() -> Iterator[None]:
    """While inside, transformers draws no progress bars."""
    from transformers.utils import logging

    were_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            logging.enable_progress_bar()


def _dual_encoder(trained: TrainedFolder) -> Any:
    from transformers import AutoConfig, CLIPVisionConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    quick_gelu = bool(trained.model_config.get("quick_gelu"))
    vision = CLIPVisionConfig(**vision_settings(trained.model_config["vision_cfg"], quick_gelu=quick_gelu))
    encoder = AutoConfig.from_pretrained(trained.folder)
    encoder.name_or_path = ""  # where it lay is nobody's business
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision,
        encoder,
        projection_dim=trained.model_config["embed_dim"],
        logit_scale_init_value=float(trained.loaded.module.logit_scale.item()),
    )
    model = VisionTextDualEncoderModel(config)
    text = trained.loaded.module.text
    model.text_model.load_state_dict(text.transformer.state_dict(), strict=True)
    _fill(model, trained, text_projection=_linear(text.proj, config.text_config.hidden_size))
    return model


def _linear(projection: Any, width: int) -> torch.Tensor:
    """The matrix of a text tower's projection, shape (out, in); of one that leaves features as they are, the unit's."""
    return projection.weight if hasattr(projection, "weight") else torch.eye(width)


def _clip(trained: TrainedFolder) -> Any:
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    quick_gelu = bool(trained.model_config.get("quick_gelu"))
    tokenizer = AutoTokenizer.from_pretrained(trained.folder)
    # The end token has the highest id, where open_clip's pooling looks for it, and transformers' by its id.
    ends = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = CLIPConfig(
        text_config={**text_settings(trained.text_config, quick_gelu=quick_gelu), **ends},
        vision_config=vision_settings(trained.model_config["vision_cfg"], quick_gelu=quick_gelu),
        projection_dim=trained.model_config["embed_dim"],
        logit_scale_init_value=float(trained.loaded.module.logit_scale.item()),
    )
    model = CLIPModel(config)
    text = trained.loaded.module.text
    _inner(model.text_model, "text_model").load_state_dict(clip_text_tensors(text.state_dict()), strict=True)
    _fill(model, trained, text_projection=text.text_projection.T)
    return model


def _fill(model: Any, trained: TrainedFolder, *, text_projection: torch.Tensor) -> None:
    """Put in the image tower, both projections and the scale."""
    visual = trained.loaded.module.visual
    _inner(model.vision_model, "vision_model").load_state_dict(clip_vision_tensors(visual.state_dict()), strict=True)
    with torch.no_grad():
        model.visual_projection.weight.copy_(visual.proj.T)
        model.text_projection.weight.copy_(text_projection)
        model.logit_scale.copy_(trained.loaded.module.logit_scale.reshape(()))


def _inner(tower: Any, name: str) -> Any:
    """In transformers 4 a tower of CLIP is wrapped in another module."""
    return getattr(tower, name, tower)
