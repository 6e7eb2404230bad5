"""Training by several processes over gloo is the same as by one; how long a training took."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data_catalog.base.errors import DamagedError, PipelineError, SettingsError
from data_catalog.base.language_pack import Sides
from training.config import TrainConfig
from training.data.batches import epoch_batches, open_train_split
from training.data.pairs import PairFiles
from training.fit.clip import train
from training.runs.attempts import EFFORT_FILE, AttemptLog, read_attempts
from training.runs.processes import process_group, process_rank, require_same_in_all, seed_process
from training.towers.preprocessing import Preprocessing

SmallRun = Callable[..., TrainConfig]


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines for name in ("train_loss", "val_loss", "logit_scale")]


def test_processes_train_as_one_does(
    square_files: PairFiles,
    small_run: SmallRun,
    sides: Sides,
    training_code: Callable[..., str],
    start_code: Callable[..., BaseProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Crops, kept features, and mirrored captions included; what they finished is finished for one."""
    config = small_run(frozen_epochs=1, epochs=1, log=("tensorboard",), augment=("crop", "mirror"))
    code = training_code(square_files, config, tmp_path / "several", sides)
    one = train(square_files, config, tmp_path / "one", sides=sides)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # As torchrun starts them, the first of them here.
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2"}
    child = start_code(code, **told, RANK="1")
    with monkeypatch.context() as patch:
        for name, value in {**told, "RANK": "0"}.items():
            patch.setenv(name, value)
        train(square_files, config, tmp_path / "several", sides=sides)
    child.join()
    assert child.exitcode == 0
    assert losses(tmp_path / "several") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "several"))
    for name, weight in ours.items():
        assert (weight - theirs[name]).abs().max() < 5e-3, name
    again = train(square_files, config, tmp_path / "several", sides=sides)
    assert (again.steps, again.num_samples) == (one.steps, one.num_samples)
    assert len(list((tmp_path / "several" / "tensorboard").iterdir())) == 1, "the first process alone logs"


@pytest.mark.parametrize("count", [2, 4])
def test_processes_see_every_sample_once_an_epoch(
    square_files: PairFiles, small_run: SmallRun, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """152 samples in batches of 8: none is left over. In the second epoch they have an order of their own."""
    config = small_run()
    split = open_train_split(square_files.train, config, preprocessing=Preprocessing(size=32), num_threads=1)
    for epoch, order in enumerate((None, np.random.default_rng(0).permutation(152))):
        given: dict[str, Any] = {"epoch": epoch, "batch_size": 8, "order": order}
        batches: list[list[int]] = [[] for _ in range(19)]
        for rank in range(count):
            monkeypatch.setenv("WORLD_SIZE", str(count))
            monkeypatch.setenv("RANK", str(rank))
            for batch, draw in zip(batches, epoch_batches(split, config, **given), strict=True):
                assert (len(draw.samples), draw.first) == (8 // count, len(batch))
                batch += draw.samples.tolist()
        assert sorted(sample for batch in batches for sample in batch) == list(range(152))
        monkeypatch.delenv("WORLD_SIZE")
        alone = [draw.samples.tolist() for draw in epoch_batches(split, config, **given)]
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
    monkeypatch.setattr("training.runs.processes.broadcast", lambda _: "of the first")
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


@pytest.mark.parametrize(
    ("module", "told", "expected"),
    [
        ("fit.clip", {}, "PASSIVE"),
        ("fit.clip", {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ("distil.distil", {}, "PASSIVE"),
    ],
)
def test_threads_of_a_training_sleep_while_they_wait(module: str, told: dict[str, str], expected: str) -> None:
    """OpenMP reads the setting once, when torch is loaded; what the user set stays."""
    code = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch': sys.exit(os.environ.get('OMP_WAIT_POLICY'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"import training.{module}\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | told
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stderr.split() == [expected]


@pytest.mark.parametrize("damage", ['{"attempts": {}}', '{"attempts": [{"seconds": "12"}]}', '{"attempts": [{}]}', "{"])
def test_attempts_add_up_and_a_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    """Those of an earlier version, which measured energy, count too."""
    path = tmp_path / EFFORT_FILE
    for first, last in ((0, 5), (3, 9)):
        log = AttemptLog(tmp_path, torch.device("cpu"), step=first)
        log.note(last - 1)
        log.note(last)
        earlier = json.loads(path.read_text())
        earlier["attempts"][0] |= {"joules": {"package-0": 1.5}, "not_measured": ["GPU"]}
        path.write_text(json.dumps(earlier))
    attempts = read_attempts(path)
    assert [(found.first_step, found.last_step) for found in attempts] == [(0, 5), (3, 9)]
    assert all(found.seconds >= 0 and found.hardware[0] for found in attempts)
    path.write_text(damage)
    with pytest.raises(DamagedError, match=r"effort\.json is damaged .* remove it"):
        read_attempts(path)


def test_freed_memory_is_kept_and_not_taken_from_the_system_again() -> None:
    code = """if True:
        import resource, sys
        from training.runs.processes import prepare_for_torch
        if "prepare" in sys.argv: prepare_for_torch()
        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            bytes(bytearray(b"a") * 2**26)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        faults()
        print(faults())
    """
    plain, prepared = (
        int(subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True).stdout)
        for words in ([], ["prepare"])
    )
    assert prepared < plain / 10
