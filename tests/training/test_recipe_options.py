"""The paper's recipe, part by part: frozen towers first, AdaBelief, clipping by units, fixed scale, losses, an end."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import InputError, PipelineError, SettingsError
from training.config import TrainConfig
from training.data.pairs import PairFiles
from training.fit.loop import train
from training.fit.losses import Encoders, backward, with_loss_constants
from training.fit.optimisation import choose_trained, make_optimizer, optimizer_step
from training.fit.run import STATE_FILE
from training.towers.model import create_model, load_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

RESNET: dict[str, Any] = {
    "embed_dim": 64,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "text_cfg": {
        "context_length": 24,
        "width": 64,
        "heads": 2,
        "layers": 2,
        "pool_type": "argmax",
        "hf_tokenizer_name": "tokenizer",
    },
}
VIT = {**RESNET, "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}}
PAPER: dict[str, Any] = {
    "optimizer": "adabelief",
    "agc": 0.01,
    "max_grad_norm": 0.0,
    "logit_scale": 20.0,
    "frozen_epochs": 2,
    "augment": ("paper",),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The paper's recipe, small: a resume state every fourth step of nine an epoch."""
    model = tmp_path_factory.mktemp("model") / "small.json"
    model.write_text(json.dumps(VIT))
    small = TrainConfig(
        model=str(model), epochs=3, batch_size=16, lr=2e-3, warmup_steps=5, num_threads=1, checkpoint_every_steps=4
    )
    return replace(small, **PAPER)


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_papers_recipe_in_one_run(square_files: PairFiles, config: TrainConfig, tmp_path: Path) -> None:
    result = train(square_files, replace(config, epochs=14), tmp_path / "run")
    lines = lines_of(tmp_path / "run")
    assert [line["frozen"] for line in lines] == [True] * result.frozen_epochs + [False] * 14
    assert all(line["logit_scale"] == pytest.approx(20) for line in lines)
    assert result.epochs == result.frozen_epochs + 14
    assert result.best_val_loss == min(line["val_loss"] for line in lines)
    assert result.best_val_loss < math.log(24) - 0.4  # chance on 24 images; its flips and hues falsify these captions


@pytest.mark.slow
def test_killed_with_frozen_towers_it_goes_on_bit_for_bit(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path, kill_while_training: Callable[..., None]
) -> None:
    train(square_files, config, tmp_path / "whole")
    kill_while_training(square_files, config, tmp_path / "killed")
    train(square_files, config, tmp_path / "killed")
    for name in ("model.safetensors", "metrics.jsonl", "result.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_projections_train_alone_until_the_validation_loss_stops_improving(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path
) -> None:
    """At a rate that is far too high it rises soon."""
    result = train(square_files, replace(config, frozen_epochs=30, epochs=1, lr=0.3), tmp_path / "run")
    losses = [line["val_loss"] for line in lines_of(tmp_path / "run") if line["frozen"]]
    assert len(losses) == result.frozen_epochs < 30
    assert losses[:-1] == sorted(losses[:-1], reverse=True)
    assert losses[-1] >= losses[-2]


@pytest.mark.parametrize("model", [VIT, RESNET], ids=["vit", "resnet"])
def test_frozen_towers_keep_every_weight_and_statistic(model: dict[str, Any]) -> None:
    import torch

    torch.manual_seed(0)
    config = TrainConfig(**PAPER)
    module = create_model(with_loss_constants(model, config), Path())
    optimizer = make_optimizer(module, config)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    choose_trained(module, frozen=True, fixed_scale=True, lock_image=False)
    one_step(module, optimizer, config)
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(
        name == "text.text_projection" or name.startswith(("visual.proj", "visual.attnpool")) for name in changed
    )
    choose_trained(module, frozen=False, fixed_scale=True, lock_image=False)
    one_step(module, optimizer, config)
    same = {name for name, value in module.state_dict().items() if torch.equal(value, before[name])}
    assert "logit_scale" in same
    assert not any(name.endswith(("conv1.weight", "token_embedding.weight", "in_proj_weight")) for name in same)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_locked_image_tower_never_changes(frozen: bool) -> None:
    import torch

    torch.manual_seed(0)
    config = TrainConfig(max_grad_norm=0.0)
    module = create_model(RESNET, Path())
    optimizer = make_optimizer(module, config)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    choose_trained(module, frozen=frozen, fixed_scale=False, lock_image=True)
    one_step(module, optimizer, config)
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert "text.text_projection" in changed
    assert ("text.ln_final.weight" in changed) == (not frozen)
    assert not any(name.startswith("visual.") for name in changed)


