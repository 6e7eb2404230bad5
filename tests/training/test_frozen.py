"""Features of frozen towers, kept: the same training as with features computed anew, and what is kept when."""

import errno
import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_catalog.errors import DiskError
from training.config import TrainConfig
from training.data.pairs import PairFiles
from training.fit.inputs import FeatureRows, projected, without
from training.fit.loop import train
from training.fit.optimisation import frozen_parts
from training.towers.model import create_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TEXT = {"context_length": 24, "vocab_size": 300, "width": 32, "heads": 2, "layers": 1, "pool_type": "argmax"}
TOWERS: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
}


def model_of(tower: str) -> dict[str, Any]:
    return {"embed_dim": 32, "custom_text": True, "vision_cfg": TOWERS[tower], "text_cfg": TEXT}


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    model = model_of("vit")
    model["text_cfg"] = {**model["text_cfg"], "hf_tokenizer_name": "tokenizer"}
    path = tmp_path / "vit.json"
    path.write_text(json.dumps(model))
    return TrainConfig(
        model=str(path),
        frozen_epochs=3,
        patience=3,
        epochs=2,
        batch_size=16,
        lr=1e-2,
        warmup_steps=2,
        augment=(),
        num_threads=1,
        checkpoint_every_steps=2,
    )


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_a_tower_is_its_projection_of_what_is_kept(tower: str) -> None:
    import torch

    torch.manual_seed(0)
    module = create_model(model_of(tower), Path()).eval()
    images, ids = torch.rand((5, 3, 32, 32)), torch.randint(3, 300, (5, 10))
    names = [name for name, _ in module.named_parameters()]
    for part, inputs in zip(frozen_parts(module, frozen=True, lock_image=False), (images, ids), strict=True):
        assert part is not None
        expected = part.tower(inputs)
        with torch.no_grad(), without(part.tower, part.projection):
            kept = part.tower(inputs)
        assert kept.shape != expected.shape or not torch.allclose(kept, expected)
        torch.testing.assert_close(projected(part.tower, part.projection)(kept), expected)
    assert [name for name, _ in module.named_parameters()] == names


@pytest.mark.parametrize("lock_image", [False, True])
def test_training_is_the_same_as_without_keeping(
    config: TrainConfig,
    lock_image: bool,
    square_files: PairFiles,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    config = replace(config, lock_image=lock_image)
    train(square_files, config, tmp_path / "kept")
    assert "encode images with the frozen tower: 144 of 144" in caplog.text
    assert "encode captions with the frozen tower" in caplog.text
    monkeypatch.setattr("training.fit.inputs.frozen_parts", lambda *_, **__: (None, None))
    train(square_files, config, tmp_path / "anew")
    kept, anew = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("kept", "anew")
    )
    assert len(kept) == len(anew)
    for one, other in zip(kept, anew, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=1e-4)


def test_no_more_than_a_microbatch_goes_through_the_towers(
    config: TrainConfig, square_files: PairFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while features are kept nor in validation: what trained must not run out of memory there."""
    from open_clip.transformer import Transformer

    sizes: list[int] = []
    forward = Transformer.forward

    def noted(self: Transformer, x: Any, *more: Any, **named: Any) -> Any:
        sizes.append(len(x))
        return forward(self, x, *more, **named)

    monkeypatch.setattr(Transformer, "forward", noted)
    train(square_files, replace(config, frozen_epochs=1, epochs=1, microbatch=6), tmp_path / "run")
    assert max(sizes) == 6


def test_augmented_images_are_computed_anew_and_their_captions_are_not(
    config: TrainConfig, square_files: PairFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    train(square_files, replace(config, augment=("crop",), frozen_epochs=1, epochs=1), tmp_path / "run")
    assert "encode captions with the frozen tower" in caplog.text
    assert "encode images" not in caplog.text


def test_a_locked_tower_keeps_its_batch_statistics(
    config: TrainConfig, square_files: PairFiles, tmp_path: Path
) -> None:
    """No batch may come by them, nor the image that is only to show how large the features are."""
    from safetensors.torch import load_file

    model = {**json.loads(Path(config.model).read_text()), "vision_cfg": {**TOWERS["resnet"], "image_size": 64}}
    Path(config.model).write_text(json.dumps(model))
    train(square_files, replace(config, lock_image=True, frozen_epochs=1, epochs=1), tmp_path / "run")
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert weights["visual.bn1.running_mean"].abs().max() == 0
    assert weights["visual.bn1.num_batches_tracked"] == 0


@pytest.mark.slow
def test_killed_with_kept_features_it_goes_on_bit_for_bit(
    config: TrainConfig, square_files: PairFiles, tmp_path: Path, kill_while_training: Callable[..., None]
) -> None:
    long = replace(config, frozen_epochs=8, patience=8, epochs=1, checkpoint_every_steps=1)
    train(square_files, long, tmp_path / "whole")
    kill_while_training(square_files, long, tmp_path / "killed")
    train(square_files, long, tmp_path / "killed")
    for name in ("model.safetensors", "metrics.jsonl", "result.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    left = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert left == sorted(path.name for path in (tmp_path / "whole").iterdir())


def test_rows_are_kept_by_index(tmp_path: Path) -> None:
    import torch

    rows = FeatureRows(10, tmp_path)
    wanted = np.array([7, 2, 2, 5])
    assert rows.missing(wanted).tolist() == [2, 5, 7]
    rows.put(np.array([2, 5]), torch.tensor([[2.0, 2.5], [5.0, 5.5]]))
    assert rows.missing(wanted).tolist() == [7]
    assert rows.read(np.array([5, 2, 5])).tolist() == [[5.0, 5.5], [2.0, 2.5], [5.0, 5.5]]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_for_them_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", full)
    rows = FeatureRows(10, tmp_path)
    with pytest.raises(DiskError, match=r"the disk that holds .* is full"):
        rows.put(np.array([0]), torch.zeros((1, 4)))
