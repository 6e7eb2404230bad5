"""WIT: selection, traps of its TSV, identity of images."""

import csv
import gzip
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_catalog.errors import InputError, SettingsError
from data_catalog.sources.rows import MalformedRow, SourceRow, UnselectedRow, UpstreamRow
from data_catalog.sources.wit import WitConfig, check_wit, read_wit

COLUMNS = [
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
]
IMAGE = "https://upload.wikimedia.org/wikipedia/commons/1/15/M94.gif"


def row(**values: str) -> dict[str, str]:
    filled = {"language": "it", "page_url": "https://it.wikipedia.org/wiki/M94", "image_url": IMAGE}
    filled |= {"page_title": "M94", "caption_reference_description": "Mappa della nube", "is_main_image": "false"}
    return dict.fromkeys(COLUMNS, "") | filled | values


def tsv(*rows: dict[str, str], columns: list[str] = COLUMNS) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, dialect="excel-tab", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def read(folder: Path, content: str | bytes, **options: tuple[str, ...]) -> list[SourceRow]:
    path = folder / "wit.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    config = WitConfig(files=(str(path),), **({"languages": ("it",)} | options))
    check_wit(config)
    return list(read_wit(config))


def kinds(rows: list[SourceRow]) -> list[str]:
    return [getattr(row, "reason", "row") for row in rows]


def test_a_row(tmp_path: Path) -> None:
    (found,) = read(tmp_path, tsv(row()))
    assert isinstance(found, UpstreamRow)
    assert (found.url, found.caption, found.lang) == (IMAGE, "Mappa della nube", "it")
    assert (found.page_url, found.upstream_line, found.path) == ("https://it.wikipedia.org/wiki/M94", 2, None)
    assert found.caption_key is not None
    assert found.caption_key.startswith("reference-")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"language": "de"}, "language"),
        ({"caption_reference_description": " \u00a0"}, "caption_kind"),
        ({"image_url": "File:M94.gif"}, "image_missing"),
        ({"page_title": "a\0b"}, "bad_encoding"),
        ({"language": "de", "page_title": "a\0b"}, "language"),
        ({"language": "it\0"}, "bad_encoding"),
        ({"caption_reference_description": "separatori\u2028di\x85riga"}, "row"),
        ({"caption_reference_description": 'tra "virgolette"\te\na capo\r\n'}, "row"),
    ],
)
def test_one_strange_row_and_its_neighbours(tmp_path: Path, values: dict[str, str], expected: str) -> None:
    found = read(tmp_path, tsv(row(), row(**values), row()))
    assert kinds(found) == ["row", expected, "row"]
    if expected == "row" and isinstance(found[1], UpstreamRow):
        assert found[1].caption == values["caption_reference_description"]
    if isinstance(found[1], MalformedRow):
        assert found[1].upstream_line == 3
        assert found[1].raw is not None
        found[1].raw.encode()
        assert "\0" not in found[1].raw


def test_bytes_that_are_not_utf8_affect_their_row_only(tmp_path: Path) -> None:
    content = tsv(row(), row(), row(page_title="città"), row()).encode()
    found = read(tmp_path, content.replace("città".encode(), "città".encode("latin-1")))
    assert kinds(found) == ["row", "row", "bad_encoding", "row"]


def test_unterminated_quotes_lose_no_other_row(tmp_path: Path) -> None:
    plain = "\t".join(row().values())
    cut = plain.removesuffix("\t") + '"La nube, cut in the last but one field'
    header = "\t".join(COLUMNS)
    quoted = tsv(row(context_section_description='a "quoted"\nsection')).partition("\n")[2]
    found = read(tmp_path, "\n".join([header, cut, plain, cut, cut, quoted + cut]))
    assert kinds(found) == ["malformed_row", "row", "malformed_row", "malformed_row", "row", "malformed_row"]
    assert [row.upstream_line for row in found if isinstance(row, MalformedRow)] == [2, 4, 5, 8]


def test_columns_in_any_order_and_other_columns(tmp_path: Path) -> None:
    columns = ["context_page_description", *reversed(COLUMNS[:-2]), "extra"]
    filled = row(context_page_description="first column\nwith lines\thttps://x") | {"extra": "https://a.b"}
    written = [{name: filled[name] for name in columns}] * 3
    found = read(tmp_path, "\ufeff" + tsv(*written, columns=columns).replace("\n", "\r\n"))
    assert kinds(found) == ["row"] * 3


