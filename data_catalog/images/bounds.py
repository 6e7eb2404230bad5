"""Range checks for the settings of this package."""

from data_catalog.errors import ConfigError


def require_between(name: str, value: float, low: float, high: float) -> None:
    """Raise `ConfigError`, naming the setting, unless low <= value <= high."""
    if not low <= value <= high:
        raise ConfigError(f"{name} must be between {low:g} and {high:g}, got {value:g}")
