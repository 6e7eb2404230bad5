"""The YAML at the head of a model card: what the Hugging Face hub reads of it."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from training.exports.card_data import CardData, SetScores, scored

# JSON's escapes are YAML's; these letters stand in no YAML text as they are.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def scalar(value: Any) -> str:
    """A text or number as a YAML scalar."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What nothing here can know of a model, and who publishes it says.

    Args:
        name: of the model.
        license: in the hub's spelling; "" states none.
        license_name: of one that the hub has no word for.
        license_link: to the text of that.
        dataset_hub_name: under which the dataset that it was trained on lies on the hub; None where it does not.
    """

    name: str
    license: str = ""
    license_name: str = ""
    license_link: str = ""
    dataset_hub_name: str | None = None


def card_head(publication: Publication, *, library: str, data: CardData) -> str:
    """The head, between its two lines of dashes.

    Args:
        library: that reads it: "open_clip", "transformers" or "onnx".
    """
    lines = ["---"]
    if data.seen is not None:
        lines += ["language:", f"- {scalar(data.seen.manifest['target_lang'])}"]
    stated = {
        "license": publication.license,
        "license_name": publication.license_name,
        "license_link": publication.license_link,
    }
    lines += [f"{key}: {scalar(value)}" for key, value in stated.items() if value]
    lines += [f"library_name: {library}", "pipeline_tag: zero-shot-image-classification"]
    lines += ["tags:", "- clip", "- image-text-retrieval", "- vernaclip"]
    dataset = publication.dataset_hub_name
    if dataset is not None:  # its own name would lead to whatever dataset of somebody else's is called so
        lines += ["datasets:", f"- {scalar(dataset)}"]
    results = [line for scores in scored(data) for line in _result(scores, data, dataset)]
    if results:
        lines += ["model-index:", f"- name: {scalar(publication.name)}", "  results:", *results]
    return "\n".join([*lines, "---"])


def _result(scores: SetScores, data: CardData, hub_name: str | None) -> Iterator[str]:
    of_all = [score for score in scores.scores if score["captions"] == "all"]
    images = "leak-free" if any(score["images"] == "leak-free" for score in of_all) else "all"
    chosen: Sequence[Any] = [score for score in of_all if score["images"] == images]
    if not chosen or scores.is_flattered:
        return
    yield from ("  - task:", "      type: image-text-retrieval", "    dataset:")
    yield from _dataset(scores, data, hub_name)
    yield "    metrics:"
    for score in chosen:
        told = f"{score['name']}, of {score['gallery_size']:,}, 95 % {score['low']:.4f}-{score['high']:.4f}"
        yield f"    - type: {scalar(score['name'])}"
        yield f"      name: {scalar(told)}"
        yield f"      value: {score['value']:.6f}"


def _dataset(scores: SetScores, data: CardData, hub_name: str | None) -> Iterator[str]:
    if not scores.is_split:
        yield f"      name: {scalar(scores.name)}"
        yield f"      type: {scalar(scores.name)}"
        return
    dataset = data.seen.manifest["dataset"] if data.seen is not None else "held-out images"
    yield f"      name: {scalar(f'{dataset}, {scores.name} split')}"
    # The hub takes a type for the name of a dataset there, which none with a blank in it is.
    yield f"      type: {scalar(hub_name or f'{dataset} (not on the hub)')}"
    yield f"      split: {scalar(scores.name)}"
    if data.seen is not None and hub_name is None:  # there a revision is one of git's
        yield f"      revision: {scalar(data.seen.manifest['snapshot'])}"
