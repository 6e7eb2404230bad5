"""Export a model to transformers: `VisionTextDualEncoderModel`, or `CLIPModel` for open_clip's own text tower.

Weights are renamed and reshaped, never approximated. The towers of CLIP are the transformer of
https://arxiv.org/abs/2103.00020. open_clip stores queries, keys and values in one matrix, and projections as (in, out),
whereas torch's layers store (out, in). Other formats have the tokenizer and image preprocessing too. Models for which
transformers has no class are refused.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from open_clip import CLIPTextCfg, CLIPVisionCfg
from tokenizers import Regex, Tokenizer, normalizers

from data_catalog.disk.files import read_json, save_tensors, write_atomically, write_json
from training.exports.trained_folder import TEXTS, Encoded, TrainedFolder
from training.towers.modules import OWN_POOLER
from training.towers.preprocessing import SQUASH
from training.towers.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE

# File names of transformers.
CONFIG_FILE, SAFETENSORS_FILE = "config.json", "model.safetensors"
IMAGE_PROCESSOR_FILE = "preprocessor_config.json"
_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers of the filters
_SPECIAL_TOKENS = ("pad_token", "unk_token", "cls_token", "sep_token", "bos_token", "eos_token", "mask_token")
# CLIP's own processor in transformers 4 assumes OpenAI's tokenizer.
_PROCESSOR = "VisionTextDualEncoderProcessor"

# Settings of open_clip's towers that transformers has too. The others must be as open_clip has them by default.
_VISION_KEYS = ("image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "patch_dropout")
_TEXT_KEYS = ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "hf_tokenizer_name")
_VIT_VALUES = {name: (value,) for name, value in vars(CLIPVisionCfg()).items() if name not in _VISION_KEYS}
_TEXT_VALUES = {name: (value,) for name, value in vars(CLIPTextCfg()).items() if name not in _TEXT_KEYS}
# timm's own pooling, and one linear layer without a bias; an encoder's own pooler, and one linear layer or none.
_TIMM_VALUES = {"timm_pool": ("",), "timm_proj": ("linear",), "timm_proj_bias": (False,)}
_ENCODER_VALUES = {"hf_pooler_type": (OWN_POOLER,), "hf_proj_type": ("linear", None)}
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


def why_not(model_config: Mapping[str, Any], encoder: Any) -> str | None:
    """Return why transformers has no class for an architecture, or None if it has one."""
    vision, text = CLIPVisionCfg(**model_config["vision_cfg"]), CLIPTextCfg(**model_config["text_cfg"])
    if vision.timm_model_name is not None:
        if encoder is None:
            return "transformers has open_clip's own text tower only beside a vision transformer of open_clip"
        setting = _unlike(vision, _TIMM_VALUES)
    elif not isinstance(vision.layers, int):
        return "its image tower is a ResNet of open_clip"
    else:
        setting = _unlike(vision, _VIT_VALUES)
    if setting:
        return f"its vision_cfg has {setting}"
    if encoder is None:
        setting = _unlike(text, _TEXT_VALUES)
    elif encoder.is_encoder_decoder:
        return f"its text encoder, of the type {encoder.model_type}, has no pooler of its own"
    else:
        setting = _unlike(text, _ENCODER_VALUES)
    return f"its text_cfg has {setting}" if setting else None


def _unlike(settings: Any, allowed: Mapping[str, Sequence[Any]]) -> str:
    """Return the first setting of a tower with another value than transformers has, or ""."""
    for name, values in allowed.items():
        value = getattr(settings, name)
        if (value or None) not in [other or None for other in values]:
            return f"{name} = {value!r}"
    return ""


def write(trained: TrainedFolder, folder: Path, _hub_name: str | None) -> None:
    """Write config, weights, tokenizer and image processor."""
    model = _converted(trained)
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


def _converted(trained: TrainedFolder) -> Any:
    module, dim = trained.loaded.module, trained.model_config["embed_dim"]
    visual, text, is_timm = module.visual, module.text, hasattr(module.visual, "trunk")
    vision = CLIPVisionCfg(**trained.model_config["vision_cfg"])
    if not is_timm:
        settings = _tower_settings(trained, vision, heads=vision.width // vision.head_width)
        vision_settings = {**settings, "image_size": vision.image_size, "patch_size": vision.patch_size}
    if trained.encoder is None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(trained.folder)
        tower = CLIPTextCfg(**trained.model_config["text_cfg"])
        text_settings = {
            **_tower_settings(trained, tower, heads=tower.heads),
            "vocab_size": tower.vocab_size,
            "max_position_embeddings": tower.context_length,
            # The end token has the highest id, by which open_clip pools. transformers pools by the end token's id.
            **{name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")},
        }
        config = transformers.CLIPConfig(text_config=text_settings, vision_config=vision_settings, projection_dim=dim)
        model = transformers.CLIPModel(config)
        text_weights, projection = _renamed(text.state_dict()), text.text_projection.T
    else:
        encoder = transformers.AutoConfig.from_pretrained(trained.folder)
        encoder.name_or_path = ""  # the path of the encoder on this machine is private
        if is_timm:
            width = visual.head.proj.in_features
            image_config = transformers.TimmWrapperConfig(architecture=vision.timm_model_name, hidden_size=width)
        else:
            image_config = transformers.CLIPVisionConfig(**vision_settings)
        config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
            image_config, encoder, projection_dim=dim
        )
        model = transformers.VisionTextDualEncoderModel(config)
        # A text tower without a projection gets the identity.
        text_weights = text.transformer.state_dict()
        projection = getattr(text.proj, "weight", torch.eye(encoder.hidden_size))
    image_weights = visual.trunk.state_dict() if is_timm else _renamed(visual.state_dict())
    # transformers 4 wraps the towers of CLIP in another module.
    getattr(model.text_model, "text_model", model.text_model).load_state_dict(text_weights, strict=True)
    getattr(model.vision_model, "vision_model", model.vision_model).load_state_dict(image_weights, strict=True)
    model.visual_projection.weight.copy_(visual.head.proj.weight if is_timm else visual.proj.T)
    model.text_projection.weight.copy_(projection)
    model.logit_scale.copy_(module.logit_scale.reshape(()))
    return model


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


def encode(folder: Path, pixels: torch.Tensor) -> Encoded:
    """Encode texts and images with transformers."""
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokens = tokenizer(list(TEXTS), padding=True, truncation=True, return_tensors="pt")
    found = model(pixel_values=pixels, **tokens)
    return Encoded(tokens["input_ids"].tolist(), found.image_embeds.numpy(), found.text_embeds.numpy())


def write_processors(trained: TrainedFolder, folder: Path, *, processor: str | None = None) -> None:
    """Write the tokenizer, and the image preprocessing: RGB, resized to the model's square, normalised.

    `processor` is the class of transformers that combines the two, if there is one.
    """
    together = {"processor_class": processor} if processor else {}
    write_tokenizer(trained, folder, together)
    preprocessing = trained.loaded.preprocessing
    square, crops = {"height": preprocessing.size, "width": preprocessing.size}, preprocessing.resize_mode != SQUASH
    settings: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": preprocessing.size} if crops else square,
        "resample": _RESAMPLE[preprocessing.interpolation],
        "do_center_crop": crops,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
        **together,
    }
    write_json(folder / IMAGE_PROCESSOR_FILE, settings)


def write_tokenizer(trained: TrainedFolder, folder: Path, more: dict[str, str]) -> None:
    """Write the tokenizer with open_clip's cleaning of texts, as far as a `tokenizer.json` can express it."""
    context_length = trained.loaded.tokenizer.context_length
    found = transformers.AutoTokenizer.from_pretrained(trained.folder)
    tokenizer: Tokenizer = Tokenizer.from_str(found.backend_tokenizer.to_str())  # a copy
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex("[\u02bc\u2018-\u201b]"), "'"),
            normalizers.Replace(Regex("[\u201c-\u201f]"), '"'),
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            *([tokenizer.normalizer] if tokenizer.normalizer is not None else []),
        ]
    )
    tokenizer.enable_truncation(context_length)
    tokenizer.enable_padding(pad_id=found.pad_token_id, pad_token=found.pad_token)
    write_atomically(folder / TOKENIZER_FILE, lambda path: tokenizer.save(str(path)))
    tokens = {name: getattr(found, name, None) for name in _SPECIAL_TOKENS}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # uses tokenizer.json unchanged
        "model_max_length": context_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **prefix_setting(folder / TOKENIZER_FILE),
        **{name: str(token) for name, token in tokens.items() if token is not None},
        **more,
    }
    write_json(folder / TOKENIZER_CONFIG_FILE, settings)


def prefix_setting(path: Path) -> dict[str, bool]:
    """Return the config's setting of a prefix space in a `tokenizer.json`, which transformers 4 assumes to be false."""
    before = read_json(path).get("pre_tokenizer") or {}
    return {"add_prefix_space": True} if before.get("add_prefix_space") else {}
