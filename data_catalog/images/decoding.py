"""A shard of raw images normalised by a child that may die: a row that kills it twice is given up, all others go on."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from data_catalog.errors import ShardError
from data_catalog.images.children import MAX_IDLE_DEATHS, ChildDiedError, ChildPool
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.images.normalising import PICTURES_FILE, RAW_FILE, ROWS_FILE
from data_catalog.images.tables import Outcome, Piece, PieceReader, Row, failed, read_groups

logger = logging.getLogger(__name__)

_TRIES = 2
_FACTS = ("width", "height", "original_width", "original_height", "original_format", "phash")


def image_rows(raw: Path, config: NormaliseConfig, folder: Path, pool: ChildPool) -> Iterator[Row]:
    """Rows of the schema `IMAGES`, one for each row of `raw`; `folder` holds the bytes of one row group at a time."""
    for index, group in enumerate(read_groups(raw)):
        place = folder / str(index)
        place.mkdir()
        outcomes = _decode(group, config, place, pool)
        with PieceReader() as pieces:
            for position, row in enumerate(group):
                yield _image_row(row, outcomes.get(position), config, pieces)
        for file in place.rglob("*.bin"):
            file.unlink()


def _image_row(raw: Row, outcome: Outcome | None, config: NormaliseConfig, pieces: PieceReader) -> Row:
    """A row that came without bytes keeps the reason for that."""
    outcome = outcome or failed(raw["drop_reason"], raw["detail"])
    is_good = outcome["piece"] is not None
    return {
        "sample_id": raw["sample_id"],
        "drop_reason": outcome["reason"],
        "detail": outcome["detail"],
        "bytes": pieces.read(outcome["piece"]) if is_good else None,
        **{name: outcome.get(name) for name in _FACTS},
        "thumbnail": bytes.fromhex(outcome["thumbnail"]) if is_good else None,
        "sha256": raw["sha256"],
        **{name: raw[name] for name in ("http_status", "final_url", "robots_tag", "num_bytes", "url", "attempt")},
        "original": raw["bytes"] if is_good and config.keep_original else None,
    }


def _decode(group: list[Row], config: NormaliseConfig, folder: Path, pool: ChildPool) -> dict[int, Outcome]:
    """Outcomes of the rows that have bytes, by position.

    The child works in order and reports each row before it begins the next one: the first row without a report is
    the one at which a dead child was.
    """
    waiting = _spill(group, folder / RAW_FILE)
    outcomes: dict[int, Outcome] = {}
    deaths: Counter[int] = Counter()
    idle_deaths = 0
    while waiting:
        place = folder / f"after-{deaths.total() + idle_deaths}-deaths"
        place.mkdir()
        try:
            _decode_once(waiting, config, place, pool=pool, outcomes=outcomes)
        except ChildDiedError as error:
            cause = str(error)
            if not error.was_ready:  # no image is to blame
                idle_deaths += 1
                if idle_deaths == MAX_IDLE_DEATHS:
                    raise ShardError(
                        f"images: the decoding process does not come as far as an image: {cause}"
                    ) from error
                continue
        else:
            return outcomes
        waiting = {position: piece for position, piece in waiting.items() if position not in outcomes}
        suspect = next(iter(waiting), None)
        if suspect is None:
            return outcomes
        deaths[suspect] += 1
        logger.warning("images: the decoding process ended (%s) at %s", cause, group[suspect]["sample_id"])
        if deaths[suspect] >= _TRIES:
            outcomes[suspect] = failed("decode_crash", cause)
            del waiting[suspect]
    return outcomes


def _spill(group: list[Row], path: Path) -> dict[int, Piece]:
    """Write the rows' bytes one after another into a file that the child can read."""
    pieces: dict[int, Piece] = {}
    with path.open("wb") as file:
        for position, row in enumerate(group):
            if row["drop_reason"] is None:
                pieces[position] = Piece(path, file.tell(), len(row["bytes"]))
                file.write(row["bytes"])
    return pieces


def _decode_once(
    waiting: dict[int, Piece], config: NormaliseConfig, folder: Path, *, pool: ChildPool, outcomes: dict[int, Outcome]
) -> None:
    """One job of one child; whatever it finishes is in `outcomes`, even if it dies."""
    lines = [json.dumps([position, piece.offset, piece.length]) + "\n" for position, piece in waiting.items()]
    (folder / ROWS_FILE).write_text("".join(lines), encoding="utf-8")
    raw = next(iter(waiting.values())).path
    # Absolute: the child may have been started in another folder, for another flow on the same Dask worker.
    job = {"raw": str(raw.absolute()), "folder": str(folder.absolute()), "config": asdict(config)}
    with pool.lend("normalise", config.memory_bytes) as child:
        for event in child.run(job, stall_s=config.timeout_s):
            piece = None if event["reason"] else Piece(folder / PICTURES_FILE, event["offset"], event["length"])
            outcomes[event["row"]] = {**event, "piece": piece}
