"""Train a text tower for a new language from parallel sentences alone, and join it with the teacher's image tower.

The student reads the translations, and learns the features that the teacher's text tower gives the source sentences
(Carlsson et al., 2022, https://aclanthology.org/2022.lrec-1.739). No image is needed. The result is an ordinary model
folder. A run that was killed resumes from its last state, and ends with the same bytes.
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.precision import with_precision
from data_catalog.base.progress import Progress
from data_catalog.base.settings import what_values
from data_catalog.disk.files import digest, sha256_of, write_bytes
from data_catalog.disk.resume import load_resume_state, save_resume_state
from training.config import DistilConfig
from training.data.features import FeatureStore
from training.data.images import Features
from training.distil.student import PRESETS, open_student, require_student
from training.distil.teacher import (
    Teacher,
    borrowed_image_tower,
    open_teacher,
    teacher_identity,
)
from training.fit.clip import CUTOFF
from training.fit.losses import autocast
from training.fit.optimisation import decay_groups
from training.runs.attempts import METRICS_FILE, STATE_FILE, AttemptLog, Result, claim, finish, key_of_folder
from training.runs.processes import (
    chosen_device,
    deterministic_torch,
    generator_states,
    process_count,
    set_generator_states,
)
from training.runs.runner import cosine
from training.runs.trackers import Trackers
from training.scores.metrics import reciprocal_ranks, text_to_image_ranks
from training.towers.lineage import read_lineage
from training.towers.model import WEIGHTS_FILE
from training.towers.model_files import save_weights
from training.towers.tokenizer import SavedTokenizer

logger = logging.getLogger(__name__)

DISTIL_VERSION = 1  # raise it when the same settings and pairs would give different weights
POOL = 16  # batches whose pairs are sorted by length, so that little is padded
CHECKPOINT_STEPS = 200
EXCHANGED = 0.15  # share of the words of unpaired sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencePairs:
    """Parallel sentences to learn from.

    Args:
        training: pairs of source and target to train on.
        held_out: pairs that choose the epoch.
        origins: number of all pairs by origin of the target (`data_catalog.rows.origins`).
        languages: codes of source and target.
        unpaired: sentences of the target language without translations.
        is_of_dataset: the pairs are captions of a dataset's train split.
        shards: sha256 of the pair shards that have these captions.
        left_out: number of pairs that were not used, by reason.
    """

    training: Sequence[tuple[str, str]]
    held_out: Sequence[tuple[str, str]]
    origins: Mapping[str, int]
    languages: tuple[str, str]
    unpaired: Sequence[str] = ()
    is_of_dataset: bool = False
    shards: Sequence[str] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    def sha256(self) -> str:
        """Return a hash of all sentences, their order and their origins."""
        pairs = [[list(pair) for pair in some] for some in (self.training, self.held_out)]
        return digest([*pairs, list(self.unpaired), dict(self.origins), list(self.languages)])


@dataclass(slots=True, kw_only=True)
class DistilState:
    """The progress of a run: finished epochs and steps, sums of losses, and the best epoch, 1-based; 0 before any.

    `last_metrics` are those of the last step, which trackers do not have yet.
    """

    epoch: int = 0
    step: int = 0
    stale_epochs: int = 0
    loss_sum: float = 0.0
    restore_sum: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_mrr: float = 0.0
    last_metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilRun:
    """A run in progress.

    Args:
        key: key of the run.
        out: the model folder.
        config: settings of the run.
        tokenizer: the student's tokenizer.
        module: the open_clip model of teacher's image tower and student.
        optimizer: optimizer of the student.
        pairs: the sentences.
        wanted: the teacher's unit features of the sources, for training and held-out pairs.
        state: progress.
        device: where the student trains.
        effort: record of the time.
        trackers: where metrics are logged.
    """

    key: str
    out: Path
    config: DistilConfig
    tokenizer: SavedTokenizer
    module: Any
    optimizer: Any
    pairs: SentencePairs
    wanted: tuple[Features, Features]
    state: DistilState
    device: torch.device
    effort: AttemptLog
    trackers: Trackers

    @property
    def batch_size(self) -> int:
        """Return the number of pairs per step: the configured one, or all pairs if there are fewer."""
        return min(self.config.batch_size, len(self.pairs.training))

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of full batches."""
        return len(self.pairs.training) // self.batch_size


