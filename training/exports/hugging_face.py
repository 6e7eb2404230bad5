"""A model as transformers has it: `VisionTextDualEncoderModel`, or `CLIPModel` where the text tower is open_clip's own.

Weights are renamed and reshaped, never approximated: an architecture without an equivalent is refused. Both towers are
the transformer of https://arxiv.org/abs/2103.00020. open_clip keeps queries, keys and values in one matrix, and
projections as (in, out) where torch's layers have (out, in).
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, normalizers
from transformers.utils import logging as transformers_logging

from data_catalog.storage.shards import read_json, save_tensors, write_atomically, write_json
from training.exports.trained_folder import (
    TEXTS,
    ModelWriter,
    Probe,
    TrainedFolder,
    quiet_libraries,
    require_same_ids,
    require_same_scores,
)
from training.towers.model import PREPROCESSING
from training.towers.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE

Tensors = dict[str, torch.Tensor]

# As transformers calls them.
CONFIG_FILE, SAFETENSORS_FILE, IMAGE_PROCESSOR_FILE = "config.json", "model.safetensors", "preprocessor_config.json"
# open_clip pools a Hugging Face encoder by this name as transformers' dual encoder does: by the encoder's own pooler.
_OWN_POOLER = "cls_pooler"
# Of both classes: CLIP's own, in transformers 4, takes any tokenizer for OpenAI's.
_PROCESSOR = "VisionTextDualEncoderProcessor"
_BICUBIC = 3  # as Pillow numbers its filters
_SPECIAL_TOKENS = ("pad_token", "unk_token", "cls_token", "sep_token", "bos_token", "eos_token", "mask_token")

_VISION_KEYS = frozenset({"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "patch_dropout"})
_TEXT_KEYS = frozenset({"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "hf_tokenizer_name"})
# What says the same as leaving it out.
_SAME = {"pool_type": ("tok", "argmax"), "proj_type": ("linear",), "pos_embed_type": ("learnable",)}
_VISION_DEFAULTS = {"width": 768, "layers": 12, "head_width": 64, "patch_size": 16, "mlp_ratio": 4.0}
_TEXT_DEFAULTS = {"width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
# Modules of a tower by open_clip's names, and transformers'.
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
import torch
from PIL import Image, ImageOps
from transformers import $model, AutoProcessor

model = $model.from_pretrained("$name").eval()
processor = AutoProcessor.from_pretrained("$name", backend="pil")
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")  # upright, as it was taken
inputs = processor(images=[picture], text=["..."], padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    found = model(**inputs)
print(found.image_embeds @ found.text_embeds.T, found.logits_per_image)
```

With `backend="pil"` pixels are what they were in training, to the bit; transformers' default by torchvision differs by
up to one of 255 steps of a colour.""")
CLEANING = """The tokenizer makes quotes straight, letters NFC and blanks single, as open_clip does before. What else
open_clip's wrapper does to a text has no counterpart here: entities of HTML, mojibake, ligatures, letters of full
width."""
_NO_BIAS = """What this format does not hold: the bias of {:.4f} that training added to every logit. Features, cosines
and their order are the same, and so are probabilities by softmax; those by sigmoid are not."""


def why_no_hugging_face(model_config: dict[str, Any]) -> str | None:
    """Say what of an architecture has no equivalent in transformers; None if all has."""
    vision, text = model_config["vision_cfg"], model_config["text_cfg"]
    if "timm_model_name" in vision:
        return f"its image tower is timm's {vision['timm_model_name']}"
    if not isinstance(vision.get("layers", 12), int):
        return "its image tower is a ResNet"
    tables = {"vision_cfg": (vision, _VISION_KEYS)}
    if "hf_model_name" not in text:
        tables["text_cfg"] = text, _TEXT_KEYS
    for table, (settings, known) in tables.items():
        for name, value in settings.items():
            if name not in known and value not in (None, False, {}) and value not in _SAME.get(name, ()):
                return f"its {table} says {name} = {value!r}"
    if "hf_model_name" in text:
        pooler, projection = text.get("hf_pooler_type", "mean_pooler"), text.get("hf_proj_type", "mlp")
        if pooler != _OWN_POOLER:
            return f"its text tower is pooled by {pooler}, where transformers takes the encoder's own pooler"
        if projection not in ("linear", None):
            return f"its text tower is projected by {projection}, where transformers has one linear layer"
    return None


def write_hugging_face(trained: TrainedFolder, folder: Path, _place: Path, _hub_name: str | None) -> None:
    """Write config.json, model.safetensors, tokenizer and image processor."""
    with quiet_libraries(), _without_bars():
        model = _dual_encoder(trained) if trained.has_encoder else _clip(trained)
        ours = trained.loaded.module
        vision = _named_for_transformers(ours.visual.state_dict(), _VISION_NAMES)
        _inner(model.vision_model, "vision_model").load_state_dict(vision, strict=True)
        with torch.no_grad():
            model.visual_projection.weight.copy_(ours.visual.proj.T)
            model.logit_scale.copy_(ours.logit_scale.reshape(()))
        model.config.architectures = [type(model).__name__]
        write_json(folder / CONFIG_FILE, json.loads(model.config.to_json_string()))
    tensors = model.state_dict()
    if trained.has_encoder:
        # transformers 4 has the image tower of a dual encoder one module deeper, and makes random weights, with a
        # warning, of names that it does not know; 5 knows both.
        tensors = {re.sub(r"^vision_model\.(?!vision_model\.)", "vision_model." * 2, n): t for n, t in tensors.items()}
    save_tensors(tensors, folder / SAFETENSORS_FILE, {"format": "pt"})
    write_tokenizer(trained, folder, processor=_PROCESSOR)
    write_image_processor(trained, folder, processor=_PROCESSOR)


