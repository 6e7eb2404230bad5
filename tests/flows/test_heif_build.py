"""Photographs of iPhones in a build: without the extra they are dropped, and they come once it is installed."""

import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_catalog.fetch import workers
from data_catalog.images.decoders import Decoders

HEIC = Path(__file__).parents[1] / "data_catalog" / "images" / "heic.zip"
SETTINGS = """
fetch = {allow_loopback = true, retries = 0, host_requests_per_s = 0}
duplicates = {images = false, near_images = false, split_guard = false}
"""


def test_what_was_dropped_for_want_of_the_extra_comes_once_it_is_installed(
    own: Any, picture_host: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("pi_heif", reason="the extra heif is not installed")
    with zipfile.ZipFile(HEIC) as packed:
        (own.photos / "phone.heic").write_bytes(packed.read("turned-6.heic"))
        from_the_web = packed.read("swapped.heic")
    own.save("plain.jpg", 1)
    monkeypatch.setattr(picture_host, "picture", lambda number, lighter: from_the_web)
    toml = SETTINGS + own.source(
        "mine", "path caption", [("phone.heic", own.caption(1)), ("plain.jpg", own.caption(2))]
    )
    toml += own.source("web", "url caption", [(picture_host.url("/3.jpg"), own.caption(3))])
    with monkeypatch.context() as patch:
        # In this process and in its children, which do not stay for other builds.
        patch.setitem(sys.modules, "pi_heif", None)
        (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pi_heif'] = None\n")
        patch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
        patch.setattr(workers, "Decoders", Decoders)
        own.build(toml)
        assert own.build(toml).up_to_date
    found = own.rows("SELECT coalesce(path, url) AS image, drop_reason, detail FROM images ORDER BY path, url")
    assert [row["drop_reason"] for row in found] == ["format_not_allowed", None, "format_not_allowed"]
    assert {row["detail"] for row in found if row["detail"]} == {found[0]["detail"]}
    assert found[0]["detail"].startswith("HEIF: run `pip install")
    assert not own.build(toml).up_to_date
    assert {outcome in ("train", "val", "test") for outcome in own.outcomes().values()} == {True}
    assert Counter(picture_host.hits) == {"/3.jpg": 2}, "its bytes were not kept, and it is asked for once more"
    assert own.build(toml).up_to_date
