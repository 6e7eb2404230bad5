"""Licenses as the Hugging Face hub spells them, which refuses a card with any other."""

import difflib
import re
from importlib.resources import files

from data_catalog.errors import SettingsError

OTHER = "other"
LIST_FILE = "hub_licenses.txt"  # a list that no package has which we depend on
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_LINK = re.compile(r"LICENSE|LICENSE\.md|https?://[^\s\"'<>]+")


def hub_licenses() -> list[str]:
    """The identifiers that the hub takes."""
    text = (files("training.exports") / LIST_FILE).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


def require_hub_license(license: str, *, name: str = "", link: str = "") -> None:
    """Refuse what the hub would.

    Args:
        license: in the hub's spelling; "" where none is stated.
        name: of a license that the hub does not know, which goes with `other` and with nothing else.
        link: to the text of that; "" for none.

    Raises:
        SettingsError: the hub knows no such license, or name and link do not go with it.
    """
    if license and license not in (known := hub_licenses()):
        near = difflib.get_close_matches(license.lower(), known, n=3)
        meant = f"did you mean {' or '.join(near)}? If it is none of the hub's" if near else "if it is none of those"
        raise SettingsError(
            f"the hub knows no license {license!r} (https://huggingface.co/docs/hub/repositories-licenses): {meant}, "
            f"say --license {OTHER} --license-name NAME"
        )
    if license == OTHER and not name:
        raise SettingsError(
            f"--license {OTHER} wants the license's own name: say --license-name, such as my-license-1.0"
        )
    if license != OTHER and (name or link):
        raise SettingsError(
            f"--license-name and --license-link go with --license {OTHER}, for what the hub has no word"
        )
    if name and not _NAME.fullmatch(name):
        raise SettingsError(
            f"--license-name is letters, digits, '.', '-' and '_', such as my-license-1.0, got {name!r}"
        )
    if link and not _LINK.fullmatch(link):
        raise SettingsError(
            "--license-link is an address (https://...), or LICENSE or LICENSE.md for a file of that name that you add "
            f"to the export, got {link!r}"
        )
