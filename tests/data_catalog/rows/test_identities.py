"""Identities of images: sample ids, file names and URLs of every source, and similar texts that are none."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_catalog.rows.identities import (
    canonical_identities,
    name_identities,
    parse_identities,
    photo_identities,
    url_identities,
)
from data_catalog.rows.urls import canonical_url

COMMONS = "https://upload.wikimedia.org/wikipedia/commons"


def known(url: str) -> set[str]:
    """Return the identities in a URL without the URL itself."""
    return {identity for identity in url_identities(url) if not identity.startswith("url:")}


def test_urls() -> None:
    for url, identity in (
        ("http://images.cocodataset.org/train2017/000000391895.jpg", "coco:391895"),
        ("https://s3.amazonaws.com/mirror/train2014/000000391895.jpg?x=1", "coco:391895"),
        ("https://example.org/000000391895.jpg", None),  # anybody numbers files
        ("http://farm6.staticflickr.com/5024/5101244485_5b7e2e4b6e_z.jpg", "flickr:5101244485"),
        ("http://static.flickr.com/2/1418878_1e92283336.jpg", "flickr:1418878"),
        ("https://www.flickr.com/photo.gne?short=1&id=5101244485", "flickr:5101244485"),
        ("https://flic.kr/p/8LMdg8", "flickr:5101244485"),
        ("flic.kr/p/2", "flickr:1"),
        ("https://flic.kr/p/8LMdg0", None),  # no digit of theirs
        ("https://www.flickr.com/photos/someone/123456789012345", None),  # longer than any number of a photo
        ("https://s3.amazonaws.com/open-images-dataset/test/000411001FF7DD4F.jpg", "openimages:000411001ff7dd4f"),
        ("https://example.org/000411001ff7dd4f.jpg", None),
    ):
        assert known(url) == ({identity} if identity else set())


def test_files_on_wikimedia() -> None:
    for url, names in (
        (f"{COMMONS}/b/b3/Duomo_di_Milano.jpg", ["Duomo_di_Milano.jpg"]),
        (f"{COMMONS}/thumb/b/b3/Duomo_di_Milano.jpg/440px-Duomo_di_Milano.jpg", ["Duomo_di_Milano.jpg"]),
        (f"{COMMONS}/archive/b/b3/20090101120000%21Duomo_di_Milano.jpg", ["Duomo_di_Milano.jpg"]),
        (f"{COMMONS}/b/b3/Citta%CC%80.jpg", ["Città.jpg"]),
        (f"{COMMONS}/b/b3/%E2%80%8E%D7%AA%D7%9C.jpg", ["תל.jpg"]),  # a direction mark, which MediaWiki drops
        ("https://upload.wikimedia.org/wikipedia/en/b/b3/Logo.png", ["wikipedia/en/Logo.png"]),
        ("https://commons.wikimedia.org/wiki/File:duomo_di  Milano.jpg", ["Duomo_di_Milano.jpg"]),
        ("https://commons.wikimedia.org/wiki/Special:FilePath/Duomo_di_Milano.jpg?width=300", ["Duomo_di_Milano.jpg"]),
        ("https://commons.wikimedia.org/w/index.php?a=b&title=File:Duomo_di_Milano.jpg", ["Duomo_di_Milano.jpg"]),
        ("https://commons.wikimedia.org/w/thumb.php?f=duomo_di_Milano.jpg&w=300", ["Duomo_di_Milano.jpg"]),
        ("https://commons.wikimedia.org/w/thumb.php?f=20090101120000!A.jpg&archived=1&w=9", ["A.jpg"]),
        ("https://de.wikipedia.org/wiki/Datei:Logo.png", ["Logo.png", "wikipedia/de/Logo.png"]),
        ("https://tr.wikipedia.org/wiki/DOSYA:Logo.png", ["Logo.png", "wikipedia/tr/Logo.png"]),
        ("https://commons.wikimedia.org/wiki/File:", []),
    ):
        assert known(url) == {f"wikimedia:{name}" for name in names}


def row(kind: str, sample_id: str, **places: str) -> frozenset[str]:
    found = dict.fromkeys(("url", "path", "page_url")) | places
    return canonical_identities(source_kind=kind, sample_id=sample_id, **found)


def test_rows_of_each_source() -> None:
    page = "https://www.flickr.com/photo.gne?id=123"
    assert row("mscoco", "coco-2017:391895", path="000000391895.jpg", page_url=page) == {"coco:391895", "flickr:123"}
    assert row("mscoco_it", "it:391895") == {"coco:391895"}
    assert row("mscoco_it", f"it:{'9' * 5000}") == row("mscoco_it", "it:٣٩") == row("mscoco", "none") == set()
    assert row("mscoco", "mscoco:COCO_val2014_000000000009.jpg", path="COCO_val2014_000000000009.jpg") == {"coco:9"}
    assert row("flickr8k", "f:1000268201_693b08cb0e", path="1000268201_693b08cb0e.jpg") == {"flickr:1000268201"}
    assert row("flickr30k", "f:1000092795", path="1000092795.jpg") == {"flickr:1000092795"}
    assert row("pairs", "mine:1000092795.jpg", path="1000092795.jpg") == set()
    assert row("pairs", "mine:391895") == set()
    assert row("flickr8k", "f:000000391895", path="000000391895.jpg") == {"flickr:391895", "coco:391895"}
    flickr = "http://static.flickr.com/2/1418878_1e92283336.jpg"
    assert row("sbu", "sbu:ab", url=flickr) == {"flickr:1418878", f"url:{flickr[7:]}"}
    article = "https://it.wikipedia.org/wiki/Duomo_di_Milano"
    assert row("wit", "wit:ab", url=f"{COMMONS}/b/b3/A_b.jpg", page_url=article) == {
        "wikimedia:A_b.jpg",
        "url:upload.wikimedia.org/wikipedia/commons/b/b3/A_b.jpg",
    }
    assert row("cc12m", "cc:ab", url="https://example.org/a.jpg") == {"url:example.org/a.jpg"}
    for page in (" HTTPS://WWW.FLICKR.COM/PHOTOS/JOSÉ/5101244485\n", "HTTPS://FLIC.KR/p/8LMdg8"):
        assert row("wit", "wit:ab", page_url=page) == {"flickr:5101244485"}
    assert row("wit", "wit:ab", page_url="HTTPS://COMMONS.WIKIMEDIA.ORG/wiki/FILE:A.jpg") == {"wikimedia:A.jpg"}


def test_a_file_of_ones_own_is_mscocos_or_flickrs_if_its_name_or_folder_says_so() -> None:
    for path, identities in {
        "val2017/000000391895.jpg": {"coco:391895"},
        "20190405_0123456789.jpg": set(),  # a day and a number
        "Images/1000268201_0123456789.jpg": set(),
        "Flicker8k_Dataset/1000268201_0123456789.jpg": {"flickr:1000268201"},
    }.items():
        assert row("pairs", f"mine:{path}", path=path) == identities


@pytest.mark.parametrize("place", ["url", "path", "page_url"])
def test_lone_surrogates_do_not_fail(place: str) -> None:
    for text in (
        f"{COMMONS}/b/b3/%41\ud800%C3.jpg",
        "https://commons.wikimedia.org/w/thumb.php?f=%41\udfff.jpg",
        "https://www.flickr.com/photos/\ud800/1?\udfff",
        "https://\ud800.org/\udfff",
    ):
        for kind in ("wit", "mscoco", "flickr8k"):
            for identity in row(kind, f"a:{text}", **{place: text}):
                identity.encode()
                assert not identity.startswith("wikimedia:")


def test_names_of_files_and_identities_as_they_are_written() -> None:
    assert name_identities("COCO_train2014_000000391895.jpg") == name_identities("000000391895.jpg") == {"coco:391895"}
    assert name_identities("000391895.jpg") == name_identities("1000092795.jpg") == name_identities("") == set()
    assert photo_identities("1016887272") == photo_identities("images/1016887272.jpg") == {"flickr:1016887272"}
    assert photo_identities("1000268201_693b08cb0e.jpg") == {"flickr:1000268201"}
    assert photo_identities("dog.jpg") == set()
    assert parse_identities("coco:000391895 flickr:7") == {"coco:391895", "flickr:7"}
    assert parse_identities("wikimedia:duomo_di_Milano.jpg") == {"wikimedia:Duomo_di_Milano.jpg"}
    assert parse_identities("wikimedia:wikipedia/en/logo.png") == {"wikimedia:wikipedia/en/Logo.png"}
    assert parse_identities("url:HTTPS://Example.org/%61.jpg") == parse_identities("url:example.org/a.jpg")
    assert parse_identities("url:example.org/a.jpg") == url_identities("http://example.org/a.jpg")
    assert parse_identities("") == set()
    assert parse_identities("coco:abc") is None
    assert parse_identities("flickr:1 mine:2") is None
    assert parse_identities("wikimedia:\ud800.jpg") is None  # half a character


ESCAPES = [f"%{number:02{case}}" for number in range(256) for case in "xX"]
HOSTS = st.text(st.sampled_from("aZ09.-"), min_size=1, max_size=12)
PATHS = st.lists(st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from(ESCAPES), max_size=20).map(
    "".join
)
URLS = st.builds(
    "{}://{}{}/{}".format, st.sampled_from(["http", "https"]), HOSTS, st.sampled_from(["", ":80", ":8"]), PATHS
)


@given(URLS | st.text())
@example("https://example.org/a?")
@example("http://example.org:80/a")
@example("https://example.org/100%")
@example("http://upload.wikimedia.org/a.jpg")
@example("http://example.org/a/../b.jpg")
@example("http://example.org/%41%c3%a0")
@example("http://1.2.0x3/a")
@example("http://example.org./a")
def test_the_identity_of_a_url_is_its_canonical_spelling(url: str) -> None:
    canonical = canonical_url(f" {url}")  # the blank is removed, but such a URL is parsed rather than recognised
    assert canonical_url(url) == canonical
    spelling = re.sub("^https?://", "", canonical, flags=re.IGNORECASE)
    assert f"url:{spelling}" in url_identities(url)
