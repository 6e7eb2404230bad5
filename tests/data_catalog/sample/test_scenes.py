"""The sample: pictures show what captions say, files are byte-stable with the faults of a ledger; its server."""

import collections
import contextlib
import hashlib
import http.client
import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.sample.config import FAULTS, ScenesConfig
from data_catalog.sample.datasets import GENERATOR_VERSION, draw_upstream
from data_catalog.sample.grammar import Wording, caption, captions, parallel_pairs
from data_catalog.sample.samples import plan
from data_catalog.sample.scene import FIGURES, RGB, Group, Scene
from data_catalog.sample.server import serve
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.sources.rows import UpstreamRow
from data_catalog.sources.wit import WitConfig


def test_captions_of_figures_in_ink_are_true_and_name_either_one_first_and_no_colour() -> None:
    star, square = (Group(count=1, colour="", shape=shape) for shape in ("star", "square"))
    scene = Scene(groups=(star, square), relation="left", background="white")
    wording = Wording(template="plain", style="sentence")
    assert [caption(scene, lang, wording) for lang in ("en", "it")] == [
        "A star to the left of a square.",
        "Una stella a sinistra di un quadrato.",
    ]
    assert caption(scene, "it", Wording(template="definite")) == "la stella è a sinistra del quadrato"
    with_figures, without = (plan(1, 1000, figures=share) for share in (0.2, 0.0))
    drawn = [sample for sample in with_figures if not sample.scene().groups[0].colour]
    assert 75 < len(drawn) < 125
    for sample in drawn:
        left, right = sorted(sample.layout().shapes, key=lambda shape: shape.x)
        assert left.x + left.diameter / 2 < right.x - right.diameter / 2
        texts = captions(sample.scene(), "en", num=7, rng=Random(0), styles=["lower"])
        assert not any(colour in text for text in texts for colour in RGB)
        named = [re.findall("|".join(FIGURES), text) for text in texts]
        assert {tuple(names) for names in named} == {(left.shape, right.shape), (right.shape, left.shape)}
        for text, (first, second) in zip(texts, named, strict=True):
            # "To the left of a star there is a square", "a star and, further left, a square": the second one is left.
            subject = second if re.search("^(to the )?(left|right)|further", text) else first
            assert ("left" in text) == (subject == left.shape), text
    pairs = zip(with_figures, without, strict=True)
    assert 750 < sum(mixed.scene() == plain.scene() for mixed, plain in pairs) < 850


BASE_URL = "http://127.0.0.1:8765"


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
    own, more = (collections.Counter(sample.fault for sample in plan(1, 400, given)) for given in (None, rates))
    assert (own["wrong_language"], own["dead_link"]) == (2 + 2 + 1 + 1, 2 + 3 + 2)
    assert (more["wrong_language"], more["dead_link"]) == (0.3 * 400, 0)
    assert draw_upstream(small(tmp_path / "own", fault_rates=rates))
    assert "dead_link" not in faults_of(tmp_path / "own")
    assert draw_upstream(small(tmp_path / "own", fault_rates=rates, figures=0.2))


def test_golden_output_of_this_generator_version() -> None:
    """If this fails because the sample is meant to change, raise GENERATOR_VERSION and write the new digest here."""
    samples = plan(1, 500)
    layouts = [sample.layout() for sample in samples]
    figures = [
        (sample.layout(), captions(sample.scene(), "it", num=5, rng=sample.rng("captions")))
        for sample in plan(1, 100, figures=0.4)
    ]
    pairs = list(parallel_pairs(seed=1, num_pairs=5000))
    digests = [
        hashlib.sha256("\n".join(map(repr, facts)).encode()).hexdigest()[:16]
        for facts in ((pairs, samples, layouts), figures)
    ]
    assert (GENERATOR_VERSION, digests) == (1, ["762664bbd5190840", "4afab732ed9b101f"])


def test_more_faults_than_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"would give 55\.6% of the images of wit a fault"):
        small(tmp_path, fault_rates={"wrong_language": 0.4})


