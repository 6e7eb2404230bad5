"""Describe the text towers that photo applications load, and check that one fits the image tower beside it.

Layouts and inputs were read in the sources of Immich (machine-learning/immich_ml) and Lap (src-tauri/src/t_ai.rs) in
December 2026. Torch is not imported.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.disk.files import read_json
from data_catalog.sample.scene import paint, place, random_scene
from training.data.images import Features
from training.towers.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE

MARK_FILE = "vernaclip.json"  # in a text tower of ours: its name in the application, and the features of the probe
NUM_PICTURES = 4
# Features of a picture by two exports of one image tower, one of them in 8 bits, have a higher cosine; those by two
# towers that were trained apart are about orthogonal.
MIN_IMAGE_COSINE = 0.8
MIN_TEXT_COSINE = 0.99
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The text tower of an application: its folder and graph, the graph's input and output, and known names."""

    title: str
    folder: str
    graph: str
    input: str
    output: str
    pads: bool  # queries are filled up to the model's context
    names: Mapping[int, str]  # separated by spaces, by number of features

    def checked_name(self, name: str, width: int) -> str:
        """Return the name under which the application knows a model of that width; the only one needs no choice."""
        known = self.names.get(width, "").split()
        if name in known or (not name and len(known) == 1):
            return name or known[0]
        if not known:
            refusal = f"{self.title} has no model with {width} features, as this one has"
            choices = f"make a tower for one of its models, which have {', '.join(map(str, self.names))}"
        else:
            wrong = f"{self.title} knows no model {name!r} with {width} features"
            refusal = wrong if name else f"name {self.title}'s model"
            choices = f"choose one with --as: {', '.join(known)}"
        raise SettingsError(f"{refusal}: {choices}")


# Names and widths of Immich's server; without those of M-CLIP and NLLB, which read other inputs.
APPS: Mapping[str, App] = {
    "immich": App(
        title="Immich",
        folder="textual",
        graph="model.onnx",
        input="text",
        output="text_features",
        pads=True,
        names={
            512: "ViT-B-32__openai ViT-B-32__laion2b-s34b-b79k ViT-B-32__laion2b_e16 ViT-B-32__laion400m_e31 "
            "ViT-B-32__laion400m_e32 ViT-B-16__openai ViT-B-16__laion400m_e31 ViT-B-16__laion400m_e32 RN101__openai "
            "RN101__yfcc15m XLM-Roberta-Base-ViT-B-32__laion5b_s13b_b90k",
            640: "RN50x4__openai ViT-B-16-plus-240__laion400m_e31 ViT-B-16-plus-240__laion400m_e32",
            768: "ViT-L-14__openai ViT-L-14-336__openai ViT-L-14__laion2b-s32b-b82k ViT-L-14__laion400m_e31 "
            "ViT-L-14__laion400m_e32 ViT-L-14-quickgelu__dfn2b RN50x16__openai ViT-B-16-SigLIP__webli "
            "ViT-B-16-SigLIP-256__webli ViT-B-16-SigLIP-384__webli ViT-B-16-SigLIP-512__webli "
            "ViT-B-16-SigLIP-i18n-256__webli ViT-B-16-SigLIP2__webli ViT-B-32-SigLIP2-256__webli",
            1024: "ViT-H-14__laion2b-s32b-b79k ViT-H-14-quickgelu__dfn5b ViT-H-14-378-quickgelu__dfn5b "
            "ViT-g-14__laion2b-s12b-b42k RN50__openai RN50__cc12m RN50__yfcc15m RN50x64__openai "
            "ViT-L-16-SigLIP-256__webli ViT-L-16-SigLIP-384__webli ViT-L-16-SigLIP2-256__webli "
            "ViT-L-16-SigLIP2-384__webli ViT-L-16-SigLIP2-512__webli "
            "XLM-Roberta-Large-ViT-H-14__frozen_laion5b_s13b_b90k",
            1152: "ViT-SO400M-14-SigLIP-384__webli ViT-SO400M-14-SigLIP2__webli ViT-SO400M-14-SigLIP2-378__webli "
            "ViT-SO400M-16-SigLIP2-256__webli ViT-SO400M-16-SigLIP2-384__webli ViT-SO400M-16-SigLIP2-512__webli",
            1536: "ViT-gopt-16-SigLIP2-256__webli ViT-gopt-16-SigLIP2-384__webli",
        },
    ),
    "lap": App(
        title="Lap",
        folder="multilingual",
        graph="text_model.onnx",
        input="input_ids",
        output="text_embeds",
        pads=False,
        names={512: "multilingual"},
    ),
}


