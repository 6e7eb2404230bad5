"""Tombstones have one spelling of what they mean and are read back; all spellings of a URL have one key."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.errors import DamagedError, SettingsError
from data_catalog.publish.tombstones import Matcher, Tombstones, new_tombstone, read_tombstones, write_tombstones
from data_catalog.rows.urls import address_key, canonical_url, host_of, url_key


def test_a_value_has_one_spelling() -> None:
    for kind, spelt, value in (
        ("domain", "Example.ORG.", "example.org"),
        ("domain", "città.example", "xn--citt-3na.example"),
        ("domain", "[2001:db8:0:0:0:0:0:1]", "2001:db8::1"),
        ("domain", "straße.example", "xn--strae-oqa.example"),
        ("domain", "strasse.example", "strasse.example"),
        ("domain", "[::ffff:127.0.0.1]", "127.0.0.1"),
        ("url", "HTTP://Example.org:80/a b.jpg#top", "http://example.org/a%20b.jpg"),
        ("sample", " mscoco:391895 ", "mscoco:391895"),
        ("phash", "00FF00FF33CC33CC", "00ff00ff33cc33cc"),
    ):
        assert new_tombstone(kind, spelt).value == value


def test_what_is_no_such_value_is_refused_with_the_option_it_belongs_to() -> None:
    for kind, spelt in (
        ("domain", ""),
        ("domain", "com"),
        ("domain", "*.GitHub.io"),
        ("domain", "http://example.org"),
        ("domain", "example.org/pictures"),
        ("url", "example.org/a.jpg"),
        ("sample", "391895"),
        ("phash", "ff"),
        ("phash", "zz00zz00zz00zz00"),
    ):
        with pytest.raises(SettingsError, match=f"--{kind} "):
            new_tombstone(kind, spelt)


def test_a_sample_is_found_by_its_name_and_by_each_address_that_it_had() -> None:
    sample = new_tombstone("sample", "wit:1").with_found([], [address_key("http://third.net/1.jpg")])
    found = Tombstones(tombstones=(sample, new_tombstone("domain", "example.org")))
    assert found.match(sample_id="wit:1") == found.match(url="https://third.net/1.jpg") == sample
    assert found.match(url="https://img.EXAMPLE.org:8443/x.jpg") == found.tombstones[1]
    for miss in ("http://notexample.org/", "http://example.org.evil.net/", "http://third.net/2.jpg", "no address"):
        assert found.match(url=miss, sample_id="wit:2") is None, miss


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_tombstones(tmp_path) == Tombstones()
    one = new_tombstone("domain", "example.org", datasets=["b", "a"], reason="è così", date="2026-11-25")
    written = Tombstones(tombstones=(one.with_found(["2", "1"], ["x-y"]),), is_unfinished=True)
    write_tombstones(tmp_path, written)
    assert read_tombstones(tmp_path) == written
    assert written.of("a") == written
    assert written.of("c").tombstones == ()


def test_the_digest_is_of_what_is_dropped_the_wider_distance_and_the_newer_reason_hold() -> None:
    plain = Tombstones(tombstones=(new_tombstone("domain", "a.org"), new_tombstone("domain", "b.org")))
    told = new_tombstone("domain", "b.org", reason="why", date="2026-01-01")
    more = plain.with_more([new_tombstone("domain", "a.org").with_found(["1"], [])])
    assert Tombstones().digest is None
    assert plain.digest == Tombstones(tombstones=(told, new_tombstone("domain", "a.org"))).digest
    assert more.digest != plain.digest
    assert len(more.tombstones) == 2
    first = new_tombstone("phash", "00ff00ff33cc33cc", distance=12, reason="one", date="2026-01-01")
    second = new_tombstone("phash", "00ff00ff33cc33cc", distance=0, reason="two", date="2026-02-02")
    (merged,) = Tombstones(tombstones=(first,)).with_more([second]).tombstones
    assert (merged.distance, merged.reason, merged.date) == (12, "two", "2026-01-01")
    for distance in (-1, 13):
        with pytest.raises(SettingsError, match="--distance"):
            new_tombstone("phash", "00ff00ff33cc33cc", distance=distance)


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"format": 1}', b'{"format": 2, "tombstones": []}'])
def test_a_damaged_file_is_never_taken_for_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "forgotten.json").write_bytes(damage)
    with pytest.raises(DamagedError, match=r"forgotten\.json"):
        read_tombstones(tmp_path)


BASE = "https://upload.wikimedia.org/wikipedia/commons/"
NAMES = st.sampled_from(["example.org", "xn--citt-3na.example", "127.0.0.1", "a.b.c.example"])
SEGMENTS = st.lists(st.sampled_from(["a", "b.jpg", "...", ".hidden", "%2F", "é"]), min_size=1, max_size=3)
BLANKS = st.text(st.sampled_from("\t\n\r"), max_size=2)
EDGES = st.text(st.sampled_from("\x00\x1f \t\n"), max_size=2)
UNICODE = {"xn--citt-3na.example": "città.example", "127.0.0.1": "１２７。0。０.１"}
LOOPBACK = ["127.1", "127.0.1", "2130706433", "0x7f.1", "0x7F000001", "0177.0.0.01", "017700000001", "127.0.0.1."]
# What steps into a folder and out again, and what stays where it is.
DETOURS = st.lists(st.sampled_from(["./", "x/../", "x/%2e%2E/", "%2e/", "x/y/../.%2E/"]), max_size=3).map("".join)
ANY_TEXT = st.text(st.characters(exclude_categories=()))


@st.composite
def spellings(draw: st.DrawFn) -> tuple[str, str]:
    """Return a URL and another spelling of it."""
    name, segments, slash = draw(NAMES), draw(SEGMENTS), st.sampled_from("/\\")
    host = draw(st.sampled_from([name, UNICODE.get(name, name), *(LOOPBACK if name == "127.0.0.1" else [])]))
    letters = [
        draw(st.sampled_from([letter, letter.upper(), f"%{ord(letter):02x}"])) if letter.isascii() else letter
        for letter in host
    ]
    spelled = draw(st.sampled_from(["", "someone@", "a:b@"])) + "".join(letters)
    path = draw(slash) + draw(slash).join(draw(DETOURS) + segment for segment in segments)
    port = draw(st.sampled_from(["", ":80", ":0080"]))
    scheme = draw(st.sampled_from(["http:", "HTTP:"])) + "".join(draw(st.lists(slash, min_size=1, max_size=3)))
    url = scheme + spelled + port + path
    cut = draw(st.integers(0, len(url)))
    return f"http://{name}/{'/'.join(segments)}", draw(EDGES) + url[:cut] + draw(BLANKS) + url[cut:] + draw(EDGES)


@given(spellings())
def test_all_spellings_of_a_url_have_one_key_and_tombstones_find_them(both: tuple[str, str]) -> None:
    plain, spelled = both
    host = host_of(plain)
    assert host is not None
    assert host_of(spelled) == host
    assert address_key(spelled) == address_key(plain)
    assert canonical_url(canonical_url(spelled)) == canonical_url(spelled)
    table = pa.table({"url": [spelled, "http://other.example/x", None]})
    for tombstone in (new_tombstone("url", plain), new_tombstone("domain", host)):
        tombstones = Tombstones(tombstones=(tombstone,))
        assert tombstones.match(url=spelled) == tombstone
        assert Matcher(tombstones).numbers(table).tolist() == [0, -1, -1]


SAME = [
    (BASE + "a.jpg#mw-jump", BASE + "a.jpg"),
    ("https://upload.wikimedia.org:443/wikipedia/commons/a.jpg", BASE + "a.jpg"),
    (BASE + "Città.jpg", BASE + "Citt%c3%a0.jpg"),
    (BASE + "M94_%28group%29.gif", BASE + "M94_(group).gif"),
    ("http://host.example", "http://host.example/"),
]
OTHER = [
    (BASE + "a.jpg", BASE + "A.jpg"),
    (BASE + "a%2Fb.jpg", BASE + "a/b.jpg"),
    (BASE + "a%3Fb.jpg", BASE + "a?b.jpg"),
    (BASE + "a%2541.jpg", BASE + "a%41.jpg"),
    (BASE + ".a.jpg", BASE + "a.jpg"),
    (BASE + "c/%2e%2e%2fa.jpg", BASE + "a.jpg"),
    ("https://host.example/a?x=1%262", "https://host.example/a?x=1&2"),
    ("https://host.example:8443/a", "https://host.example/a"),
    ("https://www.host.example/a", "https://host.example/a"),
]


def test_urls_are_of_one_image_or_of_two() -> None:
    for same in (canonical_url, address_key):
        assert [pair for pair in SAME if same(pair[0]) != same(pair[1])] == []
        assert [pair for pair in OTHER if same(pair[0]) == same(pair[1])] == []
    secure, plain = "https://host.example/a.jpg", "http://host.example/a.jpg"
    assert canonical_url(secure) != canonical_url(plain)
    assert address_key(secure) == address_key(plain)
    assert "example" not in address_key(plain)


@given(ANY_TEXT | st.text(st.sampled_from("htps:/%2fA[]?#@é &.w0x7。\\\t")))
def test_any_text_has_one_canonical_spelling(text: str) -> None:
    for url in (text, f"https://host.example/{text}", f"http://{text}/a.jpg"):
        once = canonical_url(url)
        assert canonical_url(once) == once
        assert len(url_key(once)) == 40
    if (host := host_of(f"http://{text}/a.jpg")) is not None:
        assert host_of(f"http://[{host}]/" if ":" in host else f"http://{host}/") == host