def distil_key(config: DistilConfig, pairs: SentencePairs) -> str:
    """Return the key of a run: a hash of its settings, pairs, teacher and student.

    Raises:
        SettingsError: no teacher is named, or there is no such teacher or student.
        InputError: files of the teacher or student are missing.
    """
    made_of = {
        "settings": what_values(config),
        "pairs": pairs.sha256(),
        "teacher": teacher_identity(config.teacher),
        "student": require_student(config.student),
    }
    return digest({"version": DISTIL_VERSION, **made_of})


def distil(pairs: SentencePairs, config: DistilConfig, out: Path, *, cache: Path) -> Result:
    """Train a student into a model folder, resume an interrupted run, or return the result of a finished one.

    The folder gets the same files as a trained model. `metrics.jsonl` has one line per epoch: the mean loss, and the
    MRR@10 with which the translation of a held-out sentence finds the sentence among all held-out ones.

    Args:
        pairs: the parallel sentences.
        config: settings of the run.
        out: the model folder.
        cache: folder with features of teachers, shared by all runs.

    Raises:
        SettingsError: the folder contains another run, or the loss is not finite.
        InputError: files of the teacher or student are missing or do not match, or there are too few pairs.
        DamagedError: the resume state cannot be read.
    """
    if process_count() > 1:
        raise SettingsError("distil runs in one process: start it without torchrun")
    if len(pairs.training) < 2 or len(pairs.held_out) < 2:
        raise InputError("distil needs two pairs to train on and two to hold out: give more parallel sentences")
    device = chosen_device(config.device, "distil.device")
    config = with_precision(config, device.type, has_begun=lambda each: key_of_folder(out) == distil_key(each, pairs))
    key = distil_key(config, pairs)
    made_of = read_lineage(Path(config.teacher))
    learned_from = {
        "teacher": Path(config.teacher).name if Path(config.teacher).is_dir() else config.teacher,
        "teacher_settings": made_of.settings,
        "languages": list(pairs.languages),
        "pairs": len(pairs.training),
        "is_of_dataset": pairs.is_of_dataset,
        "unpaired": len(pairs.unpaired),
        "origins": dict(sorted(pairs.origins.items())),
    }
    student = Path(config.student).name if Path(config.student).is_dir() else config.student
    settings = {"model": f"distil {student}", "distil": {**what_values(config), **learned_from}}
    text = {"tower": "text", "weights": student, "license": config.student_license}
    borrowed = [*borrowed_image_tower(config), *([] if config.student in PRESETS else [text])]
    finished = claim(out, key, settings, borrowed, [*pairs.shards, *(made_of.learned or ())])
    if finished:
        logger.info("%s is already distilled", out)
        return finished
    with deterministic_torch(seed=config.seed, num_threads=config.num_threads, device=device):
        teacher = open_teacher(config.teacher)
        run = _start(pairs, config, out, teacher, key=key, cache=cache, device=device)
        del teacher
        with ExitStack() as closing:  # the last one is closed first
            closing.enter_context(run.trackers)
            closing.callback(_note, run)
            total = config.epochs * run.steps_per_epoch
            with Progress("distil", total=total, unit="steps", initial=run.state.step) as progress:
                while run.state.epoch < config.epochs and run.state.stale_epochs < (config.patience or math.inf):
                    _train_epoch(run, progress)
                    _end_epoch(run, progress)
    result = Result(
        key=key,
        model_sha256=sha256_of(out / WEIGHTS_FILE),
        num_samples=len(pairs.training),
        epochs=run.state.epoch,
        frozen_epochs=0,
        steps=run.state.step,
        best_epoch=run.state.best_epoch,
        best_val_loss=None,
        best_val_mrr=run.state.best_mrr,
    )
    return finish(out, result)


