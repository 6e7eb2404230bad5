"""Write the model card: how to use a model, its architecture, training data, training, scores, limits and cost.

All texts from a dataset or recipe are escaped. The card contains no paths of the machine.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from data_catalog.base.errors import DamagedError, InputError
from data_catalog.catalog.manifest import RUN_FILE, SPLITS, Manifest, Snapshot, trained_on
from data_catalog.exports.card import METHOD, upstream_paper
from data_catalog.exports.counts import PairCounts, count_pairs
from data_catalog.exports.markdown import bullets, fenced_json, markdown_text, table
from data_catalog.exports.rights import FORBIDDEN, NONCOMMERCIAL, read_license
from data_catalog.rows.origins import CORRECTED, MACHINE_TRANSLATION, ORIGINS
from training.config import HELD_OUT
from training.exports.trained_folder import TrainedFolder
from training.runs.attempts import Attempt, read_attempts
from training.scores.rows import CAPTION_MODES, IMAGE_CHOICES, Board, ScoreRow, SetFacts
from training.towers.model_files import REMEDY
from training.towers.preprocessing import SQUASH
from training.towers.trained_models import EFFORT_FILE, SCORES_FILE

_EXACT = (
    "This export was compared with the trained model when it was written. On the same pixels and texts, features and "
    "cosines agree to 1e-4."
)
_SCORES = """Splits are held-out images of the training dataset. Other test sets are listed by name.
Intervals are 95 % bootstrap intervals. Scores on galleries of other sizes or images are not comparable."""
_TIME = """Time starts when data and model are loaded, and includes all attempts. Interrupted attempts count up to
their last resume state."""
_FROM_TEXT = (
    "The text tower learned from parallel sentences, as described under Training. The image tower is its teacher's, "
    "whose training data are not listed here."
)
_UNSEEN = "Unknown: the model's folder does not state the dataset and snapshot that it was trained on."
_LIMITS = (
    "It compares images and texts by overall similarity. Word order, negation, counting, and left and right are known "
    "to be hard for such models, and the scores do not measure them.",
    "It reproduces biases and gaps of its captions about gender, age, ethnicity and work.",
    "It is suited to search and to comparing models of this kind. It is not suited to decisions about people, "
    "surveillance, or judging safety.",
)
_OTHERS_WEIGHTS = (
    "It may have been initialised with pretrained weights. Limits and license terms of those weights and of their "
    "training data also apply."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """The facts about a model that its publisher states.

    Args:
        name: name of the model.
        license: id of the license on the hub, or "" if none is stated.
        license_name: name of a license without an id on the hub, where `license` is "other".
        license_link: address of its text, or "".
        dataset_hub_name: name of the training dataset on the hub. None if it is not there.
    """

    name: str
    license: str = ""
    license_name: str = ""
    license_link: str = ""
    dataset_hub_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """The snapshot that a model was trained on.

    Args:
        manifest: manifest of the snapshot.
        splits: counts of each split's pairs.
    """

    manifest: Manifest
    splits: Mapping[str, PairCounts]

    @property
    def language(self) -> str:
        """Return the language of the captions."""
        return str(self.manifest["target_lang"])

    def has_val(self, shards: Collection[str]) -> bool:
        """Return whether the val split is among the shards that a model learned from, given by their sha256."""
        pairs = self.manifest["files"]["pairs"]
        return any(entry["split"] == "val" and entry["sha256"] in shards for entry in pairs)

    def learned(self, shards: Collection[str]) -> PairCounts:
        """Return the counts of the pairs that a model learned from: the train split, and the val split if it did."""
        return self.splits["train"] + self.splits["val"] if self.has_val(shards) else self.splits["train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScores:
    """The scores of a model on one set of images.

    Args:
        name: name of the test set, or of the split of the training dataset.
        is_split: it is a split of the training dataset.
        scores: the scores.
        of_these_weights: the scores belong to the exported weights.
        notes: the scoreboard's notes on the set.
        is_flattered: the scores are too high, since all images were trained on or the epoch was chosen on them.
        language: language of the captions or class names. None if it was not recorded.
        is_compared: the set was compared with the training images.
    """

    name: str
    is_split: bool
    scores: tuple[ScoreRow, ...]
    of_these_weights: bool
    notes: tuple[str, ...] = ()
    is_flattered: bool = False
    language: str | None = None
    is_compared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CardData:
    """The contents of a card besides the model: its training data, its scores, and the time of its training.

    Args:
        seen: the training data. None if it is unknown, or its snapshot is not there.
        scores: scores by set.
        attempts: attempts of the training run.
    """

    seen: TrainingData | None
    scores: tuple[SetScores, ...]
    attempts: tuple[Attempt, ...]

    def scored(self) -> Iterator[SetScores]:
        """Yield the scores of the exported weights."""
        return (found for found in self.scores if found.of_these_weights)


def training_data(snapshot: Snapshot) -> TrainingData:
    """Count the pairs of a snapshot, without reading images."""
    counts = {split: count_pairs(snapshot.pair_files(split)) for split in SPLITS}
    return TrainingData(manifest=snapshot.manifest, splits=counts)


def card_data(
    folder: Path, seen: TrainingData | None, *, model_sha256: str, scoreboards: Sequence[Path] = ()
) -> CardData:
    """Read the scores and attempts in a model folder, and its scores in scoreboards.

    Args:
        folder: the model folder.
        seen: the training data, if it is known.
        model_sha256: sha256 of the weights.
        scoreboards: `scoreboard.json` files.

    Raises:
        InputError: a file is not a scoreboard, or has no score of these weights.
        DamagedError: a file of scores, or of time, is damaged.
    """
    language = seen.language if seen is not None else None
    paths = (folder / SCORES_FILE.format(split=split) for split in HELD_OUT)
    scores = [replace(_scores_of_split(path, model_sha256), language=language) for path in paths if path.is_file()]
    scores += [found for path in scoreboards for found in _scores_of_board(path, model_sha256)]
    return CardData(seen=seen, scores=tuple(scores), attempts=read_attempts(folder / EFFORT_FILE))


def _scores_of_split(path: Path, model_sha256: str) -> SetScores:
    board = Board.read(path)
    (facts,) = board.sets
    return SetScores(
        name=facts.name,
        is_split=True,
        scores=board.rows,
        of_these_weights=bool(board.with_weights(model_sha256)),
        notes=facts.notes,
        is_flattered=facts.name != "test",
    )


def _scores_of_board(path: Path, model_sha256: str) -> list[SetScores]:
    """Return a scoreboard's scores of these weights with unchanged texts, set by set, in its order."""
    board = Board.read(path)
    ours = board.with_weights(model_sha256)
    if not ours:
        raise InputError(f"{path} has no score of these weights ({model_sha256[:12]}): score this model first")
    scores = board.where(model=ours[0], minus=None)
    return [_scores_of_set(facts, scores.where(test_set=facts.name).rows, ours[0]) for facts in board.sets]


