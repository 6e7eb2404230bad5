"""Score how well captions fit their images: the cosine of a model, in units of what random captions get.

A score is (cosine - mean) / standard deviation, with mean and standard deviation over random pairs of an image and a
caption of another image. Random captions score 0 on average, and one in fifty scores above 2. The pairs are drawn by
hashes of the images' bytes and the captions' texts, so they do not depend on order or shards.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.features import Encoder, FeatureStore, Read
from training.data.images import BATCH_SIZE, Features
from training.data.pairs import Floats, Integers

logger = logging.getLogger(__name__)

RANDOM_IMAGES = 10_000  # images that are paired with random captions, at most
RANDOM_CAPTIONS = 10  # random captions for each of them
_ROWS = 4096  # cosines that are computed at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesAndCaptions:
    """Captions to judge, and their images, read by name; `owners` has the place of each caption's image in `names`."""

    names: Sequence[str]
    read: Read
    captions: Sequence[str]
    owners: Sequence[int]


def image_text_scores(pairs: ImagesAndCaptions, encoder: Encoder, cache: Path) -> Floats:
    """Return the score of each caption, shape (captions,); NaN if the image does not decode.

    All scores are NaN if there are no random pairs to compare with, such as in a dataset with one image. `cache` is a
    folder with features of models.
    """
    store = FeatureStore(encoder, cache)
    rows, digests = store.images(pairs.names, pairs.read, batch_size=BATCH_SIZE)
    row_of = {place: row for row, place in enumerate(digests)}
    judged = np.array([place for place, owner in enumerate(pairs.owners) if owner in row_of], np.int64)
    captions = [pairs.captions[place] for place in judged]
    texts = store.texts(captions, batch_size=BATCH_SIZE)
    owners = np.array([row_of[pairs.owners[place]] for place in judged], np.int64)
    found = np.full(len(pairs.captions), np.nan)
    random = random_pairs(list(digests.values()), captions, owners)
    cosines = _cosines(rows, texts, random)
    spread = float(cosines.std()) if len(cosines) > 1 else 0.0
    if spread:
        logger.info("cosine of %d random pairs: %.4f, standard deviation %.4f", len(random), cosines.mean(), spread)
        own = _cosines(rows, texts, np.stack([owners, np.arange(len(owners))], axis=1))
        found[judged] = (own - cosines.mean()) / spread
    elif captions:
        logger.warning("%d captions are not judged: too few to compare them with random ones", len(captions))
    return found


def _cosines(rows: Features, texts: Features, pairs: Integers) -> Floats:
    """Return the cosines of pairs of rows, shape (pairs,), in float64."""
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), _ROWS):
        some = pairs[start : start + _ROWS]
        products = rows[some[:, 0]].astype(np.float64) * texts[some[:, 1]]
        found[start : start + _ROWS] = products.sum(axis=1)
    return found


def random_pairs(images: Sequence[bytes], captions: Sequence[str], owners: Integers) -> Integers:
    """Return random pairs of an image and a caption that no image with the same bytes has: places, shape (pairs, 2).

    The pairs, as contents, depend only on the set of all images with their captions. Places of equal contents are
    interchangeable, since their features are equal. `images` has the digest of each image's bytes, `owners` the place
    of each caption's image.
    """
    first_image = {digest: place for place, digest in reversed(list(enumerate(images)))}
    first_caption = {text: place for place, text in reversed(list(enumerate(captions)))}
    in_order = sorted(first_caption, key=lambda text: hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    own: dict[bytes, set[str]] = {digest: set() for digest in first_image}
    for text, owner in zip(captions, owners.tolist(), strict=True):
        own[images[owner]].add(text)
    found = []
    for digest in sorted(first_image)[:RANDOM_IMAGES]:
        for number in range(RANDOM_CAPTIONS if len(in_order) > len(own[digest]) else 0):
            place = int.from_bytes(hashlib.sha256(digest + bytes([number])).digest()[:8], "big") % len(in_order)
            while in_order[place] in own[digest]:
                place = (place + 1) % len(in_order)
            found.append((first_image[digest], first_caption[in_order[place]]))
    return np.array(found, np.int64).reshape(-1, 2)
