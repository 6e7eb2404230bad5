"""The network that is trained: its twin in CTranslate2, its batches, loss and learning rate."""

from dataclasses import replace
from pathlib import Path

import ctranslate2
import pytest
import torch

from translation.train.config import TrainPackageConfig
from translation.train.loop import epoch_batches, grouped, lr_factor, smoothed_cross_entropy, to_batch
from translation.train.model import END_ID, START_ID, TranslationModel, save_ctranslate2

CONFIG = TrainPackageConfig(
    vocabulary_size=40, embed_dim=32, num_heads=4, ffn_dim=64, num_encoder_layers=2, num_decoder_layers=3, dropout=0.1
)
PIECES = ["<unk>", "<s>", "</s>", *(f"p{number}" for number in range(37))]


@pytest.fixture(scope="module")
def network() -> TranslationModel:
    """A random network that says different things of different inputs."""
    torch.set_num_threads(1)  # as trainings do; networks this small are slower with two
    torch.manual_seed(3)
    model = TranslationModel(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.25)
    return model


@pytest.mark.parametrize("source", [[5], [7, 9, 30, 12], list(range(3, 40)), [11] * 20])
def test_ctranslate2_computes_what_torch_computes(network: TranslationModel, source: list[int], tmp_path: Path) -> None:
    save_ctranslate2(network, PIECES, tmp_path, quantization=None)
    model = ctranslate2.Translator(str(tmp_path), inter_threads=1, intra_threads=1)
    tokens = [PIECES[index] for index in source]
    target = [4, 17, 23, 5, 39]
    scores = model.score_batch([tokens], [[PIECES[index] for index in target]])[0].log_probs
    with torch.no_grad():
        logits = network(torch.tensor([source]), torch.tensor([len(source)]), torch.tensor([[START_ID, *target]]))
    log_probs = logits.log_softmax(-1)[0]
    torch_scores = [log_probs[place, token].item() for place, token in enumerate([*target, END_ID])]
    assert scores == pytest.approx(torch_scores, abs=1e-4)


def test_padding_changes_nothing(network: TranslationModel) -> None:
    short, long = ([4, 5], [6]), ([7, 8, 9, 10, 11], [12, 13, 14, 15])
    with torch.no_grad():
        together, alone = (network(*to_batch(pairs)[:3]) for pairs in ([short, long], [short]))
    torch.testing.assert_close(together[:1, :2], alone, atol=1e-5, rtol=1e-4)


def test_batches_keep_the_budget_and_lose_nothing() -> None:
    pairs = [([1] * (index % 13 + 1), [index]) for index in range(100)]
    sizes = [len(group) for group in grouped(sorted(pairs), 40)]
    assert sum(sizes) == 100
    orders = []
    for epoch in (0, 1):
        batches = [to_batch(group) for group in epoch_batches(pairs, 40, seed=1, epoch=epoch)]
        assert max(source.numel() for source, *_ in batches) <= 40
        seen = [label for *_, labels in batches for label in labels[:, 0].tolist()]
        assert sorted(seen) == list(range(100))
        orders.append(seen)
    assert orders[0] != orders[1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_loss_is_the_librarys(dtype: torch.dtype, tolerance: float, label_smoothing: float) -> None:
    torch.manual_seed(5)
    logits, labels = torch.randn(7, 11).to(dtype) * 3, torch.randint(11, (7,))
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = smoothed_cross_entropy(ours * 2, labels, label_smoothing)
    (loss * 3).backward()
    expected = torch.nn.functional.cross_entropy(theirs.float() * 2, labels, label_smoothing=label_smoothing)
    (expected * 3).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=tolerance, rtol=tolerance)


def test_learning_rate_rises_then_falls() -> None:
    factors = [lr_factor(step, replace(CONFIG, num_steps=100, warmup_steps=10)) for step in range(101)]
    assert factors[9] == factors[10] == max(factors) == 1
    assert (factors[0], factors[100]) == pytest.approx((0.1, 0))
    assert factors[10:] == sorted(factors[10:], reverse=True)
