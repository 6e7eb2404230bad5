"""Everything that a GPU does, beside the same on the processor: python benchmarks/gpu.py [--quick].

Builds the sample, then trains, distils, aligns, encodes, scores and translates by the functions that a user calls, each
in a process that sees the GPU and in one that does not. Training runs a few steps in fp32 from the same seed, which is
enough to compare loss and speed; seconds are those of each run's effort.json or of the call. The table has both, and
the claims compare them. `--write FILE` puts the table into a page of docs/, with the name of the card. It has
not been run on a GPU yet.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import HERE, exit_without, in_new_process, judge, options_of, print_table, work_folder
from training_speed import VIT

PACKAGE = HERE.parent / "flows" / "packages" / "scenes-en_it.argosmodel"
# Images drawn, steps of training, epochs of distilling, sentences, and images that are encoded.
SIZES = {"quick": (600, 20, 1, 1200, 200), "full": (6000, 150, 2, 8000, 4000)}
GPU, CPU = "GPU", "processor"
GOALS = {
    "trainings_on_the_gpu": (">=", 2.0),  # `align` trains its heads on the processor
    "largest_difference_of_features": ("<=", 1e-4),
    "difference_of_training_loss": ("<=", 0.02),
    "difference_of_R@1": ("<=", 0.01),
    "equal_translations": (">=", 0.98),
    "training_speed_over_processor": (">=", 5.0),
    "encoding_speed_over_processor": (">=", 5.0),
    "minutes": ("<=", 10.0),
}
SPEEDS = ("training_speed_over_processor", "encoding_speed_over_processor")


def with_gpu_or_not(work: Callable[..., Any], device: str, *arguments: Any) -> Any:
    """Call a function in a new process, in which torch and CTranslate2 find no GPU if `device` is the processor."""
    return in_new_process(partial(_hiding, device), work, *arguments)


def _hiding(device: str, work: Callable[..., Any], *arguments: Any) -> Any:
    if device == CPU:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return work(*arguments)


def card() -> str:
    """Return the name of the GPU, or an empty text."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""


def sample(num_images: int) -> dict[str, Any]:
    """Return settings of the plain sample: hard batches would depend on the device's features."""
    plain = {"model": "compact", "optimizer": "adamw", "lr": 1e-3, "batch_size": 128, "num_threads": 0}
    plain |= {"hard_batches": 0}
    settings = {"scenes.num_images": num_images, "scenes.figures": 0}
    return settings | {f"train.{name}": value for name, value in plain.items()}


def build(root: Path, num_images: int) -> None:
    """Build the sample."""
    import vernaclip

    vernaclip.build("scenes", root, settings=sample(num_images))


def learn(root: Path, num_images: int, steps: int, epochs: int, pairs: Path, model: Path) -> dict[str, Any]:
    """Train, distil and align; return devices, seconds, losses and folders."""
    import vernaclip
    from training.runs.attempts import read_attempts
    from training.towers.trained_models import EFFORT_FILE

    settings = {**sample(num_images), "train.precision": "fp32"}
    trained = vernaclip.train("scenes", root, settings={**settings, "train.model": str(model), "train.steps": steps})
    lesson = {"teacher": str(trained.folder), "pairs": [str(pairs)], "precision": "fp32"}
    lesson |= {"epochs": epochs, "num_held_out": 100}
    distilled = vernaclip.distil("scenes", root, settings={**settings, "distil": lesson})
    start = {"train.model": str(distilled.folder), "align.start": "model"}
    aligned = vernaclip.align("scenes", root, settings={**settings, **start})
    reports = {"train": trained, "distil": distilled, "align": aligned}
    return {
        name: {
            "folder": report.folder,
            "loss": getattr(report.result, "best_val_loss", None),
            "device": read_attempts(report.folder / EFFORT_FILE)[-1].device,
            "seconds": sum(attempt.seconds for attempt in read_attempts(report.folder / EFFORT_FILE)),
        }
        for name, report in reports.items()
    }


def encode(root: Path, folder: Path, num_images: int) -> dict[str, Any]:
    """Encode images and texts by a model; return features, and images per second."""
    import vernaclip

    model = vernaclip.open_model(folder)
    dataset = vernaclip.open_dataset(root, "scenes", "train")
    images, captions = zip(*(dataset[number] for number in range(min(num_images, len(dataset)))), strict=True)
    model.encode_images(images[:128])  # libraries and kernels are loaded
    started = time.perf_counter()
    features = model.encode_images(images)
    seconds = time.perf_counter() - started
    texts = model.encode_texts([some[0] for some in captions])
    return {"features": np.concatenate([features, texts]), "speed": len(images) / seconds}


