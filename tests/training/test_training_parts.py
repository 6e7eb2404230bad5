"""Parts of a training: settings and keys, rates, losses, gradients, optimizers, frozen towers, resume states."""

import copy
import errno
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data_catalog.errors import DamagedError, DiskError, InputError, SettingsError
from data_catalog.storage.resume import load_resume_state, save_resume_state
from training.config import TrainConfig
from training.fit.inputs import FeatureRows, projected, without
from training.fit.losses import Encoders, backward, generator_states, set_generator_states, with_loss_constants
from training.fit.optimisation import choose_trained, frozen_parts, learning_rate, make_optimizer, optimizer_step
from training.fit.run import run_key
from training.towers.model import create_model, read_model_config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

Towers = dict[str, dict[str, Any]]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("epochs", 0, "must be positive"),
        ("lr", math.nan, "must be positive"),
        ("lr", math.inf, "must be positive"),
        ("steps", -1, "must not be negative"),
        ("agc", -0.01, "must not be negative"),
        ("batch_size", 1, "must be at least 2"),
        ("vocab_size", 299, "must be at least 300"),
        ("warmup_ratio", 1.5, "must be from 0 to 1"),
        ("logit_scale", 0.5, "from 1 to 100"),
        ("logit_scale", 101, "from 1 to 100"),
        ("logit_scale", math.nan, "from 1 to 100"),
        ("augment", ("crop", "rotate"), "unknown augmentation 'rotate': use crop, .* paper"),
        ("optimizer", "sgd", "must be one of adamw, adabelief, got 'sgd'"),
    ],
)
def test_bad_settings_are_named(setting: str, value: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=rf"train\.{setting} .*{message}"):
        TrainConfig(**{setting: value})
    TrainConfig(batch_size=2, vocab_size=300, warmup_ratio=1.0, logit_scale=100)
    TrainConfig(warmup_ratio=0.0, logit_scale=1, agc=0, patience=0)


