"""One sentencepiece vocabulary for both languages, trained so that equal text gives an equal file."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_catalog.errors import SettingsError

# sentencepiece's own names and ids, which CTranslate2 must know too.
UNKNOWN, START, END = "<unk>", "<s>", "</s>"
UNKNOWN_ID, START_ID, END_ID = 0, 1, 2


def train_vocabulary(texts: Iterable[str], path: Path, *, size: int) -> None:
    """Train a unigram model of at most `size` pieces on the distinct texts and write it to `path`.

    Raises:
        SettingsError: `size` is smaller than the text's alphabet.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sorted(set(texts))),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            hard_vocab_limit=False,  # a small corpus has fewer pieces than asked for
            character_coverage=1.0,
            num_threads=1,  # sums of more threads come in any order
            minloglevel=2,
        )
    except RuntimeError as error:
        raise SettingsError(
            f"vocabulary_size {size} does not fit the parallel captions, which need a piece a character at least: "
            f"raise it (sentencepiece says: {error})"
        ) from error
    path.write_bytes(model.getvalue())


def load_vocabulary(path: Path) -> Any:
    """The sentencepiece processor of a trained vocabulary."""
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def pieces_of(processor: Any) -> list[str]:
    """All pieces, in the order of their ids."""
    return [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
