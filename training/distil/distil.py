"""Train a text tower for new languages from parallel sentences alone, and join it with the teacher's image tower.

The student reads the translations, and learns the features that the teacher's text tower gives the source sentences
(Carlsson et al., 2022, https://aclanthology.org/2022.lrec-1.739). No image is needed. The result is an ordinary model
folder. A run that was killed resumes from its last state, and ends with the same bytes.
"""

import logging
import math
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, count, cycle, islice
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data_catalog.base.errors import InputError
from data_catalog.base.precision import with_precision
from data_catalog.base.settings import what_values
from data_catalog.disk.files import digest
from training.config import DistilConfig
from training.data.features import FeatureStore
from training.data.images import Features
from training.data.pairs import Integers
from training.distil.student import PRESETS, open_student, student_identity
from training.distil.teacher import borrowed_image_tower, open_teacher, teacher_identity
from training.fit.losses import autocast
from training.fit.optimisation import decay_groups
from training.runs.attempts import WEIGHTS_FILE, Result, claim, key_of_folder
from training.runs.processes import chosen_device, deterministic_torch, require_one_process
from training.runs.runner import Phase, Runner, Task, cosine, finish
from training.scores.metrics import reciprocal_ranks, text_to_image_ranks
from training.towers.lineage import read_lineage
from training.towers.model import save_weights

logger = logging.getLogger(__name__)

DISTIL_VERSION = 1  # raise it when the same settings and pairs would give different weights
POOL = 16  # batches whose pairs are sorted by length, so that little is padded
CHECKPOINT_STEPS = 200
EXCHANGED = 0.15  # share of the words of unpaired sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencePairs:
    """Parallel sentences to learn from, of one language and any others."""

    training: Sequence[tuple[str, str]]  # pairs of source and target to train on
    held_out: Sequence[tuple[str, str]]  # pairs that choose the epoch
    origins: Mapping[str, int]  # number of all pairs by origin of the target (`data_catalog.rows.origins`)
    languages: tuple[str, str]  # codes of source and target
    unpaired: Sequence[str] = ()  # sentences of the target language without translations
    is_of_dataset: bool = False  # the pairs are captions of a dataset's train split
    shards: Sequence[str] = ()  # sha256 of the pair shards that have these captions
    left_out: Mapping[str, int] = field(default_factory=dict)  # number of pairs that were not used, by reason
    others: Sequence["SentencePairs"] = ()  # those of further languages; of the source language, pairs of equal texts

    @property
    def lessons(self) -> "Sequence[SentencePairs]":
        """Return the pairs of each language."""
        return (self, *self.others)

    @property
    def num_held_out(self) -> int:
        """Return the number of held-out pairs of all languages."""
        return sum(len(each.held_out) for each in self.lessons)

    def sha256(self) -> str:
        """Return a hash of all sentences, their order and their origins."""
        pairs = [[list(pair) for pair in some] for some in (self.training, self.held_out)]
        others = [each.sha256() for each in self.others]  # none leave the hash as it was without them
        return digest([*pairs, list(self.unpaired), dict(self.origins), list(self.languages), *others])


def distil_key(config: DistilConfig, pairs: SentencePairs) -> str:
    """Return the key of a run: a hash of its settings, pairs, teacher and student."""
    made_of = {
        "settings": what_values(config),
        "pairs": pairs.sha256(),
        "teacher": teacher_identity(config.teacher),
        "student": student_identity(config.student),
    }
    return digest({"version": DISTIL_VERSION, **made_of})


def distil(pairs: SentencePairs, config: DistilConfig, out: Path, *, cache: Path) -> Result:
    """Train a student into a model folder, resume an interrupted run, or return the result of a finished one.

    The folder gets the same files as a trained model. `metrics.jsonl` has one line per epoch: the mean loss, and the
    MRR@10 with which the translation of a held-out sentence finds the sentence among all held-out ones; of several
    languages, that of each (`val_mrr@10_LANG`) and their mean. `cache` is a folder with features of teachers, shared by
    all runs.
    """
    require_one_process("distil")
    if any(len(some) < 2 for each in pairs.lessons for some in (each.training, each.held_out)):
        raise InputError("distil needs two pairs to train on and two to hold out: give more parallel sentences")
    device = chosen_device(config.device, "distil.device")
    config = with_precision(config, device.type, has_begun=lambda each: key_of_folder(out) == distil_key(each, pairs))
    key = distil_key(config, pairs)
    if finished := _claim(out, key, pairs, config):
        logger.info("%s is already distilled", out)
        return finished
    with deterministic_torch(seed=config.seed, num_threads=config.num_threads, device=device):
        task = DistilTask(pairs, config, out, cache=cache, device=device)
        steps = config.epochs * task.num_batches(0)
        rate = cosine(config.lr, warmup=config.warmup_steps, total=steps)
        phase = Phase(name="distil", steps=steps, rate=rate, patience=config.patience or math.inf)
        state = Runner(task, [phase], folder=out, key=key, checkpoint_every=CHECKPOINT_STEPS, log=config.log).run()
    return finish(out, key, state, num_samples=sum(len(each.training) for each in pairs.lessons))


