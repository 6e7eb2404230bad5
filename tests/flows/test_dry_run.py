"""`vernaclip build --dry-run` says what the rules would drop, and neither builds nor asks anybody for anything."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main

Dry = Callable[..., str]
PACKAGE = Path(__file__).resolve().parents[2] / "flows" / "packages" / "scenes-en_it.argosmodel"
CAPTIONS = [*(f"Un cane corre sulla spiaggia numero {n}" for n in range(40)), "IMG_2041.jpg", "gatto"]
CAPTIONS += ["<b>Ein kleiner Hund spielt im Garten</b>", "Anna Maria Mozzoni", "🙂🙂", "كلب صغير يلعب في الحديقة"]


@pytest.fixture
def dry_run(own: Any, told: Any) -> Dry:
    """Runs it over two sources, one native, one to be translated; returns what is told."""
    rows = [(f"http://example.org/{n}.jpg", caption) for n, caption in enumerate(CAPTIONS)]
    sources = own.source("it", "url caption", rows, lang="it")
    sources += own.source("en", "url caption", [("http://example.org/e.jpg", "A dog runs on the beach")])
    path = own.folder / "mixed.toml"
    path.write_text(f'target_language = "it"\n{sources}', "utf-8")
    return lambda *words, code=0: told(["build", "--dry-run", str(path), "--root", str(own.root), *words], code=code)


def test_rules_are_counted_with_examples(tmp_path: Path, dry_run: Any) -> None:
    out = dry_run("--rows", "0")
    shares = {tuple(line.split()[:3]): line.split()[3:] for line in out.splitlines() if re.search(r"%$", line)}
    assert shares["it", "clean", "wrong_language"] == ["2", "4.35%"]
    assert shares["it", "check", "mostly_proper_nouns"] == ["1", "2.17%"]
    assert "    Anna Maria Mozzoni  [3 of 3 words]" in out
    assert "<b>Ein kleiner Hund spielt im Garten</b>" in out  # as upstream has it
    assert "en: 1 row checked; 1 need translation and passed all checks before it" in out
    out = dry_run("--rows", "0", "--set", 'clean.order=["length"]', "--set", "check.proper_noun_check=false")
    assert "mostly_proper_nouns" not in out
    assert "caption_too_short (clean; clean.min_words = 2, clean.min_chars = 3)\n" in out
    assert not (tmp_path / "catalog").exists()


def test_a_sample_is_drawn_by_its_seed(dry_run: Any) -> None:
    one, again, other = (dry_run("--rows", "10", "--seed", seed) for seed in ("1", "1", "2"))
    assert "it: 10 rows checked" in one
    assert one == again != other


def test_what_is_missing_or_does_not_go_together_is_refused_and_nothing_is_built(
    tmp_path: Path, dry_run: Any, told: Any
) -> None:
    assert "no Argos package translates en to it" in dry_run("--translate", code=1)
    (tmp_path / "it.jsonl").unlink()
    assert "it.jsonl" in dry_run(code=1)
    early = dry_run("--retry-failed", code=1)
    assert "--retry-failed cannot be used with --dry-run" in early, "before any file is read"
    assert "--rows" in told(["build", "scenes", "--rows", "5", "--root", str(tmp_path / "catalog")], code=1)
    assert not (tmp_path / "catalog").exists()


def test_what_would_be_marked_is_told_as_what_would_be_dropped(
    own: Any, tmp_path: Path, dry_run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The test set has one caption of the Italian source, and one image by its address."""
    rows = [
        ("http://example.org/7.jpg", "a.jpg", "Un mercato affollato in una piazza antica"),
        ("http://example.org/held.jpg", "b.jpg", "Un cane corre sulla spiaggia: numero 12!"),
    ]
    own.save("other.jpg", 0)
    with (tmp_path / "mixed.toml").open("a", encoding="utf-8") as recipe:
        recipe.write(own.source("held", "url path caption", rows, kind="test_sets", lang=""))
    every = ("--rows", "0", "--set", "repeats.near_captions=false")
    dropped = dry_run(*every)
    assert "training images are not compared" not in caplog.text  # a build says so of the two that are not there
    decided = "(screen; leaks.by_identity = true, leaks.action = drop)"
    example = "\n    Un cane corre sulla spiaggia numero 7  [held: url:example.org/7.jpg]"
    assert f"  test_image {decided}{example}" in dropped
    assert "marked: test_caption" not in dropped
    marked = dry_run(*every, "--set", "leaks.action=mark")
    assert f"  marked: test_image {decided.replace('drop', 'mark')}{example}" in marked
    decided = "(screen; leaks.by_caption = true, leaks.min_caption_words = 4, leaks.action = mark)"
    assert f"  marked: test_caption {decided}\n    Un cane corre sulla spiaggia numero 12  [held]" in marked
    assert {
        rule["rule"] for rule in json.loads(dry_run(*every, "--set", "leaks.action=mark", "--json"))["dropped"]
    } >= {
        "marked: test_image",
        "marked: test_caption",
    }


