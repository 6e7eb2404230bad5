"""Select the weights that train, and define the optimizers and gradient clipping."""

import math
from functools import partial
from typing import Any, cast

import torch
from timm.optim import AdaBelief
from timm.utils.agc import adaptive_clip_grad
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import AdamW

from data_catalog.base.errors import SettingsError
from training.config import TrainConfig
from training.fit.losses import both
from training.runs.processes import has_second_core
from training.towers.backbones import towers_of

# Of AdamW, as in CLIP; of Muon, as its author has them, with three iterations in place of five.
ADAM_CONSTANTS: dict[str, Any] = {"betas": (0.9, 0.98), "eps": 1e-6, "fused": True}
MUON_MOMENTUM, MUON_ITERATIONS, NEWTON_SCHULZ = 0.95, 3, (3.4445, -4.7750, 2.0315)
MAX_LOGIT_SCALE = math.log(100)  # as in OpenAI's CLIP and open_clip


def choose_trained(module: Any, config: TrainConfig, *, frozen: bool, keep_statistics: bool) -> None:
    """Select the parameters that train: those that the settings do not lock or freeze, or the projections alone.

    Frozen towers are set to evaluation mode, so that they keep their batch statistics. `keep_statistics` keeps those of
    an image tower that trains.
    """
    module.requires_grad_(True)
    module.train()
    for tower, name, attributes in towers_of(module):
        if not (frozen or (config.freeze_image and name == "image")):
            continue
        tower.eval().requires_grad_(False)
        parts = [part for attribute in attributes if (part := getattr(tower, attribute, None)) is not None]
        trained = [part for part in parts if isinstance(part, nn.Parameter) or [*part.parameters()]]
        if not trained:
            setting = "train.frozen_epochs to 0" if frozen else "train.freeze_image to false"
            raise SettingsError(f"the {name} tower has no projection to train while it is frozen: set {setting}")
        for part in trained:
            part.requires_grad_(True)
    module.logit_scale.requires_grad_(not config.logit_scale)
    for part in module.visual.modules() if keep_statistics else ():
        if isinstance(part, _BatchNorm):
            part.eval()
    if config.lock_image:
        module.visual.eval().requires_grad_(False)


def make_optimizer(module: Any, config: TrainConfig) -> Any:
    """Return the optimizer of all parameters. It skips frozen ones, which have no gradient.

    As in CLIP, biases, norms and the logit scale have no weight decay, and AdamW has CLIP's constants. AdaBelief has
    those of optax's `scale_by_belief`, with which CLIP-Italian was trained, and is not rectified. optax compares a
    gradient with the mean before it. timm and the AdaBelief paper compare it with the mean that includes it, which
    gives 0.9 of that difference. So one step with optax equals one step here at 0.9 times the learning rate.
    """
    if config.optimizer == "muon":
        return Muon(module, lr=config.lr, weight_decay=config.weight_decay)
    groups = decay_groups(module, config.weight_decay)
    if config.optimizer == "adabelief":
        return AdaBelief(groups, lr=config.lr, betas=(0.9, 0.999), eps=1e-16, rectify=False)
    return AdamW(groups, lr=config.lr, **ADAM_CONSTANTS)


def decay_groups(module: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Return an optimizer's parameter groups: matrices with weight decay, biases, norms and the logit scale without."""
    matrices = [parameter for parameter in module.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in module.parameters() if parameter.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


class Muon(AdamW):
    """Muon (https://kellerjordan.github.io/posts/muon) for matrices and convolutions, AdamW for all other parameters.

    The update of a matrix is its momentum, made nearly orthogonal by Newton-Schulz iterations and scaled to the root
    mean square of AdamW's updates (https://arxiv.org/abs/2502.16982), so that both share one learning rate. A
    convolution counts as the matrix of its output channels. Tables of token and position embeddings are left to AdamW.
    `torch.optim.Muon` takes matrices only, and iterates in bfloat16.
    """

    def __init__(self, module: nn.Module, *, lr: float, weight_decay: float) -> None:
        named = [(name, each) for name, each in module.named_parameters() if each.ndim >= 2]
        matrices = [each for name, each in named if "embed" not in name and "token" not in name]
        is_matrix = set(matrices)
        groups = decay_groups(module, weight_decay)
        groups[0]["params"] = [each for each in groups[0]["params"] if each not in is_matrix]
        groups.append({"params": matrices, "weight_decay": weight_decay, "is_muon": True})
        super().__init__([group for group in groups if group["params"]], lr=lr, **ADAM_CONSTANTS)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the matrices, then all others."""
        for group in self.param_groups:
            weights = [each for each in group["params"] if group.get("is_muon") and each.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:  # AdamW expects steps in every state that it loads
                    self.state[weight].update(step=torch.tensor(0.0), momentum=torch.zeros_like(weight))
            # Where torch computes each product on one thread, the second core takes every other one of a size.
            by_size = sorted(weights, key=torch.Tensor.numel)
            halves = [partial(self._move, by_size[start::2], group) for start in (0, 1)]
            both(*halves, are_apart=weights[0].device.type == "cpu" and has_second_core(torch.get_num_threads()))
        return super().step(closure)

    @torch.no_grad()
    def _move(self, weights: list[torch.Tensor], group: dict[str, Any]) -> None:
        for weight in weights:
            update = self._update(weight)
            weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
            weight.grad = None  # AdamW skips what has no gradient

    def _update(self, weight: torch.Tensor) -> torch.Tensor:
        gradient, state = cast(torch.Tensor, weight.grad), self.state[weight]
        state["momentum"].lerp_(gradient, 1 - MUON_MOMENTUM)
        update = torch.lerp(gradient, state["momentum"], MUON_MOMENTUM).flatten(1)  # Nesterov's momentum
        scale = 0.2 * math.sqrt(max(update.shape))
        is_tall = len(update) > update.shape[1]
        rows = update.T if is_tall else update
        rows = rows / (rows.norm() + 1e-7)
        for _ in range(MUON_ITERATIONS):
            first, third, fifth = NEWTON_SCHULZ
            gram = rows @ rows.T
            rows = torch.addmm(rows, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), rows, beta=first)
        return scale * (rows.T if is_tall else rows).reshape(weight.shape)


def optimizer_step(optimizer: Any, module: Any, *, lr: float, config: TrainConfig) -> None:
    """Clip the gradients and take one optimizer step. Keep the logit scale within CLIP's bounds.

    A gradient that is infinite or NaN raises a FloatingPointError, and changes no weight.
    """
    trained = [parameter for parameter in module.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in trained])
    if not torch.isfinite(norm):
        raise FloatingPointError(f"the gradient's norm is {float(norm)}")
    if config.agc:
        # Exclude the logit scale: next to its small value any gradient is large.
        adaptive_clip_grad([p for p in trained if p is not module.logit_scale], clip_factor=config.agc, eps=1e-3)
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in trained])
    if config.max_grad_norm:
        torch.nn.utils.clip_grads_with_norm_(trained, config.max_grad_norm, norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        module.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
