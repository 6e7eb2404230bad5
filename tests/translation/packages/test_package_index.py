"""The Argos index: what is read, what is left out, and which package is chosen, or said to be missing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.downloads.download import check_url
from data_catalog.errors import InputError
from translation.packages.install import IndexEntry, choose, index_url, parse_index, usable_links

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


def test_unknown_fields_and_other_types_are_no_trouble(caplog: pytest.LogCaptureFixture) -> None:
    sbd = {"type": "sbd", "from_codes": ["en"], "package_version": "1.0", "links": ["https://example.org/sbd"]}
    named = REAL | {"type": "translate", "licence": {"new": ["field"]}, "from_code": "zh-Hant"}
    assert [found.pair for found in parsed(REAL, sbd, named, REAL | {"type": None})] == ["en-it", "zh-Hant-it", "en-it"]
    assert not caplog.records


@pytest.mark.parametrize(
    "broken",
    [
        None,
        "en-it",
        [],
        {},
        REAL | {"from_code": None},
        REAL | {"from_code": "../../etc"},
        REAL | {"to_code": "it/../../x"},
        REAL | {"to_code": "it\x1b[2J"},
        REAL | {"to_code": ""},
        REAL | {"package_version": 1.0},
        REAL | {"package_version": "1.0\n"},
        REAL | {"package_version": "1" * 40},
        REAL | {"argos_version": ["1.9"]},
        REAL | {"links": None},
        REAL | {"links": "https://example.org/x"},
        REAL | {"links": []},
        REAL | {"links": [None, 7, ""]},
    ],
)
def test_a_broken_entry_is_left_out_and_named(broken: object, caplog: pytest.LogCaptureFixture) -> None:
    assert [found.pair for found in parsed(REAL, broken)] == ["en-it"]
    assert "1 broken entries are left out, the first: entry 2" in caplog.text


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"null", b"[", b"<!DOCTYPE html><title>Welcome</title>", b"\xff\xfe\x00", b"[" * 100_000, b'"a"'],
)
def test_what_is_no_index_is_a_config_error(content: bytes) -> None:
    with pytest.raises(InputError, match=r"example\.org/index\.json is not an index of packages"):
        parse_index(content, URL)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=5,
)


@given(st.lists(JSON_VALUES | st.dictionaries(st.sampled_from([*REAL, "type"]), JSON_VALUES | st.just("en"))))
def test_any_json_list_is_read_without_a_crash(records: list[object]) -> None:
    for found in parsed(*records):
        assert found.pair.isascii()
        assert found.links


def test_the_newest_readable_version_is_chosen() -> None:
    entries = [entry("en-it", "1.9"), entry("en-it", "1.10"), entry("en-it", "2.0", "2.0"), entry("en-de", "9.0")]
    assert choose(entries, "en", "it").package_version == "1.10"
    assert choose([entry("en-it", "1.0", ""), entry("en-it", "1.0", "1.9.6")], "en", "it").argos_version == "1.9.6"


def test_a_format_that_is_too_new_is_named() -> None:
    with pytest.raises(InputError, match=r"only in the format of Argos 2\.1, too new"):
        choose([entry("en-it", "1.0", "2.1")], "en", "it")


def test_two_legs_are_named_and_never_taken() -> None:
    entries = [entry("ca-en"), entry("en-it"), entry("ca-es"), entry("es-it")]
    with pytest.raises(InputError, match="only ca-en and en-it") as caught:
        choose(entries, "ca", "it")
    assert "`vernaclip mt install --from ca --to en` and `vernaclip mt install --from en --to it`" in str(caught.value)
    assert 'set translate.pivot = "en"' in str(caught.value)
    with pytest.raises(InputError, match="only ca-es and es-it"):
        choose(entries[2:], "ca", "it")


def test_a_missing_pair_says_what_there_is() -> None:
    entries = [entry("en-de"), entry("en-fr"), entry("en-it", "1.0", "2.0")]
    with pytest.raises(InputError, match="no package from en to sw; from en it offers only de, fr: see"):
        choose(entries, "en", "sw")
    with pytest.raises(InputError, match=r"no package from it to en; nothing from it at all.*vernaclip mt train"):
        choose(entries, "it", "en")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "https://raw.githubusercontent.com/argosopentech/argospm-index/main/index.json"),
        ("", "https://raw.githubusercontent.com/argosopentech/argospm-index/main/index.json"),
        ("https://mirror.example/argos/", "https://mirror.example/argos/index.json"),
        ("https://mirror.example/argos", "https://mirror.example/argos/index.json"),
    ],
)
def test_the_index_is_argos_translates_own(value: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARGOS_PACKAGE_INDEX", raising=False)
    if value is not None:
        monkeypatch.setenv("ARGOS_PACKAGE_INDEX", value)
    assert index_url() == expected


@pytest.mark.parametrize(
    "link",
    [
        "http://example.org/p",
        "ftp://example.org/p",
        "file:///etc/passwd",
        "data:text/plain,x",
        "ipfs://QmT5LnsNZEf3JKYMoYWvo9aNMwKUyLLUpshCA7hZLQRST4",
        "http://127.0.0.1/p",
        "http://localhost:8000/p",
        "https://[::1]/p",
        "https://[::ffff:127.0.0.1]/p",
        "http://0.0.0.0/p",
        "https://user:secret@example.org/p",
        "https://example.org/a b",
        "https://example.org/\r\nHost: x",
        "https://[bad/p",
        "https://example.org:99999/p",
        "https://example.org:x/p",
        "https:///p",
        "//example.org/p",
        "../p.argosmodel",
        "https://exämple.org/p",
        "\x00",
    ],
)
def test_links_that_may_not_be_asked_are_left_out(link: str, caplog: pytest.LogCaptureFixture) -> None:
    assert usable_links(["https://example.org/good", link], URL) == ["https://example.org/good"]
    assert "secret" not in caplog.text
    assert link.startswith("ipfs:") == (not caplog.records)


@given(st.text() | st.from_regex(r"(https?|file)://[a-z0-9.@:\[\]]*/.*"))
def test_a_url_is_safe_or_refused(url: str) -> None:
    try:
        check_url(url, referrer=URL)
    except InputError:
        return
    assert url.lower().startswith("https://")