def _claim(out: Path, key: str, pairs: SentencePairs, config: DistilConfig) -> Result | None:
    """Claim the model folder, and record what the student learns from and borrows."""
    teacher, student = (Path(name).name if Path(name).is_dir() else name for name in (config.teacher, config.student))
    made_of, origins = read_lineage(Path(config.teacher)), Counter[str]()
    for each in pairs.lessons:
        origins.update(each.origins)
    learned_from: dict[str, Any] = {
        "teacher": teacher,
        "teacher_settings": made_of.settings,
        "languages": list(dict.fromkeys(code for each in pairs.lessons for code in each.languages)),
        "pairs": sum(len(each.training) for each in pairs.lessons),
        "is_of_dataset": pairs.is_of_dataset,
        "unpaired": len(pairs.unpaired),
        "origins": dict(sorted(origins.items())),
    }
    if pairs.others:  # else `languages` has source and target, and the target alone is learned
        learned_from["pairs_by_language"] = {each.languages[1]: len(each.training) for each in pairs.lessons}
    settings = {"model": f"distil {student}", "distil": {**what_values(config), **learned_from}}
    borrowed = borrowed_image_tower(config)
    if config.student not in PRESETS:
        borrowed.append({"tower": "text", "weights": student, "license": config.student_license})
    return claim(out, key, settings, borrowed, [*pairs.shards, *(made_of.learned or ())])


