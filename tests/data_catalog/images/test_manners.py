"""What servers ask of robots, and what their answers mean: Retry-After, X-Robots-Tag, thumbnails, placeholders."""

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.errors import ConfigError
from data_catalog.fetch.fetch import FetchConfig
from data_catalog.fetch.hosts import MAX_BACKOFF_S, backoff_s, retry_after_s
from data_catalog.fetch.robots import FORBIDDING, forbids, rules_of
from data_catalog.fetch.row_opener import is_placeholder
from data_catalog.fetch.urls import WIDTHS, parse_url, thumbnail_url

NOW = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("-1", None),
        ("1.5", None),
        ("١٢", None),
        ("9" * 400, 999_999_999_999.0),
        ("soon", None),
        ("Wed, 01 May 2024 12:02:00 GMT", 120.0),
        ("Wed, 01 May 2024 14:02:00 +0200", 120.0),
        ("Wed, 01 May 2024 12:02:00", 120.0),
        ("Wed, 01 May 2024 11:00:00 GMT", 0.0),
        ("Wednesday, 01-May-24 12:02:00 GMT", 120.0),
        ("Wed May  1 12:02:00 2024", 120.0),
        ("Wed, 01 May 2024 12:02:00 +99999999999999999999", None),
        ("Wed, 01 May 99999999999999999999 12:02:00 GMT", None),
        ("Wed, 99 May 2024 12:02:00 GMT", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, NOW) == seconds


@given(
    st.one_of(
        st.text(),
        st.from_regex(
            r"[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,12} [0-9:]{1,12} [+-]?[A-Z0-9]{1,12}", fullmatch=True
        ),
        st.datetimes().map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S +0000")),
    )
)
def test_any_retry_after_is_a_wait_or_nothing(header: str) -> None:
    seconds = retry_after_s(header, NOW)
    assert seconds is None or seconds >= 0


@given(st.floats(0, MAX_BACKOFF_S), st.integers(1, 21), st.randoms())
def test_waits_grow_up_to_a_bound(first_s: float, tries: int, rng: random.Random) -> None:
    wait_s = backoff_s(first_s, tries, rng)
    assert min(MAX_BACKOFF_S, first_s * 2 ** (tries - 1)) <= wait_s <= 1.5 * MAX_BACKOFF_S


@pytest.mark.parametrize(
    ("headers", "is_forbidden"),
    [
        ([], False),
        ([""], False),
        (["all"], False),
        (["nofollow, nosnippet, noarchive, notranslate"], False),
        *[([directive], True) for directive in sorted(FORBIDDING)],
        (["NoAI,NoImageAI"], True),
        (["nofollow,   noml "], True),
        (["vernaclip: noai"], True),
        (["VernaClip : nofollow, none"], True),
        (["otherbot: noai"], False),
        (["otherbot: noai", "nofollow"], False),
        (["otherbot: noai", "noindex"], True),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST"], False),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], True),
        (["noai, unavailable_after: 25 Jun 2010 15:00:00 PST"], True),
        (["max-snippet:-1, max-image-preview:large"], False),
        (["max-snippet:-1, noimageindex"], True),
        (["vernaclip: max-snippet:-1, noindex"], True),
        (["noaix, xnoai, no ai"], False),
        (["noai; noimageai"], True),
        (["noai noimageai"], True),
        (["  All ;NoImageAI "], True),
        (["nofollow\tnoai"], True),
        (["noai;otherbot: nofollow"], True),
        (["otherbot: noai; noimageai"], False),
        (["otherbot: noai noimageai"], False),
        (["otherbot: noai", "vernaclip: noai"], True),
        (["otherbot: noai, vernaclip: noai"], True),
        (["vernaclip: nofollow, otherbot: noai"], False),
        (["nofollow, otherbot: noai"], False),
        (["noai: otherbot"], True),
        (["unavailable_after: Wednesday, 25-Jun-25 15:00:00 UTC"], False),
        (["unavailable_after: Wed, 25 Jun 2025 15:00:00 GMT; noai"], True),
        (["unavailable_after: 2025-06-25T15:00:00Z, otherbot: noai"], False),
        (["max-image-preview: none"], False),
        (["max-image-preview:none noai"], True),
        (["tdm-reservation: 1"], True),
        (["tdm-reservation: 0"], False),
        (["all", "tdm-reservation: 1"], True),
    ],
)
def test_robots_tag(headers: list[str], is_forbidden: bool) -> None:
    assert forbids(headers, "vernaclip") is is_forbidden


COMMONS = "https://upload.wikimedia.org/wikipedia/commons"


