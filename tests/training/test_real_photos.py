"""Real photographs with real captions go through training and evaluation."""

import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.recipe.recipe import load_recipe
from training.data.pairs import PairFiles
from training.fit.loop import train
from training.towers.architecture import read_model_config
from training.towers.model import load_model

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
MakeShard = Callable[[str, Sequence[dict[str, Any]]], Path]
PairRow = Callable[..., dict[str, Any]]


def test_the_papers_recipe_over_italian_captions(
    shared_data: Path, make_shard: MakeShard, pair_row: PairRow, tmp_path: Path
) -> None:
    """`italian` with small random towers. The captions are of other photographs: those of MSCOCO-IT are not at hand."""
    told = json.loads(gzip.decompress((shared_data / "mscoco_it/captions_ita_devset_unvalidated.json.gz").read_bytes()))
    captions: dict[int, list[str]] = defaultdict(list)
    for annotation in told["annotations"]:
        captions[annotation["image_id"]].append(annotation["caption"])
    photographs = sorted((shared_data / "coco/train2017").iterdir())
    rows = [
        pair_row(f"mscoco_it:{number}", path.read_bytes(), texts, "train" if index < 56 else "val")
        for index, (path, (number, texts)) in enumerate(zip(photographs, sorted(captions.items()), strict=False))
    ]
    encoder = bert_of([text for row in rows for text in row["captions"]], tmp_path / "bert")
    model = tmp_path / "italian.json"
    config = {name: value for name, value in read_model_config("italian").items() if name != "image_weights"}
    vision = {"image_size": 224, "layers": 1, "width": 32, "head_width": 16, "patch_size": 32}
    model.write_text(json.dumps({**config, "embed_dim": 32, "vision_cfg": vision}))
    recipe = load_recipe("italian", root=tmp_path, overrides=[f"data={shared_data}"]).train
    assert (recipe.optimizer, recipe.agc, recipe.logit_scale, recipe.batch_size) == ("adabelief", 0.01, 20.0, 128)
    files = PairFiles(train=(make_shard("it-train", rows[:56]),), val=(make_shard("it-val", rows[56:]),))
    small = replace(recipe, model=str(model), text_encoder=str(encoder), frozen_epochs=1, epochs=1, num_threads=1)
    result = train(files, small, tmp_path / "run")
    assert (result.num_samples, result.frozen_epochs, result.epochs) == (56, 1, 2)
    lengths = load_model(tmp_path / "run").tokenizer([text for row in rows for text in row["captions"]])
    assert lengths.shape[1] <= 95


def bert_of(captions: Sequence[str], folder: Path) -> Path:
    """A small BERT with random weights, whose tokenizer knows the words of the captions."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir()
    tokenizer = BertWordPieceTokenizer(lowercase=False, strip_accents=False)
    tokenizer.train_from_iterator(captions, vocab_size=1000, show_progress=False)
    tokenizer.save_model(str(folder))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=False).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=1000, max_position_embeddings=95, **sizes)).save_pretrained(folder)
    return folder
