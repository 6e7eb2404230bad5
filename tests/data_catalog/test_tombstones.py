"""Tombstones have one spelling of what they mean, know the others, and are read back as they were written."""

from pathlib import Path

import pytest

from data_catalog.errors import DamagedError, SettingsError
from data_catalog.sources.urls import address_key
from data_catalog.tombstones import Tombstones, new_tombstone, read_tombstones, write_tombstones


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        ("domain", "Example.ORG.", "example.org"),
        ("domain", "*.example.org", "example.org"),
        ("domain", "città.example", "xn--citt-3na.example"),
        ("domain", "192.0.2.7", "192.0.2.7"),
        ("domain", "[2001:db8:0:0:0:0:0:1]", "2001:db8::1"),
        ("domain", "straße.example", "xn--strae-oqa.example"),
        ("domain", "STRAẞE.example", "xn--strae-oqa.example"),
        ("domain", "strasse.example", "strasse.example"),
        ("domain", "example。org", "example.org"),
        ("domain", "citt%C3%A0.example", "xn--citt-3na.example"),
        ("domain", "Intranet", "intranet"),
        ("domain", "２１３０７０６４３３", "127.0.0.1"),
        ("domain", "0x7f.1", "127.0.0.1"),
        ("domain", "[::ffff:127.0.0.1]", "127.0.0.1"),
        ("url", "HTTP://Example.org:80/a b.jpg#top", "http://example.org/a%20b.jpg"),
        ("sample", " mscoco:391895 ", "mscoco:391895"),
        ("phash", "00FF00FF33CC33CC", "00ff00ff33cc33cc"),
    ],
)
def test_a_value_has_one_spelling(kind: str, given: str, value: str) -> None:
    assert new_tombstone(kind, given).value == value


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("domain", ""),
        ("domain", "com"),
        ("domain", "co.uk"),
        ("domain", "*.GitHub.io"),
        ("domain", "blogspot.com"),
        ("domain", "公司.cn"),
        ("domain", "http://example.org"),
        ("domain", "example.org/pictures"),
        ("domain", "user@example.org"),
        ("domain", "exa mple.org"),
        ("url", "example.org/a.jpg"),
        ("url", "http://[::1/a.jpg"),
        ("sample", "391895"),
        ("phash", "ff"),
        ("phash", "zz00zz00zz00zz00"),
    ],
)
def test_what_is_no_such_value_is_refused_with_the_option_it_belongs_to(kind: str, given: str) -> None:
    with pytest.raises(SettingsError, match=f"--{kind} "):
        new_tombstone(kind, given)


@pytest.mark.parametrize("distance", [-1, 13])
def test_hashes_that_differ_much_say_nothing(distance: int) -> None:
    with pytest.raises(SettingsError, match="--distance"):
        new_tombstone("phash", "00ff00ff33cc33cc", distance=distance)
    assert [new_tombstone("phash", "00ff00ff33cc33cc", distance=bits).distance for bits in (0, 12)] == [0, 12]


@pytest.mark.parametrize(
    "spelling",
    [
        "http://EXAMPLE.org:80/a b.jpg?x=1",
        "https://example.org.:443/a%20b.jpg?x=1#part",
        "https://ex%61mple.org/a%20b.jpg?x=1",
        "https://example.org/./a%20b.jpg?x=1",
        "https://example.org/c/%2e%2E/d/.%2e/%2e/a%20b.jpg?x=1",
        "https://example.org/../../a%20b.jpg?x=1",
        "http://exam\tple.org/a\n%20b.jpg?x=1",
        "ht\ttp:\\\\example.org\\a%20b.jpg?x=1",
        "http:/example.org/a%20b.jpg?x=1",
        "\x00 http://ｅｘａｍｐｌｅ.org:080/a%20b.jpg?x=1\x1f",
    ],
)
def test_all_spellings_of_an_address_share_their_key(spelling: str) -> None:
    assert address_key(spelling) == address_key("http://example.org/a%20b.jpg?x=1")


@pytest.mark.parametrize(
    "other",
    [
        "http://example.org/a%20b.jpg?x=2",
        "http://example.org/A%20b.jpg?x=1",
        "http://www.example.org/a%20b.jpg?x=1",
        "http://example.org:8080/a%20b.jpg?x=1",
        "http://example.org/.a%20b.jpg?x=1",
        "http://example.org/c/%2e%2e%2fa%20b.jpg?x=1",
    ],
)
def test_other_addresses_have_other_keys(other: str) -> None:
    key = address_key("http://example.org/a%20b.jpg?x=1")
    assert address_key(other) != key
    assert "example" not in key


def test_single_ones_are_found() -> None:
    domain, url, sample = (
        new_tombstone("domain", "example.org"),
        new_tombstone("url", "http://other.net/a.jpg"),
        new_tombstone("sample", "wit:1"),
    )
    found = Tombstones(tombstones=(domain, url, sample.with_found([], [address_key("http://third.net/1.jpg")])))
    assert found.match(url="https://img.EXAMPLE.org:8443/x.jpg") == domain
    assert found.match(url="https://other.net/a.jpg") == url
    assert found.match(sample_id="wit:1") is not None
    assert found.match(url="http://third.net/1.jpg") is not None
    for miss in ("http://notexample.org/", "http://example.org.evil.net/", "http://other.net/b.jpg", "no address"):
        assert found.match(url=miss) is None, miss


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_tombstones(tmp_path) == Tombstones()
    one = new_tombstone("domain", "example.org", datasets=["b", "a"], reason="è così", date="2026-11-25")
    written = Tombstones(tombstones=(one.with_found(["2", "1"], ["x-y"]),), is_unfinished=True)
    write_tombstones(tmp_path, written)
    assert read_tombstones(tmp_path) == written
    assert written.of("a") == written
    assert written.of("c").tombstones == ()


def test_the_digest_is_of_what_is_dropped() -> None:
    plain = Tombstones(tombstones=(new_tombstone("domain", "a.org"), new_tombstone("domain", "b.org")))
    told = Tombstones(
        tombstones=(new_tombstone("domain", "b.org", reason="why", date="2026-01-01"), new_tombstone("domain", "a.org"))
    )
    more = plain.with_more([new_tombstone("domain", "a.org").with_found(["1"], [])])
    assert Tombstones().digest is None
    assert plain.digest == told.digest
    assert more.digest != plain.digest
    assert len(more.tombstones) == 2


def test_the_wider_distance_and_the_newer_reason_hold() -> None:
    first = new_tombstone("phash", "00ff00ff33cc33cc", distance=4, reason="one", date="2026-01-01")
    second = new_tombstone("phash", "00ff00ff33cc33cc", distance=2, reason="two", date="2026-02-02")
    (merged,) = Tombstones(tombstones=(first,)).with_more([second]).tombstones
    assert (merged.distance, merged.reason, merged.date) == (4, "two", "2026-01-01")


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"format": 1}', b'{"format": 2, "tombstones": []}'])
def test_a_damaged_file_is_never_taken_for_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "forgotten.json").write_bytes(damage)
    with pytest.raises(DamagedError, match=r"forgotten\.json"):
        read_tombstones(tmp_path)