@pytest.mark.parametrize(("lang", "word"), [("it", "sfondo"), ("en", "background")])
def test_native_captions_are_in_the_target_language(tmp_path: Path, lang: str, word: str) -> None:
    draw_upstream(small(tmp_path / "sample", target_language=lang))
    wit = SOURCE_KINDS["wit"].read(WitConfig(files=(f"{tmp_path}/sample/wit/wit.tsv.gz",), languages=(lang,)))
    native = [row.caption for row in wit if isinstance(row, UpstreamRow)]
    assert sum(word in caption for caption in native) > len(native) / 4
    faults = faults_of(tmp_path / "sample")["wrong_language"]
    assert lang not in {entry["lang"] for entry in faults if entry["source"] == "wit"}


def test_every_kind_of_fault_occurs_at_most_once_an_image(tmp_path: Path) -> None:
    draw_upstream(small(tmp_path / "sample", num_images=160))
    faults = faults_of(tmp_path / "sample")
    sources = {kind: {entry["source"] for entry in entries} for kind, entries in faults.items()}
    assert sources == {kind: set(fault.sources) for kind, fault in FAULTS.items()}
    named = [entry.get("url", entry.get("path")) for entries in faults.values() for entry in entries]
    assert len(set(named) - {None}) == len(named) - named.count(None) < 80


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    web = tmp_path / "www"
    (web / "a").mkdir(parents=True)
    (web / "a" / "one.jpg").write_bytes(b"\xff\xd8one")
    (web / "a" / "città.png").write_bytes(b"png")
    (web / ".hidden.jpg").write_bytes(b"hidden")
    (tmp_path / "secret.txt").write_text("secret")
    (web / "link.txt").symlink_to(tmp_path / "secret.txt")
    rules = {
        "/a/flaky.jpg": {"status": 503, "times": 2, "retry_after_s": 1},
        "/a/old.jpg": {"location": "/a/one.jpg"},
        "/a/page.jpg": {"content_type": "text/html"},
        "/a/gone.jpg": {"status": 410},
    }
    (web / ".rules.json").write_text(json.dumps(rules))
    (web / "a" / "flaky.jpg").write_bytes(b"at last")
    (web / "a" / "page.jpg").write_bytes(b"<html>")
    return web


def ask(url: str, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()


def test_nothing_else_is_served(folder: Path) -> None:
    paths = ["/absent.jpg", "/", "/a", "/a/", "/../secret.txt", "/a/../../secret.txt", "/%2e%2e/secret.txt"]
    paths += ["/a/..%2f..%2fsecret.txt", "/..%5csecret.txt", "/link.txt", "/.rules.json", "/.hidden.jpg"]
    paths += ["/a/one.jpg%00.png", "/" + "x" * 300, "/%ff", "/a/one.jpg/more"]
    with serve(folder, 0) as url:
        for path in paths:
            status, _, body = ask(url, path)
            assert status == 404, path
            assert b"secret" not in body, path


def test_files_come_with_type_and_length_and_rules_say_which_fail_move_or_have_another(folder: Path) -> None:
    with serve(folder, 0) as url:
        for method, content in (("GET", b"\xff\xd8one"), ("HEAD", b"")):
            status, headers, body = ask(url, "/a/one.jpg?size=large", method)
            assert (status, headers["Content-Type"], headers["Content-Length"]) == (200, "image/jpeg", "5")
            assert body == content
        assert ask(url, "/a/citt%C3%A0.png")[2] == b"png"
        status, headers, _ = ask(url, "/a/flaky.jpg")
        assert (status, headers["Retry-After"]) == (503, "1")
        assert [ask(url, "/a/flaky.jpg")[0] for _ in range(3)] == [503, 200, 200]
        status, headers, _ = ask(url, "/a/old.jpg")
        assert (status, headers["Location"]) == (302, "/a/one.jpg")
        assert ask(url, "/a/page.jpg")[1]["Content-Type"] == "text/html"
        assert [ask(url, "/a/gone.jpg")[0] for _ in range(2)] == [410, 410]
    with serve(folder, 0) as url:
        assert ask(url, "/a/flaky.jpg")[0] == 503  # counted anew each time


def test_a_bad_folder_is_refused_and_only_this_machine_is_served(folder: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"), serve(folder / "absent", 0):
        raise AssertionError("never reached")
    with serve(folder, 0) as url:
        assert url.startswith("http://127.0.0.1:")
