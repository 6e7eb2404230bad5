"""Set up one training run: its folder, data, tokenizer, model, optimizer, device and progress.

Order, captions and crops are functions of the seed and the step, so the resume state does not contain them.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.precision import refuse_slow_precision
from data_catalog.base.settings import json_values
from data_catalog.catalog.manifest import RUN_FILE
from data_catalog.disk.files import digest, sweep_temporary, write_json
from data_catalog.disk.records import remove_folder_record
from data_catalog.disk.resume import load_resume_state, save_resume_state
from training.changes import ChangeRules
from training.config import TrainConfig
from training.data.batches import TrainSplit, open_train_split
from training.data.pairs import PairFiles
from training.fit.effort import EffortLog
from training.fit.hard_batches import EpochOrder
from training.fit.hard_negatives import DRAWS_VERSION, require_rules, rules_within
from training.fit.losses import generator_states, refuse_batch_statistics, set_generator_states, with_loss_constants
from training.fit.optimisation import make_optimizer
from training.fit.trackers import Trackers, require_trackers
from training.processes import chosen_device, process_count, process_rank
from training.towers.model import OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE, LoadedModel
from training.towers.model_files import read_object
from training.towers.plan import TEXT_FILES, TowerPlan
from training.towers.preprocessing import Preprocessing
from training.towers.tokenizer import SavedTokenizer
from training.towers.trained_models import EFFORT_FILE, RESULT_FILE

STATE_FILE = "last/state.safetensors"
METRICS_FILE = "metrics.jsonl"
LOSS_PLOT_FILE = "loss.png"
# Files of a finished model folder, which never change.
MODEL_FILES = (
    *(WEIGHTS_FILE, OPEN_CLIP_CONFIG_FILE, RUN_FILE, METRICS_FILE, LOSS_PLOT_FILE, RESULT_FILE),
    *TEXT_FILES,
)

FROZEN_DROPOUT = 0.3  # of the features of a frozen image tower, as `align.dropout`
TRAIN_VERSION = 6  # raise it when the same settings and data would give different weights


@dataclass(slots=True, kw_only=True)
class RunState:
    """The progress of a run.

    Args:
        is_frozen: the run is in its first phase, with frozen towers.
        epoch: finished epochs of both phases.
        step: finished optimizer steps of all epochs.
        phase_epoch: epochs that were finished when the current phase began.
        phase_step: steps that were finished when the current phase began.
        stale_epochs: epochs of the phase since the last best validation result.
        loss_sum: sum of the losses in the current epoch.
        hard_sums: sum of the losses of hard negatives in the current epoch, and their number, by kind.
        history: metrics of each epoch.
        best_epoch: epoch of the kept weights, 1-based; 0 before the first.
        best_val_loss: validation loss of that epoch. None without a validation split.
        best_val_mrr: validation MRR@10 of that epoch, likewise.
        best_val_score: `Validation.score` of that epoch, likewise.
        last_metrics: metrics of the last step, which trackers do not have yet.
    """

    is_frozen: bool = False
    epoch: int = 0
    step: int = 0
    phase_epoch: int = 0
    phase_step: int = 0
    stale_epochs: int = 0
    loss_sum: float = 0.0
    hard_sums: dict[str, list[float]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_val_loss: float | None = None
    best_val_mrr: float | None = None
    best_val_score: float | None = None
    last_metrics: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Run:
    """A training run in progress.

    `is_pretrained` says that its image tower started from given weights. `order` is None without `train.hard_batches`,
    and `rules` are None without `train.hard_negatives`. `held_out` has the features of the validation images, batch by
    batch, while the image tower is frozen.
    """

    config: TrainConfig
    is_pretrained: bool
    files: PairFiles
    out: Path
    key: str
    preprocessing: Preprocessing
    batch_size: int
    num_threads: int
    device: torch.device
    split: TrainSplit
    tokenizer: SavedTokenizer
    module: Any
    optimizer: Any
    state: RunState
    order: EpochOrder | None
    rules: ChangeRules | None
    effort: EffortLog | None = None
    trackers: Trackers = field(default_factory=Trackers)
    held_out: list[torch.Tensor] = field(default_factory=list)

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        """Return the modules of the resume state."""
        return {"model": self.module} | ({"order": self.order} if self.order is not None else {})

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of full batches of the train split."""
        return self.split.num_batches(self.batch_size)

    def num_left(self, total: int) -> int:
        """Return the steps left in the current phase, which has `total` steps."""
        return total - (self.state.step - self.state.phase_step)

    def is_epoch_over(self, total: int) -> bool:
        """Return whether the current epoch must end: all its batches are done, or the run ends within it.

        An epoch during which the towers are unfrozen continues in the next phase.
        """
        done = self.state.step - self.state.epoch * self.steps_per_epoch
        return done > 0 and (done == self.steps_per_epoch or not (self.state.is_frozen or self.num_left(total)))


