"""The README inside a trained package: what it is, what it was trained on, how well it does."""

from dataclasses import asdict, dataclass
from pathlib import Path

from translation.train.config import TrainPackageConfig
from translation.train.folder import Sources

# English names, as Argos Translate's own packages have them; a code that is not here stands for itself.
_LANGUAGE_NAMES = {
    "ar": "Arabic",
    "ca": "Catalan",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "he": "Hebrew",
    "hi": "Hindi",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sv": "Swedish",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "zh": "Chinese",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What training a package gave.

    Args:
        dropped: lines of the TSV that were not used, by reason (`translation.train.pairs.DROP_REASONS`).
        num_steps: updates done, fewer than asked for where chrF had ceased to rise.
        best_step: the update after which the weights in the package were best, by chrF on the held-out pairs.
        held_out_loss: cross-entropy per target token in nats, before quantization.
        exact_match: share of the held-out pairs that the finished package translates word for word as given.
        bleu: sacreBLEU's, of the finished package on the held-out pairs, in [0, 100].
        chrf: the same, chrF.
    """

    num_training: int
    num_held_out: int
    dropped: dict[str, int]
    num_parameters: int
    vocabulary_size: int
    num_steps: int
    best_step: int
    held_out_loss: float
    exact_match: float
    bleu: float
    chrf: float


def language_name(code: str) -> str:
    """English name of a language, or its code."""
    return _LANGUAGE_NAMES.get(code, code)


def write_card(
    path: Path, metadata: dict[str, str], report: TrainReport, *, sources: Sources, config: TrainPackageConfig
) -> None:
    """Write the card; it has no date, so that the same training gives the same file."""
    path.write_text(_card(metadata, report, sources, asdict(config)), encoding="utf-8")


def _card(metadata: dict[str, str], report: TrainReport, sources: Sources, settings: dict[str, object]) -> str:
    dropped = ", ".join(f"{name} {count:,}" for name, count in report.dropped.items()) or "none"
    digests = ", ".join(f"`{digest}`" for digest in sources.pairs_sha256)
    start = f" The weights started from the training `{sources.continued}`." if sources.continued else ""
    listed = "\n".join(f"- `{name}`: {value}" for name, value in settings.items())
    return f"""# {metadata["from_name"]} to {metadata["to_name"]}, version {metadata["package_version"]}

A compact Transformer for captions, trained by `vernaclip mt train` and packed for Argos Translate. It knows the words
of its training pairs and no others. License: {metadata["license"]}.{start}

| | |
|---|---|
| parameters | {report.num_parameters:,}, stored as int8 |
| vocabulary | {report.vocabulary_size:,} sentencepiece pieces, shared by both languages |
| trained on | {report.num_training:,} distinct pairs; sha256 of the TSV: {digests} |
| updates | {report.num_steps:,}; the weights are those after {report.best_step:,}, averaged, best by chrF |
| lines dropped | {dropped} |
| held out | {report.num_held_out:,} pairs, never trained on |
| translated word for word as given | {report.exact_match:.1%} of the held-out pairs, by this package |
| BLEU, chrF | {report.bleu:.2f}, {report.chrf:.2f} on the held-out pairs, by this package (sacreBLEU) |
| loss | {report.held_out_loss:.4f} nats per token on the held-out pairs, before quantization |

Settings:

{listed}
"""
