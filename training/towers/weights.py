"""Load pretrained weights: an image tower and a Hugging Face text encoder, from a hub, a package or a folder.

Weights load strictly: every tensor must be present. open_clip's `pretrained_image_path` and transformers'
`from_pretrained` would ignore missing ones.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from data_catalog.base.errors import InputError
from data_catalog.disk.files import sha256_of, write_json
from data_catalog.rows.image_formats import READ_FORMATS
from training.towers.backbones import backbone_features, frozen_parts
from training.towers.model import ENCODER_CONFIG_FILE
from training.towers.model_files import load_strictly, require_few_layers, translate_errors
from training.towers.packaged import PACKAGED, image_tensors, license_of_folder
from training.towers.preprocessing import Preprocessing
from training.towers.tokenizer import SavedTokenizer

logger = logging.getLogger(__name__)

# Names of weights files in a folder, in order of preference.
WEIGHT_FILES = ("open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt"),
    *("sentencepiece.bpe.model", "spiece.model"),
)
_IMAGE_REMEDY = (
    "name other weights. Without network access, copy them from another machine, and set train.image_weights to the "
    'file, or to "random"'
)
_ENCODER_REMEDY = (
    "train.text_encoder, or distil.student, must be a folder with an encoder, or its name on the hub. Without network "
    "access, copy the encoder into a folder, and name the folder"
)
AGREEMENT = 1e-4  # largest difference of a number of a recorded feature, scaled to length 1
_NAMED = 3  # tensors that an error names


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The initial weights of a tower.

    Args:
        kind: "file" is one of an image tower, or a folder with one; "folder" and "hub" have a text encoder; "package"
            is a Python package (`training.towers.packaged`).
        source: path or name; of open_clip, MODEL/PRETRAINED.
        license: as the settings state it, or "".
    """

    kind: Literal["random", "file", "folder", "hub", "timm", "open_clip", "package"]
    source: str = ""
    license: str = ""

    @property
    def name(self) -> str:
        """Return the name by which a model's record and card have them, which is no path."""
        return Path(self.source).name if self.kind in ("file", "folder") else self.source

    def identity(self) -> Any:
        """Return what identifies them in a run's key: sha256 of local files, or their name."""
        if self.kind == "file":
            return sha256_of(weights_file(Path(self.source)))
        if self.kind in ("folder", "hub"):
            return text_identity(self.source)
        if self.kind == "package":
            return {"packaged": self.source, "sha256": PACKAGED[self.source].sha256}
        if self.kind == "timm":
            return {"timm": self.source}
        return dict(zip(("model", "pretrained"), self.source.split("/"), strict=True))

    def known_license(self) -> str:
        """Return the license that the settings state, or else their authors; "" if it is not known."""
        if self.license or self.kind in ("random", "file", "hub", "open_clip"):
            return self.license
        if self.kind == "folder":
            return license_of_folder(self.source)
        if self.kind == "package":
            return PACKAGED[self.source].license
        import timm

        known: Any = timm.get_pretrained_cfg(self.source)
        return str((known.license if known else None) or "")

    def borrowed(self, tower: str) -> dict[str, str]:
        """Return the entry of a tower's weights of other people in the record of a model."""
        return {"tower": tower, "weights": self.name, "license": self.known_license()}


def text_identity(source: str) -> Any:
    """Return what identifies a Hugging Face encoder: sha256 of the files of its folder, or its name on the hub."""
    return files_identity(Path(source)) if Path(source).is_dir() else source


def files_identity(folder: Path, more: Sequence[str] = ()) -> dict[str, str]:
    """Return the sha256 of the files of a folder that decide a model: config, weights, tokenizer, and `more`."""
    return hashes(folder, (*more, ENCODER_CONFIG_FILE, *WEIGHT_FILES, *TOKENIZER_FILES))


def hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the sha256 of those files of a folder that exist, by name."""
    return {name: sha256_of(folder / name) for name in names if (folder / name).is_file()}


def weights_file(path: Path) -> Path:
    """Return a weights file, or that of a folder."""
    found = path if path.is_file() else next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if found is None:
        raise InputError(f"train.image_weights: {path} is neither a weights file nor a folder with one")
    return found


def load_image_tower(module: Any, weights: Weights) -> None:
    """Load the initial weights of an image tower, unless they are random.

    The weights of a timm backbone may have its classifier, which is left out. Its projection stays random.
    """
    if weights.kind == "random":
        return
    source, tensors = _image_tensors(weights)
    visual = {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
    found, tower, what = visual or tensors, module.visual, "the model's image tower"
    trunk = getattr(module.visual, "trunk", None)
    if trunk is not None and not any(name.startswith("trunk.") for name in found):
        tower, what = trunk, f"the backbone {trunk.pretrained_cfg['architecture']}"
        classifiers = trunk.pretrained_cfg.get("classifier") or ()
        left_out = tuple(f"{name}." for name in ([classifiers] if isinstance(classifiers, str) else classifiers))
        found = {name: value for name, value in found.items() if not name.startswith(left_out)}
    # Files older than torch 1.0 have no batch counters. They start at 0.
    counters = {name: value for name, value in tower.state_dict().items() if name.endswith(".num_batches_tracked")}
    load_strictly(tower, counters | found, f"{source} for {what}", remedy=_IMAGE_REMEDY, kind=InputError)
    new = [] if tower is module.visual else sorted(name for name, _ in module.visual.head.named_parameters())
    _log_loaded("image tower", source, [f"head.{name}" for name in new])


def _image_tensors(weights: Weights) -> tuple[str, dict[str, Any]]:
    """Return the file or name of the weights, and their tensors."""
    if weights.kind == "package":
        return image_tensors(weights.source)
    from training.towers.modules import read_tensors

    what = f"weights {weights.source} of {weights.kind}"
    with translate_errors(what, remedy=_IMAGE_REMEDY, kind=InputError):
        if weights.kind == "timm":
            import timm

            return what, dict(timm.create_model(weights.source, pretrained=True).state_dict())
        if weights.kind == "open_clip":
            from open_clip import download_pretrained, get_pretrained_cfg

            known = get_pretrained_cfg(*weights.source.split("/"))
            if not known:
                raise ValueError("open_clip has no such weights")
            path = Path(download_pretrained(known))
        else:
            path = weights_file(Path(weights.source))
    with translate_errors(str(path), remedy=_IMAGE_REMEDY, kind=InputError):
        return str(path), read_tensors(path)


def _log_loaded(tower: str, source: str, new: Sequence[str]) -> None:
    names = f"; new, with random weights: {', '.join(new)}" if new else ""
    logger.info("%s: %s%s", tower, source, names)


def load_text_encoder(module: Any, model_config: Mapping[str, Any]) -> None:
    """Load the weights of a Hugging Face encoder into the text tower. Its projection stays random.

    Heads of the encoder's pretraining are left out, and the decoder of an encoder-decoder.
    """
    from transformers import AutoModel

    from training.towers.modules import pooling

    source, tower = model_config["text_cfg"]["hf_model_name"], module.text.transformer
    how = {"output_loading_info": True, "use_safetensors": None, "ignore_mismatched_sizes": True}
    how |= pooling(module.text.config, pooled=getattr(tower, "pooler", None) is not None)
    what = f"the text encoder {source}"
    with quiet_transformers(), translate_errors(what, remedy=_ENCODER_REMEDY, kind=InputError):
        encoder, info = AutoModel.from_pretrained(source, trust_remote_code=False, **how)
    is_whole = not module.text.config.is_encoder_decoder
    parts = {name.partition(".")[0] for name in encoder.state_dict()} - ({"pooler"} if is_whole else {"decoder"})
    extra = sorted(name.removeprefix(f"{encoder.base_model_prefix}.") for name in info["unexpected_keys"])
    missing = sorted(name for name in info["missing_keys"] if is_whole or not name.startswith("decoder."))
    only_pooler = all(name.startswith("pooler.") for name in missing)
    # transformers draws random weights in place of these.
    for problem, names, remedy in (
        ("has weights whose shape differs from its config.json", sorted(one[0] for one in info["mismatched_keys"]), ""),
        (
            "lacks weights that its architecture needs",
            missing,
            ". Without its pooler, set train.text_pooler to mean_pooler" * only_pooler,
        ),
        ("has weights unknown to its architecture", [name for name in extra if name.partition(".")[0] in parts], ""),
    ):
        if names:
            raise InputError(f"{what} {problem}: {', '.join(names[:_NAMED])}{remedy}")
    found = encoder if is_whole else encoder.get_encoder()
    tower.load_state_dict(found.state_dict(), strict=True)
    _log_loaded("text encoder", source, [f"proj.{name}" for name, _ in module.text.proj.named_parameters()])


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the loading report and progress bar of transformers while inside; callers check the weights."""
    from transformers.utils import logging as reports

    before, had_bar = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity_error()
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(before)
        if had_bar:
            reports.enable_progress_bar()