def one_step(module: Any, optimizer: Any, config: TrainConfig) -> None:
    import torch

    generator = torch.Generator().manual_seed(1)
    images = torch.rand((8, 3, 32, 32), generator=generator)
    ids = torch.randint(3, 300, (8, 10), generator=generator)
    backward(module, Encoders.whole(module), images, ids, replace(config, precision="fp32", microbatch=0))
    optimizer_step(optimizer, module, lr=0.1, config=config)


def test_without_patience_all_epochs_are_gone_through_and_with_it_fewer(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path
) -> None:
    wild = replace(config, frozen_epochs=0, epochs=8, lr=0.5)
    assert train(square_files, wild, tmp_path / "all").epochs == 8
    result = train(square_files, replace(wild, patience=2), tmp_path / "patient")
    assert result.epochs == result.best_epoch + 2 < 8


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_both_losses_learn(loss: str, square_files: PairFiles, config: TrainConfig, tmp_path: Path) -> None:
    chosen = replace(config, loss=loss, logit_scale=0.0, frozen_epochs=0, epochs=8, augment=())
    train(square_files, chosen, tmp_path / "run")
    first, *_, last = lines_of(tmp_path / "run")
    assert last["val_loss"] < first["val_loss"] - 0.3
    has_bias = load_model(tmp_path / "run").module.logit_bias is not None
    assert has_bias == (loss == "siglip")


@pytest.mark.parametrize("loss", ["clip", "siglip"])
@pytest.mark.parametrize("locked", [False, True])
def test_a_batch_in_pieces_has_the_gradients_of_the_whole(loss: str, locked: bool) -> None:
    import torch

    torch.manual_seed(0)
    module = create_model(with_loss_constants(VIT, TrainConfig(loss=loss)), Path())
    choose_trained(module, frozen=False, fixed_scale=False, lock_image=locked)
    images, ids = torch.rand((10, 3, 32, 32)), torch.randint(3, 300, (10, 12))
    found = {}
    for size in (0, 4):
        module.zero_grad()
        encoders = Encoders.whole(module)
        value = backward(module, encoders, images, ids, TrainConfig(loss=loss, microbatch=size))
        found[size] = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        found[size]["loss"] = value.detach()
    assert found[0].keys() == found[4].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[4][name], gradient, rtol=1e-4, atol=1e-6)


def test_batch_statistics_are_not_of_pieces(square_files: PairFiles, config: TrainConfig, tmp_path: Path) -> None:
    model = tmp_path / "resnet.json"
    model.write_text(json.dumps(RESNET))
    with pytest.raises(SettingsError, match=r"train\.microbatch does not work with batch normalisation"):
        train(square_files, replace(config, model=str(model), microbatch=8), tmp_path / "run")


def test_siglip_starts_where_its_paper_does() -> None:
    started = with_loss_constants(VIT, TrainConfig(loss="siglip"))
    assert (started["init_logit_scale"], started["init_logit_bias"]) == (pytest.approx(math.log(10)), -10.0)
    own = with_loss_constants({**VIT, "init_logit_bias": -5.0}, TrainConfig(loss="siglip"))
    assert own["init_logit_bias"] == -5.0
    assert "init_logit_bias" not in with_loss_constants(VIT, TrainConfig())


def test_the_first_caption_alone(square_files: PairFiles, config: TrainConfig, tmp_path: Path) -> None:
    """The second captions decide nothing then."""
    first = replace(config, captions="first", epochs=1, frozen_epochs=0)
    train(square_files, first, tmp_path / "first")
    train(square_files, replace(first, captions="random"), tmp_path / "random")
    one, other = (lines_of(tmp_path / name)[0]["train_loss"] for name in ("first", "random"))
    assert one != other


