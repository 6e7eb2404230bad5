"""`vernaclip mt evaluate` from end to end: the package that ships, files of translations, a paid engine on loopback."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

import flows
from data_catalog.storage.shards import sha256_of
from flows.cli import main

PACKAGE = Path(flows.__file__).parent / "packages" / "scenes-en_it.argosmodel"
PAIRS = [
    ("two red stars", "due stelle rosse"),
    ("a blue ring on a white background", "un anello blu su sfondo bianco"),
    ("Three green squares.", "Tre quadrati verdi."),
    ("the red circle is above the green heart", "il cerchio rosso è sopra il cuore verde"),
]
REFERENCES = [reference for _, reference in PAIRS]
THEIRS = [REFERENCES[0], "una stella gialla su sfondo bianco", *REFERENCES[2:]]
MINE = ["mine", f"package={PACKAGE}"]
FILE = ["theirs", "output=theirs.txt"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with pairs, and a file of translations of which the second is wrong."""
    monkeypatch.chdir(tmp_path)
    write("val.tsv", "".join(f"{source}\t{target}\n" for source, target in PAIRS))
    write("theirs.txt", "".join(f"{text}\n" for text in THEIRS))
    return tmp_path


def write(name: str, content: str) -> None:
    Path(name).write_text(content, encoding="utf-8", newline="")


def evaluate(*systems: list[str], pairs: str = "val.tsv", more: tuple[str, ...] = ()) -> int:
    named = [word for system in systems for word in ("--system", *system)]
    return main(["mt", "evaluate", pairs, "--from", "en", "--to", "it", *more, *named])


def report(folder: str = "out") -> Any:
    return json.loads((Path(folder) / "scores.json").read_text(encoding="utf-8"))


def test_systems_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(FILE, MINE, ["narrow", *MINE[1:], "translate.beam_size=1"], more=("--out", "out")) == 0
    out = capsys.readouterr().out
    bleu, chrf = sacrebleu.corpus_bleu(THEIRS, [REFERENCES]), sacrebleu.corpus_chrf(THEIRS, [REFERENCES])
    assert re.search(
        rf"\nsystem +BLEU +chrF .*\n.*\ntheirs +{bleu.score:.2f} ± [\d.]+ +{chrf.score:.2f} ± [\d.]+\n", out
    )
    gain = f"{100 - bleu.score:+.2f}"
    assert re.search(rf"\nmine +100\.00 ± 0\.00 +100\.00 ± 0\.00 +{re.escape(gain)} \(p 0\.\d\d\d\) ", out)
    assert re.search(r"\nsystem +captions/s +words/s +CPU ms a caption +flagged +mean score\n", out)
    assert re.search(r"\ntheirs\nmine +[\d.,]+ +[\d.,]+ +[\d.]+ +0 +-0\.\d+\nnarrow ", out)
    assert "line 2: a blue ring on a white background\n         reference: un anello blu su sfondo bianco\n" in out
    assert "  100.0  mine: un anello blu su sfondo bianco\n" in out
    assert "\nBLEU|nrefs:1|bs:1000|seed:12345|case:mixed|eff:no|tok:13a|smooth:exp|version:" in out
    assert "line 1:" not in out, "captions that both get right are no examples"


def test_what_is_written_says_how_it_came_about() -> None:
    assert evaluate(MINE, FILE, more=("--out", "new/out")) == 0
    assert sorted(path.name for path in Path("new/out").iterdir()) == ["mine.txt", "scores.json"]
    assert Path("new/out/mine.txt").read_text(encoding="utf-8").splitlines() == REFERENCES
    found = report("new/out")
    assert (found["num_pairs"], found["from_code"], found["to_code"]) == (4, "en", "it")
    assert found["pairs_sha256"] == sha256_of(Path("val.tsv"))
    mine, theirs = found["systems"]
    assert mine["settings"]["beam_size"] == 2
    assert mine["fingerprint"].startswith("argos:en-it:")
    assert mine["bleu"]["score"] == pytest.approx(100)
    assert mine["speed"]["words_per_second"] == pytest.approx(mine["speed"]["captions_per_second"] * 21 / 4)
    assert mine["speed"]["seconds"] > 0
    assert (mine["num_flagged"], -1 < mine["mean_score"] < 0) == (0, True)
    assert theirs["output"] == "theirs.txt"
    assert theirs["bleu"]["score"] == pytest.approx(sacrebleu.corpus_bleu(THEIRS, [REFERENCES]).score)
    assert {name for name, value in theirs.items() if value is None} == {
        "settings", "fingerprint", "speed", "num_flagged", "mean_score",
    }  # fmt: skip


