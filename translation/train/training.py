"""One training in its folder: vocabulary, network, scores of the held-out pairs, and the page about it."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.storage.disk_errors import disk_errors
from data_catalog.storage.shards import TEMPORARY_PREFIX, write_atomically
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator
from translation.packages.package import read_package
from translation.scores import corpus_bleu, corpus_chrf
from translation.train.card import TrainReport
from translation.train.config import TrainPackageConfig
from translation.train.convert import save_ctranslate2
from translation.train.folder import (
    REPORT_FILE,
    STATE_FILE,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    Earlier,
    Sources,
    begin,
    save_held_out,
)
from translation.train.pairs import Pair, ParallelCaptions
from translation.train.report import ReportContent, Sample, write_report
from translation.train.state import TrainState, load_weights
from translation.train.vocabulary import load_vocabulary, pieces_of, train_vocabulary

if TYPE_CHECKING:
    from translation.train.loop import HeldOutScores
    from translation.train.model import TranslationModel

QUANTIZATION = "int8"
# Never on a GPU, even where there is one: scores choose the weights, and stand in the card.
DECODING = TranslateConfig(device="cpu")
GREEDY = TranslateConfig(beam_size=1, device="cpu")
NUM_SAMPLES = 10  # held-out pairs that the page shows


@dataclass(slots=True, kw_only=True)
class Training:
    """A training in a folder that is ours for as long as it runs.

    Args:
        folder: keeps the training, see `translation.train.folder`.
        config: `threads` is not 0.
        metadata: of the package, as Argos Translate has it.
        earlier: the training that this one continues from.
    """

    folder: Path
    data: ParallelCaptions
    sources: Sources
    config: TrainPackageConfig
    metadata: dict[str, str]
    earlier: Earlier | None

    def run(self) -> tuple["TranslationModel", TrainState]:
        """Train, or go on, to the end; returns the network with the weights of its best validation, and the curve.

        Raises:
            SettingsError: the folder holds another training, the vocabulary's size does not fit the pairs, or training
                has diverged.
            DamagedError: what is in the folder cannot be read.
        """
        import torch

        from translation.train.loop import Files, train_model
        from translation.train.model import ModelShape, TranslationModel

        key = begin(self.folder, self.sources, self.config, self.data)
        save_held_out(self.folder, self.data.held_out)
        vocabulary = self._vocabulary()
        torch.set_num_threads(self.config.threads)
        shape = ModelShape(
            vocabulary_size=vocabulary.get_piece_size(),
            embed_dim=self.config.embed_dim,
            num_heads=self.config.num_heads,
            ffn_dim=self.config.ffn_dim,
            num_encoder_layers=self.config.num_encoder_layers,
            num_decoder_layers=self.config.num_decoder_layers,
            dropout=self.config.dropout,
        )
        files = Files(state=self.folder / STATE_FILE, best=self.folder / WEIGHTS_FILE, key=key)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            model = TranslationModel(shape)
            if not files.state.is_file():
                self.write_report(model, TrainState(), (), None)
            if self.earlier:
                load_weights(model, self.earlier.folder / WEIGHTS_FILE)
            state = train_model(
                model,
                _encoded(vocabulary, self.data.training),
                _encoded(vocabulary, self.data.held_out),
                self.config,
                files=files,
                score=self._score_greedily,
                report=lambda state, texts: self.write_report(model, state, texts, None),
            )
        load_weights(model, files.best)
        return model, state

    def _vocabulary(self) -> Any:
        """The training's vocabulary: trained once, or the earlier training's."""
        path = self.folder / VOCABULARY_FILE
        if self.earlier:
            given = self.earlier.folder / VOCABULARY_FILE
            write_atomically(path, partial(shutil.copyfile, given))
        elif not path.is_file():
            texts = (text for pair in self.data.training for text in pair)
            size = self.config.vocabulary_size
            write_atomically(path, lambda temporary: train_vocabulary(texts, temporary, size=size))
        return load_vocabulary(path)

    @contextmanager
    def unpacked(self, model: "TranslationModel") -> Iterator[Path]:
        """A package's folder with this network, as it will be packed, for as long as it is needed."""
        with (
            disk_errors(self.folder / "package"),
            tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=self.folder, ignore_cleanup_errors=True) as name,
        ):
            package = Path(name)
            shutil.copyfile(self.folder / VOCABULARY_FILE, package / "sentencepiece.model")
            (package / "model").mkdir()
            pieces = pieces_of(load_vocabulary(self.folder / VOCABULARY_FILE))
            save_ctranslate2(model, pieces, package / "model", quantization=QUANTIZATION)
            (package / "metadata.json").write_text(json.dumps(self.metadata, indent=2) + "\n", encoding="utf-8")
            yield package

    def translate_held_out(self, package: Path, config: TranslateConfig) -> list[str]:
        """The held-out sources in the words of a package's folder."""
        translator = argos_translator(read_package(package), config)
        return [found.text for found in translator.translate([source for source, _ in self.data.held_out])]

    def score(self, texts: list[str]) -> "HeldOutScores":
        """Scores of translations of the held-out sources."""
        from translation.train.loop import HeldOutScores

        references = [target for _, target in self.data.held_out]
        bleu = corpus_bleu(texts, references, self.sources.to_code)
        return HeldOutScores(bleu=bleu, chrf=corpus_chrf(texts, references), texts=texts)

    def _score_greedily(self, model: "TranslationModel") -> "HeldOutScores":
        with self.unpacked(model) as package:
            return self.score(self.translate_held_out(package, GREEDY))

    def write_report(
        self, model: "TranslationModel", state: TrainState, texts: Sequence[str], report: TrainReport | None
    ) -> None:
        """Write the page about the training.

        Args:
            texts: translations of the held-out sources; none before the first validation.
            report: of the finished package; None while training is under way.
        """
        samples = [
            Sample(source=source, translation=text, reference=target)
            for (source, target), text in zip(self.data.held_out[:NUM_SAMPLES], texts[:NUM_SAMPLES], strict=bool(texts))
        ]
        content = ReportContent(
            metadata=self.metadata,
            sources=self.sources,
            config=self.config,
            data=self.data,
            state=state,
            num_parameters=num_parameters(model),
            samples=samples,
            report=report,
        )
        write_report(self.folder / REPORT_FILE, content)


def num_parameters(model: "TranslationModel") -> int:
    """Weights of a network, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _encoded(vocabulary: Any, pairs: list[Pair]) -> list[tuple[list[int], list[int]]]:
    sources = vocabulary.encode([source for source, _ in pairs])
    targets = vocabulary.encode([target for _, target in pairs])
    return list(zip(sources, targets, strict=True))
