"""Pair shards made on the spot: pictures of one coloured square, with captions that name its colour and side."""

import hashlib
import io
import json
import multiprocessing
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from data_catalog.base.language_pack import Sides
from data_catalog.disk.files import open_image_writer
from data_catalog.rows.schema import NATIVE, PAIRS
from training.align.align import align
from training.config import AlignConfig, TrainConfig
from training.data.pairs import PairFiles
from training.fit.clip import train  # before torch, so that its threads sleep while they wait
from training.runs import runner
from training.towers.plan import read_model_config

COLOURS = {
    "rosso": (220, 30, 30),
    "verde": (30, 160, 60),
    "blu": (30, 60, 220),
    "giallo": (250, 220, 20),
    "nero": (15, 15, 15),
    "viola": (140, 40, 170),
    "arancione": (245, 130, 20),
    "azzurro": (140, 210, 250),
}
SIDES = {"in alto a sinistra": (2, 2), "in alto a destra": (52, 2), "in basso": (27, 52)}

SmallRun = Callable[..., TrainConfig]
MakeShard = Callable[[str, Sequence[dict[str, Any]]], Path]
# One step: what is exported is random weights, moved a little.
SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 152, "lr": 1e-3, "warmup_steps": 1}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Libraries warn of one another."""
    item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"))


def square(colour: str, side: str, rng: Random) -> bytes:
    """A JPEG of 96 x 96 pixels."""
    picture = Image.new("RGB", (96, 96), (245, 245, 245))
    x, y = (start + rng.randint(0, 12) for start in SIDES[side])
    ImageDraw.Draw(picture).rectangle((x, y, x + 30, y + 30), fill=COLOURS[colour])
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def pair(sample_id: str, image: bytes, captions: Sequence[str], split: str) -> dict[str, Any]:
    """A published row."""
    width, height = Image.open(io.BytesIO(image)).size
    return {
        "sample_id": sample_id,
        "source": sample_id.partition(":")[0],
        "split": split,
        "image": {"bytes": image, "path": None},
        "width": width,
        "height": height,
        "original_width": width,
        "original_height": height,
        "sha256": hashlib.sha256(image + sample_id.encode()).hexdigest(),
        "caption_ids": [f"{sample_id}#{number}" for number in range(len(captions))],
        "captions": list(captions),
        "source_captions": list(captions),
        "source_langs": ["it"] * len(captions),
        "translators": [NATIVE] * len(captions),
        "origins": [NATIVE] * len(captions),
        "scores": [None] * len(captions),
    }


def squares(split: str, count: int, *, seed: int) -> list[dict[str, Any]]:
    """`count` rows, each with two captions; colours and sides take turns."""
    rng = Random(seed)
    kinds = [(colour, side) for colour in COLOURS for side in SIDES]
    rows = []
    for index in range(count):
        colour, side = kinds[index % len(kinds)]
        captions = [f"un quadrato {colour} {side}", f"{side.capitalize()} c'è un quadrato {colour}."]
        rows.append(pair(f"squares:{split}{index}", square(colour, side, rng), captions, split))
    return rows


@pytest.fixture(scope="session")
def make_shard(tmp_path_factory: pytest.TempPathFactory) -> MakeShard:
    """Writes rows as a pair shard, 50 rows a row group, into a folder of its own."""

    def make(name: str, rows: Sequence[dict[str, Any]]) -> Path:
        path = tmp_path_factory.mktemp("shards") / f"{name}.parquet"
        with open_image_writer(path, PAIRS) as writer:
            for start in range(0, len(rows), 50):
                writer.write_table(pa.Table.from_pylist(list(rows[start : start + 50]), schema=PAIRS))
        return path

    return make


@pytest.fixture(scope="session")
def square_files(make_shard: MakeShard) -> PairFiles:
    """200 squares: 152 to train on, in two shards, 24 to validate, 24 to test, one of each kind."""
    train = squares("train", 152, seed=1)
    return PairFiles(
        train=(make_shard("train-0", train[:90]), make_shard("train-1", train[90:])),
        val=(make_shard("val-0", squares("val", 24, seed=2)),),
        test=(make_shard("test-0", squares("test", 24, seed=3)),),
    )


@pytest.fixture(scope="session")
def few(square_files: PairFiles, make_shard: MakeShard) -> PairFiles:
    """48 squares to train on: three steps of 16 an epoch."""
    return replace(square_files, train=(make_shard("few", squares("few", 48, seed=7)),))


@pytest.fixture(scope="session")
def uneven(square_files: PairFiles, make_shard: MakeShard) -> PairFiles:
    """50 squares to train on: three steps of 16 an epoch, and two samples that are left over."""
    return replace(square_files, train=(make_shard("uneven", squares("few", 50, seed=7)),))


@pytest.fixture(scope="session")
def square_rows() -> Callable[..., list[dict[str, Any]]]:
    """`squares(split, count, seed=...)`: rows that `make_shard` writes."""
    return squares


@pytest.fixture(scope="session")
def pair_row() -> Callable[..., dict[str, Any]]:
    """`pair(sample_id, image, captions, split)`: one row that `make_shard` writes."""
    return pair


@pytest.fixture(scope="session")
def sides() -> Sides:
    """Words for left and right in captions of squares."""
    return Sides(left=("sinistra", "a sinistra"), right=("destra", "a destra"))


@pytest.fixture(scope="session")
def training_code() -> Callable[..., str]:
    """`training_code(files, config, out, sides=None)`: the Python of a process of its own that trains."""

    def code(files: PairFiles, config: TrainConfig, out: Path, sides: Sides | None = None) -> str:
        return (
            "from pathlib import Path, PosixPath\n"
            "from data_catalog.base.language_pack import Sides\n"
            "from training.config import TrainConfig\n"
            "from training.data.pairs import PairFiles\n"
            "from training.fit.clip import train\n"
            f"train({files!r}, TrainConfig(**{asdict(config)!r}), Path({str(out)!r}), sides={sides!r})\n"
        )

    return code


@pytest.fixture(scope="session")
def start_code() -> Callable[..., BaseProcess]:
    """`start_code(code, **environment)`: run Python in a process of its own, which has loaded the libraries already."""

    def start(code: str, **environment: str) -> BaseProcess:
        import torch

        context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")  # CUDA is not forked
        process = context.Process(target=exec, args=(f"import os; os.environ |= {environment!r}\n{code}", {}))
        process.start()
        return process

    return start


TEXT = {"context_length": 24, "vocab_size": 300, "width": 32, "heads": 2, "layers": 1, "pool_type": "argmax"}
VISION: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
}
SHARED = {"embed_dim": 32, "custom_text": True, "text_cfg": {**TEXT, "hf_tokenizer_name": "tokenizer"}}
TOWERS: dict[str, dict[str, Any]] = {kind: {**SHARED, "vision_cfg": vision} for kind, vision in VISION.items()}


@pytest.fixture(scope="session")
def towers() -> dict[str, dict[str, Any]]:
    """Configs of small models, by the kind of their image tower: "vit" and "resnet"."""
    return TOWERS


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """`small_run(kind="vit", **settings)`: two epochs of nine steps over `square_files`."""
    folder = tmp_path_factory.mktemp("towers")
    for tower, found in TOWERS.items():
        (folder / f"{tower}.json").write_text(json.dumps(found))

    def config(kind: str = "vit", **settings: Any) -> TrainConfig:
        chosen = {"epochs": 2, "batch_size": 16, "lr": 5e-3, "warmup_steps": 5, "vocab_size": 300}
        chosen |= {"precision": "fp32", **settings}
        return TrainConfig(model=str(folder / f"{kind}.json"), num_threads=1, **chosen)

    return config


@pytest.fixture
def interrupt_training(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`interrupt(files, config, out, saves=1, **more)`: end a training once it has written so many resume states."""

    def interrupt(files: PairFiles, config: TrainConfig, out: Path, saves: int = 1, **more: Any) -> None:
        save, left = runner.save_resume_state, iter(range(saves - 1))

        def save_and_end(*given: Any, **named: Any) -> None:
            save(*given, **named)
            if next(left, None) is None:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(runner, "save_resume_state", save_and_end)
            with pytest.raises(KeyboardInterrupt):
                train(files, config, out, **more)

    return interrupt


