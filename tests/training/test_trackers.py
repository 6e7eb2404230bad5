"""TensorBoard and W&B show each step of a run once, whatever happened to it; they change no weight and no key."""

import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import InputError
from flows.models import align_model, distil_model, require_ready, train_model
from flows.recipe.recipe import load_recipe
from training.config import TrainConfig
from training.data.pairs import PairFiles
from training.fit.clip import train
from training.runs.attempts import STATE_FILE, read_attempts
from training.runs.trackers import require_trackers


def wait_for_the_next_second() -> None:
    """TensorBoard reads the files of attempts in the order of their seconds, and then of their processes' numbers."""
    time.sleep(1 - time.time() % 1)


@pytest.mark.slower
def test_a_killed_run_logs_each_step_once_and_ends_as_one_without_trackers(
    square_files: PairFiles,
    small_run: Callable[..., TrainConfig],
    training_code: Callable[..., str],
    start_code: Callable[..., BaseProcess],
    interrupt_training: Callable[..., None],
    logged: Callable[[Path], dict[str, dict[str, Any]]],
    tmp_path: Path,
) -> None:
    import wandb

    config, out = small_run(checkpoint_every_steps=3), tmp_path / "run"
    plain = train(square_files, config, tmp_path / "plain")
    config = replace(config, log=("tensorboard", "wandb"))
    interrupt_training(square_files, config, out, saves=3)  # after the last step of an epoch, before its validation
    wandb.teardown()  # the child starts wandb's service itself, as any other process
    wait_for_the_next_second()
    before = (out / STATE_FILE).stat().st_mtime_ns
    child = start_code(training_code(square_files, config, out))
    while (out / STATE_FILE).stat().st_mtime_ns == before:
        assert child.is_alive(), "the child ended before it could be killed"
        time.sleep(0.005)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    wait_for_the_next_second()
    assert train(square_files, config, out) == plain
    for name in ("model.safetensors", "metrics.jsonl", "run.json", "result.json"):
        assert (out / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    found, lines = logged(out), [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert found["tensorboard"].pop("settings") == found["wandb"].pop("settings") == settings
    steps, kept = range(1, plain.steps + 1), {step for step, _ in found["wandb"]["loss"]}
    assert [step for step, _ in found["tensorboard"]["loss"]] == list(steps)
    for name in set(lines[0]) - {"step"}:
        assert found["tensorboard"][name] == [(line["step"], pytest.approx(float(line[name]))) for line in lines], name
    _, killed, last = read_attempts(out / "effort.json")
    assert kept >= {*range(1, killed.first_step), *range(killed.last_step, last.last_step + 1)}  # wandb was killed too
    for name, shown in found["tensorboard"].items():
        wanted = [(step, pytest.approx(value)) for step, value in shown if step in kept]
        assert found["wandb"][name] == wanted, name


@pytest.mark.parametrize(
    ("job", "section"),
    [(require_ready, "train"), (train_model, "train"), (align_model, "align"), (distil_model, "distil")],
)
def test_a_missing_package_is_reported_before_anything_else(
    job: Callable[..., Any], section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    recipe = load_recipe("scenes", root=tmp_path, overrides=[f'{section}.log=["tensorboard"]'])
    with pytest.raises(InputError, match=r"tensorboard.*: run `pip install 'tensorboard<3,>=2.18' 'wandb<1,>=0.19"):
        job(recipe, tmp_path)


def test_wandb_without_a_login_is_refused_before_it_connects(
    logged: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(InputError, match="run `wandb login`, or set WANDB_MODE=offline"):
        require_trackers(("wandb",))
