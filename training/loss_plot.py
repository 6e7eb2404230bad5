"""The losses of a run as a picture: both splits by step, where the towers were unfrozen, which epoch was kept."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_catalog.charts import COLOURS
from data_catalog.storage.shards import write_bytes


def write_loss_plot(history: Sequence[Mapping[str, Any]], best_epoch: int, path: Path) -> None:
    """Draw a PNG from the lines of `metrics.jsonl`, at least one."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}):
        figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot(xlabel="step", ylabel="contrastive loss")
        _draw(axes, history, best_epoch)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _draw(axes: Any, history: Sequence[Mapping[str, Any]], best_epoch: int) -> None:
    steps = [line["step"] for line in history]
    axes.plot(steps, [line["train_loss"] for line in history], ".-", color=COLOURS["first"], label="train")
    validated = [line for line in history if line["val_loss"] is not None]
    if validated:
        points = [line["step"] for line in validated], [line["val_loss"] for line in validated]
        axes.plot(*points, ".-", color=COLOURS["second"], label="validation")
        best = history[best_epoch - 1]
        label = f"kept: epoch {best_epoch}, {best['val_loss']:.3f}"
        axes.plot([best["step"]], [best["val_loss"]], "o", markersize=9, fillstyle="none", color="black", label=label)
    frozen = [line["step"] for line in history if line["frozen"]]
    if frozen and frozen[-1] != steps[-1]:
        axes.axvline(frozen[-1], linestyle="--", color=COLOURS["soft"], label="towers unfrozen")
    axes.grid(color=COLOURS["line"], linewidth=0.6)
    axes.legend(frameon=False)