def _scores_of_set(facts: SetFacts, scores: tuple[ScoreRow, ...], model: str) -> SetScores:
    num_leaked = len(facts.leaked.get(model, {}))
    notes = list(facts.notes)
    if num_leaked:
        notes.append(
            f"of its {facts.num_images:,} images {num_leaked:,} are among those that the model was trained on, so "
            "scores over all images are too high"
        )
    language = None
    if (recorded := facts.language) is not None:
        # Prefer the language that most texts look like, then the stated one, then that of the models.
        shares = recorded.looks_like
        language = next((code for code, share in shares.items() if share > 1 / 2), recorded.stated or recorded.asked)
    return SetScores(
        name=facts.name,
        is_split=False,
        scores=scores,
        of_these_weights=True,
        notes=tuple(notes),
        is_flattered=num_leaked == facts.num_images or any("flatters the model" in note for note in notes),
        language=language,
        is_compared=bool(facts.compared.get(model)),
    )


def model_card(
    trained: TrainedFolder, data: CardData, publication: Publication, *, library: str, how_to_read: str
) -> str:
    """Return the card as Markdown with a YAML header.

    Args:
        trained: the trained model.
        data: training data, scores and attempts.
        publication: facts that the publisher states.
        library: hub name of the library that loads the export.
        how_to_read: Markdown that explains how to load the export.
    """
    scores = "\n\n".join([_SCORES, *map(_set_scores, data.scores)])
    papers: set[str] = set()
    if data.seen is not None:
        manifest = data.seen.manifest
        papers = {paper for source in manifest["sources"] if (paper := upstream_paper(manifest, source))}
    sections = {
        "How to use it": f"{how_to_read}\n\n{_EXACT}",
        "Architecture": _architecture(trained),
        "Training data": _training_data(trained, data.seen, publication.dataset_hub_name),
        "Training": _training(trained),
        "Scores": scores if data.scores else "The model has not been scored. Score it with `vernaclip evaluate`.",
        "Limits": limits_section(data, trained),
        "Time": cost_section(data.attempts),
        "Citation": bullets([METHOD, *sorted(papers)]),
    }
    parts = [
        f"---\n{_head(publication, library, data)}\n---",
        f"# {markdown_text(publication.name)}",
        _introduction(trained, data, publication),
        *(f"## {title}\n\n{text}" for title, text in sections.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _head(publication: Publication, library: str, data: CardData) -> str:
    """Return the YAML header, which the Hugging Face hub reads."""
    hub_name = publication.dataset_hub_name
    results = [result for scores in data.scored() for result in _results(scores, data.seen, hub_name)]
    return ModelCardData(
        language=None if data.seen is None else [data.seen.language],
        license=publication.license or None,
        license_name=publication.license_name or None,
        license_link=publication.license_link or None,
        library_name=library,
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "image-text-retrieval", "vernaclip"],
        # Without a hub name, the dataset's own name could link to another dataset on the hub.
        datasets=None if hub_name is None else [hub_name],
        model_name=publication.name if results else None,
        eval_results=results or None,
    ).to_yaml()


def _results(scores: SetScores, seen: TrainingData | None, hub_name: str | None) -> Iterator[EvalResult]:
    """Yield the hub's list of scores: those over all captions, on leak-free images if there are such scores."""
    if scores.is_flattered:
        return
    of_all = [score for score in scores.scores if score.captions == "all"]
    images = "leak-free" if any(score.images == "leak-free" for score in of_all) else "all"
    place: dict[str, Any] = {"dataset_name": scores.name, "dataset_type": scores.name}
    if scores.is_split:
        dataset = seen.manifest["dataset"] if seen is not None else "held-out images"
        place = {
            "dataset_name": f"{dataset}, {scores.name} split",
            # The hub takes a type without spaces for the name of one of its datasets.
            "dataset_type": hub_name or f"{dataset} (not on the hub)",
            "dataset_split": scores.name,
        }
        if seen is not None and hub_name is None:  # a revision on the hub would be a git commit
            place["dataset_revision"] = seen.manifest["snapshot"]
    for score in of_all:
        if score.images == images:
            yield EvalResult(
                task_type="image-text-retrieval",
                metric_type=score.metric,
                metric_value=round(score.value, 6),
                metric_name=f"{score.metric}, of {score.gallery:,}, 95 % {score.low:.4f}-{score.high:.4f}",
                **place,
            )


def _introduction(trained: TrainedFolder, data: CardData, publication: Publication) -> str:
    of = f" for the language `{markdown_text(data.seen.language)}`" if data.seen is not None else ""
    license = markdown_text(publication.license_name or publication.license)
    link = f" ({markdown_text(publication.license_link)})" if publication.license_link else ""
    terms = (
        f"The publisher states the license {license}{link}."
        if license
        else "No license is stated. The publisher chooses one within the terms of the training data."
    )
    return (
        f"A CLIP model{of}: it maps images and texts into one feature space. It was trained with vernaclip, by the "
        f"method of CLIP-Italian. Weights `{trained.loaded.sha256[:16]}`, run `{trained.run['key'][:12]}`. {terms}"
    )


def _architecture(trained: TrainedFolder) -> str:
    module, config = trained.loaded.module, trained.model_config
    vision, text = config["vision_cfg"], trained.text_config
    if "timm_model_name" in vision:
        joined = [vision, *(each["vision_cfg"] for each in config.get("joined_images", ()))]
        image_tower = f"timm's {markdown_text(' and '.join(str(each['timm_model_name']) for each in joined))}"
    elif isinstance(layers := vision.get("layers", 12), int):
        width, patch_size = vision.get("width", 768), vision.get("patch_size", 16)
        image_tower = f"vision transformer, {layers} layers of width {width}, patches of {patch_size} pixels"
    else:
        image_tower = f"ResNet, {'-'.join(map(str, layers))} blocks, first width {vision.get('width', 768)}"
    text_tower = f"transformer, {text.get('layers', 12)} layers of width {text.get('width', 512)}, causal"
    if trained.has_encoder:
        encoder, name = module.text.config, str(text["hf_model_name"])
        named = "" if Path(name).is_absolute() or Path(name).exists() else f" {markdown_text(name)},"
        pooled, projected = text.get("hf_pooler_type", "mean_pooler"), text.get("hf_proj_type", "mlp")
        sizes = f"{encoder.num_hidden_layers} layers of width {encoder.hidden_size}"
        text_tower = f"{markdown_text(encoder.model_type)},{named} {sizes}, `{pooled}`, `{projected}` projection"
        further = [tower.config.model_type for tower in getattr(module.text, "towers", [])[1:]]
        text_tower += "".join(f", joined with {markdown_text(kind)}" for kind in further)
    num_image, num_text = (
        sum(weight.numel() for weight in tower.parameters()) for tower in (module.visual, module.text)
    )
    bias = "" if trained.logit_bias is None else f", plus {trained.logit_bias:.4f}"
    preprocessing = trained.loaded.preprocessing
    resized = "squashed" if preprocessing.resize_mode == SQUASH else "cropped to the middle"
    images = f"{preprocessing.size} pixels square, {resized}, with {preprocessing.interpolation} interpolation"
    rows: list[list[object]] = [
        ["image tower", f"{image_tower}, {num_image:,} weights"],
        ["images", images],
        ["text tower", f"{text_tower}, {num_text:,} weights"],
        ["texts", f"up to {trained.context_length} tokens"],
        ["features", f"{config['embed_dim']} numbers"],
        ["logits", f"cosine times {trained.logit_scale:.4f}{bias}"],
        ["sha256 of the weights", f"`{trained.loaded.sha256}`"],
    ]
    for weights in trained.borrowed:
        license = f"license {markdown_text(weights['license'])}" if weights["license"] else "license not stated"
        part = f"initial weights of the {markdown_text(weights['tower'])} tower"
        rows.append([part, f"{markdown_text(weights['weights'])}, {license}"])
    return table(["part", "what"], rows)


def data_section(
    seen: TrainingData | None, hub_name: str | None = None, *, shards: Collection[str] = (), unseen: str = _UNSEEN
) -> str:
    """Return Markdown on the training data: dataset, snapshot, pairs by source and split, source terms, translation.

    Args:
        seen: the training data, if it is known.
        hub_name: name of the dataset on the hub. None if it is not there.
        shards: sha256 of the pair shards that the model learned from.
        unseen: what to say if the training data is not known.
    """
    if seen is None:
        return f"{unseen} The publisher names {markdown_text(hub_name)} on the hub." if hub_name else unseen
    manifest, train = seen.manifest, seen.learned(shards)
    rows: list[list[object]] = []
    for name, entry in sorted(manifest["sources"].items()):
        pairs = [
            f"{counts.of_source(counts.images, name):,} / {counts.of_source(counts.captions, name):,}"
            for counts in seen.splits.values()
        ]
        rows.append([markdown_text(name), markdown_text(entry["license"]), *pairs])
    listed = table(["source", "upstream's terms", *(f"{split}, images / captions" for split in seen.splits)], rows)
    on_hub = f", on the hub as {markdown_text(hub_name)}" if hub_name else ""
    head = f"The dataset {markdown_text(manifest['dataset'])}, snapshot {markdown_text(manifest['snapshot'])}{on_hub}."
    captions = sum(train.captions.values())
    translation = (
        f"Of {captions:,} training captions, machine translation made {train.makers()}"
        if captions
        else "Its train split has no captions."
    )
    used = "The train and the val split were" if seen.has_val(shards) else "Only the train split was"
    own = {entry["sha256"] for entry in manifest["files"]["pairs"]}
    others = "" if own.issuperset(shards) else " The model that it started from, or its teacher, had seen other images."
    return f"{head} {translation} {used} used for training.{others}\n\n{listed}\n\n{_licenses(train)}"


def _licenses(train: PairCounts) -> str:
    """Return a sentence on the licenses of single training images, as far as rows state them."""
    names = ("forbid commercial use", "forbid changed copies", "have an unknown license", "state no license")
    counts = dict.fromkeys(names, 0)
    for (_, text), count in train.licenses.items():
        license = read_license(text)
        if not (text and text.strip()):
            counts["state no license"] += count
        elif license is None:
            counts["have an unknown license"] += count
        elif license.passing_on == NONCOMMERCIAL:
            counts["forbid commercial use"] += count
        elif license.passing_on == FORBIDDEN:
            counts["forbid changed copies"] += count
    parts = [f"{count:,} {what}" for what, count in counts.items() if count]
    total = sum(train.licenses.values())
    others = "; the others are free" if sum(counts.values()) < total else ""
    found = f"{', '.join(parts)}{others}" if parts else "all are free according to their licenses"
    return f"Of {total:,} training images, {found}. Whether image licenses apply to a model is a legal question."


def _training(trained: TrainedFolder) -> str:
    result, lesson = trained.result, learned_from(trained)
    loss = "" if result.best_val_loss is None else f", validation loss {result.best_val_loss:.4f}"
    what = "Parallel sentences" if _is_student(trained) else "Images"
    summary = (
        f"{what}: {result.num_samples:,}. Epochs: {result.epochs}, of which {result.frozen_epochs} with frozen towers. "
        f"Steps: {result.steps:,}. The weights are those of epoch {result.best_epoch}{loss}. Settings that decided "
        "the result:"
    )
    if lesson is not None:
        origins = ", ".join(
            f"{count:,} {ORIGINS.get(name, 'of unstated origin')}" for name, count in lesson["origins"].items()
        )
        later = "" if _is_student(trained) else "Later, the model was trained with images. "
        summary = (
            "The text tower learned from text alone, without images: it gives translations the features that a teacher "
            f"({markdown_text(lesson['teacher'])}) gives the source sentences. Its image tower was the teacher's. "
            f"Origins of the translations: {origins}. {later}{summary}"
        )
    return f"{summary}\n\n{fenced_json(trained.run['settings'])}"


def _training_data(trained: TrainedFolder, seen: TrainingData | None, hub_name: str | None) -> str:
    """Return Markdown on the training data: those of a dataset, parallel sentences, or both."""
    lesson, unseen = learned_from(trained), _UNSEEN
    if (stated := trained_on(trained.folder)) is not None:
        dataset, snapshot = map(markdown_text, stated)
        unseen = f"The dataset {dataset}, snapshot {snapshot}, which was not there when the model was exported."
    of_dataset = data_section(seen, hub_name, shards=trained.learned, unseen=unseen)
    if lesson is None or not _is_student(trained):
        return of_dataset
    return (
        f"{_FROM_TEXT} The sentences are captions of a dataset.\n\n{of_dataset}"
        if lesson["is_of_dataset"]
        else _FROM_TEXT
    )


def _is_student(trained: TrainedFolder) -> bool:
    """Return whether a model was distilled, and not trained with images after that."""
    return set(trained.run["settings"]) == {"model", "distil"}


def learned_from(trained: TrainedFolder) -> dict[str, Any] | None:
    """Return teacher, number of pairs and origins of a distilled model. None for a model that learned from images.

    Raises:
        DamagedError: its `run.json` does not state them.
    """
    found = trained.run["settings"].get("distil")
    if found is None:
        return None
    origins = found.get("origins") if isinstance(found, dict) else None
    is_valid = isinstance(origins, dict) and all(isinstance(count, int) for count in origins.values())
    if not is_valid or not isinstance(found.get("teacher"), str) or "is_of_dataset" not in found:
        raise DamagedError(f"{trained.folder / RUN_FILE} is damaged (its teacher or origins are not valid): {REMEDY}")
    return dict(found)


def _set_scores(scores: SetScores) -> str:
    where = f"The {markdown_text(scores.name)} split" if scores.is_split else markdown_text(scores.name)
    if not scores.of_these_weights:
        return f"{where}: its scores belong to other weights, and are left out."
    rows: list[list[object]] = [
        [
            *(markdown_text(text) for text in (score.metric, score.captions, score.images)),
            score.shown(score.value),
            f"{score.shown(score.low)}-{score.shown(score.high)}",
            score.gallery,
            score.queries,
        ]
        for score in scores.scores
    ]
    columns = ["metric", "captions", "images", "score", "95 % interval", "gallery", "queries"]
    used = {score.captions for score in scores.scores}
    notes = [f"Captions {mode}: {meaning}." for mode, meaning in CAPTION_MODES.items() if mode in used]
    if any(score.images != "all" for score in scores.scores):
        notes += [f"Images {choice}: {meaning}." for choice, meaning in IMAGE_CHOICES.items()]
    notes += [f"{markdown_text(note[:1].upper() + note[1:])}." for note in scores.notes]
    return f"{where}:\n\n{table(columns, rows)}\n\n{bullets(notes)}"


def limits_section(data: CardData, trained: TrainedFolder) -> str:
    """Return Markdown with the model's limits as a list, from specific to general ones."""
    return bullets([*_particular_limits(data, trained), *_LIMITS])


def _particular_limits(data: CardData, trained: TrainedFolder) -> Iterator[str]:
    result, settings = trained.result, trained.run["settings"]
    # Short training may end before all images were used.
    batch_size = settings.get("batch_size")
    shown = result.num_samples if batch_size is None else min(result.num_samples, result.steps * int(batch_size))
    some = f"{shown:,}" if shown == result.num_samples else f"at most {shown:,} of {result.num_samples:,}"
    lesson = learned_from(trained)
    if lesson is not None:  # a student, or a model that was trained from one
        origins, total = lesson["origins"], max(1, sum(lesson["origins"].values()))
        by_machine = sum(origins.get(name, 0) for name in (MACHINE_TRANSLATION, CORRECTED))
        unknown = sum(count for name, count in origins.items() if name not in ORIGINS)
        yield (
            f"Its text tower learned from {total:,} sentences. {by_machine / total:.0%} of the translations are by a "
            f"machine, {unknown / total:.0%} of unstated origin. What its teacher does not know, it does not know "
            "either."
        )
    if not _is_student(trained):
        yield (
            f"It was trained on {some} images; the CLIP of 2021 was trained on 400 million. It has no knowledge of "
            "things that resemble none of them."
        )
    yield from _languages(data)
    if data.seen is not None and not _is_student(trained):
        train = data.seen.learned(trained.learned)
        if by_machine := train.machine_translated():
            yield (
                f"Machine translation made {by_machine / sum(train.origins.values()):.1%} of its captions. It may have "
                "learned translation errors and unnatural wording, and may not know what native speakers would write."
            )
        if not data.seen.manifest["test_sets"]:
            others = [found for found in data.scored() if found.scores and not found.is_split]
            later = (
                "the scored test sets were compared with the training images, others may contain some of them"
                if others and all(found.is_compared for found in others)
                else "its test sets may contain training images"
            )
            yield f"No test set was guarded while the dataset was built: {later}."
    yield "Scores of a split are on images similar to the training images, and say little about other images."
    if trained.has_encoder or settings.get("lock_image"):
        yield _OTHERS_WEIGHTS


def _languages(data: CardData) -> Iterator[str]:
    """Yield sentences on the languages in which the model was trained and scored, as far as they were recorded."""
    sets = [found for found in data.scored() if found.scores]
    measured = sorted({found.language for found in sets if found.language is not None})
    unnoted = sorted({found.name for found in sets if found.language is None})
    trained = data.seen.language if data.seen is not None else None
    if trained is not None:
        yield f"It was trained on captions in one language, {_codes([trained])}, and in no other."
    if unnoted:
        names = ", ".join(markdown_text(name) for name in unnoted)
        yield f"The language of the texts of {names} was not recorded. Scores say nothing about other languages."
    if measured:
        foreign = sorted(set(measured) - {trained}) if trained is not None else []
        also = f", but was never trained in {_codes(foreign)}" if foreign else ""
        rest = "" if unnoted else " and in no others"
        yield f"It was scored in {_codes(measured)}{rest}{also}. Its quality in other languages is unknown."
    elif not unnoted:
        yield "It has not been scored in any language."


def _codes(languages: list[str]) -> str:
    return " and ".join(f"`{markdown_text(language)}`" for language in languages)


def cost_section(attempts: Sequence[Attempt]) -> str:
    """Return Markdown on the time and hardware of all attempts together."""
    if not attempts:
        return f"Unknown: `{EFFORT_FILE}`, which training writes, was removed."
    hardware = sorted({markdown_text(name) for found in attempts for name in found.hardware})
    machines = max(found.processes for found in attempts)
    together = f" Up to {machines} processes trained together. The numbers are those of the first one's machine." * (
        machines > 1
    )
    tries = f"{len(attempts)} attempts" if len(attempts) > 1 else "one attempt"
    time = f"{duration(sum(found.seconds for found in attempts))} in {tries}, on {', '.join(hardware)}.{together}"
    return f"{time}\n\n{_TIME}"


def duration(seconds: float) -> str:
    """Return a duration as text, such as "2 h 5 min 7 s"."""
    whole = round(seconds)
    parts = [(whole // 3600, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "less than a second"
