"""Run a training: phases, learning rates, validations, the best weights, and a state to resume from bit for bit.

What is trained is a `Task`. Batches, draws and caches follow from the seed, the epoch and the place in it, so the
resume state has none of them.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from data_catalog.base.errors import SettingsError
from data_catalog.base.progress import Progress
from data_catalog.disk.files import sha256_of, write_bytes, write_json
from data_catalog.disk.resume import load_resume_state, save_resume_state
from training.runs.attempts import (
    METRICS_FILE,
    RESULT_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    AttemptLog,
    Result,
    remove_state,
)
from training.runs.processes import barrier, broadcast, generator_states, process_rank, set_generator_states
from training.runs.trackers import Trackers

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of a run with an optimizer state of its own."""

    name: str  # in the line of progress
    steps: int  # maximum number of optimizer steps
    rate: Callable[[int], float]  # learning rate of a step of the phase, from 0
    patience: float = math.inf  # validations without a better score after which the phase ends
    from_best: bool = False  # starts from the best weights so far, not from the last ones


def cosine(lr: float, *, warmup: int, total: int) -> Callable[[int], float]:
    """Return learning rates by step: linear warm-up to `lr`, then half a cosine down to 0 at `total`."""

    def rate(step: int) -> float:
        if step < warmup:
            return lr * (step + 1) / warmup
        done = (step - warmup) / max(1, total - warmup)
        return lr * 0.5 * (1 + math.cos(math.pi * done))

    return rate


@dataclass(slots=True, kw_only=True)
class RunState:
    """The progress of a run."""

    phase: int = 0  # index of the current one
    phase_start: int = 0  # steps of earlier phases
    step: int = 0  # finished steps
    epoch: int = 0  # finished epochs
    batch: int = 0  # finished batches of the current epoch
    stale: int = 0  # validations of the phase since the best one
    sums: dict[str, list[float]] = field(default_factory=dict)  # sum and number of what steps returned, by name
    history: list[dict[str, Any]] = field(default_factory=list)  # one record for each validation
    best: int | None = None  # place of the best one in it
    best_score: float | None = None  # None if the task gives none, so that the last weights are kept
    waiting: dict[str, float] = field(default_factory=dict)  # metrics of the last step, which trackers do not have yet

    @property
    def best_record(self) -> dict[str, Any]:
        """Return the record of the best validation; empty before any."""
        return {} if self.best is None else self.history[self.best]


class Task(Protocol[Batch]):
    """A training that a `Runner` carries out. A loss or gradient that is not finite raises a `FloatingPointError`."""

    modules: Mapping[str, torch.nn.Module]  # of the resume state, by name
    optimizer: Any  # its state is cleared where a phase begins
    device: torch.device  # of the random generators
    remedy: str  # against a loss that is not finite, such as "Lower train.lr"

    def begin(self, state: RunState) -> None:
        """Prepare `state.phase`, at its start or after a resumption: choose what trains, fill caches; or nothing."""
        return

    def num_batches(self, epoch: int) -> int:
        """Return the number of batches of an epoch, from 0."""

    def batches(self, epoch: int, places: range) -> Generator[Batch]:
        """Set the modules to training, and yield these batches of an epoch. The generator is closed at its end."""

    def step(self, batch: Batch, lr: float) -> Mapping[str, float]:
        """Take one optimizer step. Return "loss" and further values."""

    def validate(self) -> tuple[float | None, Mapping[str, Any]]:
        """Return the score of the current weights, where higher is better, and what to record of them.

        Without a score the last weights are kept. Only the first process's result counts.
        """

    def keep(self) -> None:
        """Keep the current weights as the best."""

    def restore(self) -> None:
        """Load the best weights, which a phase `from_best` needs."""
        return


