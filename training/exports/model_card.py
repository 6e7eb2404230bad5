"""Write the model card: how to use a model, its architecture, training data, training, scores, limits and time.

The template is Markdown, and whatever it prints is escaped, as texts of datasets and recipes must be. The card contains
no paths of the machine.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import TypeAdapter

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, InputError
from data_catalog.base.progress import span_text
from data_catalog.catalog.manifest import RUN_FILE, SPLITS, Manifest, Snapshot, trained_on
from data_catalog.exports.card import METHOD, upstream_paper
from data_catalog.exports.counts import PairCounts, count_pairs
from data_catalog.exports.markdown import fenced_json, markdown_text
from data_catalog.exports.rights import FORBIDDEN, NONCOMMERCIAL, read_license
from data_catalog.rows.origins import CORRECTED, MACHINE_TRANSLATION, ORIGINS
from training.config import HELD_OUT
from training.exports.formats import ModelExportConfig
from training.exports.trained_folder import TrainedFolder
from training.runs.attempts import best_record, read_attempts
from training.scores.rows import ALL, CAPTION_MODES, IMAGE_CHOICES, LEAK_FREE, VALIDATED, Board, ScoreRow, SetFacts
from training.towers.lineage import languages_of
from training.towers.trained_models import EFFORT_FILE, SCORES_FILE

_BANS = {NONCOMMERCIAL: "forbid commercial use", FORBIDDEN: "forbid changed copies"}
_UNKNOWN_LICENSE, _NO_LICENSE = "have an unknown license", "state no license"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """The snapshot that a model was trained on, and the counts of each split's pairs."""

    manifest: Manifest
    splits: Mapping[str, PairCounts]

    @property
    def language(self) -> str:
        """Return the language of the captions."""
        return str(self.manifest["target_lang"])


