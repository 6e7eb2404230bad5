"""All spellings of a URL have the same key, so that a take-down finds each of them."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.sources.urls import address_key, canonical_url, host_of
from data_catalog.tombstones import Matcher, Tombstones, new_tombstone

NAMES = st.sampled_from(["example.org", "xn--citt-3na.example", "127.0.0.1", "a.b.c.example"])
SEGMENTS = st.lists(st.sampled_from(["a", "b.jpg", "...", ".hidden", "%2F", "é"]), min_size=1, max_size=3)
BLANKS = st.text(st.sampled_from("\t\n\r"), max_size=2)
EDGES = st.text(st.sampled_from("\x00\x1f \t\n"), max_size=2)
UNICODE = {"xn--citt-3na.example": "città.example", "127.0.0.1": "１２７。0。０.１"}
LOOPBACK = ["127.1", "127.0.1", "2130706433", "0x7f.1", "0x7F000001", "0177.0.0.01", "017700000001", "127.0.0.1."]
# What steps into a folder and out again, and what stays where it is.
DETOURS = st.lists(st.sampled_from(["./", "x/../", "x/%2e%2E/", "%2e/", "x/y/../.%2E/"]), max_size=3).map("".join)


@st.composite
def spelled_hosts(draw: st.DrawFn, name: str) -> str:
    """Another spelling of a host."""
    spelled = draw(st.sampled_from([name, UNICODE.get(name, name), *(LOOPBACK if name == "127.0.0.1" else [])]))
    letters = [
        draw(st.sampled_from([letter, letter.upper(), f"%{ord(letter):02x}"])) if letter.isascii() else letter
        for letter in spelled
    ]
    return draw(st.sampled_from(["", "someone@", "a:b@"])) + "".join(letters)


@st.composite
def spellings(draw: st.DrawFn) -> tuple[str, str]:
    """Return a URL and another spelling of it."""
    name, segments = draw(NAMES), draw(SEGMENTS)
    slash = st.sampled_from("/\\")
    path = draw(slash) + draw(slash).join(draw(DETOURS) + segment for segment in segments)
    port = draw(st.sampled_from(["", ":80", ":0080"]))
    scheme = draw(st.sampled_from(["http:", "HTTP:"])) + "".join(draw(st.lists(slash, min_size=1, max_size=3)))
    url = scheme + draw(spelled_hosts(name)) + port + path
    cut = draw(st.integers(0, len(url)))
    return f"http://{name}/{'/'.join(segments)}", draw(EDGES) + url[:cut] + draw(BLANKS) + url[cut:] + draw(EDGES)


@given(spellings())
def test_all_spellings_of_a_url_have_one_key(both: tuple[str, str]) -> None:
    plain, spelled = both
    assert host_of(spelled) == host_of(plain)
    assert address_key(spelled) == address_key(plain)
    assert canonical_url(canonical_url(spelled)) == canonical_url(spelled)


@given(spellings())
def test_tombstones_find_all_spellings(both: tuple[str, str]) -> None:
    plain, spelled = both
    host = host_of(plain)
    assert host is not None
    table = pa.table({"url": [spelled, "http://other.example/x", None]})
    for tombstone in (new_tombstone("url", plain), new_tombstone("domain", host)):
        tombstones = Tombstones(tombstones=(tombstone,))
        assert tombstones.match(url=spelled) == tombstone
        assert Matcher(tombstones).numbers(table).tolist() == [0, -1, -1]


@given(st.text(st.characters(exclude_categories=())) | st.text(st.sampled_from("0x7.[]:%2fA#@é。\\\t /")))
def test_any_text_for_a_host_has_one_spelling(text: str) -> None:
    url = f"http://{text}/a.jpg"
    once = canonical_url(url)
    assert canonical_url(once) == once
    host = host_of(url)
    if host is not None:
        assert host_of(f"http://[{host}]/" if ":" in host else f"http://{host}/") == host


@pytest.mark.parametrize("host", ["127.0.0.256", "1.2.3.4.5", "0x7g.1", "08.1", "4294967296", "1.2.65536", "1..2"])
def test_other_numbers_are_not_addresses(host: str) -> None:
    assert host_of(f"http://{host}/") == host
