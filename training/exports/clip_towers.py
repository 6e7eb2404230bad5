"""open_clip's own towers in the names and shapes of transformers' CLIP, and what of theirs has none.

Both are the transformer of https://arxiv.org/abs/2103.00020. open_clip keeps queries, keys and values in one matrix,
and projections as (in, out) where torch's layers have (out, in).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]

_VISION_KEYS = frozenset({"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "patch_dropout"})
_TEXT_KEYS = frozenset({"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "hf_tokenizer_name"})
# What says the same as leaving it out.
_SAME = {"pool_type": ("tok", "argmax"), "proj_type": ("linear",), "pos_embed_type": ("learnable",)}
_DEFAULTS = {"width": 768, "layers": 12, "head_width": 64, "patch_size": 16, "mlp_ratio": 4.0}
_TEXT_DEFAULTS = {"width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
_LAYER_NORM_EPS = 1e-5
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def why_no_clip_vision(vision: Mapping[str, Any]) -> str | None:
    """What of an image tower transformers' CLIP vision model has no equivalent for, in words; None if it has."""
    if "timm_model_name" in vision:
        return f"its image tower is timm's {vision['timm_model_name']}"
    if not isinstance(vision.get("layers", 12), int):
        return "its image tower is a ResNet"
    return _odd_setting("vision_cfg", vision, _VISION_KEYS)


def why_no_clip_text(text: Mapping[str, Any]) -> str | None:
    """The same of open_clip's own text tower."""
    return _odd_setting("text_cfg", text, _TEXT_KEYS)


def _odd_setting(table: str, settings: Mapping[str, Any], known: frozenset[str]) -> str | None:
    for name, value in settings.items():
        if name not in known and value not in (None, False, {}) and value not in _SAME.get(name, ()):
            return f"its {table} says {name} = {value!r}"
    return None


def vision_settings(vision: Mapping[str, Any], *, quick_gelu: bool) -> dict[str, Any]:
    """Arguments of a `CLIPVisionConfig`."""
    told = {**_DEFAULTS, **vision}
    return {
        **_sizes(told, heads=told["width"] // told["head_width"], quick_gelu=quick_gelu),
        "image_size": told["image_size"],
        "patch_size": told["patch_size"],
    }


def text_settings(text: Mapping[str, Any], *, quick_gelu: bool) -> dict[str, Any]:
    """Arguments of a `CLIPTextConfig`."""
    told = {**_TEXT_DEFAULTS, **text}
    return {
        **_sizes(told, heads=told["heads"], quick_gelu=quick_gelu),
        "vocab_size": told["vocab_size"],
        "max_position_embeddings": told["context_length"],
    }


def _sizes(told: Mapping[str, Any], *, heads: int, quick_gelu: bool) -> dict[str, Any]:
    return {
        "hidden_size": told["width"],
        "intermediate_size": int(told["width"] * told["mlp_ratio"]),
        "num_hidden_layers": told["layers"],
        "num_attention_heads": heads,
        "hidden_act": "quick_gelu" if quick_gelu else "gelu",
        "layer_norm_eps": _LAYER_NORM_EPS,
    }


def clip_vision_tensors(tower: Tensors) -> Tensors:
    """An image tower's tensors, but for its projection, by transformers' names."""
    names = {
        "class_embedding": "embeddings.class_embedding",
        "conv1.weight": "embeddings.patch_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_pre.weight": "pre_layrnorm.weight",
        "ln_pre.bias": "pre_layrnorm.bias",
        "ln_post.weight": "post_layernorm.weight",
        "ln_post.bias": "post_layernorm.bias",
    }
    return {**{theirs: tower[ours] for ours, theirs in names.items()}, **dict(_blocks(tower))}


def clip_text_tensors(tower: Tensors) -> Tensors:
    """A text tower's tensors, but for its projection, by transformers' names."""
    names = {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
    return {**{theirs: tower[ours] for ours, theirs in names.items()}, **dict(_blocks(tower))}


def _blocks(tower: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
    prefix = "transformer.resblocks."
    for name, tensor in tower.items():
        if not name.startswith(prefix):
            continue
        number, _, rest = name.removeprefix(prefix).partition(".")
        layer, (part, _, kind) = f"encoder.layers.{number}", rest.rpartition(".")
        if part == "attn" and kind.startswith("in_proj_"):
            for letter, piece in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{layer}.self_attn.{letter}_proj.{kind.removeprefix('in_proj_')}", piece
        else:
            yield f"{layer}.{_BLOCK[part]}.{kind}", tensor