class Runner:
    """Runs a task through its phases, from the last resume state. A killed run ends with the same weights."""

    def __init__(
        self,
        task: Task[Any],
        phases: Sequence[Phase],
        *,
        folder: Path | None = None,  # of the run, with its `run.json`; None keeps neither state nor metrics
        key: str = "",  # only a run with the same key resumes
        validate_every: int = 0,  # steps between validations, 0: once an epoch; the last step is followed by one
        checkpoint_every: int = 0,  # steps between resume states, 0: one after each validation only
        log: Sequence[str] = (),  # trackers
        report: Callable[[RunState], object] | None = None,  # called after each validation, once its state is written
    ) -> None:
        self._task, self._phases, self._folder, self._key = task, phases, folder, key
        self._validate_every, self._checkpoint_every, self._log = validate_every, checkpoint_every, log
        self._report = report
        self._attempts: AttemptLog | None = None
        self._trackers = Trackers()
        self.state = RunState()
        if folder is not None:
            loaded = load_resume_state(
                folder / STATE_FILE,
                key=key,
                modules=task.modules,
                optimizer=task.optimizer,
                set_generators=set_generator_states,
                progress_of=lambda progress: RunState(**progress),
            )
            self.state = loaded or self.state

    def run(self, *, validate_first: bool = False) -> RunState:
        """Train to the end, with a validation of the initial weights as epoch 0 if asked for; return the last state."""
        state = self.state
        with ExitStack() as stack:  # the last one is closed first
            if self._folder is not None and process_rank() == 0:
                self._attempts = AttemptLog(self._folder, self._task.device, step=state.step)
                self._trackers = Trackers(self._log, self._folder, since=self._attempts.noted_step)
                self._trackers.add(state.step, state.waiting)
            stack.enter_context(self._trackers)
            stack.callback(self._note)
            try:
                for index, phase in list(enumerate(self._phases))[state.phase :]:
                    if index > state.phase:
                        self._enter(index, phase)
                    self._run_phase(phase, validate_first=validate_first and not state.history)
            except FloatingPointError as error:
                best = state.best_record
                kept = f"The weights of epoch {best['epoch']} are in {self._folder}. " if best and self._folder else ""
                raise SettingsError(
                    f"training stopped after step {state.step}, in epoch {state.epoch + 1}, because {error}. {kept}"
                    f"{self._task.remedy}"
                ) from error
        return state

    def _enter(self, index: int, phase: Phase) -> None:
        if phase.from_best:
            self._task.restore()
        self._task.optimizer.state.clear()
        self.state.phase, self.state.phase_start, self.state.stale = index, self.state.step, 0
        self._save()

    def _run_phase(self, phase: Phase, *, validate_first: bool) -> None:
        state = self.state
        if not (validate_first or self._goes_on(phase)):
            return
        self._task.begin(state)
        with Progress(phase.name, total=phase.steps, unit="steps", initial=state.step - state.phase_start) as progress:
            if validate_first:
                self._validate(progress, epoch=0)
            while self._goes_on(phase):
                if not self._is_due():
                    self._train(phase, progress)
                if self._is_due():
                    self._validate(progress, epoch=state.epoch + 1)
                elif self._is_epoch_over():
                    state.epoch, state.batch = state.epoch + 1, 0

    def _goes_on(self, phase: Phase) -> bool:
        return self.state.stale < phase.patience and bool(self._steps_left() or self._is_due())

    def _steps_left(self) -> int:
        return self._phases[self.state.phase].steps - (self.state.step - self.state.phase_start)

    def _is_epoch_over(self) -> bool:
        return self.state.batch == self._task.num_batches(self.state.epoch)

    def _is_due(self) -> bool:
        """Return whether a validation follows the last step."""
        state = self.state
        if not state.sums:
            return False
        if state.phase == len(self._phases) - 1 and not self._steps_left():
            return True
        return state.step % self._validate_every == 0 if self._validate_every else self._is_epoch_over()

    def _train(self, phase: Phase, progress: Progress) -> None:
        """Train to the end of the epoch or the phase, or to the next validation."""
        state = self.state
        count = min(self._steps_left(), self._task.num_batches(state.epoch) - state.batch)
        if self._validate_every:
            count = min(count, self._validate_every - state.step % self._validate_every)
        with closing(self._task.batches(state.epoch, range(state.batch, state.batch + count))) as batches:
            for batch in batches:
                lr = phase.rate(state.step - state.phase_start)
                loss = self._step(batch, lr)
                state.step, state.batch = state.step + 1, state.batch + 1
                self._trackers.add(state.step, {"loss": loss, "lr": lr})
                progress.advance(1, epoch=state.epoch + 1, loss=f"{loss:.3f}")
                if self._checkpoint_every and state.step % self._checkpoint_every == 0:
                    self._save()

    def _step(self, batch: Any, lr: float) -> float:
        """Take a step, add what it returns to the sums, and return its loss."""
        found = self._task.step(batch, lr)
        for name, value in found.items():
            before = self.state.sums.setdefault(name, [0.0, 0])
            before[0] += value
            before[1] += 1
        return found["loss"]

    def _validate(self, progress: Progress, *, epoch: int) -> None:
        """Validate, keep the weights if they are the best, and write metrics and the resume state."""
        state, started = self.state, time.monotonic()
        score, measured = broadcast(self._task.validate())
        means = {
            f"train_{name}" if name == "loss" else name: total / count for name, (total, count) in state.sums.items()
        }
        state.history.append({"epoch": epoch, "step": state.step, "train_loss": None, **means, **measured})
        is_best = score is None or state.best_score is None or score > state.best_score
        state.stale = 0 if is_best else state.stale + 1
        if is_best:
            state.best, state.best_score = len(state.history) - 1, score
        self._trackers.add(state.step, state.history[-1])
        if epoch and (not self._validate_every or self._is_epoch_over()):
            state.epoch, state.batch = state.epoch + 1, 0
        state.sums = {}
        if process_rank() == 0:
            # The weights come before the state: after a kill between the two, the validation runs again.
            if is_best:
                self._task.keep()
            if self._folder is not None:
                write_metrics(self._folder, state)
        self._save()
        if self._report is not None:
            self._report(state)
        shown = [f"{name} {value:.3f}" for name, value in state.history[-1].items() if isinstance(value, float)]
        seconds = time.monotonic() - started
        say = logger.debug if self._folder is None else progress.say  # folds are many
        say("epoch %d, step %d: %s (validated in %.1f s)", epoch, state.step, ", ".join(shown), seconds)
        barrier()

    def _note(self) -> None:
        """Hand over metrics, then note the step before which that was done."""
        self.state.waiting = self._trackers.hand_over(before=self.state.step)
        if self._attempts is not None:
            self._attempts.note(self.state.step)

    def _save(self) -> None:
        """Write the resume state from the first process, since it is the same in all of them."""
        self._note()
        if self._folder is not None and process_rank() == 0:
            save_resume_state(
                self._folder / STATE_FILE,
                key=self._key,
                modules=self._task.modules,
                optimizer=self._task.optimizer,
                generators=generator_states(self._task.device),
                progress=asdict(self.state),
            )


def write_metrics(folder: Path, state: RunState) -> None:
    """Write `metrics.jsonl`, one line for each validation."""
    write_bytes(folder / METRICS_FILE, "".join(json.dumps(line) + "\n" for line in state.history).encode())


def finish(folder: Path, key: str, state: RunState, *, num_samples: int, frozen_epochs: int = 0) -> Result:
    """Record the result of a run whose best weights are in its folder, which marks it as finished."""
    best = state.best_record
    result = Result(
        key=key,
        model_sha256=sha256_of(folder / WEIGHTS_FILE),
        num_samples=num_samples,
        epochs=state.epoch,
        frozen_epochs=frozen_epochs,
        steps=state.step,
        best_epoch=best["epoch"],
        best_val_loss=best.get("val_loss"),
        best_val_mrr=best["val_mrr@10"],
    )
    if process_rank() == 0:
        write_json(folder / RESULT_FILE, asdict(result))
        remove_state(folder)
    barrier()
    return result
