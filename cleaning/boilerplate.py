"""Check: texts that stand where a caption should be, by named rules, each with examples.

| rule | example |
|---|---|
| url | https://example.org/a.jpg; www.example.org; someone@example.org |
| file_name | IMG_2041.jpg; Datei:Haus am See.png |
| camera_name | DSC00123; IMG 2041; 20190405_123456 |
| thumbnail | Thumbnail for version as of 02:40, 12 May 2022; thumb|right|250px; thumbnail |
| date | 12 maggio 1998; May 5, 2010; 1998-05-12; Summer 2010; circa 1900 |
| photo_credit | Photo by Christian Petersen; Foto: dpa; © Claudio Reyes/AFP/Getty Images; photo by person |
| stock_photo | stock photo; Stock Photo #12345; royalty - free; Getty Images |
| wikimedia_maintenance | No machine-readable author provided. MPF assumed (based on copyright claims). |
| placeholder | senza titolo; no caption; image not available; photo 3 |
| no_letters | ???; 🙂🙂; 250 × 300 |

What Wikimedia's rules name is found word for word on Commons' pages and in what others copied from them: "Transferred
from en.wikipedia to Commons by Zeimusu using CommonsHelper.", "Opera propria", "Original uploader was JulieFromVT
(Julie Waters) at en.wikipedia". ALIGN's paper shows "thumbnail for version as of 21 57 29 june 2010" in its data, CC3M
has "photo by person".

Rules look at the whole text: "Panorama di Roma.jpg", "photo of a cat by the sea" and "In 1998 the bridge was closed"
say what is seen and stay. So do "Foto: Ponte Vecchio", whose words might as well be a name, "Sam 2012 Olympics",
"la Primavera, 1482", "links | rechts" and "This picture shows a public domain sign on the wall".
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

from cleaning.credits import WHOLE_CREDIT_OPENING, is_credit
from cleaning.dates import is_date
from cleaning.maintenance import MAINTENANCE, PLACEHOLDER, THUMBNAIL
from cleaning.suffixes import STOCK_LABEL
from data_catalog.errors import ConfigError
from data_catalog.stages import Check, Drop

_EXTENSION = r"\.(?:jpe?g|png|gif|tiff?|svg|webp|bmp|heic|avif|xcf|pdf|djvu|webm|ogv|mp4|mov)"
# "Sam 2012 Olympics" is no file: these words and letters have their digits right behind them.
_CAMERA = r"(?:(?:img|imag|image|dsc|dscn|dscf|pict|mvi|pxl|gopr|cimg|screenshot)[_ -]?|(?:sam|wp|vid|p)[_-]?)"
_CAMERA_TAIL = (
    r"[_ -](?:\d{1,8}|wa\d{4}|[a-z]{1,2}|edit(?:ed)?|bearbeitet|copy|kopie|copia|crop(?:ped)?|hdr|pano|burst\d{0,4}|"
    r"cover|raw|rich|pro|web|modified|resized|scaled|rotated|retouched|verkleinert|zugeschnitten|geändert|"
    r"(?:modificat|ridimensionat|ritagliat|modificad|recortad)[ao]|(?:modifi|redimensionn)ée?)"
)
# A telephone's screenshot has the program behind its time.
_SCREENSHOT = r"screenshot[_ -](?:\d{8}[_-]\d{6}|\d{4}(?:-\d\d){5}(?:-\d{1,3})?)_[\w.]{1,40}"
_NAMESPACE = r"(?:file|image|datei|bild|immagine|fichier|archivo|ficheiro|plik|bestand|αρχείο|εικόνα|файл|изображение)"
_URL = r"(?:(?:https?|ftp)://|www\.)\S+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
_FILE_NAME = rf"\S+{_EXTENSION}|{_NAMESPACE}\s?:.*{_EXTENSION}"
_CAMERA_NAME = rf"(?:{_CAMERA}\d{{4,}}|\d{{8}}[_-]\d{{6}}\d{{0,3}})(?:{_CAMERA_TAIL}){{0,8}}|{_SCREENSHOT}"
_opens_a_credit = re.compile(rf"[(\[]?{WHOLE_CREDIT_OPENING}").match
_CREDIT = re.compile(rf"[(\[]?{WHOLE_CREDIT_OPENING}(?P<name>[^:()\[\]]{{1,100}})[)\]]?", re.IGNORECASE)


def _whole(pattern: str) -> Callable[[str], object]:
    """Patterns are in small letters: without IGNORECASE, `re` sees sooner that none of many alternatives begins so."""
    matches = re.compile(pattern).fullmatch
    return lambda text: matches(text.lower())


def _is_credit(text: str) -> bool:
    if not _opens_a_credit(text.lower()):  # much faster than the whole, for the same reason
        return False
    match = _CREDIT.fullmatch(text)
    return match is not None and is_credit(match)


def _has_no_letter(text: str) -> bool:
    return not any(map(str.isalpha, text))


_RULES: Final[dict[str, Callable[[str], object]]] = {
    "url": _whole(_URL),
    "file_name": _whole(_FILE_NAME),
    "camera_name": _whole(_CAMERA_NAME),
    "thumbnail": _whole(THUMBNAIL),
    "date": is_date,
    "photo_credit": _is_credit,
    "stock_photo": _whole(rf"(?:-+ ?)?{STOCK_LABEL}[ .!]?"),
    "wikimedia_maintenance": _whole(MAINTENANCE),
    "placeholder": _whole(PLACEHOLDER),
    "no_letters": _has_no_letter,
}
# Every rule's name, in the order in which rules are tried: the one that names the cause best goes first.
BOILERPLATE_RULES: Final = tuple(_RULES)


def boilerplate(rules: Sequence[str] = BOILERPLATE_RULES) -> Check:
    """Drop texts that are wholly what one of the rules describes; the table above has them.

    Args:
        rules: names from `BOILERPLATE_RULES`, in the order in which they are tried.

    Reason: caption_boilerplate, the detail naming the rule. Empty texts are left to `caption_length`. Raises
    ConfigError for a name that is no rule's.
    """
    unknown = [name for name in rules if name not in _RULES]
    if unknown:
        raise ConfigError(
            f"unknown rule of boilerplate: {', '.join(unknown)}; there are {', '.join(BOILERPLATE_RULES)}"
        )
    chosen = [(name, _RULES[name]) for name in rules]

    def judge(text: str) -> Drop | None:
        for name, matches in chosen if text else ():
            if matches(text):
                return Drop("caption_boilerplate", name)
        return None

    def check(texts: Sequence[str]) -> list[Drop | None]:
        return [judge(text.strip()) for text in texts]

    return check
