"""Real photographs with real captions go through training and evaluation."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from training.config import EvaluateConfig, TrainConfig
from training.data import PairFiles
from training.evaluation import evaluate
from training.loop import train

MakeShard = Callable[[str, Sequence[dict[str, Any]]], Path]
PairRow = Callable[..., dict[str, Any]]


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_coco_photographs(shared_data: Path, make_shard: MakeShard, pair_row: PairRow, tmp_path: Path) -> None:
    coco = json.loads((shared_data / "coco/captions_train2017.json").read_text(encoding="utf-8"))
    captions: dict[int, list[str]] = defaultdict(list)
    for annotation in coco["annotations"]:
        captions[annotation["image_id"]].append(annotation["caption"])
    images = sorted(coco["images"], key=lambda image: image["id"])
    rows = [
        pair_row(
            f"mscoco:{image['id']}",
            (shared_data / "coco/train2017" / image["file_name"]).read_bytes(),
            captions[image["id"]],
            "test" if index >= 64 else "train",
        )
        for index, image in enumerate(images)
    ]
    assert len(rows) == 80
    files = PairFiles(train=(make_shard("train", rows[:64]),), test=(make_shard("test", rows[64:]),))
    result = train(files, TrainConfig(epochs=1, batch_size=32, vocab_size=1000, num_threads=1), tmp_path)
    assert (result.num_samples, result.steps) == (64, 2)
    score = evaluate(files, tmp_path, EvaluateConfig(bootstrap_rounds=50)).get("text_to_image_R@10")
    assert (score.gallery_size, score.num_queries) == (16, 80)
    assert score.chance == pytest.approx(10 / 16)
