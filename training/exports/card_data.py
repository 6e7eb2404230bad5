"""What a model card tells beside the model itself: the data that it saw, its scores, what its training cost."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.exports.counts import PairCounts, count_pairs
from data_catalog.manifest import SPLITS, Snapshot
from data_catalog.shards import read_json
from training.effort import EFFORT_FILE, Attempt, read_attempts

SCORE_FILES = "scores-*.json"
_SCORE_KEYS = ("name", "captions", "value", "low", "high", "gallery_size", "num_queries")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenData:
    """The snapshot that a model was trained on.

    Args:
        manifest: of the snapshot.
        splits: counts of each split's pairs.
    """

    manifest: Mapping[str, Any]
    splits: Mapping[str, PairCounts]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitScores:
    """Scores on the held-out images of one split; each score is as in the file.

    Args:
        split: whose images are the gallery.
        of_these_weights: whether they are of the weights that are exported.
    """

    split: str
    scores: tuple[Mapping[str, Any], ...]
    of_these_weights: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CardData:
    """All of it; `seen` is None where a folder alone is exported, which does not say what was trained on."""

    seen: SeenData | None
    scores: tuple[SplitScores, ...]
    attempts: tuple[Attempt, ...]


def seen_data(snapshot: Snapshot) -> SeenData:
    """Count the pairs of a snapshot; pixels are not read."""
    counts = {split: count_pairs(snapshot.pair_files(split)) for split in SPLITS}
    return SeenData(manifest=snapshot.manifest, splits=counts)


def card_data(folder: Path, seen: SeenData | None, *, model_sha256: str) -> CardData:
    """Read what lies beside a trained model.

    Raises:
        ConfigError: a file of scores, or of time and energy, is damaged.
    """
    scores = tuple(_scores(path, model_sha256) for path in sorted(folder.glob(SCORE_FILES)))
    return CardData(seen=seen, scores=scores, attempts=read_attempts(folder / EFFORT_FILE))


def _scores(path: Path, model_sha256: str) -> SplitScores:
    try:
        found = read_json(path)
        scores = tuple(_score(values) for values in found["scores"])
        return SplitScores(
            split=str(found["split"]), scores=scores, of_these_weights=found["model_sha256"] == model_sha256
        )
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} is no file of scores ({type(error).__name__}: {error}): remove it, and evaluate the model again"
        ) from error


def _score(values: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in _SCORE_KEYS[2:]:
        if not isinstance(values[name], int | float) or isinstance(values[name], bool):
            raise TypeError(f"{name} is {values[name]!r}")
    numbers = {name: values[name] for name in _SCORE_KEYS[2:]}
    return {
        **{name: str(values[name]) for name in _SCORE_KEYS[:2]},
        **numbers,
        "images": str(values.get("images", "all")),
    }


def scored(data: CardData) -> Iterator[SplitScores]:
    """Scores of the weights that are exported."""
    return (found for found in data.scores if found.of_these_weights)
