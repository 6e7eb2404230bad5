"""Settings of models: the sections `[image_text]`, `[train]`, `[align]`, `[distil]` and `[evaluate]` of recipes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from data_catalog.base.errors import SettingsError
from data_catalog.base.precision import Precision
from data_catalog.base.settings import NAME_OR_JSON, OneOf, how, name_or_path, path_setting, what_values

Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
AtLeastTwo = Annotated[int, Ge(2)]
VocabSize = Annotated[int, Ge(300)]  # 256 bytes and some words
Positive = Annotated[float, Interval(gt=0, le=10**6)]
NotNegative = Annotated[float, Interval(ge=0, le=10**6)]
Share = Annotated[float, Interval(ge=0, le=1)]
LogitScale = Annotated[float, Interval(ge=1, le=100)]
Dropout = Annotated[float, Interval(ge=0, le=0.99)]

Device = Literal["auto", "cpu", "cuda"]
Tracker = Literal["tensorboard", "wandb"]  # in `training.runs.trackers`
Pooler = Literal["", "mean_pooler", "max_pooler", "cls_pooler", "cls_last_hidden_state_pooler"]
# Names of augmentations: "crop", "mirror" of `TrainSplit`, then those of `training.data.augment` in the order in which
# they apply.
AUGMENTATIONS = (
    *("crop", "mirror", "hue", "brightness", "contrast", "flip"),
    *("affine", "tilt", "perspective", "autocontrast", "equalize"),
)
AUGMENTATION_SETS = {
    # These keep captions true: they change no colour, count, side or size that a caption may name.
    "caption_safe": ("crop", "brightness", "contrast", "tilt"),
    # CLIP-Italian's augmentations with its values, except its crop: here images are squashed to a square and cropped
    # little.
    "paper": ("crop", "hue", "flip", "affine", "perspective", "autocontrast", "equalize"),
}
# Splits that models can be scored on, in order of preference: nothing is trained on them.
HELD_OUT = ("test", "val")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTextConfig:
    """Judgement of captions by a model that looks at the image; without a model there is none.

    Scores are in standard deviations above random captions of the same dataset.
    """

    # The paths are not part of a build's key. The content of what they name is.
    model: str = name_or_path("")
    """Model that judges captions: a dataset of the same root, whose newest model it is, a model folder, a
    MODEL/PRETRAINED of open_clip, or a Hugging Face dual encoder. It must not be trained on the dataset."""
    source_model: str = name_or_path("")
    """Model that judges source captions. By default `model`, which must read both languages."""
    min_score: float | None = None
    """Minimum score of a caption. Those without one are kept."""
    max_drop: float | None = None
    """Maximum score of the source caption minus score of its translation."""

    def __post_init__(self) -> None:
        for name in ("source_model", "min_score", "max_drop"):
            if getattr(self, name) not in (None, "") and not self.model:
                raise SettingsError(f"image_text.{name} needs image_text.model")


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """Settings that say what a model is made of: architecture, initial weights and image preprocessing."""

    model: str = field(default="compact", metadata={"path": NAME_OR_JSON})
    """Architecture: a model config that comes with vernaclip ("tiny", "compact", "compact-96", "italian", "lit"), any
    of open_clip, such as "ViT-B-32" or "roberta-ViT-B-32", the path of a JSON file in open_clip's format, or a model
    folder, from whose weights the run starts."""
    image_tower: str = ""
    """Image tower in place of the model config's: the name of a timm backbone, such as "tf_efficientnet_lite0". Its
    classifier is replaced by a projection."""
    # The paths are not part of a run's key. The content or hub name of the weights is.
    image_weights: str = name_or_path("")
    """File or folder with initial weights for the image tower, or "random". Empty takes the weights that the model
    config names, or those of timm's hub for `image_tower`, or random ones if there are none."""
    image_license: str = how("")
    """License of the initial weights of the image tower, such as "apache-2.0", for the model card and for exports."""
    image_size: CountOrZero = 0
    """Side of the square images, in pixels. 0 takes the size of the tower."""
    image_mean: tuple[float, ...] = ()
    """Mean of each channel of the tower's images, three numbers of values from 0 to 1. Empty takes that of the tower,
    or CLIP's."""
    image_std: tuple[Positive, ...] = ()
    """Standard deviation of each channel, likewise."""
    image_resize: Literal["", "squash", "shortest"] = ""
    """Way to a square: "squash", which keeps the whole image, or "shortest", which cuts off the longer side. Empty
    squashes, unless the model config says otherwise."""
    text_encoder: str = name_or_path("")
    """Text encoder: a folder, or a name on the Hugging Face hub. It replaces the text tower of the model config. Empty
    takes that of the model config."""
    text_pooler: Pooler = ""
    """Way from an encoder's tokens to one vector: "mean_pooler", "max_pooler", "cls_pooler" or
    "cls_last_hidden_state_pooler". Empty takes that of the model config, or the mean."""
    text_license: str = how("")
    """License of the weights of the text encoder, such as "apache-2.0", for the model card and for exports."""
    embed_dim: CountOrZero = 0
    """Length of the common features. 0 takes that of the model config."""
    context_length: CountOrZero = 0
    """Maximum number of tokens of a text. 0 takes that of the model config, or 77."""
    vocab_size: VocabSize = 2048
    """Maximum vocabulary of a trained tokenizer."""

    def __post_init__(self) -> None:
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) not in (0, 3):
                raise SettingsError(f"train.{name} must be three numbers, one per channel, or empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(TowerConfig):
    """Settings of training: model, phases, optimizer, data and hardware."""

    lock_image: bool = False
    """Freeze the image tower and its projection, as LiT does (https://arxiv.org/abs/2111.07991). Useful with a strong
    tower or little data."""
    freeze_image: bool = False
    """Freeze the image tower, but not the projection at its end. Each step drops 30 % of a timm backbone's features."""
    keep_batch_statistics: bool = True
    """Keep the means and variances of batch normalisation in an image tower that has initial weights. A few
    thousand images would spoil them. A tower with random weights always learns its own."""
    epochs: Count = 10
    """Passes over the train split with all weights trained."""
    frozen_epochs: CountOrZero = 0
    """Maximum number of passes before `epochs` that train the projections only. They end when validation stops
    improving; training continues from the best weights."""
    steps: CountOrZero = 0
    """Optimizer steps of the whole run, instead of epochs; frozen epochs get their share. Keeps the last weights and
    ignores `patience`. 0 trains by epochs."""
    select: Literal["mrr", "loss"] = "mrr"
    """Measure on the validation split that chooses the epoch whose weights are kept: "mrr", the MRR@10 from captions to
    images, or "loss"."""
    patience: CountOrZero = 0
    """Epochs without a better validation result (`select`) after which a phase ends. 0 runs all epochs, except that
    frozen epochs end after the first one without improvement."""
    batch_size: AtLeastTwo = 128
    """Images per step. An incomplete last batch of an epoch is dropped."""
    microbatch: CountOrZero = 0
    """Images that pass the towers at a time, to save memory. The loss covers the whole batch; a step takes a third
    longer. 0: the whole batch."""
    optimizer: Literal["adamw", "muon", "adabelief"] = "adamw"
    """Optimizer: "adamw", "muon", which needs fewer epochs from random weights and more time for each, or "adabelief"
    as in the paper."""
    lr: Positive = 1e-3
    """Peak learning rate. In each phase it falls to 0 along a cosine."""
    weight_decay: NotNegative = 0.1
    """Weight decay, for weights with two or more dimensions."""
    warmup_steps: CountOrZero = 50
    """Steps of each phase until the learning rate peaks. 0 uses `warmup_ratio`."""
    warmup_ratio: Share = 0.0
    """The same as a share of the phase's steps, if `warmup_steps` is 0."""
    max_grad_norm: NotNegative = 1.0
    """Maximum norm of all gradients together; larger ones are clipped. 0 disables it."""
    agc: NotNegative = 0.0
    """Adaptive gradient clipping: maximum norm of a gradient relative to its unit's weights; 0.01 in the paper. 0
    disables it."""
    loss: Literal["clip", "siglip"] = "clip"
    """Loss: "clip" finds each image's caption and each caption's image in the batch; "siglip" decides for each image
    and caption whether they match."""
    logit_scale: float = 0.0
    """Fixed factor of similarities, 1 to 100; 20 in the paper. 0 learns it."""
    captions: Literal["random", "first"] = "random"
    """Caption of an image in each epoch: a "random" one, or always the "first"."""
    seed: CountOrZero = 0
    """Seed of initial weights, order, captions and augmentations."""
    precision: Precision = "auto"
    """Precision of the towers: "bf16" (autocast), "fp32", or "auto": bf16 where the device has instructions for it,
    otherwise fp32. A run stays in the precision in which it began."""
    augment: tuple[Annotated[str, OneOf((*AUGMENTATIONS, *AUGMENTATION_SETS))], ...] = ("crop",)
    """Random augmentations of images (docs/training.md): "crop", "mirror", "hue", "brightness", "contrast", "flip",
    "affine", "tilt", "perspective", "autocontrast", "equalize", or the sets "caption_safe" and "paper"."""
    hard_batches: CountOrZero = 0
    """Size of the groups of images with similar captions in a batch, from the second epoch on. 0: random batches."""
    shuffle_window: Count = 20_000
    """Samples shuffled together, at least one row group. Limits the memory used besides the cache."""
    device: Device = how("auto")
    """Device: "cpu", "cuda", or "auto" for a GPU if there is one. On a GPU, a resumed run may differ in the last
    digits."""
    num_threads: CountOrZero = how(0)
    """Number of CPU threads: 0 uses all, 1 one for each tower, best for `tiny`."""
    cache_max_bytes: CountOrZero = how(2 << 30)
    """Maximum memory for decoded images, in bytes. If they all fit, they are decoded once, otherwise in each epoch.
    Default: 2 GiB."""
    checkpoint_every_steps: Count = how(200)
    """Steps between checkpoints. An interrupted run continues from the last one."""
    log: tuple[Tracker, ...] = how(())
    """Where else metrics go: "tensorboard", "wandb" (docs/training.md)."""

    def __post_init__(self) -> None:
        TowerConfig.__post_init__(self)
        if self.hard_batches != 0 and not 2 <= self.hard_batches <= self.batch_size:
            raise SettingsError(
                f"train.hard_batches must be 0 (random batches) or from 2 to train.batch_size, got {self.hard_batches}"
            )
        if self.warmup_ratio and self.warmup_steps:
            raise SettingsError(
                f"train.warmup_ratio is {self.warmup_ratio}, which has no effect while train.warmup_steps is "
                f"{self.warmup_steps}: set train.warmup_steps to 0, or train.warmup_ratio to 0"
            )
        if self.logit_scale != 0 and not 1 <= self.logit_scale <= 100:
            raise SettingsError(
                f"train.logit_scale must be 0 (a trained scale) or from 1 to 100, got {self.logit_scale}"
            )

    @property
    def augmentations(self) -> frozenset[str]:
        """Return the names of the single augmentations, with sets replaced by their members."""
        sets = (AUGMENTATION_SETS.get(name, (name,)) for name in self.augment)
        return frozenset(name for names in sets for name in names)

    def what(self) -> dict[str, Any]:
        """Return the settings that decide the trained weights, for the key of a run."""
        settings = what_values(self)
        # The key includes the content of the model config, so its path does not matter.
        settings["model"] = Path(self.model).name
        # Settings that are off leave the keys as they were without them.
        for name in ("steps", "hard_batches", "freeze_image"):
            if not settings[name]:
                del settings[name]
        return settings

    @property
    def frozen_steps(self) -> int:
        """Return the number of `steps` with frozen towers: the share of the frozen epochs among all epochs."""
        return round(self.steps * self.frozen_epochs / (self.frozen_epochs + self.epochs))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Settings of the way in which a recipe's model is made."""

    by: Literal["train", "align", "distil"] = "train"
    """What `vernaclip run` and `train` do: "train" by `[train]`, "align" by `[align]`, or "distil" by `[distil]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignConfig:
    """Settings of alignment: heads over the frozen towers that `[train]` names."""

    epochs: CountOrZero = 40
    """Passes over the train split after the closed-form start, with one random caption of each image. The epoch with
    the best MRR@10 on the validation split is kept. 0 keeps the closed-form start."""
    batch_size: AtLeastTwo = 1024
    """Pairs per step."""
    lr: Positive = 1e-3
    """Peak learning rate of the heads. It falls to 0 along a cosine."""
    weight_decay: NotNegative = 0.1
    """Weight decay of the heads."""
    ridge: Positive = 1.0
    """Regularisation of the closed-form start: share of the mean variance that is added to each variance."""
    logit_scale: LogitScale = 20.0
    """Factor of similarities at the start. It is trained."""
    hidden: bool = False
    """Give each head a hidden layer, in place of one linear map. Such heads start from random weights."""
    dropout: Dropout = 0.3
    """Share of a tower's features that each step drops."""
    mirror: bool = False
    """Also compute features of the mirrored training images. Each epoch then draws one of the two views. Captions that
    name left or right become wrong."""
    start: Literal["closed_form", "model"] = "closed_form"
    """Start of the heads: "closed_form", or "model", the projections that the model folder in `train.model` has."""
    refit: bool = False
    """Train again on the train and validation splits together, for the number of epochs that was chosen."""
    seed: CountOrZero = 0
    """Seed of heads with a hidden layer, order, captions and views."""
    log: tuple[Tracker, ...] = how(())
    """As `train.log`."""

    def __post_init__(self) -> None:
        if self.hidden and not self.epochs:
            raise SettingsError("align.hidden needs align.epochs: heads with a hidden layer have no closed form")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilConfig:
    """Settings of distillation: a student text tower that learns a teacher's features from parallel sentences."""

    # The paths are not part of a run's key. The content or hub name of what they name is.
    teacher: str = name_or_path("")
    """Model whose text tower is learned, and whose image tower is taken over: a dataset of the same root, whose newest
    model it is, a model folder, one in open_clip's hub layout, or a MODEL/PRETRAINED of open_clip, such as
    "ViT-B-32/openai". It reads `source_language`. Of a text encoder, such as "all-MiniLM-L6-v2", the student is then
    aligned with `train.image_tower`."""
    teacher_license: str = how("")
    """License of the teacher's image tower, such as "mit", if it is not a model of ours, which states it."""
    pairs: tuple[str, ...] | Mapping[str, tuple[str, ...]] = path_setting(())
    """Parallel sentences: files of lines of source, tab, target; or names with {lang}, such as "train.{lang}.gz", for
    two files with one sentence per line. For several languages, a table by code: `{de = ["en-de.tsv"], fr =
    ["en-fr.tsv"]}`. Without files, the translated captions of the dataset's train split."""
    source: bool | None = how(None)
    """Also learn the source sentences. Default: with several languages."""
    origin: Literal["", "human_translation", "machine_translation", "machine_translation_corrected"] = ""
    """Origin of the translations in `pairs`, for the model card: "human_translation", "machine_translation" or
    "machine_translation_corrected". Empty: not stated."""
    leave_out: tuple[str, ...] = path_setting(())
    """Text files with one sentence per line, such as test captions. Pairs with one of them on either side are not
    used, nor those with captions of the recipe's test sets, or of the val and test splits of its built dataset."""
    unpaired: tuple[str, ...] = path_setting(())
    """Text files with one sentence per line, without translations. The student also learns to restore words in them
    that were exchanged."""
    student: str = name_or_path("small")
    """Text tower to train: "tiny", "small" or "base", which start from random weights with a tokenizer trained on the
    sentences, or a Hugging Face encoder, a folder or a name on the hub."""
    student_license: str = how("")
    """License of the weights of a Hugging Face encoder, such as "apache-2.0"."""
    vocab_size: VocabSize = 8000
    """Maximum vocabulary of a trained tokenizer."""
    context_length: Count = 64
    """Maximum number of tokens of a sentence."""
    epochs: Count = 20
    """Passes over the pairs."""
    batch_size: AtLeastTwo = 128
    """Pairs per step. Several languages take turns; pairs of smaller ones are repeated."""
    lr: Positive = 2e-3
    """Peak learning rate. It rises over `warmup_steps`, then falls to 0 along a cosine."""
    warmup_steps: CountOrZero = 200
    """Steps until the learning rate peaks."""
    weight_decay: NotNegative = 0.01
    """Weight decay, for weights with two or more dimensions."""
    max_grad_norm: NotNegative = 1.0
    """Maximum norm of all gradients together; larger ones are clipped. 0 disables it."""
    dropout: Dropout = 0.1
    """Dropout rate of a student that starts from random weights."""
    contrastive: NotNegative = 1.0
    """Weight of the contrastive term: find the teacher's feature of each sentence among those of the batch. The cosine
    term has weight 1."""
    logit_scale: LogitScale = 20.0
    """Factor of cosines in the contrastive term."""
    restore: NotNegative = 0.2
    """Weight of the term of `unpaired` sentences."""
    num_held_out: AtLeastTwo = 1000
    """Pairs held out, at most a tenth. The epoch with the best MRR@10 of a sentence among them, asked for by its
    translation, is kept. Each of several languages holds out so many; the mean counts."""
    patience: CountOrZero = 0
    """Epochs without a better MRR@10 after which training ends. 0 runs all epochs."""
    precision: Precision = "auto"
    """Precision of the student, as `train.precision`."""
    check_languages: bool = True
    """Leave out pairs of files that are clearly in other languages."""
    seed: CountOrZero = 0
    """Seed of initial weights, order and dropout."""
    device: Device = how("auto")
    """Device: "cpu", "cuda", or "auto" for a GPU if there is one."""
    num_threads: CountOrZero = how(0)
    """Number of CPU threads. 0 uses all."""
    log: tuple[Tracker, ...] = how(())
    """As `train.log`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Settings of scoring: gallery and confidence intervals."""

    split: Literal["", "test", "val"] = ""
    """Split whose images are the gallery: "test" or "val". By default "test" if it has images, else "val"."""
    batch_size: Count = 128
    """Images or captions encoded at a time."""
    bootstrap_rounds: Count = 1000
    """Number of bootstrap resamplings of the gallery's images for the 95 % confidence intervals."""
    seed: CountOrZero = 0
    """Seed of the resampling."""
