"""Score captions by heads that were not trained on them: train on all folds but one, and score that one."""

import logging
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_catalog.base.errors import SettingsError
from data_catalog.catalog.manifest import SPLITS
from data_catalog.disk.files import unit_interval
from data_catalog.rows.schema import SCORE
from training.align.align import fit_heads
from training.align.frozen import opened_towers
from training.align.heads import FeaturePairs
from training.config import AlignConfig, TrainConfig
from training.data.pairs import PairFiles, read_rows, row_groups
from training.scores.image_text import in_units

logger = logging.getLogger(__name__)


def fold_scores(files: PairFiles, towers: TrainConfig, config: AlignConfig, *, cache: Path, num_folds: int) -> pa.Table:
    """Return how well each caption of all splits fits its image, in units of random captions of its fold.

    Images with equal original bytes are in the same fold, which depends on the bytes only. Heads are trained for all
    `align.epochs`, since no images are held out to choose one.

    Returns:
        Columns `sample_id`, `caption` and `image_text_score` (null: the fold has too few captions to compare with).
    """
    groups = row_groups([path for split in SPLITS for path in files.of(split)])
    rows = [row for group in groups for row in read_rows(group, ["sample_id", "sha256", "captions"]).to_pylist()]
    folds = np.array([int(unit_interval(row["sha256"], "fold") * num_folds) for row in rows], np.int64)
    if num_folds < 2 or min(np.bincount(folds, minlength=num_folds)) < 2:  # heads train on all folds but one
        least = f"at least 2, and leave two of {len(rows):,} images in each fold"
        raise SettingsError(f"--folds must be {least}, got {num_folds}")
    texts = [(row["sample_id"], text) for row in rows for text in row["captions"]]
    scores = np.full(len(texts), np.nan)
    with opened_towers(towers, config, cache=cache) as frozen:
        splits = [frozen.pairs(files, split, mirror=config.mirror) for split in SPLITS]
        whole = reduce(FeaturePairs.joined, [pairs for pairs in splits if pairs is not None])
        for fold in range(num_folds):
            heads, _ = fit_heads(frozen, whole.subset(np.flatnonzero(folds != fold)), None, config)
            own = np.flatnonzero(folds == fold)
            held, places = whole.subset(own), np.flatnonzero(np.isin(whole.owners, own))
            images, captions = heads.encoded(held)
            digests = [str(rows[place]["sha256"]).encode() for place in own]
            scores[places] = in_units(
                images, captions, held.owners, images=digests, captions=[texts[place][1] for place in places]
            )
            logger.info("fold %d of %d: scored %d captions", fold + 1, num_folds, len(places))
    sample_ids, wordings = zip(*texts, strict=True)
    score = pa.array(scores.astype(np.float32), from_pandas=True)
    return pa.table({"sample_id": sample_ids, "caption": wordings, SCORE: score})
