"""What servers ask of robots, and what their answers mean: Retry-After, thumbnails, placeholders."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.errors import SettingsError
from data_catalog.fetch.client import retry_after_s
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.opener import is_placeholder
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
    with pytest.raises(SettingsError, match="wikimedia_width"):
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
    assert config.limits().user_agent == "vernaclip/0.1 (image-caption dataset builder) mailto:someone@example.org"
    assert config.robot == "vernaclip"
    with pytest.raises(SettingsError, match=r"fetch\.contact"):
        FetchConfig(contact="someone")
