"""Time and energy of a run: counters of a powercap folder made on the spot, and attempts that are interrupted."""

from collections.abc import Sequence
from pathlib import Path

import pytest

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


def test_packages_and_their_memory_are_counted_over_the_end_of_a_counter(tmp_path: Path) -> None:
    """A core's energy is in its package's already, and a platform's holds all."""
    first = zone(tmp_path, "0", "package-0", 1_000_000)
    second = zone(tmp_path, "1", "package-1", WRAPS_AT - 2_000_000)
    memory = zone(tmp_path, "1:1", "dram", 0)
    for place, name in (("0:0", "core"), ("2", "psys")):
        zone(tmp_path, place, name, 0)
    meter = EnergyMeter(powercap=tmp_path)
    try:
        assert meter.sample() == ({"package-0": 0, "package-1": 0, "dram-1": 0}, ())
        first.write_text("4000000\n")
        second.write_text("1000000\n")
        memory.write_text("500000\n")
        assert meter.sample()[0] == {"package-0": 3, "package-1": 3, "dram-1": 0.5}
        second.write_text("3000000\n")
        assert meter.sample()[0]["package-1"] == 5
        first.unlink()
        joules, not_measured = meter.sample()
    finally:
        meter.close()
    assert joules == {"package-1": 5, "dram-1": 0.5}, "of what went away nothing is claimed"
    assert not_measured == ("package-0: its counter disappeared (FileNotFoundError)",)


def test_what_cannot_be_measured_says_why(tmp_path: Path) -> None:
    def problems(folder: Path, gpus: Sequence[str] = ()) -> tuple[str, ...]:
        meter = EnergyMeter(gpus, powercap=folder)
        meter.close()
        joules, found = meter.sample()
        assert joules == {}
        return found

    assert problems(tmp_path / "none") == ("processor: this system has no RAPL counters",)
    zone(tmp_path, "0", "package-0", 0).write_text("much")
    assert problems(tmp_path) == ("processor: intel-rapl:0 cannot be read (ValueError)",)
    _, gpu = problems(tmp_path, ["00000000-0000-0000-0000-000000000000"])
    assert gpu.startswith("GPU")


def test_a_zone_that_does_not_say_what_it_is_misses_nothing(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 100)
    (tmp_path / "intel-rapl:1").mkdir()
    meter = EnergyMeter(powercap=tmp_path)
    assert meter.sample() == ({"package-0": 0.0}, ())
    meter.close()


def test_attempts_add_up_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    import torch

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
    path.write_text('{"attempts": [{"seconds": 1}]}')
    with pytest.raises(DamagedError, match=r"effort\.json is damaged .* remove it"):
        read_attempts(path)
