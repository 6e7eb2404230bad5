"""Settings of the translate step."""

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from data_catalog.base.boundary import about
from data_catalog.base.errors import SettingsError
from data_catalog.base.settings import HOW, how, name_or_path, path_setting

# Built-in engines. Installed packages add others (`translation.engines.plugins`). Those are looked up when an engine is
# opened, so that training from a recipe does not need the package that translated its captions.
ENGINES = ("argos", "ctranslate2", "transformers", "deepl", "openai", "apertium", "command")
ENGINE_NAME = r"[a-z][a-z0-9_-]{0,39}"
ComputeType = Literal[
    "default", "auto", "int8", "int8_float32", "int16", "float32", "int8_float16", "float16", "bfloat16"
]
TORCH_COMPUTE_TYPES = ("default", "float32", "float16", "bfloat16")
_CTRANSLATE2 = ("argos", "ctranslate2")
_DECODERS = (*_CTRANSLATE2, "transformers")
_MODEL_ENGINES = ("ctranslate2", "transformers")
PACKAGES = "engines of installed packages"
# Engines that use a setting. All engines use the settings that are not listed.
USED_BY: Mapping[str, tuple[str, ...]] = {
    "package": ("argos",),
    "reverse_package": ("argos",),
    "model": (*_MODEL_ENGINES, "openai"),
    "reverse_model": _MODEL_ENGINES,
    **dict.fromkeys(("beam_size", "max_batch_tokens", "compute_type", "device"), _DECODERS),
    **dict.fromkeys(("patience", "intra_threads"), _CTRANSLATE2),
    "inter_threads": (*_CTRANSLATE2, "apertium"),
    "max_characters": ("deepl",),
    **dict.fromkeys(("base_url", "prompt", "glossary", "max_tokens"), ("openai",)),
    **dict.fromkeys(("command", "mode"), ("command",)),
    **dict.fromkeys(("version", "timeout_s", "max_chunk_size"), ("openai", "command")),
    "settings": ("openai", PACKAGES),
}
# What `translate.model` is for the engines that must have one.
_MODELS = {
    "ctranslate2": "the folder of a converted model",
    "transformers": "a folder, or a name on the hub",
    "openai": "its name on the server",
}
FROM, TO = "{from}", "{to}"  # placeholders in the arguments of a command
# Padded source tokens of a batch times hypotheses, and most padded source tokens. On two cores, a model of published
# size translated 109 captions a second with 4 hypotheses and 512 or 1,024 tokens, 98 with 2,048 and 82 with 4,096. With
# 1 or 2 hypotheses, 1,024 to 2,048 tokens were fastest. A GPU needs larger batches; its numbers are not measured.
HYPOTHESIS_TOKENS = {"cpu": 4_096, "cuda": 65_536}
MOST_TOKENS = {"cpu": 2_048, "cuda": 32_768}


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslateConfig:
    """Settings of translation: the engine, its models, its speed.

    Settings that the engine does not use (`USED_BY`) must have their defaults, so that none is ignored silently. The
    engine's fingerprint covers what decides texts and scores: the content of the packages or models, the pivot, and
    `beam_size`, `patience`, `max_batch_tokens`, `compute_type`, `intra_threads` and `device`. It does not cover
    `round_trip` and `reverse_*`, which concern the back-translation, nor `inter_threads`, `max_characters`, `timeout_s`
    and `max_chunk_size`, which change no text. An engine of an installed package decides which of `settings` count.
    """

    engine: str = "argos"
    """Translation engine, built in or installed; see docs/translation.md."""
    package: tuple[str, ...] = name_or_path(())
    """argos: an `.argosmodel` file or the folder of an installed package (by default the newest); two with a pivot."""
    model: tuple[str, ...] = name_or_path(())
    """ctranslate2: folder of the converted model. transformers: folder, or name on the Hugging Face hub, optionally
    with "@" and a revision. Two with a pivot. openai: name on the server."""
    pivot: str = ""
    """Code of a pivot language: "ca" translates English to Catalan to Italian. By default, no pivot."""
    round_trip: bool = False
    """Translate the results back, and compare them with their sources (`round_trip_chrf`)."""
    reverse_package: tuple[str, ...] = name_or_path(())
    """argos: package that translates back, given like `package`."""
    reverse_model: tuple[str, ...] = name_or_path(())
    """ctranslate2, transformers: model that translates back, given like `model`."""
    beam_size: Annotated[int, Ge(1)] = 2
    """Number of hypotheses kept while decoding. Argos Translate uses 4."""
    patience: Annotated[int, Ge(1)] = 2
    """Decoding stops after `patience` times `beam_size` complete hypotheses. Argos Translate uses 1."""
    max_batch_tokens: Annotated[int, Ge(0)] = 0
    """Maximum number of padded source tokens in a batch. 0 chooses it by device and beam."""
    compute_type: ComputeType = "default"
    """Number type. CTranslate2: "default" (as stored in the model), "auto", "int8", "int8_float32", "int16", "float32",
    "int8_float16", "float16" or "bfloat16". transformers: "float32" (the default), "float16" or "bfloat16"."""
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
    mode: Literal["lines", "batch"] = how("lines")
    """command: "lines", or "batch" for a program that answers at the end of its input."""
    version: str = how("")
    """command, openai: its version, any text. A new version translates everything again."""
    timeout_s: Annotated[float, Gt(0)] = how(600.0)
    """command: seconds for 100 captions or a batch, before it is killed. openai: for a request."""
    max_chunk_size: Annotated[int, Ge(0)] = how(0)
    """command, openai: maximum captions that a crash may lose and that you may pay for twice. 0 for no limit; openai:
    20."""
    settings: Mapping[str, Any] = field(default_factory=dict, metadata=HOW)
    """Settings of an engine from an installed package. openai: fields of requests."""

    def __post_init__(self) -> None:
        if not re.fullmatch(ENGINE_NAME, self.engine):
            raise SettingsError(
                f"translate.engine must be one of {', '.join(ENGINES)}, or the name of an engine of an installed "
                f"package, got {self.engine!r}"
            )
        self._require_settings_of_the_engine()
        self._require_models_of_the_route()
        if self.engine == "command":
            self._require_a_command()
        with about("translate.settings", kind=SettingsError):
            json.dumps(self.settings, allow_nan=False)  # fingerprints and factories get what a recipe can contain

    def _require_settings_of_the_engine(self) -> None:
        """Refuse settings that the engine would ignore, or does not know."""
        for setting in fields(self):
            default = {} if setting.default is MISSING else setting.default
            users = USED_BY.get(setting.name)
            is_used = users is None or (self.engine if self.engine in ENGINES else PACKAGES) in users
            if not is_used and getattr(self, setting.name) != default:
                shown = {"()": "[]", "{}": "{}", "''": '""'}.get(repr(default), default)
                raise SettingsError(
                    f"translate.{setting.name} is only for {', '.join(users or ())}; the engine {self.engine!r} "
                    f"does not use it. Remove it, or give --set translate.{setting.name}={shown}"
                )
        if self.engine == "transformers" and self.compute_type not in TORCH_COMPUTE_TYPES:
            raise SettingsError(
                f"translate.compute_type must be one of {', '.join(TORCH_COMPUTE_TYPES)} for the engine "
                f"'transformers', got {self.compute_type!r}"
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
        if self.engine in _MODEL_ENGINES and self.round_trip and not self.reverse_model:
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


def default_batch_tokens(device: str, beam_size: int) -> int:
    """Return the padded source tokens of a batch for settings that name none."""
    return max(1, min(MOST_TOKENS[device], HYPOTHESIS_TOKENS[device] // beam_size))
