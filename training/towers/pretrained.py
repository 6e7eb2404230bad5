"""Load pretrained weights: an open_clip image tower and a Hugging Face text encoder, from a hub or a folder.

Weights load strictly: every tensor must be present. open_clip's `pretrained_image_path` and transformers'
`from_pretrained` would ignore missing ones.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from PIL import Image
from safetensors import SafetensorError

from data_catalog.base.errors import DamagedError, InputError
from data_catalog.disk.files import sha256_of, write_json
from data_catalog.rows.image_formats import READ_FORMATS
from training.config import TrainConfig
from training.towers.architecture import RANDOM, has_image_weights, weights_path
from training.towers.backbones import backbone_features, frozen_parts
from training.towers.lineage import read_lineage
from training.towers.model import ENCODER_CONFIG_FILE
from training.towers.model_files import (
    describe_mismatch,
    joined_configs,
    named_tensors,
    one_line,
    require_few_layers,
    translate_errors,
)
from training.towers.packaged import PACKAGED, image_tensors, license_of_folder
from training.towers.preprocessing import Preprocessing
from training.towers.tokenizer import AnyTokenizer

logger = logging.getLogger(__name__)

# Names of weights files in a folder, in order of preference.
WEIGHT_FILES = ("open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin")
_ENCODER_REMEDY = (
    "train.text_encoder, or distil.student, must be a folder with an encoder, or its name on the hub. Without network "
    "access, copy the encoder into a folder, and name the folder"
)
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt"),
    *("sentencepiece.bpe.model", "spiece.model"),
)
AGREEMENT = 1e-4  # largest difference of a number of a recorded feature, scaled to length 1


def further_towers(
    model_config: Mapping[str, Any], config: TrainConfig
) -> list[tuple[str, str, dict[str, Any], TrainConfig]]:
    """Return side, folder, model config and settings of each tower that is joined to the model's own."""
    found = []
    for side, folder, each in joined_configs(model_config):
        file = config.image_weights if config.image_weights == RANDOM else each.get("image_weights", {}).get("file", "")
        stated: dict[str, Any] = {"image_weights": file, f"{side}_license": str(each.get("license", ""))}
        found.append((side, folder, each, replace(config, **stated)))
    return found


