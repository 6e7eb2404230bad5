"""Align the frozen towers of a recipe: compute their features once, train the heads, and write a model folder.

The folder is an ordinary one: the heads become the projections of the model's towers, so nothing needs the training
features afterwards. Features are cached by content, batch by batch, and heads take a minute or two, so a run that was
interrupted starts its heads again and ends with the same bytes.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from data_catalog.base.errors import DamagedError, InputError, PipelineError, SettingsError
from data_catalog.base.progress import Progress
from data_catalog.base.settings import what_values
from data_catalog.disk.files import digest, sha256_of, write_bytes, write_json
from training.align.heads import FeaturePairs, Heads, closed_form, epochs_of
from training.config import AlignConfig, TrainConfig
from training.data.features import Encoder, FeatureStore, ImageEncoder, TextEncoder
from training.data.images import Features, encoded_reader
from training.data.pairs import PairFiles, read_captions, refuse_leaks, require_several_validation_images, row_groups
from training.fit.effort import EffortLog
from training.fit.loop import TrainResult, read_result
from training.fit.run import METRICS_FILE, TEXT_FILES, claim_folder, start_model
from training.fit.trackers import Trackers
from training.processes import chosen_device, deterministic_torch, encode_where_fastest, process_count
from training.scores.encoders import tensors_sha256
from training.towers.architecture import has_image_weights, keyed_config, model_config_of
from training.towers.backbones import FrozenPart, backbone_features, frozen_parts
from training.towers.model import WEIGHTS_FILE
from training.towers.model_files import save_weights
from training.towers.preprocessing import Preprocessing, preprocessing_of
from training.towers.pretrained import borrowed_weights, further_towers, identity_of_weights, lineage, shards_of_starts
from training.towers.trained_models import EFFORT_FILE, RESULT_FILE

logger = logging.getLogger(__name__)

ALIGN_VERSION = 1  # raise it when the same settings and data would give different weights
BATCH_SIZE = 64  # images or captions that a frozen tower encodes at a time
# Settings of `[train]` that name the towers. The others are for training all weights.
TOWER_SETTINGS = (
    *("model", "image_tower", "image_size", "image_mean", "image_std", "image_resize"),
    *("text_pooler", "embed_dim", "context_length"),
)


def only_towers(config: TrainConfig) -> TrainConfig:
    """Return the settings of the towers, with all others at their defaults, as they are for training all weights."""
    names = (*TOWER_SETTINGS, "image_weights", "image_license", "text_encoder", "text_license", "num_threads")
    return TrainConfig(**{name: getattr(config, name) for name in names})


def aligned_model_and_key(
    towers: TrainConfig, config: AlignConfig, shards: dict[str, list[str]]
) -> tuple[dict[str, Any], str]:
    """Return the model config of the frozen towers with their heads, and the key of the run.

    Args:
        towers: settings of `[train]`, of which only those of the towers count.
        config: settings of the alignment.
        shards: sha256 of the pair shards by split.

    Raises:
        SettingsError: there is no such model config or backbone, or a tower would have random weights.
        InputError: the initial weights are missing.
    """
    towers = only_towers(towers)
    found = model_config_of(towers)
    vision, text = found["vision_cfg"], found["text_cfg"]
    further = further_towers(found, towers) if "start_folder" not in found else []
    for each, own in [(found, towers), *((each, own) for side, _, each, own in further if side == "image")]:
        if not has_image_weights(each, own):
            raise SettingsError(
                f"align needs pretrained image towers, but one of {towers.model} starts from random weights: set "
                "train.image_tower or train.image_weights, or image_weights of a joined tower"
            )
    if "hf_model_name" not in text:
        raise SettingsError(
            f"align needs a Hugging Face text tower, which that of {towers.model} is not: set train.text_encoder, or "
            "another train.model"
        )
    if config.start == "model" and "start_folder" not in found:
        raise SettingsError(
            f"align.start is model, but train.model is {towers.model}, which is no model folder: name one, or set "
            "align.start to closed_form"
        )
    is_timm = "timm_model_name" in vision
    if config.hidden and not is_timm:
        raise SettingsError("align.hidden needs a timm backbone as image tower: set train.image_tower")
    kind = "mlp" if config.hidden else "linear"
    if "start_folder" in found and {text.get("hf_proj_type"), vision.get("timm_proj", kind)} != {kind}:
        raise SettingsError(
            f"align.hidden is {str(config.hidden).lower()}, but the heads of {towers.model} are of the other kind: "
            f"set it to {str(not config.hidden).lower()}"
        )
    text["hf_proj_type"] = kind
    if is_timm:
        vision["timm_proj"] = kind
    made_of = {
        "align": what_values(config),
        "model": keyed_config(found),
        "weights": identity_of_weights(found, towers),
    }
    return found, digest({"version": ALIGN_VERSION, **made_of, "shards": shards})


def align(
    files: PairFiles,
    towers: TrainConfig,
    config: AlignConfig,
    out: Path,
    *,
    cache: Path,
    sha256: Callable[[Path], str] = sha256_of,
) -> TrainResult:
    """Align frozen towers into a model folder, or return the result of a finished run.

    The folder gets the same files as a trained model. `metrics.jsonl` has one line per epoch; epoch 0 is the
    closed-form start.

    Args:
        files: pair shards by split.
        towers: settings of `[train]` that name the towers.
        config: settings of the alignment.
        out: the model folder.
        cache: folder with features of frozen towers, shared by all runs.
        sha256: returns the sha256 of a file; pass a lookup if hashes are already known.

    Raises:
        SettingsError: a tower has random weights, or the validation split has a single image.
        InputError: weights do not match, splits overlap, or there are too few images.
        DamagedError: a shard cannot be read.
    """
    if process_count() > 1:
        raise SettingsError("align runs in one process: start it without torchrun")
    towers = only_towers(towers)
    hashes = files.hashes(sha256)
    model_config, key = aligned_model_and_key(towers, config, hashes)
    named = {name: value for name, value in towers.what().items() if name in TOWER_SETTINGS}
    settings = {**named, "align": what_values(config), **lineage(model_config)}
    learned = [*hashes["train"], *(hashes["val"] if config.refit else ())]
    learned += shards_of_starts(model_config, towers)
    is_new = not out.exists()
    claim_folder(out, key, settings, borrowed_weights(model_config, towers), learned)
    if (out / RESULT_FILE).is_file() and (out / WEIGHTS_FILE).is_file():
        logger.info("%s is already aligned", out)
        return read_result(out / RESULT_FILE)
    try:
        return _align(files, towers, config, model_config, key, out=out, cache=cache)
    except PipelineError:
        if is_new:  # a folder without weights is no model
            shutil.rmtree(out)
        raise


def _align(
    files: PairFiles,
    towers: TrainConfig,
    config: AlignConfig,
    model_config: dict[str, Any],
    key: str,
    *,
    out: Path,
    cache: Path,
) -> TrainResult:
    """Align frozen towers into a claimed folder."""
    refuse_leaks(files)
    require_several_validation_images(files)
    device = torch.device("cpu")
    with deterministic_torch(seed=config.seed, num_threads=towers.num_threads, device=device):
        effort = EffortLog(out / EFFORT_FILE, chosen_device("auto"), step=0)  # a GPU encodes, if there is one
        trackers = Trackers.open(config.log, out, since=0)  # an interrupted run starts its heads again
        with closing(effort), trackers:
            frozen = FrozenTowers.open(model_config, towers, out, cache=cache)
            train = frozen.pairs(files, "train", mirror=config.mirror)
            val = frozen.pairs(files, "val")
            if train is None or len(train) < 2:
                raise InputError("the train split has fewer than two images: build a larger dataset")
            heads, history, best_epoch = fit_heads(frozen, train, val, config)
            frozen.put(heads)
            steps = best_epoch * (len(train) // min(config.batch_size, len(train)))
            effort.note(steps)
            model_sha256 = save_weights(frozen.module, out / WEIGHTS_FILE)
            write_bytes(out / METRICS_FILE, "".join(json.dumps(line) + "\n" for line in history).encode())
            for line in history:
                trackers.add(line["epoch"], line)
    best = history[best_epoch]
    refitted = len(val) if config.refit and val is not None else 0
    result = TrainResult(
        key=key,
        model_sha256=model_sha256,
        num_samples=len(train) + refitted,
        epochs=best_epoch,
        frozen_epochs=best_epoch,
        steps=steps,
        best_epoch=best_epoch,
        best_val_loss=None,
        best_val_mrr=best["val_mrr@10"],
    )
    write_json(out / RESULT_FILE, asdict(result))  # this file marks the run as finished
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenTowers:
    """The pretrained towers of a run, and the caches of their features.

    Args:
        module: the open_clip model, in evaluation mode.
        image: the image tower and its projection.
        text: the text tower and its projection.
        images: cache of the features of images, by the image tower alone: another text tower finds them again.
        mirrored: the same of mirrored images.
        texts: cache of the features of captions.
    """

    module: Any
    image: FrozenPart
    text: FrozenPart
    images: FeatureStore
    mirrored: FeatureStore
    texts: FeatureStore

    @classmethod
    def open(cls, model_config: dict[str, Any], towers: TrainConfig, out: Path, *, cache: Path) -> "FrozenTowers":
        """Load the towers, and write the files of the model folder except weights.

        Raises:
            SettingsError: a tower has no linear projection.
            InputError: weights do not match, or do not compute what was recorded.
        """
        tokenizer, module = start_model(model_config, towers, out, ())
        module.eval()
        image, text = frozen_parts(module, frozen=True, lock_image=False)
        if image is None or text is None or not _is_head(image) or not _is_head(text):
            raise SettingsError(
                f"align cannot train the projection of a tower of {towers.model}: use a vision transformer or a timm "
                "backbone, and a Hugging Face text encoder"
            )
        preprocessing = preprocessing_of(model_config)
        with torch.no_grad():
            blank = backbone_features(image, torch.zeros(1, 3, preprocessing.size, preprocessing.size))
        if blank.ndim != 2:
            raise SettingsError(
                f"align cannot use the image tower of {towers.model}, which has no vector before its projection: use a "
                "vision transformer or a timm backbone with its own pooling"
            )
        text_files = tuple(
            {"name": name, "sha256": sha256_of(out / name)} for name in TEXT_FILES if (out / name).is_file()
        )
        image_names = [str(model_config["vision_cfg"].get("timm_model_name", towers.model))]
        text_names = [Path(model_config["text_cfg"]["hf_model_name"]).name]
        for side, _, each, _ in further_towers(model_config, towers):
            if side == "image":
                image_names.append(each["vision_cfg"]["timm_model_name"])
            else:
                text_names.append(Path(each["text_cfg"]["hf_model_name"]).name)
        image_name = " and ".join(image_names)

        encoder = Encoder(
            name=image_name,
            origin="frozen towers",
            image=ImageEncoder(
                prepare=partial(_prepared, preprocessing=preprocessing, mirrored=False),
                encode=partial(encode_where_fastest, image.tower, partial(backbone_features, image)),
                identity=_frozen_sha256(image),
            ),
            text=TextEncoder(
                encode=lambda texts: encode_where_fastest(
                    text.tower, partial(backbone_features, text), tokenizer(texts)
                ),
                identity=[_frozen_sha256(text), *text_files],
            ),
        )
        turned = replace(encoder.image, prepare=partial(_prepared, preprocessing=preprocessing, mirrored=True))
        mirrored = replace(encoder, name=f"{image_name} (mirrored)", image=turned)
        captions = replace(encoder, name=" and ".join(text_names))
        return cls(
            module=module,
            image=image,
            text=text,
            images=FeatureStore(encoder, cache, unit=False),
            mirrored=FeatureStore(mirrored, cache, unit=False),
            texts=FeatureStore(captions, cache, unit=False),
        )

    def pairs(self, files: PairFiles, split: str, *, mirror: bool = False) -> FeaturePairs | None:
        """Return the features of a split, with those of mirrored images if `mirror` is set. None without images.

        Raises:
            DamagedError: an image does not decode, or a caption is empty.
        """
        paths = files.of(split)
        groups = row_groups(paths)
        if not any(group.num_rows for group in groups):
            return None
        captions = read_captions(paths).to_pylist()
        texts = [str(text) for group in captions for text in group]
        if not all(text.strip() for text in texts):
            raise DamagedError(f"a caption of the {split} split is empty, and has no feature: build the dataset again")
        read, names = encoded_reader(groups), [str(number) for number in range(len(captions))]
        views = []
        for store in (self.images, self.mirrored) if mirror else (self.images,):
            rows, there = store.images(names, lambda name: read(int(name)), batch_size=BATCH_SIZE)
            if len(there) != len(names):
                raise DamagedError(
                    f"{len(names) - len(there)} images of the {split} split do not decode: run `vernaclip verify`"
                )
            views.append(rows)
        return FeaturePairs(
            views=tuple(views),
            texts=self.texts.texts(texts, batch_size=BATCH_SIZE),
            owners=np.repeat(np.arange(len(captions)), [len(group) for group in captions]),
        )

    def start(self, train: FeaturePairs, config: AlignConfig, scales: tuple[float, float]) -> Heads:
        """Return heads to train: in closed form, random with a hidden layer, or the model's own.

        Args:
            train: scaled features.
            config: settings of the alignment.
            scales: factors by which the features of images and texts were scaled.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            image, text = (_as_module(part).cpu() for part in (self.image, self.text))  # a GPU may have the towers
            if config.start == "model":
                _multiply(image, 1 / scales[0])
                _multiply(text, 1 / scales[1])
                return Heads(image=image, text=text, logit_scale=deepcopy(self.module.logit_scale))
            for part in (*image.modules(), *text.modules()):
                if isinstance(part, nn.Linear):
                    part.reset_parameters()
        return closed_form(train, config, image=image, text=text)

    def put(self, heads: Heads) -> None:
        """Make heads the projections of the model."""
        for part, head in ((self.image, heads.image), (self.text, heads.text)):
            projection = getattr(part.tower, part.projection)
            with torch.no_grad():
                if isinstance(projection, nn.Module):
                    projection.load_state_dict(head.state_dict())
                else:
                    projection.copy_(head.weight.T)
        with torch.no_grad():
            self.module.logit_scale.copy_(heads.logit_scale)