def plan_of(config: TrainConfig) -> TowerPlan:
    """Return what the model of a run is made of."""
    return TowerPlan.of(config, loss=config.loss, dropout=FROZEN_DROPOUT if config.freeze_image else 0.0)


def model_and_key(
    config: TrainConfig, shards: dict[str, list[str]], rules: ChangeRules | None = None
) -> tuple[TowerPlan, str]:
    """Return what the model is made of, and the key of the run.

    Args:
        config: settings of the run.
        shards: sha256 of the pair shards by split.
        rules: rules by which captions of the language change, if it has some.
    """
    require_rules(config, rules)
    plan = plan_of(config)
    found = plan.key()
    return plan, run_key(config, found["model"], found["weights"], shards, rules)


def run_key(
    config: TrainConfig,
    model_config: dict[str, Any],
    weights: dict[str, Any],
    shards: dict[str, list[str]],
    rules: ChangeRules | None = None,
) -> str:
    """Return the key of a run: a sha256 of its settings, architecture, initial weights, shards and rules.

    Args:
        config: settings of the run.
        model_config: "model" of `TowerPlan.key`.
        weights: "weights" of it.
        shards: sha256 of the pair shards by split.
        rules: rules by which captions change. They count only if training changes captions.
    """
    made_of = {"settings": config.what(), "model": model_config, "weights": weights, "shards": shards}
    if config.needs_rules:
        made_of["changes"] = {"draws": DRAWS_VERSION, "rules": json_values(rules)}
    return digest({"version": TRAIN_VERSION, **made_of})


def key_of_folder(out: Path) -> str | None:
    """Return the key of the run that a folder contains. None: no run has begun there."""
    path = out / RUN_FILE
    return read_object(path).get("key") if path.is_file() else None


def claim_folder(
    out: Path,
    key: str,
    settings: Mapping[str, Any],
    borrowed: Sequence[Mapping[str, str]],
    learned: Iterable[str],
) -> None:
    """Claim a folder for this run, or check that the folder belongs to it.

    Args:
        out: the model folder.
        key: key of the run.
        settings: settings that decide the weights.
        borrowed: result of `TowerPlan.borrowed`.
        learned: sha256 of the pair shards that decide the weights, also those of the start and of a teacher.

    Raises:
        SettingsError: the folder contains a run with another key.
        DamagedError: its `run.json` is damaged.
    """
    sweep_temporary([out, (out / STATE_FILE).parent])
    path = out / RUN_FILE
    run = {"key": key, "settings": settings, "borrowed": borrowed, "learned": sorted(set(learned))}
    if path.is_file():
        earlier = read_object(path)
        if earlier.get("key") != key:
            raise SettingsError(f"{out} contains a run with other settings or data: train into another folder")
        if earlier == run:
            return
        remove_folder_record(out)  # a license was stated; the caller records the folder again
    write_json(path, run)


