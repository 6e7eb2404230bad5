"""Export a model to transformers: `VisionTextDualEncoderModel`, or `CLIPModel` for open_clip's own text tower.

Weights are renamed and reshaped, never approximated. The towers of CLIP are the transformer of
https://arxiv.org/abs/2103.00020. open_clip stores queries, keys and values in one matrix, and projections as (in, out),
whereas torch's layers store (out, in). Models for which transformers has no class are refused.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from open_clip import CLIPTextCfg, CLIPVisionCfg

from data_catalog.disk.files import save_tensors, write_json
from training.exports.processors import CLEANING, write_processors
from training.exports.trained_folder import TEXTS, Encoded, TrainedFolder
from training.towers.modules import OWN_POOLER
from training.towers.preprocessing import SQUASH

# File names of transformers.
CONFIG_FILE, SAFETENSORS_FILE = "config.json", "model.safetensors"
# CLIP's own processor in transformers 4 assumes OpenAI's tokenizer.
_PROCESSOR = "VisionTextDualEncoderProcessor"

# Settings of open_clip's towers that transformers has too; the others must be as open_clip has them by default.
_VISION_KEYS = ("image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "patch_dropout")
_TEXT_KEYS = ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "hf_tokenizer_name")
# Parts of the names of a tower's weights, in open_clip and in transformers.
_NAMES = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.": "embeddings.patch_embedding.",
    "token_embedding.": "embeddings.token_embedding.",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.": "pre_layrnorm.",
    "ln_post.": "post_layernorm.",
    "ln_final.": "final_layer_norm.",
    "transformer.resblocks.": "encoder.layers.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".attn.": ".self_attn.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}
_PROJECTIONS = ("proj", "text_projection")  # which transformers has outside the towers

_USAGE = """```python
from PIL import Image, ImageOps
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("FOLDER").eval()
processor = AutoProcessor.from_pretrained("FOLDER", backend="pil")
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")  # upright, as EXIF says
inputs = processor(images=[picture], text=["..."], padding=True, truncation=True, return_tensors="pt")
found = model(**inputs)
print(found.image_embeds @ found.text_embeds.T, found.logits_per_image)
```"""
_PIXELS = """With `backend="pil"` the pixels are identical to those in training{}. transformers' default backend,
torchvision, differs by up to 1 of 255 colour steps."""
_CROP = ", but one in four image sizes is cropped one pixel earlier, since transformers rounds down"
_NO_BIAS = """This format does not contain the bias of {:.4f} that the model adds to every logit. Features, cosines,
rankings and softmax probabilities are not affected. Sigmoid probabilities are."""


def why_not(model_config: Mapping[str, Any], encoder: Any) -> str | None:
    """Return why transformers has no class for an architecture, or None if it has one."""
    vision, text = CLIPVisionCfg(**model_config["vision_cfg"]), CLIPTextCfg(**model_config["text_cfg"])
    if vision.timm_model_name is not None:
        if encoder is None:
            return "transformers has open_clip's own text tower only beside a vision transformer of open_clip"
        if (vision.timm_pool, vision.timm_proj, vision.timm_proj_bias) != ("", "linear", False):
            return "its timm tower does not end with the backbone's own pooling and one linear layer without a bias"
    elif not isinstance(vision.layers, int):
        return "its image tower is a ResNet of open_clip"
    elif setting := _unknown(vision, _VISION_KEYS):
        return f"its vision_cfg has {setting}"
    if encoder is None:
        setting = _unknown(text, _TEXT_KEYS)
        return f"its text_cfg has {setting}" if setting else None
    if text.hf_pooler_type != OWN_POOLER:  # by which transformers' dual encoder pools
        return f"its text tower is pooled by {text.hf_pooler_type}, but transformers uses the encoder's own pooler"
    if encoder.is_encoder_decoder:
        return f"its text encoder, of the type {encoder.model_type}, has no pooler of its own"
    if text.hf_proj_type not in ("linear", None):
        return f"its text tower is projected by {text.hf_proj_type}, but transformers uses one linear layer"
    return None


def _unknown(settings: Any, known: Collection[str]) -> str:
    """Return the first setting of a tower that transformers does not have, or ""."""
    for name, default in vars(type(settings)()).items():
        value = getattr(settings, name)
        if name not in known and (value or None) != (default or None):
            return f"{name} = {value!r}"
    return ""


def write(trained: TrainedFolder, folder: Path, _hub_name: str | None) -> None:
    """Write config, weights, tokenizer and image processor."""
    model = _clip(trained) if trained.encoder is None else _dual_encoder(trained)
    model.config.architectures = [type(model).__name__]
    write_json(folder / CONFIG_FILE, json.loads(model.config.to_json_string()))
    tensors = model.state_dict()
    if trained.encoder is not None:
        # transformers 4 has CLIP's image tower in a dual encoder one module deeper. It gives weights with unknown names
        # random values, with only a warning. transformers 5 knows both names.
        deeper = re.compile(r"^vision_model\.(?!vision_model\.|timm_model\.)")
        tensors = {deeper.sub("vision_model." * 2, name): tensor for name, tensor in tensors.items()}
    save_tensors(tensors, folder / SAFETENSORS_FILE, {"format": "pt"})
    write_processors(trained, folder, processor=_PROCESSOR)


def _dual_encoder(trained: TrainedFolder) -> Any:
    encoder, visual = transformers.AutoConfig.from_pretrained(trained.folder), trained.loaded.module.visual
    encoder.name_or_path = ""  # the path of the encoder on this machine is private
    if hasattr(visual, "trunk"):
        name, width = trained.model_config["vision_cfg"]["timm_model_name"], visual.head.proj.in_features
        image_config = transformers.TimmWrapperConfig(architecture=name, hidden_size=width)
    else:
        image_config = transformers.CLIPVisionConfig(**_vision_settings(trained))
    dim = trained.model_config["embed_dim"]
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        image_config, encoder, projection_dim=dim
    )
    model, text = transformers.VisionTextDualEncoderModel(config), trained.loaded.module.text
    model.text_model.load_state_dict(text.transformer.state_dict(), strict=True)
    # A text tower without a projection gets the identity.
    projection = getattr(text.proj, "weight", torch.eye(encoder.hidden_size))
    return _with_image_tower(model, trained, projection)


def _clip(trained: TrainedFolder) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained.folder)
    tower = CLIPTextCfg(**trained.model_config["text_cfg"])
    text_settings = {
        **_tower_settings(trained, tower, heads=tower.heads),
        "vocab_size": tower.vocab_size,
        "max_position_embeddings": tower.context_length,
        # The end token has the highest id, by which open_clip pools. transformers pools by the end token's id.
        **{name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")},
    }
    dim = trained.model_config["embed_dim"]
    config = transformers.CLIPConfig(
        text_config=text_settings, vision_config=_vision_settings(trained), projection_dim=dim
    )
    model, text = transformers.CLIPModel(config), trained.loaded.module.text
    _inner(model.text_model, "text_model").load_state_dict(_renamed(text.state_dict()), strict=True)
    return _with_image_tower(model, trained, text.text_projection.T)


def _with_image_tower(model: Any, trained: TrainedFolder, text_projection: torch.Tensor) -> Any:
    """Give a model the image tower's weights, both projections and the logit scale."""
    visual = trained.loaded.module.visual
    is_timm = hasattr(visual, "trunk")
    weights = visual.trunk.state_dict() if is_timm else _renamed(visual.state_dict())
    _inner(model.vision_model, "vision_model").load_state_dict(weights, strict=True)
    model.visual_projection.weight.copy_(visual.head.proj.weight if is_timm else visual.proj.T)
    model.text_projection.weight.copy_(text_projection)
    model.logit_scale.copy_(trained.loaded.module.logit_scale.reshape(()))
    return model


