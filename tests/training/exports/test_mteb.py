"""Our tasks under mteb, offline: models, and exports as mteb's own loaders open them, score as on the scoreboard.

mteb takes seconds to load: only the process that runs these tests loads it, and none that collects them.
"""

import runpy
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import SettingsError
from data_catalog.disk.files import write_json
from training.align.align import align
from training.config import AlignConfig, EvaluateConfig, TrainConfig
from training.data.pairs import PairFiles
from training.exports.model_export import ModelExportConfig, export_model
from training.scores.encoders import open_encoder
from training.scores.galleries import Gallery
from training.scores.rows import Board
from training.scores.scoreboard import ModelToScore, score_models

pytestmark = [pytest.mark.slower, pytest.mark.filterwarnings("ignore:.*autocast")]  # of mteb's loader for open_clip

READER = Path(__file__).with_name("card_reader.py")
METRICS = {"MRR@5": "mrr_at_5", "nDCG@10": "ndcg_at_10", **{f"R@{k}": f"hit_rate_at_{k}" for k in (1, 5, 10)}}
WAYS = {"squares-1-T2IRetrieval": "text_to_image", "squares-1-I2TRetrieval": "image_to_text"}


@pytest.fixture(scope="module")
def gallery(square_rows: Callable[..., list[dict[str, Any]]]) -> Gallery:
    """Twenty different squares, each with two captions that no other has; one more is broken, one has no caption."""
    rows = square_rows("test", 20, seed=5)
    files = {row["sample_id"]: row["image"]["bytes"] for row in rows}
    texts = [(place, text) for place, row in enumerate(rows) for text in row["captions"]]
    texts.append((len(rows), "un quadrato rotto"))
    files |= {"broken": b"<html>", "bare": square_rows("val", 1, seed=6)[0]["image"]["bytes"]}
    assert len({text for _, text in texts}) == 41
    return Gallery(
        name="squares 1",
        images=list(files),
        read=files.__getitem__,
        captions=[text for _, text in texts],
        owners=[place for place, _ in texts],
        made_by=["machine"] * len(texts),
        license="cc-by-4.0",
    )


