"""URLs as people write them, and those that are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.fetch.urls import FetchError, parse_url, redirect_target

ACCEPTED = {
    "http://example.org": "http://example.org/",
    "HTTP://Example.ORG/A.jpg": "http://example.org/A.jpg",
    "  http://example.org/a.jpg\n": "http://example.org/a.jpg",
    "https://example.org:443/a.jpg": "https://example.org/a.jpg",
    "http://example.org:8080/a.jpg#top": "http://example.org:8080/a.jpg",
    "http://example.org/a b.jpg?q=ä&r=c d": "http://example.org/a%20b.jpg?q=%C3%A4&r=c%20d",
    "http://example.org/caff%C3%A8.jpg": "http://example.org/caff%C3%A8.jpg",
    "http://example.org/100%.jpg": "http://example.org/100%25.jpg",
    "http://example.org/a[1]\\b.jpg": "http://example.org/a%5B1%5D%5Cb.jpg",
    "http://münchen.example/ü.jpg": "http://xn--mnchen-3ya.example/%C3%BC.jpg",
    "http://upload_1.example.org./a.jpg": "http://upload_1.example.org./a.jpg",
    "http://[2001:DB8:0::1]:80/a.jpg": "http://[2001:db8::1]/a.jpg",
    "http://[::FFFF:808:808]/": "http://[::ffff:8.8.8.8]/",
    "http://0x7f000001/": "http://0x7f000001/",
    "http://example.org/\ud800.jpg": "http://example.org/%3F.jpg",
}

REFUSED = {
    "": "empty",
    "a.jpg": "no scheme",
    "//example.org/a.jpg": "no scheme",
    "http://example.org/" + "a" * 8001: "too long",
    "http://[fe80::1%eth0]/": "host with a zone",
    "http://[2606:4700::1111%25lo]/": "host with a zone",
    "http://[v1.é:x]/": "host is no address",
    "http:///a.jpg": "no host",
    "http://example.org:99999/": "not a URL",
    "http://example.org:http/": "not a URL",
    "http://[::1/": "not a URL",
    "http://exa mple.org/": "host is no name",
    "http://" + "a" * 64 + ".org/": "host is no name",
    "http://a..b/": "host is no name",
    "http://<script>/": "host is no name",
}


@pytest.mark.parametrize("url", ACCEPTED)
def test_accepted_urls_are_spelt_in_one_way(url: str) -> None:
    assert parse_url(url).url == ACCEPTED[url]
    assert parse_url(ACCEPTED[url]).url == ACCEPTED[url]


@pytest.mark.parametrize("url", REFUSED)
def test_refused_urls(url: str) -> None:
    with pytest.raises(FetchError) as refused:
        parse_url(url)
    assert (refused.value.reason, refused.value.detail) == ("bad_url", REFUSED[url])


@pytest.mark.parametrize(
    ("url", "reason", "detail"),
    [
        ("javascript:alert(1)", "scheme", "javascript"),
        ("file:///etc/passwd", "scheme", "file"),
        ("HTTPX://example.org/", "scheme", "httpx"),
        ("http://@example.org/", "userinfo", None),
        ("http://me:secret@example.org/", "userinfo", None),
        ("http://example.org\\@10.0.0.1/", "userinfo", None),
    ],
)
def test_refused_for_a_reason_of_its_own(url: str, reason: str, detail: str | None) -> None:
    with pytest.raises(FetchError) as refused:
        parse_url(url)
    assert (refused.value.reason, refused.value.detail) == (reason, detail)


def spelt(text: str) -> str | None:
    """The canonical URL, or None if it is refused, for one of the three reasons that a text gives."""
    try:
        return parse_url(text).url
    except FetchError as error:
        if error.reason in ("bad_url", "scheme", "userinfo"):
            return None
        raise


@given(st.one_of(st.text(), st.text().map("http://example.org/{}".format), st.text().map("http://{}".format)))
def test_any_text_is_refused_or_becomes_an_ascii_url(text: str) -> None:
    url = spelt(text)
    if url is not None:
        assert url.isascii()
        assert url.isprintable()
        assert not set(url) & set(' #"<>')
        assert parse_url(url).url == url


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("b.jpg", "http://example.org/x/b.jpg"),
        ("/b.jpg", "http://example.org/b.jpg"),
        ("//other.example/b.jpg", "http://other.example/b.jpg"),
        ("https://other.example/b.jpg", "https://other.example/b.jpg"),
        ("/é.jpg".encode().decode("latin-1"), "http://example.org/%C3%A9.jpg"),
        ("/\xe9.jpg", "http://example.org/%C3%A9.jpg"),
    ],
)
def test_redirects_are_relative_to_where_they_come_from(location: str, url: str) -> None:
    assert redirect_target(parse_url("http://example.org/x/a.jpg"), location).url == url


@given(st.text(st.characters(max_codepoint=255)))
def test_a_location_header_leads_to_an_ascii_url_whatever_its_bytes_are(path: str) -> None:
    target = redirect_target(parse_url("http://example.org/x/a.jpg"), "http://example.org/" + path)
    assert target.url.isascii()
    assert target.host == "example.org"
