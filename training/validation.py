"""What an epoch comes to on the validation split: the loss, and how many captions find their image first."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.batches import held_out_batches
from training.losses import Encoders, contrastive_loss, unit_features_in_pieces
from training.metrics import text_to_image_ranks

if TYPE_CHECKING:
    from training.losses import Features
    from training.run import Run

GALLERY = 1000  # at most; the scores of a finished model are of whole splits


@dataclass(frozen=True, slots=True)
class Validation:
    """Results on the validation split, one caption an image, in fp32.

    Args:
        loss: mean contrastive loss, in batches as large as training's.
        recall: share of captions whose image is the first found among the gallery; nobody looks whether a caption fits
            several images.
        gallery: images in it.
    """

    loss: float
    recall: float
    gallery: int


def validate(run: "Run") -> Validation | None:
    """Score a run's model as it is; None without a validation split."""
    import numpy as np
    import torch

    run.module.eval()
    encoders, losses = Encoders.whole(run.module), []
    features: list[Features] = []
    batches = held_out_batches(
        run.files.val,
        run.tokenizer,
        image_size=run.image_size,
        batch_size=run.batch_size,
        num_threads=run.num_threads,
    )
    with torch.no_grad():
        for images, token_ids in batches:
            inputs = images.to(run.device), token_ids.to(run.device)
            found = unit_features_in_pieces(encoders, *inputs, size=run.config.microbatch)
            losses.append((float(contrastive_loss(run.module, *found, loss=run.config.loss).item()), len(images)))
            if len(features) * run.batch_size < GALLERY:
                features.append(found)
    if not losses:
        return None
    image_features, text_features = (torch.cat(parts)[:GALLERY].cpu().numpy() for parts in zip(*features, strict=True))
    ranks = text_to_image_ranks(text_features, image_features, np.arange(len(image_features)))
    return Validation(
        loss=sum(loss * count for loss, count in losses) / sum(count for _, count in losses),
        recall=float((ranks == 1).mean()),
        gallery=len(image_features),
    )
