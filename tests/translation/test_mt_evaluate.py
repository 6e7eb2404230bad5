"""`vernaclip mt evaluate`: the package that ships, files of translations, a paid engine on loopback, and the scores."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

import flows
from data_catalog.disk.files import sha256_of
from translation.evaluate import compare, corpus_bleu, corpus_chrf, largest_differences, sentence_chrf

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


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Any) -> Any:
    """The command in a folder with pairs, and a file of translations of which the second is wrong."""
    monkeypatch.chdir(tmp_path)
    write("val.tsv", "".join(f"{source}\t{target}\n" for source, target in PAIRS))
    write("theirs.txt", "".join(f"{text}\n" for text in THEIRS))

    def call(*systems: list[str], pairs: str = "val.tsv", more: tuple[str, ...] = (), code: int = 0) -> str:
        named = [word for system in systems for word in ("--system", *system)]
        return told(["mt", "evaluate", pairs, "--from", "en", "--to", "it", *more, *named], code=code)

    return call


def write(name: str, content: str) -> None:
    Path(name).write_text(content, encoding="utf-8", newline="")


def report(folder: str = "out") -> Any:
    return json.loads((Path(folder) / "scores.json").read_text(encoding="utf-8"))


def test_systems_stand_side_by_side(evaluate: Any) -> None:
    out = evaluate(FILE, MINE, ["narrow", *MINE[1:], "translate.beam_size=1"])
    bleu, chrf = sacrebleu.corpus_bleu(THEIRS, [REFERENCES]), sacrebleu.corpus_chrf(THEIRS, [REFERENCES])
    for line in (
        rf"\nsystem +BLEU +chrF .*\n.*\ntheirs +{bleu.score:.2f} ± [\d.]+ +{chrf.score:.2f} ± [\d.]+\n",
        rf"\nmine +100\.00 ± 0\.00 +100\.00 ± 0\.00 +\+{100 - bleu.score:.2f} \(p 0\.\d\d\d\) ",
        r"\nsystem +captions/s +words/s +CPU ms a caption +flagged +mean score\n",
        r"\ntheirs\nmine +[\d.,]+ +[\d.,]+ +[\d.]+ +0 +-0\.\d+\nnarrow ",
        r"line 2: a blue ring on a white background\n         reference: un anello blu su sfondo bianco\n",
        r"  100.0  mine: un anello blu su sfondo bianco\n",
    ):
        assert re.search(line, out), line
    assert "line 1:" not in out, "captions that both get right are no examples"


def test_what_is_written_says_how_it_came_about(evaluate: Any) -> None:
    evaluate(MINE, FILE, more=("--out", "new/out"))
    assert sorted(path.name for path in Path("new/out").iterdir()) == ["mine.txt", "scores.json"]
    assert Path("new/out/mine.txt").read_text(encoding="utf-8").splitlines() == REFERENCES
    found = report("new/out")
    about = {"num_pairs": 4, "from_code": "en", "to_code": "it", "pairs_sha256": sha256_of(Path("val.tsv"))}
    assert about.items() <= found.items()
    mine, theirs = found["systems"]
    assert mine["settings"]["beam_size"] == 2
    assert mine["fingerprint"].startswith("argos:en-it:")
    assert mine["bleu"]["score"] == pytest.approx(100)
    assert mine["speed"]["words_per_second"] == pytest.approx(mine["speed"]["captions_per_second"] * 21 / 4)
    assert (mine["num_flagged"], -1 < mine["mean_score"] < 0) == (0, True)
    assert theirs["output"] == "theirs.txt"
    unknown = {"settings", "fingerprint", "speed", "num_flagged", "mean_score"}
    assert {name for name, value in theirs.items() if value is None} == unknown


def test_flagged_empty_and_odd_translations_do_no_harm(evaluate: Any) -> None:
    write("val.tsv", f"two red stars\tdue stelle rosse\n{'two red stars and ' * 600}\tdue stelle rosse\n")
    evaluate(MINE, more=("--out", "out"))
    assert report()["systems"][0]["num_flagged"] == 1
    write("val.tsv", 'a "ring" \x1b[31m\tun "anello" \x1b[31m\u2028rosso\n' * 2)
    write("theirs.txt", '\n<b>&amp;"\x0b\x1b[31m\n')
    assert "\x1b" not in evaluate(FILE, MINE)


def test_bleu_is_of_words_of_the_target_language(evaluate: Any) -> None:
    for more, tokenizer in ((("ja",), "char"), (("it",), "13a"), (("zh", "--tokenize", "intl"), "intl")):
        assert f"|tok:{tokenizer}|" in evaluate(FILE, more=("--to", *more))
    hypotheses, references = ["红色圆圈在绿色背景上"], ["红色方块在绿色背景上"]
    assert corpus_bleu(hypotheses, references, "de") == 0
    for code in ("zh", "ja", "ko", "th", "lo", "km", "my"):  # which put no spaces between words
        assert 50 < corpus_bleu(hypotheses, references, code) < 100


def test_what_is_paid_for_is_kept_and_not_timed(deepl_server: Any, evaluate: Any) -> None:
    paid = ["paid", "engine=deepl"]
    assert "lost if the run stops: give --memory DIR" in evaluate(paid, code=1)
    for _ in range(2):
        evaluate(paid, MINE, more=("--memory", "memory", "--out", "out", "--force"))
    assert deepl_server.texts == [[source for source, _ in PAIRS]], "each caption once, for warming up none"
    first, mine = report()["systems"]
    assert first["speed"] is None
    assert mine["speed"] is not None
    assert Path("out/paid.txt").read_text(encoding="utf-8").splitlines()[0] == "<two red stars>"
    assert len(list(Path("memory").glob("*.sqlite"))) == 1, "no memory of what is not paid for"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("val.tsv", b"", "empty"),
        (
            "val.tsv",
            b"a dog\tun cane\n\na cat\n",
            "line 2: it has 0 texts instead of a source, one tab and a reference; line 3",
        ),
        ("val.tsv", b"a dog\tun cane\tein Hund\n", "line 1: it has 3 texts"),
        (
            "val.tsv",
            b"a dog\t \n\tun cane\n",
            "line 1: it has 1 texts instead of a source, one tab and a reference; line 2",
        ),
        ("val.tsv", b"a dog\tun c\xe0ne\n", "line 1: byte 0xe0 at offset 10"),
        ("val.tsv", b"\n" * 1007, "; and 1,002 more"),
        ("val.tsv", b"a dog\tun cane\n" * 20_001, "20,001 pairs"),
        ("theirs.txt", b"a\nb\nc\n", "has 3 lines"),
        ("theirs.txt", b"a\nb\n-0.5\tc\nd\n", "line 3: it contains a tab"),
        ("theirs.txt", b"a\nb\nc\n\xff\n", "line 4: byte 0xff at offset 0"),
    ],
)
def test_pairs_must_be_whole_and_translations_one_a_line(
    file: str, content: bytes, message: str, evaluate: Any
) -> None:
    Path(file).write_bytes(content)
    assert message in evaluate(FILE, code=1)


@pytest.mark.parametrize(
    ("systems", "more", "message"),
    [
        ([MINE, ["Mine", *MINE[1:]]], (), "another system is called mine"),
        ([["../mine", *MINE[1:]]], (), "must be a name"),
        ([["none", "package="]], (), "package= has no value"),
        ([[*FILE, "beam_size=1"]], (), "no other settings"),
        ([[*MINE, "round_trip=true"]], (), "recipes only"),
        ([["none", "package=none.argosmodel"]], (), "--system none: "),
        ([FILE], ("--language-pack", "eo.toml"), "is for eo"),
        ([MINE], ("--out", "theirs.txt"), "--out theirs.txt"),
        ([FILE, ["theirs2", *MINE[1:]]], ("--out", "old"), "old/theirs2.txt exists"),
        ([["x", "output=old/theirs2.txt"], ["theirs2", *MINE[1:]]], ("--out", "old", "--force"), "is an input"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(
    systems: list[list[str]], more: tuple[str, ...], message: str, evaluate: Any
) -> None:
    write("eo.toml", 'code = "eo"\n')
    Path("old").mkdir()
    write("old/theirs2.txt", "old\n")
    assert message in evaluate(*systems, more=more, code=1)
    assert Path("old/theirs2.txt").read_text(encoding="utf-8") == "old\n"


def test_chrf_as_worked_out_by_hand() -> None:
    # "ab" has 2 of 3 letters and 1 of 2 bigrams, and nothing but right ones: P = 1, R = 7/12, (1 + 4) P R / (4 P + R).
    assert sentence_chrf("ab", "abc") == pytest.approx(100 * 7 / 11)
    assert sentence_chrf("a b", "abc") == pytest.approx(100 * 7 / 11), "spaces do not count"
    assert sentence_chrf("", "abc") == sentence_chrf("abc", "xyz") == 0
    # Counts are summed before they are divided: 5 of 6 letters, 3 of 4 bigrams, 1 of 2 trigrams, all right.
    recall = (5 / 6 + 3 / 4 + 1 / 2) / 3
    assert corpus_chrf(["ab", "abc"], ["abc", "abc"]) == pytest.approx(100 * 5 * recall / (4 + recall))


LONG = [f"{number} rote Kreise vor einem {ground} Hintergrund" for number in range(40) for ground in ("a", "b")]
WORSE = [text.replace("rote", "blaue") if number % 2 else text for number, text in enumerate(LONG)]


def test_systems_are_compared_with_the_first() -> None:
    found = compare({"first": WORSE, "second": LONG, "third": WORSE}, LONG, tokenizer="13a")
    for estimates, library in ((found.bleu, sacrebleu.corpus_bleu), (found.chrf, sacrebleu.corpus_chrf)):
        first, second, third = (estimates[name] for name in ("first", "second", "third"))
        assert first.score == pytest.approx(library(WORSE, [LONG]).score)
        assert (first.difference, first.p_value) == (None, None)
        assert first.interval > 0
        assert (second.score, second.difference) == pytest.approx((100, 100 - first.score))
        assert second.interval == pytest.approx(0, abs=1e-6)
        assert second.p_value < 0.01
        assert (third.score, third.difference, third.p_value) == (first.score, 0, None)
    bleu, chrf = found.signatures
    assert bleu.startswith("BLEU|nrefs:1|bs:1000|seed:12345|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert chrf.startswith("chrF2|nrefs:1|bs:1000|seed:12345|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


texts = st.text(max_size=20).map(str.strip)


@given(st.lists(st.tuples(texts, texts, texts.filter(bool)), max_size=8))
def test_the_largest_differences_come_first(captions: list[tuple[str, str, str]]) -> None:
    first, second, references = ([caption[place] for caption in captions] for place in range(3))
    scores = [(sentence_chrf(a, reference), sentence_chrf(b, reference)) for a, b, reference in captions]
    found = largest_differences(first, second, references, most=3)
    assert [(item.first_chrf, item.second_chrf) for item in found] == [scores[item.place] for item in found]
    sizes = sorted((abs(a - b) for a, b in scores if a != b), reverse=True)
    assert [abs(item.first_chrf - item.second_chrf) for item in found] == pytest.approx(sizes[:3])
