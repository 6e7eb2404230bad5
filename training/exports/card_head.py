"""The YAML at the head of a model card: what the Hugging Face hub reads of it."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from training.exports.card_data import CardData, SetScores, scored

# JSON's escapes are YAML's; these letters stand in no YAML text as they are.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def scalar(value: Any) -> str:
    """A text or number as a YAML scalar."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def card_head(*, name: str, library: str, licence: str, data: CardData) -> str:
    """The head, between its two lines of dashes.

    Args:
        name: of the model.
        library: that reads it: "open_clip", "transformers" or "onnx".
        licence: in the hub's spelling; "" says nothing.
    """
    lines = ["---"]
    if data.seen is not None:
        lines += ["language:", f"- {scalar(data.seen.manifest['target_lang'])}"]
    if licence:
        lines.append(f"license: {scalar(licence)}")
    lines += [f"library_name: {library}", "pipeline_tag: zero-shot-image-classification"]
    lines += ["tags:", "- clip", "- image-text-retrieval", "- vernaclip"]
    if data.seen is not None:
        lines += ["datasets:", f"- {scalar(data.seen.manifest['dataset'])}"]
    results = [line for scores in scored(data) for line in _result(scores, data)]
    if results:
        lines += ["model-index:", f"- name: {scalar(name)}", "  results:", *results]
    return "\n".join([*lines, "---"])


def _result(scores: SetScores, data: CardData) -> Iterator[str]:
    of_all = [score for score in scores.scores if score["captions"] == "all"]
    images = "leak-free" if any(score["images"] == "leak-free" for score in of_all) else "all"
    chosen: Sequence[Any] = [score for score in of_all if score["images"] == images]
    if not chosen or scores.is_flattered:
        return
    yield from ("  - task:", "      type: image-text-retrieval", "    dataset:")
    yield from _dataset(scores, data)
    yield "    metrics:"
    for score in chosen:
        told = f"{score['name']}, of {score['gallery_size']:,}, 95 % {score['low']:.4f}-{score['high']:.4f}"
        yield f"    - type: {scalar(score['name'])}"
        yield f"      name: {scalar(told)}"
        yield f"      value: {score['value']:.6f}"


def _dataset(scores: SetScores, data: CardData) -> Iterator[str]:
    if not scores.is_split:
        yield f"      name: {scalar(scores.name)}"
        yield f"      type: {scalar(scores.name)}"
        return
    dataset = data.seen.manifest["dataset"] if data.seen is not None else "held-out images"
    yield f"      name: {scalar(f'{dataset}, {scores.name} split')}"
    yield f"      type: {scalar(dataset)}"
    yield f"      split: {scalar(scores.name)}"
    if data.seen is not None:
        yield f"      revision: {scalar(data.seen.manifest['snapshot'])}"