def identity_of_weights(model_config: Mapping[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Return what identifies the initial weights in a run's key: sha256 of local files, names of hub weights.

    Raises:
        InputError: a local file is missing.
    """
    found: dict[str, Any] = {}
    if "start_folder" in model_config:
        found["model"] = sha256_of(Path(model_config["start_weights"]))
        found["files"] = _hashes(Path(model_config["start_folder"]), (ENCODER_CONFIG_FILE, *_TOKENIZER_FILES))
        return found
    text = model_config["text_cfg"]
    for name, source in (("text", text.get("hf_model_name")), ("tokenizer", text.get("hf_tokenizer_name"))):
        if source and "hf_model_name" in text and (name == "text" or source != text["hf_model_name"]):
            found[name] = text_identity(source)
    if path := weights_path(model_config, config):
        found["image"] = sha256_of(_weights_file(Path(path)))
    elif "image_weights" in model_config:
        found["image"] = model_config["image_weights"]
    for side, stated in model_config.get("recorded_features", {}).items():
        if isinstance(stated, dict) and isinstance(stated.get("file"), str) and Path(stated["file"]).is_file():
            found[f"recorded {side}"] = sha256_of(Path(stated["file"]))
    for _, folder, each, own in further_towers(model_config, config):
        found[folder] = identity_of_weights(each, own)
    return found


def text_identity(source: str) -> Any:
    """Return what identifies a Hugging Face encoder: sha256 of the files of its folder, or its name on the hub."""
    return files_identity(Path(source)) if Path(source).is_dir() else source


def files_identity(folder: Path, more: Sequence[str] = ()) -> dict[str, str]:
    """Return the sha256 of the files of a folder that decide a model: config, weights, tokenizer, and `more`."""
    return _hashes(folder, (*more, ENCODER_CONFIG_FILE, *WEIGHT_FILES, *_TOKENIZER_FILES))


def _hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in names if (folder / name).is_file()}


def borrowed_weights(model_config: Mapping[str, Any], config: TrainConfig) -> list[dict[str, str]]:
    """Return the initial weights of other people: `tower`, `weights` (a name) and `license`, which may be "".

    timm states a license for each of its weights, and a model of ours those of its own. Others are stated by the
    settings; a warning asks for those that are not.
    """
    import timm

    earlier: list[dict[str, str]] = []
    found: list[dict[str, str]] = []
    text = model_config["text_cfg"].get("hf_model_name")
    if "start_folder" in model_config:
        folder, stated = (
            Path(model_config["start_folder"]),
            {"image": config.image_license, "text": config.text_license},
        )
        earlier, found = read_lineage(folder).borrowed_of(stated, folder.name)
    else:
        if path := weights_path(model_config, config):
            source = Path(path)
            start = read_lineage(_folder_of(source))
            earlier, found = start.borrowed_of({"image": config.image_license}, source.name)
        elif named := model_config.get("image_weights"):
            known: Any = timm.get_pretrained_cfg(named["timm"]) if "timm" in named else None
            known = PACKAGED[named["packaged"]] if "packaged" in named else known
            license = config.image_license or str((known.license if known else None) or "")
            weights = named.get("packaged") or "/".join(named.values())
            found.append({"tower": "image", "weights": weights, "license": license})
        if text:
            name = Path(text).name if Path(text).is_dir() else text
            license = config.text_license or license_of_folder(text)
            found.append({"tower": "text", "weights": name, "license": license})
    for weights in found:
        if not weights["license"]:
            logger.warning(
                "the license of the %s tower's weights (%s) is not stated: set train.%s_license, or `license` of a "
                "joined tower, which the model card and exports need",
                *(weights["tower"], weights["weights"], weights["tower"]),
            )
    for _, _, each, own in further_towers(model_config, config) if "start_folder" not in model_config else ():
        found += borrowed_weights(each, own)
    return [*earlier, *found]


def lineage(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run that starts from a distilled model keeps of its settings: what the student learned from.

    Raises:
        DamagedError: the start's `run.json` is damaged.
    """
    settings = read_lineage(Path(model_config["start_folder"])).settings if "start_folder" in model_config else {}
    return {"distil": settings["distil"]} if "distil" in settings else {}


def starts_of(model_config: Mapping[str, Any], config: TrainConfig) -> list[Path]:
    """Return the folders with the weights that a run starts from, of the whole model or of image towers alone."""
    if "start_folder" in model_config:
        return [Path(model_config["start_folder"])]
    towers = (config, *(own for *_, own in further_towers(model_config, config)))
    named = [Path(path) for own in towers if (path := weights_path(model_config if own is config else {}, own))]
    return [_folder_of(path) for path in named if path.exists()]  # others name weights of a hub


def _folder_of(weights: Path) -> Path:
    """Return the folder of a weights file; a folder is its own."""
    return weights if weights.is_dir() else weights.parent


def shards_of_starts(model_config: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """Return the sha256 of the pair shards that decided the weights in all folders of `starts_of`."""
    return [shard for folder in starts_of(model_config, config) for shard in read_lineage(folder).learned or ()]


def load_image_tower(module: Any, model_config: Mapping[str, Any], config: TrainConfig) -> None:
    """Load the initial weights of the image tower, if the settings or the model config name some.

    The weights of a timm backbone may have its classifier, which is left out. Its projection stays random.

    Raises:
        InputError: the weights cannot be fetched or read, or do not match the tower exactly.
    """
    if not has_image_weights(model_config, config):
        return
    if path := weights_path(model_config, config):
        source, tensors = _read_weights(_weights_file(Path(path)))
    else:
        source, tensors = _fetch_weights(model_config["image_weights"])
    visual = {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
    found, tower, what = visual or tensors, module.visual, "the model's image tower"
    if "timm_model_name" in model_config["vision_cfg"] and not any(name.startswith("trunk.") for name in found):
        tower, what = module.visual.trunk, f"the backbone {model_config['vision_cfg']['timm_model_name']}"
        classifiers = tower.pretrained_cfg.get("classifier") or ()
        classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
        found = {
            name: value
            for name, value in found.items()
            if not any(name.startswith(f"{classifier}.") for classifier in classifiers)
        }
    # Files older than torch 1.0 have no batch counters. They start at 0.
    wanted = {
        name: value
        for name, value in tower.state_dict().items()
        if name in found or not name.endswith(".num_batches_tracked")
    }
    if mismatch := describe_mismatch(wanted, found):
        advice = _same_shapes(wanted, found, source) + _timm_remedy(model_config)
        raise InputError(f"{source} does not match {what}: {mismatch}{advice}")
    tower.load_state_dict(tower.state_dict() | found, strict=True)
    new = [] if tower is module.visual else sorted(name for name, _ in module.visual.head.named_parameters())
    _log_loaded("image tower", source, [f"head.{name}" for name in new])


def _same_shapes(wanted: Mapping[str, Any], found: Mapping[str, Any], source: str) -> str:
    """Return how to use weights that have the tower's shapes in its order, under other names; "" for others."""
    shapes = [
        [tuple(value.shape) for name, value in tensors.items() if not name.endswith(".num_batches_tracked")]
        for tensors in (wanted, found)
    ]
    if shapes[0] != shapes[1][: len(shapes[0])]:
        return ""
    return (
        ". But the shapes fit in order: it may be the same network under the names of another library. If so, save its "
        f"tensors under the names of this one, dict(zip(NAMES, VALUES)), in a file beside {Path(source).name}, and "
        "have it proved: in a model config, recorded_features.image names a picture and the feature that the other "
        "library computes of it"
    )


def _timm_remedy(model_config: Mapping[str, Any]) -> str:
    """Return which of timm's own weights fit a timm backbone, as advice after an error; "" for another tower."""
    import timm

    if (name := model_config["vision_cfg"].get("timm_model_name")) is None:
        return ""
    tags = timm.list_pretrained(name.partition(".")[0])
    known = f", such as {tags[-1]}" if tags else ""
    return f". timm's own weights fit: set train.image_tower to a name that has some{known}, and no train.image_weights"


def _read_weights(path: Path) -> tuple[str, dict[str, Any]]:
    """Read tensors from a file. A pickle is read without executing code."""
    from open_clip.factory import load_state_dict

    try:
        with _reading(str(path)):
            return str(path), load_state_dict(str(path), device="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} is not a complete weights file: {one_line(error)}") from error


def _fetch_weights(named: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Fetch weights of open_clip or timm by name.

    Args:
        named: `model` and `pretrained` of open_clip, or `timm`, the name of a backbone, or `packaged`.
    """
    import timm

    if "packaged" in named:
        return image_tensors(named["packaged"])
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    remedy = "copy them from a machine with network access, and set train.image_weights to the file"
    if "timm" in named:
        what = f"the weights of timm's {named['timm']}"
        with fetching(f"{what}", f"{remedy}, or to {RANDOM!r}"), _reading(what):
            return what, dict(timm.create_model(named["timm"], pretrained=True).state_dict())
    known = get_pretrained_cfg(named["model"], named["pretrained"])
    if not known:
        raise InputError(f"open_clip has no weights {named['pretrained']!r} for {named['model']!r}")
    with fetching(f"the weights {named['pretrained']} of {named['model']}", remedy):
        path = Path(download_pretrained(known))
    return _read_weights(path)


def _log_loaded(tower: str, source: str, new: Sequence[str]) -> None:
    names = f"; new, with random weights: {', '.join(new)}" if new else ""
    logger.info("%s: %s%s", tower, source, names)


def load_text_encoder(module: Any, model_config: Mapping[str, Any]) -> None:
    """Load the weights of a Hugging Face encoder into the text tower. Its projection stays random.

    Heads of the encoder's pretraining are left out, and the decoder of an encoder-decoder.

    Raises:
        InputError: the encoder cannot be fetched or is incomplete, or weights are missing or unexpected.
    """
    from transformers import AutoModel

    from training.towers.modules import pooling

    source, tower = model_config["text_cfg"]["hf_model_name"], module.text.transformer
    how = {"output_loading_info": True, "use_safetensors": None, "ignore_mismatched_sizes": True}
    how |= pooling(module.text.config, pooled=getattr(tower, "pooler", None) is not None)
    what = f"the text encoder {source}"
    with quiet_transformers(), fetching(what, _ENCODER_REMEDY), _reading(what):
        encoder, info = AutoModel.from_pretrained(source, trust_remote_code=False, **how)
    mismatched = sorted(found[0] for found in info["mismatched_keys"])
    if mismatched:
        raise InputError(
            f"the text encoder {source} has weights whose shape differs from its config.json: "
            f"{named_tensors(mismatched)}"
        )
    is_whole = not module.text.config.is_encoder_decoder
    missing = sorted(name for name in info["missing_keys"] if is_whole or not name.startswith("decoder."))
    if missing:
        only_pooler = all(name.startswith("pooler.") for name in missing)
        remedy = ". Without its pooler, set train.text_pooler to mean_pooler" if only_pooler else ""
        raise InputError(
            f"the text encoder {source} lacks weights that its architecture needs: {named_tensors(missing)}{remedy}"
        )
    parts = {name.partition(".")[0] for name in encoder.state_dict()} - ({"pooler"} if is_whole else {"decoder"})
    extra = sorted(name.removeprefix(f"{encoder.base_model_prefix}.") for name in info["unexpected_keys"])
    left = [name for name in extra if name.partition(".")[0] in parts]
    if left:
        raise InputError(f"the text encoder {source} has weights unknown to its architecture: {named_tensors(left)}")
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
    """Write the config of a Hugging Face text encoder, which is needed to create the model again.

    Raises:
        InputError: the config cannot be fetched, or is not one of a text encoder.
    """
    from training.towers.modules import read_encoder_config

    source = model_config["text_cfg"]["hf_model_name"]
    with translate_errors(f"config.json of the text encoder {source}", remedy=_ENCODER_REMEDY, kind=InputError):
        found = read_encoder_config(source)
    try:
        require_few_layers(Path(source) / ENCODER_CONFIG_FILE, found.to_dict())
    except DamagedError as error:  # raise an InputError instead, because the encoder is not ours
        raise InputError(str(error)) from error
    # transformers would make a model of the published weights' type, which may have 16 bits.
    written = {name: value for name, value in found.to_dict().items() if name not in ("dtype", "torch_dtype")}
    write_json(folder / ENCODER_CONFIG_FILE, written)


def require_recorded_features(
    module: Any, tokenizer: AnyTokenizer | None, preprocessing: Preprocessing, model_config: Mapping[str, Any]
) -> None:
    """Check that the towers return the features that the model config states, before their projections.

    Names and shapes of tensors prove nothing: a network with another activation takes the same tensors. The config's
    `recorded_features` has for "image" the `file` of a picture, for "text" a `text`, and for each the `feature`, a list
    of numbers. Both features are scaled to length 1 before they are compared.

    Raises:
        InputError: a number differs by more than `AGREEMENT`, or the record is not valid.
    """
    import torch

    module.eval()
    image_part, text_part = frozen_parts(module, frozen=True, lock_image=False)
    for side, stated in model_config.get("recorded_features", {}).items():
        part, key = (image_part, "file") if side == "image" else (text_part, "text")
        if side not in ("image", "text") or not isinstance(stated, dict) or not isinstance(stated.get(key), str):
            raise InputError(f"recorded_features.{side} of the model config must have {key!r} and 'feature'")
        if part is None:
            raise InputError(f"recorded_features.{side}: the {side} tower has no projection, so no feature before it")
        if side == "image":
            with _opened_picture(Path(stated["file"])) as picture:
                pixels = torch.from_numpy(preprocessing.resized(picture.convert("RGB")).copy())
            inputs = preprocessing.normalised(pixels[None])
        else:
            assert tokenizer is not None  # a tower with a text
            inputs = tokenizer([stated["text"]])
        with torch.no_grad():
            made = backbone_features(part, inputs)[0].double()
        try:
            wanted = torch.tensor(stated.get("first", stated.get("feature")), dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"recorded_features.{side}.feature must be a list of numbers") from error
        made = made / made.norm()
        if "first" in stated:  # of a packaged tower, the first numbers of the unit feature are recorded
            made = made[: len(wanted)]
        else:
            wanted = wanted / wanted.norm()
        if made.shape != wanted.shape or not bool((made - wanted).abs().max() <= AGREEMENT):
            cosine = (
                f"their cosine is {float(made @ wanted):.4f}" if made.shape == wanted.shape else "their sizes differ"
            )
            raise InputError(
                f"the {side} tower does not compute what was recorded of it ({cosine}): its weights fit by name and "
                "shape only. Check the name of the architecture, the image mean, std and size, and the pooler"
            )
        logger.info("%s tower: agrees with its recorded feature", side)


@contextmanager
def _opened_picture(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=READ_FORMATS) as picture:
            yield picture
    except OSError as error:
        raise InputError(f"recorded_features: the picture {path} cannot be read ({one_line(error)})") from error


@contextmanager
def fetching(what: str, remedy: str) -> Iterator[None]:
    """Translate errors of loading something from a hub or folder into an error with a remedy."""
    try:
        yield
    except RuntimeError as error:  # open_clip raises it if weights do not match, or cannot be fetched
        raise InputError(
            f"{what} cannot be loaded ({one_line(error)}): its weights do not match its config, or cannot be fetched: "
            f"{remedy}"
        ) from error
    except (TypeError, AssertionError, AttributeError, ImportError) as error:  # from constructors, for invalid configs
        raise InputError(
            f"{what} cannot be loaded ({type(error).__name__}: {one_line(error)}): its config is damaged or of another "
            "release, or it needs a package that is not installed"
        ) from error
    except (OSError, ValueError, LookupError, SafetensorError) as error:
        raise InputError(f"{what} cannot be loaded ({one_line(error)}): {remedy}") from error


def _weights_file(path: Path) -> Path:
    found = path if path.is_file() else next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if found is None:
        raise InputError(f"train.image_weights: {path} is neither a weights file nor a folder with one")
    return found


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Translate errors of reading weights that are incomplete, or a pickle with code, into an error that names them."""
    try:
        yield
    except UnpicklingError as error:
        raise InputError(
            f"{what} contains more than weights, and reading it would run code, so it is refused"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, AttributeError) as error:
        raise InputError(f"{what} is not a complete weights file: {one_line(error)}") from error
