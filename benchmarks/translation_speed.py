"""Captions a second beside stock Argos Translate: python benchmarks/translation_speed.py [--quick].

Stock translates one caption a call, measured as a user has it and with `ARGOS_INTRA_THREADS=1`, which alone makes it
faster; its sentence splitter, which would be downloaded, is replaced by one that costs nothing. The model has the size
of the published packages (6+6 layers, 512 wide, 32,000 pieces, int8) and random weights, made to end its translations
after as many tokens as captions have; our guard against loops is off, since random weights do loop.
The captions are Multi30k's, one a line, or the sample's where these are not there.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from data_folder import DATA, multi30k
from harness import Goals, in_turn, judge, options_of, tell

from data_catalog.sample.grammar import parallel_pairs
from translation import guards
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator
from translation.packages.package import Package, read_package

NUM_PIECES, NUM_REAL_PIECES, TARGET_TOKENS = 32_000, 8_000, 14
# Rounds, captions of ours, captions of stock's.
SIZES = {"quick": (5, 160, 5), "full": (5, 2_000, 60)}
GOALS: Goals = {
    "ratio-to-stock": (">=", 6.0),
    "ratio-to-stock-one-thread": (">=", 4.0),
    "beam-1-to-beam-4": (">=", 2.0),
}
SAME = "vernaclip as stock decodes"
OURS = {
    SAME: TranslateConfig(beam_size=4, patience=1),
    "vernaclip by default": TranslateConfig(),
    "vernaclip, beam 2": TranslateConfig(beam_size=2, patience=1),
    "vernaclip, beam 1": TranslateConfig(beam_size=1),
}
STOCK, STOCK_ONE = "argostranslate", "argostranslate, 1 thread"


def read_captions(count: int) -> list[str]:
    """Distinct captions, evenly drawn from Multi30k's, or from the sample's grammar where these are not there."""
    lines = {line.strip() for line in multi30k(DATA, "en")} - {""}
    found = sorted(lines or {source for source, _ in parallel_pairs(seed=77, num_pairs=4 * count)})
    return found[:: max(1, len(found) // count)][:count]


def published_size(captions: Sequence[str], folder: Path) -> Package:
    """A package of random weights whose tokenizer knows the captions' words, and whose end token comes in time."""
    import torch

    from translation.train.config import TrainPackageConfig
    from translation.train.model import (
        END_ID,
        TranslationModel,
        load_vocabulary,
        pieces_of,
        save_ctranslate2,
        train_vocabulary,
    )

    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    sizes = {"embed_dim": 512, "num_heads": 8, "ffn_dim": 2048, "num_encoder_layers": 6, "num_decoder_layers": 6}
    model = TranslationModel(TrainPackageConfig(vocabulary_size=NUM_PIECES, dropout=0.0, **sizes)).eval()
    # Position speaks louder than the token before, so that the end token can be made to come at one position.
    model.embedding.weight.data.mul_(0.1)
    model.embedding.weight[END_ID] = end_row(model)
    (folder / "model").mkdir(parents=True)
    train_vocabulary(captions, folder / "sentencepiece.model", size=NUM_REAL_PIECES)
    pieces = pieces_of(load_vocabulary(folder / "sentencepiece.model"))
    pieces += [f"▁piece{number}" for number in range(NUM_PIECES - len(pieces))]
    save_ctranslate2(model, pieces, folder / "model", quantization="int8")
    metadata = {"from_code": "en", "to_code": "it", "package_version": "1.0", "argos_version": "1.9"}
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    return read_package(folder)


def end_row(model: Any) -> Any:
    """The row of the output projection that gives the end token a low logit first and a high one later."""
    import torch

    last_states: list[torch.Tensor] = []
    hook = model.decoder_norm.register_forward_hook(lambda _module, _inputs, states: last_states.append(states))
    tokens = torch.randint(3, NUM_PIECES, (96, 2 * TARGET_TOKENS))
    for batch in tokens.split(8):
        highest = float(model(batch, torch.full((len(batch),), tokens.shape[1]), batch).max())
    hook.remove()
    logits = torch.where(torch.arange(tokens.shape[1]) < TARGET_TOKENS, -2 * highest, 4 * highest)
    wanted = logits.expand(len(tokens), -1).reshape(-1, 1)
    return torch.linalg.lstsq(torch.cat(last_states).flatten(0, 1), wanted).solution[:, 0]


class OneSentence:
    """Takes the place of Argos Translate's sentence splitter, which it would download; it costs nothing."""

    def split_sentences(self, text: str) -> list[str]:
        """The whole text."""
        return [text]


def stock(folder: Path, intra_threads: int) -> Callable[[Sequence[str]], list[str]]:
    """Argos Translate's own translation object over an unpacked package: one caption a call, 4 hypotheses.

    Args:
        intra_threads: its `ARGOS_INTRA_THREADS`; 0 is its default, 1 makes it faster on small batches.
    """
    from argostranslate import package, settings, translate

    opened = package.Package(folder)
    source, target = (translate.Language(code, code) for code in (opened.from_code, opened.to_code))
    translation = translate.PackageTranslation(source, target, opened)
    translation.sentencizer = OneSentence()
    settings.intra_threads = intra_threads
    translation.translate("a red star")  # loads the model with these settings
    cached = translate.CachedTranslation(translation)
    return lambda captions: [cached.translate(caption) for caption in captions]


def speed(translate: Callable[[Sequence[str]], object], captions: Sequence[str]) -> tuple[float, float]:
    """Captions a second, and CPU seconds a caption."""
    started, cpu_started = time.perf_counter(), time.process_time()
    translate(captions)
    taken, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    return len(captions) / taken, cpu / len(captions)


def main() -> int:
    """Race and judge the claims; stock gets fewer captions, evenly drawn."""
    rounds, num_ours, num_stock = SIZES["quick" if options_of(__doc__).parse_args().quick else "full"]
    captions = read_captions(num_ours)
    few = captions[:: max(1, len(captions) // num_stock)][:num_stock]
    guards.MIN_COPIES = 10**9
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"] = folder  # importing Argos Translate creates folders there
        package, ways = published_size(captions, Path(folder) / "package"), {}
        for name, config in OURS.items():
            ways[name] = argos_translator(package, config).translate
            ways[name](["a red star"])
        ways |= {STOCK: stock(package.folder, 0), STOCK_ONE: stock(package.folder, 1)}
        some = {name: few if name in (STOCK, STOCK_ONE) else captions for name in ways}
        found = in_turn({name: partial(speed, ways[name], some[name]) for name in ways}, rounds)
    rates = {name: statistics.median(rate for rate, _ in runs) for name, runs in found.items()}
    rows = []
    for name, runs in found.items():
        cpu = statistics.median(seconds for _, seconds in runs)
        rows.append({"": name, "captions/s": f"{rates[name]:.1f}", "lowest": f"{min(runs)[0]:.1f}"})
        rows[-1] |= {"CPU s/caption": f"{cpu:.4f}", "x stock": f"{rates[name] / rates[STOCK]:.1f}"}
    tell(rows, f"{len(captions):,} captions, {os.cpu_count()} CPUs, {rounds} rounds interleaved, medians")
    ours = rates[SAME]
    ratios = (ours / rates[STOCK], ours / rates[STOCK_ONE], rates["vernaclip, beam 1"] / ours)
    return judge(dict(zip(GOALS, ratios, strict=True)), GOALS, "translation-")


if __name__ == "__main__":
    sys.exit(main())
