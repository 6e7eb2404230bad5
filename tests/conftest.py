"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no defect: no test fails for being slow.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real upstream samples; tests that use it are marked `real_data`."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real_data: {SHARED_DATA} is absent")
    return SHARED_DATA