def training_data(snapshot: Snapshot) -> TrainingData:
    """Count the pairs of a snapshot, without reading images."""
    counts = {split: count_pairs(snapshot.pair_files(split)) for split in SPLITS}
    return TrainingData(manifest=snapshot.manifest, splits=counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScores:
    """The scores of a model on one set of images."""

    name: str
    split: str | None  # of the training dataset, if the set is one
    rows: tuple[ScoreRow, ...]  # none if they belong to other weights
    notes: tuple[str, ...]
    is_flattered: bool  # too high: all images were trained on, or the epoch was chosen on them
    is_compared: bool  # with the training images
    language: str | None  # of the captions or class names; None: not recorded


def read_scores(trained: TrainedFolder, scoreboards: Sequence[Path], seen: TrainingData | None) -> list[SetScores]:
    """Return the scores of a model on its dataset's held-out splits, which lie beside it, and those of scoreboards."""
    beside = {trained.folder / SCORES_FILE.format(split=split): split for split in HELD_OUT}
    files = [(path, split) for path, split in beside.items() if path.is_file()]
    found = []
    for path, split in [*files, *((path, None) for path in scoreboards)]:
        board = Board.read(path)
        ours = next(iter(board.with_weights(trained.loaded.sha256)), None)
        if ours is None and split is None:
            short = trained.loaded.sha256[:12]
            raise InputError(f"{path} has no score of these weights ({short}): score this model first")
        for facts in board.sets:
            rows = board.where(model=ours, test_set=facts.name, minus=None).rows
            if rows or split is not None:
                found.append(_scores_of_set(facts, rows, ours or "", split=split, seen=seen))
    return found


def _scores_of_set(
    facts: SetFacts, rows: tuple[ScoreRow, ...], model: str, *, split: str | None, seen: TrainingData | None
) -> SetScores:
    num_leaked, notes = len(facts.leaked.get(model, ())), list(facts.notes)
    if split == "val" and VALIDATED not in notes:
        notes.append(VALIDATED)
    if num_leaked:
        notes.append(
            f"of its {facts.num_images:,} images {num_leaked:,} are among those that the model was trained on, so "
            "scores over all images are too high"
        )
    language = None
    if split is not None and seen is not None:
        language = seen.language
    elif facts.language is not None:
        language = facts.language.stated or facts.language.asked
    return SetScores(
        name=split or facts.name,
        split=split,
        rows=rows,
        notes=tuple(notes),
        is_flattered=VALIDATED in notes or num_leaked == facts.num_images,
        is_compared=bool(facts.compared.get(model)),
        language=language,
    )


@dataclass(frozen=True, slots=True)
class _Lesson:
    """The record of a run on how its text tower was distilled."""

    teacher: str
    origins: dict[str, int]
    is_of_dataset: bool
    pairs_by_language: dict[str, int] = field(default_factory=dict)  # {} for one language


def model_card(
    trained: TrainedFolder,
    config: ModelExportConfig,
    seen: TrainingData | None,
    scores: Sequence[SetScores],
    *,
    library: str,
) -> str:
    """Return the card as Markdown with a YAML header.

    `scores` are those of `read_scores`, and `library` is the hub's name of the library that loads the export.
    """
    settings, learned = trained.lineage.settings, set(trained.lineage.learned or ())
    languages = [*dict.fromkeys([*([] if seen is None else [seen.language]), *languages_of(trained.folder)])]
    lesson = None
    if "distil" in settings:
        with about(trained.folder / RUN_FILE, kind=DamagedError, remedy="restore it from an intact copy"):
            lesson = TypeAdapter(_Lesson).validate_python(settings["distil"])
    train, has_val, has_all, papers = None, False, True, set[str | None]()
    if seen is not None:
        split_of = {entry["sha256"]: entry["split"] for entry in seen.manifest["files"]["pairs"]}
        has_val, has_all = "val" in map(split_of.get, learned), learned <= split_of.keys()
        train = seen.splits["train"] + seen.splits["val"] if has_val else seen.splits["train"]
        papers = {upstream_paper(seen.manifest, source) for source in seen.manifest["sources"]}
    scored = [found for found in scores if found.rows]
    test_sets = [found for found in scored if found.split is None]
    measured = sorted({found.language for found in scored if found.language is not None})
    num_samples = trained.result.num_samples
    text = _template().render(
        head=_head(config, library, seen, scored, languages),
        languages=languages,
        config=config,
        library=library,
        trained=trained,
        settings=fenced_json(settings),
        lesson=lesson,
        made={} if lesson is None else _made(lesson.origins),
        validation=best_record(trained.folder, trained.result),
        is_student=set(settings) == {"model", "distil"},  # not trained with images after that
        encoder_name=_public_name(trained.model_config["text_cfg"]),
        dataset=trained_on(trained.folder),
        seen=seen,
        train=train,
        has_val=has_val,
        has_all=has_all,
        unfree={} if train is None else _unfree(train),
        shown=min(num_samples, trained.result.steps * int(settings.get("batch_size", num_samples))),
        scores=scores,
        measured=measured,
        foreign=[code for code in measured if languages and code not in languages],
        unrecorded=sorted({found.name for found in scored if found.language is None}),
        is_compared=bool(test_sets) and all(found.is_compared for found in test_sets),
        attempts=read_attempts(trained.folder / EFFORT_FILE),
        papers=[METHOD, *sorted(filter(None, papers))],
    )
    return re.sub("\n{3,}", "\n\n", text)


@functools.cache
def _template() -> Any:
    found = Environment(
        loader=PackageLoader("training.exports"),
        autoescape=False,  # noqa: S701 - `finalize` escapes for Markdown, which has HTML
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    found.filters |= {
        "number": lambda value, form: Markup(format(value, form)),  # noqa: S704 - digits
        "span": lambda seconds: Markup(span_text(seconds)),  # noqa: S704 - digits and units
        "num_weights": lambda tower: sum(weight.numel() for weight in tower.parameters()),
    }
    found.globals |= {"CAPTION_MODES": CAPTION_MODES, "IMAGE_CHOICES": IMAGE_CHOICES, "ORIGINS": ORIGINS}
    return found.get_template("model_card.md")


def _shown(value: object) -> object:
    """Escape texts for Markdown, and separate the thousands of integers; numbers and Markdown stay as they are."""
    if isinstance(value, Markup | float):
        return value
    return f"{value:,}" if isinstance(value, int) else markdown_text(str(value))


def _head(
    config: ModelExportConfig,
    library: str,
    seen: TrainingData | None,
    scored: Sequence[SetScores],
    languages: Sequence[str],
) -> str:
    """Return the YAML header, which the Hugging Face hub reads."""
    hub_name = config.dataset_hub_name
    results = [result for found in scored for result in _results(found, seen, hub_name)]
    return ModelCardData(
        language=list(languages) or None,
        license=config.license or None,
        license_name=config.license_name or None,
        license_link=config.license_link or None,
        library_name=library,
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "image-text-retrieval", "vernaclip"],
        # Without a hub name, the dataset's own name could link to another dataset on the hub.
        datasets=None if hub_name is None else [hub_name],
        model_name=config.name if results else None,
        eval_results=results or None,
    ).to_yaml()


def _results(found: SetScores, seen: TrainingData | None, hub_name: str | None) -> Iterator[EvalResult]:
    """Yield the hub's list of scores: those over all captions, on leak-free images if there are such scores."""
    if found.is_flattered:
        return
    of_all = [row for row in found.rows if row.captions == ALL]
    images = LEAK_FREE if any(row.images == LEAK_FREE for row in of_all) else ALL
    place: dict[str, Any] = {"dataset_name": found.name, "dataset_type": found.name}
    if found.split is not None:
        dataset = seen.manifest["dataset"] if seen is not None else "held-out images"
        place = {
            "dataset_name": f"{dataset}, {found.name} split",
            # The hub takes a type without spaces for the name of one of its datasets.
            "dataset_type": hub_name or f"{dataset} (not on the hub)",
            "dataset_split": found.name,
        }
        if seen is not None and hub_name is None:  # a revision on the hub would be a git commit
            place["dataset_revision"] = seen.manifest["snapshot"]
    for row in of_all:
        if row.images == images:
            yield EvalResult(
                task_type="image-text-retrieval",
                metric_type=row.metric,
                metric_value=round(row.value, 6),
                metric_name=f"{row.metric}, of {row.gallery:,}, 95 % {row.low:.4f}-{row.high:.4f}",
                **place,
            )


def _public_name(text: Mapping[str, Any]) -> str:
    """Return the name of a text tower's encoder, or "" for one that is a folder of this machine."""
    name = str(text.get("hf_model_name", ""))
    return "" if Path(name).is_absolute() or Path(name).exists() else name


def _unfree(train: PairCounts) -> dict[str, int]:
    """Return how many training images have a license that is not free, by what is known of it."""
    counts = dict.fromkeys((*_BANS.values(), _UNKNOWN_LICENSE, _NO_LICENSE), 0)
    for (_, text), count in train.licenses.items():
        license = read_license(text)
        if license is None:
            counts[_UNKNOWN_LICENSE if text and text.strip() else _NO_LICENSE] += count
        elif license.passing_on in _BANS:
            counts[_BANS[license.passing_on]] += count
    return {what: count for what, count in counts.items() if count}


def _made(origins: Mapping[str, int]) -> dict[str, float]:
    """Return the shares of sentences that a machine translated, and of those whose origin is not stated."""
    total = max(1, sum(origins.values()))
    by_machine = sum(origins.get(name, 0) for name in (MACHINE_TRANSLATION, CORRECTED))
    unstated = sum(count for name, count in origins.items() if name not in ORIGINS)
    return {"by_machine": by_machine / total, "unstated": unstated / total}