@contextmanager
def opened_towers(towers: TrainConfig, config: AlignConfig, *, cache: Path) -> Iterator[FrozenTowers]:
    """Yield frozen towers whose heads no model folder gets, with torch deterministic.

    Raises:
        SettingsError, InputError: see `aligned_model_and_key` and `FrozenTowers.open`.
    """
    towers = only_towers(towers)
    model_config, _ = aligned_model_and_key(towers, config, {})
    with (
        deterministic_torch(seed=config.seed, num_threads=towers.num_threads, device=torch.device("cpu")),
        TemporaryDirectory(prefix="vernaclip-") as folder,
    ):
        yield FrozenTowers.open(model_config, towers, Path(folder), cache=cache)


def _frozen_sha256(part: FrozenPart) -> str:
    """Return the hash of a tower's weights without its projection."""
    weights = part.tower.state_dict().items()
    return tensors_sha256({name: tensor for name, tensor in weights if name.partition(".")[0] != part.projection})


def _is_head(part: FrozenPart) -> bool:
    projection = getattr(part.tower, part.projection)
    if isinstance(projection, nn.Module):
        return any(isinstance(inner, nn.Linear) for inner in projection.modules())
    return bool(projection.ndim == 2)


def _as_module(part: FrozenPart) -> nn.Module:
    projection = getattr(part.tower, part.projection)
    if isinstance(projection, nn.Module):
        return deepcopy(projection)
    width, dim = projection.shape
    found = nn.Linear(width, dim, bias=False)
    with torch.no_grad():
        found.weight.copy_(projection.T)
    return found