def test_what_a_build_would_refuse_is_said(dry_run: Dry, own: Any) -> None:
    refused = "A build would refuse the recipe: "
    assert f"{refused}no Argos package translates en to it" in dry_run()
    out = dry_run("--set", "translate.package=none.argosmodel")
    assert f"{refused}none.argosmodel does not exist" in out
    assert "`vernaclip mt train`" in out
    (own.folder / "some.argosmodel").touch()
    assert refused not in dry_run("--set", f"translate.package={own.folder}/some.argosmodel")
    (own.folder / "sbu.json").write_text('{"captions": ["A dog runs"], "image_urls": ["http://127.0.0.1/2.jpg"]}')
    with (own.folder / "mixed.toml").open("a", encoding="utf-8") as recipe:
        recipe.write('[sources.sbu]\nfiles = ["sbu.json"]\n')
    contact, package = json.loads(dry_run("--json"))["lacking"]
    assert contact.startswith("sources.sbu may fetch images from Flickr")
    assert package.startswith("no Argos package")


def test_what_a_take_down_removed_is_counted_and_not_shown(dry_run: Dry, own: Any) -> None:
    (own.root / "datasets").mkdir(parents=True)
    gone = [number for number, text in enumerate(CAPTIONS) if text in ("gatto", CAPTIONS[0], CAPTIONS[42])]
    words = [word for number in gone for word in ("--url", f"http://example.org/{number}.jpg")]
    assert main(["forget", *words, "--root", str(own.root)]) == 0
    out = dry_run("--rows", "0")
    assert re.search(r"it +forget +forgotten +3 ", out)
    assert re.search(r"\n  forgotten \(forget\)\n  \w", out), "without examples"
    told = out + dry_run("--rows", "0", "--json")
    assert not any(text in told for text in ("gatto", "<b>Ein", "numero 0"))


def test_what_a_limit_leaves_out_is_said(dry_run: Any) -> None:
    limit = ("--set", "sources.it.limit=20")
    assert "it: 20 rows checked; 26 are beyond its limit" in dry_run("--rows", "0", *limit)
    assert json.loads(dry_run("--rows", "5", "--json", *limit))["beyond_limit"] == {"it": 26, "en": 0}


@pytest.mark.parametrize("is_paid", [False, True])
def test_a_translated_dry_run_writes_nothing_into_the_root_but_what_was_paid_for(
    dry_run: Dry, own: Any, is_paid: bool
) -> None:
    asked = own.folder / "asked.txt"
    program = own.folder / "translate.py"
    program.write_text(
        f"import sys\nfor line in sys.stdin:\n    open({str(asked)!r}, 'a').write(line)\n"
        "    print('Un cane corre veloce sulla spiaggia vuota', flush=True)\n"
    )
    command = json.dumps([sys.executable, str(program)])
    settings = ("translate.engine=command", f"translate.command={command}", f"translate.max_chunk_size={int(is_paid)}")
    words = ["--translate", *(word for setting in settings for word in ("--set", setting))]
    first = dry_run(*words)
    assert "need translation" not in first
    once = asked.read_text()
    assert dry_run(*words) == first
    assert asked.read_text() == once * (1 if is_paid else 2)
    names = {path.name for path in own.root.iterdir()} if own.root.exists() else set()
    assert names == ({"memory", ".writer-lock"} if is_paid else set())


def test_a_package_is_unpacked_elsewhere_than_in_the_root(dry_run: Dry, own: Any) -> None:
    assert "need translation" not in dry_run("--translate", "--set", f"translate.package={PACKAGE}")
    assert not own.root.exists()
