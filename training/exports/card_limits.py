"""The parts of a model card that follow from its data: what it saw, and what it therefore is not good for."""

from collections.abc import Iterator

from data_catalog.exports.counts import PairCounts
from data_catalog.exports.markdown import bullets, markdown_text, table
from data_catalog.exports.rights import FORBIDDEN, NONCOMMERCIAL, read_license
from training.exports import card_texts
from training.exports.card_data import CardData, SeenData, scored
from training.exports.source import TrainedFolder

_UNSEEN = """Nobody told: it was exported from its folder alone, which does not say which snapshot of which dataset it
was trained on. Export it by the dataset's name to have that here."""


def data_section(seen: SeenData | None, hub_name: str | None = None) -> str:
    """Dataset, snapshot, pairs by source and split, terms of the sources, translation.

    Args:
        hub_name: of the dataset; None where it is not there.
    """
    on_hub = f", on the hub as {markdown_text(hub_name)}" if hub_name else ""
    if seen is None:
        return f"{_UNSEEN} Whoever published it names {markdown_text(hub_name)} on the hub." if hub_name else _UNSEEN
    manifest = seen.manifest
    rows: list[list[object]] = []
    for name, entry in sorted(manifest["sources"].items()):
        pairs = [f"{_of(counts, name, 'images'):,} / {_of(counts, name, 'captions'):,}" for counts in _counts(seen)]
        rows.append([markdown_text(name), markdown_text(entry["license"]), *pairs])
    listed = table(["source", "upstream's terms", *(f"{split}, images / captions" for split in seen.splits)], rows)
    head = f"The dataset {markdown_text(manifest['dataset'])}, snapshot {markdown_text(manifest['snapshot'])}{on_hub}."
    return f"{head} {_translation(seen)} Only the train split was trained on.\n\n{listed}\n\n{_licenses(seen)}"


def _counts(seen: SeenData) -> list[PairCounts]:
    return list(seen.splits.values())


def _of(counts: PairCounts, source: str, kind: str) -> int:
    return counts.of_source(counts.images if kind == "images" else counts.captions, source)


def _translation(seen: SeenData) -> str:
    train = seen.splits["train"]
    captions = sum(train.captions.values())
    if not captions:
        return "Its train split has no captions."
    return f"Of {captions:,} captions to train on, machine translation made {train.makers()}"


def _licenses(seen: SeenData) -> str:
    """What the licenses of single images, where rows state one, allow."""
    told = {"forbid trade": 0, "forbid changed copies": 0, "are none that we know": 0, "state none": 0}
    for (_, text), count in seen.splits["train"].licenses.items():
        license = read_license(text)
        if not (text and text.strip()):
            told["state none"] += count
        elif license is None:
            told["are none that we know"] += count
        elif license.passing_on == NONCOMMERCIAL:
            told["forbid trade"] += count
        elif license.passing_on == FORBIDDEN:
            told["forbid changed copies"] += count
    total = sum(seen.splits["train"].licenses.values())
    parts = [f"{count:,} {what}" for what, count in told.items() if count]
    found = f"{', '.join(parts)}; what is left is free" if parts else "all are free, as far as their licenses say"
    return f"Of {total:,} images to train on {found}. Whether licenses bind a model is for courts."


def limits_section(data: CardData, trained: TrainedFolder) -> str:
    """A list, from the particular to the general."""
    return bullets([*_particular(data, trained), *card_texts.LIMITS])


def _particular(data: CardData, trained: TrainedFolder) -> Iterator[str]:
    yield (
        f"It has seen {_num_shown(trained)} images to train on, and knows what these show; the CLIP of 2021 "
        "saw 400 million. What none of them resembles, it has never seen."
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
            yield f"No test set was guarded while the dataset was built: {_compared_later(data)}."
    yield "Scores of a split are of pictures like those it was trained on, and say little of others."
    if trained.has_encoder or trained.run.get("settings", {}).get("lock_image"):
        yield card_texts.OTHERS_WEIGHTS


def _num_shown(trained: TrainedFolder) -> str:
    """How many images it was shown, which a short training does not come to the end of."""
    result, batch_size = trained.result, trained.run.get("settings", {}).get("batch_size")
    shown = result.num_samples if batch_size is None else min(result.num_samples, result.steps * int(batch_size))
    return f"{shown:,}" if shown == result.num_samples else f"at most {shown:,} of {result.num_samples:,}"


def _compared_later(data: CardData) -> str:
    others = [found for found in scored(data) if found.scores and not found.is_split]
    if others and all(found.is_compared for found in others):
        return "the sets that it is measured on were compared with it when it was scored, others it may have seen"
    return "what it is measured on it may have seen"


def _languages(data: CardData) -> Iterator[str]:
    """Which languages it was trained and measured in, as far as anybody noted that."""
    sets = [found for found in scored(data) if found.scores]
    measured = sorted({found.language for found in sets if found.language is not None})
    unnoted = sorted({found.name for found in sets if found.language is None})
    trained = str(data.seen.manifest["target_lang"]) if data.seen is not None else None
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
