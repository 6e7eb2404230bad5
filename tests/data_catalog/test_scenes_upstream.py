"""The sample's files: byte-stable, in upstream's layouts, and every fault in the ledger is where it says."""

import collections
import hashlib
import json
import re
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import SettingsError
from data_catalog.sample.config import FAULTS, ScenesConfig
from data_catalog.sample.datasets import GENERATOR_VERSION, draw_upstream
from data_catalog.sample.grammar import parallel_pairs
from data_catalog.sample.samples import plan
from data_catalog.sources.rows import UpstreamRow
from data_catalog.sources.wit import WitConfig, read_wit

BASE_URL = "http://127.0.0.1:8765"
NUM_IMAGES = 400


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "sample"
    assert draw_upstream(ScenesConfig(folder=folder, base_url=BASE_URL, num_images=NUM_IMAGES, seed=7))
    return folder


def faults_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    by_kind: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for entry in json.loads((folder / "faults.json").read_text("utf-8"))["faults"]:
        by_kind[entry["kind"]].append(entry)
    return by_kind


def tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def small(folder: Path, **changes: Any) -> ScenesConfig:
    return ScenesConfig(**{"folder": folder, "base_url": BASE_URL, "num_images": 40, "seed": 1, **changes})


def test_draws_are_byte_identical_a_second_one_does_nothing_and_other_folders_are_left_alone(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert draw_upstream(small(tmp_path / name, seed=seed))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert tree(tmp_path / "a")["wit/wit.tsv.gz"] != tree(tmp_path / "c")["wit/wit.tsv.gz"]
    folder = tmp_path / "a"
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert not draw_upstream(small(folder))
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert draw_upstream(small(folder, base_url="http://127.0.0.1:9000"))
    assert "127.0.0.1:9000" in (folder / "cc3m/cc3m.tsv").read_text("utf-8")
    assert not list(tmp_path.glob(".tmp-*"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(SettingsError, match="not a sample"):
        draw_upstream(small(tmp_path / "photos"))
    assert (tmp_path / "photos" / "mine.jpg").read_bytes() == b"mine"


def test_faults_come_at_other_rates_where_that_is_asked_for(tmp_path: Path) -> None:
    """And without them the sample, its key included, is what it always was."""
    draw_upstream(small(tmp_path / "own"))
    settings = json.loads((tmp_path / "own" / "commit.json").read_text())["settings"]
    assert settings.keys() == {"generator_version", "num_images", "seed", "base_url", "target_language"}
    rates = {"wrong_language": 0.3, "dead_link": 0}
    draw_upstream(small(tmp_path / "more", fault_rates=rates))
    kinds = json.loads((tmp_path / "more" / "faults.json").read_text())["faults"]
    assert "dead_link" not in {entry["kind"] for entry in kinds}
    own, more = (collections.Counter(sample.fault for sample in plan(1, 400, given)) for given in (None, rates))
    assert own["wrong_language"] == 2 + 2 + 1 + 1
    assert more["wrong_language"] == 0.3 * 400
    assert (own["dead_link"], more["dead_link"]) == (2 + 3 + 2, 0)
    assert draw_upstream(small(tmp_path / "more", fault_rates=rates)) is False
    assert draw_upstream(small(tmp_path / "more")) is True


def test_golden_output_of_this_generator_version() -> None:
    """If this fails because the sample is meant to change, raise GENERATOR_VERSION and write the new digest here."""
    samples = plan(1, 500)
    layouts = [sample.layout() for sample in samples]
    italian, german = (list(parallel_pairs(seed=1, num_pairs=5000, lang=lang)) for lang in ("it", "de"))
    digests = [
        hashlib.sha256("\n".join(map(repr, facts)).encode()).hexdigest()[:16]
        for facts in ((italian, samples, layouts), (german,))
    ]
    assert (GENERATOR_VERSION, digests) == (1, ["cb3fc11f4baeabfb", "dc0f61b5cc0bcd20"])


DRAW = """
import sys
from pathlib import Path
from data_catalog.sample.datasets import ScenesConfig, draw_upstream
draw_upstream(ScenesConfig(folder=Path(sys.argv[1]), base_url=sys.argv[2], num_images=3000))
"""


def test_killed_halfway_it_is_drawn_anew(tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    with subprocess.Popen([sys.executable, "-c", DRAW, str(folder), BASE_URL]) as child:
        while sum(1 for _ in tmp_path.rglob("*.jpg")) < 20:
            assert child.poll() is None
            time.sleep(0.01)
        child.kill()
    assert not folder.exists()
    assert draw_upstream(small(folder))
    draw_upstream(small(tmp_path / "undisturbed"))
    assert tree(folder) == tree(tmp_path / "undisturbed")
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_images": 39}, "num_images must be at least 40, got 39"),
        ({"target_language": "fr"}, "target_language must be one of en, it, de, got fr"),
        ({"base_url": "127.0.0.1:80"}, "base_url must be"),
        ({"fault_rates": {"hail": 0.1}}, "fault_rates has the unknown fault 'hail': known are dead_link, "),
        ({"fault_rates": {"mojibake": -0.1}}, "fault_rates.mojibake must be between 0 and 0.5, got -0.1"),
        ({"fault_rates": {"wrong_language": 0.4}}, "would give 55.6% of the images of wit a fault"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        small(tmp_path, **changes)


def test_the_datasets_have_their_shares_and_captions_of_upstreams_layout(sample: Path) -> None:
    document = json.loads((sample / "coco/captions_scenes.json").read_text("utf-8"))
    assert set(document) == {"info", "licenses", "images", "annotations"}
    lines = (sample / "flickr8k/Flickr8k.token.txt").read_text("utf-8").splitlines()
    assert all(re.match(r"\d{10}_[0-9a-f]{10}\.jpg#[0-4](\t|$)", line) for line in lines)
    rows = (sample / "cc3m/cc3m.tsv").read_text("utf-8").splitlines()
    shares = [len(found) / NUM_IMAGES for found in (document["images"], lines, rows)]
    assert shares == pytest.approx([0.35, 5 * 0.15, 0.20], abs=0.04)
    captions = [annotation.get("caption") for annotation in document["annotations"]]
    assert sum("background" in str(caption) for caption in captions) > len(captions) / 3


@pytest.mark.parametrize(("lang", "word"), [("it", "sfondo"), ("de", "intergrund")])
def test_native_captions_are_in_the_target_language(tmp_path: Path, lang: str, word: str) -> None:
    draw_upstream(small(tmp_path / "sample", target_language=lang))
    wit = read_wit(WitConfig(files=(f"{tmp_path}/sample/wit/wit.tsv.gz",), languages=(lang,)))
    native = [row.caption for row in wit if isinstance(row, UpstreamRow)]
    assert sum(word in caption for caption in native) > len(native) / 4
    faults = faults_of(tmp_path / "sample")["wrong_language"]
    assert lang not in {entry["lang"] for entry in faults if entry["source"] == "wit"}


def test_every_kind_of_fault_occurs_at_most_once_an_image(sample: Path) -> None:
    faults = faults_of(sample)
    assert set(faults) == set(FAULTS)
    for kind, fault in FAULTS.items():
        assert {entry["source"] for entry in faults[kind]} == set(fault.sources), kind
    named = [
        image for entries in faults.values() for entry in entries if (image := entry.get("url", entry.get("path")))
    ]
    assert len(named) == len(set(named)) < NUM_IMAGES / 2


def test_duplicates_are_equal_bytes_and_nothing_else_is(sample: Path) -> None:
    faults = faults_of(sample)
    digests = collections.Counter(
        digest
        for folder in (sample / "www", sample / "flickr8k/images")
        for name, digest in tree(folder).items()
        if name.endswith((".jpg", ".png"))
    )
    pages, tiny = len(faults["html_instead_of_image"]), len(faults["tiny_image"])
    repeated = sum(count - 1 for count in digests.values() if count > 1)
    # Pictures of one pixel may be equal by chance.
    assert 0 <= repeated - len(faults["duplicate_image"]) - (pages - 1) <= tiny
    for entry in faults["duplicate_image"]:
        copy, original = (
            urllib.parse.unquote(entry[key]).replace(BASE_URL, str(sample / "www")) for key in ("url", "same_as")
        )
        assert (sample / "flickr8k/images" / original).read_bytes() == Path(copy).read_bytes()