def drops_punctuation(name: str) -> bool:
    """Return whether Immich removes capitals and punctuation from queries for a model, as its open_clip config says."""
    return "SigLIP" in name


def context_of(app: App, name: str) -> int | None:
    """Return the length to which an application fills up the tokens of a query; None if it does not."""
    return None if not app.pads else 64 if drops_punctuation(name) else 77


def app_tokenizer(folder: Path, context: int | None) -> Tokenizer:
    """Open the tokenizer of a text tower as the application does, which fills up and cuts off to a context."""
    tokenizer: Tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    if context is not None:
        pad = str(read_json(folder / TOKENIZER_CONFIG_FILE)["pad_token"])
        tokenizer.enable_padding(length=context, pad_token=pad, pad_id=tokenizer.token_to_id(pad))
        tokenizer.enable_truncation(max_length=context)
    return tokenizer


def encode_texts(graph: Path, tokenizer: Tokenizer, texts: Sequence[str]) -> Features:
    """Return features of texts by a graph, each alone as queries are: 8 bits round a batch by its largest number."""
    session = _session(graph)
    (wanted,) = session.get_inputs()
    kind = np.int32 if "int32" in wanted.type else np.int64
    encoded = (np.array([tokenizer.encode(text).ids], dtype=kind) for text in texts)
    return np.concatenate([session.run(None, {wanted.name: ids})[0] for ids in encoded])


def _session(graph: Path) -> Any:
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def probe_pictures(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return drawn scenes of a size, shape (pictures, size, size, 3)."""
    drawn = []
    for seed in range(NUM_PICTURES):
        rng = Random(seed)
        drawn.append(np.asarray(paint(place(random_scene(rng), rng)).resize((size, size))))
    return np.stack(drawn)


def require_fit(tower: Path, app: App, context: int | None, image_tower: Path | None) -> float | None:
    """Refuse a text tower that gives other features than when it was exported, or an image tower of another space.

    Returns the mean cosine of the image tower's features of the probe with those of the model's own image tower; None
    without an image tower.
    """
    mark = read_json(tower / MARK_FILE)
    texts = encode_texts(tower / app.graph, app_tokenizer(tower, context), list(mark["texts"]))
    _require_close(texts, mark["texts"].values(), MIN_TEXT_COSINE, f"{tower} gives other features than when exported")
    if image_tower is None:
        return None
    session = _session(image_tower)
    (wanted,) = session.get_inputs()
    outputs = [each.name for each in session.get_outputs()]
    name = "image_embeds" if "image_embeds" in outputs else outputs[0]
    stated = image_tower.with_name("preprocess_cfg.json")
    found = read_json(stated) if stated.is_file() else {}
    features = []
    for picture in probe_pictures(int(mark["image_size"])):
        pixels = (picture / 255 - found.get("mean", _CLIP_MEAN)) / found.get("std", _CLIP_STD)
        raw = picture if "uint8" in wanted.type else pixels.transpose(2, 0, 1).astype(np.float32)
        features.append(session.run([name], {wanted.name: raw[None]})[0][0])
    what = f"the image tower {image_tower} is not that of the model which this text tower was made for"
    return _require_close(np.stack(features), mark["images"], MIN_IMAGE_COSINE, what)


def _require_close(found: Features, stored: Iterable[Any], least: float, what: str) -> float:
    """Return the mean cosine of rows with stored unit rows; refuse less, and rows of another width."""
    wanted, cosine = np.array(list(stored)), 0.0
    if found.shape == wanted.shape:
        cosine = float(((found / np.linalg.norm(found, axis=1, keepdims=True)) * wanted).sum(axis=1).mean())
    if not cosine >= least:
        raise InputError(
            f"{what}: the probe's features of {len(wanted)} inputs have a mean cosine of {cosine:.2f} with those of "
            f"the export, less than {least}. Install an export of a student of that image tower. Nothing was changed"
        )
    return cosine
