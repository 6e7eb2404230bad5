"""Captions a second, compared with Argos Translate: python benchmarks/translation_speed.py [--quick].

Argos Translate translates one caption in each call. It is measured with its defaults and with `ARGOS_INTRA_THREADS=1`,
which alone makes it faster. Its sentence splitter, which would be downloaded, is replaced by one that takes no time.
The model has the size of the published packages (6+6 layers, 512 wide, 32,000 pieces, int8) and random weights that end
translations after as many tokens as captions have. Our guard against repetition is off, because random weights repeat
themselves. The captions are Multi30k's, one in each line, or the sample's if these are missing.
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
from harness import Goals, in_turn, judge, options_of, print_table

from data_catalog.sample.grammar import parallel_pairs
from translation import guards
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator
from translation.packages.package import Package, read_package

NUM_PIECES, NUM_REAL_PIECES, TARGET_TOKENS = 32_000, 8_000, 14
# Rounds, captions for vernaclip, captions for Argos Translate.
SIZES = {"quick": (5, 160, 5), "full": (5, 2_000, 60)}
GOALS: Goals = {
    "ratio-to-stock": (">=", 6.0),
    "ratio-to-stock-one-thread": (">=", 4.0),
    "beam-1-to-beam-4": (">=", 2.0),
}
SAME = "vernaclip, argostranslate's decoding"
OURS = {
    SAME: TranslateConfig(beam_size=4, patience=1),
    "vernaclip by default": TranslateConfig(),
    "vernaclip, beam 2": TranslateConfig(beam_size=2, patience=1),
    "vernaclip, beam 1": TranslateConfig(beam_size=1),
}
STOCK, STOCK_ONE = "argostranslate", "argostranslate, 1 thread"


def read_captions(count: int) -> list[str]:
    """Return distinct captions, evenly sampled from Multi30k, or from the sample's grammar if it is missing."""
    lines = {line.strip() for line in multi30k(DATA, "en")} - {""}
    found = sorted(lines or {source for source, _ in parallel_pairs(seed=77, num_pairs=4 * count)})
    return found[:: max(1, len(found) // count)][:count]


def published_size(captions: Sequence[str], folder: Path) -> Package:
    """Return a package with random weights, a tokenizer of the captions' words, and realistic lengths of outputs."""
    import torch

    from training.packages.config import TrainPackageConfig
    from training.packages.network import (
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
    # Small embeddings give the position more weight than the previous token, so that it can decide the end token.
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
    """Return the row of the output projection that gives the end token a low logit first and a high one later."""
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
    """A replacement of Argos Translate's sentence splitter, which would be downloaded; it takes no time."""

    def split_sentences(self, text: str) -> list[str]:
        """Return the whole text as one sentence."""
        return [text]


def stock(folder: Path, intra_threads: int) -> Callable[[Sequence[str]], list[str]]:
    """Return Argos Translate's own translation over an unpacked package: one caption in each call, 4 hypotheses.

    Args:
        folder: folder of the package.
        intra_threads: its `ARGOS_INTRA_THREADS`; 0 is its default, 1 is faster on small batches.
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
    """Return captions a second, and CPU seconds a caption."""
    started, cpu_started = time.perf_counter(), time.process_time()
    translate(captions)
    taken, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    return len(captions) / taken, cpu / len(captions)


def main() -> int:
    """Measure all in turn and judge the claims; Argos Translate gets fewer captions, evenly sampled."""
    rounds, num_ours, num_stock = SIZES["quick" if options_of(__doc__).parse_args().quick else "full"]
    captions = read_captions(num_ours)
    few = captions[:: max(1, len(captions) // num_stock)][:num_stock]
    guards.MIN_REPEATS = 10**9
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"] = folder  # the import of Argos Translate creates folders in it
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
        rows[-1] |= {"CPU s/caption": f"{cpu:.4f}", "times argostranslate": f"{rates[name] / rates[STOCK]:.1f}"}
    print_table(rows, f"{len(captions):,} captions, {os.cpu_count()} CPUs, medians of {rounds} interleaved rounds")
    ours = rates[SAME]
    ratios = (ours / rates[STOCK], ours / rates[STOCK_ONE], rates["vernaclip, beam 1"] / ours)
    return judge(dict(zip(GOALS, ratios, strict=True)), GOALS, "translation-")


if __name__ == "__main__":
    sys.exit(main())