def score(root: Path, num_images: int) -> float:
    """Return the R@1 of the newest model, which is the aligned one."""
    import vernaclip

    report = vernaclip.score("scenes", root, settings={**sample(num_images), "evaluate.split": "val"})
    return float(report.scores.get("text_to_image_R@1").value)


def translate(sentences: list[str]) -> tuple[list[str], float]:
    """Return translations and sentences per second."""
    import vernaclip

    settings = {"package": str(PACKAGE), "device": "auto"}
    vernaclip.translate(sentences[:10], "en", "it", settings=settings)
    started = time.perf_counter()
    found = vernaclip.translate(sentences, "en", "it", settings=settings)
    return [each.text or "" for each in found], len(sentences) / (time.perf_counter() - started)


def main() -> int:
    """Do everything on both devices, compare, print; return 1 if a claim is short."""
    parser = options_of(__doc__)
    parser.add_argument("--work", type=Path, help="folder that is kept (default: temporary)")
    parser.add_argument("--write", type=Path, help="page of the results, in Markdown")
    options = parser.parse_args()
    name = in_new_process(card)
    if not name:
        exit_without("torch finds no GPU")
    started = time.monotonic()
    num_images, steps, epochs, num_sentences, num_encoded = SIZES["quick" if options.quick else "full"]
    with work_folder(options.work) as work:
        from data_catalog.sample.grammar import write_pairs

        model = work / "vit.json"
        model.write_text(json.dumps(VIT), "utf-8")
        pairs, roots = work / "pairs.tsv", {device: work / device for device in (GPU, CPU)}
        write_pairs(pairs, seed=2, num_pairs=num_sentences)
        sentences = [line.split("\t")[0] for line in pairs.read_text("utf-8").splitlines()]
        in_new_process(build, roots[GPU], num_images)
        shutil.copytree(roots[GPU], roots[CPU], dirs_exist_ok=True)
        learnt, encoded, recall, translated = dict[str, Any](), dict[str, Any](), dict[str, float](), dict[str, Any]()
        for device, root in roots.items():
            learnt[device] = with_gpu_or_not(learn, device, root, num_images, steps, epochs, pairs, model)
            # The same model on both devices.
            folder = learnt[GPU]["train"]["folder"]
            encoded[device] = with_gpu_or_not(encode, device, roots[GPU], folder, num_encoded)
            recall[device] = with_gpu_or_not(score, device, roots[GPU], num_images)
            translated[device] = with_gpu_or_not(translate, device, sentences)
    rows: list[dict[str, Any]] = [
        {"work": f"{step}, seconds", **{device: round(learnt[device][step]["seconds"], 1) for device in roots}}
        for step in learnt[GPU]
    ]
    rows.append({"work": "encode, images/s", **{device: round(encoded[device]["speed"]) for device in roots}})
    rows.append({"work": "translate, sentences/s", **{device: round(translated[device][1]) for device in roots}})
    print_table(rows, f"{name}, and the machine's processor")
    losses = [learnt[device]["train"]["loss"] for device in roots]
    found = {
        "trainings_on_the_gpu": sum(one["device"] == "cuda" for one in learnt[GPU].values()),
        "largest_difference_of_features": float(np.abs(encoded[GPU]["features"] - encoded[CPU]["features"]).max()),
        "difference_of_training_loss": abs(losses[0] - losses[1]),
        "difference_of_R@1": abs(recall[GPU] - recall[CPU]),
        "equal_translations": float(np.mean([a == b for a, b in zip(*(translated[d][0] for d in roots), strict=True)])),
        "training_speed_over_processor": learnt[CPU]["train"]["seconds"] / learnt[GPU]["train"]["seconds"],
        "encoding_speed_over_processor": encoded[GPU]["speed"] / encoded[CPU]["speed"],
        "minutes": (time.monotonic() - started) / 60,
    }
    if options.write:
        options.write.write_text(page_of(name, rows, found), "utf-8")
    skipped = SPEEDS if options.quick else ()  # libraries start longer than so few steps take
    return judge({claim: value for claim, value in found.items() if claim not in skipped}, GOALS)


def page_of(name: str, rows: Sequence[Mapping[str, Any]], found: Mapping[str, float]) -> str:
    """Return the page of the results."""
    lines = ["|work|GPU|processor|", "|---|---|---|"]
    lines += [f"|{row['work']}|{row[GPU]}|{row[CPU]}|" for row in rows]
    claims = ["|claim|measured|goal|", "|---|---|---|"]
    claims += [f"|{claim}|{value:.4g}|{' '.join(map(str, GOALS[claim]))}|" for claim, value in found.items()]
    parts = ["# What does a GPU do?", f"{name}, by `python benchmarks/gpu.py`.", "\n".join(lines)]
    return "\n\n".join([*parts, "\n".join(claims)]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
