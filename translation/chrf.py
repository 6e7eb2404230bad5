"""chrF (Popović, 2015): how many character n-grams a translation shares with its reference."""

from collections import Counter
from collections.abc import Iterator, Sequence

MAX_ORDER = 6
BETA = 2.0  # recall counts twice as much as precision


def corpus_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Score in [0, 100], one reference each, spaces left out: the same number as sacrebleu's `corpus_chrf`."""
    precision_sum, recall_sum, num_orders = 0.0, 0.0, 0
    for order in range(1, MAX_ORDER + 1):
        shared, found, wanted = _counts(hypotheses, references, order)
        if found and wanted:
            precision_sum += shared / found
            recall_sum += shared / wanted
            num_orders += 1
    if precision_sum == 0:
        return 0.0
    precision, recall = precision_sum / num_orders, recall_sum / num_orders
    return 100 * (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


def sentence_chrf(hypothesis: str, reference: str) -> float:
    """Score of one text in [0, 100], the same number as sacrebleu's `sentence_chrf`."""
    return corpus_chrf([hypothesis], [reference])


def _counts(hypotheses: Sequence[str], references: Sequence[str], order: int) -> tuple[int, int, int]:
    """N-grams of one order: in both, in the hypotheses, in the references."""
    shared = found = wanted = 0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        ours, theirs = Counter(_ngrams(hypothesis, order)), Counter(_ngrams(reference, order))
        shared += (ours & theirs).total()
        # As sacrebleu has it: n-grams longer than the reference are not held against a hypothesis.
        found += ours.total() if theirs else 0
        wanted += theirs.total()
    return shared, found, wanted


def _ngrams(text: str, order: int) -> Iterator[str]:
    letters = "".join(text.split())
    return (letters[start : start + order] for start in range(len(letters) - order + 1))
