"""Settings of the translate step: none that the engine would ignore is accepted."""

from dataclasses import fields
from typing import Any

import pytest

from data_catalog.errors import SettingsError
from translation.config import ENGINES, TranslateConfig
from translation.registry import reverse

OTHER_VALUES: dict[str, Any] = {
    "package": ("x",),
    "model": ("x",),
    "beam_size": 4,
    "patience": 1,
    "max_batch_tokens": 512,
    "compute_type": "int8",
    "inter_threads": 1,
    "intra_threads": 2,
    "device": "cpu",
    "max_characters": 7,
    "command": ("x",),
    "version": "2",
    "timeout_s": 7.0,
    "max_chunk_size": 7,
    "settings": {"x": 1},
}
OF_A_COMMAND = {"command", "version", "timeout_s", "max_chunk_size"}
DECODING = OTHER_VALUES.keys() - {"package", "model", "max_characters", "settings"} - OF_A_COMMAND
PLUGIN = "a-package-s"
TAKEN = {
    "argos": DECODING | {"package"},
    "ctranslate2": DECODING | {"model"},
    "transformers": (DECODING | {"model"}) - {"patience", "intra_threads", "inter_threads"},
    "deepl": {"max_characters"},
    "apertium": {"inter_threads"},
    "command": OF_A_COMMAND,
    PLUGIN: {"settings"},
}


@pytest.mark.parametrize("engine", [*ENGINES, PLUGIN])
@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_setting_is_used_or_refused(engine: str, name: str) -> None:
    settings = {"engine": engine, name: OTHER_VALUES[name]}
    if engine in ("ctranslate2", "transformers"):
        settings.setdefault("model", ("x",))
    if engine == "command":
        settings.setdefault("command", ("x",))
    if (engine, name) == ("transformers", "compute_type"):
        settings[name] = "bfloat16"
    if name in TAKEN[engine]:
        assert getattr(TranslateConfig(**settings), name) == settings[name]
        return
    with pytest.raises(SettingsError, match=rf"translate\.{name} is only for"):
        TranslateConfig(**settings)


@pytest.mark.parametrize("name", ["", "a:b", "../x", "x" * 41])
def test_what_no_engine_can_be_called(name: str) -> None:
    with pytest.raises(SettingsError, match=r"translate\.engine must be one of argos"):
        TranslateConfig(engine=name)


@pytest.mark.parametrize(
    "settings", [{"reverse_package": ("x",)}, {"engine": "ctranslate2", "model": ("y",), "reverse_model": ("x",)}]
)
def test_a_model_for_a_way_back_that_is_not_gone(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"translate\.reverse_\w+"):
        TranslateConfig(**settings)
    assert reverse(TranslateConfig(**settings, round_trip=True)).round_trip is False


@pytest.mark.parametrize(
    "config",
    [
        TranslateConfig(engine="deepl", round_trip=True, max_characters=7),
        TranslateConfig(engine="apertium", round_trip=True, pivot="ca", inter_threads=1),
        TranslateConfig(engine="command", round_trip=True, command=("x", "{from}"), version="2", timeout_s=7.0),
        TranslateConfig(engine=PLUGIN, round_trip=True, pivot="ca", settings={"x": 1}),
        TranslateConfig(package=("a", "b"), reverse_package=("c", "d"), round_trip=True, pivot="ca", beam_size=1),
    ],
)
def test_the_way_back_keeps_what_the_engine_uses(config: TranslateConfig) -> None:
    back = reverse(config)
    changed = {field.name for field in fields(config) if getattr(back, field.name) != getattr(config, field.name)}
    assert changed <= {"package", "reverse_package", "round_trip"}
    assert back.package == config.reverse_package