def start_run(
    files: PairFiles,
    config: TrainConfig,
    out: Path,
    *,
    key: str,
    plan: TowerPlan,
    num_threads: int,
    rules: ChangeRules | None = None,
) -> Run:
    """Load data, tokenizer, model and optimizer, and restore the last resume state if there is one.

    The first process records time and energy, and has the trackers.

    Raises:
        InputError: the train split has fewer than two samples per process.
    """
    device, preprocessing = chosen_device(config.device), plan.preprocessing
    mirror = rules.mirrored if rules and "mirror" in config.augmentations else None
    split = open_train_split(files.train, config, preprocessing=preprocessing, num_threads=num_threads, mirror=mirror)
    num_samples, count = len(split.captions), process_count()
    if num_samples < 2 * count:
        raise InputError("the train split has fewer than two samples per process: build a larger dataset")
    model = start_model(plan, config, out, (text.as_py() for text in split.captions.flat))
    module = model.module.to(device)
    run = Run(
        config=config,
        is_pretrained=plan.has_image_weights,
        files=files,
        out=out,
        key=key,
        preprocessing=preprocessing,
        # The configured size, or all samples if there are fewer; a multiple of the process count.
        batch_size=min(config.batch_size, num_samples // count * count),
        num_threads=num_threads,
        device=device,
        split=split,
        tokenizer=model.tokenizer,
        module=module,
        optimizer=make_optimizer(module, config),
        state=RunState(is_frozen=config.frozen_epochs > 0),
        order=EpochOrder(num_samples) if config.hard_batches else None,
        rules=rules_within(rules, split.captions) if config.hard_negatives and rules else None,
    )
    resumed = load_resume_state(
        out / STATE_FILE,
        key=key,
        modules=run.modules,
        optimizer=run.optimizer,
        set_generators=set_generator_states,
        progress_of=lambda progress: RunState(**progress),
    )
    run.state = resumed or run.state
    if process_rank() == 0:
        run.effort = EffortLog(out / EFFORT_FILE, device, step=run.state.step)
        run.trackers = Trackers.open(config.log, out, since=run.effort.noted_step)
        run.trackers.add(run.state.step, run.state.last_metrics)
    else:
        seed_process(config.seed, process_rank(), run.state.step)
    return run


def refuse_uneven_shares(config: TrainConfig) -> None:
    """Raise if a batch cannot be divided equally among the processes.

    Raises:
        SettingsError: the batch size is not a multiple of the number of processes.
    """
    count = process_count()
    if config.batch_size % count:
        raise SettingsError(
            f"train.batch_size {config.batch_size} cannot be divided among {count} processes: use a multiple"
        )


def seed_process(seed: int, rank: int, step: int) -> None:
    """Seed torch's generators for one of several processes, so that each draws different dropout.

    Args:
        seed: seed of the run.
        rank: number of the process.
        step: optimizer step at which it starts.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0] >> 1))


def require_trainable(config: TrainConfig, rules: ChangeRules | None = None) -> int:
    """Raise if a run could not start with any data: check model, weights, tokenizer, device and batch size.

    Returns:
        The minimum number of bytes that a run writes: its best weights, and a resume state of weights and two moments.

    Raises:
        SettingsError: settings contradict each other, or there is no such model config.
        InputError: weights, an encoder, a tokenizer, a device or a tracker is missing or invalid.
    """
    require_trackers(config.log)
    refuse_slow_precision(config.precision, chosen_device(config.device).type, setting="train.precision")
    plan, _ = model_and_key(config, {}, rules)
    refuse_uneven_shares(config)
    with TemporaryDirectory(prefix="vernaclip-") as folder:
        return 4 * start_model(plan, config, Path(folder), ()).num_bytes


def start_model(plan: TowerPlan, config: TrainConfig, out: Path, captions: Iterable[str]) -> LoadedModel:
    """Return the initial model with the constants of the loss, and write its files except weights into the folder."""
    model = replace(plan, config=with_loss_constants(dict(plan.config), config)).build(out, captions)
    if config.logit_scale:
        model.module.logit_scale.data.fill_(math.log(config.logit_scale))
    if config.microbatch:
        refuse_batch_statistics(model.module)
    return model


def save_run(run: Run) -> None:
    """Write the resume state from the first process, since it is the same in all of them."""
    _note(run)
    if process_rank() == 0:
        save_resume_state(
            run.out / STATE_FILE,
            key=run.key,
            modules=run.modules,
            optimizer=run.optimizer,
            generators=generator_states(run.device),
            progress=asdict(run.state),
        )


def _note(run: Run) -> None:
    """Hand over metrics, then note the step before which that was done."""
    run.state.last_metrics = run.trackers.hand_over(before=run.state.step)
    if run.effort is not None:
        run.effort.note(run.state.step)


@contextmanager
def closing_run(run: Run) -> Iterator[None]:
    """Close the trackers, and stop the threads of a run, at the end of a block."""
    with ExitStack() as closing:  # the last one is closed first
        if run.effort is not None:
            closing.callback(run.effort.close)
        closing.enter_context(run.trackers)
        closing.callback(_note, run)
        closing.callback(run.split.images.close)
        yield
