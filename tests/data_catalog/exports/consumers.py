"""Reads exports by the libraries that they are for, with no network, and prints as JSON what it found.

python consumers.py HUGGINGFACE WEBDATASET SNAPSHOT CACHE
"""

import json
import os
import re
import shlex
import socket
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

huggingface, tars, snapshot, cache = map(Path, sys.argv[1:])
os.environ |= {
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HOME": str(cache / "hf"),
    "HF_DATASETS_CACHE": str(cache / "hf" / "datasets"),
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "WANDB_MODE": "disabled",
}


def refuse(*_: Any, **__: Any) -> Any:
    """Stand in for whatever would go to the network."""
    raise AssertionError("the network was asked")


socket.socket.connect = refuse  # type: ignore[method-assign]
socket.getaddrinfo = refuse


def described(row: dict[str, Any]) -> dict[str, Any]:
    image = row.pop("image", row.pop("jpg", None))
    return row if image is None else {**row, "image": [type(image).__name__, *image.size]}


def read_datasets(*args: Any, **options: Any) -> dict[str, Any]:
    from datasets import load_dataset

    found = load_dataset(*args, cache_dir=str(cache / "datasets"), **options)
    return {split: list(map(described, rows)) for split, rows in found.items()}


def read_webdataset(folder: Path) -> list[dict[str, Any]]:
    import webdataset

    shards = sorted(str(path) for path in folder.glob("train-*.tar"))
    found = webdataset.WebDataset(shards, shardshuffle=False).decode("pil")
    return [
        {"key": sample["__key__"], "size": sample["jpg"].size, "json": sample["json"], "txt": sample["txt"]}
        for sample in found
    ]


def read_open_clip(folder: Path) -> dict[str, Any]:
    """What open_clip's own trainer gets: how many samples it counts, and the shapes of its batches."""
    import open_clip
    from open_clip_train.data import get_dataset_size, get_wds_dataset

    last = max(int(path.stem.removeprefix("train-")) for path in folder.glob("train-*.tar"))
    names = ("train_num_samples", "val_num_samples", "train_data_upsampling_factors")
    args = Namespace(**dict.fromkeys(names), dataset_resampled=False, batch_size=2, world_size=1, workers=0, seed=0)
    args.train_data = f"{folder}/train-{{000000..{last:06d}}}.tar"
    args.val_data = f"{folder}/val-000000.tar"
    preprocess, tokenizer = open_clip.image_transform(32, is_train=False), open_clip.SimpleTokenizer()
    train, val = (
        get_wds_dataset(args, preprocess, is_train=is_train, tokenizer=tokenizer).dataloader
        for is_train in (True, False)
    )
    return {
        "size": get_dataset_size(args.train_data),
        "train": [[list(images.shape), list(texts.shape)] for images, texts in train],
        "val": [[list(images.shape), list(texts.shape)] for images, texts in val],
        "num_samples": train.num_samples,
    }


class NoLogger:
    """Stands in for the process in which img2dataset counts."""

    done_shards: ClassVar[set[int]] = set()
    start = join = __init__ = lambda *_: None


def read_img2dataset(folder: Path) -> dict[str, Any]:
    """What img2dataset makes of the list of training images by the card's own command, in this process and offline."""
    main = import_module("img2dataset.main")  # the package has a function of that name
    import pyarrow.parquet as pq

    found = re.search(r"```\nimg2dataset (.*?)\n```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    command = found[1].replace("\\\n", "").replace("FOLDER", str(folder)).replace("OUT", str(cache / "fetched"))
    words = iter(shlex.split(command))
    options: dict[str, Any] = {word.removeprefix("--"): next(words) for word in words}
    options["save_additional_columns"] = json.loads(options["save_additional_columns"])
    finished = []
    main.LoggerProcess = NoLogger
    main.multiprocessing_distributor = lambda _, downloader, shards, *__: finished.extend(
        downloader(shard)[0] for shard in shards
    )
    main.download(**options, verify_hash=["sha256", "sha256"], number_sample_per_shard=3)
    rows = [row for path in sorted((cache / "fetched").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {"finished": finished, "rows": rows}


answers = {
    "img2dataset": read_img2dataset(huggingface),
    "datasets": read_datasets(str(huggingface)),
    "datasets_links": read_datasets(str(huggingface), "links"),
    "datasets_snapshot": read_datasets(str(snapshot)),
    "datasets_tars": read_datasets(str(tars)),
    "datasets_tars_links": read_datasets("parquet", data_dir=str(tars / "links")),
    "configs_of_tars": list(import_module("datasets").get_dataset_config_names(str(tars))),
    "webdataset": read_webdataset(tars),
    "open_clip": read_open_clip(tars),
}
(cache / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
