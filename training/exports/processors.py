"""Tokenizer and image processor of an export, as Hugging Face's libraries read them."""

from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers

from data_catalog.storage.shards import read_json, write_atomically, write_json
from training.exports.source import TrainedFolder
from training.towers.model import PREPROCESSING
from training.towers.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE

IMAGE_PROCESSOR_FILE = "preprocessor_config.json"
_BICUBIC = 3  # as Pillow numbers its filters
_SPECIAL_TOKENS = ("pad_token", "unk_token", "cls_token", "sep_token", "bos_token", "eos_token", "mask_token")


def write_tokenizer(trained: TrainedFolder, folder: Path, *, processor: str | None = None) -> None:
    """Write the model's tokenizer with what open_clip does to a text before: blanks, straight quotes, NFC.

    What else open_clip's wrapper does (entities of HTML, mojibake, ligatures, letters of full width) has no
    counterpart in a `tokenizer.json`; captions of a catalog had that mended already.

    Args:
        processor: class of transformers that joins it with the image processor, if one does.
    """
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(trained.folder)
    tokenizer = _cleaning(found.backend_tokenizer)
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
    """What a tokenizer's configuration must say of blanks in front: transformers 4 takes silence for a no.

    Args:
        path: of its `tokenizer.json`.
    """
    before = read_json(path).get("pre_tokenizer") or {}
    return {"add_prefix_space": True} if before.get("add_prefix_space") else {}


def _cleaning(tokenizer: Tokenizer) -> Tokenizer:
    copy: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
    first = [
        normalizers.Replace(Regex("[\u02bc\u2018-\u201b]"), "'"),
        normalizers.Replace(Regex("[\u201c-\u201f]"), '"'),
        normalizers.NFC(),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    copy.normalizer = normalizers.Sequence([*first, *([copy.normalizer] if copy.normalizer is not None else [])])
    return copy


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
