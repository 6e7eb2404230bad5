"""JSON documents that are read piece by piece: the same values as read whole, and every way in which they are wrong."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.errors import InputError
from data_catalog.sources import json_documents
from data_catalog.sources.json_documents import JsonList, open_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "captions.json"
    path.write_bytes(content)
    return path


def lists(path: Path) -> Any:
    document = open_json(path, expected="a COCO JSON")
    assert isinstance(document, dict)
    return {name: list(value) if isinstance(value, JsonList) else None for name, value in document.items()}


@given(
    document=st.dictionaries(st.text(max_size=9), VALUES),
    indent=st.sampled_from([None, 1]),
    ascii=st.booleans(),
    read_chars=st.sampled_from([1, 7, 2**18]),
)
def test_lists_read_piece_by_piece_are_as_when_read_whole(
    tmp_path_factory: pytest.TempPathFactory,
    document: dict[str, Any],
    *,
    indent: int | None,
    ascii: bool,
    read_chars: int,
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=ascii)
    path = write(tmp_path_factory.mktemp("json"), text.encode("utf-8", "surrogatepass" if ascii else "replace"))
    whole = json.loads(path.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_documents, "READ_CHARS", read_chars)
        assert lists(path) == {name: value if isinstance(value, list) else None for name, value in whole.items()}


def test_a_list_has_a_length_and_can_be_iterated_again(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(b'\xef\xbb\xbf {"b": [1, 2,\n 3], "a": {"b": [4]}, "c": []} '))
    document = open_json(path, expected="a COCO JSON")
    assert isinstance(document, dict)
    assert [len(document[name]) for name in ("b", "c")] == [3, 0]
    assert list(zip(document["b"], document["b"], strict=True)) == [(1, 1), (2, 2), (3, 3)]
    assert document["a"] is None
    for content, found in ((b"[1, 2]", [1, 2]), (b' "text" ', "text"), (b"12", 12)):  # no object: as it is
        assert open_json(write(tmp_path, content), expected="a COCO JSON") == found


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"images": [{"id": 1}, {"id"', "ends too early"),
        (b'{"images": [', "ends too early"),
        (b'{"images": oops}', "not valid JSON"),
        (b'{"images": [1, ]}', "not valid JSON"),
        (b'{"images": [], }', "Expecting value"),
        (b'{"images": []} {"images": []}', "more text follows the end"),
        (b'{"images": [], 7: []}', "name in the outermost object is not a text"),
        (b'{"images": ' + b"[" * 200_000, "nested too deeply"),
        (b'{"a": "caff\xe8"}', "not UTF-8"),
        (b"  ", "ends too early"),
        (b'{"images": [[{"id": 1}, {"x": {"y": 1, "y": 1}}]]}', "'y' stands twice in one object"),
        (b'{"images": [1], "info": {}, "images": [2]}', "'images' is repeated in the outermost object"),
        (b"{" + b",".join(b'"%d": 1' % number for number in range(2000)) + b"}", "more than 1,000 names"),
        (b'{"images": ["' + b"x" * 4_500_000 + b'"]}', "a value has more than 2,097,152 characters"),
        (b'{"images": {"a": [' + b"1," * 2_250_000 + b"1]}}", "a value has more than 2,097,152 characters"),
    ],
)
def test_a_broken_document_is_an_input_error(tmp_path: Path, content: bytes, found: str) -> None:
    with pytest.raises(InputError, match=found) as caught:
        open_json(write(tmp_path, content), expected="a COCO JSON")
    assert "captions.json" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_numbers_of_thousands_of_digits_do_not_fail(tmp_path: Path) -> None:
    found = lists(write(tmp_path, b'{"ids": [' + b"9" * 5000 + b", -" + b"9" * 5000 + b", 1]}"))
    assert found == {"ids": [float("inf"), float("-inf"), 1]}
