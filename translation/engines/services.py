"""Web services that are paid for: their keys, their addresses and what a run may spend."""

import os
from urllib.parse import urlsplit

from data_catalog.base.boundary import about
from data_catalog.base.errors import SettingsError

_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


class Budget:
    """The most characters or tokens that an engine may send in one run, by a setting, and what is already `spent`."""

    def __init__(self, most: int, unit: str, setting: str) -> None:
        self.most, self.unit, self.setting, self.spent = most, unit, setting, 0

    def require(self, needed: int, what: str) -> None:
        """Refuse to send what would exceed the budget."""
        if self.spent + needed > self.most:
            raise SettingsError(
                f"{self.spent:,} {self.unit} were sent, {what} need {needed:,}, and {self.setting} is {self.most:,}. "
                "Increase it and run again; finished translations are kept"
            )


def api_key(variable: str) -> str:
    """Return the key in an environment variable, "" if there is none."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        # It is not valid in an HTTP header, and the errors of clients quote headers.
        raise SettingsError(f"the environment variable {variable} does not contain a key: correct it")
    return key


def is_loopback(url: str) -> bool:
    """Return whether an address is on this machine."""
    return urlsplit(url).hostname in _LOOPBACK_HOSTS


def secure_url(url: str, setting: str) -> str:
    """Return an address with a final slash; refuse one to which a key and captions would travel unencrypted."""
    with about(f"{setting} is not a URL", kind=SettingsError):
        parts = urlsplit(url)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(url))
        is_plain = parts.port != 0 and parts.hostname and not ("@" in parts.netloc or parts.query or parts.fragment)
        is_plain = is_plain and url.isprintable()
    if not is_safe or not is_plain:
        raise SettingsError(
            f"{setting} must be an https address without user and query, or one of this machine, since the key is sent "
            f"to it, got {parts.scheme}://{parts.hostname or ''}"
        )
    return url.rstrip("/") + "/"
