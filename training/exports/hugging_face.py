"""Export a model to transformers: `VisionTextDualEncoderModel`, or `CLIPModel` for open_clip's own text tower.

Weights are renamed and reshaped, never approximated. The towers of CLIP are the transformer of
https://arxiv.org/abs/2103.00020. open_clip stores queries, keys and values in one matrix, and projections as (in, out),
whereas torch's layers store (out, in). A model without an equivalent is refused.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, normalizers

from data_catalog.disk.files import read_json, save_tensors, write_atomically, write_json
from training.exports.trained_folder import (
    TEXTS,
    ModelWriter,
    Probe,
    TrainedFolder,
    quiet_libraries,
    require_same_ids,
    require_same_scores,
)
from training.towers.modules import OWN_POOLER
from training.towers.preprocessing import SQUASH
from training.towers.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from training.towers.weights import quiet_transformers

Tensors = dict[str, torch.Tensor]

# File names of transformers.
CONFIG_FILE, SAFETENSORS_FILE, IMAGE_PROCESSOR_FILE = "config.json", "model.safetensors", "preprocessor_config.json"
# Used with all classes, because CLIP's own processor in transformers 4 assumes OpenAI's tokenizer.
_PROCESSOR = "VisionTextDualEncoderProcessor"
_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers of the filters
_SPECIAL_TOKENS = ("pad_token", "unk_token", "cls_token", "sep_token", "bos_token", "eos_token", "mask_token")

_VISION_KEYS = frozenset({"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "patch_dropout"})
_TEXT_KEYS = frozenset({"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "hf_tokenizer_name"})
# Values that equal the default.
_SAME = {"pool_type": ("tok", "argmax"), "proj_type": ("linear",), "pos_embed_type": ("learnable",)}
_VISION_DEFAULTS = {"width": 768, "layers": 12, "head_width": 64, "patch_size": 16, "mlp_ratio": 4.0}
_TEXT_DEFAULTS = {"width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
# Modules of a tower: open_clip's names, and transformers' names.
_VISION_NAMES = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
_TEXT_NAMES = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}

_LOADING = Template("""```python
from PIL import Image, ImageOps
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("$name").eval()
processor = AutoProcessor.from_pretrained("$name", backend="pil")
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")  # upright, as EXIF says
inputs = processor(images=[picture], text=["..."], padding=True, truncation=True, return_tensors="pt")
found = model(**inputs)
print(found.image_embeds @ found.text_embeds.T, found.logits_per_image)
```

