"""Settings of the translate step."""

from dataclasses import dataclass, fields

from data_catalog.errors import ConfigError
from data_catalog.settings import how

ENGINES = ("argos", "ctranslate2", "deepl", "apertium")
COMPUTE_TYPES = ("default", "auto", "int8", "int8_float32", "int16", "float32", "int8_float16", "float16", "bfloat16")
DEVICES = ("cpu", "cuda", "auto")
_DECODERS = ("argos", "ctranslate2")
# Engines that use a setting; all use those that are not here.
USED_BY = {
    "package": ("argos",),
    "reverse_package": ("argos",),
    "model": ("ctranslate2",),
    "reverse_model": ("ctranslate2",),
    **dict.fromkeys(
        ("beam_size", "patience", "max_batch_tokens", "compute_type", "intra_threads", "device"), _DECODERS
    ),
    "inter_threads": (*_DECODERS, "apertium"),
    "max_characters": ("deepl",),
}
# Padded source tokens of a batch, times hypotheses, and most tokens. On two cores, a model of published size translated
# 109 captions a second with 4 hypotheses and 512 or 1,024 tokens, 98 with 2,048, 82 with 4,096; with 2 hypotheses or 1
# it did best at 1,024 to 2,048. A GPU wants more at once; its numbers are a guess that nobody measured.
HYPOTHESIS_TOKENS = {"cpu": 4_096, "cuda": 65_536}
MOST_TOKENS = {"cpu": 2_048, "cuda": 32_768}


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslateConfig:
    """Which engine translates, and how.

    Settings that the engine does not use (`USED_BY`) must have their defaults: none is ignored in silence. The engine's
    fingerprint holds what decides texts and scores: the content of the packages or models, the pivot, and `beam_size`,
    `patience`, `max_batch_tokens`, `compute_type`, `intra_threads` and `device`. `round_trip` and `reverse_*` are not
    in it, which are about the way back, nor are `inter_threads` and `max_characters`, which change no text.

    Args:
        engine: "argos" (an Argos Translate package), "ctranslate2" (a converted OPUS-MT, M2M or NLLB model), "deepl"
            (its service; the key is in the environment) or "apertium" (its command).
        package: argos: an `.argosmodel` file or the folder of an installed package; none: the newest installed one that
            fits. With a pivot, two.
        model: ctranslate2: the folder of the converted model, tokenizer included. With a pivot, two.
        pivot: language through which the engine goes, such as "ca" for English to Catalan to Italian; "" for none.
        round_trip: translate the results back as well, and compare them with their sources (`round_trip_chrf`).
        reverse_package: like `package`, for the way back.
        reverse_model: like `model`, for the way back.
        beam_size: hypotheses kept while decoding; Argos Translate takes 4. The defaults of this and `patience` follow
            from `benchmarks/translation_quality.py`, whose numbers are in docs/translation.md.
        patience: decoding ends when this many times `beam_size` hypotheses have ended. Argos Translate's is 1: then two
            poor hypotheses that end early can keep the good one from being found, the more so the smaller the beam.
        max_batch_tokens: padded source tokens of a batch; 0 for what suits device and beam (`default_batch_tokens`).
        compute_type: of CTranslate2; "default" is what the model was stored in.
        inter_threads: batches translated at the same time, 0 for one per CPU.
        intra_threads: threads that share a batch.
        device: "cpu", "cuda", or "auto" for a GPU where CTranslate2 finds one.
        max_characters: deepl: most characters of captions that one run may send each way; it is paid by them.
    """

    engine: str = "argos"
    package: tuple[str, ...] = how(())
    model: tuple[str, ...] = how(())
    pivot: str = ""
    round_trip: bool = False
    reverse_package: tuple[str, ...] = how(())
    reverse_model: tuple[str, ...] = how(())
    beam_size: int = 2
    patience: int = 2
    max_batch_tokens: int = 0
    compute_type: str = "default"
    inter_threads: int = how(0)
    intra_threads: int = 1
    device: str = "auto"
    max_characters: int = how(500_000)

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot work."""
        for name in ("beam_size", "patience", "intra_threads", "max_characters"):
            if getattr(self, name) < 1:
                raise ConfigError(f"translate.{name} must be positive, got {getattr(self, name)}")
        for name in ("inter_threads", "max_batch_tokens"):
            if getattr(self, name) < 0:
                raise ConfigError(f"translate.{name} must not be negative, got {getattr(self, name)}")
        for name, allowed in (("engine", ENGINES), ("compute_type", COMPUTE_TYPES), ("device", DEVICES)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"translate.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        self._require_settings_of_the_engine()
        self._require_models_of_the_route()

    def _require_settings_of_the_engine(self) -> None:
        """What the engine does not use must be left at its default."""
        for field in fields(self):
            engines = USED_BY.get(field.name, ENGINES)
            if self.engine not in engines and getattr(self, field.name) != field.default:
                default = "[]" if field.default == () else field.default
                raise ConfigError(
                    f"translate.{field.name} is for {' and '.join(engines)}, and the engine {self.engine!r} would "
                    f"ignore it: leave it out, or --set translate.{field.name}={default}"
                )

    def _require_models_of_the_route(self) -> None:
        """A model beyond the route's last leg would be ignored, as would one for a way back that is not gone."""
        most = 2 if self.pivot else 1
        for name in ("package", "model", "reverse_package", "reverse_model"):
            given = getattr(self, name)
            if given and len(given) != most:
                raise ConfigError(f"translate.{name} must name {most}, one a pair of languages, got {given}")
            if given and name.startswith("reverse_") and not self.round_trip:
                raise ConfigError(
                    f"translate.{name} is for the way back, which the engine {self.engine!r} does not go: set "
                    f"translate.round_trip = true, or leave {name} out (--set translate.{name}=[])"
                )
        if self.engine == "deepl" and self.pivot:
            raise ConfigError("translate.pivot is not for the engine 'deepl', which translates every pair directly")
        if self.engine == "ctranslate2" and not self.model:
            raise ConfigError("translate.model is missing: name the folder of a converted model")
        if self.engine == "ctranslate2" and self.round_trip and not self.reverse_model:
            raise ConfigError("translate.reverse_model is missing: translate.round_trip needs a model for the way back")


def default_batch_tokens(device: str, beam_size: int) -> int:
    """Padded source tokens of a batch where the settings give none."""
    return max(1, min(MOST_TOKENS[device], HYPOTHESIS_TOKENS[device] // beam_size))