@pytest.mark.parametrize(
    ("url", "thumbnail"),
    [
        (f"{COMMONS}/a/ab/Cat.jpg", f"{COMMONS}/thumb/a/ab/Cat.jpg/500px-Cat.jpg"),
        (f"{COMMONS}/a/ab/Cat.JPEG", f"{COMMONS}/thumb/a/ab/Cat.JPEG/500px-Cat.JPEG"),
        (f"{COMMONS}/a/ab/Caff%C3%A8.png", f"{COMMONS}/thumb/a/ab/Caff%C3%A8.png/500px-Caff%C3%A8.png"),
        (f"{COMMONS}/a/ab/Map.svg", f"{COMMONS}/thumb/a/ab/Map.svg/500px-Map.svg.png"),
        (f"{COMMONS}/a/ab/Scan.tif", f"{COMMONS}/thumb/a/ab/Scan.tif/lossy-page1-500px-Scan.tif.jpg"),
        (f"{COMMONS}/a/ab/Scan.tiff", f"{COMMONS}/thumb/a/ab/Scan.tiff/lossy-page1-500px-Scan.tiff.jpg"),
        (f"{COMMONS}/a/ab/X.webp", f"{COMMONS}/thumb/a/ab/X.webp/500px-X.webp"),
        (
            "http://upload.wikimedia.org/wikipedia/it/0/0a/Gatto.jpg",
            "http://upload.wikimedia.org/wikipedia/it/thumb/0/0a/Gatto.jpg/500px-Gatto.jpg",
        ),
        (
            "https://upload.wikimedia.org/wikipedia/zh-min-nan/0/0a/A.jpg",
            "https://upload.wikimedia.org/wikipedia/zh-min-nan/thumb/0/0a/A.jpg/500px-A.jpg",
        ),
        (f"{COMMONS}/a/ab/{'n' * 200}.jpg", f"{COMMONS}/thumb/a/ab/{'n' * 200}.jpg/500px-thumbnail.jpg"),
        (f"{COMMONS}/a/ab/{'n' * 161}.jpg", f"{COMMONS}/thumb/a/ab/{'n' * 161}.jpg/500px-{'n' * 161}.jpg"),
        (f"{COMMONS}/thumb/a/ab/Cat.jpg/300px-Cat.jpg", None),
        (f"{COMMONS}/a/ab/Cat.gif", None),
        (f"{COMMONS}/a/ab/Cat.ogv", None),
        (f"{COMMONS}/a/ab/Cat.jpg?download", None),
        (f"{COMMONS}/archive/a/ab/2010%21Cat.jpg", None),
        ("https://commons.wikimedia.org/wiki/File:Cat.jpg", None),
        ("https://upload.wikimedia.org.evil.example/wikipedia/commons/a/ab/Cat.jpg", None),
        ("https://example.org/wikipedia/commons/a/ab/Cat.jpg", None),
    ],
)
def test_thumbnails(url: str, thumbnail: str | None) -> None:
    assert thumbnail_url(url, 500) == thumbnail
    assert thumbnail_url(url, 0) is None
    if thumbnail is not None:
        assert parse_url(thumbnail).url == thumbnail
        assert thumbnail_url(thumbnail, 500) is None


def test_only_widths_that_are_served_are_settings() -> None:
    assert {FetchConfig(wikimedia_width=width).wikimedia_width for width in (0, *WIDTHS)} == {0, *WIDTHS}
    with pytest.raises(ConfigError, match="wikimedia_width"):
        FetchConfig(wikimedia_width=300)


@pytest.mark.parametrize(
    ("final_url", "is_one"),
    [
        ("https://s.yimg.com/pw/images/en-us/photo_unavailable.png", True),
        ("https://i.imgur.com/removed.png", True),
        ("https://example.org/img/no-image.gif", True),
        ("https://example.org/img/NoPhotoAvailable.jpg", True),
        ("https://example.org/placeholder-300x200.png?x=1", True),
        ("https://example.org/image_not_found", True),
        ("https://example.org/404.jpg", True),
        ("https://example.org/missing_image.png", True),
        ("https://example.org/cat.jpg", False),
        ("https://example.org/piano-images.jpg", False),
        ("https://example.org/casino_photo.jpg", False),
        ("https://example.org/missing-link-monument.jpg", False),
        ("https://example.org/removed/cat.jpg", False),
        ("https://example.org/4042.jpg", False),
    ],
)
def test_placeholders_are_known_by_where_a_redirect_leads(final_url: str, is_one: bool) -> None:
    assert is_placeholder("http://example.org/asked-for.jpg", final_url) is is_one


def test_an_image_that_is_asked_for_by_such_a_name_is_none_though_it_moves() -> None:
    for name in ("removed.png", "404.jpg", "no-image.gif"):
        assert not is_placeholder(f"http://example.org/{name}", f"https://www.example.org/{name}")


def test_the_user_agent_names_the_program_and_whom_to_write_to() -> None:
    config = FetchConfig(contact="mailto:someone@example.org")
    assert config.user_agent_header == "vernaclip/0.1 (image-caption dataset builder) mailto:someone@example.org"
    assert config.robot == "vernaclip"
    with pytest.raises(ConfigError, match=r"fetch\.contact"):
        FetchConfig(contact="someone")


@given(st.text(), st.sampled_from(["vernaclip", "my-bot", "x"]))
def test_any_text_is_a_robots_txt(body: str, robot: str) -> None:
    rules = rules_of(body, robot)
    assert rules.can_fetch("http://example.org/a.jpg", robot) in (True, False)
    delay_s = rules.crawl_delay(robot)
    assert delay_s is None or delay_s >= 0


LINES = [
    "User-agent: *",
    "User-agent: vernaclip",
    "user agent otherbot",
    "Useragent : ver*",
    "USER-AGENT: clip # us",
    "User-agent:",
    "Disallow: /",
    "Disallow: /a",
    "Allow: /a",
    "Disallow:",
    "Crawl-delay: 3",
    "Sitemap: /x",
    "",
]


@given(st.lists(st.sampled_from(LINES), max_size=12))
def test_taking_other_robots_out_changes_nothing_for_us(lines: list[str]) -> None:
    from protego import Protego

    body = "\n".join(lines)
    whole, ours = Protego.parse(body), rules_of(body, "vernaclip")
    for url in ("http://example.org/a.jpg", "http://example.org/b.jpg"):
        assert ours.can_fetch(url, "vernaclip") is whole.can_fetch(url, "vernaclip")
    assert ours.crawl_delay("vernaclip") == whole.crawl_delay("vernaclip")
