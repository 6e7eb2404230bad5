"""Load pretrained weights: an image tower and a Hugging Face text encoder, from a hub, a package or a folder.

Weights load strictly: every tensor must be present. open_clip's `pretrained_image_path` and transformers'
`from_pretrained` would ignore missing ones.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.disk.files import sha256_of, write_json
from data_catalog.rows.image_formats import READ_FORMATS
from training.towers.backbones import backbone_features, frozen_parts
from training.towers.model import ENCODER_CONFIG_FILE, load_strictly, require_few_layers
from training.towers.packaged import PACKAGED, image_tensors
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


def image_identity(weights: Mapping[str, str]) -> Any:
    """Return what identifies the weights of an image tower in a run's key: sha256 of a local file, or their name."""
    return sha256_of(weights_file(Path(weights["file"]))) if "file" in weights else dict(weights)


def image_name(weights: Mapping[str, str]) -> str:
    """Return the name by which a model's record and card have the weights of an image tower, which is no path."""
    if "file" in weights:
        return Path(weights["file"]).name
    return "/".join(value for name, value in weights.items() if name != "sha256")


def image_license(weights: Mapping[str, str]) -> str:
    """Return the license that the authors of the weights of an image tower state; "" if it is not known."""
    if "packaged" in weights:
        return PACKAGED[weights["packaged"]].license
    if "timm" in weights:
        import timm

        return str(getattr(timm.get_pretrained_cfg(weights["timm"]), "license", None) or "")
    return ""


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


def load_image_tower(module: Any, weights: Mapping[str, str]) -> None:
    """Load the initial weights of an image tower, `image_weights` of a model config.

    The weights of a timm backbone may have its classifier, which is left out. Its projection stays random.
    """
    what = weights.get("file") or image_name(weights)
    with about(f"the weights {what} of the image tower cannot be loaded", remedy=_IMAGE_REMEDY):
        tensors, tower = _image_tensors(weights), module.visual
        visual = {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
        found = visual or tensors
        trunk = getattr(tower, "trunk", None)
        if trunk is not None and not any(name.startswith("trunk.") for name in found):
            tower, classifiers = trunk, trunk.pretrained_cfg.get("classifier") or ()
            left_out = tuple(f"{name}." for name in ([classifiers] if isinstance(classifiers, str) else classifiers))
            found = {name: value for name, value in found.items() if not name.startswith(left_out)}
        # Files older than torch 1.0 have no batch counters. They start at 0.
        counters = {name: value for name, value in tower.state_dict().items() if name.endswith(".num_batches_tracked")}
        load_strictly(tower, counters | found)
    logger.info("image tower: %s", what)


def _image_tensors(weights: Mapping[str, str]) -> dict[str, Any]:
    if "packaged" in weights:
        return image_tensors(weights["packaged"])
    if "timm" in weights:
        import timm

        return dict(timm.create_model(weights["timm"], pretrained=True).state_dict())
    from open_clip import download_pretrained, get_pretrained_cfg
    from open_clip.factory import load_state_dict

    path = Path(weights.get("file", ""))
    if "file" not in weights:
        known = get_pretrained_cfg(weights["model"], weights["pretrained"])
        if not known:
            raise ValueError("open_clip has no such weights")
        path = Path(download_pretrained(known))
    return dict(load_state_dict(str(weights_file(path)), device="cpu", weights_only=True))  # runs no code of a pickle


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
    with quiet_transformers(), about(f"{what} cannot be opened", remedy=_ENCODER_REMEDY):
        encoder, info = AutoModel.from_pretrained(source, trust_remote_code=False, **how)
    is_whole = not module.text.config.is_encoder_decoder
    parts = {name.partition(".")[0] for name in encoder.state_dict()} - ({"pooler"} if is_whole else {"decoder"})
    extra = (name.removeprefix(f"{encoder.base_model_prefix}.") for name in info["unexpected_keys"])
    problems = {  # transformers draws random weights in place of the first two
        "has weights whose shape differs from its config.json": [one[0] for one in info["mismatched_keys"]],
        "lacks weights that its architecture needs (without its pooler, set train.text_pooler to mean_pooler)": [
            name for name in info["missing_keys"] if is_whole or not name.startswith("decoder.")
        ],
        "has weights unknown to its architecture": [name for name in extra if name.partition(".")[0] in parts],
    }
    for problem, names in problems.items():
        if names:
            raise InputError(f"{what} {problem}: {', '.join(sorted(names)[:3])}")
    found = encoder if is_whole else encoder.get_encoder()
    tower.load_state_dict(found.state_dict(), strict=True)
    logger.info("text encoder: %s", source)


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
    with about(f"config.json of the text encoder {source} cannot be opened", remedy=_ENCODER_REMEDY):
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
        with about(what, remedy="correct it, or leave it out"), torch.no_grad():
            part: Any = parts[side]  # None without a projection
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
            agrees = made.shape == wanted.shape and bool((made - wanted).abs().max() <= AGREEMENT)
        if not agrees:
            raise InputError(
                f"the {side} tower does not compute what was recorded of it: its weights fit by name and shape only. "
                "Check the name of the architecture, the image mean, std and size, and the pooler"
            )
        logger.info("%s tower: agrees with its recorded feature", side)
