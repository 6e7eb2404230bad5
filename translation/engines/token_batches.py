"""Which texts share a batch, and how long their translations may become."""

from collections.abc import Iterator, Mapping, Sequence

# Longest translation in tokens: three times the source and ten more, where the source's length is rounded up to a
# multiple of eight, so that the limit depends on the caption alone, not on its neighbours in the batch.
LIMIT_FACTOR, LIMIT_EXTRA, LENGTH_STEP = 3, 10, 8
MAX_SOURCE_TOKENS = 1024  # CTranslate2's own default: it reads no further

Tokens = list[str]


def token_batches(tokens: Mapping[str, Sequence[object]], max_batch_tokens: int) -> Iterator[list[str]]:
    """Groups of texts of like length, longest first, whose padded size stays within the budget (one text at least).

    All texts of a group have the same `decoding_limit`; the grouping depends on the set of texts, not on their order.
    """
    ordered = sorted(tokens, key=lambda text: (-len(tokens[text]), text))
    batch: list[str] = []
    for text in ordered:
        longest = len(tokens[batch[0]]) if batch else 0
        full = (len(batch) + 1) * longest > max_batch_tokens
        if batch and (full or decoding_limit(longest) != decoding_limit(len(tokens[text]))):
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def decoding_limit(num_source_tokens: int) -> int:
    """Most target tokens for a source of that many tokens."""
    rounded = -(-min(num_source_tokens, MAX_SOURCE_TOKENS) // LENGTH_STEP) * LENGTH_STEP
    return LIMIT_FACTOR * rounded + LIMIT_EXTRA
