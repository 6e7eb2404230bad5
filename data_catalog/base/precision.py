"""Choose the precision of a training by what the device computes natively."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeVar

from data_catalog.base.errors import SettingsError

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=Any)

Precision = Literal["auto", "fp32", "bf16"]


def native_precision(device: str = "cpu") -> str:
    """Return "bf16" if a device ("cpu" or "cuda") computes bfloat16 natively, otherwise "fp32".

    Processors without such instructions emulate them: a step then takes about ten times as long as in fp32.
    """
    import torch

    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # Not `_is_mkldnn_bf16_supported`, which is also true of processors that emulate bfloat16.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"


def refuse_slow_precision(precision: str, device: str, *, setting: str) -> None:
    """Refuse bf16 on a device that emulates it: three hours of work would replace twenty minutes."""
    if precision == "bf16" and native_precision(device) != "bf16":
        raise SettingsError(
            f"{setting} is bf16, which this {'GPU' if device == 'cuda' else 'processor'} has no instructions for and "
            f"computes many times slower than fp32: use --set {setting}=auto"
        )


def with_precision(config: C, device: str, *, has_begun: Callable[[C], bool]) -> C:
    """Return settings with the precision "auto" replaced by that in which the run began, or by the device's own.

    Args:
        config: settings with a field `precision`.
        device: "cpu" or "cuda".
        has_begun: returns whether a run with given settings has begun, so that it stays the same run on this device.
    """
    if config.precision != "auto":
        return config
    native = native_precision(device)
    known = [replace(config, precision=each) for each in sorted(("fp32", "bf16"), key=lambda each: each != native)]
    found = next(filter(has_begun, known), known[0])
    if found.precision != native:
        logger.warning(
            "this training began in %s, so it stays in %s, although this machine would choose %s",
            *(found.precision, found.precision, native),
        )
    return found
