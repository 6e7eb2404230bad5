"""List the pretrained towers that can be used here: in Python packages, in the hub's cache, recommended by the pack."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_catalog.base.language_pack import LanguagePack
from training.towers.packaged import PACKAGED, installed
from training.towers.pretrained import WEIGHT_FILES

MULTILINGUAL = "multilingual"  # in model cards
_MOST_LISTED = 6  # languages of a tower in a table


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """A pretrained tower.

    Args:
        name: by which a recipe names it.
        side: "image" or "text".
        is_here: it can be used without a network.
        place: the package or cache that has it, or how to get it.
        license: as its authors state it; "" if that is not known here.
        num_bytes: size of its weights; 0 if that is not known here.
        languages: codes of the languages that a text encoder reads, or "multilingual"; () if that is not known.
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

    def _languages(self) -> str:
        count = len(self.languages)
        return f"{count} languages" if count > _MOST_LISTED else ", ".join(self.languages)

    def row(self) -> dict[str, object]:
        """Return the tower as one row of a table."""
        return {
            "tower": self.name,
            "reads": self._languages() or ("?" if self.side == "text" else "images"),
            "MB": round(self.num_bytes / 1e6) or None,
            "license": self.license or "?",
            "where": self.place,
            "use": f"--set train.{'image_tower' if self.side == 'image' else 'text_encoder'}={self.name}",
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
        is_here = package is not None
        size = Path(str(package.locate_file(tower.file))) if package is not None else None
        yield Tower(
            name=name,
            side="image" if tower.architecture else "text",
            is_here=is_here,
            place=f"package {tower.package}" if is_here else f"pip install {tower.distribution}",
            license=tower.license,
            num_bytes=size.stat().st_size if size is not None and size.is_file() else 0,
            languages=tuple(tower.languages.split()),
        )


def _cached() -> Iterator[Tower]:
    """Yield the models of the hub's cache that are towers; a name on the hub is enough to use them."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return
    for repo in sorted((repo for repo in repos if repo.repo_type == "model"), key=lambda repo: repo.repo_id):
        revision = max(repo.revisions, key=lambda each: each.last_modified, default=None)
        if revision is None or (config := _config(revision.snapshot_path)) is None:
            continue
        card, is_timm = _card(revision.snapshot_path / "README.md"), repo.repo_id.startswith("timm/")
        spoken = card.get("language") or ()
        yield Tower(
            name=repo.repo_id.removeprefix("timm/"),
            side="image" if is_timm else "text",
            is_here=True,
            place="cache of the hub",
            license=str(card.get("license") or config.get("license") or ""),
            num_bytes=repo.size_on_disk,
            languages=() if is_timm else tuple([spoken] if isinstance(spoken, str) else map(str, spoken)),
        )


def _config(folder: Path) -> dict[str, Any] | None:
    """Return the config of a tower; None if the folder has none, or that of another kind of model, or no weights."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    try:
        found = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    is_tower = isinstance(found, dict) and (
        "architecture" in found or found.get("model_type") in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    return found if is_tower and any((folder / name).is_file() for name in WEIGHT_FILES) else None


def _card(path: Path) -> dict[str, Any]:
    """Return the head of a model card; {} if there is none that can be read."""
    from huggingface_hub import ModelCard

    try:
        return dict(ModelCard.load(path).data.to_dict())
    except (OSError, ValueError):
        return {}
