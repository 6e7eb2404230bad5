"""WIT: selection, traps of its TSV, identity of images."""

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest

from data_catalog.sources.rows import MalformedRow, SourceRow, UpstreamRow

COLUMNS = [
    "language",
    "page_url",
    "image_url",
    "page_title",
    "hierarchical_section_title",
    "caption_reference_description",
    "caption_attribution_description",
    "caption_alt_text_description",
    "context_page_description",
    "context_section_description",
]
IT = ("it",)
IMAGE = "https://upload.wikimedia.org/wikipedia/commons/1/15/M94.gif"


def row(**values: str) -> dict[str, str]:
    filled = {"language": "it", "page_url": "https://it.wikipedia.org/wiki/M94", "image_url": IMAGE}
    filled |= {"page_title": "M94", "caption_reference_description": "Mappa della nube"}
    return dict.fromkeys(COLUMNS, "") | filled | values


def tsv(*rows: dict[str, str], columns: list[str] = COLUMNS) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, dialect="excel-tab", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def kinds(rows: list[SourceRow]) -> list[str]:
    return [getattr(row, "reason", "row") for row in rows]


def test_a_row(read: Any) -> None:
    (found,) = read("wit", tsv(row()), languages=IT)
    assert (found.url, found.caption, found.lang) == (IMAGE, "Mappa della nube", "it")
    assert (found.page_url, found.upstream_line, found.path) == ("https://it.wikipedia.org/wiki/M94", 2, None)
    assert found.caption_key.startswith("reference-")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"language": "de"}, "language"),
        ({"caption_reference_description": " \u00a0"}, "caption_kind"),
        ({"image_url": "File:M94.gif"}, "image_missing"),
        ({"page_title": "a\0b"}, "bad_encoding"),
        ({"caption_reference_description": "separatori\u2028di\x85riga"}, "row"),
        ({"caption_reference_description": 'tra "virgolette"\te\na capo\r\n'}, "row"),
    ],
)
def test_one_strange_row_and_its_neighbours(read: Any, values: dict[str, str], expected: str) -> None:
    found = read("wit", tsv(row(), row(**values), row()), languages=IT)
    assert kinds(found) == ["row", expected, "row"]
    if expected == "row" and isinstance(found[1], UpstreamRow):
        assert found[1].caption == values["caption_reference_description"]
    if isinstance(found[1], MalformedRow):
        assert found[1].upstream_line == 3
        assert found[1].raw is not None
        found[1].raw.encode()
        assert "\0" not in found[1].raw


def test_unterminated_quotes_lose_no_other_row(read: Any) -> None:
    plain = "\t".join(row().values())
    cut = plain.removesuffix("\t") + '"La nube, cut in the last but one field'
    header = "\t".join(COLUMNS)
    quoted = tsv(row(context_section_description='a "quoted"\nsection')).partition("\n")[2]
    found = read("wit", "\n".join([header, cut, plain, cut, cut, quoted + cut]), languages=IT)
    assert kinds(found) == ["malformed_row", "row", "malformed_row", "malformed_row", "row", "malformed_row"]
    assert [row.upstream_line for row in found if isinstance(row, MalformedRow)] == [2, 4, 5, 8]


def test_columns_in_any_order_and_old_language_codes(read: Any) -> None:
    columns = ["context_page_description", *reversed(COLUMNS[:-2]), "extra"]
    filled = row(context_page_description="first column\nwith lines\thttps://x") | {"extra": "https://a.b"}
    written = [{name: filled[name] for name in columns} | {"language": lang} for lang in ("iw", "zh-TW", "it")]
    found = read("wit", "\ufeff" + tsv(*written, columns=columns).replace("\n", "\r\n"), languages=("he", "zh-TW"))
    assert [getattr(each, "lang", kinds([each])[0]) for each in found] == ["he", "zh-tw", "language"]


def test_several_kinds_of_one_row(read: Any) -> None:
    written = [
        row(caption_attribution_description="Italiano: nube", caption_alt_text_description="una nube"),
        row(caption_reference_description="", caption_attribution_description="Italiano: nube"),
        row(caption_reference_description="", caption_alt_text_description="una nube"),
    ]
    *found, last = read("wit", tsv(*written), languages=IT, caption_kinds=("reference", "attribution"))
    assert [(each.caption_key.split("-")[0], each.caption) for each in found] == [
        ("reference", "Mappa della nube"),
        ("attribution", "Italiano: nube"),
        ("attribution", "Italiano: nube"),
    ]
    assert last.reason == "caption_kind"


def test_pages_with_one_image_make_one_sample(read: Any) -> None:
    other = row(page_url="https://it.wikipedia.org/wiki/Nubi", image_url=IMAGE.replace("https", "http") + "#top")
    one, two = read("wit", tsv(row(), other), languages=IT)
    assert one.sample_key == two.sample_key
    assert one.caption_key != two.caption_key
    assert two.url == other["image_url"]


def test_many_files_plain_and_gzipped_are_read_in_sorted_order(read: Any) -> None:
    content = gzip.compress(tsv(row(), row(language="es")).encode())
    found = read("wit", content, tsv(row(page_title="b")), languages=("it",))
    assert kinds(found) == ["row", "language", "row"]
    assert [Path(each.upstream_file).name for each in found[::2]] == ["0-file", "1-file"]
