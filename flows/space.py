"""Write the page of a model as a folder that is a Hugging Face Space, and a container image, as it is."""

import logging
import re
import shutil
from importlib.metadata import requires, version
from pathlib import Path
from string import Template

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.catalog.manifest import RUN_FILE
from data_catalog.disk.files import TEMPORARY_PREFIX, read_json, write_json
from data_catalog.images.decoding import is_heif, open_image
from data_catalog.rows.image_formats import is_image_name
from flows import PACKAGES
from flows.page import FALLBACK, PAGES, Shown, interface_texts, open_shown
from training.data.images import read_picture
from training.towers.model import (
    ENCODER_CONFIG_FILE,
    HUB_WEIGHTS_FILE,
    OPEN_CLIP_CONFIG_FILE,
    WEIGHTS_FILE,
    rename_encoders,
)
from training.towers.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE

logger = logging.getLogger(__name__)

HOME = Path(__file__).parents[1]
MODEL_FILES = (
    *(OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE, HUB_WEIGHTS_FILE, ENCODER_CONFIG_FILE),
    *(TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, RUN_FILE),
)
# What the page imports of our dependencies.
REQUIREMENTS = (
    *("fsspec", "ftfy", "httpx", "huggingface-hub", "jinja2", "matplotlib", "numpy", "open-clip-torch"),
    *("opencv-python-headless", "pillow", "pyarrow", "pydantic", "rapidfuzz", "safetensors", "scipy", "sentencepiece"),
    *("timm", "tokenizers", "torch", "torchvision", "transformers"),
)


def export(shown: Shown, model: Path, out: Path, *, images: Path | None = None) -> None:
    """Write a Space: a README with its settings, `app.py`, requirements, a Dockerfile, our code, model and images.

    Only those files of the model are copied that it is read from, without paths, and images without metadata, such as
    positions.
    """
    require_new(out)
    place = out.with_name(f"{TEMPORARY_PREFIX}{out.name}")
    shutil.rmtree(place, ignore_errors=True)
    try:
        for path in sorted(model.rglob("*")):
            if path.is_file() and path.name in MODEL_FILES:
                _copy_without_paths(path, place / "model" / path.relative_to(model))
        if images is not None:
            _copy_images(images, place / "images")
        for package in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "*.argosmodel")
            shutil.copytree(HOME / package, place / package, ignore=ignored)
        texts = interface_texts(shown.language)
        words = texts.get(shown.language, texts[FALLBACK])
        facts = {"title": words["title"], "intro": words["intro"], "language": repr(shown.language)}
        for template in (PAGES / "space").iterdir():
            text = Template(template.read_text(encoding="utf-8")).substitute(facts, gradio=version("gradio"))
            (place / template.name.removesuffix(".txt")).write_text(text, encoding="utf-8")
        (place / "requirements.txt").write_text("\n".join([*requirements(), ""]), encoding="utf-8")
        (place / ".dockerignore").write_text("**/__pycache__\n.git\n", encoding="utf-8")
        open_shown(None, model=place / "model", language=shown.language)  # reads the copy
        place.rename(out)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def require_new(out: Path) -> None:
    """Refuse to write a Space into a folder that exists."""
    if out.exists() or out.is_symlink():
        raise SettingsError(f"{out} exists: name a new folder for the Space")


def requirements() -> list[str]:
    """Return the requirements of the page, as the extra `demo` of vernaclip states them."""
    lines = [line.partition(";")[0].strip() for line in requires("vernaclip") or () if "extra ==" not in line]
    stated = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-"): line for line in lines}
    return [f"gradio=={version('gradio')}", *(stated[name] for name in REQUIREMENTS)]


def _copy_without_paths(path: Path, target: Path) -> None:
    """Copy a file of a model; of its configs, leave out where the text encoder was on the training machine."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.name == OPEN_CLIP_CONFIG_FILE:
        config = read_json(path)
        write_json(target, {**config, "model_cfg": rename_encoders(config["model_cfg"])})
    elif path.name == RUN_FILE:  # who starts from the Space asks for the license of its weights
        write_json(target, {"license": "", **read_json(path)})
    elif path.name == ENCODER_CONFIG_FILE:
        write_json(target, {name: value for name, value in read_json(path).items() if name != "_name_or_path"})
    else:
        shutil.copyfile(path, target)


def _copy_images(images: Path, target: Path) -> None:
    """Write the pixels of the image files of a folder, upright and in their own formats; leave out broken ones."""
    for path in sorted(images.rglob("*")):
        name = path.relative_to(images)
        if not (path.is_file() and is_image_name(path.name)) or any(part.startswith(".") for part in name.parts):
            continue
        try:
            picture = read_picture(path, 0)
        except InputError as error:
            logger.warning("left out: %s", error)
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        raw = path.read_bytes()
        if is_heif(raw):  # which few browsers show
            picture.image.save(target / f"{name}.jpg", "JPEG", quality=95)
        else:
            picture.image.save(target / name, open_image(raw).format, quality=95)
    if not target.is_dir():
        raise InputError(f"{images} contains no image files that can be read")
