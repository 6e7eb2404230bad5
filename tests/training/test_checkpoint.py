"""Resume states: what comes back from one is what was written, down to how it lies in memory."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from data_catalog.errors import DamagedError, SettingsError
from data_catalog.storage.resume import load_resume_state, save_resume_state
from training.config import TrainConfig
from training.fit.losses import generator_states, set_generator_states
from training.fit.optimisation import make_optimizer, optimizer_step

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def save(path: Path, module: Any, optimizer: Any, **progress: int) -> None:
    modules, generators = {"model": module}, generator_states(torch.device("cpu"))
    save_resume_state(path, key="k", modules=modules, optimizer=optimizer, generators=generators, progress=progress)


def load(path: Path, module: Any, optimizer: Any, *, key: str = "k") -> Any:
    return load_resume_state(
        path,
        key=key,
        modules={"model": module},
        optimizer=optimizer,
        set_generators=set_generator_states,
        progress_of=dict,
    )


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
    save(tmp_path / "state", module, whole, step=3)
    resumed = make_optimizer(fresh, config)
    assert load(tmp_path / "state", fresh, resumed) == {"step": 3}
    steps(module, whole, range(3, 6))
    steps(fresh, resumed, range(3, 6))
    for (name, ours), theirs in zip(module.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_state_that_does_not_fit_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """As when a library was upgraded meanwhile, whose model has another weight."""
    config = TrainConfig()
    path = tmp_path / "state"
    module, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3, bias=False)
    save(path, module, make_optimizer(module, config))
    with pytest.raises(DamagedError, match=r"does not match the run \(.*bias.*\): use the library versions") as caught:
        load(path, other, make_optimizer(other, config))
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match="belongs to a run with other settings or data"):
        load(path, module, make_optimizer(module, config), key="another")


@pytest.mark.parametrize("said", ["[]", '"x"', "3", "null", "{}", "{"])
def test_a_file_that_is_no_state_is_refused_in_a_sentence(said: str, tmp_path: Path) -> None:
    config, path, module = TrainConfig(), tmp_path / "state", torch.nn.Linear(2, 3)
    save_file({"weight": torch.zeros(1)}, path, {"state": said})
    with pytest.raises(DamagedError, match="is no resume state"):
        load(path, module, make_optimizer(module, config))
