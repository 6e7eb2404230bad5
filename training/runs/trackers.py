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
from training.runs.processes import process_rank


def require_trackers(names: Sequence[str]) -> None:
    """Check that trackers (`training.config.Tracker`) can be used. With wandb in online mode, log in."""
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
    """The trackers of a run, none by default, with folders of their own. Metrics wait until they are handed over.

    All settings of wandb, such as project and mode, are its own (`WANDB_PROJECT`, `WANDB_MODE`). As a context manager,
    it hands over the last metrics and ends the run. After an exception, the run has failed.
    """

    def __init__(self, names: Sequence[str] = (), out: Path = Path(), *, since: int = 0) -> None:
        """Open trackers for a model folder that has its `run.json`, without the metrics of steps before `since`."""
        run = read_json(out / RUN_FILE) if names else {}
        self._is_open, self._since, self._waiting = bool(names), since, dict[int, dict[str, float]]()
        self._writer: Any = None
        self._run: Any = None
        if "tensorboard" in names:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=since)  # those of an earlier attempt
            if since == 0:
                self._writer.add_text("settings", f"```json\n{json.dumps(run['settings'], indent=1)}\n```", 0)
        if "wandb" in names:
            import wandb

            given = {"dir": out, "id": run["key"][:12], "name": run["key"][:12], "config": run["settings"]}
            with _about_wandb():  # the user's program may have a run of its own
                self._run = wandb.init(**given, resume="allow", reinit="create_new")

    def add(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Add metrics of a step, without those that are None."""
        if self._is_open and metrics and step >= self._since:
            known = {name: float(value) for name, value in metrics.items() if value is not None and name != "step"}
            self._waiting.setdefault(step, {}).update(known)

    def hand_over(self, *, before: float) -> dict[str, float]:
        """Log the metrics of steps before a step, and return those of that step, which wait for more."""
        for step in sorted(self._waiting):
            if step < before:
                metrics = self._waiting.pop(step)
                if self._writer is not None:
                    for name, value in metrics.items():
                        self._writer.add_scalar(name, value, step)
                if self._run is not None:
                    self._run.log(metrics, step=step, commit=True)
        if self._writer is not None:
            self._writer.flush()
        return dict(*self._waiting.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.hand_over(before=math.inf)
        if self._writer is not None:
            self._writer.close()
        if self._run is not None:
            self._run.finish(exit_code=int(kind is not None))  # waits until everything is uploaded or written
