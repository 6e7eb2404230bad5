"""List the pretrained towers that can be used here: in Python packages, in the hub's cache, recommended by the pack."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_catalog.base.language_pack import LanguagePack
from data_catalog.disk.files import read_json
from training.towers.packaged import PACKAGED, installed
from training.towers.weights import WEIGHT_FILES

MULTILINGUAL = "multilingual"  # in model cards
_MOST_LISTED = 6  # languages of a tower in a table


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """A pretrained tower, by the name that recipes use. Empty values are not known here.

    Args:
        is_here: it can be used without a network.
        place: the package or cache that has it, or how to get it.
        languages: codes of the languages that a text encoder reads, or "multilingual".
    """

    name: str
    side: Literal["image", "text"]
    is_here: bool
    place: str
    license: str = ""
    num_bytes: int = 0
    languages: tuple[str, ...] = ()

    def reads(self, code: str) -> bool:
        """Return whether it is a text encoder that is known to read a language."""
        return self.side == "text" and not {code, MULTILINGUAL}.isdisjoint(self.languages)

    def row(self) -> dict[str, object]:
        """Return the tower as one row of a table."""
        is_image, count = self.side == "image", len(self.languages)
        languages = f"{count} languages" if count > _MOST_LISTED else ", ".join(self.languages)
        return {
            "tower": self.name,
            "reads": "images" if is_image else languages or "?",
            "MB": round(self.num_bytes / 1e6) or None,
            "license": self.license or "?",
            "where": self.place,
            "use": f"--set train.{'image_tower' if is_image else 'text_encoder'}={self.name}",
        }


def find_towers(pack: LanguagePack | None = None) -> list[Tower]:
    """Return the towers that are here, then others; with a pack, only text encoders that may read its language."""
    found = [*_packaged(), *_cached()]
    if pack is None:
        return found
    recommended = pack.text_encoder or ""
    if recommended and recommended not in {tower.name for tower in found}:
        place = f"recommended by the pack for {pack.name}: fetched from the hub at first use"
        found.append(Tower(name=recommended, side="text", is_here=False, place=place, languages=(pack.code,)))
    return [
        tower
        for tower in found
        if tower.side == "image" or not tower.languages or tower.reads(pack.code) or tower.name == recommended
    ]


def encoder_here(pack: LanguagePack) -> Tower | None:
    """Return the text encoder on this machine that reads a language best: the recommended one, else the largest."""
    there = [
        tower
        for tower in find_towers(pack)
        if tower.side == "text" and tower.is_here and (tower.reads(pack.code) or tower.name == pack.text_encoder)
    ]
    return max(there, key=lambda tower: (tower.name == pack.text_encoder, tower.num_bytes), default=None)


def _packaged() -> Iterator[Tower]:
    for name, tower in PACKAGED.items():
        package = installed(tower)
        path = Path(str(package.locate_file(tower.file))) if package is not None else None
        yield Tower(
            name=name,
            side="image" if tower.architecture else "text",
            is_here=package is not None,
            place=f"package {tower.package}" if package is not None else f"pip install {tower.distribution}",
            license=tower.license,
            num_bytes=path.stat().st_size if path is not None and path.is_file() else 0,
            languages=tuple(tower.languages.split()),
        )


def _cached() -> Iterator[Tower]:
    """Yield the models of the hub's cache that are towers; a name on the hub is enough to use them."""
    from huggingface_hub import CacheNotFound, ModelCard, constants, scan_cache_dir
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return
    for repo in sorted((repo for repo in repos if repo.repo_type == "model"), key=lambda repo: repo.repo_id):
        revision = max(repo.revisions, key=lambda each: each.last_modified, default=None)
        folder = revision.snapshot_path if revision is not None else None
        if folder is None or not any((folder / name).is_file() for name in WEIGHT_FILES):
            continue
        config = _stated(folder / "config.json", read_json)
        card = _stated(folder / "README.md", lambda path: ModelCard.load(path).data.to_dict())
        is_timm, spoken = repo.repo_id.startswith("timm/") and "architecture" in config, card.get("language") or ()
        if not is_timm and config.get("model_type") not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            continue
        yield Tower(
            name=repo.repo_id.removeprefix("timm/"),
            side="image" if is_timm else "text",
            is_here=True,
            place="cache of the hub",
            license=str(card.get("license") or config.get("license") or ""),
            num_bytes=repo.size_on_disk,
            languages=() if is_timm else tuple([spoken] if isinstance(spoken, str) else map(str, spoken)),
        )


def _stated(path: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    """Return the table that a file of a model states; {} if there is none that can be read."""
    with suppress(OSError, ValueError):
        found = read(path)
        return found if isinstance(found, dict) else {}
    return {}