def save_encoder_config(model_config: Mapping[str, Any], folder: Path) -> None:
    """Write the config of a Hugging Face text encoder, which is needed to create the model again."""
    from training.towers.modules import read_encoder_config

    source = model_config["text_cfg"]["hf_model_name"]
    with translate_errors(f"config.json of the text encoder {source}", remedy=_ENCODER_REMEDY, kind=InputError):
        found = read_encoder_config(source).to_dict()
    require_few_layers(Path(source) / ENCODER_CONFIG_FILE, found, kind=InputError)
    # transformers would make a model of the published weights' type, which may have 16 bits.
    written = {name: value for name, value in found.items() if name not in ("dtype", "torch_dtype")}
    write_json(folder / ENCODER_CONFIG_FILE, written)


def require_recorded_features(
    module: Any, tokenizer: SavedTokenizer, preprocessing: Preprocessing, recorded: Mapping[str, Any]
) -> None:
    """Check that the towers return the features that a model config states, before their projections.

    Names and shapes of tensors prove nothing: a network with another activation takes the same tensors. The config's
    `recorded_features` has for "image" the `file` of a picture, for "text" a `text`, and for each the `feature`, a list
    of numbers. Both features are scaled to length 1 before they are compared. A packaged tower has the `first` numbers
    of the unit feature.
    """
    import torch

    module.eval()
    parts = dict(zip(("image", "text"), frozen_parts(module, frozen=True, lock_image=False), strict=True))
    for side, stated in recorded.items():
        what = f"recorded_features.{side} of the model config"
        with translate_errors(what, remedy="correct it, or leave it out", kind=InputError), torch.no_grad():
            if (part := parts[side]) is None:
                raise ValueError("the tower has no projection, so no feature before it")
            if side == "image":
                with Image.open(stated["file"], formats=READ_FORMATS) as picture:
                    pixels = torch.from_numpy(preprocessing.resized(picture.convert("RGB")).copy())
                inputs = preprocessing.normalised(pixels[None])
            else:
                inputs = tokenizer([stated["text"]])
            made = backbone_features(part, inputs)[0].double()
            made /= made.norm()
            wanted = torch.tensor(stated.get("first", stated.get("feature")), dtype=torch.float64)
        if "first" in stated:
            made = made[: len(wanted)]
        else:
            wanted /= wanted.norm()
        if made.shape != wanted.shape or not bool((made - wanted).abs().max() <= AGREEMENT):
            raise InputError(
                f"the {side} tower does not compute what was recorded of it: its weights fit by name and shape only. "
                "Check the name of the architecture, the image mean, std and size, and the pooler"
            )
        logger.info("%s tower: agrees with its recorded feature", side)
