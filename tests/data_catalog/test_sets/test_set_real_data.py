"""Real test sets and training data: overlaps by identity and by caption."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from cleaning.leaks import caption_digests, leaking_captions
from data_catalog.identities import canonical_identities
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.sources.rows import UpstreamRow
from data_catalog.test_sets import TEST_SET_KINDS

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


def identities(kind: str, *files: Path) -> tuple[set[str], list[str], int]:
    """All identities and captions of a test set, and how many images it has."""
    test_set = TEST_SET_KINDS[kind]
    config = test_set.config_type(files=tuple(map(str, files)))
    gathered = test_set.load(config)
    assert not gathered.malformed
    known = {identity for image in gathered.images for identity in image.identities}
    return known, [caption for image in gathered.images for caption in image.captions], len(gathered.images)


def rows(kind: str, **settings: Any) -> dict[str, set[str]]:
    """Return the identities of the images of a source, by sample."""
    source = SOURCE_KINDS[kind]
    found: dict[str, set[str]] = {}
    for row in source.read(source.config_type(**settings)):
        if isinstance(row, UpstreamRow):
            sample_id = f"train:{row.sample_key}"
            known = canonical_identities(
                source_kind=kind, sample_id=sample_id, url=row.url, path=row.path, page_url=row.page_url
            )
            found.setdefault(sample_id, set()).update(known)
    return found


def test_mscoco_it_development_set(shared_data: Path) -> None:
    folder = shared_data / "mscoco_it"
    validated, captions, num_images = identities("mscoco_it", folder / "captions_ita_devset_validated.json.gz")
    assert (num_images, len(captions)) == (308, 1541)
    unvalidated, _, num_images = identities("mscoco_it", folder / "captions_ita_devset_unvalidated.json.gz")
    assert num_images == 1696
    assert {identity for identity in validated if identity.startswith("coco:")}.isdisjoint(unvalidated)
    for scheme in ("coco:", "flickr:"):
        assert sum(identity.startswith(scheme) for identity in validated | unvalidated) == 2004


def test_photographs_of_train2017_are_known_by_the_names_of_their_files(shared_data: Path) -> None:
    known, _, num_images = identities("coco", shared_data / "coco" / "captions_train2017.json")
    assert num_images == 80
    photos = list((shared_data / "coco" / "train2017").glob("*.jpg"))
    assert len(photos) == 80
    for photo in photos:
        for kind, name in (("pairs", f"train2017/{photo.name}"), ("mscoco", photo.name)):
            own = canonical_identities(
                source_kind=kind, sample_id=f"{kind}:{photo.name}", url=None, path=name, page_url=None
            )
            assert own <= known
            assert own


def test_none_of_80_images_of_train2017_is_of_mscoco_its_development_set(shared_data: Path) -> None:
    known, _, _ = identities("mscoco_it", *(shared_data / "mscoco_it").glob("*devset*.json.gz"))
    train = rows("mscoco", files=(str(shared_data / "coco" / "captions_train2017.json"),))
    assert len(train) == 80
    assert not [sample for sample, own in train.items() if own & known]


def test_mscoco_it_is_all_found_in_itself_and_by_its_urls_on_flickr(shared_data: Path, tmp_path: Path) -> None:
    """Once as MSCOCO-IT, by number, and once as SBU would have the photographs: other server, other size, no number."""
    files = sorted((shared_data / "mscoco_it").glob("*devset*.json.gz"))
    known, _, _ = identities("mscoco_it", *files)
    assert all(own & known for own in rows("mscoco_it", files=tuple(map(str, files))).values())
    urls = [
        f"https://live.staticflickr.com/{one.split('/', 2)[1]}/{one.rpartition('/')[2].replace('_z.', '_b.')}"
        for one in sorted(known)
        if one.startswith("url:") and "flickr" in one
    ]
    (tmp_path / "urls.txt").write_text("\n".join(urls), encoding="utf-8")
    (tmp_path / "captions.txt").write_text("\n".join("a photo" for _ in urls), encoding="utf-8")
    train = rows("sbu", files=(str(tmp_path / "urls.txt"), str(tmp_path / "captions.txt")))
    assert len(train) == len(urls) > 1990
    assert all({identity for identity in own if identity.startswith("flickr:")} & known for own in train.values())


def test_flickr8k_is_within_multi30k(shared_data: Path) -> None:
    """Multi30k's images are Flickr30k's, which has Flickr8k's: the captions tell, though few are alike to the byte."""
    tokens = shared_data / "flickr8k" / "Flickr8k.token.first5000.txt"
    flickr8k = [line.partition("\t")[2] for line in tokens.read_text(encoding="utf-8").splitlines()]
    with gzip.open(shared_data / "multi30k" / "train.en.gz", "rt", encoding="utf-8") as file:
        multi30k = file.read().splitlines()
    leaks = leaking_captions(multi30k, caption_digests(flickr8k, min_words=5))
    assert (len(flickr8k), len(multi30k), sum(leaks)) == (5000, 29000, 865)
    to_the_byte = set(flickr8k)
    assert sum(leak and caption in to_the_byte for leak, caption in zip(leaks, multi30k, strict=True)) == 52


def test_captions_of_other_sources_are_not_of_mscoco_it(shared_data: Path) -> None:
    _, captions, _ = identities("mscoco_it", *(shared_data / "mscoco_it").glob("*devset*.json.gz"))
    table = shared_data / "cc3m" / "Validation_GCC-1.1.0-Validation.first8000.tsv"
    conceptual = [line.partition("\t")[0] for line in table.read_text(encoding="utf-8").splitlines()]
    digests = caption_digests(captions, min_words=5)
    assert not any(leaking_captions(conceptual, digests))
    assert sum(leaking_captions(captions, digests)) > 0.99 * len(captions)
