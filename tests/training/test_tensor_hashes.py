"""The name of a model's weights: what changes it, and what does not."""

import hashlib
import json
import struct
from collections import OrderedDict

import pytest
import torch

from training.scores.encoders import tensors_sha256

A = torch.arange(6, dtype=torch.float32)
TENSORS = {"a": A.reshape(2, 3), "b": torch.tensor(4.6)}


def test_equal_weights_have_one_name_however_they_lie() -> None:
    name = tensors_sha256(TENSORS)
    by_hand = hashlib.sha256()  # so that names in old files go on to mean what they did
    parts = (("a", [2, 3], struct.pack("<6f", *range(6))), ("b", [], struct.pack("<f", 4.6)))
    for key, shape, raw in parts:
        head = json.dumps([key, "torch.float32", shape]).encode()
        by_hand.update(struct.pack("<Q", len(head)) + head + raw)
    assert name == by_hand.hexdigest()
    turned = {"b": torch.nn.Parameter(TENSORS["b"]), "a": TENSORS["a"].T.contiguous().T}
    assert not turned["a"].is_contiguous()
    assert tensors_sha256(OrderedDict(turned)) == name
    strided = torch.empty(2, 6)[:, ::2]
    strided.copy_(TENSORS["a"])
    assert not strided.is_contiguous()
    assert tensors_sha256({**TENSORS, "a": strided}) == name
    assert tensors_sha256({**TENSORS, "_extra_state": {"fp8": None}}) == name


@pytest.mark.parametrize(
    "other",
    [
        {"a": TENSORS["a"]},
        {**TENSORS, "c": torch.empty(0)},
        {"a": TENSORS["a"], "c": TENSORS["b"]},
        {**TENSORS, "a": A.reshape(3, 2)},
        {**TENSORS, "a": A},
        {**TENSORS, "a": A.reshape(2, 3).int()},
        {**TENSORS, "a": A.reshape(2, 3).view(torch.int32)},  # the same bytes
        {**TENSORS, "a": A.reshape(2, 3).double()},
        {**TENSORS, "a": A.reshape(2, 3).bfloat16()},
        {**TENSORS, "b": torch.nextafter(TENSORS["b"], torch.tensor(5.0))},
        {**TENSORS, "a": TENSORS["a"].flip(0)},
        {**TENSORS, "a": -TENSORS["a"] * torch.tensor([[1.0, -1, -1], [-1, -1, -1]])},  # a zero with a sign
        {"b": TENSORS["a"], "a": TENSORS["b"]},
    ],
)
def test_any_change_gives_another_name(other: dict[str, torch.Tensor]) -> None:
    assert tensors_sha256(other) != tensors_sha256(TENSORS)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.bool, torch.uint8, torch.int64, torch.complex64]
)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 1), (2, 3, 4)])
def test_all_types_and_shapes(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    zeros, ones = torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype)
    assert (tensors_sha256({"a": zeros}) == tensors_sha256({"a": ones})) is (0 in shape)


def test_an_empty_model_has_a_name() -> None:
    assert tensors_sha256({}) != tensors_sha256({"a": torch.empty(0)})