def in_tensorboard(out: Path) -> dict[str, Any]:
    """What TensorBoard shows of a run: the settings, and by metric each step with its value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard")).Reload()
    (text,) = events.Tensors("settings/text_summary")[-1].tensor_proto.string_val
    metrics = {name: [(one.step, one.value) for one in events.Scalars(name)] for name in events.Tags()["scalars"]}
    return {"settings": json.loads(text.decode().strip("`json\n")), **metrics}


def in_wandb(out: Path) -> dict[str, Any]:
    """The same of the offline runs of all attempts, and how each ended.

    Their files are logs as LevelDB writes them, after seven bytes.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, Any] = {}
    for path in sorted(
        out.glob(f"wandb/offline-run-*/run-{json.loads((out / 'run.json').read_text())['key'][:12]}.wandb")
    ):
        content, at, buffer = path.read_bytes(), 7, b""
        while at + 7 <= len(content):
            _, length, kind = struct.unpack_from("<IHB", content, at)
            if kind == 0 or 2**15 - at % 2**15 < 7:  # the rest of a block is empty
                at += 2**15 - at % 2**15
                continue
            buffer, at = buffer + content[at + 7 : at + 7 + length], at + 7 + length
            if kind in (1, 4):  # a whole record, or the last part of one
                record, buffer = Record.FromString(buffer), b""
                for item in record.run.config.update:
                    found.setdefault("settings", {})[item.key] = json.loads(item.value_json)
                row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                for name, value in row.items():
                    found.setdefault(name, []).append((row["_step"], value))
                if record.HasField("exit"):
                    found.setdefault("exit codes", []).append(record.exit.exit_code)
    del found["settings"]["_wandb"]
    return found


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Path], dict[str, dict[str, Any]]]]:
    """`logged(out)`: by tracker, settings and metrics of a run. wandb is offline: a connection fails the test."""
    import wandb

    with socket.create_server(("127.0.0.1", 0)) as server:
        for name in ("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
        for name in ("CACHE", "CONFIG", "DATA"):
            monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb-of-the-user"))
        monkeypatch.setenv("WANDB_MODE", "offline")
        wandb.teardown()  # with the settings of an earlier test
        yield lambda out: {"tensorboard": in_tensorboard(out), "wandb": in_wandb(out)}
        wandb.teardown()
        server.setblocking(False)
        with suppress(BlockingIOError), server.accept()[0] as connection:
            connection.settimeout(10)
            pytest.fail(f"a connection was opened, which asked for {connection.recv(500)!r}")


@pytest.fixture(scope="session")
def make_model(random_clip: Callable[..., Path]) -> Callable[..., Path]:
    """`make_model(seed=0, bias=None)`: a model of random weights that knows the words of squares, of 24 tokens."""
    return partial(random_clip, [f"un quadrato {colour} {side}" for colour in COLOURS for side in SIDES])


@pytest.fixture(scope="session")
def encoder(small_bert: Callable[[str], Path]) -> Path:
    """A small BERT that knows the words of squares."""
    return small_bert(
        "un quadrato rosso verde blu giallo nero viola arancione azzurro in alto basso a destra sinistra c ' è ."
    )


@pytest.fixture(scope="session")
def pretrained(encoder: Path, timm_weights: Path) -> TrainConfig:
    """A small timm backbone, whose weights have its classifier as on timm's hub, and the small BERT."""
    named = {"image_tower": "test_efficientnet", "image_weights": str(timm_weights), "text_encoder": str(encoder)}
    return TrainConfig(**named, image_size=64, embed_dim=24, context_length=24, num_threads=1)


@pytest.fixture(scope="session")
def timm_and_bert(square_files: PairFiles, pretrained: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with linear heads over the two pretrained towers, as `align` makes."""
    folder = tmp_path_factory.mktemp("timm-and-bert")
    align(square_files, pretrained, AlignConfig(epochs=0, ridge=10.0), folder / "model", cache=folder / "cache")
    return folder / "model"


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`italian.json`, with a small image tower; the encoder is named by the settings."""
    found = read_model_config("italian")
    assert found["text_cfg"]["hf_model_name"] == "dbmdz/bert-base-italian-xxl-cased"
    found |= {"embed_dim": 32, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8}}
    path = tmp_path_factory.mktemp("model") / "small-italian.json"
    path.write_text(json.dumps(found))
    return path


@pytest.fixture(scope="session")
def dual_encoder(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small VisionTextDualEncoder with its processor, as transformers saves one."""
    import torch
    import transformers as hub

    folder = tmp_path_factory.mktemp("dual")
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision = hub.CLIPVisionConfig(**size, image_size=32, patch_size=16)
    text = hub.BertConfig(**size, vocab_size=99, max_position_embeddings=16)
    config = hub.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=8)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        hub.VisionTextDualEncoderModel(config).save_pretrained(folder)
    tokenizer = hub.PreTrainedTokenizerFast.from_pretrained(encoder, model_max_length=16)
    picture = hub.ViTImageProcessor(size={"height": 32, "width": 32})
    hub.VisionTextDualEncoderProcessor(picture, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def italian(square_files: PairFiles, model_file: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the architecture of `italian`, its image tower from random weights."""
    folder = tmp_path_factory.mktemp("italian")
    config = json.loads(model_file.read_text())
    del config["image_weights"]
    (folder / "italian.json").write_text(json.dumps(config))
    own = {"model": str(folder / "italian.json"), "text_encoder": str(encoder), "logit_scale": 20.0}
    train(square_files, TrainConfig(**own, num_threads=1, **SHORT), folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def compact(square_files: PairFiles, small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet beside open_clip's own text tower, as `compact` is."""
    folder = tmp_path_factory.mktemp("compact") / "model"
    train(square_files, small_run("resnet", **SHORT), folder)
    return folder


@pytest.fixture(scope="session")
def plain_clip(square_files: PairFiles, small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer beside open_clip's own text tower, trained by the sigmoid loss, which has a bias."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    train(square_files, small_run(loss="siglip", **SHORT), folder)
    return folder


@pytest.fixture(scope="session")
def run_killed_ten_times() -> Callable[..., None]:
    """`run(code, out, cache)`: start Python code again until it was killed at ten moments, then let it end.

    The code prints a line when its libraries are loaded, and writes these folders alone: they go where it ends first.
    """

    def run(code: str, out: Path, cache: Path) -> None:
        draw, kills, command = Random(5), 0, [sys.executable, "-c", code]
        while kills < 10:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
                assert child.stdout is not None
                child.stdout.readline()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(draw.uniform(0.05, 3.0))
                if child.returncode is None:
                    child.kill()
                    kills += 1
                    continue
            assert child.returncode == 0
            for folder in (out, cache):
                shutil.rmtree(folder)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    return run
