"""Real test sets and training data: overlaps by identity and by caption."""

from pathlib import Path
from typing import Any

import pytest

from data_catalog.identities import canonical_identities
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.sources.rows import UpstreamRow
from data_catalog.test_sets import TEST_SET_KINDS

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


def identities(kind: str, *files: Path) -> tuple[set[str], list[str], int]:
    """All identities and captions of a test set, and how many images it has."""
    gathered = TEST_SET_KINDS[kind].load(TEST_SET_KINDS[kind].config_type(files=tuple(map(str, files))))
    assert not gathered.malformed
    known = {identity for image in gathered.images for identity in image.identities}
    return known, [caption for image in gathered.images for caption in image.captions], len(gathered.images)


def rows(kind: str, *files: Path) -> dict[str, set[str]]:
    """Return the identities of the images of a source, by sample."""
    source = SOURCE_KINDS[kind]
    found: dict[str, set[str]] = {}
    for row in source.read(source.config_type(files=tuple(map(str, files)))):
        if isinstance(row, UpstreamRow):
            places: dict[str, Any] = {"url": row.url, "path": row.path, "page_url": row.page_url}
            known = canonical_identities(source_kind=kind, sample_id=f"train:{row.sample_key}", **places)
            found.setdefault(row.sample_key, set()).update(known)
    return found


@pytest.fixture(scope="module")
def devset(shared_data: Path) -> list[Path]:
    return sorted((shared_data / "mscoco_it").glob("*devset*.json.gz"))


def test_mscoco_its_development_set_is_found_in_itself_and_by_its_urls_on_flickr(
    devset: list[Path], tmp_path: Path
) -> None:
    """Once as MSCOCO-IT, by number, and once as SBU would have the photographs: other server, other size, no number."""
    known, _, num_images = identities("mscoco_it", *devset)
    assert num_images == 2004
    for scheme in ("coco:", "flickr:"):
        assert sum(identity.startswith(scheme) for identity in known) == 2004
    assert all(own & known for own in rows("mscoco_it", *devset).values())
    urls = [
        f"https://live.staticflickr.com/{one.split('/', 2)[1]}/{one.rpartition('/')[2].replace('_z.', '_b.')}"
        for one in sorted(known)
        if one.startswith("url:") and "flickr" in one
    ]
    (tmp_path / "urls.txt").write_text("\n".join(urls), encoding="utf-8")
    (tmp_path / "captions.txt").write_text("\n".join("a photo" for _ in urls), encoding="utf-8")
    train = rows("sbu", tmp_path / "urls.txt", tmp_path / "captions.txt")
    assert len(train) == len(urls) > 1990
    assert all({identity for identity in own if identity.startswith("flickr:")} & known for own in train.values())
