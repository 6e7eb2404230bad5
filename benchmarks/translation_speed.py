"""Captions a second beside stock Argos Translate: python benchmarks/translation_speed.py [--quick] [--captions FILE].

Stock translates one caption a call, measured as a user has it and with `ARGOS_INTRA_THREADS=1`, which alone makes it
faster; its sentence splitter, which would be downloaded, is replaced by one that costs nothing. The model has the size
of the published packages (6+6 layers, 512 wide, 32,000 pieces, int8) and random weights, made to end its translations
after as many tokens as captions have; our guard against loops is off, since random weights do loop.
The captions are Multi30k's, one a line, or the sample's where that file is not given.
"""

import gzip
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

from data_folder import DATA
from harness import Goals, in_turn, judge, options_of, tell
from stock_argos import stock

from data_catalog.sample.grammar import parallel_pairs
from translation import guards
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator
from translation.packages.package import Package, read_package

CAPTIONS = DATA / "multi30k" / "train.en.gz"
NUM_PIECES = 32_000
NUM_REAL_PIECES = 8_000
TARGET_TOKENS = 14
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
Translate = Callable[[Sequence[str]], list[str]]


def read_captions(path: Path, count: int) -> list[str]:
    """Distinct captions, evenly drawn from a file of one a line, or from the sample's grammar."""
    if path.is_file():
        content = path.read_bytes()
        lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8").split("\n")
        found = sorted({line.strip() for line in lines if line.strip()})
    else:
        found = sorted({source for source, _ in parallel_pairs(seed=77, num_pairs=4 * count)})
    return found[:: max(1, len(found) // count)][:count]


def published_size(captions: Sequence[str], folder: Path) -> Package:
    """A package of random weights whose tokenizer knows the captions' words, and whose end token comes in time."""
    import torch

    from translation.train.convert import save_ctranslate2
    from translation.train.model import ModelShape, TranslationModel
    from translation.train.vocabulary import END_ID, load_vocabulary, pieces_of, train_vocabulary

    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    shape = ModelShape(
        vocabulary_size=NUM_PIECES,
        embed_dim=512,
        num_heads=8,
        ffn_dim=2048,
        num_encoder_layers=6,
        num_decoder_layers=6,
        dropout=0.0,
    )
    model = TranslationModel(shape).eval()
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
    wanted = torch.where(torch.arange(tokens.shape[1]) < TARGET_TOKENS, -2 * highest, 4 * highest).expand(
        len(tokens), -1
    )
    return torch.linalg.lstsq(torch.cat(last_states).flatten(0, 1), wanted.reshape(-1, 1)).solution[:, 0]


def contestants(package: Package) -> dict[str, Translate]:
    """Every way of translating with a package, ready and warm."""
    ways: dict[str, Translate] = {}
    for name, config in OURS.items():
        engine = argos_translator(package, config)
        engine.translate(["a red star"])
        ways[name] = lambda captions, engine=engine: [found.text for found in engine.translate(captions)]
    return ways | {STOCK: stock(package.folder, 0), STOCK_ONE: stock(package.folder, 1)}


def speed(translate: Translate, captions: Sequence[str]) -> tuple[float, float]:
    """Captions a second, and CPU seconds a caption."""
    started, cpu_started = time.perf_counter(), time.process_time()
    translate(captions)
    taken, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    return len(captions) / taken, cpu / len(captions)


def main() -> int:
    """Race and judge the claims; stock gets fewer captions, evenly drawn."""
    parser = options_of(__doc__)
    parser.add_argument("--captions", type=Path, default=CAPTIONS, help="English captions, one a line, .gz or not")
    options = parser.parse_args()
    rounds, num_ours, num_stock = SIZES["quick" if options.quick else "full"]
    captions = read_captions(options.captions, num_ours)
    few = captions[:: max(1, len(captions) // num_stock)][:num_stock]
    guards.MIN_COPIES = 10**9
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"] = folder  # importing Argos Translate creates folders there
        ways = contestants(published_size(captions, Path(folder) / "package"))
        some = {name: few if name in (STOCK, STOCK_ONE) else captions for name in ways}
        found = in_turn({name: partial(speed, ways[name], some[name]) for name in ways}, rounds)
    rates = {name: statistics.median(rate for rate, _ in runs) for name, runs in found.items()}
    rows = [
        {
            "": name,
            "captions/s": f"{rates[name]:.1f}",
            "lowest": f"{min(runs)[0]:.1f}",
            "highest": f"{max(runs)[0]:.1f}",
        }
        | {"CPU s/caption": f"{statistics.median(cpu for _, cpu in runs):.4f}"}
        | {"x stock": f"{rates[name] / rates[STOCK]:.1f}"}
        for name, runs in found.items()
    ]
    tell(rows, f"{len(captions):,} captions, {os.cpu_count()} CPUs, {rounds} rounds interleaved, medians")
    ours = rates[SAME]
    ratios = (ours / rates[STOCK], ours / rates[STOCK_ONE], rates["vernaclip, beam 1"] / ours)
    return judge(dict(zip(GOALS, ratios, strict=True)), GOALS, "translation-")


if __name__ == "__main__":
    sys.exit(main())
