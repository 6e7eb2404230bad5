"""Check: texts that stand where a caption should be, by named rules, each with an example.

| rule | example |
|---|---|
| file_name | IMG_2041.jpg; Datei:Haus am See.png |
| camera_name | DSC00123; IMG 2041; 20190405_123456 |
| url | https://example.org/a.jpg; www.example.org; someone@example.org |
| no_letters | 12/05/2019; ???; 🙂🙂 |

Rules look at the whole text: "Panorama di Roma.jpg" says what is seen and stays.
"""

import re
from collections.abc import Sequence

from data_catalog.stages import Check, Drop

_EXTENSION = r"\.(?:jpe?g|png|gif|tiff?|svg|webp|bmp|heic|avif|xcf|pdf|djvu|webm|ogv|mp4|mov)"
_CAMERA = r"(?:img|imag|image|dsc|dscn|dscf|pict|mvi|vid|pxl|gopr|cimg|sam|wp|screenshot|p)"
_NAMESPACE = r"(?:file|image|datei|bild|immagine|fichier|archivo|ficheiro|plik|bestand|αρχείο|εικόνα|файл|изображение)"

_RULES = (
    (
        "url",
        re.compile(r"(?:(?:https?|ftp)://|www\.)\S+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.IGNORECASE),
    ),
    ("file_name", re.compile(rf"\S+{_EXTENSION}|{_NAMESPACE}\s?:.*{_EXTENSION}", re.IGNORECASE)),
    (
        "camera_name",
        re.compile(
            rf"{_CAMERA}[_ -]?\d{{4,}}(?:[_ -]\w{{1,8}})*"
            r"|\d{8}[_-]\d{6}\w{0,8}",
            re.IGNORECASE,
        ),
    ),
)


def boilerplate() -> Check:
    """Drop texts that are wholly a file name, a camera's numbering, an address, or hold no letter at all.

    Reason: caption_boilerplate, the detail naming the rule. Empty texts are left to `caption_length`.
    """

    def check(texts: Sequence[str]) -> list[Drop | None]:
        return [_judge(text.strip()) for text in texts]

    return check


def _judge(text: str) -> Drop | None:
    for name, pattern in _RULES:
        if pattern.fullmatch(text):
            return Drop("caption_boilerplate", name)
    if text and not any(map(str.isalpha, text)):
        return Drop("caption_boilerplate", "no_letters")
    return None
