"""Hand the metrics of a run to TensorBoard and Weights & Biases: `train.log`, `align.log`, `distil.log`.

The metrics of a step are handed over when they are complete. After that, a later step is noted in `effort.json`, and
then its resume state is written, with the metrics of its last step. A resumed run logs these, and skips earlier steps.
So each step is logged once, also after a kill. Only wandb loses the last seconds of a process that was killed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from data_catalog.base.boundary import about
from data_catalog.base.errors import install_hint
from data_catalog.catalog.manifest import RUN_FILE
from data_catalog.disk.files import read_json
from training.config import TRACKERS
from training.runs.processes import process_rank


class _TensorBoard:
    """Event files in the folder `tensorboard` of a model folder; those of an earlier attempt from `since` on go."""

    def __init__(self, out: Path, run: Mapping[str, Any], since: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(out / "tensorboard"), purge_step=since)
        if since == 0:
            self._writer.add_text("settings", f"```json\n{json.dumps(run['settings'], indent=1)}\n```", 0)

    def log(self, steps: Mapping[int, Mapping[str, float]]) -> None:
        for step, metrics in steps.items():
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class _Wandb:
    """A W&B run named by the key, in the folder `wandb` of a model folder. All else is wandb's own settings."""

    def __init__(self, out: Path, run: Mapping[str, Any], since: int) -> None:
        import wandb

        name = run["key"][:12]
        with _about_wandb():  # the user's program may have a run of its own
            self._run = wandb.init(
                dir=out, id=name, name=name, config=run["settings"], resume="allow", reinit="create_new"
            )

    def log(self, steps: Mapping[int, Mapping[str, float]]) -> None:
        for step, metrics in steps.items():
            self._run.log(dict(metrics), step=step, commit=True)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))  # waits until everything is uploaded or written


_TYPES: dict[str, type[_TensorBoard] | type[_Wandb]] = dict(zip(TRACKERS, (_TensorBoard, _Wandb), strict=True))


def require_trackers(names: Sequence[str]) -> None:
    """Check that trackers (`training.config.TRACKERS`) can be used. With wandb in online mode, log in."""
    with about("the setting log", remedy=install_hint("log")):
        for name in names:
            import_module(name)
    if "wandb" in names and process_rank() == 0:
        import wandb

        with _about_wandb():
            if wandb.run is None and wandb.setup().settings.mode == "online":
                wandb.login()


def _about_wandb() -> AbstractContextManager[None]:
    return about("wandb", remedy="run `wandb login`, or set WANDB_MODE=offline")


class Trackers:
    """The trackers of a run, none by default. Metrics wait until they are handed over.

    As a context manager, it hands over the last metrics and ends the run. After an exception, the run has failed.
    """

    def __init__(self, names: Sequence[str] = (), out: Path = Path(), *, since: int = 0) -> None:
        """Open trackers for a model folder that has its `run.json`, without the metrics of steps before `since`."""
        run = read_json(out / RUN_FILE) if names else {}
        self._opened = [_TYPES[name](out, run, since) for name in dict.fromkeys(names)]
        self._since, self._waiting = since, dict[int, dict[str, float]]()

    def add(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Add metrics of a step, without those that are None."""
        if self._opened and metrics and step >= self._since:
            known = {name: float(value) for name, value in metrics.items() if value is not None and name != "step"}
            self._waiting.setdefault(step, {}).update(known)

    def hand_over(self, *, before: float) -> dict[str, float]:
        """Log the metrics of steps before a step, and return those of that step, which wait for more."""
        ready = {step: self._waiting.pop(step) for step in sorted(self._waiting) if step < before}
        for tracker in self._opened:
            tracker.log(ready)
        return dict(*self._waiting.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.hand_over(before=math.inf)
        for tracker in self._opened:
            tracker.close(failed=kind is not None)
