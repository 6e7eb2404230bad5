"""Identities of images across datasets: the number in COCO or on Flickr, the file on Wikimedia, the URL.

An identity is a scheme and a value:
  coco:391895                       MSCOCO's image id, the same in all its years, splits and translations
  flickr:1000268201                 the photo's number on Flickr
  wikimedia:Duomo_di_Milano.jpg     a file of Wikimedia Commons; "wikimedia:wikipedia/en/Logo.png" of another project
  openimages:000411001ff7dd4f       the image's id in Open Images
  url:example.org/a.jpg             a URL in `canonical_url`'s spelling, without its scheme
"""

import re
import unicodedata
from pathlib import PurePosixPath
from urllib.parse import unquote

from data_catalog.rows.urls import CANONICAL_URL, canonical_url

_COMMONS = "wikipedia/commons"
# /wikipedia/<project>[/thumb][/archive]/<h>/<hh>/<name>[/<width>px-<name>]
_UPLOADED = re.compile(
    r"(?:https?://)?upload\.wikimedia\.org/(\w+/[\w-]+)/(?:thumb/)?(?:archive/)?[0-9a-f]/[0-9a-f]{2}/([^/?#]+)",
    re.IGNORECASE,
)
_PAGE = re.compile(
    r"(?:https?://)?([a-z-]+)\.(?:m\.)?"
    r"(wikimedia|wikipedia|wiktionary|wikisource|wikibooks|wikinews|wikiquote|wikiversity|wikivoyage)\.org"
    r"/(?:wiki/(?P<title>[^?#]+)"
    r"|w/index\.php\?(?:[^#]*&)?title=(?P<asked_title>[^#&]+)"
    r"|w/thumb\.php\?(?:[^#]*&)?f=(?P<thumbnail>[^#&]+))",
    re.IGNORECASE,
)
_SPECIAL_PAGE = re.compile(r"special:(?:filepath|redirect/file)/", re.IGNORECASE)
# Names of MediaWiki's file namespace in the larger languages, current and former ones.
_FILE_NAMESPACE = re.compile(
    "file|image|datei|bild|fichier|archivo|imagen|ficheiro|arquivo|imagem|imaxe|plik|"
    "grafika|bestand|afbeelding|immagine|fitxer|imatge|fil|bilde|billede|tiedosto|kuva|"
    "soubor|súbor|obrázok|dosya|resim|fișier|fişier|imagine|fájl|kép|slika|datoteka|"
    "fitxategi|irudi|dosiero|bildo|berkas|gambar|fail|pilt|attēls|vaizdas|fayl|şəkil|"
    "delwedd|íomhá|mynd|skeda|fasciculus|imago|tập_tin|hình|файл|изображение|зображення|"
    "картинка|датотека|слика|податотека|выява|сурет|αρχείο|εικόνα|պատկեր|ფაილი|קובץ|"
    "תמונה|ملف|صورة|پرونده|تصویر|चित्र|চিত্র|படிமம்|ไฟล์|ภาพ|ファイル|画像|文件|檔案|图像|圖像|"
    "파일|그림",
    re.IGNORECASE,
)
_OLD_VERSION = re.compile(r"\d{14}!")
_SPACING = re.compile("[ _\u00a0\u1680\u180e\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
_BIDI_MARKS = re.compile("[\u200e\u200f\u202a-\u202e]")


def wikimedia_files(url: str) -> list[str]:
    """Return the Wikimedia files that a URL may refer to, with or without its scheme; names not in UTF-8 are left out.

    Files of Commons are bare names ("Logo.png"); others have their project before them ("wikipedia/en/Logo.png"). A
    file page of a project other than Commons may show its own file or that of Commons: both are returned.
    """
    if found := _UPLOADED.match(url):
        title = _decoded(found[2])
        name = file_name(_OLD_VERSION.sub("", title, count=1)) if title else ""
        return [_qualified(found[1].lower(), name)] if name else []
    found = _PAGE.match(url)
    name = _name_on_page(found) if found else ""
    if not found or not name:
        return []
    host, family = found[1].lower(), found[2].lower()
    return [name] if family == "wikimedia" else [name, _qualified(f"{family}/{host}", name)]


def _name_on_page(found: re.Match[str]) -> str:
    """Return the file that a URL matched by `_PAGE` is about, or ""."""
    if found["thumbnail"]:
        title = _decoded(found["thumbnail"].replace("+", " "))
        return file_name(_OLD_VERSION.sub("", title, count=1)) if title else ""
    title = _decoded(found["title"] or found["asked_title"].replace("+", " ")) or ""
    special = _SPECIAL_PAGE.match(title)
    title = title[special.end() :] if special else title
    namespace, colon, name = title.partition(":")
    if colon and _FILE_NAMESPACE.fullmatch(file_name(namespace)):
        title = name
    elif not special:
        return ""
    return file_name(title) if "/" not in title else ""


def _qualified(project: str, name: str) -> str:
    return name if project == _COMMONS else f"{project}/{name}"


def _decoded(escaped: str) -> str | None:
    try:
        text = unquote(escaped, errors="strict")
        text.encode()  # texts from JSON may contain lone surrogates
    except UnicodeError:
        return None
    return text


def file_name(title: str) -> str:
    """Return a title in MediaWiki's form: NFC, underscores for spaces, first letter a capital; may be empty."""
    if not title.isascii():
        title = unicodedata.normalize("NFC", _BIDI_MARKS.sub("", title))
    name = _SPACING.sub("_", title).strip("_")
    first = name[:1].upper()
    return first + name[1:] if len(first) == 1 else name  # "ß" has no single capital and stays


_COCO_KINDS = frozenset({"mscoco", "mscoco_it"})
_NUMBER = re.compile(r"[0-9]{1,12}")
_SHARDS = "webdataset"
_FLICKR_KINDS = frozenset({"flickr8k", "flickr30k"})

# MSCOCO's image numbers have at most six digits; other names of twelve digits belong to other datasets.
_COCO_FILE = re.compile(r"(?:.*/)?(COCO_(?:train|val|test)20\d\d_)?000000(\d{6})\.(?:jpe?g|png|webp)")
_COCO_FOLDER = re.compile(r"mscoco\.org|cocodataset\.org|/(?:train|val|test)20(?:14|15|17)/")

# Flickr8k's file names: number and secret of the photo, and optionally a size letter.
_FLICKR_FILE = re.compile(
    r"(?:.*/)?0*(\d{1,11})_([0-9a-f]{10})(?:_[a-z0-9]{1,2})?\.(?:jpe?g|png|gif|webp)", re.IGNORECASE
)
# Flickr8k's own folder is spelled "Flicker8k_Dataset".
_FLICKR_FOLDER = re.compile(r"flicke?r[^/]*/", re.IGNORECASE)
_FLICKR_STEM = re.compile(r"(?:.*/)?0*(\d{1,11})(?:_[0-9a-f]+)?(?:_[a-z0-9]{1,2})?(?:\.\w+)?", re.IGNORECASE)
_FLICKR_URL = re.compile(
    r"(?:https?://)?(?:"
    r"[\w.-]*static\.?flickr\.com/(?:\d+/)*0*(\d{1,11})_[0-9a-z]+(?:_[a-z0-9]+)?\.\w+"
    r"|(?:www\.|m\.|secure\.)?flickr\.com/(?:photos/[^/?#]+/|photo\.gne\?(?:[^#]*&)?id=)0*(\d{1,11})(?!\d)"
    r")",
    re.IGNORECASE,
)
# Short URLs of photos contain the number in base 58, without 0, I, O and l.
_BASE_58 = "123456789abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
_SHORT_FLICKR_URL = re.compile(rf"(?i:(?:https?://)?(?:www\.)?flic\.kr)/p/([{_BASE_58}]{{1,7}})(?![0-9A-Za-z])")
_MAX_PHOTO = 10**11

_OPEN_IMAGES_FILE = re.compile(r"(?:.*/)?([0-9a-f]{16})(?:_[a-z])?\.(?:jpe?g|png)", re.IGNORECASE)
_OPEN_IMAGES_PLACE = re.compile(r"open-?images", re.IGNORECASE)

_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_WRITTEN = re.compile(r"coco:\d{1,12}|flickr:\d{1,11}|openimages:[0-9a-f]{16}|wikimedia:[^\s\ud800-\udfff]+|url:\S+")


def canonical_identities(
    *, source_kind: str, sample_id: str, url: str | None, path: str | None, page_url: str | None
) -> frozenset[str]:
    """Return all identities of the image of a row; fast enough for millions of rows.

    The sample ids of some kinds of sources contain the image's number; the part before the first colon is ignored. A
    page is about the image, or uses it, and is no identity by itself.
    """
    found: set[str] = set()
    if source_kind in _COCO_KINDS:
        key = sample_id.partition(":")[2]
        if _NUMBER.fullmatch(key):
            found.add(f"coco:{int(key)}")
    elif source_kind in _FLICKR_KINDS:
        found.update(photo_identities(sample_id.partition(":")[2]))
    if path and not (source_kind == _SHARDS and PurePosixPath(path).stem.isdecimal()):  # a number in its shard
        # A Flickr name whose secret is all digits counts only in a folder of Flickr's: one secret in a hundred has no
        # letter, and such a name may as well be a date and a number.
        photo = _FLICKR_FILE.fullmatch(path)
        if not photo or not photo[2].isdigit() or _FLICKR_FOLDER.search(path):
            found |= name_identities(path)
    if url:
        _add_url(found, url)
    if page_url:
        _add_page(found, page_url.strip())
    return frozenset(found)


def photo_identities(name: str) -> frozenset[str]:
    """Return the Flickr identity of a file name or id of Flickr8k or Flickr30k, which contain the photo's number."""
    photo = _FLICKR_STEM.fullmatch(name.strip())
    return frozenset({f"flickr:{photo[1]}"}) if photo else frozenset()


def name_identities(name: str) -> frozenset[str]:
    """Return the identities in a file name of COCO, Flickr or Open Images; folders before the name are ignored."""
    if photo := _COCO_FILE.fullmatch(name):
        return frozenset({f"coco:{int(photo[2])}"})
    if photo := _FLICKR_FILE.fullmatch(name):
        return frozenset({f"flickr:{photo[1]}"})
    if photo := _OPEN_IMAGES_FILE.fullmatch(name):
        return frozenset({f"openimages:{photo[1].lower()}"})
    return frozenset()


def url_identities(url: str) -> frozenset[str]:
    """Return the identities in the URL of an image: always the URL itself, and any number or file name in it."""
    found: set[str] = set()
    _add_url(found, url)
    return frozenset(found)


def parse_identities(text: str) -> frozenset[str] | None:
    """Parse identities separated by white space, and normalise their spelling; None if one has an unknown form."""
    found = set()
    for written in text.split():
        if not _WRITTEN.fullmatch(written):
            return None
        found.add(_respelled(written))
    return frozenset(found)


def _respelled(written: str) -> str:
    scheme, _, value = written.partition(":")
    if scheme == "url":
        return f"url:{_without_scheme(value if _SCHEME.match(value) else f'http://{value}')}"
    if scheme == "wikimedia":
        project, slash, title = value.rpartition("/")
        return f"wikimedia:{project}{slash}{file_name(title)}"
    return f"{scheme}:{int(value)}" if scheme != "openimages" else written


def _without_scheme(url: str) -> str:
    """Return the canonical form of a URL without its scheme, the same for http and https."""
    if plain := CANONICAL_URL.fullmatch(url):
        return plain[1]
    spelling = _SCHEME.sub("", canonical_url(url), count=1)
    # `canonical_url` leaves lone surrogates in a host; JSON may contain them, but files cannot.
    return spelling.encode("utf-8", "replace").decode()


def _add_url(found: set[str], url: str) -> None:
    url = _without_scheme(url.strip())
    found.add(f"url:{url}")
    _add_page(found, url)
    if "000000" in url and (photo := _COCO_FILE.fullmatch(place := url.partition("?")[0])):
        # Twelve digits are common on the web: they count only in MSCOCO's own folders or hosts.
        if photo[1] or _COCO_FOLDER.search(place):
            found.add(f"coco:{int(photo[2])}")
    elif _OPEN_IMAGES_PLACE.search(url) and (photo := _OPEN_IMAGES_FILE.fullmatch(url.partition("?")[0])):
        found.add(f"openimages:{photo[1].lower()}")


def _add_page(found: set[str], url: str) -> None:
    """Add the identities in a URL on Flickr's or Wikimedia's servers."""
    place = url.lower()
    if "flickr" in place and (photo := _FLICKR_URL.match(url)):
        found.add(f"flickr:{photo[1] or photo[2]}")
    elif "flic.kr" in place and (photo := _SHORT_FLICKR_URL.match(url)):
        number = 0
        for digit in photo[1]:
            number = 58 * number + _BASE_58.index(digit)
        found.update([f"flickr:{number}"] if number < _MAX_PHOTO else [])
    if "wiki" in place:
        found.update(f"wikimedia:{name}" for name in wikimedia_files(url))
