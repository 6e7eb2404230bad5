"""Training by two processes over gloo: the same as by one, every sample once an epoch, one of them writes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from data_catalog.errors import PipelineError, SettingsError
from training.config import TrainConfig
from training.data.batches import epoch_batches, open_train_split
from training.data.pairs import PairFiles
from training.fit.loop import train
from training.fit.run import seed_process
from training.processes import let_threads_sleep, process_group, process_rank, require_same_in_all

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SmallRun = Callable[..., TrainConfig]


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines for name in ("train_loss", "val_loss", "logit_scale")]


@pytest.mark.parametrize("torchrun", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_train_as_one_does(
    torchrun: bool, square_files: PairFiles, small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crops and kept features included; and what two finished is finished for one."""
    from safetensors.torch import load_file

    config, script = small_run(frozen_epochs=1, epochs=1), tmp_path / "train.py"
    script.write_text(
        "from pathlib import Path, PosixPath\n"
        "from training.config import TrainConfig\n"
        "from training.data.pairs import PairFiles\n"
        "from training.fit.loop import train\n"
        f"train({square_files!r}, TrainConfig(**{asdict(config)!r}), Path({str(tmp_path / 'two')!r}))\n"
    )
    one = train(square_files, config, tmp_path / "one")
    if torchrun:
        command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
        found = subprocess.run([*command, "--nproc-per-node=2", script], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
    else:  # as torchrun starts them, the first of them here
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2"}
        with monkeypatch.context() as patch:
            for name, value in told.items():
                patch.setenv(name, value)
            patch.setenv("RANK", "1")
            child = subprocess.Popen([sys.executable, "-W", "ignore", script])
            patch.setenv("RANK", "0")
            train(square_files, config, tmp_path / "two")
        assert child.wait() == 0
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, weight in ours.items():
        assert (weight - theirs[name]).abs().max() < 5e-3, name
    again = train(square_files, config, tmp_path / "two")
    assert (again.steps, again.num_samples) == (one.steps, one.num_samples)
    left = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("one", "two")]
    assert left[0] == left[1]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_see_every_sample_once_an_epoch(
    square_files: PairFiles, small_run: SmallRun, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """152 samples in batches of 8: none is left over."""
    config = small_run()
    split = open_train_split(square_files.train, config, image_size=32, num_threads=1)
    for epoch in range(2):
        batches: list[list[int]] = [[] for _ in range(19)]
        for rank in range(count):
            monkeypatch.setenv("WORLD_SIZE", str(count))
            monkeypatch.setenv("RANK", str(rank))
            for batch, draw in zip(batches, epoch_batches(split, config, epoch=epoch, batch_size=8), strict=True):
                assert (len(draw.samples), draw.first) == (8 // count, len(batch))
                batch += draw.samples.tolist()
        assert sorted(sample for batch in batches for sample in batch) == list(range(152))
        monkeypatch.delenv("WORLD_SIZE")
        alone = [draw.samples.tolist() for draw in epoch_batches(split, config, epoch=epoch, batch_size=8)]
        assert batches == alone
    split.images.close()


def test_processes_that_cannot_train_together_are_refused(
    square_files: PairFiles, small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_same_in_all("key", "mine")
    monkeypatch.setenv("RANK", "3")
    assert process_rank() == 0  # else it would write nothing
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match=r"batch_size 15 cannot be divided"):
        train(square_files, small_run(batch_size=15), tmp_path / "run")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match="with torchrun"), process_group(torch.device("cpu")):
        pass
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("training.processes.broadcast", lambda _: "of the first")
    with pytest.raises(SettingsError, match="process 1 has a different key"):
        require_same_in_all("key", "mine")


def test_the_end_of_another_process_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(f"torch.distributed.{name}", lambda *_: None)
    with pytest.raises(PipelineError, match="another training process ended"), process_group(torch.device("cpu")):
        raise RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    with pytest.raises(RuntimeError, match="of another kind"), process_group(torch.device("cpu")):
        raise RuntimeError("of another kind")


def test_each_process_has_dropout_of_its_own() -> None:
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for rank, step in ((1, 0), (2, 0), (1, 7), (1, 0)):
            seed_process(3, rank, step)
            drawn.append(torch.rand(()).item())
    assert len(set(drawn)) == 3
    assert drawn[0] == drawn[3]


def test_threads_of_a_training_sleep_while_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP reads the setting once, when torch is loaded; what the user set stays."""
    code = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch': sys.exit(os.environ.get('OMP_WAIT_POLICY'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import training.fit.loop\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stderr.split() == ["PASSIVE"]
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delitem(sys.modules, "torch")
    let_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
