"""Time and energy of a run: counters of a powercap folder made on the spot, and attempts that are interrupted."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from data_catalog.errors import DamagedError
from training.fit.effort import EffortLog, EnergyMeter, read_attempts
from training.trained_models import EFFORT_FILE

WRAPS_AT = 262_143_328_850


def zone(folder: Path, place: str, name: str, microjoules: int) -> Path:
    """A counter as Linux shows it; a zone within another has a second number."""
    path = folder / f"intel-rapl:{place}"
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{WRAPS_AT}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path / "energy_uj"


def measured(folder: Path, gpus: Sequence[str] = ()) -> tuple[dict[str, float], tuple[str, ...]]:
    meter = EnergyMeter(gpus, powercap=folder)
    meter.close()
    return meter.sample()


def test_packages_and_their_memory_are_counted_over_the_end_of_a_counter(tmp_path: Path) -> None:
    """A core's energy is in its package's already, and a platform's holds all."""
    first = zone(tmp_path, "0", "package-0", 1_000_000)
    second = zone(tmp_path, "1", "package-1", WRAPS_AT - 2_000_000)
    memory = zone(tmp_path, "1:1", "dram", 0)
    for place, name in (("0:0", "core"), ("2", "psys")):
        zone(tmp_path, place, name, 0)
    (tmp_path / "intel-rapl:3").mkdir()  # it does not say what it is
    meter = EnergyMeter(powercap=tmp_path)
    meter.close()
    assert meter.sample() == ({"package-0": 0, "package-1": 0, "dram-1": 0}, ())
    for counter, microjoules in ((first, 4_000_000), (second, 1_000_000), (memory, 500_000)):
        counter.write_text(f"{microjoules}\n")
    assert meter.sample()[0] == {"package-0": 3, "package-1": 3, "dram-1": 0.5}
    second.write_text("3000000\n")
    first.unlink()
    joules, not_measured = meter.sample()
    assert joules == {"package-1": 5, "dram-1": 0.5}, "of what went away nothing is claimed"
    assert not_measured == ("package-0: its counter disappeared (FileNotFoundError)",)


def test_what_cannot_be_measured_says_why(tmp_path: Path) -> None:
    assert measured(tmp_path / "none") == ({}, ("processor: this system has no RAPL counters",))
    zone(tmp_path, "0", "package-0", 0).write_text("much")
    assert measured(tmp_path) == ({}, ("processor: intel-rapl:0 cannot be read (ValueError)",))
    _, gpu = measured(tmp_path, ["00000000-0000-0000-0000-000000000000"])[1]
    assert gpu.startswith("GPU")


@pytest.mark.parametrize("damage", ['{"attempts": {}}', '{"attempts": [{"seconds": "12"}]}', '{"attempts": [{}]}'])
def test_attempts_add_up_and_a_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / EFFORT_FILE
    for first, last in ((0, 5), (3, 9)):
        log = EffortLog(path, torch.device("cpu"), step=first)
        log.note(last - 1)
        log.note(last)
        log.close()
    attempts = read_attempts(path)
    assert [(found.first_step, found.last_step) for found in attempts] == [(0, 5), (3, 9)]
    assert all(found.seconds >= 0 and found.hardware[0] for found in attempts)
    assert all(found.joules or found.not_measured for found in attempts)
    path.write_text(damage)
    with pytest.raises(DamagedError, match=r"effort\.json is damaged .* remove it"):
        read_attempts(path)
