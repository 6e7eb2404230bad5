"""Write a model's tokenizer and image preprocessing as transformers reads them."""

from pathlib import Path
from typing import Any

import transformers
from tokenizers import Regex, Tokenizer, normalizers

from data_catalog.disk.files import read_json, write_atomically, write_json
from training.exports.trained_folder import TrainedFolder
from training.towers.preprocessing import SQUASH
from training.towers.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE

IMAGE_PROCESSOR_FILE = "preprocessor_config.json"
_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers of the filters
_SPECIAL_TOKENS = ("pad_token", "unk_token", "cls_token", "sep_token", "bos_token", "eos_token", "mask_token")


def write_processors(trained: TrainedFolder, folder: Path, *, processor: str | None = None) -> None:
    """Write the tokenizer, and the image preprocessing: RGB, resized to the model's square, normalised.

    `processor` is the class of transformers that combines the two, if there is one.
    """
    together = {"processor_class": processor} if processor else {}
    _write_tokenizer(trained, folder, together)
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


def _write_tokenizer(trained: TrainedFolder, folder: Path, more: dict[str, str]) -> None:
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
