"""Fixtures shared by all tests."""

import gc
import json
import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from data_catalog.catalog.work import Commit

# A busy machine is no defect: no test fails for being slow. `make real` names the profile "thorough".
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=200)
settings.load_profile("quick")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names of tests are the same in each process; gzip notes the time in its bytes, which would be part of them."""
    return argname if isinstance(val, bytes) else None


LONGEST = {"test_services.py", "test_public_api.py", "test_mt_train.py", "test_hugging_face_models.py"}


def pytest_configure() -> None:
    """Leave out garbage collection while tests and what they import are collected: it takes a tenth of the time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave what was imported out of collections to come."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: a process of `make test` that began one at the end would be at work alone."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real upstream samples; tests that use it are marked `real_data`."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real_data: {SHARED_DATA} is absent")
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def _processes_hear_ctrl_c() -> Iterator[None]:
    """Of what is started in the background, as by `make test &`, a shell has Ctrl-C ignored, and all that it starts."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _no_log_levels_of_earlier_tests() -> None:
    """A command run in this process sets its packages' levels (`--quiet`), which would hide what a later test reads."""
    for package in ("flows", "data_catalog", "translation", "cleaning", "training"):
        logging.getLogger(package).setLevel(logging.NOTSET)


SMALL_TEXT = {"context_length": 24, "width": 32, "heads": 2, "layers": 1, "hf_tokenizer_name": "tokenizer"}
SMALL_MODEL = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {**SMALL_TEXT, "vocab_size": 400},
}


@pytest.fixture(scope="session")
def small_model() -> str:
    """A model config, as JSON, that trains an epoch of the small sample in seconds."""
    return json.dumps(SMALL_MODEL)


@pytest.fixture(scope="session")
def random_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`random_clip(captions, seed=0, bias=None)`: a small model with random weights, and a tokenizer of captions."""

    def make(captions: Sequence[str], seed: int = 0, bias: float | None = None) -> Path:
        import torch

        from training.towers.model import WEIGHTS_FILE, create_model, save_weights, write_model_config
        from training.towers.tokenizer import save_tokenizer, train_tokenizer

        folder = tmp_path_factory.mktemp("clip")
        tokenizer = train_tokenizer(captions, vocab_size=400)
        save_tokenizer(tokenizer, folder, context_length=24)
        config = {**SMALL_MODEL, "text_cfg": {**SMALL_TEXT, "vocab_size": tokenizer.get_vocab_size()}}
        config |= {} if bias is None else {"init_logit_bias": bias}
        write_model_config(folder, config)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            save_weights(create_model(config, folder), folder / WEIGHTS_FILE)
        return folder

    return make


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`processor("fp32")`: as on a processor without instructions for bfloat16; "bf16": on one that has them."""

    def change(native: str) -> None:
        for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(f"torch.cpu.{probe}", lambda: native == "bf16")

    return change


@pytest.fixture(scope="session")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`small_bert(words)`: a folder as the hub has them: a small BERT with its pooler, and a tokenizer of words."""

    def make(words: str) -> Path:
        import torch
        from transformers import BertConfig, BertModel, BertTokenizerFast

        folder, vocabulary = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("words") / "vocab.txt"
        known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words.split(), "[MASK]"]
        vocabulary.write_text("\n".join(known))
        BertTokenizerFast(str(vocabulary)).save_pretrained(folder)
        torch.manual_seed(6)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = BertConfig(vocab_size=len(known), max_position_embeddings=95, initializer_range=0.2, **sizes)
        BertModel(config).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def timm_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small timm backbone, with a classifier as on timm's hub."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(6)
    path = tmp_path_factory.mktemp("timm") / "weights.safetensors"
    save_file(timm.create_model("test_efficientnet", num_classes=10).state_dict(), path)
    return path


class CallStep(Protocol):
    """Calls one step of the table, of shard 0 where it sees one."""

    def __call__(
        self,
        name: str,
        folder: Path,
        inputs: "Mapping[str, Path | Commit | Sequence[Path | Commit]]",
        settings: Mapping[str, Any],
        *,
        tools: Any = None,
    ) -> "Commit":
        """Return what the step writes below `folder`; a path among its inputs is another step's file."""


@pytest.fixture(scope="session")
def call_step() -> CallStep:
    """Call a step outside of a build."""
    from data_catalog.catalog.work import Commit, WorkStore
    from data_catalog.disk.files import sha256_of
    from flows.build.engine import PER_SHARD, call_of
    from flows.build.steps import STEPS

    steps = {step.name: step for step in STEPS}

    def commits(found: Any) -> tuple[Commit, ...]:
        if isinstance(found, Path):
            return (Commit(folder=found.parent, files={found.name: sha256_of(found)}, facts={}),)
        return (found,) if isinstance(found, Commit) else tuple(commit for each in found for commit in commits(each))

    def call(
        name: str, folder: Path, inputs: Mapping[str, Any], settings: Mapping[str, Any], *, tools: Any = None
    ) -> Commit:
        read = {step: commits(found) for step, found in inputs.items()}
        number = 0 if steps[name].scope is PER_SHARD else None
        return call_of(steps[name], read, settings, work=WorkStore(folder), number=number, tools=tools)().commit

    return call
