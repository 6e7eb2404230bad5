"""The page about a training: all of the curve is on it, texts stay texts, and it loads nothing."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from translation.train.config import TrainPackageConfig
from translation.train.loop import CurvePoint, TrainState
from translation.train.pairs import PairLine, ParallelCaptions, Sources
from translation.train.report import REPORT_FILE, Training, TrainReport, write_report

NASTY = "</td><script>alert(1)</script><img src=http://example.org/x onerror='x()'> \"&lt;' {{ 7 * 7 }} {% raw %}"
CONFIG = TrainPackageConfig(num_steps=4400, license="CC0 <b>")
SOURCES = Sources(from_code="en", to_code="de", pairs_sha256=("ab" * 32,), held_out_sha256=None, continued=None)
METADATA = {"package_version": "1.0", "from_name": "English", "to_name": "German"}
DATA = ParallelCaptions(training=[("a", "b")] * 90, held_out=[("c", "d")] * 10, dropped={}, examples={})
SCORES = {"held_out_loss": 1.25, "exact_match": 0.123, "bleu": 39.14, "chrf": 63.46}
CELLS = ("td", "th", "dt", "dd")


class Page(HTMLParser):
    """What a browser finds: tags with their attributes, texts of cells of tables and lists, all text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text = ""
        self._in_cell = False
        with path.open(encoding="utf-8", newline="") as file:
            self.feed(file.read())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in CELLS:
            self._in_cell = True
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in CELLS

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            return
        self.text += data
        if self._in_cell:
            self.cells[-1] += data

    def after(self, cell: str, count: int) -> list[str]:
        """The cell with this text, and those after it."""
        place = self.cells.index(cell)
        return self.cells[place : place + count]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def point(step: int, *, chrf: float, train_loss: float = 2.5) -> CurvePoint:
    times = {"epoch": step // 230, "seconds": step * 0.75, "cpu_seconds": step * 1.5}
    losses = {"train_loss": train_loss, "held_out_loss": train_loss - 0.5}
    return CurvePoint(step=step, bleu=chrf / 2, chrf=chrf, **times, **losses)  # type: ignore[arg-type]


def page_of(
    folder: Path, *curve: CurvePoint, text: str = "", data: ParallelCaptions = DATA, num_steps: int | None = None
) -> Page:
    """The page after these validations; of a training that has ended, if `num_steps` is given."""
    training = Training(
        folder=folder / "en_de.argosmodel.training", data=data, sources=SOURCES, config=CONFIG, metadata=METADATA
    )
    names = ("step", "epoch", "seconds", "cpu_seconds")
    reached = {name: getattr(curve[-1], name) for name in names} if curve else {}
    report = num_steps and TrainReport(
        num_training=90, num_held_out=10, dropped={}, num_parameters=4_806_144, vocabulary_size=8000,
        num_steps=num_steps, best_step=600, **SCORES,
    )  # fmt: skip
    state = TrainState(**reached, curve=[*curve])
    write_report(training, state, (text,), num_parameters=4_806_144, report=report or None)
    return Page(training.folder / REPORT_FILE)


def test_every_validation_is_listed_the_best_is_marked_and_nothing_is_loaded(tmp_path: Path) -> None:
    page = page_of(tmp_path, point(200, chrf=30.125), point(400, chrf=62.75), point(600, chrf=62.5))
    for cells in (
        ["200", "2.5", "15.06", "30.12", "2.000", "2.500", "5.0", "1"],
        ["400 best", "5.0", "31.38", "62.75", "2.000", "2.500", "10.0", "2"],
        ["600", "7.5", "31.25", "62.50", "2.000", "2.500", "15.0", "3"],
    ):
        assert page.after(cells[0], 8) == cells
    assert "after step 600 of 4,400" in page.words
    tags = [tag for tag, _ in page.tags]
    assert tags.count("svg") == 2
    assert not {"script", "img", "link", "iframe", "object", "embed", "image"} & set(tags)
    (policy,) = [attributes.get("content") for _, attributes in page.tags if "http-equiv" in attributes]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name in ("src", "href") or name.startswith("on")]


def test_a_finished_training_has_the_scores_of_its_package_and_says_if_it_stopped_early(tmp_path: Path) -> None:
    page = page_of(tmp_path, point(4400, chrf=60.0), num_steps=4400)
    assert "version 1.0: finished after 4,400 steps." in page.words
    numbers = ["BLEU", "39.1", "chrF", "63.5", "Parameters", "4,806,144", "Minutes", "55.0", "CPU minutes", "110.0"]
    assert page.cells[:10] == numbers
    assert "12.3%" in page.words
    assert "--from en --to de --continue en_de.argosmodel --out" in page.words
    page = page_of(tmp_path, point(800, chrf=60.0, train_loss=float("nan")), num_steps=800)
    assert page.after("800 best", 5)[4] == "nan"
    assert "800 of 4,400 steps, because chrF" in page.words


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=3, max_size=3))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_becomes_markup(tmp_path: Path, texts: list[str]) -> None:
    source, translation, reference = (text + NASTY for text in texts)
    line = PairLine(tmp_path / "x.tsv", 1, source, translation)
    data = replace(DATA, held_out=[(source, reference)], dropped={"empty": 1}, examples={"empty": [line]})
    page = page_of(tmp_path, text=translation, data=data)
    plain = page_of(tmp_path, text="a", data=replace(data, examples={"empty": [replace(line, source="a", target="b")]}))
    assert page.tags == plain.tags
    assert [cell["lang"] for tag, cell in page.tags if tag == "td" and "lang" in cell] == ["en", "de", "de", "", ""]
    assert page.after(source, 3) == [source, translation, reference]
    assert page.after("x.tsv, 1", 3)[1:] == [source, translation]
