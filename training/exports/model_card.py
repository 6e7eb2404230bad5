"""The model card: what a model is, how it is read, what it saw, how it was trained, how it scores, what it cost.

Every text that comes from a dataset or a recipe is escaped. Nothing in it says where on a machine anything lay.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from data_catalog.errors import DamagedError, InputError
from data_catalog.exports.card import METHOD, upstream_paper
from data_catalog.exports.counts import PairCounts, count_pairs
from data_catalog.exports.markdown import bullets, fenced_json, markdown_text, table
from data_catalog.exports.rights import FORBIDDEN, NONCOMMERCIAL, read_license
from data_catalog.storage.manifest import SPLITS, Manifest, Snapshot
from data_catalog.storage.shards import read_json
from training.exports.trained_folder import TrainedFolder
from training.fit.effort import Attempt, read_attempts
from training.scores.score import CAPTION_MODES, IMAGE_CHOICES, Score
from training.trained_models import EFFORT_FILE, SCORES_FILE

_JOULES_IN_KWH = 3_600_000
_NUMBERS = ("value", "low", "high", "gallery_size", "num_queries")  # of a score
_NO_RECORD = (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError)

_EXACT = (
    "Checked when it was written, against the model that was trained: the same pixels and texts, features and cosines "
    "to 1e-4."
)
_SCORES = """Splits are held-out images of the dataset that it was trained on; other sets have names of their own.
Intervals are 95 %, by bootstrap. Numbers of galleries of other sizes, or of other pictures, cannot be compared."""
_ENERGY = """Time counts from when data and model were loaded, over all attempts, interrupted ones up to their last
resume state. Counters of a processor are of the whole package, whatever else ran on it; memory, disks, fans and cooling
are in none unless they are named."""
_UNSEEN = """Nobody told: it was exported from its folder alone, which does not say which snapshot of which dataset it
was trained on. Export it by the dataset's name to have that here."""
_LIMITS = (
    "It puts pictures and texts near each other that look alike to it. Order, negation, counting, left and right are "
    "known to be hard for such models; scores do not show that.",
    "It repeats what its captions say of gender, age, ethnicity and work, and what they leave out.",
    "It is good for search and for comparing models of this kind. It is not good enough to decide about people with, "
    "to watch them, or to judge what is safe.",
)
_OTHERS_WEIGHTS = (
    "Its training may have begun with weights of others, which were trained on data of theirs: their limits and terms "
    "are in it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What nothing here can know of a model, and who publishes it says.

    Args:
        name: of the model.
        license: that the user states for it, in the hub's spelling; "" for none.
        license_name: of one that the hub has no word for, where `license` is "other".
        license_link: to the text of that; "" for none.
        dataset_hub_name: under which the dataset that it was trained on lies on the hub; None where it does not.
    """

    name: str
    license: str = ""
    license_name: str = ""
    license_link: str = ""
    dataset_hub_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenData:
    """The snapshot that a model was trained on.

    Args:
        manifest: of the snapshot.
        splits: counts of each split's pairs.
    """

    manifest: Manifest
    splits: Mapping[str, PairCounts]

    @property
    def language(self) -> str:
        """Return the language of the captions."""
        return str(self.manifest["target_lang"])


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScores:
    """Scores on one set of images.

    Args:
        name: of the set, or of the split of the model's own dataset.
        is_split: whether it is such a split.
        of_these_weights: whether they are of the weights that are exported.
        notes: what a scoreboard says of the set beside its numbers.
        is_flattered: whether the model was trained on images of it, all of them, or its epoch chosen on it.
        language: of its captions or class names; None where nobody noted it.
        is_compared: whether it was looked for among the images that the model was trained on.
    """

    name: str
    is_split: bool
    scores: tuple[Score, ...]
    of_these_weights: bool
    notes: tuple[str, ...] = ()
    is_flattered: bool = False
    language: str | None = None
    is_compared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CardData:
    """What a card tells beside the model itself: the data that it saw, its scores, what its training cost.

    Args:
        seen: None where a folder alone is exported, which does not say what was trained on.
    """

    seen: SeenData | None
    scores: tuple[SetScores, ...]
    attempts: tuple[Attempt, ...]

    def scored(self) -> Iterator[SetScores]:
        """Yield the scores of the weights that are exported."""
        return (found for found in self.scores if found.of_these_weights)


def seen_data(snapshot: Snapshot) -> SeenData:
    """Count the pairs of a snapshot; pixels are not read."""
    counts = {split: count_pairs(snapshot.pair_files(split)) for split in SPLITS}
    return SeenData(manifest=snapshot.manifest, splits=counts)


def card_data(folder: Path, seen: SeenData | None, *, model_sha256: str, scoreboards: Sequence[Path] = ()) -> CardData:
    """Read what lies beside a trained model, and what scoreboards say of it.

    Args:
        scoreboards: `scoreboard.json` files.

    Raises:
        InputError: a scoreboard is none, or has no score of these weights.
        DamagedError: a file of scores, or of time and energy, is damaged.
    """
    language = seen.language if seen is not None else None
    paths = sorted(folder.glob(SCORES_FILE.format(split="*")))
    scores = [replace(_scores_of_split(path, model_sha256), language=language) for path in paths]
    scores += [found for path in scoreboards for found in _scores_of_board(path, model_sha256)]
    return CardData(seen=seen, scores=tuple(scores), attempts=read_attempts(folder / EFFORT_FILE))


def _scores_of_split(path: Path, model_sha256: str) -> SetScores:
    try:
        found = read_json(path)
        return SetScores(
            name=str(found["split"]),
            is_split=True,
            scores=tuple(map(_score, found["scores"])),
            of_these_weights=found["model_sha256"] == model_sha256,
        )
    except _NO_RECORD as error:
        raise DamagedError(
            f"{path} is no file of scores ({type(error).__name__}: {error}): remove it, and evaluate the model again"
        ) from error


def _scores_of_board(path: Path, model_sha256: str) -> list[SetScores]:
    """Return its scores of these weights, asked in no other words, set by set, in its order."""
    weights = f"weights {model_sha256[:12]}"
    try:
        board = read_json(path)
        # A model whose queries are translated has more behind that in its origin.
        ours = [str(model["name"]) for model in board["models"] if model["origin"].endswith(weights)]
        if not ours:
            raise InputError(f"{path} has no score of these weights ({model_sha256[:12]}): score this model first")
        return [_scores_of_set(facts, board["entries"], ours[0]) for facts in board["sets"]]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except _NO_RECORD as error:
        raise InputError(f"{path} is no scoreboard.json ({type(error).__name__}: {error})") from error


def _scores_of_set(facts: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], model: str) -> SetScores:
    of_set = [entry["score"] for entry in entries if (entry["model"], entry["test_set"]) == (model, facts["name"])]
    num_leaked = len(facts["leaked"].get(model, {}))
    notes = [str(note) for note in facts["notes"]]
    if num_leaked:
        notes.append(
            f"of its {facts['num_images']:,} images {num_leaked:,} are among those that the model was trained on: the "
            "numbers over all images are in part of its memory"
        )
    language = None
    if (told := facts.get("language")) is not None:
        # What most of its texts look like, else what was stated or asked for.
        shares: Mapping[str, float] = told["looks_like"]
        language = next((code for code, share in shares.items() if share > 1 / 2), told["stated"] or told["asked"])
        if not isinstance(language, str):
            raise TypeError(f"language is {language!r}")
    return SetScores(
        name=str(facts["name"]),
        is_split=False,
        scores=tuple(map(_score, of_set)),
        of_these_weights=True,
        notes=tuple(notes),
        is_flattered=num_leaked == facts["num_images"] or any("flatters the model" in note for note in notes),
        language=language,
        is_compared=bool(facts["compared"].get(model)),
    )


def _score(values: Mapping[str, Any]) -> Score:
    kinds = dict.fromkeys(("name", "captions", "images"), str) | dict.fromkeys(_NUMBERS, int | float)
    told = {"images": "all", **values}
    for name, kind in kinds.items():
        if not isinstance(told[name], kind) or isinstance(told[name], bool):
            raise TypeError(f"{name} is {told[name]!r}")
    return Score(**{field.name: told[field.name] for field in fields(Score) if field.name in told})


def model_card(
    trained: TrainedFolder, data: CardData, publication: Publication, *, library: str, how_to_read: str
) -> str:
    """Return the whole card, as Markdown with its YAML head.

    Args:
        library: that reads the model, as the hub calls it.
        how_to_read: Markdown.
    """
    scores = "\n\n".join([_SCORES, *map(_set_scores, data.scores)])
    papers: set[str] = set()
    if data.seen is not None:
        manifest = data.seen.manifest
        papers = {paper for source in manifest["sources"] if (paper := upstream_paper(manifest, source))}
    sections = {
        "How to read it": f"{how_to_read}\n\n{_EXACT}",
        "Architecture": _architecture(trained),
        "What it saw": data_section(data.seen, publication.dataset_hub_name),
        "How it was trained": _training(trained),
        "Scores": scores if data.scores else "Nobody has scored it: `vernaclip evaluate` does.",
        "Limits": limits_section(data, trained),
        "Time and energy": cost_section(data.attempts),
        "What to cite": bullets([METHOD, *sorted(papers)]),
    }
    parts = [
        f"---\n{_head(publication, library, data)}\n---",
        f"# {markdown_text(publication.name)}",
        _introduction(trained, data, publication),
        *(f"## {title}\n\n{text}" for title, text in sections.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _head(publication: Publication, library: str, data: CardData) -> str:
    """Return the YAML at the head, which the Hugging Face hub reads."""
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
        # Its own name would lead to whatever dataset of somebody else's is called so.
        datasets=None if hub_name is None else [hub_name],
        model_name=publication.name if results else None,
        eval_results=results or None,
    ).to_yaml()


def _results(scores: SetScores, seen: SeenData | None, hub_name: str | None) -> Iterator[EvalResult]:
    """Yield what the hub lists: scores over all captions, of leak-free images where there are such scores."""
    if scores.is_flattered:
        return
    of_all = [score for score in scores.scores if score.captions == "all"]
    images = "leak-free" if any(score.images == "leak-free" for score in of_all) else "all"
    place: dict[str, Any] = {"dataset_name": scores.name, "dataset_type": scores.name}
    if scores.is_split:
        dataset = seen.manifest["dataset"] if seen is not None else "held-out images"
        place = {
            "dataset_name": f"{dataset}, {scores.name} split",
            # The hub takes a type for the name of a dataset there, which none with a blank in it is.
            "dataset_type": hub_name or f"{dataset} (not on the hub)",
            "dataset_split": scores.name,
        }
        if seen is not None and hub_name is None:  # there a revision is one of git's
            place["dataset_revision"] = seen.manifest["snapshot"]
    for score in of_all:
        if score.images == images:
            yield EvalResult(
                task_type="image-text-retrieval",
                metric_type=score.name,
                metric_value=round(score.value, 6),
                metric_name=f"{score.name}, of {score.gallery_size:,}, 95 % {score.low:.4f}-{score.high:.4f}",
                **place,
            )


def _introduction(trained: TrainedFolder, data: CardData, publication: Publication) -> str:
    of = f" for the language `{markdown_text(data.seen.language)}`" if data.seen is not None else ""
    license = markdown_text(publication.license_name or publication.license)
    link = f" ({markdown_text(publication.license_link)})" if publication.license_link else ""
    terms = (
        f"Whoever published it states the license {license}{link}."
        if license
        else "No license is stated: who publishes it decides, within the terms of what it was trained on."
    )
    return (
        f"A CLIP model{of}: pictures and texts as points in one space, trained by vernaclip after the method of "
        f"CLIP-Italian. Weights `{trained.loaded.sha256[:16]}`, run `{trained.run['key'][:12]}`. {terms}"
    )


def _architecture(trained: TrainedFolder) -> str:
    module, config = trained.loaded.module, trained.model_config
    vision, text = config["vision_cfg"], trained.text_config
    if "timm_model_name" in vision:
        image_tower = f"timm's {markdown_text(str(vision['timm_model_name']))}"
    elif isinstance(layers := vision.get("layers", 12), int):
        width, patch_size = vision.get("width", 768), vision.get("patch_size", 16)
        image_tower = f"vision transformer, {layers} layers of {width}, patches of {patch_size}"
    else:
        image_tower = f"ResNet, {'-'.join(map(str, layers))} blocks, from width {vision.get('width', 768)}"
    text_tower = f"transformer, {text.get('layers', 12)} layers of {text.get('width', 512)}, causal"
    if trained.has_encoder:
        encoder, name = module.text.config, str(text["hf_model_name"])
        named = "" if Path(name).is_absolute() or Path(name).exists() else f" {markdown_text(name)},"
        pooled, projected = text.get("hf_pooler_type", "mean_pooler"), text.get("hf_proj_type", "mlp")
        sizes = f"{encoder.num_hidden_layers} layers of {encoder.hidden_size}"
        text_tower = f"{markdown_text(encoder.model_type)},{named} {sizes}, `{pooled}`, `{projected}` projection"
    num_image, num_text = (
        sum(weight.numel() for weight in tower.parameters()) for tower in (module.visual, module.text)
    )
    bias = "" if trained.logit_bias is None else f", plus {trained.logit_bias:.4f}"
    rows: list[list[object]] = [
        ["image tower", f"{image_tower}, {num_image:,} weights"],
        ["images", f"{trained.loaded.image_size} pixels square, squashed by a bicubic filter"],
        ["text tower", f"{text_tower}, {num_text:,} weights"],
        ["texts", f"up to {trained.context_length} tokens"],
        ["features", f"{config['embed_dim']} numbers"],
        ["logits", f"cosine times {trained.logit_scale:.4f}{bias}"],
        ["sha256 of the weights", f"`{trained.loaded.sha256}`"],
    ]
    return table(["part", "what"], rows)


def data_section(seen: SeenData | None, hub_name: str | None = None) -> str:
    """Return dataset, snapshot, pairs by source and split, terms of the sources, translation.

    Args:
        hub_name: of the dataset; None where it is not there.
    """
    if seen is None:
        return f"{_UNSEEN} Whoever published it names {markdown_text(hub_name)} on the hub." if hub_name else _UNSEEN
    manifest, train = seen.manifest, seen.splits["train"]
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
        f"Of {captions:,} captions to train on, machine translation made {train.makers()}"
        if captions
        else "Its train split has no captions."
    )
    return f"{head} {translation} Only the train split was trained on.\n\n{listed}\n\n{_licenses(train)}"


def _licenses(train: PairCounts) -> str:
    """Say what the licenses of single images, where rows state one, allow."""
    told = {"forbid trade": 0, "forbid changed copies": 0, "are none that we know": 0, "state none": 0}
    for (_, text), count in train.licenses.items():
        license = read_license(text)
        if not (text and text.strip()):
            told["state none"] += count
        elif license is None:
            told["are none that we know"] += count
        elif license.passing_on == NONCOMMERCIAL:
            told["forbid trade"] += count
        elif license.passing_on == FORBIDDEN:
            told["forbid changed copies"] += count
    parts = [f"{count:,} {what}" for what, count in told.items() if count]
    found = f"{', '.join(parts)}; what is left is free" if parts else "all are free, as far as their licenses say"
    total = sum(train.licenses.values())
    return f"Of {total:,} images to train on {found}. Whether licenses bind a model is for courts."


def _training(trained: TrainedFolder) -> str:
    result = trained.result
    loss = "" if result.best_val_loss is None else f", validation loss {result.best_val_loss:.4f}"
    told = (
        f"Images: {result.num_samples:,}. Epochs: {result.epochs}, of which {result.frozen_epochs} with frozen towers. "
        f"Steps: {result.steps:,}. The weights are those of epoch {result.best_epoch}{loss}. Settings that decided "
        "what came out:"
    )
    return f"{told}\n\n{fenced_json(trained.run['settings'])}"


def _set_scores(scores: SetScores) -> str:
    where = f"The {markdown_text(scores.name)} split" if scores.is_split else markdown_text(scores.name)
    if not scores.of_these_weights:
        return f"{where}: its scores are of other weights, and are left out."
    rows: list[list[object]] = [
        [
            *(markdown_text(text) for text in (score.name, score.captions, score.images)),
            score.shown(score.value),
            f"{score.shown(score.low)}-{score.shown(score.high)}",
            int(score.gallery_size),
            int(score.num_queries),
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
    """Return what the model is not good for as a list, from the particular to the general."""
    return bullets([*_particular_limits(data, trained), *_LIMITS])


def _particular_limits(data: CardData, trained: TrainedFolder) -> Iterator[str]:
    result, settings = trained.result, trained.run["settings"]
    # A short training does not come to the end of the images.
    batch_size = settings.get("batch_size")
    shown = result.num_samples if batch_size is None else min(result.num_samples, result.steps * int(batch_size))
    some = f"{shown:,}" if shown == result.num_samples else f"at most {shown:,} of {result.num_samples:,}"
    yield (
        f"It has seen {some} images to train on, and knows what these show; the CLIP of 2021 saw 400 million. What "
        "none of them resembles, it has never seen."
    )
    yield from _languages(data)
    if data.seen is not None:
        train = data.seen.splits["train"]
        if by_machine := train.machine_translated():
            yield (
                f"Machine translation made {by_machine / sum(train.origins.values()):.1%} of its captions: it may have "
                "learnt an engine's mistakes and stiff wording, and may not know what people would rather say."
            )
        if not data.seen.manifest["test_sets"]:
            others = [found for found in data.scored() if found.scores and not found.is_split]
            later = (
                "the sets that it is measured on were compared with it when it was scored, others it may have seen"
                if others and all(found.is_compared for found in others)
                else "what it is measured on it may have seen"
            )
            yield f"No test set was guarded while the dataset was built: {later}."
    yield "Scores of a split are of pictures like those it was trained on, and say little of others."
    if trained.has_encoder or settings.get("lock_image"):
        yield _OTHERS_WEIGHTS


def _languages(data: CardData) -> Iterator[str]:
    """Say in which languages it was trained and measured, as far as anybody noted that."""
    sets = [found for found in data.scored() if found.scores]
    measured = sorted({found.language for found in sets if found.language is not None})
    unnoted = sorted({found.name for found in sets if found.language is None})
    trained = data.seen.language if data.seen is not None else None
    if trained is not None:
        yield f"It was trained on captions in one language, {_codes([trained])}, and in no other."
    if unnoted:
        names = ", ".join(markdown_text(name) for name in unnoted)
        yield f"In which language it was asked on {names} was not noted; a score says nothing of other languages."
    if measured:
        foreign = sorted(set(measured) - {trained}) if trained is not None else []
        also = f", though never trained in {_codes(foreign)}," if foreign else ""
        rest = "" if unnoted else " and in no others"
        yield f"It was measured in {_codes(measured)}{also}{rest}: how well it does in other languages nobody knows."
    elif not unnoted:
        yield "Nobody has measured it in any language."


def _codes(languages: list[str]) -> str:
    return " and ".join(f"`{markdown_text(language)}`" for language in languages)


def cost_section(attempts: Sequence[Attempt]) -> str:
    """Return time, hardware and energy of all attempts together."""
    if not attempts:
        return f"Not known: `{EFFORT_FILE}`, where training notes it, was removed."
    hardware = sorted({markdown_text(name) for found in attempts for name in found.hardware})
    machines = max(found.processes for found in attempts)
    together = f" Up to {machines} processes trained together; what follows is of the first one's machine." * (
        machines > 1
    )
    tries = f"{len(attempts)} attempts" if len(attempts) > 1 else "one attempt"
    time = f"{duration(sum(found.seconds for found in attempts))} in {tries}, on {', '.join(hardware)}.{together}"
    lines = []
    for name in sorted({name for found in attempts for name in found.joules}):
        read = [found.joules[name] for found in attempts if name in found.joules]
        some = "" if len(read) == len(attempts) else f", in {len(read)} of {len(attempts)} attempts"
        lines.append(f"{markdown_text(name)}: {sum(read) / _JOULES_IN_KWH:,.4f} kWh{some}")
    reasons = sorted({reason for found in attempts for reason in found.not_measured})
    lines += [f"Not measured: {markdown_text(reason)}" for reason in reasons]
    return f"{time}\n\n{bullets(lines)}\n\n{_ENERGY}"


def duration(seconds: float) -> str:
    """Return a time in words, such as "2 h 5 min 7 s"."""
    whole = round(seconds)
    parts = [(whole // 3600, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "less than a second"