def _dual_encoder(trained: TrainedFolder) -> Any:
    encoder = transformers.AutoConfig.from_pretrained(trained.folder)
    encoder.name_or_path = ""  # where it lay is nobody's business
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        transformers.CLIPVisionConfig(**_vision_settings(trained)), encoder, **_common_settings(trained)
    )
    model = transformers.VisionTextDualEncoderModel(config)
    text = trained.loaded.module.text
    model.text_model.load_state_dict(text.transformer.state_dict(), strict=True)
    with torch.no_grad():  # of a projection that leaves features as they are, the unit's matrix
        is_linear = hasattr(text.proj, "weight")
        model.text_projection.weight.copy_(text.proj.weight if is_linear else torch.eye(encoder.hidden_size))
    return model


def _clip(trained: TrainedFolder) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained.folder)
    told = {**_TEXT_DEFAULTS, **trained.text_config}
    text_settings = {
        **_tower_settings(trained, told, heads=told["heads"]),
        "vocab_size": told["vocab_size"],
        "max_position_embeddings": told["context_length"],
        # The end token has the highest id, where open_clip's pooling looks for it, and transformers' by its id.
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
    """Return arguments of a `CLIPVisionConfig`."""
    told = {**_VISION_DEFAULTS, **trained.model_config["vision_cfg"]}
    return {
        **_tower_settings(trained, told, heads=told["width"] // told["head_width"]),
        "image_size": told["image_size"],
        "patch_size": told["patch_size"],
    }


def _tower_settings(trained: TrainedFolder, told: Mapping[str, Any], *, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": told["width"],
        "intermediate_size": int(told["width"] * told["mlp_ratio"]),
        "num_hidden_layers": told["layers"],
        "num_attention_heads": heads,
        "hidden_act": "quick_gelu" if trained.model_config.get("quick_gelu") else "gelu",
        "layer_norm_eps": 1e-5,
    }


def _named_for_transformers(tower: Tensors, names: Mapping[str, str]) -> Tensors:
    """Return a tower's tensors, but for its projection, by transformers' names."""
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
    """Return the module with the weights: in transformers 4 a tower of CLIP is wrapped in another."""
    return getattr(tower, name, tower)


@contextmanager
def _without_bars() -> Iterator[None]:
    """While inside, transformers draws no progress bars."""
    were_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            transformers_logging.enable_progress_bar()


def check_hugging_face(trained: TrainedFolder, probe: Probe, folder: Path) -> float:
    """Read the folder back by transformers, and compare; returns the largest difference.

    Raises:
        DefectError: it scores otherwise.
    """
    with quiet_libraries(), _without_bars(), torch.no_grad():
        model = getattr(transformers, _class_name(trained)).from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        told = tokenizer(list(TEXTS), padding=True, truncation=True, return_tensors="pt")
        found = model(pixel_values=probe.pixels, **told)
    require_same_ids(probe, told["input_ids"].tolist(), "the export to transformers")
    images, texts = found.image_embeds.numpy(), found.text_embeds.numpy()
    return require_same_scores(probe, images, texts, "the export to transformers")


def how_to_read_hugging_face(trained: TrainedFolder, hub_name: str | None) -> str:
    """Return Markdown that says how the folder is read, and what it does not hold."""
    parts = [_LOADING.substitute(model=_class_name(trained), name=hub_name or "FOLDER"), CLEANING]
    if trained.logit_bias is not None:
        parts.append(_NO_BIAS.format(trained.logit_bias))
    return "\n\n".join(parts)


def _class_name(trained: TrainedFolder) -> str:
    return "VisionTextDualEncoderModel" if trained.has_encoder else "CLIPModel"


def write_tokenizer(trained: TrainedFolder, folder: Path, *, processor: str | None = None) -> None:
    """Write the model's tokenizer with what open_clip does to a text before: blanks, straight quotes, NFC.

    What else open_clip's wrapper does (entities of HTML, mojibake, ligatures, letters of full width) has no
    counterpart in a `tokenizer.json`; captions of a catalog had that mended already.

    Args:
        processor: class of transformers that joins it with the image processor, if one does.
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
        "tokenizer_class": "PreTrainedTokenizerFast",  # which takes tokenizer.json as it is
        "model_max_length": trained.context_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **prefix_setting(folder / TOKENIZER_FILE),
        **{name: str(token) for name, token in tokens.items() if token is not None},
        **({"processor_class": processor} if processor else {}),
    }
    write_json(folder / TOKENIZER_CONFIG_FILE, settings)


def prefix_setting(path: Path) -> dict[str, bool]:
    """Return what a tokenizer's configuration must say of blanks in front: transformers 4 takes silence for a no.

    Args:
        path: of its `tokenizer.json`.
    """
    before = read_json(path).get("pre_tokenizer") or {}
    return {"add_prefix_space": True} if before.get("add_prefix_space") else {}


def write_image_processor(trained: TrainedFolder, folder: Path, *, processor: str | None = None) -> None:
    """Write how images are prepared: RGB, squashed to a square by a bicubic filter, normalised."""
    size = {"height": trained.loaded.image_size, "width": trained.loaded.image_size}
    settings: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "resample": _BICUBIC,
        "do_center_crop": False,
        "crop_size": size,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": PREPROCESSING["mean"],
        "image_std": PREPROCESSING["std"],
        **({"processor_class": processor} if processor else {}),
    }
    write_json(folder / IMAGE_PROCESSOR_FILE, settings)


WRITER = ModelWriter(
    write=write_hugging_face,
    check=check_hugging_face,
    how_to_read=how_to_read_hugging_face,
    why_not=why_no_hugging_face,
)
