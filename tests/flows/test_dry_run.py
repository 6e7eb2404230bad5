"""`vernaclip build --dry-run` says what the rules would drop, and neither builds nor asks anybody for anything."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli import main

Dry = Callable[..., tuple[int, str, str]]


@pytest.fixture
def dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Dry:
    """Runs it over two sources, one native, one to be translated; returns status, output and errors."""
    bad = [
        *("IMG_2041.jpg", "gatto", "<b>Ein kleiner Hund spielt im Garten</b>", "Anna Maria Mozzoni", "🙂🙂"),
        "كلب صغير يلعب في الحديقة",
    ]
    captions = [*(f"Un cane corre sulla spiaggia numero {n}" for n in range(40)), *bad]
    lines = {
        "it": [f"http://example.org/{n}.jpg\t{caption}" for n, caption in enumerate(captions)],
        "en": ["http://example.org/e.jpg\tA dog runs on the beach"],
    }
    recipe = 'target_language = "it"\n'
    for lang, rows in lines.items():
        (tmp_path / f"{lang}.tsv").write_text("\n".join(["url\tcaption", *rows, ""]), "utf-8")
        recipe += f"""
            [sources.{lang}]
            kind = "pairs"
            files = ["{tmp_path}/{lang}.tsv"]
            url_column = "url"
            caption_column = "caption"
            lang = "{lang}"
            """
    path = tmp_path / "mixed.toml"
    path.write_text(recipe, "utf-8")

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["build", "--dry-run", str(path), "--root", str(tmp_path / "catalog"), *words])
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


def test_rules_are_counted_with_examples(tmp_path: Path, dry_run: Dry) -> None:
    status, out, _ = dry_run("--rows", "0")
    assert status == 0
    shares = {tuple(line.split()[:3]): line.split()[3:] for line in out.splitlines() if re.search(r"%$", line)}
    assert shares["it", "clean", "wrong_language"] == ["2", "4.35%"]
    assert shares["it", "check", "mostly_proper_nouns"] == ["1", "2.17%"]
    assert "    Anna Maria Mozzoni  [3 of 3 words]" in out
    assert "كلب صغير يلعب في الحديقة" in out
    assert "<b>Ein kleiner Hund spielt im Garten</b>" in out  # as upstream has it
    assert "en: 1 row checked; 1 need translation and passed all checks before it" in out
    assert not (tmp_path / "catalog").exists()


def test_a_sample_is_drawn_by_its_seed(dry_run: Dry) -> None:
    draws = {seed: dry_run("--rows", "10", "--seed", seed)[1] for seed in ("1", "2", "3")}
    assert all("it: 10 rows checked" in out for out in draws.values())
    assert dry_run("--rows", "10", "--seed", "2")[1] == draws["2"]
    assert len(set(draws.values())) > 1


def test_rules_may_be_ordered_and_switched(dry_run: Dry) -> None:
    _, out, _ = dry_run("--rows", "0", "--set", 'clean.order=["length"]', "--set", "check.proper_noun_check=false")
    assert "mostly_proper_nouns" not in out
    assert "caption_too_short (clean; clean.min_words = 2, clean.min_chars = 3)\n" in out
    assert "    IMG_2041.jpg  [1 word]\n" in out


def test_the_page_escapes_what_captions_hold(tmp_path: Path, dry_run: Dry) -> None:
    page = tmp_path / "page.html"
    status, out, _ = dry_run("--rows", "0", "--page", str(page))
    assert (status, str(page) in out) == (0, True)
    text = page.read_text("utf-8")
    assert "&lt;b&gt;Ein kleiner Hund" in text
    assert "<b>Ein" not in text
    reason = "the caption is almost certainly in another language than its row states"
    assert f"{reason} (<code>clean.language_engine = cascade," in text


def test_what_is_missing_or_does_not_go_together_is_refused_and_nothing_is_built(tmp_path: Path, dry_run: Dry) -> None:
    def refused(*words: str) -> str:
        status, _, error = dry_run(*words)
        assert status == 1
        return error

    assert "no Argos package translates en to it" in refused("--translate")
    assert "--rows must not be negative" in refused("--rows", "-5")
    (tmp_path / "it.tsv").unlink()
    assert "it.tsv" in refused()
    assert "--retry-failed cannot be used with --dry-run" in refused("--retry-failed"), "before any file is read"
    assert f"--page names the folder {tmp_path}" in refused("--page", str(tmp_path))
    inside = tmp_path / "en.tsv" / "page.html"
    assert f"--page names {inside}, but {tmp_path / 'en.tsv'} is not a folder" in refused("--page", str(inside))
    assert main(["build", "scenes", "--rows", "5", "--root", str(tmp_path / "catalog")]) == 1, "only with --dry-run"
    assert not (tmp_path / "catalog").exists()


def write_test_set(tmp_path: Path) -> None:
    """Write a test set "held" into the recipe: one caption of the Italian source, and one image by its address."""
    (tmp_path / "held.tsv").write_text(
        "url\timage\tcaption\n"
        "http://example.org/7.jpg\ta.jpg\tUn mercato affollato in una piazza antica\n"
        "http://example.org/held.jpg\tb.jpg\tUn cane corre sulla spiaggia: numero 12!\n",
        "utf-8",
    )
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "other.jpg").write_bytes(b"no picture of the set")
    recipe = tmp_path / "mixed.toml"
    held = f"""
        [test_sets.held]
        kind = "pairs"
        files = ["{tmp_path}/held.tsv"]
        url_column = "url"
        path_column = "image"
        caption_column = "caption"
        images = "{tmp_path}/held"
        """
    recipe.write_text(recipe.read_text("utf-8") + held, "utf-8")


def test_what_would_be_marked_is_told_as_what_would_be_dropped(
    tmp_path: Path, dry_run: Dry, caplog: pytest.LogCaptureFixture
) -> None:
    write_test_set(tmp_path)
    _, dropped, _ = dry_run("--rows", "0", "--set", "repeats.near_captions=false")
    assert "training images are not compared" not in caplog.text  # a build says so of the two that are not there
    decided = "(screen; leaks.by_identity = true, leaks.action = drop)"
    example = "\n    Un cane corre sulla spiaggia numero 7  [held: url:example.org/7.jpg]"
    assert f"  test_image {decided}{example}" in dropped
    page = tmp_path / "page.html"
    action = ("--set", "leaks.action=mark", "--set", "repeats.near_captions=false", "--page", str(page))
    _, marked, _ = dry_run("--rows", "0", *action)
    assert f"  marked: test_image {decided.replace('drop', 'mark')}{example}" in marked
    decided = "(screen; leaks.by_caption = true, leaks.min_caption_words = 4, leaks.action = mark)"
    assert f"  marked: test_caption {decided}\n    Un cane corre sulla spiaggia numero 12  [held]" in marked
    text = page.read_text("utf-8")
    assert "the identity of the image is in a test set of the recipe" in text
    assert "marked: test_caption" not in dropped
    assert "46 rows checked, 6 dropped" in text  # what is marked stays


@pytest.mark.parametrize("rows", ["0", "5"])
def test_what_a_limit_leaves_out_is_said(dry_run: Dry, rows: str) -> None:
    _, out, _ = dry_run("--rows", rows, "--set", "sources.it.limit=20")
    assert f"it: {'20' if rows == '0' else '5'} rows checked; 26 are beyond its limit" in out
    assert "en: 1 row checked; 1 need translation and passed all checks before it\n" in out
    values = json.loads(dry_run("--rows", rows, "--json", "--set", "sources.it.limit=20")[1])
    assert values["beyond_limit"] == {"it": 26, "en": 0}
