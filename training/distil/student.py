"""Make a student: a small encoder with its own tokenizer, or a pretrained Hugging Face encoder."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from data_catalog.base.errors import InputError
from data_catalog.disk.files import write_json
from training.config import DistilConfig
from training.runs.processes import encode_where_fastest
from training.towers.model import ENCODER_CONFIG_FILE, create_model, require_encoding, write_model_config
from training.towers.preprocessing import preprocessing_of
from training.towers.tokenizer import SavedTokenizer, copy_tokenizer, load_tokenizer, save_tokenizer, train_tokenizer
from training.towers.weights import load_text_encoder, save_encoder_config, text_identity

# Layers, width and attention heads of BERT's architecture.
PRESETS: Mapping[str, tuple[int, int, int]] = {"tiny": (2, 128, 4), "small": (3, 256, 4), "base": (6, 384, 6)}


def student_identity(name: str) -> Any:
    """Return what identifies a student in a run's key: its preset, sha256 of its files, or its name on the hub."""
    return name if name in PRESETS else text_identity(name)


def open_student(
    teacher: Any, image_config: Mapping[str, Any], config: DistilConfig, out: Path, sentences: Iterable[str]
) -> tuple[SavedTokenizer, Any]:
    """Return the tokenizer and the model of teacher's image tower and new student. Write their files except weights.

    The student takes over `image_config` of the teacher's model config. The tokenizer of a preset is trained on
    `sentences`.
    """
    is_new = config.student in PRESETS
    name = "student" if is_new else config.student
    text = {
        "context_length": config.context_length,
        "hf_model_name": name,
        "hf_tokenizer_name": name,
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "linear",
    }
    model_config = {**image_config, "custom_text": True, "text_cfg": text}
    if is_new:
        tokenizer = train_tokenizer(sentences, vocab_size=config.vocab_size)
        save_tokenizer(tokenizer, out, context_length=config.context_length)
        write_json(out / ENCODER_CONFIG_FILE, _encoder_config(config, tokenizer.get_vocab_size()))
    else:
        save_encoder_config(model_config, out)
        copy_tokenizer(config.student, out)
    write_model_config(out, model_config)
    module = create_model(model_config, out)
    module.visual.load_state_dict(teacher.visual.state_dict(), strict=True)
    with torch.no_grad():
        module.logit_scale.copy_(teacher.logit_scale)
        if module.logit_bias is not None and teacher.logit_bias is not None:
            module.logit_bias.copy_(teacher.logit_bias)
    if not is_new:
        load_text_encoder(module, model_config)
    found = load_tokenizer(out, context_length=config.context_length)
    size = preprocessing_of(model_config).size
    require_encoding(module, found, image_size=size, model=config.student)
    noise = torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own, theirs = (
            F.normalize(encode_where_fastest(one.eval(), one.encode_image, noise)) for one in (module, teacher)
        )
    if not torch.allclose(own, theirs, atol=1e-4):
        raise InputError(
            f"the image tower of {config.teacher} cannot be taken over: its model config and weights give other "
            "features here. Name another teacher"
        )
    return found, module


def _encoder_config(config: DistilConfig, vocab_size: int) -> dict[str, Any]:
    """Return the `config.json` of a preset, an encoder of BERT's architecture. Its tokenizer pads with id 0."""
    from transformers import BertConfig

    layers, width, heads = PRESETS[config.student]
    found: dict[str, Any] = BertConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=config.context_length,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        pad_token_id=0,
    ).to_dict()
    return found