def test_bad_models_are_named(towers: Towers, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no model config 'enormous': name one of compact, .*lit"):
        read_model_config("enormous")
    path, small = tmp_path / "model.json", towers["vit"]
    for text, message in [
        ("{", "is not JSON"),
        ("[]", "embed_dim, text_cfg, vision_cfg is missing"),
        (
            json.dumps({**small, "vision_cfg": {}, "text_cfg": {}}),
            r"text_cfg.context_length, text_cfg.hf_tokenizer_name, vision_cfg.image_size is missing",
        ),
        (json.dumps({**small, "vision_cfg": 5}), "vision_cfg.image_size is missing"),
        (json.dumps({**small, "vision_cfg": {"image_size": [32, 32]}}), "image_size must be one number"),
        (json.dumps({**small, "custom_text": 1}), "set custom_text"),  # `load_model` would refuse it in the end
        (json.dumps({**small, "text_cfg": {**small["text_cfg"], "pool_type": "last"}}), "pool_type argmax"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_model_config(str(path))


def test_a_key_is_of_what_decides_the_weights(towers: Towers) -> None:
    shards = {"train": ["aa"], "val": [], "test": ["bb"]}

    def key(**changes: Any) -> str:
        return run_key(TrainConfig(**changes), towers["vit"], {}, shards)

    assert key() == key(num_threads=7, cache_max_bytes=1, checkpoint_every_steps=9)
    others = [key(seed=5), key(epochs=2), key(augment=()), key(steps=1), run_key(TrainConfig(), {}, {}, shards)]
    others += [run_key(TrainConfig(), towers["vit"], {}, {**shards, "val": ["ab"]})]
    assert len({key(), *others}) == 7
    before_there_were_steps = "19d5d6cd1ab1aef90b2a9985a762ca0a131d1831f07b1e3682f13c3e2d89d51d"
    shards |= {"train": ["a"], "test": []}
    assert run_key(TrainConfig(), {"embed_dim": 1}, {}, shards) == before_there_were_steps


def test_the_rate_rises_then_falls_to_nothing() -> None:
    config = TrainConfig(lr=2e-3, warmup_steps=5)
    rates = [learning_rate(step, config=config, total=40) for step in range(40)]
    assert rates[:5] == pytest.approx([config.lr * part / 5 for part in (1, 2, 3, 4, 5)])
    assert rates[5] == config.lr
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < config.lr / 100
    by_share = replace(config, warmup_steps=0, warmup_ratio=0.125)
    assert [learning_rate(step, config=by_share, total=40) for step in range(40)] == rates


def one_step(module: Any, optimizer: Any, config: TrainConfig) -> set[str]:
    """Names of the weights and statistics that a step changes."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((8, 3, 32, 32), generator=generator)
    ids = torch.randint(3, 300, (8, 10), generator=generator)
    backward(module, Encoders.whole(module), images, ids, config)
    optimizer_step(optimizer, module, lr=0.1, config=config)
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("lock_image", [False, True])
def test_frozen_and_locked_towers_keep_every_weight_and_statistic(kind: str, lock_image: bool, towers: Towers) -> None:
    torch.manual_seed(0)
    config = TrainConfig(optimizer="adabelief", agc=0.01, max_grad_norm=0.0, logit_scale=20.0)
    module = create_model(with_loss_constants(towers[kind], config), Path())
    optimizer = make_optimizer(module, config)
    choose_trained(module, frozen=True, fixed_scale=True, lock_image=lock_image)
    changed = one_step(module, optimizer, config)
    images = set() if lock_image else {name for name in changed if name.startswith(("visual.proj", "visual.attnpool"))}
    assert bool(images) is not lock_image
    assert changed == {"text.text_projection"} | images
    choose_trained(module, frozen=False, fixed_scale=True, lock_image=lock_image)
    same = set(module.state_dict()) - one_step(module, optimizer, config)
    assert "logit_scale" in same
    assert "text.token_embedding.weight" not in same
    assert all((name in same) is lock_image for name in module.state_dict() if name.endswith("conv1.weight"))
    choose_trained(module, frozen=False, fixed_scale=False, lock_image=True)
    assert "logit_scale" in one_step(module, optimizer, config)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_tower_is_its_projection_of_what_is_kept(kind: str, towers: Towers) -> None:
    torch.manual_seed(0)
    module = create_model(towers[kind], Path()).eval()
    names = [name for name, _ in module.named_parameters()]
    inputs = torch.rand((5, 3, 32, 32)), torch.randint(3, 300, (5, 10))
    for part, batch in zip(frozen_parts(module, frozen=True, lock_image=False), inputs, strict=True):
        assert part is not None
        expected = part.tower(batch)
        with torch.no_grad(), without(part.tower, part.projection):
            kept = part.tower(batch)
        assert kept.shape != expected.shape or not torch.allclose(kept, expected)
        torch.testing.assert_close(projected(part.tower, part.projection)(kept), expected)
    assert [name for name, _ in module.named_parameters()] == names


@pytest.mark.parametrize(("loss", "locked"), [("clip", False), ("clip", True), ("siglip", False)])
def test_a_batch_in_pieces_has_the_gradients_of_the_whole(loss: str, locked: bool, towers: Towers) -> None:
    torch.manual_seed(0)
    module = create_model(with_loss_constants(towers["vit"], TrainConfig(loss=loss)), Path())
    choose_trained(module, frozen=False, fixed_scale=False, lock_image=locked)
    images, ids = torch.rand((10, 3, 32, 32)), torch.randint(3, 300, (10, 12))
    found = {}
    for size in (0, 4):
        module.zero_grad()
        value = backward(module, Encoders.whole(module), images, ids, TrainConfig(loss=loss, microbatch=size))
        found[size] = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        found[size]["loss"] = value.detach()
    assert found[0].keys() == found[4].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[4][name], gradient, rtol=1e-4, atol=1e-5)


def test_siglip_starts_where_its_paper_does(towers: Towers) -> None:
    started = with_loss_constants(towers["vit"], TrainConfig(loss="siglip"))
    assert (started["init_logit_scale"], started["init_logit_bias"]) == (pytest.approx(math.log(10)), -10.0)
    own = with_loss_constants({**towers["vit"], "init_logit_bias": -5.0}, TrainConfig(loss="siglip"))
    assert own["init_logit_bias"] == -5.0
    assert "init_logit_bias" not in with_loss_constants(towers["vit"], TrainConfig())


def test_gradients_are_clipped_by_units(towers: Towers) -> None:
    """As in optax: no unit's gradient is longer than 0.01 of its weights, which count as 0.001 where they are less."""
    module = create_model(towers["vit"], Path())
    seen: dict[str, Any] = {}

    class Watching(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.update({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
            return super().step(closure)

    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    limit = module.text.text_projection.detach().norm(dim=1).clamp(min=1e-3) * 0.01
    config = TrainConfig(agc=0.01, max_grad_norm=0.0, weight_decay=0.0)
    optimizer_step(Watching(module.parameters(), lr=0.0), module, lr=0.0, config=config)
    torch.testing.assert_close(seen["text.text_projection"].norm(dim=1), limit)
    assert float(seen["logit_scale"]) == 100.0


def test_adabelief_steps_as_its_paper_says() -> None:
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
def test_a_gradient_that_is_no_number_changes_no_weight(broken: float, towers: Towers) -> None:
    module, config = create_model(towers["vit"], Path()), TrainConfig(agc=0.01)
    before = [parameter.clone() for parameter in module.parameters()]
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    module.text.text_projection.grad[0, 0] = broken
    with pytest.raises(FloatingPointError, match="norm is"):
        optimizer_step(make_optimizer(module, config), module, lr=0.1, config=config)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_kept_features_are_rows_by_index_and_a_disk_without_room_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, wanted = FeatureRows(10, tmp_path), np.array([7, 2, 2, 5])
    assert rows.missing(wanted).tolist() == [2, 5, 7]
    rows.put(np.array([2, 5]), torch.tensor([[2.0, 2.5], [5.0, 5.5]]))
    assert rows.missing(wanted).tolist() == [7]
    assert rows.read(np.array([5, 2, 5])).tolist() == [[5.0, 5.5], [2.0, 2.5], [5.0, 5.5]]
    assert list(tmp_path.iterdir()) == []

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(DiskError, match="full"):
        FeatureRows(10, tmp_path).put(np.array([0]), torch.zeros((1, 4)))


def save(path: Path, module: Any, optimizer: Any) -> None:
    states = {"modules": {"model": module}, "generators": generator_states(torch.device("cpu"))}
    save_resume_state(path, key="k", optimizer=optimizer, progress={"step": 3}, **states)


def load(path: Path, module: Any, optimizer: Any, *, key: str = "k") -> Any:
    how = {"set_generators": set_generator_states, "progress_of": dict}
    return load_resume_state(path, key=key, modules={"model": module}, optimizer=optimizer, **how)


@pytest.mark.parametrize("optimizer", ["adamw", "adabelief"])
def test_an_optimizer_goes_on_where_it_was(optimizer: str, tmp_path: Path) -> None:
    """A fused step takes weights and moments in the order of memory: convolutions lie channels last there."""
    config = TrainConfig(optimizer=optimizer)
    module = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    module.register_parameter("logit_scale", torch.nn.Parameter(torch.ones([])))
    fresh = copy.deepcopy(module)

    def steps(trained: Any, its_optimizer: Any, numbers: range) -> None:
        for number in numbers:
            torch.manual_seed(number)
            for parameter in trained.parameters():
                parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape))
            optimizer_step(its_optimizer, trained, lr=0.01, config=config)

    whole = make_optimizer(module, config)
    steps(module, whole, range(3))
    save(tmp_path / "state", module, whole)
    resumed = make_optimizer(fresh, config)
    assert load(tmp_path / "state", fresh, resumed) == {"step": 3}
    steps(module, whole, range(3, 6))
    steps(fresh, resumed, range(3, 6))
    for (name, ours), theirs in zip(module.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_resume_state_that_does_not_fit_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """As when a library was upgraded meanwhile, whose model has another weight."""
    config, path = TrainConfig(), tmp_path / "state"
    module, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3, bias=False)
    save(path, module, make_optimizer(module, config))
    with pytest.raises(DamagedError, match=r"does not match the run \(.*bias.*\)") as caught:
        load(path, other, make_optimizer(other, config))
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match="other settings or data"):
        load(path, module, make_optimizer(module, config), key="another")
    for said in ("[]", '"x"', "null", "{}", "{"):
        save_file({"weight": torch.zeros(1)}, path, {"state": said})
        with pytest.raises(DamagedError, match="is not a resume state"):
            load(path, module, make_optimizer(module, config))