def _vision_settings(trained: TrainedFolder) -> dict[str, Any]:
    """Return the arguments of a `CLIPVisionConfig`."""
    vision = CLIPVisionCfg(**trained.model_config["vision_cfg"])
    sizes = {"image_size": vision.image_size, "patch_size": vision.patch_size}
    return {**_tower_settings(trained, vision, heads=vision.width // vision.head_width), **sizes}


def _tower_settings(trained: TrainedFolder, tower: Any, *, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": int(tower.width * tower.mlp_ratio),
        "num_hidden_layers": tower.layers,
        "num_attention_heads": heads,
        "hidden_act": "quick_gelu" if trained.model_config.get("quick_gelu") else "gelu",
        "layer_norm_eps": 1e-5,
    }


def _renamed(tower: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of a tower of open_clip by transformers' names, without the projection."""
    found = {}
    for name, tensor in tower.items():
        if name in _PROJECTIONS:
            continue
        for ours, theirs in _NAMES.items():
            name = name.replace(ours, theirs)
        if "in_proj_" in name:
            for letter, piece in zip("qkv", tensor.chunk(3), strict=True):
                found[name.replace("in_proj_", f"{letter}_proj.")] = piece
        else:
            found[name] = tensor
    return found


def _inner(tower: Any, name: str) -> Any:
    """Return the module with the weights, which transformers 4 wraps in another module."""
    return getattr(tower, name, tower)


def encode(folder: Path, pixels: torch.Tensor) -> Encoded:
    """Encode texts and images with transformers."""
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokens = tokenizer(list(TEXTS), padding=True, truncation=True, return_tensors="pt")
    found = model(pixel_values=pixels, **tokens)
    return Encoded(tokens["input_ids"].tolist(), found.image_embeds.numpy(), found.text_embeds.numpy())


def usage(trained: TrainedFolder, hub_name: str | None) -> str:
    """Return Markdown that explains how to load the folder, and what it does not contain."""
    parts = [_USAGE.replace("FOLDER", hub_name or "FOLDER")]
    parts.append(_PIXELS.format("" if trained.loaded.preprocessing.resize_mode == SQUASH else _CROP))
    if "timm_model_name" in trained.model_config["vision_cfg"]:
        parts.append("The image tower needs timm (`pip install timm`).")
    parts.append(CLEANING)
    if trained.logit_bias is not None:
        parts.append(_NO_BIAS.format(trained.logit_bias))
    return "\n\n".join(parts)
