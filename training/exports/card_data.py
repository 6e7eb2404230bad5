"""What a model card tells beside the model itself: the data that it saw, its scores, what its training cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_catalog.errors import DamagedError, InputError
from data_catalog.exports.counts import PairCounts, count_pairs
from data_catalog.storage.manifest import SPLITS, Manifest, Snapshot
from data_catalog.storage.shards import read_json
from training.fit.effort import Attempt, read_attempts
from training.trained_models import EFFORT_FILE

SCORE_FILES = "scores-*.json"
_SCORE_KEYS = ("name", "captions", "value", "low", "high", "gallery_size", "num_queries")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenData:
    """The snapshot that a model was trained on.

    Args:
        manifest: of the snapshot.
        splits: counts of each split's pairs.
    """

    manifest: Manifest
    splits: Mapping[str, PairCounts]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScores:
    """Scores on one set of images; each score is as in the file.

    Args:
        name: of the set, or of the split of the model's own dataset.
        is_split: whether it is such a split.
        of_these_weights: whether they are of the weights that are exported.
        notes: what a scoreboard says of the set beside its numbers.
        is_flattered: whether the model was trained on images of it, all of them, or its epoch chosen on it.
        language: of its captions or class names; None where nobody noted it.
        is_compared: whether it was looked for among the images that the model was trained on.
    """

    name: str
    is_split: bool
    scores: tuple[Mapping[str, Any], ...]
    of_these_weights: bool
    notes: tuple[str, ...] = ()
    is_flattered: bool = False
    language: str | None = None
    is_compared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CardData:
    """All of it; `seen` is None where a folder alone is exported, which does not say what was trained on."""

    seen: SeenData | None
    scores: tuple[SetScores, ...]
    attempts: tuple[Attempt, ...]


def seen_data(snapshot: Snapshot) -> SeenData:
    """Count the pairs of a snapshot; pixels are not read."""
    counts = {split: count_pairs(snapshot.pair_files(split)) for split in SPLITS}
    return SeenData(manifest=snapshot.manifest, splits=counts)


def card_data(folder: Path, seen: SeenData | None, *, model_sha256: str, scoreboards: Sequence[Path] = ()) -> CardData:
    """Read what lies beside a trained model, and what scoreboards say of it.

    Args:
        scoreboards: `scoreboard.json` files.

    Raises:
        InputError: a scoreboard is none, or has no score of these weights.
        DamagedError: a file of scores, or of time and energy, is damaged.
    """
    language = str(seen.manifest["target_lang"]) if seen is not None else None
    scores = [replace(_scores(path, model_sha256), language=language) for path in sorted(folder.glob(SCORE_FILES))]
    scores += [found for path in scoreboards for found in _of_scoreboard(path, model_sha256)]
    return CardData(seen=seen, scores=tuple(scores), attempts=read_attempts(folder / EFFORT_FILE))


def _of_scoreboard(path: Path, model_sha256: str) -> list[SetScores]:
    """Its scores of these weights, asked in no other words, set by set, in its order."""
    try:
        board = read_json(path)
        # A model whose queries are translated has more behind that in its origin.
        ours = [str(model["name"]) for model in board["models"] if model["origin"].endswith(_weights(model_sha256))]
        if not ours:
            raise InputError(f"{path} has no score of these weights ({model_sha256[:12]}): score this model first")
        return [_of_set(facts, board["entries"], ours[0]) for facts in board["sets"]]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no scoreboard.json ({type(error).__name__}: {error})") from error


def _weights(model_sha256: str) -> str:
    return f"weights {model_sha256[:12]}"


def _of_set(facts: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], model: str) -> SetScores:
    of_set = [entry["score"] for entry in entries if (entry["model"], entry["test_set"]) == (model, facts["name"])]
    num_leaked = len(facts["leaked"].get(model, {}))
    notes = [str(note) for note in facts["notes"]]
    if num_leaked:
        notes.append(
            f"of its {facts['num_images']:,} images {num_leaked:,} are among those that the model was trained on: the "
            "numbers over all images are in part of its memory"
        )
    return SetScores(
        name=str(facts["name"]),
        is_split=False,
        scores=tuple(_score(score) for score in of_set),
        of_these_weights=True,
        notes=tuple(notes),
        is_flattered=num_leaked == facts["num_images"] or any("flatters the model" in note for note in notes),
        language=_language(facts.get("language")),
        is_compared=bool(facts["compared"].get(model)),
    )


def _language(told: Mapping[str, Any] | None) -> str | None:
    """Which language a set's texts are in: what most of them look like, else what was stated or asked for."""
    if told is None:  # a scoreboard of an earlier release
        return None
    shares: Mapping[str, float] = told["looks_like"]
    found = next((code for code, share in shares.items() if share > 1 / 2), told["stated"] or told["asked"])
    if not isinstance(found, str):
        raise TypeError(f"language is {found!r}")
    return found


def _scores(path: Path, model_sha256: str) -> SetScores:
    try:
        found = read_json(path)
        scores = tuple(_score(values) for values in found["scores"])
        is_of_these = found["model_sha256"] == model_sha256
        return SetScores(name=str(found["split"]), is_split=True, scores=scores, of_these_weights=is_of_these)
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise DamagedError(
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


def scored(data: CardData) -> Iterator[SetScores]:
    """Scores of the weights that are exported."""
    return (found for found in data.scores if found.of_these_weights)
