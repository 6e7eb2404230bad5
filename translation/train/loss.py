"""Cross-entropy with label smoothing in one pass over the logits, where most of a small model's time goes.

Imports torch: import this module inside functions only.
"""

from typing import Any

import torch
from torch import Tensor


class _SmoothedCrossEntropy(torch.autograd.Function):
    """torch's own takes four passes over (tokens, vocabulary) and as many buffers; this one keeps a single buffer."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        rows, pieces = logits.shape
        scores = logits.float()
        log_sums = scores.logsumexp(dim=1)
        of_labels = scores.gather(1, labels.unsqueeze(1)).squeeze(1)
        loss = log_sums - (1 - label_smoothing) * of_labels - label_smoothing * scores.mean(dim=1)
        # The gradient: probabilities less the smoothed target, over the number of rows.
        gradient = scores.sub_(log_sums.unsqueeze(1)).exp_() if scores is not logits else scores.softmax(dim=1)
        gradient.sub_(label_smoothing / pieces)
        gradient[torch.arange(rows), labels] -= 1 - label_smoothing
        ctx.save_for_backward(gradient.div_(rows).to(logits.dtype))
        return loss.mean()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0], None, None


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Mean over rows of the cross-entropy with a target of `1 - label_smoothing` on the label, the rest spread evenly.

    Equal to `torch.nn.functional.cross_entropy(logits, labels, label_smoothing=...)`.

    Args:
        logits: (rows, pieces), float32 or bfloat16.
        labels: (rows), ids.
    """
    return _SmoothedCrossEntropy.apply(logits, labels, label_smoothing)  # type: ignore[no-any-return, no-untyped-call]
