"""Text towers of any encoder: what transformers computes of a text, the model computes, too."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from data_catalog.base.errors import InputError
from training.align.align import align
from training.config import AlignConfig, TrainConfig
from training.data.pairs import PairFiles
from training.exports.model_export import ModelExportConfig, ModelExportReport, export_model
from training.towers.backbones import without
from training.towers.model import load_model

CLOSED_FORM = AlignConfig(epochs=0, ridge=10.0)
TEXTS = ["un quadrato rosso in alto a destra", "verde", "c'è un quadrato nero", "in basso"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
MakeEncoder = Callable[..., Path]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image tower is always the same: its features are computed once."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def make_encoder(encoder: Path, tmp_path: Path) -> MakeEncoder:
    """`make_encoder(kind, head, **config)`: a folder as the hub has them, with the tokenizer of the small BERT."""

    def make(kind: str, head: str = "AutoModel", **changes: Any) -> Path:
        known = transformers.CONFIG_MAPPING
        if kind not in known:
            pytest.skip(f"this transformers has no {kind}")
        ids = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "max_position_embeddings": 40}
        config = known[kind](**{**SMALL, **ids, "initializer_range": 0.2, **changes})
        folder = tmp_path / kind
        torch.manual_seed(6)
        getattr(transformers, head).from_config(config).to(changes.get("dtype")).save_pretrained(folder)
        for path in encoder.glob("tokenizer*"):
            shutil.copy(path, folder)
        return folder

    return make


def by_transformers(folder: Path, ids: list[list[int]], pooler: str) -> torch.Tensor:
    """Features of texts, each alone, so that nothing is padded."""
    model = transformers.AutoModel.from_pretrained(folder).float().eval()
    model = model.get_encoder() if hasattr(model, "decoder") else model
    found = [model(torch.tensor([row])) for row in ids]
    if pooler == "cls_pooler":
        return torch.cat([output.pooler_output for output in found])
    hidden = [output.last_hidden_state[0] for output in found]
    if pooler == "cls_last_hidden_state_pooler":
        return torch.stack([tokens[0] for tokens in hidden])
    return torch.stack([tokens.mean(dim=0) if pooler == "mean_pooler" else tokens.amax(dim=0) for tokens in hidden])


@pytest.mark.parametrize(
    ("kind", "pooler", "head", "changes"),
    [
        ("distilbert", "mean_pooler", "AutoModelForMaskedLM", {}),
        ("mpnet", "cls_pooler", "AutoModel", {}),
        ("mpnet", "mean_pooler", "AutoModel", {}),  # its pooler is left out
        ("electra", "max_pooler", "AutoModelForPreTraining", {"embedding_size": 16}),
        ("deberta-v2", "cls_last_hidden_state_pooler", "AutoModelForMaskedLM", RELATIVE),
        ("modernbert", "mean_pooler", "AutoModelForMaskedLM", {}),
        ("camembert", "max_pooler", "AutoModelForMaskedLM", {}),
        ("albert", "cls_pooler", "AutoModelForPreTraining", {"embedding_size": 16}),
        ("xlm-roberta-xl", "mean_pooler", "AutoModel", {"dtype": torch.float16}),
        ("t5", "mean_pooler", "AutoModelForSeq2SeqLM", {"d_ff": 64, "d_kv": 16}),
        ("mt5", "cls_last_hidden_state_pooler", "AutoModelForTextEncoding", {"d_ff": 64, "d_kv": 16}),
        ("bert", "max_pooler", "AutoModelForMaskedLM", {"dtype": torch.bfloat16}),
        ("bert", "cls_pooler", "AutoModelForPreTraining", {}),
    ],
)
def test_a_tower_of_any_encoder_computes_what_transformers_does(
    kind: str,
    pooler: str,
    head: str,
    changes: dict[str, Any],
    make_encoder: MakeEncoder,
    square_files: PairFiles,
    pretrained: TrainConfig,
    cache: Path,
    tmp_path: Path,
) -> None:
    folder, out = make_encoder(kind, head, **changes), tmp_path / "run"
    named = replace(pretrained, text_encoder=str(folder), text_pooler=pooler)
    align(square_files, named, CLOSED_FORM, out, cache=cache)
    model = load_model(out)
    tower = model.module.text
    ids = [[token for token in row if token] for row in model.tokenizer(TEXTS).tolist()]
    assert {len(row) for row in ids} > {3}
    with torch.no_grad(), without(tower, "proj"):
        found = tower(model.tokenizer(TEXTS))
        wanted = by_transformers(folder, ids, pooler)
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() < 1e-5
    assert (wanted[0] - wanted[1]).abs().max() > 1e-2, "texts differ by more than what is allowed"


def exported(model: Path, out: Path) -> ModelExportReport:
    config = ModelExportConfig(formats=("all",), name="squares")
    return export_model(model, config, out, seen=None, root=out.parent / "catalog")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "pooler", "changes", "reason"),
    [
        ("mpnet", "cls_pooler", {}, "of the type mpnet, and open_clip knows only roberta, "),
        ("bert", "max_pooler", {}, "pooled by max_pooler, which fails in open_clip"),
        ("electra", "max_pooler", {"embedding_size": 16}, ""),
        ("deberta-v2", "mean_pooler", RELATIVE, ""),
        ("modernbert", "mean_pooler", {}, ""),
        ("t5", "mean_pooler", {"d_ff": 64, "d_kv": 16}, ""),
    ],
)
def test_a_text_tower_that_open_clip_cannot_make_goes_to_onnx(
    kind: str,
    pooler: str,
    changes: dict[str, Any],
    reason: str,
    make_encoder: MakeEncoder,
    square_files: PairFiles,
    pretrained: TrainConfig,
    tmp_path: Path,
) -> None:
    named = replace(pretrained, text_encoder=str(make_encoder(kind, **changes)), text_pooler=pooler)
    align(square_files, named, CLOSED_FORM, tmp_path / "run", cache=tmp_path / "cache")
    report = exported(tmp_path / "run", tmp_path / "out")
    formats = ["transformers", "onnx"] if pooler == "cls_pooler" else ["onnx"]
    assert [found.format for found in report.exports] == formats
    assert all(found.difference < 1e-4 for found in report.exports)
    assert reason in report.refused["open_clip"]


@pytest.mark.parametrize(
    ("kind", "changes", "pooler", "expected"),
    [
        ("gpt2", {}, "mean_pooler", "'gpt2' are decoders"),
        ("bert", {"is_decoder": True}, "mean_pooler", "'bert' are decoders"),
        ("vit", {"image_size": 16, "vocab_size": None}, "mean_pooler", "cannot"),
        ("distilbert", {}, "cls_pooler", "'distilbert' have no pooler of their own"),
        ("camembert", {"head": "AutoModelForMaskedLM"}, "cls_pooler", "set train.text_pooler to mean_pooler"),
        ("fnet", {}, "mean_pooler", "cannot mask padding"),
        ("bert", {"pad_token_id": 9}, "mean_pooler", "another pad_token_id than its tokenizer"),
    ],
)
def test_what_cannot_be_a_text_tower_is_refused_with_the_reason(
    kind: str,
    changes: dict[str, Any],
    pooler: str,
    expected: str,
    make_encoder: MakeEncoder,
    square_files: PairFiles,
    pretrained: TrainConfig,
    cache: Path,
    tmp_path: Path,
) -> None:
    named = replace(pretrained, text_encoder=str(make_encoder(kind, **changes)), text_pooler=pooler)
    with pytest.raises(InputError, match=expected) as caught:
        align(square_files, named, CLOSED_FORM, tmp_path / "run", cache=cache)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_weights_of_a_layer_that_the_config_does_not_have_are_refused(
    kind: str, make_encoder: MakeEncoder, square_files: PairFiles, pretrained: TrainConfig, tmp_path: Path
) -> None:
    folder = make_encoder(kind, "AutoModelForMaskedLM")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 1, "n_layers": 1}))
    with pytest.raises(InputError, match=r"weights unknown to its architecture: .*layer\.1\."):
        align(
            square_files, replace(pretrained, text_encoder=str(folder)), CLOSED_FORM, tmp_path / "run", cache=tmp_path
        )
