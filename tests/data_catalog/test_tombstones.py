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
        ("domain", "[2001:db8:0:0:0:0:0:1]", "2001:db8::1"),
        ("domain", "straße.example", "xn--strae-oqa.example"),
        ("domain", "strasse.example", "strasse.example"),
        ("domain", "２１３０７０６４３３", "127.0.0.1"),
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
        ("domain", "*.GitHub.io"),
        ("domain", "公司.cn"),
        ("domain", "http://example.org"),
        ("domain", "example.org/pictures"),
        ("domain", "exa mple.org"),
        ("url", "example.org/a.jpg"),
        ("sample", "391895"),
        ("phash", "ff"),
        ("phash", "zz00zz00zz00zz00"),
    ],
)
def test_what_is_no_such_value_is_refused_with_the_option_it_belongs_to(kind: str, given: str) -> None:
    with pytest.raises(SettingsError, match=f"--{kind} "):
        new_tombstone(kind, given)


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
