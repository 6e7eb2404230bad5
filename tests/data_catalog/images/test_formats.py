"""The table of image formats beside Pillow's own."""

import io
from pathlib import Path

import pytest
from PIL import Image

from data_catalog.images.formats import IMAGE_FORMATS, IMAGE_SUFFIXES, READ_FORMATS, format_of, is_image_name
from data_catalog.sources.pairs import PairsConfig, read_pairs
from data_catalog.sources.rows import UpstreamRow


def test_what_is_read_has_pillows_names_and_suffixes() -> None:
    known = Image.registered_extensions()
    read = [each for each in IMAGE_FORMATS if each.is_read]
    assert {each.name for each in read} <= Image.OPEN.keys()
    assert all(each.suffixes for each in read)
    assert {known[suffix] for each in read for suffix in each.suffixes} == set(READ_FORMATS)
    assert len(set(IMAGE_SUFFIXES)) == len(IMAGE_SUFFIXES)


@pytest.mark.parametrize("kind", READ_FORMATS)
def test_a_file_that_is_read_begins_as_the_table_says(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(buffer, kind)
    assert format_of(buffer.getvalue()) == kind


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"RIFF\n\n\n\nWEBP", "WEBP"),
        (b"RIFF\0\0\0\0WAVE", "RIFF"),
        (b"\0\0\0\x18ftypmsf1", "HEIF"),
        (b"\0\0\0\x18ftypmp42", "ISO media"),
        (b"\0\0\0\x18ftyp", "ISO media"),
        (b"II+\0", "TIFF"),
        (b"IIx\0", None),
        (b"<html><svg>", None),
        (b"<svg>", "SVG"),
        (b"", None),
    ],
)
def test_how_files_begin(raw: bytes, name: str | None) -> None:
    assert format_of(raw) == name


def test_names_of_images() -> None:
    assert all(is_image_name(f"a/B{suffix.upper()}") for suffix in IMAGE_SUFFIXES)
    assert not any(map(is_image_name, ("a.txt", "jpg", "a.jpg.txt", "")))


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_a_quote_left_open_swallows_no_row_of_any_kind_of_image(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text(f'image,text\na{suffix},"un gatto\nb{suffix},un cane\nc{suffix},una casa"\n')
    rows = read_pairs(PairsConfig(files=(str(file),), path_column="image", caption_column="text", lang="it"))
    assert [row.path for row in rows if isinstance(row, UpstreamRow)] == [f"b{suffix}", f"c{suffix}"]
