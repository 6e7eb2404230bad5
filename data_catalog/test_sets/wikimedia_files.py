"""Which file on Wikimedia's servers a URL means: an original, a thumbnail, an older version, or the file's page.

The page may be called so in any of the larger languages ("Datei:Logo.png").

Wikimedia Commons and each of the other projects have files of their own; the same name in two of them is two files.
"""

import re
import unicodedata
from urllib.parse import unquote

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
# The namespace of files as MediaWiki calls it in the larger languages, by its names of today and its older ones.
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
    """Names of the files that a URL, with or without its scheme, may mean: "Logo.png", "wikipedia/en/Logo.png".

    Those of other projects than Commons follow the project. The address of an upload means one file. The page of a file
    on a project other than Commons may show that project's file or Commons', which the URL does not tell: both are
    named. Names that are not UTF-8 mean none.
    """
    if found := _UPLOADED.match(url):
        title = _decoded(found[2])
        name = file_name(_OLD_VERSION.sub("", title, count=1)) if title else ""
        return [_qualified(found[1].lower(), name)] if name else []
    if found := _PAGE.match(url):
        name = _name_on_page(found)
        return _shown_files(found[1].lower(), found[2].lower(), name) if name else []
    return []


def _name_on_page(found: re.Match[str]) -> str:
    """The file that an address of `_PAGE` is about, or ""."""
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


def _shown_files(host: str, family: str, name: str) -> list[str]:
    return [name] if family == "wikimedia" else [name, _qualified(f"{family}/{host}", name)]


def _qualified(project: str, name: str) -> str:
    return name if project == _COMMONS else f"{project}/{name}"


def _decoded(escaped: str) -> str | None:
    try:
        text = unquote(escaped, errors="strict")
        text.encode()  # half a surrogate pair stands in texts out of JSON
    except UnicodeError:
        return None
    return text


def file_name(title: str) -> str:
    """A title as MediaWiki has it: NFC, underscores for spaces, the first letter a capital; may be empty."""
    if not title.isascii():
        title = unicodedata.normalize("NFC", _BIDI_MARKS.sub("", title))
    name = _SPACING.sub("_", title).strip("_")
    first = name[:1].upper()
    return first + name[1:] if len(first) == 1 else name  # "ß" has no single capital and stays
