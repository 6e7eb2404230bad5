"""The Argos index: what is read, what is left out, and which package is chosen, or said to be missing."""

import json

import pytest

from data_catalog.errors import InputError
from translation.packages.install import IndexEntry, choose, parse_index, usable_links

URL = "https://example.org/index.json"

# As the real index has them: the second link of many is an address in IPFS.
REAL = {
    "package_version": "1.0",
    "argos_version": "1.0",
    "from_code": "en",
    "from_name": "English",
    "to_code": "it",
    "to_name": "Italian",
    "links": [
        "https://argos-net.com/v1/translate-en_it-1_0.argosmodel",
        "ipfs://QmT5LnsNZEf3JKYMoYWvo9aNMwKUyLLUpshCA7hZLQRST4",
    ],
    "code": "translate-en_it",
}


def entry(pair: str, version: str = "1.0", argos_version: str = "1.9") -> IndexEntry:
    source, target = pair.split("-")
    return IndexEntry(
        from_code=source,
        to_code=target,
        package_version=version,
        argos_version=argos_version,
        links=(f"https://example.org/{pair}-{version}",),
    )


def parsed(*records: object) -> list[IndexEntry]:
    return parse_index(json.dumps(records).encode(), URL)


def test_the_real_format_is_read() -> None:
    (found,) = parsed(REAL)
    assert (found.pair, found.package_version, found.argos_version) == ("en-it", "1.0", "1.0")
    assert usable_links(found.links, URL) == ["https://argos-net.com/v1/translate-en_it-1_0.argosmodel"]


@pytest.mark.parametrize(
    "broken",
    [
        None,
        {},
        REAL | {"from_code": None},
        REAL | {"from_code": "../../etc"},
        REAL | {"to_code": "it\x1b[2J"},
        REAL | {"package_version": 1.0},
        REAL | {"package_version": "1.0\n"},
        REAL | {"argos_version": ["1.9"]},
        REAL | {"links": "https://example.org/x"},
        REAL | {"links": [None, 7, ""]},
    ],
)
def test_a_broken_entry_is_left_out_and_named(broken: object, caplog: pytest.LogCaptureFixture) -> None:
    assert [found.pair for found in parsed(REAL, broken)] == ["en-it"]
    assert "1 broken entries are left out, the first: entry 2" in caplog.text


@pytest.mark.parametrize(
    "content", [b"{}", b"[", b"<!DOCTYPE html><title>Welcome</title>", b"\xff\xfe\x00", b"[" * 100_000]
)
def test_what_is_no_index_is_a_config_error(content: bytes) -> None:
    with pytest.raises(InputError, match=r"example\.org/index\.json is not an index of packages"):
        parse_index(content, URL)


def test_the_newest_readable_version_is_chosen() -> None:
    entries = [entry("en-it", "1.9"), entry("en-it", "1.10"), entry("en-it", "2.0", "2.0"), entry("en-de", "9.0")]
    assert choose(entries, "en", "it").package_version == "1.10"
    assert choose([entry("en-it", "1.0", ""), entry("en-it", "1.0", "1.9.6")], "en", "it").argos_version == "1.9.6"
    with pytest.raises(InputError, match=r"Argos 2\.1"):
        choose([entry("en-it", "1.0", "2.1")], "en", "it")


def test_two_legs_are_named_and_never_taken() -> None:
    entries = [entry("ca-en"), entry("en-it"), entry("ca-es"), entry("es-it")]
    with pytest.raises(InputError, match=r'only ca-en and en-it.*translate\.pivot = "en"'):
        choose(entries, "ca", "it")
    with pytest.raises(InputError, match="only ca-es and es-it"):
        choose(entries[2:], "ca", "it")


def test_a_missing_pair_says_what_there_is() -> None:
    entries = [entry("en-de"), entry("en-fr"), entry("en-it", "1.0", "2.0")]
    with pytest.raises(InputError, match=r"from en to sw.* only de, fr"):
        choose(entries, "en", "sw")
    with pytest.raises(InputError, match=r"from it to en.*mt train"):
        choose(entries, "it", "en")


@pytest.mark.parametrize(
    "link",
    [
        "http://example.org/p",
        "file:///etc/passwd",
        "ipfs://QmT5LnsNZEf3JKYMoYWvo9aNMwKUyLLUpshCA7hZLQRST4",
        "http://127.0.0.1/p",
        "https://[::ffff:127.0.0.1]/p",
        "https://user:secret@example.org/p",
        "https://example.org/\r\nHost: x",
        "https://[bad/p",
        "https://example.org:x/p",
        "//example.org/p",
        "https://exämple.org/p",
    ],
)
def test_links_that_may_not_be_asked_are_left_out(link: str, caplog: pytest.LogCaptureFixture) -> None:
    assert usable_links(["https://example.org/good", link], URL) == ["https://example.org/good"]
    assert "secret" not in caplog.text
    assert link.startswith("ipfs:") == (not caplog.records)
