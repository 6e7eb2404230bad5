"""BLEU and chrF, as sacrebleu computes them (Papineni et al., 2002; Popović, 2015; Post, 2018)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from data_catalog.errors import InputError

DEFAULT_TOKENIZER = "13a"
# How BLEU finds words where spaces do not tell. sacrebleu's own choice for Japanese and Korean needs MeCab and its
# dictionaries: it is there for the asking, so that no score depends on what happens to be installed.
TOKENIZER_OF = {"zh": "zh", **dict.fromkeys(("ja", "ko", "th", "lo", "km", "my"), "char")}
NUM_RESAMPLES = 1_000
# sacrebleu holds all resamples of a system at once: of chrF 72 bytes a pair in each, which makes 1.4 GB.
MAX_COMPARED = 20_000


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str], to_code: str) -> float:
    """BLEU of a corpus, 0 to 100, one reference each; its words are found as `bleu_tokenizer` says.

    Args:
        hypotheses: the translations, one or more.
        references: what they should be, in the same order.
        to_code: ISO 639-1 code of their language.
    """
    _require_pairs(hypotheses, references)
    score: float = _bleu(bleu_tokenizer(to_code)).corpus_score(hypotheses, [references]).score
    return score


def corpus_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The same in chrF: how many character n-grams the texts share, 0 to 100, spaces left out."""
    _require_pairs(hypotheses, references)
    score: float = _chrf().corpus_score(hypotheses, [references]).score
    return score


def sentence_chrf(hypothesis: str, reference: str) -> float:
    """The chrF of one text, 0 to 100."""
    score: float = _chrf().sentence_score(hypothesis, [reference]).score
    return score


def bleu_tokenizer(to_code: str) -> str:
    """Name of sacrebleu's tokenizer that BLEU of a language is taken with."""
    return TOKENIZER_OF.get(to_code, DEFAULT_TOKENIZER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A score, how sure it is, and how far it is from the first system's.

    Args:
        score: 0 to 100.
        interval: half the width of its 95 % interval, by bootstrap.
        difference: the score less the first system's; None for that one.
        p_value: how often chance alone would make a difference of this size, by paired bootstrap; None for the first
            system, and where there is no difference.
    """

    score: float
    interval: float
    difference: float | None
    p_value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """BLEU and chrF of every system, by its name, and sacrebleu's signatures, which say how they were computed."""

    bleu: dict[str, Estimate]
    chrf: dict[str, Estimate]
    signatures: tuple[str, ...]


def compare(systems: Mapping[str, Sequence[str]], references: Sequence[str], *, tokenizer: str) -> Comparison:
    """Score systems on the same texts, and compare each with the first, by the same 1,000 seeded resamples.

    Args:
        systems: translations by the name of a system, one or more systems.
        references: what each translation should be, in the same order.
        tokenizer: of BLEU, by its name in sacrebleu.

    Raises:
        InputError: see `check_comparable`.
    """
    for hypotheses in systems.values():
        _require_pairs(hypotheses, references)
    check_comparable(len(references), tokenizer)
    from sacrebleu.significance import PairedTest

    metrics = {"bleu": _bleu(tokenizer), "chrf": _chrf()}
    test = PairedTest(list(systems.items()), metrics, [references], test_type="bs", n_samples=NUM_RESAMPLES)
    signatures, results = test()
    names = results.pop("System")
    bleu, chrf = (dict(zip(names, _estimates(found), strict=True)) for found in results.values())
    shown = tuple(f"{name}|{signature}" for name, signature in signatures.items())
    return Comparison(bleu=bleu, chrf=chrf, signatures=shown)


def check_comparable(num_texts: int, tokenizer: str) -> None:
    """Find out whether `compare` will work before there is anything to compare.

    Raises:
        InputError: more texts than `MAX_COMPARED`, or the tokenizer is not installed.
    """
    if num_texts > MAX_COMPARED:
        raise InputError(
            f"{num_texts:,} pairs are more than the bootstrap can hold in memory: give {MAX_COMPARED:,} at most"
        )
    _bleu(tokenizer)


def _estimates(results: Sequence[Any]) -> list[Estimate]:
    """Of sacrebleu's results of one metric, the first system's in front."""
    baseline, *others = results
    estimates = [Estimate(score=float(baseline.score), interval=float(baseline.ci), difference=None, p_value=None)]
    for found in others:
        difference = float(found.score - baseline.score)
        # Of equal systems sacrebleu says that their difference, nothing, is significant.
        p_value = float(found.p_value) if difference else None
        estimates.append(
            Estimate(score=float(found.score), interval=float(found.ci), difference=difference, p_value=p_value)
        )
    return estimates


def _require_pairs(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    """Sacrebleu would leave out what is too many of one of them."""
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} translations cannot be scored against {len(references)} references")


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


def _bleu(tokenizer: str) -> Any:
    from sacrebleu.metrics import BLEU

    try:
        # Its warning of texts that look tokenized, which captions may, tells how to call Python.
        return BLEU(tokenize=tokenizer, force=True)
    except RuntimeError as error:
        raise InputError(
            f"BLEU's tokenizer {tokenizer} is missing: pip install 'sacrebleu[{tokenizer[:2]}]', or choose another"
        ) from error
