"""Canonical form of an image's URL."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.sources.urls import canonical_url, flickr_page, is_web_url, url_key

BASE = "https://upload.wikimedia.org/wikipedia/commons/"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("HTTP://Upload.Wikimedia.ORG/wikipedia/commons/a.jpg", BASE + "a.jpg"),
        (BASE + "a.jpg#mw-jump", BASE + "a.jpg"),
        ("https://upload.wikimedia.org:443/wikipedia/commons/a.jpg", BASE + "a.jpg"),
        ("  " + BASE + "a.jpg\n", BASE + "a.jpg"),
        (BASE + "Città.jpg", BASE + "Citt%C3%A0.jpg"),
        (BASE + "Citt%c3%a0.jpg", BASE + "Citt%C3%A0.jpg"),
        (BASE + "M94_%28group%29.gif", BASE + "M94_(group).gif"),
        (BASE + "%7Ea%2D.gif", BASE + "~a-.gif"),
        ("http://host.example", "http://host.example/"),
        ("http://host.example:80/a", "http://HOST.example/a"),
    ],
)
def test_same_image(one: str, other: str) -> None:
    assert canonical_url(one) == canonical_url(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://host.example/a.jpg", "https://host.example/a.jpg"),
        (BASE + "a.jpg", BASE + "A.jpg"),
        (BASE + "a%2Fb.jpg", BASE + "a/b.jpg"),
        (BASE + "a%3Fb.jpg", BASE + "a?b.jpg"),
        (BASE + "a%2541.jpg", BASE + "a%41.jpg"),
        (BASE + "thumb/a.jpg/120px-a.jpg", BASE + "a.jpg"),
        ("https://host.example/a?x=1%262", "https://host.example/a?x=1&2"),
        ("https://host.example/a?x=1", "https://host.example/a?x=2"),
        ("https://host.example:8443/a", "https://host.example/a"),
    ],
)
def test_another_image(one: str, other: str) -> None:
    assert canonical_url(one) != canonical_url(other)


@given(st.text(st.characters(exclude_categories=())) | st.text(st.sampled_from("htps:/%2fA[]?#@é &.w")))
def test_canonical_urls_are_stable_for_any_text(text: str) -> None:
    for url in (text, "https://host.example/" + text):
        once = canonical_url(url)
        assert canonical_url(once) == once
        assert len(url_key(once)) == 40


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a.b/c", True),
        ("HTTP://a", True),
        ("https://", False),
        ("https:///c", False),
        ("ftp://a.b/c", False),
        ("//a.b/c", False),
        ("javascript:http://a", False),
        ("", False),
    ],
)
def test_web_urls(text: str, expected: bool) -> None:
    assert is_web_url(text) is expected


@pytest.mark.parametrize(
    ("url", "photo"),
    [
        ("http://farm4.staticflickr.com/3448/3176652494_ba19663418_z.jpg", "3176652494"),
        ("http://static.flickr.com/2723/4385058960_b0f291553e.jpg", "4385058960"),
        ("https://live.staticflickr.com/65535/52054_0abcdef012_b.jpg", "52054"),
        ("http://images.cocodataset.org/val2014/COCO_val2014_000000391895.jpg", None),
        ("http://evil.example/?http://static.flickr.com/1/2_a.jpg", None),
        (None, None),
    ],
)
def test_pages_of_flickr_photos(url: str | None, photo: str | None) -> None:
    assert flickr_page(url) == (f"https://www.flickr.com/photo.gne?id={photo}" if photo else None)
