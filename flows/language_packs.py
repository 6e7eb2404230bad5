"""Language packs from TOML: those that ship in `flows/languages`, and any other file that a recipe names."""

import tomllib
from pathlib import Path

from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack
from flows.settings import build

_SHIPPED = Path(__file__).parent / "languages"


def available_language_packs() -> list[str]:
    """Codes of the language packs that ship, sorted."""
    return sorted(path.stem for path in _SHIPPED.glob("*.toml"))


def load_language_packs() -> dict[str, LanguagePack]:
    """All language packs that ship, by code."""
    return {code: load_language_pack(code) for code in available_language_packs()}


def language_pack(code: str) -> LanguagePack:
    """The pack that ships for a language, or one that holds nothing but its code."""
    return load_language_pack(code) if code in available_language_packs() else LanguagePack.minimal(code)


def load_language_pack(name: str) -> LanguagePack:
    """The language pack of a code ("it"), or of a file if the name ends in ".toml".

    Raises:
        ConfigError: no such pack or file, not TOML, an unknown key, a wrong type.
    """
    path = Path(name) if name.endswith(".toml") else _SHIPPED / f"{name}.toml"
    if path.suffix == ".toml" and not name.endswith(".toml") and name not in available_language_packs():
        raise ConfigError(
            f"there is no language pack {name!r}: use one of {', '.join(available_language_packs())}, "
            'or write one and name it in the recipe, language_pack = "xx.toml"'
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the language pack {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the language pack {path} is not TOML: {error}") from error
    return build(LanguagePack, values, str(path.name))