def test_gradients_are_clipped_by_units() -> None:
    """As in optax: no unit's gradient is longer than 0.01 of its weights, which count as 0.001 where they are less."""
    import torch

    module = create_model(VIT, Path())
    config = TrainConfig(agc=0.01, max_grad_norm=0.0, weight_decay=0.0)
    seen: dict[str, Any] = {}

    class Watching(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.update({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
            return super().step(closure)

    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    weights = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer_step(Watching(module.parameters(), lr=0.0), module, lr=0.0, config=config)
    matrix, limit = seen["text.text_projection"], weights["text.text_projection"].norm(dim=1).clamp(min=1e-3) * 0.01
    torch.testing.assert_close(matrix.norm(dim=1), limit)
    assert float(seen["logit_scale"]) == 100.0


def test_adabelief_steps_as_its_paper_says() -> None:
    import torch

    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
            self.logit_scale = torch.nn.Parameter(torch.tensor(1.0))

    module = Two()
    config = TrainConfig(optimizer="adabelief", max_grad_norm=0.0)
    optimizer = make_optimizer(module, config)
    mean = variance = torch.zeros(2, dtype=torch.float64)
    expected = module.weight.detach().double()
    for step, gradient in enumerate([[0.1, -0.2], [0.3, 0.1], [-0.2, 0.4], [0.1, 0.1]], start=1):
        module.weight.grad = torch.tensor(gradient)
        optimizer_step(optimizer, module, lr=0.01, config=config)
        mean = 0.9 * mean + 0.1 * torch.tensor(gradient).double()
        variance = 0.999 * variance + 0.001 * (torch.tensor(gradient).double() - mean) ** 2 + 1e-16
        expected = expected - 0.01 * (mean / (1 - 0.9**step)) / ((variance / (1 - 0.999**step)).sqrt() + 1e-16)
    torch.testing.assert_close(module.weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_a_gradient_that_is_no_number_changes_no_weight(broken: float) -> None:
    import torch

    module = create_model(VIT, Path())
    config = TrainConfig(**PAPER)
    before = [parameter.clone() for parameter in module.parameters()]
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    module.text.text_projection.grad[0, 0] = broken
    with pytest.raises(FloatingPointError, match="norm is"):
        optimizer_step(make_optimizer(module, config), module, lr=0.1, config=config)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_best_weights(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path, kill_while_training: Callable[..., None]
) -> None:
    """A weight of the resume state becomes NaN, as a run leaves it that has left all bounds."""
    from safetensors.torch import load_file, save_file

    out = tmp_path / "run"
    once_an_epoch = replace(config, checkpoint_every_steps=1000)
    kill_while_training(square_files, once_an_epoch, out)
    best = (out / "model.safetensors").read_bytes()
    state = (out / STATE_FILE).read_bytes()
    tensors = load_file(out / STATE_FILE)
    tensors["model.text.text_projection"][0, 0] = math.nan
    length = int.from_bytes(state[:8], "little")
    save_file(tensors, out / STATE_FILE, metadata=json.loads(state[8 : 8 + length])["__metadata__"])
    with pytest.raises(
        PipelineError, match=r"training stopped at step \d+ of epoch \d because the loss is nan\. The weights of epoch"
    ):
        train(square_files, once_an_epoch, out)
    assert (out / "model.safetensors").read_bytes() == best


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("optimizer", "sgd", r"train\.optimizer must be one of adamw, adabelief, got 'sgd'"),
        ("loss", "triplet", r"train\.loss must be one of clip, siglip"),
        ("captions", "all", r"train\.captions must be one of random, first"),
        ("augment", ("crop", "rotate"), r"train\.augment has an unknown augmentation 'rotate': use crop, .* paper"),
        ("warmup_ratio", 1.5, r"train\.warmup_ratio must be from 0 to 1, got 1\.5"),
        ("agc", -0.01, r"train\.agc must not be negative"),
        ("logit_scale", 0.5, r"train\.logit_scale must be 0 \(a trained scale\) or from 1 to 100, got 0\.5"),
        ("logit_scale", math.nan, r"train\.logit_scale must be 0"),
        ("frozen_epochs", -1, r"train\.frozen_epochs must not be negative"),
    ],
)
def test_bad_settings_are_named(setting: str, value: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TrainConfig(**{setting: value})


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_ends_with_the_same_weights(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path, kill_while_training: Callable[..., None]
) -> None:
    """In both phases, with a resume state at each step."""
    often = replace(config, epochs=18, checkpoint_every_steps=1)
    train(square_files, often, tmp_path / "whole")
    rng = random.Random(1)
    for _ in range(20):
        kill_while_training(square_files, often, tmp_path / "killed", seconds_more=rng.uniform(0, 0.4))
    train(square_files, often, tmp_path / "killed")
    for name in ("model.safetensors", "metrics.jsonl", "result.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_gpu_that_is_not_there_is_told_of(square_files: PairFiles, config: TrainConfig, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match=r"train\.device is cuda, but torch finds 0 GPUs"):
        train(square_files, replace(config, device="cuda"), tmp_path / "run")
