"""Captions a second, beside stock Argos Translate: python benchmarks/translation_speed.py [--quick].

Stock translates one caption a call, measured as a user has it and with `ARGOS_INTRA_THREADS=1`, which alone makes it
faster on small batches; its sentence splitter, which would be downloaded, is replaced by one that costs nothing.
Two models: a random one of the size of the published packages (6+6 layers, 512 wide, 32,000 pieces, int8), made to end
its translations after 14 tokens, with our guard against loops off, since random weights do loop; and the sample's own,
which is so small that batches hardly pay.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_catalog.language_pack import LanguagePack
from data_catalog.sources.scenes.grammar import parallel_pairs
from translation import guards
from translation.config import TranslateConfig
from translation.packages import Package, open_package
from translation.registry import open_translator

SAMPLE = Path(__file__).resolve().parents[1] / "flows" / "packages" / "scenes-en_it.argosmodel"
ROUTE = [LanguagePack(code="en"), LanguagePack(code="it")]
NUM_PIECES = 32_000
TARGET_TOKENS = 14
# Captions a round: ours, stock's; quick and full.
CAPTIONS = {"published size": ((120, 6), (1_000, 40)), "sample": ((1_000, 50), (10_000, 400))}
GOALS = {
    "published-size-ratio": 5.0,
    "published-size-ratio-one-thread": 2.5,
    "sample-ratio": 2.0,
    "sample-ratio-one-thread": 1.0,
    "sample-equal-share": 0.99,
}
Translate = Callable[[Sequence[str]], list[str]]


class OneSentence:
    """Takes the place of Argos Translate's sentence splitter."""

    def split_sentences(self, text: str) -> list[str]:
        """The whole text."""
        return [text]


def published_size(sample: Package, folder: Path) -> Package:
    """A package of random weights with the sample's tokenizer, whose end token wins from the 15th position on."""
    import torch

    from translation.train.convert import save_ctranslate2
    from translation.train.model import ModelShape, TranslationModel
    from translation.train.vocabulary import END_ID, load_vocabulary, pieces_of

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
    shutil.copytree(sample.folder, folder)
    shutil.rmtree(folder / "model")
    (folder / "model").mkdir()
    pieces = pieces_of(load_vocabulary(sample.tokenizer_path))
    pieces += [f"▁piece{number}" for number in range(NUM_PIECES - len(pieces))]
    save_ctranslate2(model, pieces, folder / "model", quantization="int8")
    return open_package(folder, folder)


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


def stock(folder: Path, intra_threads: int) -> Translate:
    """Argos Translate's own translation object over an unpacked package."""
    from argostranslate import package, settings, translate

    english, italian = translate.Language("en", "English"), translate.Language("it", "Italian")
    translation = translate.PackageTranslation(english, italian, package.Package(folder))
    translation.sentencizer = OneSentence()
    settings.intra_threads = intra_threads
    translation.translate("a red star")  # loads the model with these settings
    cached = translate.CachedTranslation(translation)
    return lambda captions: [cached.translate(caption) for caption in captions]


def contestants(package: Package) -> dict[str, Translate]:
    """Every way of translating with a package, ready and warm."""
    ours = open_translator(TranslateConfig(package=(str(package.folder),)), ROUTE, cache_dir=package.folder)
    ours.translate(["a red star"])
    return {
        "vernaclip": lambda captions: [found.text for found in ours.translate(captions)],
        "argostranslate": stock(package.folder, 0),
        "argostranslate, 1 thread": stock(package.folder, 1),
    }


def race(title: str, package: Package, rounds: int, num_ours: int, num_stock: int) -> tuple[dict[str, float], float]:
    """Interleave the contestants; median captions a second by contestant, and the share of equal texts."""
    captions = sorted({source for source, _ in parallel_pairs(seed=77, num_pairs=num_ours)})
    step = max(1, len(captions) // num_stock)
    rates: dict[str, list[float]] = {}
    texts: dict[str, list[str]] = {}
    ways = contestants(package)
    for _ in range(rounds):
        for name, translate in ways.items():
            mine = captions if name == "vernaclip" else captions[::step]
            started = time.perf_counter()
            found = translate(mine)
            rates.setdefault(name, []).append(len(mine) / (time.perf_counter() - started))
            texts[name] = found[::step] if name == "vernaclip" else found
    medians = {name: statistics.median(found) for name, found in rates.items()}
    print(f"{title:<26} {'captions/s':>10} {'lowest':>8} {'highest':>8}   ({rounds} rounds, interleaved)")
    for name, found in rates.items():
        print(f"{name:<26} {medians[name]:>10.1f} {min(found):>8.1f} {max(found):>8.1f}")
    print()
    pairs = zip(texts["vernaclip"], texts["argostranslate"], strict=True)
    return medians, statistics.mean(ours == theirs for ours, theirs in pairs)


def main() -> int:
    """Race both models and judge the claims."""
    parser = argparse.ArgumentParser(description="Translation speed beside stock Argos Translate.")
    parser.add_argument("--quick", action="store_true", help="fewer captions and rounds")
    quick = parser.parse_args().quick
    values: dict[str, float] = {}
    loops = guards.MIN_COPIES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HOME"] = name  # importing Argos Translate creates folders there
        sample = open_package(SAMPLE, folder / "cache")
        for title, package in (("published size", published_size(sample, folder / "big")), ("sample", sample)):
            num_ours, num_stock = CAPTIONS[title][0 if quick else 1]
            guards.MIN_COPIES = loops if package is sample else 10**9
            medians, equal = race(title, package, 5 if quick else 9, num_ours, num_stock)
            stem = title.replace(" ", "-")
            values[f"{stem}-ratio"] = medians["vernaclip"] / medians["argostranslate"]
            values[f"{stem}-ratio-one-thread"] = medians["vernaclip"] / medians["argostranslate, 1 thread"]
            values[f"{stem}-equal-share"] = equal
    for name, goal in GOALS.items():
        print(f"claim translation-{name} {values[name]:.2f} goal >={goal} {'ok' if values[name] >= goal else 'short'}")
    return int(any(values[name] < goal for name, goal in GOALS.items()))


if __name__ == "__main__":
    sys.exit(main())
