"""The steps that judge, by a model that looks at the image, whether captions fit their images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.duplicates.images import reject_samples
from data_catalog.base.errors import InputError
from data_catalog.catalog.manifest import MODELS, datasets_folder
from data_catalog.catalog.roots import FEATURE_STORES
from data_catalog.catalog.work import StepFacts
from data_catalog.disk.files import save_parquet
from data_catalog.rows.drop_reasons import Reason
from data_catalog.rows.fetch_reasons import image_step
from data_catalog.rows.origins import has_original
from data_catalog.rows.schema import IMAGE_TEXT, SCORED_CAPTIONS
from data_catalog.rows.stages import Drop, count_rows, pending_rows, reject, texts
from flows.build.engine import SHARD, Job
from flows.recipe.recipe import Recipe
from training.config import ImageTextConfig

if TYPE_CHECKING:
    from training.data.features import Encoder
    from training.scores.image_text import ImagesAndCaptions

FIT_REASONS = {
    "translation_lost_the_image": Reason(
        "the source caption fits the image much better than its translation", settings=("image_text.max_drop",)
    ),
    "caption_does_not_fit": Reason(
        "a model finds that the caption fits its image hardly better than a random caption",
        settings=("image_text.min_score",),
    ),
}
_SCORES = pa.schema(
    [SCORED_CAPTIONS.field("sample_id"), SCORED_CAPTIONS.field("caption_id")]
    + [SCORED_CAPTIONS.field(name) for name in IMAGE_TEXT]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """The models that judge the captions of a build, opened."""

    target: "Encoder"
    """Judges captions in the target language."""
    source: "Encoder"
    """Judges source captions."""
    learned: Mapping[str, Sequence[Path]]
    """Pair shards that each model was trained on, by its setting, as far as they are known."""
    cache: Path


def judge_identities(recipe: Recipe, root: Path) -> dict[str, Any]:
    """Return what identifies the models in keys, by setting; {} if nothing is judged."""
    config = recipe.image_text
    if not config.model:
        return {}
    from training.runs.processes import prepare_for_torch

    prepare_for_torch()
    from training.scores.encoders import check_source, encoder_identity, kind_of

    _learned(recipe, root)
    found: dict[str, Any] = {}
    for name, source in _sources(config, root).items():
        check_source(kind_of(source), source, f"image_text.{name}")
        found[name] = encoder_identity(source)
    return found


def open_judges(recipe: Recipe, root: Path) -> Judges | None:
    """Open the models that judge captions. Return None if nothing is judged."""
    config = recipe.image_text
    if not config.model:
        return None
    from training.scores.encoders import open_encoder

    sources = _sources(config, root)
    opened = {source: open_encoder(source) for source in dict.fromkeys(sources.values())}
    return Judges(
        target=opened[sources["model"]],
        source=opened[sources.get("source_model", sources["model"])],
        learned=_learned(recipe, root),
        cache=root / FEATURE_STORES,
    )


def _sources(config: ImageTextConfig, root: Path) -> dict[str, str]:
    """Return the folders or names of the models, by setting."""
    from training.towers.trained_models import find_model

    named = {"model": config.model, "source_model": config.source_model}
    return {name: find_model(value, root) for name, value in named.items() if value}


def _learned(recipe: Recipe, root: Path) -> dict[str, Sequence[Path]]:
    """Return the pair shards that decided the weights of each model, by setting, as far as they are known."""
    from training.towers.trained_models import images_learned, own_folder

    found: dict[str, Sequence[Path]] = {}
    dataset = (datasets_folder(root) / recipe.name).resolve()
    for name, source in _sources(recipe.image_text, root).items():
        learned = images_learned(Path(source), root)
        found[name] = learned.files if learned is not None else ()
        own = own_folder(Path(source), root) if learned is not None and not learned.is_complete else None
        is_older = own is not None and own.parent == (root / MODELS / recipe.name).resolve()  # shards are gone
        if is_older or any(dataset in path.resolve().parents for path in found[name]):
            raise _refusal(name, source, "images of this dataset")
    return found


def _refusal(name: str, source: str, what: str) -> InputError:
    return InputError(
        f"image_text.{name}: {source} was trained on {what}, so its scores there would be too high: name a model "
        "that was trained on other images"
    )


def measure_fit(job: Job, *, identities: Mapping[str, Any]) -> StepFacts:
    """Score how well the captions of all shards fit their images.

    The file of each shard has `sample_id`, `caption_id` and the three scores of every caption whose image is good. The
    identities of models are part of the key only.
    """
    judges: Judges = job.tools.judges
    images = job.shards("forget-images")
    _require_unseen(judges, images, job.tools.recipe)
    tables = [_judged(captions, own) for captions, own in zip(job.shards("check"), images, strict=True)]
    table = pa.concat_tables(tables)
    from training.runs.processes import deterministic_torch, prepare_for_torch

    prepare_for_torch()
    import torch

    with deterministic_torch(seed=0, num_threads=0, device=torch.device("cpu")):
        columns = _scores(table, images, judges)
    end = 0
    for number, shard in enumerate(tables):
        start, end = end, end + shard.num_rows
        names = (shard.column("sample_id"), shard.column("caption_id"))
        found = [pa.array(values[start:end].astype(np.float32), from_pandas=True) for values in columns]  # NaN is null
        save_parquet(pa.table([*names, *found], schema=_SCORES), job.folder / f"{number:05d}.parquet")
    return {"num_captions": table.num_rows}


def _judged(captions: Path, images: Path) -> pa.Table:
    """Return the pending captions of a shard whose image is good, with their texts."""
    facts = pq.read_table(images, columns=["sample_id", "drop_reason"])
    good = facts.filter(pc.is_null(facts.column("drop_reason"))).column("sample_id")
    table = pq.read_table(captions)
    rows = pending_rows(table, pc.is_in(table.column("sample_id"), good.combine_chunks()))
    original = pc.if_else(has_original(table), table.column("clean_caption"), None)
    chosen = table.select(["sample_id", "caption_id", "caption"]).append_column("source_caption", original)
    return chosen.take(pa.array(rows, pa.int64()))


def _scores(table: pa.Table, images: Sequence[Path], judges: Judges) -> Sequence[Any]:
    """Return scores, scores of the source and differences of captions, as float64 with NaN for none."""
    from training.scores.image_text import image_text_scores

    captions, sources = (table.column(name).to_pylist() for name in ("caption", "source_caption"))
    score, score_source = np.full(table.num_rows, np.nan), np.full(table.num_rows, np.nan)
    for found, wordings, judge in ((score, captions, judges.target), (score_source, sources, judges.source)):
        pairs, places = _pairs(table.column("sample_id"), wordings, images)
        found[places] = image_text_scores(pairs, judge, judges.cache)
    return score, score_source, score_source - score


def _pairs(
    sample_ids: pa.ChunkedArray, captions: Sequence[str | None], images: Sequence[Path]
) -> "tuple[ImagesAndCaptions, Sequence[int]]":
    """Return the captions that are not None with the images of their samples, and their places."""
    from training.data.images import encoded_reader
    from training.data.pairs import read_rows, row_groups
    from training.scores.image_text import ImagesAndCaptions

    groups = row_groups(images)
    read = encoded_reader(groups, lambda group: read_rows(group, ["bytes"]).column("bytes").to_pylist())
    wanted = set(sample_ids.to_pylist())
    ids = pa.chunked_array(
        [chunk for path in images for chunk in pq.read_table(path, columns=["sample_id"]).column(0).chunks], pa.string()
    )
    rows = {sample_id: row for row, sample_id in enumerate(ids.to_pylist()) if sample_id in wanted}
    names = list(rows)
    number_of = {name: number for number, name in enumerate(names)}
    places = [place for place, caption in enumerate(captions) if caption is not None]
    found = ImagesAndCaptions(
        names=names,
        read=lambda name: read(rows[name]),
        captions=[str(captions[place]) for place in places],
        owners=[number_of[sample_id] for sample_id in sample_ids.take(pa.array(places, pa.int64())).to_pylist()],
    )
    return found, places


def _require_unseen(judges: Judges, images: Sequence[Path], recipe: Recipe) -> None:
    """Raise if a model was trained on images of the dataset, by their ids or original bytes."""
    from training.data.pairs import seen_in_training

    for name, learned in judges.learned.items():
        seen = seen_in_training(images, learned)
        if seen:
            source = getattr(recipe.image_text, name)
            raise _refusal(name, source, f"{len(seen):,} images of this dataset")


def without_lost_images(job: Job, captions: Path) -> tuple[list[pa.Table], dict[str, Drop]]:
    """Return captions before and after `fetch` and `normalise` dropped those without an image, and the latter drops."""
    drops: dict[str, dict[str, Drop]] = {"fetch": {}, "normalise": {}}
    for row in pq.read_table(job.shard("forget-images"), columns=["sample_id", "drop_reason", "detail"]).to_pylist():
        if row["drop_reason"]:  # each reason belongs to exactly one step
            drops[image_step(row["drop_reason"])][row["sample_id"]] = Drop(row["drop_reason"], row["detail"])
    tables = [pq.read_table(captions)]
    for step, found in drops.items():
        tables.append(reject_samples(tables[-1], found, step=step))
    return tables, drops["normalise"]


def written_stages(job: Job, tables: Sequence[pa.Table], last: str) -> StepFacts:
    """Write the last of the tables, and return the counts of `fetch`, `normalise` and the last row of the funnel."""
    save_parquet(tables[-1], job.folder / SHARD)
    rows = zip(("fetch", "normalise", last), pairwise(tables), strict=True)
    return {"counts": {row: count_rows(*before_and_after) for row, before_and_after in rows}}


def fit(job: Job, *, config: ImageTextConfig) -> StepFacts:
    """Drop captions whose image failed, fill the scores of the others, and drop those beyond the thresholds.

    Rows of the funnel are counted for `fetch`, `normalise` and `fit`.
    """
    tables, _ = without_lost_images(job, job.shard("check"))
    table, scores = tables[-1], pq.read_table(job.shard("measure-fit"))
    places = pc.index_in(table.column("caption_id"), scores.column("caption_id").combine_chunks())
    for name in IMAGE_TEXT:
        table = table.append_column(SCORED_CAPTIONS.field(name), scores.column(name).take(places))
    rows = pending_rows(table)
    values = zip(*(texts(table, name, rows) for name in IMAGE_TEXT), strict=True)
    table = reject(table, rows, [_verdict(config, *found) for found in values], step="fit")
    return written_stages(job, [*tables, table], "fit")


def _verdict(config: ImageTextConfig, score: Any, source: Any, drop: Any) -> Drop | None:
    """Return the drop of a caption with these scores, each a number or None."""
    if config.max_drop is not None and drop is not None and drop > config.max_drop:
        return Drop("translation_lost_the_image", f"{drop:.2f}: {source:.2f} before translation, {score:.2f} after")
    if config.min_score is not None and score is not None and score < config.min_score:
        return Drop("caption_does_not_fit", f"{score:.2f}")
    return None