def test_what_was_written_can_be_evaluated_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(MINE, more=("--out", "out")) == 0
    assert "BLEU vs" not in capsys.readouterr().out, "one system is compared with none"
    assert evaluate(MINE, ["again", "output=out/mine.txt"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\nagain +100\.00 ± 0\.00 +100\.00 ± 0\.00 +\+0\.00 +\+0\.00\n", out)
    assert "mine and again have equal chrF on every caption" in out


def test_flagged_translations_are_counted() -> None:
    write("val.tsv", f"two red stars\tdue stelle rosse\n{'two red stars and ' * 600}\tdue stelle rosse\n")
    assert evaluate(MINE, more=("--out", "out")) == 0
    assert report()["systems"][0]["num_flagged"] == 1


def test_empty_translations_and_control_characters_do_no_harm(capsys: pytest.CaptureFixture[str]) -> None:
    write("val.tsv", 'a "ring" \x1b[31m\tun "anello" \x1b[31m\u2028rosso\n' * 2)
    write("theirs.txt", '\n<b>&amp;"\x0b\x1b[31m\n')
    assert evaluate(FILE, MINE, pairs="val.tsv") == 0
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out
    assert captured.err.count("\n") <= 1


@pytest.mark.parametrize(("code", "tokenizer"), [("zh", "zh"), ("ja", "char"), ("it", "13a")])
def test_bleu_is_of_words_of_the_target_language(code: str, tokenizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["mt", "evaluate", "val.tsv", "--from", "en", "--to", code, "--system", *FILE]
    assert main(options) == 0
    assert f"|tok:{tokenizer}|" in capsys.readouterr().out
    assert main([*options, "--tokenize", "intl"]) == 0
    assert "|tok:intl|" in capsys.readouterr().out


PAID = ["paid", "engine=deepl"]


def test_what_is_paid_for_is_kept_and_not_timed(deepl_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(PAID) == 1
    assert "lost if the run stops: give --memory DIR" in capsys.readouterr().err
    for _ in range(2):
        assert evaluate(PAID, MINE, more=("--memory", "memory", "--out", "out", "--force")) == 0
    assert deepl_server.texts == [[source for source, _ in PAIRS]], "each caption once, for warming up none"
    paid, mine = report()["systems"]
    assert paid["speed"] is None
    assert mine["speed"] is not None
    assert Path("out/paid.txt").read_text(encoding="utf-8").splitlines()[0] == "<two red stars>"
    assert len(list(Path("memory").glob("*.sqlite"))) == 1, "no memory of what is not paid for"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "none.tsv is not a file"),
        (b"", "empty"),
        (b"a dog\tun cane\n\n", "line 2: it is blank"),
        (b"a dog\tun cane\na cat\n", "line 2: it has 1 fields"),
        (b"a dog\tun cane\tein Hund\n", "line 1: it has 3 fields"),
        (b"a dog\t \n\tun cane\n", "line 1: the reference is empty; line 2: the source is empty"),
        (b"a dog\tun c\xe0ne\n", "line 1: byte 0xe0 at offset 10"),
        (b"a dog\tun\0cane\n", "line 1: a NUL at character 8"),
        (b"\n" * 1007, "line 5: it is blank; and 1,002 more"),
        ("a dog\tun cane\n".encode("utf-16"), "UTF-16"),
        (b"\x1f\x8b\x08\x00", "truncated gzip"),
        (b"a dog\tun cane\n" * 20_001, "20,001 pairs"),
    ],
)
def test_pairs_must_be_whole(content: bytes | None, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        Path("val.tsv").write_bytes(content)
    assert evaluate(MINE, pairs="none.tsv" if content is None else "val.tsv") == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"a\nb\nc\n", "has 3 lines"),
        (b"a\nb\nc\nd\n\n", "has 5 lines"),
        (b"a\nb\n-0.5\tc\nd\n", "line 3 contains a tab"),
        (b"a\nb\nc\n\xff\n", "line 4: byte 0xff at offset 0"),
    ],
)
def test_translations_must_be_one_a_line(content: bytes, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("theirs.txt").write_bytes(content)
    assert evaluate(MINE, FILE) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("systems", "more", "message"),
    [
        ([MINE, ["Mine", *MINE[1:]]], (), "another system is called mine"),
        ([["mine"]], (), "has no settings"),
        ([[f"package={PACKAGE}"]], (), "must be a name"),
        ([["../mine", *MINE[1:]]], (), "must be a name"),
        ([["ß" * 61, *MINE[1:]]], ("--out", "old"), "60 letters"),
        ([["none", "package="]], (), "package= has no value"),
        ([[*MINE, "val.tsv"]], (), "val.tsv is not KEY=VALUE"),
        ([[*FILE, "beam_size=1"]], (), "no other settings"),
        ([["none", "output=none.txt"]], (), "none.txt is not a file"),
        ([[*MINE, "beam_sise=1"]], (), "unknown key translate.beam_sise"),
        ([[*MINE, "round_trip=true"]], (), "recipes only"),
        ([["none", "package=none.argosmodel"]], (), "--system none: "),
        ([FILE], ("--language-pack", "eo.toml"), "is for eo"),
        ([FILE], ("--to", "IT"), "--to IT"),
        ([MINE], ("--out", "theirs.txt"), "--out theirs.txt"),
        ([FILE, ["theirs2", *MINE[1:]]], ("--out", "old"), "old/theirs2.txt exists"),
        ([["x", "output=old/theirs2.txt"], ["theirs2", *MINE[1:]]], ("--out", "old", "--force"), "is an input"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(
    systems: list[list[str]], more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("eo.toml", 'code = "eo"\n')
    Path("old").mkdir()
    write("old/theirs2.txt", "old\n")
    assert evaluate(*systems, more=more) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert Path("old/theirs2.txt").read_text(encoding="utf-8") == "old\n"
