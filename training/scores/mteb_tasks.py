"""Retrieval tasks of mteb over our galleries, models of ours that run under mteb, and scores in its result files.

mteb (https://github.com/embeddings-benchmark/mteb) is an optional dependency, so import this module lazily.
"""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mteb
import torch
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.languages.iso_mappings import _hf_lang_to_iso_lang_script
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.results import TaskResult
from PIL import Image

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.disk.files import digest
from data_catalog.rows.origins import HUMAN, MACHINE
from training.data.features import Encoder
from training.data.images import picture_or_reason, quiet_decoders
from training.scores.galleries import Gallery
from training.scores.rows import ALL, Board, ScoreRow

SPLIT, SUBSET, MAIN_SCORE = "test", "default", "ndcg_at_10"
_CATEGORIES = {"text_to_image": ("t2i", "T2IRetrieval"), "image_to_text": ("i2t", "I2TRetrieval")}
_CREATED = {HUMAN: "created", MACHINE: "machine-translated"}


class GalleryTask(AbsTaskRetrieval):
    """Retrieval over one gallery in one direction. `gallery_tasks` makes its subclasses.

    Relevant to a caption is its image, and to an image each of its captions. As on the scoreboard, images that are
    missing or do not decode are left out with their captions.
    """

    gallery: Gallery
    data_loaded: bool = False

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """List the images that decode, captions and relevant pairs. Pixels are read when they are used."""
        if self.data_loaded:
            return
        gallery, pid = self.gallery, os.getpid()
        there = {place: name for place, name in enumerate(gallery.images) if self._picture(name) is not None}
        rows = [row for row, owner in enumerate(gallery.owners) if owner in there]
        if not rows:
            raise InputError(f"no image of {gallery.name} with a caption can be found and decoded")

        def pictures(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            if os.getpid() != pid:  # processes would share the position in an archive
                raise SettingsError("images of vernaclip's tasks are read in one process: leave out num_proc")
            names = batch.get("image")
            return {**batch, "image": [self._picture(name) for name in names]} if names else batch

        captions = Dataset.from_dict(
            {"id": [f"caption-{row}" for row in rows], "text": [gallery.captions[row] for row in rows]}
        )
        images = Dataset.from_dict({"id": [f"image-{place}" for place in there], "image": list(there.values())})
        images.set_transform(pictures)
        is_t2i, relevant = self.metadata.category == "t2i", dict[str, dict[str, int]]()
        for row in rows:
            pair = f"caption-{row}", f"image-{gallery.owners[row]}"
            query, document = pair if is_t2i else pair[::-1]
            relevant.setdefault(query, {})[document] = 1
        queries, corpus = (captions, images) if is_t2i else (images, captions)
        data = {"queries": queries, "corpus": corpus, "relevant_docs": relevant, "top_ranked": None}
        self.dataset = {SUBSET: {SPLIT: data}}
        self.data_loaded = True

    def _picture(self, name: str) -> Image.Image | None:
        """Return an image of the gallery, or None if it is missing or does not decode."""
        with suppress(OSError), quiet_decoders():
            found = picture_or_reason(self.gallery.read(name), 0)
            return None if isinstance(found, str) else found.image
        return None


def gallery_tasks(gallery: Gallery, language: str) -> list[GalleryTask]:
    """Return the tasks of both directions, text to image first, for captions in a language such as "it"."""
    created = [_CREATED.get(maker) for maker in dict.fromkeys(gallery.made_by)]
    facts = {
        "dataset": {
            "path": f"vernaclip/{gallery.name}",
            "revision": digest([gallery.images, gallery.captions, gallery.owners]),
        },
        "type": "Any2AnyRetrieval",
        "modalities": ["text", "image"],
        "eval_splits": [SPLIT],
        "eval_langs": [_hf_lang_to_iso_lang_script(language)],
        "main_score": MAIN_SCORE,
        "reference": gallery.home,
        "task_subtypes": ["Image Text Retrieval"],
        "license": gallery.license or "not specified",
        "dialect": [],
        "annotations_creators": "human-annotated" if set(gallery.made_by) == {HUMAN} else None,
        "sample_creation": created[0] if len(created) == 1 else "multiple",
        "bibtex_citation": "",
    }
    tasks = []
    for way, (category, suffix) in _CATEGORIES.items():
        name = re.sub(r"[^\w.-]+", "-", gallery.name) + "-" + suffix
        description = f"{way.replace('_', ' ').capitalize()} retrieval on {gallery.name}: {'; '.join(gallery.notes)}."
        with about(f"mteb takes no set such as {gallery.name} in the language {language}", kind=SettingsError):
            metadata = TaskMetadata(name=name, category=category, description=description, **facts)
        # A class of its own: mteb resets the metadata of an instance to that of its class.
        tasks.append(type(suffix, (GalleryTask,), {"metadata": metadata, "gallery": gallery})())
    return tasks


class MtebEncoder(AbsEncoder):
    """A model of ours, or any that the scoreboard opens, under mteb."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.mteb_model_meta = _model_meta(encoder.name, encoder.tensors_sha256)

    def encode(self, inputs: Any, **kwargs: Any) -> torch.Tensor:
        """Return the features of batches with "text", "image" or both, which are then added, shape (items, dim)."""
        with torch.no_grad():
            return torch.cat([self._batch(batch) for batch in inputs])

    def _batch(self, batch: Mapping[str, Sequence[Any]]) -> torch.Tensor:
        found, image = [], self.encoder.image
        if "text" in batch:
            found.append(self.encoder.text.encode(batch["text"]))
        if "image" in batch:
            found.append(image.encode(torch.stack([image.prepare(each.convert("RGB")) for each in batch["image"]])))
        return torch.stack(found).sum(dim=0)


def _model_meta(name: str, tensors_sha256: str | None) -> ModelMeta:
    facts = {
        "name": name if "/" in name and not Path(name).is_dir() else f"local/{Path(name).name}",
        "revision": tensors_sha256,
        "framework": ["PyTorch"],
        "modalities": ["image", "text"],
        "similarity_fn_name": ScoringFunction.COSINE,
        "use_instructions": False,
    }
    return ModelMeta.create_empty(facts)


def write_mteb_results(board: Board, tasks: Mapping[str, Sequence[GalleryTask]], folder: Path) -> None:
    """Write the retrieval scores over all captions and images as `results/MODEL/REVISION/TASK.json`.

    `mteb.ResultCache(folder).load_results()` reads them. R@k is mteb's `hit_rate_at_k`. Its `recall_at_k` is the share
    of right items that are found: the same from text to image, and not on a scoreboard in the other direction. `tasks`
    are those of each retrieval set, by its name.
    """
    cache, scores = mteb.ResultCache(folder), board.where(captions=ALL, images=ALL, minus=None)
    for model in board.models:
        meta = _model_meta(model.name, model.tensors_sha256)
        for test_set, of_set in tasks.items():
            rows = scores.where(model=model.name, test_set=test_set).rows
            for task, way in zip(of_set, _CATEGORIES, strict=True):
                result = TaskResult(
                    task_name=task.metadata.name,
                    dataset_revision=task.metadata.revision,
                    mteb_version=version("mteb"),
                    scores={SPLIT: [_in_their_words([row for row in rows if row.metric.startswith(way)], task)]},
                    evaluation_time=None,
                )
                cache.save_to_cache(result, meta)


def _in_their_words(rows: Sequence[ScoreRow], task: GalleryTask) -> dict[str, Any]:
    scores: dict[str, Any] = {"hf_subset": SUBSET, "languages": task.metadata.eval_langs}
    for row in rows:
        family, _, k = row.metric.rpartition("_")[2].partition("@")
        names = {"MRR": ["mrr"], "nDCG": ["ndcg"], "R": ["hit_rate"]}.get(family, [])
        if family == "R" and task.metadata.category == "t2i":
            names.append("recall")
        scores |= {f"{theirs}_at_{k}": row.value for theirs in names}
    return scores | {"main_score": scores[MAIN_SCORE]}
