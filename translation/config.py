"""Settings of the translate step."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from data_catalog.base.boundary import about
from data_catalog.base.errors import SettingsError
from data_catalog.base.settings import HOW, OneOf, how, name_or_path, path_setting

ENGINES = ("argos", "ctranslate2", "deepl", "openai", "command")
ComputeType = Literal[
    "default", "auto", "int8", "int8_float32", "int16", "float32", "int8_float16", "float16", "bfloat16"
]
# Engines that use a setting. All engines use the settings that are not listed.
USED_BY: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("package", "reverse_package"), ("argos",)),
    "model": ("ctranslate2", "openai"),
    "reverse_model": ("ctranslate2",),
    **dict.fromkeys(("beam_size", "patience", "max_batch_tokens", "compute_type", "device"), ("argos", "ctranslate2")),
    **dict.fromkeys(("intra_threads", "inter_threads"), ("argos", "ctranslate2")),
    "max_characters": ("deepl",),
    **dict.fromkeys(("base_url", "prompt", "glossary", "max_tokens", "settings"), ("openai",)),
    "command": ("command",),
    **dict.fromkeys(("version", "timeout_s", "max_chunk_size"), ("openai", "command")),
}
# What `translate.model` is for the engines that must have one.
_MODELS = {"ctranslate2": "the folder of a converted model", "openai": "its name on the server"}
FROM, TO = "{from}", "{to}"  # placeholders in the arguments of a command


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslateConfig:
    """Settings of translation: the engine, its models, its speed.

    Settings that the engine does not use (`USED_BY`) must have their defaults, so that none is ignored silently. The
    engine's fingerprint covers what decides texts and scores: the content of the packages or models, the pivot, and
    `beam_size`, `patience`, `max_batch_tokens`, `compute_type`, `intra_threads` and `device`. It does not cover
    `round_trip` and `reverse_*`, which concern the back-translation, nor `inter_threads`, `max_characters`, `timeout_s`
    and `max_chunk_size`, which change no text.
    """

    engine: Annotated[str, OneOf(ENGINES)] = "argos"
    """Translation engine; see docs/translation.md."""
    package: tuple[str, ...] = name_or_path(())
    """argos: an `.argosmodel` file or the folder of an installed package (by default the newest); two with a pivot."""
    model: tuple[str, ...] = name_or_path(())
    """ctranslate2: folder of the converted model; two with a pivot. openai: name on the server."""
    pivot: str = ""
    """Code of a pivot language: "ca" translates English to Catalan to Italian. By default, no pivot."""
    round_trip: bool = False
    """Translate the results back, and compare them with their sources (`round_trip_chrf`)."""
    reverse_package: tuple[str, ...] = name_or_path(())
    """argos: package that translates back, given like `package`."""
    reverse_model: tuple[str, ...] = name_or_path(())
    """ctranslate2: model that translates back, given like `model`."""
    beam_size: Annotated[int, Ge(1)] = 2
    """Number of hypotheses kept while decoding. Argos Translate uses 4."""
    patience: Annotated[int, Ge(1)] = 2
    """Decoding stops after `patience` times `beam_size` complete hypotheses. Argos Translate uses 1."""
    max_batch_tokens: Annotated[int, Ge(0)] = 0
    """Maximum number of padded source tokens in a batch. 0 chooses it by device and beam."""
    compute_type: ComputeType = "default"
    """Number type: "default" (as stored in the model), "auto", "int8", "int8_float32", "int16", "float32",
    "int8_float16", "float16" or "bfloat16"."""
    inter_threads: Annotated[int, Ge(0)] = how(0)
    """Number of batches translated at the same time. 0: one per CPU."""
    intra_threads: Annotated[int, Ge(1)] = 1
    """Number of threads per batch."""
    device: Literal["cpu", "cuda", "auto"] = "auto"
    """Device: "cpu", "cuda", or "auto" for a GPU if there is one."""
    max_characters: Annotated[int, Ge(1)] = how(500_000)
    """deepl: maximum number of characters that one run may send in each direction."""
    base_url: str = how("")
    """openai: address of the server, such as "http://127.0.0.1:8080/v1"."""
    prompt: str = how("Translate captions of images from {from} to {to}.")
    """openai: the task, with the languages' names."""
    glossary: str = path_setting("")
    """openai: TSV file of terms and translations. A request names those that its captions contain."""
    max_tokens: Annotated[int, Ge(1)] = how(2_000_000)
    """openai: maximum number of tokens that one run may use."""
    command: tuple[str, ...] = how(())
    """command: program and arguments. "{from}" and "{to}" become the language codes."""
    version: str = how("")
    """command, openai: its version, any text. A new version translates everything again."""
    timeout_s: Annotated[float, Gt(0)] = how(600.0)
    """command: seconds for a batch, before it is killed. openai: for a request."""
    max_chunk_size: Annotated[int, Ge(0)] = how(0)
    """command, openai: maximum captions that a crash may lose and that you may pay for twice. 0 for no limit; openai:
    20."""
    settings: Mapping[str, Any] = field(default_factory=dict, metadata=HOW)
    """openai: fields of requests."""

    def __post_init__(self) -> None:
        self._require_settings_of_the_engine()
        self._require_models_of_the_route()
        if self.engine == "command":
            self._require_a_command()
        with about("translate.settings", kind=SettingsError):
            json.dumps(self.settings, allow_nan=False)  # fingerprints get what a recipe can contain

    def _require_settings_of_the_engine(self) -> None:
        """Refuse settings that the engine would ignore."""
        for setting in fields(self):
            default = {} if setting.default is MISSING else setting.default
            users = USED_BY.get(setting.name, ENGINES)
            if self.engine not in users and getattr(self, setting.name) != default:
                shown = {"()": "[]", "{}": "{}", "''": '""'}.get(repr(default), default)
                raise SettingsError(
                    f"translate.{setting.name} is only for {', '.join(users)}; the engine {self.engine!r} "
                    f"does not use it. Remove it, or give --set translate.{setting.name}={shown}"
                )

    def _require_models_of_the_route(self) -> None:
        """Check that there is one model for each leg of the route, and none for a round trip that is not made."""
        if self.engine in ("deepl", "openai") and self.pivot:
            raise SettingsError(
                f"translate.pivot cannot be used with the engine {self.engine!r}, which translates every pair directly:"
                " remove the pivot"
            )
        most = 2 if self.pivot else 1
        for name in ("package", "model", "reverse_package", "reverse_model"):
            given = getattr(self, name)
            if given and len(given) != most:
                raise SettingsError(f"translate.{name} must name one, or two with translate.pivot, got {list(given)}")
            if given and name.startswith("reverse_") and not self.round_trip:
                raise SettingsError(
                    f"translate.{name} is for a round trip, which is off: set translate.round_trip = true, or remove "
                    f"{name} (--set translate.{name}=[])"
                )
        if self.engine in _MODELS and not self.model:
            raise SettingsError(f"translate.model is missing: give {_MODELS[self.engine]}")
        if self.engine == "ctranslate2" and self.round_trip and not self.reverse_model:
            raise SettingsError(
                "translate.reverse_model is missing: translate.round_trip needs a model that translates back"
            )

    def _require_a_command(self) -> None:
        """Refuse an empty command, and one for two pairs of languages that has no language placeholder."""
        if not self.command or not self.command[0] or any("\0" in word for word in self.command):
            raise SettingsError(
                'translate.command is missing: give the program and its arguments, such as ["python3", "mine.py"]'
            )
        wanting = [name for name in ("pivot", "round_trip") if getattr(self, name)]
        if wanting and not any(FROM in word or TO in word for word in self.command):
            raise SettingsError(
                f"translate.{wanting[0]} needs the command for more than one pair of languages: pass the languages in "
                f'an argument of translate.command, such as "--to={TO}"'
            )
