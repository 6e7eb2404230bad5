"""Captions a second beside stock Argos Translate: python benchmarks/translation_speed.py [--quick] [--captions FILE].

Stock translates one caption a call, measured as a user has it and with `ARGOS_INTRA_THREADS=1`, which alone makes it
faster; its sentence splitter, which would be downloaded, is replaced by one that costs nothing. The model has the size
of the published packages (6+6 layers, 512 wide, 32,000 pieces, int8) and random weights, made to end its translations
after as many tokens as captions have; our guard against loops is off, since random weights do loop.
The captions are Multi30k's, one a line, or the sample's where that file is not given.
"""

import argparse
import gzip
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stock_argos import stock

from data_catalog.sample.grammar import parallel_pairs
from translation import guards
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator
from translation.packages.package import Package, read_package

CAPTIONS = Path(__file__).resolve().parents[2] / "shared" / "data" / "multi30k" / "train.en.gz"
NUM_PIECES = 32_000
NUM_REAL_PIECES = 8_000
TARGET_TOKENS = 14
# Rounds, captions of ours, captions of stock's.
SIZES = {"quick": (5, 160, 5), "full": (5, 2_000, 60)}
GOALS = {"ratio-to-stock": 6.0, "ratio-to-stock-one-thread": 4.0, "beam-1-to-beam-4": 2.0}
SAME = "vernaclip as stock decodes"
OURS = {
    SAME: TranslateConfig(beam_size=4, patience=1),
    "vernaclip by default": TranslateConfig(),
    "vernaclip, beam 2": TranslateConfig(beam_size=2, patience=1),
    "vernaclip, beam 1": TranslateConfig(beam_size=1),
}
STOCK, STOCK_ONE = "argostranslate", "argostranslate, 1 thread"
Translate = Callable[[Sequence[str]], list[str]]


@dataclass(slots=True)
class Times:
    """One contestant's rounds: captions a second, and CPU seconds a caption."""

    rates: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)


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


def race(package: Package, captions: Sequence[str], rounds: int, num_stock: int) -> dict[str, Times]:
    """Interleave the contestants; stock gets fewer captions, evenly drawn."""
    ways, times = contestants(package), {}
    few = captions[:: max(1, len(captions) // num_stock)][:num_stock]
    for _ in range(rounds):
        for name, translate in ways.items():
            mine = few if name in (STOCK, STOCK_ONE) else captions
            started, cpu_started = time.perf_counter(), time.process_time()
            translate(mine)
            found = times.setdefault(name, Times())
            found.rates.append(len(mine) / (time.perf_counter() - started))
            found.cpu_seconds.append((time.process_time() - cpu_started) / len(mine))
    return times


def tell(times: dict[str, Times], captions: Sequence[str], rounds: int) -> dict[str, float]:
    """Print the table; returns the claims' values."""
    rates = {name: statistics.median(found.rates) for name, found in times.items()}
    print(f"{len(captions):,} captions, {os.cpu_count()} CPUs, {rounds} rounds interleaved, medians")
    print(f"{'':<26} {'captions/s':>10} {'lowest':>8} {'highest':>8} {'CPU s/caption':>14} {'x stock':>8}")
    for name, found in times.items():
        cpu, ratio = statistics.median(found.cpu_seconds), rates[name] / rates[STOCK]
        spread = f"{min(found.rates):>8.1f} {max(found.rates):>8.1f}"
        print(f"{name:<26} {rates[name]:>10.1f} {spread} {cpu:>14.4f} {ratio:>8.1f}")
    ours = rates[SAME]
    ratios = (ours / rates[STOCK], ours / rates[STOCK_ONE], rates["vernaclip, beam 1"] / ours)
    return dict(zip(GOALS, ratios, strict=True))


def main() -> int:
    """Race and judge the claims."""
    parser = argparse.ArgumentParser(description="Translation speed beside stock Argos Translate.")
    parser.add_argument("--quick", action="store_true", help="fewer captions")
    parser.add_argument("--captions", type=Path, default=CAPTIONS, help="English captions, one a line, .gz or not")
    options = parser.parse_args()
    rounds, num_ours, num_stock = SIZES["quick" if options.quick else "full"]
    captions = read_captions(options.captions, num_ours)
    guards.MIN_COPIES = 10**9
    with tempfile.TemporaryDirectory() as name:
        os.environ["HOME"] = name  # importing Argos Translate creates folders there
        times = race(published_size(captions, Path(name) / "package"), captions, rounds, num_stock)
    values = tell(times, captions, rounds)
    for claim, goal in GOALS.items():
        judged = "ok" if values[claim] >= goal else "short"
        print(f"claim translation-{claim} {values[claim]:.2f} goal >={goal} {judged}")
    return int(any(values[name] < goal for name, goal in GOALS.items()))


if __name__ == "__main__":
    sys.exit(main())
