"""The model card: what a model is, how it is read, what it saw, how it was trained, how it scores, what it cost.

Every text that comes from a dataset or a recipe is escaped. Nothing in it says where on a machine anything lay.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.exports.card import METHOD, upstream_paper
from data_catalog.exports.markdown import bullets, fenced_json, markdown_text, table
from training.exports import card_texts
from training.exports.card_data import CardData, SetScores
from training.exports.card_head import Publication, card_head
from training.exports.card_limits import data_section, limits_section
from training.exports.source import TrainedFolder
from training.fit.effort import Attempt
from training.scores.score import CAPTION_MODES, IMAGE_CHOICES
from training.trained_models import EFFORT_FILE

_JOULES_IN_KWH = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFormat:
    """What a card says of the format that it lies in.

    Args:
        library: as the hub calls it.
        loading: Markdown that says how the folder is read.
        lacks: what the format cannot hold of the model, in sentences.
    """

    library: str
    loading: str
    lacks: tuple[str, ...] = ()


def model_card(trained: TrainedFolder, data: CardData, told: CardFormat, publication: Publication) -> str:
    """The whole card, as Markdown with its YAML head."""
    sections = [
        f"# {markdown_text(publication.name)}",
        _introduction(trained, data, publication),
        f"## How to read it\n\n{_loading(told)}",
        f"## Architecture\n\n{_architecture(trained)}",
        f"## What it saw\n\n{data_section(data.seen, publication.dataset_hub_name)}",
        f"## How it was trained\n\n{_training(trained)}",
        f"## Scores\n\n{_scores(data)}",
        f"## Limits\n\n{limits_section(data, trained)}",
        f"## Time and energy\n\n{cost_section(data.attempts)}",
        f"## What to cite\n\n{bullets(_references(data))}",
    ]
    head = card_head(publication, library=told.library, data=data)
    return f"{head}\n\n" + "\n\n".join(sections) + "\n"


def _introduction(trained: TrainedFolder, data: CardData, publication: Publication) -> str:
    of = f" for the language `{markdown_text(data.seen.manifest['target_lang'])}`" if data.seen is not None else ""
    license = markdown_text(publication.license_name or publication.license)
    link = f" ({markdown_text(publication.license_link)})" if publication.license_link else ""
    terms = (
        f"Whoever published it states the license {license}{link}."
        if license
        else "No license is stated: who publishes it decides, within the terms of what it was trained on."
    )
    return (
        f"A CLIP model{of}: pictures and texts as points in one space, trained by vernaclip after the method of "
        f"CLIP-Italian. Weights `{trained.loaded.sha256[:16]}`, run `{str(trained.run.get('key', ''))[:12]}`. {terms}"
    )


def _loading(told: CardFormat) -> str:
    lacks = f"\n\nWhat this format does not hold:\n\n{bullets(told.lacks)}" if told.lacks else ""
    return f"{told.loading}\n\n{card_texts.EXACT} to 1e-4.{lacks}"


def _architecture(trained: TrainedFolder) -> str:
    module, config = trained.loaded.module, trained.model_config
    towers = {"image": module.visual, "text": module.text}
    sizes = {name: sum(weight.numel() for weight in tower.parameters()) for name, tower in towers.items()}
    bias = "" if trained.logit_bias is None else f", plus {trained.logit_bias:.4f}"
    rows: list[list[object]] = [
        ["image tower", f"{_image_tower(config['vision_cfg'])}, {sizes['image']:,} weights"],
        ["images", f"{trained.loaded.image_size} pixels square, squashed by a bicubic filter"],
        ["text tower", f"{_text_tower(trained)}, {sizes['text']:,} weights"],
        ["texts", f"up to {trained.context_length} tokens"],
        ["features", f"{config['embed_dim']} numbers"],
        ["logits", f"cosine times {trained.logit_scale:.4f}{bias}"],
        ["sha256 of the weights", f"`{trained.loaded.sha256}`"],
    ]
    return table(["part", "what"], rows)


def _image_tower(vision: Mapping[str, Any]) -> str:
    if "timm_model_name" in vision:
        return f"timm's {markdown_text(str(vision['timm_model_name']))}"
    layers, width = vision.get("layers", 12), vision.get("width", 768)
    if isinstance(layers, int):
        return f"vision transformer, {layers} layers of {width}, patches of {vision.get('patch_size', 16)}"
    return f"ResNet, {'-'.join(map(str, layers))} blocks, from width {width}"


def _text_tower(trained: TrainedFolder) -> str:
    text = trained.text_config
    if not trained.has_encoder:
        return f"transformer, {text.get('layers', 12)} layers of {text.get('width', 512)}, causal"
    encoder = trained.loaded.module.text.config
    name = str(text["hf_model_name"])
    named = "" if Path(name).is_absolute() or Path(name).exists() else f" {markdown_text(name)},"
    pooled, projected = text.get("hf_pooler_type", "mean_pooler"), text.get("hf_proj_type", "mlp")
    sizes = f"{encoder.num_hidden_layers} layers of {encoder.hidden_size}"
    return f"{markdown_text(encoder.model_type)},{named} {sizes}, `{pooled}`, `{projected}` projection"


def _training(trained: TrainedFolder) -> str:
    result, settings = trained.result, dict(trained.run.get("settings", {}))
    loss = "" if result.best_val_loss is None else f", validation loss {result.best_val_loss:.4f}"
    told = (
        f"Images: {result.num_samples:,}. Epochs: {result.epochs}, of which {result.frozen_epochs} with frozen towers. "
        f"Steps: {result.steps:,}. The weights are those of epoch {result.best_epoch}{loss}. Settings that decided "
        "what came out:"
    )
    return f"{told}\n\n{fenced_json(settings)}"


def _scores(data: CardData) -> str:
    if not data.scores:
        return "Nobody has scored it: `vernaclip evaluate` does."
    parts = [_set_scores(scores) for scores in data.scores]
    return "\n\n".join([card_texts.SCORES, *parts])


def _set_scores(scores: SetScores) -> str:
    where = f"The {markdown_text(scores.name)} split" if scores.is_split else markdown_text(scores.name)
    if not scores.of_these_weights:
        return f"{where}: its scores are of other weights, and are left out."
    rows: list[list[object]] = [
        [
            markdown_text(score["name"]),
            markdown_text(score["captions"]),
            markdown_text(score["images"]),
            _shown(score, "value"),
            f"{_shown(score, 'low')}-{_shown(score, 'high')}",
            int(score["gallery_size"]),
            int(score["num_queries"]),
        ]
        for score in scores.scores
    ]
    columns = ["metric", "captions", "images", "score", "95 % interval", "gallery", "queries"]
    used = {score["captions"] for score in scores.scores}
    modes = [f"Captions {mode}: {meaning}." for mode, meaning in CAPTION_MODES.items() if mode in used]
    if any(score["images"] != "all" for score in scores.scores):
        modes += [f"Images {choice}: {meaning}." for choice, meaning in IMAGE_CHOICES.items()]
    modes += [f"{markdown_text(note[:1].upper() + note[1:])}." for note in scores.notes]
    return f"{where}:\n\n{table(columns, rows)}\n\n{bullets(modes)}"


def _shown(score: Mapping[str, Any], name: str) -> str:
    return f"{score[name]:.1f}" if score["name"].endswith("_rank") else f"{score[name]:.4f}"


def _references(data: CardData) -> Iterator[str]:
    yield METHOD
    if data.seen is not None:
        manifest = data.seen.manifest
        yield from sorted({paper for source in manifest["sources"] if (paper := upstream_paper(manifest, source))})


def cost_section(attempts: Sequence[Attempt]) -> str:
    """Time, hardware and energy of all attempts together."""
    if not attempts:
        return f"Not known: `{EFFORT_FILE}`, where training notes it, was removed."
    hardware = sorted({markdown_text(name) for found in attempts for name in found.hardware})
    machines = max(found.processes for found in attempts)
    together = f" Up to {machines} processes trained together; what follows is of the first one's machine." * (
        machines > 1
    )
    tries = f"{len(attempts)} attempts" if len(attempts) > 1 else "one attempt"
    time = f"{duration(sum(found.seconds for found in attempts))} in {tries}, on {', '.join(hardware)}.{together}"
    return f"{time}\n\n{bullets(_energy(attempts))}\n\n{card_texts.ENERGY}"


def duration(seconds: float) -> str:
    """Such as "2 h 5 min 7 s"."""
    whole = round(seconds)
    parts = [(whole // 3600, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "less than a second"


def _energy(attempts: Sequence[Attempt]) -> list[str]:
    """A line a counter, with how many attempts it was read in; then what was not measured, and why."""
    lines = []
    for name in sorted({name for found in attempts for name in found.joules}):
        read = [found.joules[name] for found in attempts if name in found.joules]
        some = "" if len(read) == len(attempts) else f", in {len(read)} of {len(attempts)} attempts"
        lines.append(f"{markdown_text(name)}: {sum(read) / _JOULES_IN_KWH:,.4f} kWh{some}")
    reasons = sorted({reason for found in attempts for reason in found.not_measured})
    return [*lines, *(f"Not measured: {markdown_text(reason)}" for reason in reasons)]