def _start(
    pairs: SentencePairs,
    config: DistilConfig,
    out: Path,
    teacher: Teacher,
    *,
    key: str,
    cache: Path,
    device: torch.device,
) -> DistilRun:
    """Return the run at its start, or at its last resume state."""
    sentences = [*(target for _, target in pairs.training), *pairs.unpaired]
    tokenizer, module = open_student(teacher, config, out, sentences)
    store = FeatureStore(teacher.encoder, cache)
    sources = [[source for source, _ in some] for some in (pairs.training, pairs.held_out)]
    wanted = store.texts(sources[0]), store.texts(sources[1])
    module = module.to(device)
    groups = decay_groups(module.text, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
    state = load_resume_state(
        out / STATE_FILE,
        key=key,
        modules={"text": module.text},
        optimizer=optimizer,
        set_generators=set_generator_states,
        progress_of=lambda progress: DistilState(**progress),
    )
    state = state or DistilState()
    effort = AttemptLog(out, device, step=state.step)
    trackers = Trackers(config.log, out, since=effort.noted_step)
    trackers.add(state.step, state.last_metrics)
    return DistilRun(
        key=key,
        out=out,
        config=config,
        tokenizer=tokenizer,
        module=module,
        optimizer=optimizer,
        pairs=pairs,
        wanted=wanted,
        state=state,
        device=device,
        effort=effort,
        trackers=trackers,
    )


def batches(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the batches of an epoch, as places of pairs. The order depends only on the arguments.

    Pairs are shuffled, and within pools of `POOL` batches sorted by length. A last, incomplete batch is dropped.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order = generator.permutation(len(lengths))[: len(lengths) // batch_size * batch_size]
    by_length = np.asarray(lengths)
    pooled = [order[start : start + POOL * batch_size] for start in range(0, len(order), POOL * batch_size)]
    sorted_pools = [pool[np.argsort(by_length[pool], kind="stable")] for pool in pooled]
    found = np.concatenate(sorted_pools).reshape(-1, batch_size)
    yield from found[generator.permutation(len(found))]


def _train_epoch(run: DistilRun, progress: Progress) -> None:
    """Train the steps that are left of an epoch."""
    config, state, targets = run.config, run.state, [target for _, target in run.pairs.training]
    run.module.eval()
    run.module.text.train()
    order = batches([len(text) for text in targets], run.batch_size, seed=config.seed, epoch=state.epoch)
    first = state.step - state.epoch * run.steps_per_epoch
    total = config.epochs * run.steps_per_epoch
    others = _unpaired_batches(run)
    for places in list(order)[first:]:
        ids = run.tokenizer([targets[place] for place in places]).to(run.device)
        wanted = torch.from_numpy(run.wanted[0][places]).to(run.device)
        with autocast(config.precision, run.device):
            found = run.module.text(ids)
        loss = distillation_loss(F.normalize(found.float(), dim=-1), wanted, config)
        if run.pairs.unpaired:
            restoring = restoring_loss(run, next(others))
            state.restore_sum += float(restoring.item())
            loss = loss + config.restore * restoring
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(run.module.text.parameters(), config.max_grad_norm or math.inf)
        if not math.isfinite(loss.item()) or not torch.isfinite(norm):
            raise SettingsError(
                f"training stopped at step {state.step + 1} because the loss or its gradient is not finite. Lower "
                "distil.lr, raise distil.warmup_steps, or set distil.precision to fp32"
            )
        lr = cosine(config.lr, warmup=config.warmup_steps, total=total)(state.step)
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        run.optimizer.step()
        run.optimizer.zero_grad()
        state.step += 1
        state.loss_sum += float(loss.item())
        run.trackers.add(state.step, {"loss": float(loss.item()), "lr": lr})
        progress.advance(1, epoch=state.epoch + 1, loss=f"{loss.item():.3f}")
        if state.step % CHECKPOINT_STEPS == 0:
            _save(run)


def distillation_loss(found: torch.Tensor, wanted: torch.Tensor, config: DistilConfig) -> torch.Tensor:
    """Return the loss of a batch: 1 - cosine, plus the weighted contrastive term in both directions.

    Args:
        found: the student's unit features of the translations, shape (batch, dim).
        wanted: the teacher's unit features of the sources, shape (batch, dim).
        config: weight and scale of the contrastive term.
    """
    loss = 1 - (found * wanted).sum(dim=-1).mean()
    if config.contrastive:
        logits, places = config.logit_scale * found @ wanted.T, torch.arange(len(found), device=found.device)
        both = F.cross_entropy(logits, places) + F.cross_entropy(logits.T, places)
        loss = loss + config.contrastive * both / 2
    return loss


def _unpaired_batches(run: DistilRun) -> Iterator[list[str]]:
    """Yield batches of unpaired sentences from the current step on, in an order that depends on the seed only."""
    texts, config = run.pairs.unpaired, run.config
    size = min(config.batch_size, len(texts))
    per_epoch = len(texts) // size
    for epoch in count(run.state.step // per_epoch):
        order = list(batches([len(text) for text in texts], size, seed=config.seed + 1, epoch=epoch))
        for places in order[max(0, run.state.step - epoch * per_epoch) :]:
            yield [texts[place] for place in places]


def restoring_loss(run: DistilRun, texts: Sequence[str]) -> torch.Tensor:
    """Return the cross-entropy of tokens that were exchanged for others of the batch.

    The input embeddings are the output layer, so the student gets no new weights.
    """
    encoder = run.module.text.transformer
    ids = run.tokenizer(texts).to(run.device)
    special = torch.tensor(run.tokenizer.inner.tokenizer.all_special_ids, device=run.device)
    is_word = ~torch.isin(ids, special)
    exchanged = is_word & (torch.rand(ids.shape) < EXCHANGED).to(run.device)
    if not exchanged.any():
        return torch.zeros((), device=run.device)
    words = ids[is_word]
    drawn = words[torch.randint(len(words), ids.shape).to(run.device)]
    with autocast(run.config.precision, run.device):
        states = encoder(torch.where(exchanged, drawn, ids), attention_mask=(ids != encoder.config.pad_token_id).long())
        logits = states.last_hidden_state[exchanged] @ encoder.get_input_embeddings().weight.T
    return F.cross_entropy(logits.float(), ids[exchanged])


def _end_epoch(run: DistilRun, progress: Progress) -> None:
    """Score the held-out pairs, keep the weights if they are the best, and write metrics and the resume state."""
    state = run.state
    run.module.eval()
    targets = [target for _, target in run.pairs.held_out]
    found = []
    with torch.no_grad():
        for start in range(0, len(targets), run.config.batch_size):
            ids = run.tokenizer(targets[start : start + run.config.batch_size]).to(run.device)
            found.append(F.normalize(run.module.text(ids).float(), dim=-1).cpu().numpy())
    ranks = text_to_image_ranks(np.concatenate(found), run.wanted[1], np.arange(len(targets)))
    mrr = float(reciprocal_ranks(ranks, CUTOFF).mean())
    cosine = float((np.concatenate(found) * run.wanted[1]).sum(axis=1).mean())
    state.stale_epochs += 1
    if state.best_epoch == 0 or mrr > state.best_mrr:
        state.best_epoch, state.best_mrr, state.stale_epochs = state.epoch + 1, mrr, 0
        save_weights(run.module, run.out / WEIGHTS_FILE)
    loss = state.loss_sum / run.steps_per_epoch
    line = {"epoch": state.epoch + 1, "step": state.step, "train_loss": loss, "val_mrr@10": mrr, "val_cosine": cosine}
    restored = {"restore_loss": state.restore_sum / run.steps_per_epoch} if run.pairs.unpaired else {}
    state.history.append({**line, **restored, "val_gallery": len(targets)})
    run.trackers.add(state.step, state.history[-1])
    state.epoch, state.loss_sum, state.restore_sum = state.epoch + 1, 0.0, 0.0
    lines = "".join(json.dumps(line) + "\n" for line in state.history)
    write_bytes(run.out / METRICS_FILE, lines.encode())
    _save(run)
    progress.say(
        "epoch %d: train loss %.3f, held-out MRR@10 of %d %.3f, cosine %.3f",
        state.epoch,
        loss,
        len(targets),
        mrr,
        cosine,
    )


def _note(run: DistilRun) -> None:
    """Hand over metrics, then note the step before which that was done."""
    run.state.last_metrics = run.trackers.hand_over(before=run.state.step)
    run.effort.note(run.state.step)


def _save(run: DistilRun) -> None:
    _note(run)
    save_resume_state(
        run.out / STATE_FILE,
        key=run.key,
        modules={"text": run.module.text},
        optimizer=run.optimizer,
        generators=generator_states(run.device),
        progress=asdict(run.state),
    )