def test_several_kinds_of_one_row(tmp_path: Path) -> None:
    written = [
        row(caption_attribution_description="Italiano: nube", caption_alt_text_description="una nube"),
        row(caption_reference_description="", caption_attribution_description="Italiano: nube"),
        row(caption_reference_description="", caption_alt_text_description="una nube"),
    ]
    found = read(tmp_path, tsv(*written), caption_kinds=("reference", "attribution"))
    assert kinds(found) == ["row", "row", "row", "caption_kind"]
    assert [r.caption_key.split("-")[0] for r in found if isinstance(r, UpstreamRow) and r.caption_key] == [
        "reference",
        "attribution",
        "attribution",
    ]
    assert [r.caption for r in found if isinstance(r, UpstreamRow)] == [
        "Mappa della nube",
        "Italiano: nube",
        "Italiano: nube",
    ]


def test_pages_with_one_image_make_one_sample(tmp_path: Path) -> None:
    other = row(page_url="https://it.wikipedia.org/wiki/Nubi", image_url=IMAGE.replace("https", "http") + "#top")
    found = [r for r in read(tmp_path, tsv(row(), other)) if isinstance(r, UpstreamRow)]
    assert len({r.sample_key for r in found}) == 1
    assert len({r.caption_key for r in found}) == 2
    assert found[1].url == other["image_url"]


def test_old_language_codes(tmp_path: Path) -> None:
    found = read(tmp_path, tsv(row(language="iw"), row(language="zh-TW"), row()), languages=("he", "zh-TW"))
    assert [r.lang if isinstance(r, UpstreamRow) else r.reason for r in found] == ["he", "zh-tw", "language"]


def test_many_files_plain_and_gzipped_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "b.tsv").write_text(tsv(row(page_title="b")))
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(tsv(row(), row(language="es")).encode()))
    config = WitConfig(files=(str(tmp_path / "*.tsv*"),), languages=("it",))
    check_wit(config)
    found = list(read_wit(config))
    assert kinds(found) == ["row", "language", "row"]
    assert [Path(r.upstream_file).name for r in found if isinstance(r, UpstreamRow)] == ["a.tsv.gz", "b.tsv"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("a caption\thttps://a.b/c.jpg\n", "column language, image_url, caption_reference_description.*a caption"),
        (tsv(row()).replace("image_url", "image"), "column image_url"),
        (tsv(row()).replace("page_title", "image_url"), "column image_url"),
        (tsv(), "no rows"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, content: str, found: str) -> None:
    with pytest.raises(InputError, match=found):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"caption_kinds": ("alt",)}, "caption_kinds must be some of reference"),
        ({"caption_kinds": ()}, "caption_kinds"),
        ({"languages": ()}, "languages must name"),
    ],
)
def test_settings_that_select_nothing_are_refused(
    tmp_path: Path, options: dict[str, tuple[str, ...]], found: str
) -> None:
    with pytest.raises(SettingsError, match=found):
        read(tmp_path, tsv(row()), **options)


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
NASTY = st.text(st.sampled_from('"\t\n\r \u2028\x85à'), max_size=20)
CELL = TEXT | NASTY
ROW = st.fixed_dictionaries(
    {"page_title": CELL, "caption_reference_description": CELL.map("c".__add__), "context_section_description": CELL}
).map(lambda values: row(**values))


@given(
    rows=st.lists(ROW, min_size=1, max_size=5), garbage=NASTY.map(lambda t: t.replace("\n", "")), place=st.integers(0)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip_with_a_garbage_line(tmp_path: Path, rows: list[dict[str, str]], garbage: str, place: int) -> None:
    wanted = [entry["caption_reference_description"] for entry in rows]
    written = [tsv(entry).partition("\n")[2] for entry in rows]
    header = "\t".join(COLUMNS) + "\n"
    clean = read(tmp_path, header + "".join(written))
    assert [r.caption for r in clean if isinstance(r, UpstreamRow)] == wanted
    written.insert(place % (len(rows) + 1), garbage + "\n")
    dirty = read(tmp_path, header + "".join(written))
    assert [r.caption for r in dirty if isinstance(r, UpstreamRow)] == wanted
    assert all(isinstance(r, MalformedRow | UpstreamRow | UnselectedRow) for r in dirty)


@pytest.mark.real_data
def test_real_files(shared_data: Path) -> None:
    config = WitConfig(
        files=(str(shared_data / "wit" / "*.tsv"),),
        languages=("it", "es", "de"),
        caption_kinds=("reference", "attribution"),
    )
    check_wit(config)
    found = list(read_wit(config))
    assert kinds(found) == ["malformed_row", "row", "row"]
    assert [r.upstream_line for r in found if isinstance(r, MalformedRow | UpstreamRow)] == [2, 2, 4]
    assert [r.lang for r in found if isinstance(r, UpstreamRow)] == ["es", "de"]