def _multiply(head: nn.Module, factor: float) -> None:
    """Make a head take features that are 1 / `factor` times as large."""
    first = next(part for part in head.modules() if isinstance(part, nn.Linear))
    with torch.no_grad():
        first.weight.mul_(factor)


def _prepared(picture: Image.Image, preprocessing: Preprocessing, *, mirrored: bool) -> torch.Tensor:
    pixels = preprocessing.resized(ImageOps.mirror(picture) if mirrored else picture)
    return preprocessing.normalised(torch.from_numpy(pixels.copy())[None])[0]


def fit_heads(
    frozen: FrozenTowers, train: FeaturePairs, val: FeaturePairs | None, config: AlignConfig
) -> tuple[Heads, Sequence[dict[str, Any]], int]:
    """Train heads, and return those of the epoch with the best validation MRR@10.

    Returns:
        The heads, a record of each epoch from 0, and the number of the kept epoch. Without a validation split, the last
        epoch is kept.

    Raises:
        InputError: the features of a tower are all zero, or not finite.
    """
    scales = _scale(train.views[0], "image"), _scale(train.texts, "text")
    train, val = _scaled(train, scales), None if val is None else _scaled(val, scales)
    heads, history, best_epoch = _trained(frozen.start(train, config, scales), train, val, config, config.epochs)
    if config.refit and val is not None:
        whole = _with_val(train, val)
        heads, *_ = _trained(frozen.start(whole, config, scales), whole, None, config, best_epoch)
    _multiply(heads.image, scales[0])  # the heads then take the towers' own features
    _multiply(heads.text, scales[1])
    return heads, history, best_epoch