With `backend="pil"` the pixels are identical to those in training$but. transformers' default backend, torchvision,
differs by up to 1 of 255 colour steps.""")
_CROP = ", but one in four image sizes is cropped one pixel earlier, since transformers rounds down"
CLEANING = """The tokenizer straightens quotes, normalises letters to NFC and collapses spaces, as open_clip does.
open_clip's other text cleaning has no equivalent in this format: HTML entities, mojibake, ligatures and full-width
letters are left as they are."""
_NO_BIAS = """This format does not contain the bias of {:.4f} that the model adds to every logit. Features, cosines,
rankings and softmax probabilities are not affected. Sigmoid probabilities are."""


def why_not_transformers(model_config: dict[str, Any], encoder: Any) -> str | None:
    """Return why transformers has no class for an architecture, or None if it has one.

    Args:
        model_config: the open_clip model config.
        encoder: config of a Hugging Face text encoder, or None.
    """
    vision, text = model_config["vision_cfg"], model_config["text_cfg"]
    is_timm = "timm_model_name" in vision
    if is_timm and encoder is None:
        return "its text tower is open_clip's own, which transformers has only beside a vision transformer of open_clip"
    if is_timm and (vision.get("timm_pool", "avg"), vision.get("timm_proj", "linear")) != ("", "linear"):
        return "its timm tower does not end with the backbone's own pooling and one linear layer"
    if is_timm and vision.get("timm_proj_bias"):
        return "its image projection has a bias"
    if not is_timm and not isinstance(vision.get("layers", 12), int):
        return "its image tower is a ResNet of open_clip"
    tables = {} if is_timm else {"vision_cfg": (vision, _VISION_KEYS)}
    if encoder is None:
        tables["text_cfg"] = text, _TEXT_KEYS
    for table, (settings, known) in tables.items():
        for name, value in settings.items():
            if name not in known and value not in (None, False, {}) and value not in _SAME.get(name, ()):
                return f"its {table} has {name} = {value!r}"
    if encoder is not None:
        pooler, projection = text.get("hf_pooler_type", "mean_pooler"), text.get("hf_proj_type", "mlp")
        if pooler != OWN_POOLER:  # by which transformers' dual encoder pools
            return f"its text tower is pooled by {pooler}, but transformers uses the encoder's own pooler"
        if encoder.is_encoder_decoder:
            return f"its text encoder, of the type {encoder.model_type}, has no pooler of its own"
        if projection not in ("linear", None):
            return f"its text tower is projected by {projection}, but transformers uses one linear layer"
    return None


def needed_by_transformers(model_config: dict[str, Any], _encoder: Any) -> str:
    """Return what a model needs beside transformers, as a sentence, or "" if nothing."""
    return "the image tower needs timm (pip install timm)" if "timm_model_name" in model_config["vision_cfg"] else ""


def write_hugging_face(trained: TrainedFolder, folder: Path, _hub_name: str | None) -> None:
    """Write config.json, model.safetensors, the tokenizer, and the image processor."""
    with quiet_libraries(), quiet_transformers():
        model = _equivalent(trained)
        model.config.architectures = [type(model).__name__]
        write_json(folder / CONFIG_FILE, json.loads(model.config.to_json_string()))
    tensors = model.state_dict()
    if isinstance(model, transformers.VisionTextDualEncoderModel):
        # transformers 4 has CLIP's image tower in a dual encoder one module deeper. It gives weights with unknown names
        # random values, with only a warning. transformers 5 knows both names.
        deeper = re.compile(r"^vision_model\.(?!vision_model\.|timm_model\.)")
        tensors = {deeper.sub("vision_model." * 2, name): tensor for name, tensor in tensors.items()}
    save_tensors(tensors, folder / SAFETENSORS_FILE, {"format": "pt"})
    write_tokenizer(trained, folder, processor=_PROCESSOR)
    write_image_processor(trained, folder, processor=_PROCESSOR)


def _equivalent(trained: TrainedFolder) -> Any:
    """Return the model as a class of transformers."""
    model = _dual_encoder(trained) if trained.has_encoder else _clip(trained)
    ours, visual = trained.loaded.module, trained.loaded.module.visual
    is_timm = hasattr(visual, "trunk")
    vision = visual.trunk.state_dict() if is_timm else _named_for_transformers(visual.state_dict(), _VISION_NAMES)
    _inner(model.vision_model, "vision_model").load_state_dict(vision, strict=True)
    with torch.no_grad():
        model.visual_projection.weight.copy_(visual.head.proj.weight if is_timm else visual.proj.T)
        model.logit_scale.copy_(ours.logit_scale.reshape(()))
    return model


def _dual_encoder(trained: TrainedFolder) -> Any:
    encoder, visual = transformers.AutoConfig.from_pretrained(trained.folder), trained.loaded.module.visual
    encoder.name_or_path = ""  # the path of the encoder on this machine is private
    if hasattr(visual, "trunk"):
        name, width = trained.model_config["vision_cfg"]["timm_model_name"], visual.head.proj.in_features
        image_config = transformers.TimmWrapperConfig(architecture=name, hidden_size=width)
    else:
        image_config = transformers.CLIPVisionConfig(**_vision_settings(trained))
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        image_config, encoder, **_common_settings(trained)
    )
    model = transformers.VisionTextDualEncoderModel(config)
    text = trained.loaded.module.text
    model.text_model.load_state_dict(text.transformer.state_dict(), strict=True)
    with torch.no_grad():  # without a projection, use the identity matrix
        is_linear = hasattr(text.proj, "weight")
        model.text_projection.weight.copy_(text.proj.weight if is_linear else torch.eye(encoder.hidden_size))
    return model


def _clip(trained: TrainedFolder) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained.folder)
    settings = {**_TEXT_DEFAULTS, **trained.text_config}
    text_settings = {
        **_tower_settings(trained, settings, heads=settings["heads"]),
        "vocab_size": settings["vocab_size"],
        "max_position_embeddings": settings["context_length"],
        # The end token has the highest id, by which open_clip pools. transformers pools by the end token's id.
        **{name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")},
    }
    config = transformers.CLIPConfig(
        text_config=text_settings, vision_config=_vision_settings(trained), **_common_settings(trained)
    )
    model = transformers.CLIPModel(config)
    text = trained.loaded.module.text
    tensors = _named_for_transformers(text.state_dict(), _TEXT_NAMES)
    _inner(model.text_model, "text_model").load_state_dict(tensors, strict=True)
    with torch.no_grad():
        model.text_projection.weight.copy_(text.text_projection.T)
    return model


def _common_settings(trained: TrainedFolder) -> dict[str, Any]:
    scale = float(trained.loaded.module.logit_scale.item())
    return {"projection_dim": trained.model_config["embed_dim"], "logit_scale_init_value": scale}


def _vision_settings(trained: TrainedFolder) -> dict[str, Any]:
    """Return the arguments of a `CLIPVisionConfig`."""
    settings = {**_VISION_DEFAULTS, **trained.model_config["vision_cfg"]}
    return {
        **_tower_settings(trained, settings, heads=settings["width"] // settings["head_width"]),
        "image_size": settings["image_size"],
        "patch_size": settings["patch_size"],
    }


def _tower_settings(trained: TrainedFolder, settings: Mapping[str, Any], *, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": settings["width"],
        "intermediate_size": int(settings["width"] * settings["mlp_ratio"]),
        "num_hidden_layers": settings["layers"],
        "num_attention_heads": heads,
        "hidden_act": "quick_gelu" if trained.model_config.get("quick_gelu") else "gelu",
        "layer_norm_eps": 1e-5,
    }


def _named_for_transformers(tower: Tensors, names: Mapping[str, str]) -> Tensors:
    """Return a tower's tensors with transformers' names, without the projection."""
    found = {theirs: tower[ours] for ours, theirs in names.items()}
    prefix = "transformer.resblocks."
    for name, tensor in tower.items():
        if not name.startswith(prefix):
            continue
        number, _, rest = name.removeprefix(prefix).partition(".")
        layer, (part, _, kind) = f"encoder.layers.{number}", rest.rpartition(".")
        if part == "attn" and kind.startswith("in_proj_"):
            for letter, piece in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{layer}.self_attn.{letter}_proj.{kind.removeprefix('in_proj_')}"] = piece
        else:
            found[f"{layer}.{_BLOCK_NAMES[part]}.{kind}"] = tensor
    return found


def _inner(tower: Any, name: str) -> Any:
    """Return the module with the weights, which transformers 4 wraps in another module."""
    return getattr(tower, name, tower)


def check_hugging_face(trained: TrainedFolder, probe: Probe, folder: Path) -> float:
    """Load the folder with transformers, compare it with the model, and return the largest difference.

    Raises:
        DefectError: its token ids or scores differ.
    """
    with quiet_libraries(), quiet_transformers(), torch.no_grad():
        model = transformers.AutoModel.from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokens = tokenizer(list(TEXTS), padding=True, truncation=True, return_tensors="pt")
        found = model(pixel_values=probe.pixels, **tokens)
    require_same_ids(probe, tokens["input_ids"].tolist(), "the export to transformers")
    images, texts = found.image_embeds.numpy(), found.text_embeds.numpy()
    return require_same_scores(probe, images, texts, "the export to transformers")


def how_to_read_hugging_face(trained: TrainedFolder, hub_name: str | None) -> str:
    """Return Markdown that explains how to load the folder, what it needs, and what it does not contain."""
    but = "" if trained.loaded.preprocessing.resize_mode == SQUASH else _CROP
    parts = [_LOADING.substitute(name=hub_name or "FOLDER", but=but)]
    if needed := needed_by_transformers(trained.model_config, trained.encoder):
        parts.append(f"{needed[0].upper()}{needed[1:]}.")
    parts.append(CLEANING)
    if trained.logit_bias is not None:
        parts.append(_NO_BIAS.format(trained.logit_bias))
    return "\n\n".join(parts)


def write_tokenizer(trained: TrainedFolder, folder: Path, *, processor: str | None = None) -> None:
    """Write the model's tokenizer with open_clip's text cleaning: collapsed spaces, straight quotes, NFC.

    open_clip's other cleaning (HTML entities, mojibake, ligatures, full-width letters) cannot be expressed in a
    `tokenizer.json`. A catalog's captions are already cleaned of these.

    Args:
        trained: the trained model.
        folder: folder of the files.
        processor: class of transformers that combines the tokenizer with the image processor, if there is one.
    """
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
    tokenizer.enable_truncation(trained.context_length)
    tokenizer.enable_padding(pad_id=found.pad_token_id, pad_token=found.pad_token)
    write_atomically(folder / TOKENIZER_FILE, lambda path: tokenizer.save(str(path)))
    tokens = {name: getattr(found, name, None) for name in _SPECIAL_TOKENS}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # uses tokenizer.json unchanged
        "model_max_length": trained.context_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **prefix_setting(folder / TOKENIZER_FILE),
        **{name: str(token) for name, token in tokens.items() if token is not None},
        **({"processor_class": processor} if processor else {}),
    }
    write_json(folder / TOKENIZER_CONFIG_FILE, settings)


def prefix_setting(path: Path) -> dict[str, bool]:
    """Return the tokenizer config's setting for a prefix space, which transformers 4 needs and assumes to be false.

    Args:
        path: the `tokenizer.json`.
    """
    before = read_json(path).get("pre_tokenizer") or {}
    return {"add_prefix_space": True} if before.get("add_prefix_space") else {}


def write_image_processor(trained: TrainedFolder, folder: Path, *, processor: str | None = None) -> None:
    """Write the image preprocessing: RGB, resized to the model's square, normalised."""
    preprocessing = trained.loaded.preprocessing
    size, crops = {"height": preprocessing.size, "width": preprocessing.size}, preprocessing.resize_mode != SQUASH
    settings: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": preprocessing.size} if crops else size,
        "resample": _RESAMPLE[preprocessing.interpolation],
        "do_center_crop": crops,
        "crop_size": size,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
        **({"processor_class": processor} if processor else {}),
    }
    write_json(folder / IMAGE_PROCESSOR_FILE, settings)


WRITER = ModelWriter(
    write=write_hugging_face,
    check=check_hugging_face,
    how_to_read=how_to_read_hugging_face,
    why_not=why_not_transformers,
    needs=needed_by_transformers,
)