class DistilTask(Task[tuple[Integers, list[str]]]):
    """A student that learns the teacher's features of parallel sentences.

    A batch has places of pairs, all of one language, and sentences without translations. Languages take turns.
    """

    remedy = "Lower distil.lr, raise distil.warmup_steps, or set distil.precision to fp32"

    def __init__(
        self, pairs: SentencePairs, config: DistilConfig, out: Path, *, cache: Path, device: torch.device
    ) -> None:
        """Open teacher and student, write the files of the model folder except weights, and compute the features."""
        teacher, image_config = open_teacher(config.teacher)
        self._by_language = [[target for _, target in each.training] for each in pairs.lessons]
        most = max(map(len, self._by_language))
        balanced = (islice(cycle(texts), most) for texts in self._by_language)
        sentences = chain(*balanced, pairs.unpaired)
        self._tokenizer, module = open_student(teacher.module, image_config, config, out, sentences)
        store = FeatureStore(teacher, cache)
        sources = [source for each in pairs.lessons for source, _ in each.training]
        known = {text: place for place, text in enumerate(dict.fromkeys(sources))}
        self._features, self._sources = store.texts(list(known)), np.array([known[text] for text in sources])
        self._held_out = [
            (each.languages[1], [query for _, query in each.held_out], store.texts([text for text, _ in each.held_out]))
            for each in pairs.lessons
        ]
        self._targets, self._unpaired = list(chain(*self._by_language)), pairs.unpaired
        self._config, self._out, self.device = config, out, device
        self._module = module.to(device)
        self.modules = {"text": self._module.text}
        groups = decay_groups(self._module.text, config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-6, fused=True)

    def num_batches(self, epoch: int) -> int:
        """Return the number of full batches of the largest language, times the number of languages."""
        most, size = max(map(len, self._by_language)), self._config.batch_size
        return max(1, most // size) * len(self._by_language)

    def batches(self, epoch: int, places: range) -> Generator[tuple[Integers, list[str]]]:
        """Yield batches of an epoch."""
        self._module.text.train()
        start, size, seed = epoch * self.num_batches(epoch) + places.start, self._config.batch_size, self._config.seed
        num_languages, streams = len(self._by_language), []
        for number, texts in enumerate(self._by_language):
            earlier = -(-(start - number) // num_languages)  # batches of the language before these
            streams.append(endless_batches(texts, size, seed=seed + (number and number + 1), start=earlier))
        unpaired = endless_batches(self._unpaired, size, seed=seed + 1, start=start) if self._unpaired else None
        firsts = [*accumulate(map(len, self._by_language), initial=0)]
        for turn in range(start, start + len(places)):
            number = turn % num_languages
            alone = [self._unpaired[place] for place in next(unpaired)] if unpaired else []
            yield firsts[number] + next(streams[number]), alone

    def step(self, batch: tuple[Integers, list[str]], lr: float) -> dict[str, float]:
        """Take one optimizer step, and return the losses."""
        (places, unpaired), text = batch, self._module.text
        ids = self._tokenizer([self._targets[place] for place in places]).to(self.device)
        with autocast(self._config.precision, self.device):
            found = text(ids)
        wanted = torch.from_numpy(self._features[self._sources[places]]).to(self.device)
        loss, restored = self._loss(F.normalize(found.float(), dim=-1), wanted), {}
        if unpaired:
            restoring = self._restoring_loss(unpaired)
            restored = {"restore_loss": restoring.item()}
            loss = loss + self._config.restore * restoring
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(text.parameters(), self._config.max_grad_norm or math.inf)
        if not (math.isfinite(loss.item()) and torch.isfinite(norm)):
            raise FloatingPointError("the loss or its gradient is not finite")
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"loss": loss.item(), **restored}

    def _loss(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Return 1 - cosine of unit features (batch, dim), plus the weighted contrastive term in both directions."""
        loss = 1 - (found * wanted).sum(dim=-1).mean()
        if self._config.contrastive:
            logits, places = self._config.logit_scale * found @ wanted.T, torch.arange(len(found), device=found.device)
            both = F.cross_entropy(logits, places) + F.cross_entropy(logits.T, places)
            loss = loss + self._config.contrastive * both / 2
        return loss

    def _restoring_loss(self, texts: Sequence[str]) -> Tensor:
        """Return the cross-entropy of tokens that were exchanged for others; input embeddings are the output layer."""
        encoder = self._module.text.transformer
        ids = self._tokenizer(texts).to(self.device)
        special = torch.tensor(self._tokenizer.inner.tokenizer.all_special_ids, device=self.device)
        is_word = ~torch.isin(ids, special)
        exchanged = is_word & (torch.rand(ids.shape) < EXCHANGED).to(self.device)
        if not exchanged.any():
            return torch.zeros((), device=self.device)
        words = ids[is_word]
        drawn = words[torch.randint(len(words), ids.shape).to(self.device)]
        with autocast(self._config.precision, self.device):
            mask = (ids != encoder.config.pad_token_id).long()
            states = encoder(torch.where(exchanged, drawn, ids), attention_mask=mask).last_hidden_state
            logits = states[exchanged] @ encoder.get_input_embeddings().weight.T
        return F.cross_entropy(logits.float(), ids[exchanged])

    def validate(self) -> tuple[float, dict[str, Any]]:
        """Return the MRR@10 of held-out sentences, asked for by their translations: the mean of all languages."""
        self._module.text.eval()
        measured = {code: self._measure(queries, gallery) for code, queries, gallery in self._held_out}
        (first, *others) = measured.values()
        if not others:
            return first["val_mrr@10"], first
        means = {name: fmean(each[name] for each in measured.values()) for name in ("val_mrr@10", "val_cosine")}
        each_of = {f"{name}_{code}": value for code, each in measured.items() for name, value in each.items()}
        return means["val_mrr@10"], means | each_of

    def _measure(self, queries: Sequence[str], gallery: Features) -> dict[str, Any]:
        """Return MRR@10, mean cosine and number of held-out sentences of a language."""
        parts, size = [], self._config.batch_size
        with torch.no_grad():
            for start in range(0, len(queries), size):
                ids = self._tokenizer(queries[start : start + size]).to(self.device)
                parts.append(F.normalize(self._module.text(ids).float(), dim=-1).cpu().numpy())
        found = np.concatenate(parts)
        ranks = text_to_image_ranks(found, gallery, np.arange(len(found)))
        similarity = float((found * gallery).sum(axis=1).mean())
        mrr = float(reciprocal_ranks(ranks, 10).mean())
        return {"val_mrr@10": mrr, "val_cosine": similarity, "val_gallery": len(found)}

    def keep(self) -> None:
        """Write the weights of the model."""
        save_weights(self._module, self._out / WEIGHTS_FILE)


def endless_batches(texts: Sequence[str], batch_size: int, *, seed: int, start: int) -> Iterator[Integers]:
    """Return the batches of epoch after epoch, from a batch on, as `batches_by_length`; fewer texts are one batch."""
    size = min(batch_size, len(texts))
    per_epoch = len(texts) // size
    epochs = (batches_by_length(texts, size, seed=seed, epoch=epoch) for epoch in count(start // per_epoch))
    return islice(chain.from_iterable(epochs), start % per_epoch, None)


def batches_by_length(texts: Sequence[str], batch_size: int, *, seed: int, epoch: int) -> Integers:
    """Return the batches of an epoch, as places of texts. The order depends only on the arguments.

    Texts are shuffled, and within pools of `POOL` batches sorted by length. A last, incomplete batch is dropped.
    """
    lengths = np.array([len(text) for text in texts])
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order = generator.permutation(len(texts))[: len(texts) // batch_size * batch_size]
    pools = [order[start : start + POOL * batch_size] for start in range(0, len(order), POOL * batch_size)]
    by_length = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
    found = np.concatenate(by_length).reshape(-1, batch_size)
    return found[generator.permutation(len(found))]
