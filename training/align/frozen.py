"""Open the frozen towers of a recipe, cache their features, and make heads the projections of the model."""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from data_catalog.base.errors import DamagedError, SettingsError
from data_catalog.base.settings import what_values
from data_catalog.disk.files import digest, sha256_of
from training.align.heads import FeaturePairs, Heads, linear_layers, set_closed_form
from training.config import AlignConfig, TowerConfig
from training.data.features import Encoder, FeatureStore, ImageEncoder, TextEncoder
from training.data.images import encoded_reader
from training.data.pairs import PairFiles, read_captions, row_groups
from training.runs.processes import encode_where_fastest
from training.scores.encoders import tensors_sha256
from training.towers.backbones import FrozenPart, backbone_features, frozen_parts
from training.towers.plan import TEXT_FILES, TowerPlan
from training.towers.preprocessing import Preprocessing

ALIGN_VERSION = 1  # raise it when the same settings and data would give different weights
BATCH_SIZE = 64  # images or captions that a frozen tower encodes at a time


def aligned_model_and_key(
    towers: TowerConfig, config: AlignConfig, shards: Mapping[str, list[str]]
) -> tuple[TowerPlan, str]:
    """Return what the model is made of, with its heads, and the run's key, given the sha256 of pair shards by split."""
    plan = TowerPlan.of(towers)
    vision, text = plan.config["vision_cfg"], plan.config["text_cfg"]
    if not (plan.has_image_weights and plan.has_encoder):
        raise SettingsError(
            f"align needs a pretrained image tower and a Hugging Face text tower, unlike those of {plan.name}: set "
            "train.image_tower or train.image_weights, and train.text_encoder"
        )
    if config.start == "model" and plan.start is None:
        raise SettingsError(f"align.start is model, but train.model is {plan.name}, which is no model folder")
    kind = "mlp" if config.hidden else "linear"
    kinds = {text.get("hf_proj_type"), vision.get("timm_proj", kind)} if plan.start else {kind}
    if kinds != {kind} or (config.hidden and "timm_model_name" not in vision):
        raise SettingsError(
            f"align.hidden is {str(config.hidden).lower()}, but {plan.name} has heads of the other kind, or an image "
            "tower that is no timm backbone (train.image_tower)"
        )
    plan = plan.projected(kind)
    made_of = {"align": what_values(config), **plan.key(), "shards": shards}
    return plan, digest({"version": ALIGN_VERSION, **made_of})


class FrozenTowers:
    """The pretrained towers of a run (`module`), and caches of their features, and of mirrored images (`mirrored`)."""

    def __init__(self, plan: TowerPlan, out: Path, *, cache: Path) -> None:
        """Load the towers, and write the files of the model folder except weights."""
        model = plan.build(out)
        self.module = model.module.eval()
        image, text = frozen_parts(self.module, frozen=True, lock_image=False)
        pixels = torch.zeros(1, 3, plan.preprocessing.size, plan.preprocessing.size)
        with torch.no_grad():
            is_vector = image is not None and backbone_features(image, pixels).ndim == 2
        if image is None or text is None or not is_vector:
            raise SettingsError(
                f"align cannot train the projections of {plan.name}: use a vision transformer or a timm backbone "
                "with its own pooling, and a Hugging Face text encoder"
            )
        self._parts = image, text
        files = [{"name": name, "sha256": sha256_of(out / name)} for name in TEXT_FILES]
        images = ImageEncoder(
            prepare=partial(_prepared, plan.preprocessing),
            encode=partial(encode_where_fastest, image.tower, partial(backbone_features, image)),
            identity=_weights_sha256(image),
        )
        texts = TextEncoder(
            encode=lambda texts: encode_where_fastest(
                text.tower, partial(backbone_features, text), model.tokenizer(texts)
            ),
            identity=[_weights_sha256(text), *files],
        )
        encoder = Encoder(name="the frozen towers", origin=plan.name, image=images, text=texts)
        mirrored = replace(images, prepare=partial(_prepared, plan.preprocessing, mirror=True))
        self.store = FeatureStore(encoder, cache, unit=False)
        self.mirrored = FeatureStore(replace(encoder, image=mirrored), cache, unit=False)

    def pairs(self, files: PairFiles, split: str, *, mirror: bool = False) -> FeaturePairs | None:
        """Return the features of a split, with those of mirrored images if `mirror` is set. None without images."""
        groups, captions = row_groups(files.of(split)), read_captions(files.of(split)).to_pylist()
        if not captions:
            return None
        read, names, views = encoded_reader(groups), [str(number) for number in range(len(captions))], []
        for store in (self.store, self.mirrored) if mirror else (self.store,):
            rows, there = store.images(names, lambda name: read(int(name)), batch_size=BATCH_SIZE)
            if missing := len(names) - len(there):
                raise DamagedError(f"{missing:,} images of the {split} split do not decode: run `vernaclip verify`")
            views.append(rows)
        texts = self.store.texts([str(text) for group in captions for text in group], batch_size=BATCH_SIZE)
        return FeaturePairs(tuple(views), texts, np.repeat(np.arange(len(captions)), list(map(len, captions))))

    def start(self, train: FeaturePairs, config: AlignConfig, scales: tuple[float, float]) -> Heads:
        """Return heads to train on features that were scaled: in closed form, random if hidden, or the model's own."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            image, text = (_as_module(part).cpu() for part in self._parts)  # a GPU may have the towers
            if config.start == "model":
                heads = Heads(image, text, deepcopy(self.module.logit_scale))
                heads.multiply(1 / scales[0], 1 / scales[1])
                return heads
            for layer in (*linear_layers(image), *linear_layers(text)):
                layer.reset_parameters()
        heads = Heads(image, text, nn.Parameter(torch.tensor(math.log(config.logit_scale))))
        set_closed_form(heads, train, ridge=config.ridge)
        return heads

    @torch.no_grad()
    def put(self, heads: Heads) -> None:
        """Make heads the projections of the model."""
        for part, head in zip(self._parts, (heads.image, heads.text), strict=True):
            projection = getattr(part.tower, part.projection)
            if isinstance(projection, nn.Module):
                projection.load_state_dict(head.state_dict())
            else:
                projection.copy_(linear_layers(head)[0].weight.T)
        self.module.logit_scale.copy_(heads.logit_scale)


def _weights_sha256(part: FrozenPart) -> str:
    """Return the hash of a tower without its projection."""
    weights = part.tower.state_dict().items()
    return tensors_sha256({name: tensor for name, tensor in weights if name.partition(".")[0] != part.projection})


def _as_module(part: FrozenPart) -> nn.Module:
    projection = getattr(part.tower, part.projection)
    if isinstance(projection, nn.Module):
        return deepcopy(projection)
    width, dim = projection.shape
    found = nn.Linear(width, dim, bias=False)
    with torch.no_grad():
        found.weight.copy_(projection.T)
    return found


def _prepared(preprocessing: Preprocessing, picture: Image.Image, *, mirror: bool = False) -> torch.Tensor:
    pixels = preprocessing.resized(ImageOps.mirror(picture) if mirror else picture)
    return preprocessing.normalised(torch.from_numpy(pixels.copy())[None])[0]
