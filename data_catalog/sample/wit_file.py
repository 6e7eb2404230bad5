"""Writes the native-language dataset of the sample as WIT is published: a gzipped TSV of 17 columns."""

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from data_catalog.sample import foreign
from data_catalog.sample.config import WIT
from data_catalog.sample.grammar import captions
from data_catalog.sample.pictures import ImageFolder
from data_catalog.sample.samples import Sample, url_of
from data_catalog.sample.scene import pick, shuffled

WIT_FILE = "wit/wit.tsv.gz"
COLUMNS = (
    "language",
    "page_url",
    "image_url",
    "page_title",
    "section_title",
    "hierarchical_section_title",
    "caption_reference_description",
    "caption_attribution_description",
    "caption_alt_text_description",
    "mime_type",
    "original_height",
    "original_width",
    "is_main_image",
    "attribution_passes_lang_id",
    "page_changed_recently",
    "context_page_description",
    "context_section_description",
)
_STYLES = ("capital", "capital", "sentence")
_SECOND_PAGE_SHARE, _OTHER_LANGUAGE_SHARE = 0.2, 0.25
_CONTEXTS = (
    "La geometria è quella parte della matematica che si occupa delle forme nel piano e nello spazio.",
    'Il disegno, detto anche "figura", mostra alcune forme semplici.\nLe forme sono colorate e lo sfondo è uniforme.',
    "In questa pagina sono raccolte figure colorate, usate nelle scuole per imparare i nomi delle forme.",
    'Una "forma" è ciò che resta di un oggetto quando si dimenticano colore e posizione.\n\nVedi anche: colore.',
)

Row = dict[str, Any]


def write_wit(samples: Sequence[Sample], folder: Path, images: ImageFolder, native: str) -> None:
    """Write `wit/wit.tsv.gz`: reference captions in the `native` language, with rows of others among them."""
    rows: list[tuple[Row, bool]] = []
    for sample in samples:
        size = images.add(sample)
        rng = sample.rng("wit")
        rows.extend((row, False) for row in _rows_of(sample, native, size, images, rng))
        if sample.fault == "unterminated_quote":
            rows[-1] = (rows[-1][0], True)
    text = "".join(
        _line(row, broken=broken) for row, broken in shuffled(Random(f"scenes:wit-order:{samples[0].seed}"), rows)
    )
    path = folder / WIT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        packed.write(("\t".join(COLUMNS) + "\n" + text).encode("utf-8"))


def _rows_of(sample: Sample, native: str, size: tuple[int, int], images: ImageFolder, rng: Random) -> list[Row]:
    """An image's rows: its page, now and then a second page with a caption of its own, and one in another language."""
    scene, url = sample.scene(), url_of(sample, images.base_url)
    first, second = captions(scene, native, num=2, rng=rng, styles=_STYLES)
    first, attribution = _caption_with_fault(sample, native, first, url, images, rng)
    rows = [_row(sample, native, url, size, rng, reference=first, attribution=attribution)]
    if not sample.fault and rng.random() < _SECOND_PAGE_SHARE:
        rows.append(_row(sample, native, url, size, rng, reference=second, page="Galleria"))
    if rng.random() < _OTHER_LANGUAGE_SHARE:
        lang = pick(rng, [code for code in foreign.FOREIGN if code != native])
        text = foreign.other_language(scene, lang, rng)
        rows.insert(0, _row(sample, lang, url, size, rng, reference=text))
    return rows


def _caption_with_fault(
    sample: Sample, native: str, good: str, url: str, images: ImageFolder, rng: Random
) -> tuple[str, str]:
    """The reference and the attribution caption of an image's own page, as its fault leaves them."""
    facts: Row = {}
    text = good
    match sample.fault:
        case "wrong_language":
            text, facts["lang"] = foreign.wrong_language(sample.scene(), native, rng)
        case "mojibake":
            text, facts["repaired"] = foreign.mojibake(sample.scene(), native, rng)
        case "bare_name":
            text = foreign.proper_name(rng)
        case "short_caption":
            text = foreign.short_caption(native, rng)
        case "file_name_caption":
            text = foreign.file_name(rng)
        case "attribution_only":
            images.ledger.record("attribution_only", WIT, url=url, caption=good)
            return "", good
        case "unterminated_quote":
            images.ledger.record("unterminated_quote", WIT, url=url, caption=good)
            return good, ""
        case _:
            return good, "English: Coloured shapes" if rng.random() < 0.5 else ""
    images.ledger.record(sample.fault, WIT, url=url, caption=text, **facts)
    return text, ""


def _row(
    sample: Sample,
    lang: str,
    url: str,
    size: tuple[int, int],
    rng: Random,
    *,
    reference: str,
    attribution: str = "",
    page: str = "Figura",
) -> Row:
    title = f"{page} {sample.index}"
    values = (
        lang,
        f"https://{lang}.wikipedia.org/wiki/{page}_{sample.index}",
        url,
        title,
        "Esempi" if rng.random() < 0.5 else "",
        f"{title} / Esempi",
        reference,
        attribution,
        "",
        "image/png" if sample.file_format == "PNG" else "image/jpeg",
        size[1],
        size[0],
        "true" if rng.random() < 0.5 else "false",
        "true",
        "false" if rng.random() < 0.5 else "true",
        pick(rng, _CONTEXTS),
        pick(rng, ("", "Esempi di figure colorate.")),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _line(row: Row, *, broken: bool) -> str:
    """One record of the TSV; a broken one opens a quote in its 16th field and ends there, as some of WIT's do."""
    values = [str(row[column]) for column in COLUMNS]
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    if not broken:
        writer.writerow(values)
        return buffer.getvalue()
    writer.writerow(values[:15])
    return buffer.getvalue().rstrip("\n") + '\t"La figura, nata come esempio, ha dato il nome a una raccolta.\n'