@pytest.fixture(scope="module")
def aligned(square_files: PairFiles, pretrained: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that tells squares apart: among cosines of random weights are ties, which mteb counts otherwise."""
    folder, towers = tmp_path_factory.mktemp("aligned"), replace(pretrained, text_pooler="cls_pooler")
    align(square_files, towers, AlignConfig(epochs=0, ridge=10.0), folder / "model", cache=folder / "cache")
    return folder / "model"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("socket.socket.connect", "socket.getaddrinfo"):
        monkeypatch.setattr(place, runpy.run_path(str(READER))["refuse"])


@pytest.fixture
def board_of(tmp_path: Path) -> Callable[[Path, Gallery], Board]:
    """`board_of(model, gallery)`: scores of the model, read back from their file."""

    def score(model: Path, gallery: Gallery) -> Board:
        found = ModelToScore(name="own", open=lambda: open_encoder(str(model)))
        board = score_models([found], [gallery], EvaluateConfig(bootstrap_rounds=20))
        write_json(tmp_path / "board.json", board.to_json())
        return Board.read(tmp_path / "board.json")

    return score


def on_board(board: Board) -> dict[str, float]:
    return {row.metric: row.value for row in board.where(captions="all").rows}


def of_mteb(results: Iterable[Any]) -> dict[str, float]:
    """Their scores by our names."""
    found = {}
    for result in results:
        way, (scores,) = WAYS[result.task_name], result.scores["test"]
        found |= {f"{way}_{name}": scores[theirs] for name, theirs in METRICS.items()}
        assert scores["main_score"] == scores["ndcg_at_10"]
        if way == "text_to_image":
            assert [scores[f"recall_at_{k}"] for k in (1, 5, 10)] == [scores[f"hit_rate_at_{k}"] for k in (1, 5, 10)]
    return found


def test_models_and_exports_score_under_mteb_as_on_the_scoreboard(
    aligned: Path,
    gallery: Gallery,
    board_of: Callable[[Path, Gallery], Board],
    tmp_path: Path,
    offline: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mteb
    from mteb.models.model_implementations.clip_models import CLIPModel
    from mteb.models.model_implementations.openclip_models import openclip_loader
    from mteb.models.model_meta import ModelMeta

    from training.scores.mteb_tasks import MtebEncoder, gallery_tasks, write_mteb_results

    tasks = gallery_tasks(gallery, "it")
    facts = tasks[0].metadata
    assert (facts.eval_langs, facts.license, facts.sample_creation) == (["ita-Latn"], "cc-by-4.0", "machine-translated")
    board = board_of(aligned, gallery)
    ours = on_board(board)
    formats = ModelExportConfig(formats=("open_clip", "transformers"), name="small", hub_name="us/clip")
    out = export_model(aligned, formats, tmp_path / "out", seen=None, root=tmp_path / "catalog").exports
    folder = {each.format: each.folder for each in out}
    hub = tmp_path / "hub"  # mteb opens open_clip's models from the hub only: one as after an upload
    shutil.copytree(folder["open_clip"], hub / "models--us--clip" / "snapshots" / "main")
    (hub / "models--us--clip" / "refs").mkdir()
    (hub / "models--us--clip" / "refs" / "main").write_text("main")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    image_text = {"modalities": ["image", "text"]}
    models = [
        MtebEncoder(open_encoder(str(aligned))),
        ModelMeta.create_empty({"name": str(folder["transformers"]), "loader": CLIPModel, **image_text}),
        ModelMeta.create_empty({"name": "us/clip", "loader": openclip_loader, **image_text}),
    ]
    for model in models:
        theirs = of_mteb(mteb.evaluate(model, tasks, cache=None, show_progress_bar=False))
        assert theirs == pytest.approx({name: ours[name] for name in theirs}, abs=6e-6)  # mteb rounds to 5 digits
    assert len(theirs) == 10
    assert 0.05 < theirs["text_to_image_R@10"] < 0.95
    write_mteb_results(board, {gallery.name: tasks}, tmp_path / "board")
    (read,) = mteb.ResultCache(tmp_path / "board").load_results().model_results
    assert (read.model_name, read.model_revision) == ("local/own", board.models[0].tensors_sha256)
    assert of_mteb(read.task_results) == pytest.approx({name: ours[name] for name in theirs}, abs=1e-6)


def test_only_ties_are_scored_otherwise(
    italian: Path, gallery: Gallery, board_of: Callable[[Path, Gallery], Board], offline: None
) -> None:
    """Every image is there twice: mteb orders the two by their ids, and the scoreboard counts it against the model."""
    import mteb

    from training.scores.mteb_tasks import MtebEncoder, gallery_tasks

    owners = [place + 4 for place in gallery.owners[:8]]  # the second of each two, which mteb puts first
    images = [*gallery.images[:4], *gallery.images[:4]]
    twins = replace(gallery, images=images, captions=gallery.captions[:8], owners=owners, made_by=["human"] * 8)
    tasks = gallery_tasks(twins, "it")[:1]
    theirs = of_mteb(mteb.evaluate(MtebEncoder(open_encoder(str(italian))), tasks, cache=None, show_progress_bar=False))
    ours = on_board(board_of(italian, twins))
    assert ours["text_to_image_MRR@5"] < theirs["text_to_image_MRR@5"]
    assert ours["text_to_image_R@1"] == 0 < theirs["text_to_image_R@1"]


def test_a_language_that_mteb_does_not_know_is_refused(gallery: Gallery) -> None:
    from training.scores.mteb_tasks import gallery_tasks

    with pytest.raises(SettingsError, match="squares 1 in the language qq"):
        gallery_tasks(gallery, "qq")
