"""Training by two processes over gloo: the same as by one, every sample once an epoch, one of them writes."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import PipelineError, SettingsError
from training.config import TrainConfig
from training.data.batches import epoch_batches, open_train_split
from training.data.pairs import PairFiles
from training.fit.loop import train
from training.processes import process_group, process_rank, require_same_in_all

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

VIT: dict[str, Any] = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {
        "context_length": 24,
        "width": 32,
        "heads": 2,
        "layers": 1,
        "pool_type": "argmax",
        "hf_tokenizer_name": "tokenizer",
    },
}


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    model = tmp_path / "vit.json"
    model.write_text(json.dumps(VIT))
    return TrainConfig(
        model=str(model),
        frozen_epochs=2,
        patience=2,
        epochs=2,
        batch_size=16,
        lr=5e-3,
        warmup_steps=2,
        num_threads=1,
        checkpoint_every_steps=4,
    )


def together(files: PairFiles, config: TrainConfig, out: Path, *, count: int = 2) -> None:
    """Train by so many processes, as `torchrun` starts them."""
    script = out.with_suffix(".py")
    script.write_text(
        "import logging\n"
        "from pathlib import Path, PosixPath\n"
        "from training.config import TrainConfig\n"
        "from training.data.pairs import PairFiles\n"
        "from training.fit.loop import train\n"
        "logging.basicConfig(level=logging.INFO)\n"
        f"train({files!r}, TrainConfig(**{asdict(config)!r}), Path({str(out)!r}))\n"
    )
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    found = subprocess.run([*command, str(count), str(script)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines for name in ("train_loss", "val_loss", "logit_scale")]


def test_two_processes_train_as_one_does(square_files: PairFiles, config: TrainConfig, tmp_path: Path) -> None:
    """Crops and kept features included; and what two finished is finished for one."""
    from safetensors.torch import load_file

    one = train(square_files, config, tmp_path / "one")
    together(square_files, config, tmp_path / "two")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, weight in ours.items():
        assert (weight - theirs[name]).abs().max() < 5e-3, name
    again = train(square_files, config, tmp_path / "two")
    assert (again.steps, again.num_samples) == (one.steps, one.num_samples)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_see_every_sample_once_an_epoch(
    square_files: PairFiles, config: TrainConfig, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """152 samples in batches of 8: none is left over."""
    split = open_train_split(square_files.train, config, image_size=32, num_threads=1)
    for epoch in range(3):
        seen: list[int] = []
        batches: list[list[int]] = [[] for _ in range(19)]
        for rank in range(count):
            monkeypatch.setenv("WORLD_SIZE", str(count))
            monkeypatch.setenv("RANK", str(rank))
            for batch, draw in zip(batches, epoch_batches(split, config, epoch=epoch, batch_size=8), strict=True):
                assert len(draw.samples) == 8 // count
                batch += draw.samples.tolist()
                seen += draw.samples.tolist()
        assert sorted(seen) == list(range(152))
        monkeypatch.delenv("WORLD_SIZE")
        monkeypatch.delenv("RANK")
        alone = [draw.samples.tolist() for draw in epoch_batches(split, config, epoch=epoch, batch_size=8)]
        assert batches == alone
    split.images.close()


def test_a_batch_that_processes_cannot_share_is_refused(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before they look for each other."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match=r"train\.batch_size 15 cannot be divided among 2 processes"):
        train(square_files, replace(config, batch_size=15), tmp_path / "run")


def test_processes_that_do_not_train_the_same_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would take its own learning rate to the gradients of all, and the first one's model be kept."""
    require_same_in_all("key", "mine")
    monkeypatch.setattr("training.processes.broadcast", lambda _: "of the first")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SettingsError, match="process 1 has a different key than the first process"):
        require_same_in_all("key", "mine")


def test_processes_that_torchrun_did_not_start_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("RANK", "3")
    assert process_rank() == 0  # else it would write nothing
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(SettingsError, match=r"WORLD_SIZE is 2, .* Start them with torchrun"),
        process_group(torch.device("cpu")),
    ):
        pass


def test_the_end_of_another_process_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(f"torch.distributed.{name}", lambda *_: None)
    with (
        pytest.raises(PipelineError, match="another training process ended"),
        process_group(torch.device("cpu")),
    ):
        raise RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    with pytest.raises(RuntimeError, match="of another kind"), process_group(torch.device("cpu")):
        raise RuntimeError("of another kind")


def test_each_process_has_dropout_of_its_own() -> None:
    import torch

    from training.fit.run import seed_process

    drawn = []
    with torch.random.fork_rng(devices=[]):
        for rank, step in ((1, 0), (2, 0), (1, 7), (1, 0)):
            seed_process(3, rank, step)
            drawn.append(torch.rand(()).item())
    assert len(set(drawn)) == 3
    assert drawn[0] == drawn[3]


@pytest.mark.parametrize(("set_before", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_a_training_sleep_while_they_wait(set_before: str | None, found: str) -> None:
    """OpenMP reads the setting once, when torch is loaded; what the user set stays."""
    code = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch': print(os.environ.get('OMP_WAIT_POLICY'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import training.fit.loop\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if set_before is not None:
        environment["OMP_WAIT_POLICY"] = set_before
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [found]
