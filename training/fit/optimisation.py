"""Optimizers, their schedule, and what keeps a step within bounds: clipped gradients, a bounded logit scale."""

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.optim import AdaBelief
from timm.utils.agc import adaptive_clip_grad
from torch.optim import AdamW

from training.config import TrainConfig

MAX_LOGIT_SCALE = math.log(100)  # as OpenAI and open_clip do


def make_optimizer(module: Any, config: TrainConfig) -> Any:
    """The optimizer of all parameters; those that are frozen have no gradient, and it leaves them alone.

    As in CLIP there is no weight decay for biases, norms and the logit scale.
    """
    matrices = [parameter for parameter in module.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in module.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return _OPTIMIZERS[config.optimizer](groups, config.lr)


def _adamw(groups: list[dict[str, Any]], lr: float) -> Any:
    """AdamW with CLIP's constants."""
    return AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6, fused=True)


def _adabelief(groups: list[dict[str, Any]], lr: float) -> Any:
    """AdaBelief with the constants of optax's `scale_by_belief`, by which CLIP-Italian was trained: not rectified.

    optax measures the surprise of a gradient against the mean before it, timm (and AdaBelief's paper) against the mean
    with it, which is 0.9 of that: one step of optax at a rate is a step of ours at 0.9 times the rate.
    """
    return AdaBelief(groups, lr=lr, betas=(0.9, 0.999), eps=1e-16, rectify=False)


_OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], float], Any]] = {"adamw": _adamw, "adabelief": _adabelief}


def learning_rate(step: int, *, config: TrainConfig, total: int) -> float:
    """Rate of a phase's step (from 0): a line up to `lr` over the warm-up, then half a cosine down to 0 at `total`."""
    warmup = config.warmup_steps or round(config.warmup_ratio * total)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def optimizer_step(optimizer: Any, module: Any, *, lr: float, config: TrainConfig) -> None:
    """One step along the gradients that are there, clipped; the logit scale stays within CLIP's bounds.

    Raises:
        FloatingPointError: a gradient is infinite or no number; no weight was changed then.
    """
    trained = [parameter for parameter in module.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in trained])
    if not torch.isfinite(norm):
        raise FloatingPointError(f"the gradient's norm is {float(norm)}")
    if config.agc:
        # The logit scale is no weight of a unit: beside its small value any gradient is large.
        adaptive_clip_grad([p for p in trained if p is not module.logit_scale], clip_factor=config.agc, eps=1e-3)
    if config.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        module.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
