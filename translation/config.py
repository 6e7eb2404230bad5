"""Settings of the translate step."""

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from data_catalog.errors import SettingsError
from data_catalog.settings import HOW, how, name_or_path

# Ours. Packages add engines of other names (`translation.engines.plugins`), which are looked for when one is opened:
# whoever trains by a recipe need not have installed what it was translated with.
ENGINES = ("argos", "ctranslate2", "transformers", "deepl", "apertium", "command")
ENGINE_NAME = r"[a-z][a-z0-9_-]{0,39}"
COMPUTE_TYPES = ("default", "auto", "int8", "int8_float32", "int16", "float32", "int8_float16", "float16", "bfloat16")
TORCH_COMPUTE_TYPES = ("default", "float32", "float16", "bfloat16")
DEVICES = ("cpu", "cuda", "auto")
_CTRANSLATE2 = ("argos", "ctranslate2")
_DECODERS = (*_CTRANSLATE2, "transformers")
_OF_NAMED_MODELS = ("ctranslate2", "transformers")
# Engines that use a setting; all use those that are not here. Only packages' engines use `settings`.
USED_BY: Mapping[str, tuple[str, ...]] = {
    "package": ("argos",),
    "reverse_package": ("argos",),
    "model": _OF_NAMED_MODELS,
    "reverse_model": _OF_NAMED_MODELS,
    **dict.fromkeys(("beam_size", "max_batch_tokens", "compute_type", "device"), _DECODERS),
    **dict.fromkeys(("patience", "intra_threads"), _CTRANSLATE2),
    "inter_threads": (*_CTRANSLATE2, "apertium"),
    "max_characters": ("deepl",),
    **dict.fromkeys(("command", "version", "timeout_s", "max_chunk_size"), ("command",)),
    "settings": (),
}
FROM, TO = "{from}", "{to}"  # in the words of a command
# Padded source tokens of a batch, times hypotheses, and most tokens. On two cores, a model of published size translated
# 109 captions a second with 4 hypotheses and 512 or 1,024 tokens, 98 with 2,048, 82 with 4,096; with 2 hypotheses or 1
# it did best at 1,024 to 2,048. A GPU wants more at once; its numbers are a guess that nobody measured.
HYPOTHESIS_TOKENS = {"cpu": 4_096, "cuda": 65_536}
MOST_TOKENS = {"cpu": 2_048, "cuda": 32_768}


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslateConfig:
    """Settings of translation: the engine, its models, its speed.

    Settings that the engine does not use (`USED_BY`) must have their defaults: none is ignored in silence. The engine's
    fingerprint holds what decides texts and scores: the content of the packages or models, the pivot, and `beam_size`,
    `patience`, `max_batch_tokens`, `compute_type`, `intra_threads` and `device`. `round_trip` and `reverse_*` are not
    in it, which are about the way back, nor are `inter_threads`, `max_characters`, `timeout_s` and `max_chunk_size`,
    which change no text. What of `settings` counts is for the package to say.
    """

    engine: str = "argos"
    """Engine that translates: "argos" (an Argos Translate package), "ctranslate2" (a converted OPUS-MT, M2M or NLLB
    model), "transformers" (any sequence-to-sequence model of Hugging Face), "deepl" (its service; the key is in the
    environment), "apertium" (its command), "command" (a program of yours), or the name of an engine that an installed
    package announces."""
    package: tuple[str, ...] = name_or_path(())
    """Package of argos: an `.argosmodel` file or the folder of an installed package; two with a pivot. Empty takes the
    newest installed one that fits."""
    model: tuple[str, ...] = name_or_path(())
    """Model of ctranslate2: the folder of the converted model, tokenizer included. Of transformers: a folder, or a name
    on the hub such as "facebook/nllb-200-distilled-600M", if need be with "@" and a revision. Two with a pivot."""
    pivot: str = ""
    """Code of a language through which the engine goes, such as "ca" for English to Catalan to Italian. Empty goes
    straight."""
    round_trip: bool = False
    """Translate the results back as well, and compare them with their sources (`round_trip_chrf`)."""
    reverse_package: tuple[str, ...] = name_or_path(())
    """Package of argos for the way back, like `package`."""
    reverse_model: tuple[str, ...] = name_or_path(())
    """Model of ctranslate2 or transformers for the way back, like `model`."""
    beam_size: int = 2
    """Hypotheses kept while decoding; Argos Translate takes 4. The defaults of this and `patience` follow from
    `benchmarks/translation_quality.py`, whose numbers are in docs/translation.md."""
    patience: int = 2
    """Factor of `beam_size`: decoding ends when so many hypotheses have ended. Argos Translate's is 1: then two poor
    hypotheses that end early can keep the good one from being found, the more so the smaller the beam."""
    max_batch_tokens: int = 0
    """Padded source tokens of a batch. 0 takes what suits device and beam."""
    compute_type: str = "default"
    """Number type of CTranslate2: "default" (what the model was stored in), "auto", "int8", "int8_float32", "int16",
    "float32", "int8_float16", "float16" or "bfloat16". Of transformers: "float32" (the default), "float16" or
    "bfloat16"."""
    inter_threads: int = how(0)
    """Batches that are translated at the same time. 0 takes one for each CPU."""
    intra_threads: int = 1
    """Threads that share a batch."""
    device: str = "auto"
    """Device that translates: "cpu", "cuda", or "auto" for a GPU where there is one."""
    max_characters: int = how(500_000)
    """Most characters of captions that deepl may be sent in one run, each way. It is paid by them."""
    command: tuple[str, ...] = how(())
    """Program of the engine command, and its arguments, a text each. It reads one caption a line and writes one
    translation a line, flushed. "{from}" and "{to}" in a word stand for the codes of the languages."""
    version: str = how("")
    """Version of the command, any text. Another one has everything translated anew, as other files of the command
    have."""
    timeout_s: float = how(600.0)
    """Seconds that the command may take for 100 captions before it is killed."""
    max_chunk_size: int = how(0)
    """Most captions of the command that a crash may lose, and so be paid for twice. 0 takes 20,000."""
    settings: Mapping[str, Any] = field(default_factory=dict, metadata=HOW)
    """Settings of an engine that a package brings, a table. The package says what they are."""

    def __post_init__(self) -> None:
        """Raise SettingsError for values that cannot work."""
        for name in ("beam_size", "patience", "intra_threads", "max_characters"):
            if getattr(self, name) < 1:
                raise SettingsError(f"translate.{name} must be positive, got {getattr(self, name)}")
        for name in ("inter_threads", "max_batch_tokens", "max_chunk_size"):
            if getattr(self, name) < 0:
                raise SettingsError(f"translate.{name} must not be negative, got {getattr(self, name)}")
        if not re.fullmatch(ENGINE_NAME, self.engine):
            raise SettingsError(
                f"translate.engine must be one of {', '.join(ENGINES)}, or an engine of a package, got {self.engine!r}"
            )
        compute_types = TORCH_COMPUTE_TYPES if self.engine == "transformers" else COMPUTE_TYPES
        for name, allowed in (("compute_type", compute_types), ("device", DEVICES)):
            if getattr(self, name) not in allowed:
                raise SettingsError(
                    f"translate.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        self._require_settings_of_the_engine()
        self._require_models_of_the_route()
        self._require_a_command()
        _require_plain(self.settings, "translate.settings")

    def _require_settings_of_the_engine(self) -> None:
        """Refuse settings that the engine would ignore."""
        for setting in fields(self):
            default = {} if setting.default is MISSING else setting.default
            users = USED_BY.get(setting.name)
            is_used = users is None or self.engine in (users or {self.engine}.difference(ENGINES))
            if not is_used and getattr(self, setting.name) != default:
                shown = {"()": "[]", "{}": "{}", "''": '""'}.get(repr(default), default)
                of = " and ".join(users or ("engines of packages",))
                raise SettingsError(
                    f"translate.{setting.name} is for {of}, and the engine {self.engine!r} would ignore it: leave "
                    f"it out, or --set translate.{setting.name}={shown}"
                )

    def _require_models_of_the_route(self) -> None:
        """A model beyond the route's last leg would be ignored, as would one for a way back that is not gone."""
        most = 2 if self.pivot else 1
        for name in ("package", "model", "reverse_package", "reverse_model"):
            given = getattr(self, name)
            if given and len(given) != most:
                raise SettingsError(f"translate.{name} must name {most}, one a pair of languages, got {given}")
            if given and name.startswith("reverse_") and not self.round_trip:
                raise SettingsError(
                    f"translate.{name} is for the way back, which the engine {self.engine!r} does not go: set "
                    f"translate.round_trip = true, or leave {name} out (--set translate.{name}=[])"
                )
        if self.engine == "deepl" and self.pivot:
            raise SettingsError("translate.pivot is not for the engine 'deepl', which translates every pair directly")
        if self.engine in _OF_NAMED_MODELS and not self.model:
            what = {"ctranslate2": "the folder of a converted model", "transformers": "a folder, or a name on the hub"}
            raise SettingsError(f"translate.model is missing: name {what[self.engine]}")
        if self.engine in _OF_NAMED_MODELS and self.round_trip and not self.reverse_model:
            raise SettingsError(
                "translate.reverse_model is missing: translate.round_trip needs a model for the way back"
            )

    def _require_a_command(self) -> None:
        """Refuse a command that is none, or that is to go two ways and is told no languages."""
        if not 0 < self.timeout_s < math.inf:
            raise SettingsError(f"translate.timeout_s must be positive, got {self.timeout_s}")
        if self.engine != "command":
            return
        if not self.command or not self.command[0] or any("\0" in word for word in self.command):
            raise SettingsError(
                'translate.command is missing: give the program and its arguments, such as ["python3", "mine.py"]'
            )
        is_told = any(FROM in word or TO in word for word in self.command)
        for name in ("pivot", "round_trip"):
            if getattr(self, name) and not is_told:
                raise SettingsError(
                    f"translate.{name} asks the command for more than one pair of languages: let a word of "
                    f'translate.command say which, such as "--to={TO}"'
                )


def _require_plain(value: object, path: str) -> None:
    """Refuse what no recipe can hold: anything but texts, numbers, true and false, lists and tables."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            _require_plain(item, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _require_plain(item, f"{path}[{number}]")
    elif not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        raise SettingsError(
            f"{path} must be a text, a number, true or false, or a list or table of these, got {value!r}"
        )


def default_batch_tokens(device: str, beam_size: int) -> int:
    """Padded source tokens of a batch where the settings give none."""
    return max(1, min(MOST_TOKENS[device], HYPOTHESIS_TOKENS[device] // beam_size))
