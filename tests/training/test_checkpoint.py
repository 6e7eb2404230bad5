"""Resume states: what comes back from one is what was written, down to how it lies in memory."""

import copy
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import DamagedError, SettingsError
from training.config import TrainConfig
from training.fit.checkpoint import RunState, load_state, save_state
from training.fit.optimisation import make_optimizer, optimizer_step

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("optimizer", ["adamw", "adabelief"])
def test_an_optimizer_goes_on_where_it_was(optimizer: str, tmp_path: Path) -> None:
    """A fused step takes weights and moments in the order of memory: convolutions lie channels last there."""
    import torch

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
    save_state(tmp_path / "state", key="k", module=module, optimizer=whole, state=RunState(step=3))
    resumed = make_optimizer(fresh, config)
    state = load_state(tmp_path / "state", key="k", module=fresh, optimizer=resumed)
    assert state == RunState(step=3)
    steps(module, whole, range(3, 6))
    steps(fresh, resumed, range(3, 6))
    for (name, ours), theirs in zip(module.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_state_that_does_not_fit_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """As when a library was upgraded meanwhile, whose model has another weight."""
    import torch

    config = TrainConfig()
    path = tmp_path / "state"
    module, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3, bias=False)
    save_state(path, key="k", module=module, optimizer=make_optimizer(module, config), state=RunState())
    with pytest.raises(DamagedError, match=r"does not fit the run \(.*bias.*\): go on with the versions") as caught:
        load_state(path, key="k", module=other, optimizer=make_optimizer(other, config))
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match="belongs to a run with other settings or data"):
        load_state(path, key="another", module=module, optimizer=make_optimizer(module, config))
