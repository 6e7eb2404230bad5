"""Settings of the translate step."""

from dataclasses import dataclass

from data_catalog.errors import ConfigError

ENGINES = ("argos", "ctranslate2", "deepl", "apertium")
COMPUTE_TYPES = ("default", "auto", "int8", "int8_float32", "int16", "float32", "int8_float16", "float16", "bfloat16")
DEVICES = ("cpu", "cuda", "auto")
# Padded source tokens of a batch, times hypotheses, and most tokens. On two cores, a model of published size translated
# 109 captions a second with 4 hypotheses and 512 or 1,024 tokens, 98 with 2,048, 82 with 4,096; with 2 hypotheses or 1
# it did best at 1,024 to 2,048. A GPU wants more at once; its numbers are a guess that nobody measured.
HYPOTHESIS_TOKENS = {"cpu": 4_096, "cuda": 65_536}
MOST_TOKENS = {"cpu": 2_048, "cuda": 32_768}


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslateConfig:
    """Which engine translates, and how.

    All but `inter_threads` and `max_characters` decide texts or scores, and belong to the engine's fingerprint.

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
    package: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    pivot: str = ""
    round_trip: bool = False
    reverse_package: tuple[str, ...] = ()
    reverse_model: tuple[str, ...] = ()
    beam_size: int = 2
    patience: int = 2
    max_batch_tokens: int = 0
    compute_type: str = "default"
    inter_threads: int = 0
    intra_threads: int = 1
    device: str = "auto"
    max_characters: int = 500_000

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
        self._require_models_of_the_engine()

    def _require_models_of_the_engine(self) -> None:
        """Settings of another engine would be ignored in silence; so would a model beyond the route's last leg."""
        most = 2 if self.pivot else 1
        for name, engine in (("package", "argos"), ("model", "ctranslate2")):
            for setting in (name, f"reverse_{name}"):
                given = getattr(self, setting)
                if given and self.engine != engine:
                    raise ConfigError(
                        f"translate.{setting} is for the engine {engine!r}, this one is {self.engine!r}: leave it "
                        f"out, or --set translate.{setting}=[]"
                    )
                if given and len(given) != most:
                    raise ConfigError(f"translate.{setting} must name {most}, one a pair of languages, got {given}")
        if self.engine == "deepl" and self.pivot:
            raise ConfigError("translate.pivot is not for the engine 'deepl', which translates every pair directly")
        if self.engine == "ctranslate2" and not self.model:
            raise ConfigError("translate.model is missing: name the folder of a converted model")
        if self.engine == "ctranslate2" and self.round_trip and not self.reverse_model:
            raise ConfigError("translate.reverse_model is missing: translate.round_trip needs a model for the way back")


def default_batch_tokens(device: str, beam_size: int) -> int:
    """Padded source tokens of a batch where the settings give none."""
    return max(1, min(MOST_TOKENS[device], HYPOTHESIS_TOKENS[device] // beam_size))
