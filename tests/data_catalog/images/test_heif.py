"""HEIF, which phones write: upright once, in sRGB, its primary picture; hostile files die in the child.

heic.zip was made once by pillow-heif 1.8.1, whose libheif has an encoder, of the picture of 96 x 64 that `gradient_of`
makes: quality 90, colour at full resolution. `turned-N.heic` are stored as EXIF's orientation N says, by the properties
of HEIF and by EXIF, as iPhones have it.
"""

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from data_catalog.images.decoding import ImageRejectedError
from data_catalog.images.normalise import NormaliseConfig, normalise_image
from training.data.images import read_picture

CONFIG = NormaliseConfig(min_image_size=16, encode_format="png", encode_quality=1)


@pytest.fixture(scope="module")
def heic() -> dict[str, bytes]:
    with zipfile.ZipFile(Path(__file__).parent / "heic.zip") as packed:
        return {name: packed.read(name) for name in packed.namelist()}


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)


def difference(one: Any, other: Any) -> float:
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


def test_without_the_extra_the_reason_names_it(heic: dict[str, bytes], no_decoder: None) -> None:
    with pytest.raises(ImageRejectedError) as rejected:
        normalise_image(heic["turned-1.heic"], CONFIG)
    assert rejected.value.reason == "format_not_allowed"
    assert str(rejected.value.detail).startswith("HEIF: run `pip install ")


class TestWithTheExtra:
    @pytest.fixture(autouse=True)
    def _extra(self) -> None:
        pytest.importorskip("pi_heif", reason="the extra heif is not installed")

    def test_pictures_are_upright_once_in_srgb_and_the_primary_ones(
        self, heic: dict[str, bytes], normalise: Any, gradient_of: Any
    ) -> None:
        upright = gradient_of(96, 64)
        red, green, blue = upright.split()
        fading = Image.composite(
            upright, Image.new("RGB", (96, 64), "white"), Image.linear_gradient("L").resize((96, 64))
        )
        wanted = {f"turned-{orientation}.heic": upright for orientation in range(1, 9)}
        wanted |= {"several.heic": upright, "deep.heif": upright, "grey.heic": upright.convert("L").convert("RGB")}
        wanted |= {"clear.heic": fading, "swapped.heic": Image.merge("RGB", (blue, green, red))}
        assert wanted.keys() == heic.keys()
        for name, row in zip(heic, normalise(heic.values(), CONFIG), strict=True):
            assert (row["original_format"], row["original_width"], row["original_height"]) == ("HEIF", 96, 64), name
            assert difference(Image.open(io.BytesIO(row["bytes"])), wanted[name]) <= (
                2 if name == "swapped.heic" else 1
            ), name

    def test_a_hostile_file_costs_itself_alone(self, heic: dict[str, bytes], normalise: Any) -> None:
        """One changed byte, found by trying them all, crashes pi-heif 1.4.0 while it reads the header."""
        good = heic["turned-6.heic"]
        crashing = good[:176] + bytes([good[176] ^ 0xFF]) + good[177:]
        huge = good.replace(b"ispe\0\0\0\0\0\0\0\x40", b"ispe\0\0\0\0\0\1\0\x40")
        bodies = [crashing, good, good[:-100], good, good[:40], good, huge, good]
        rows = normalise(bodies, CONFIG)
        assert {row["drop_reason"] for row in rows[1::2]} == {None}
        assert rows[0]["drop_reason"] in ("decode_crash", "decode_error"), "a later version may find the fault"
        assert [row["drop_reason"] for row in rows[2::2]] == ["truncated", "decode_error", "aspect"]

    def test_a_query_is_decoded_by_a_child_and_pillow_learns_nothing(
        self, heic: dict[str, bytes], gradient_of: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "phone.HEIC").write_bytes(heic["turned-6.heic"])
        picture = read_picture(tmp_path / "phone.HEIC", 32)
        assert (picture.width, picture.height) == (96, 64)
        assert difference(picture.image, gradient_of(96, 64)) <= 1
        with pytest.raises(UnidentifiedImageError):
            Image.open(tmp_path / "phone.HEIC")
