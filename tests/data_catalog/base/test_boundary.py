"""Errors of libraries name the file, step or setting; errors of ours and the user's interrupts pass."""

import errno
import pickle

import pytest

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, DiskError, InputError, TransientError


def test_an_error_of_a_library_says_what_it_is_about_and_what_to_do() -> None:
    with pytest.raises(InputError, match=r"^pairs\.csv: line 3 is wrong$"), about("pairs.csv"):
        raise ValueError("line 3\n is wrong")
    with (
        pytest.raises(DamagedError, match=r"^a\.json \(KeyError\): restore it$"),
        about("a.json", kind=DamagedError, remedy="restore it"),
    ):
        raise KeyError
    with pytest.raises(InputError, match="reading it would run code"), about("model.pt"):
        raise pickle.UnpicklingError("use weights_only=False")
    with pytest.raises(DiskError, match="is full"), about("out/x.parquet"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [TransientError("busy"), MemoryError(), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_errors_of_ours_and_interrupts_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, about("x"):
        raise error
    assert caught.value is error


def test_a_panic_of_rust_code_is_an_error_too() -> None:
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(InputError, match="tokenizer: index out of bounds"), about("tokenizer"):
        raise panic("index out of bounds")