def _with_val(train: FeaturePairs, val: FeaturePairs) -> FeaturePairs:
    """Return both splits together. Validation images have no mirrored features, so their view is used twice."""
    views = (val.views[0],) * len(train.views)
    return train.joined(FeaturePairs(views=views, texts=val.texts, owners=val.owners))


def _scale(features: Features, tower: str) -> float:
    """Return the factor that makes the mean square of the features' lengths 1."""
    length = float(np.sqrt((features.astype(np.float64) ** 2).sum(axis=1).mean()))
    if not 0 < length < np.inf:
        raise InputError(f"the features of the {tower} tower are all zero or not finite: use other weights")
    return 1 / length


def _scaled(pairs: FeaturePairs, scales: tuple[float, float]) -> FeaturePairs:
    views: tuple[Features, ...] = tuple(np.float32(scales[0]) * view for view in pairs.views)
    return FeaturePairs(views=views, texts=np.float32(scales[1]) * pairs.texts, owners=pairs.owners)


def _trained(
    heads: Heads, train: FeaturePairs, val: FeaturePairs | None, config: AlignConfig, num_epochs: int
) -> tuple[Heads, list[dict[str, Any]], int]:
    history: list[dict[str, Any]] = []
    best, best_epoch = heads, 0

    def note(epoch: int, loss: float | None) -> None:
        nonlocal best, best_epoch
        mrr = heads.mrr(val) if val is not None else None
        if mrr is None or epoch == 0 or mrr > max(line["val_mrr@10"] for line in history):
            best, best_epoch = deepcopy(heads), epoch
        history.append({"epoch": epoch, "train_loss": loss, "val_mrr@10": mrr, "val_gallery": len(val) if val else 0})

    note(0, None)
    with Progress("align", total=num_epochs, unit="epochs") as progress:
        for epoch, loss in enumerate(epochs_of(heads, train, config, num_epochs=num_epochs), start=1):
            note(epoch, loss)
            progress.advance(1, loss=f"{loss:.3f}")
    found = "" if history[best_epoch]["val_mrr@10"] is None else f", MRR@10 {history[best_epoch]['val_mrr@10']:.4f}"
    logger.info("heads: %d epochs, kept epoch %d%s", num_epochs, best_epoch, found)
    return best, history, best_epoch
