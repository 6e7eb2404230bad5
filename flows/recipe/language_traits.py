"""A language as this installation knows it, and what can be said of it, for `vernaclip doctor --language xx`."""

from dataclasses import dataclass
from pathlib import Path

from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack
from flows.recipe.language_packs import available_language_packs, load_language_pack, load_language_packs

ISO_639_LENGTHS = (2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trait:
    """One thing that a language has here, or lacks.

    Args:
        topic: what it is about, in a word or two.
        found: whether it is there.
        text: what was found or is missing.
        cost: what comes of it that it is missing, "" if it is not.
        advice: what to do about that, "" if there is nothing to do.
        needed: no build can start without it.
    """

    topic: str
    found: bool
    text: str
    cost: str = ""
    advice: str = ""
    needed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language as the pipeline knows it.

    Args:
        pack: its pack, of nothing but the code where there is none.
        file: name of the pack's file; where there is none, the one that it would have.
        has_pack: whether there is one.
        ships: whether it comes with vernaclip.
    """

    pack: LanguagePack
    file: str
    has_pack: bool
    ships: bool

    @property
    def title(self) -> str:
        """Name and code, as "Greek (el)"."""
        return f"{self.pack.name} ({self.pack.code})" if self.pack.name else self.pack.code

    def set_in_pack(self, field: str) -> str:
        """Advice to set a field of the pack."""
        return f"set {field} in {f'a copy of {self.file}' if self.ships else self.file} (docs/languages.md)"


def find_language(name: str) -> Language:
    """The language of a code ("el"), or of a pack's file if the name ends in ".toml".

    Raises:
        ConfigError: it is no code, that of a pack we have under another code, or a file that cannot be loaded.
    """
    if name.endswith(".toml"):
        return Language(pack=load_language_pack(name), file=Path(name).name, has_pack=True, ships=False)
    file = f"{name}.toml"
    if name in available_language_packs():
        return Language(pack=load_language_pack(name), file=file, has_pack=True, ships=True)
    if len(name) not in ISO_639_LENGTHS:
        raise ConfigError(f"--language takes an ISO 639 code such as el, or a language pack's TOML file, got {name!r}")
    for pack in load_language_packs().values():
        if pack.iso639_3 == name:
            raise ConfigError(f"{pack.name} is called {pack.code} here: use --language {pack.code}")
    return Language(pack=LanguagePack.minimal(name), file=file, has_pack=False, ships=False)
