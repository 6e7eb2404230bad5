"""Generator of the sample data: four datasets in the formats of the real ones, with typical faults of the web.

<folder>/wit/wit.tsv.gz  coco/captions_scenes.json  cc3m/cc3m.tsv  flickr8k/Flickr8k.token.txt  flickr8k/images/
<folder>/www/            files that `[serve]` serves
<folder>/faults.json     all faults that were put in
<folder>/commit.json     the settings that the folder was made from
"""

import csv
import gzip
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

from data_catalog.base.errors import SettingsError
from data_catalog.base.progress import Progress
from data_catalog.disk.disk_errors import disk_errors
from data_catalog.disk.failpoints import failpoint
from data_catalog.disk.files import digest, read_json, sync, write_json
from data_catalog.disk.lock import writer_lock
from data_catalog.sample.config import CC3M, COCO, FAULTS, FLICKR8K, SOURCES, WIT, ScenesConfig
from data_catalog.sample.grammar import Wording, caption, captions, templates
from data_catalog.sample.samples import ImageFolder, Sample, coco_id, plan, url_of
from data_catalog.sample.scene import Scene, json_of_room, pick, shuffled
from data_catalog.sample.server import RULES_FILE

WIT_FILE, COCO_FILE = "wit/wit.tsv.gz", "coco/captions_scenes.json"
CC3M_FILE, FLICKR8K_FILE = "cc3m/cc3m.tsv", "flickr8k/Flickr8k.token.txt"
# Styles of each dataset: case, full stops, spaces before punctuation.
_STYLES = {
    WIT: ("capital", "capital", "sentence"),
    COCO: ("sentence", "sentence", "sentence", "capital", "lower"),
    CC3M: ("tokenised",),
    FLICKR8K: ("tokenised_sentence", "tokenised_sentence", "tokenised_sentence", "capital"),
}
_FLICKR8K_CAPTIONS = 5
_SECOND_PAGE_SHARE, _OTHER_LANGUAGE_SHARE = 0.2, 0.25
# What stands beside captions in the real datasets, and faulty captions.
_TEXTS = json_of_room("texts.json")


def _write_wit(samples: Sequence[Sample], folder: Path, images: ImageFolder, native: str) -> None:
    """Write reference captions in the language `native`, and rows in other languages, in random order.

    A row with an unterminated quote opens a quote in its 16th field and ends there, as some rows of WIT do.
    """
    lines: list[str] = []
    for sample in samples:
        rows = _wit_rows(sample, native, images)
        lines += map(_tsv_line, rows)
        if sample.fault == "unterminated_quote":
            start = _tsv_line(rows[-1][:15]).rstrip("\n")
            lines[-1] = f'{start}\t"La figura, nata come esempio, ha dato il nome a una raccolta.\n'
    text = "".join(shuffled(Random(f"scenes:wit-order:{samples[0].seed}"), lines))
    content = ("\t".join(_TEXTS["wit_columns"]) + "\n" + text).encode("utf-8")
    with (folder / WIT_FILE).open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        packed.write(content)


def _tsv_line(values: Sequence[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter="\t", lineterminator="\n").writerow(values)
    return buffer.getvalue()


def _wit_rows(sample: Sample, native: str, images: ImageFolder) -> list[tuple[object, ...]]:
    """Return the rows of an image: its page, and at random a second page with another caption, and a foreign page."""
    width, height = images.add(sample)
    rng, scene, url = sample.rng("wit"), sample.scene(), url_of(sample, images.base_url)

    def row(lang: str, reference: str, attribution: str = "", page: str = "Figura") -> tuple[object, ...]:
        title = f"{page} {sample.index}"
        return (
            lang,
            f"https://{lang}.wikipedia.org/wiki/{page}_{sample.index}",
            url,
            title,
            "Esempi" if rng.random() < 0.5 else "",
            f"{title} / Esempi",
            reference,
            attribution,
            "",
            "image/png" if sample.file_format == "PNG" else "image/jpeg",
            height,
            width,
            "true" if rng.random() < 0.5 else "false",
            "true",
            "false" if rng.random() < 0.5 else "true",
            pick(rng, _TEXTS["contexts"]),
            pick(rng, ("", "Esempi di figure colorate.")),
        )

    good, second = captions(scene, native, num=2, rng=rng, styles=_STYLES[WIT])
    reference, attribution = good, ""
    if sample.fault in ("attribution_only", "unterminated_quote"):
        images.record(sample, caption=good)
        if sample.fault == "attribution_only":
            reference, attribution = "", good
    elif fault := _caption_fault(sample, native, rng):
        reference = fault["caption"]
        images.record(sample, **fault)
    else:
        attribution = "English: Coloured shapes" if rng.random() < 0.5 else ""
    rows = [row(native, reference, attribution)]
    if not sample.fault and rng.random() < _SECOND_PAGE_SHARE:
        rows.append(row(native, second, page="Galleria"))
    if rng.random() < _OTHER_LANGUAGE_SHARE:
        lang = pick(rng, [code for code in _FOREIGN if code != native])
        rows.insert(0, row(lang, _other_language(scene, lang, rng)))
    return rows


def _english(sample: Sample, num: int, rng: Random, images: ImageFolder, **facts: Any) -> list[str | None]:
    """Return English captions of an image, of which the last one may be faulty: it is recorded with the facts."""
    texts: list[str | None] = [*captions(sample.scene(), "en", num=num, rng=rng, styles=_STYLES[sample.source])]
    if fault := _caption_fault(sample, "en", rng):
        texts[-1] = fault["caption"]
        images.record(sample, **facts, **fault)
    return texts


def _write_coco(samples: Sequence[Sample], folder: Path, images: ImageFolder) -> None:
    """Write images and annotations in random order, 3 to 5 captions per image."""
    records, annotations, licenses = [], [], _TEXTS["licenses"]
    for sample in samples:
        width, height = images.add(sample)
        rng, index, image_id = sample.rng("coco"), sample.index, coco_id(sample.index)
        records.append(
            {
                "license": 1 + int(rng.random() * len(licenses)),
                "file_name": Path(sample.path).name,
                "coco_url": url_of(sample, images.base_url),
                "height": height,
                "width": width,
                "date_captured": f"2013-11-{1 + index % 28:02d} {index % 24:02d}:{index % 60:02d}:00",
                "flickr_url": f"http://farm{1 + index % 9}.staticflickr.example/{image_id}_z.jpg",
                "id": image_id,
            }
        )
        num = 3 + int(rng.random() * 3)
        texts = _english(sample, num, rng, images, caption_id=10 * image_id + num - 1)
        for number, text in enumerate(texts):
            annotation: dict[str, Any] = {"image_id": image_id, "id": 10 * image_id + number}
            annotations.append(annotation if text is None else {**annotation, "caption": text})
        if sample.fault == "unknown_image":
            no_image = {"image_id": image_id + 1, "id": 10 * image_id + 9, "caption": texts[0]}
            annotations.append(no_image)
            facts = {"caption_id": no_image["id"], "image_id": no_image["image_id"], "caption": texts[0]}
            images.record(sample, with_place=False, **facts)
    rng = Random(f"scenes:coco-order:{samples[0].seed}")
    document = {
        "info": {**_TEXTS["coco_info"], "url": images.base_url},
        "licenses": [{"url": url, "id": i, "name": name} for i, (name, url) in enumerate(licenses, start=1)],
        "images": shuffled(rng, records),
        "annotations": shuffled(rng, annotations),
    }
    (folder / COCO_FILE).write_text(json.dumps(document))


def _write_cc3m(samples: Sequence[Sample], folder: Path, images: ImageFolder) -> None:
    """Write one caption and URL per line, no header."""
    lines = []
    for sample in shuffled(Random(f"scenes:cc3m-order:{samples[0].seed}"), samples):
        images.add(sample)
        (text,) = _english(sample, 1, sample.rng("cc3m"), images)
        lines.append(f"{text}\t{url_of(sample, images.base_url)}\n")
        if sample.fault == "wrong_field_count":
            lines.append(f"{text}\n")
            images.record(sample, with_place=False, caption=text, line=len(lines))
    (folder / CC3M_FILE).write_text("".join(lines), encoding="utf-8", newline="\n")


def _write_flickr8k(samples: Sequence[Sample], folder: Path, images: ImageFolder) -> None:
    """Write five lines per image: `name.jpg#0` to `#4`, tab, caption."""
    lines, last = [], _FLICKR8K_CAPTIONS - 1
    for sample in shuffled(Random(f"scenes:flickr8k-order:{samples[0].seed}"), samples):
        images.add(sample)
        facts = {"caption_id": f"{sample.path}#{last}"}
        texts = _english(sample, _FLICKR8K_CAPTIONS, sample.rng("flickr8k"), images, **facts)
        for number, text in enumerate(texts):
            key = f"{sample.path}#{number}"
            lines.append(f"{key}\n" if text is None else f"{key}\t{text}\n")
    (folder / FLICKR8K_FILE).write_text("".join(lines), encoding="utf-8", newline="\n")


_FOREIGN = (*_TEXTS["other_languages"], "en", "it")


def _caption_fault(sample: Sample, lang: str, rng: Random) -> dict[str, Any] | None:
    """Return the faulty caption that replaces one in `lang`, and facts about it; None without a caption fault."""
    match sample.fault:
        case "wrong_language":
            choices = ("fr",) if lang == "en" else tuple(other for other in _FOREIGN if other != lang)
            other = pick(rng, choices)
            return {"caption": _other_language(sample.scene(), other, rng), "lang": other}
        case "mojibake":
            good = _with_accent(sample.scene(), lang, rng)
            return {"caption": good.encode("utf-8").decode("cp1252"), "repaired": good}
        case "bare_name":
            return {"caption": pick(rng, _TEXTS["names"])}
        case "empty_caption":
            return {"caption": pick(rng, ("", " "))}
        case "missing_caption":
            return {"caption": None}
        case "short_caption":
            return {"caption": pick(rng, _TEXTS["one_word"][lang])}
        case "file_name_caption":
            start, number = pick(rng, ("IMG_", "DSC_", "DSCN")), int(rng.random() * 10_000)
            return {"caption": f"{start}{number:04d}.{pick(rng, ('jpg', 'JPG'))}"}
    return None


def _other_language(scene: Scene, lang: str, rng: Random) -> str:
    """Return a caption in `lang`: of `scene` in English or Italian, else of an arbitrary scene."""
    if lang in _TEXTS["other_languages"]:
        return str(pick(rng, _TEXTS["other_languages"][lang]))
    return caption(scene, lang, Wording(template="background", style="capital", synonym=int(rng.random() < 0.35)))


def _with_accent(scene: Scene, lang: str, rng: Random) -> str:
    """Return a caption with an accented letter, or with a dash if no template gives one in the language."""
    texts = [caption(scene, lang, Wording(template=template)) for template in templates(scene)]
    fitting = [text for text in texts if not text.isascii()]
    return pick(rng, fitting or [f"{caption(scene, lang, Wording(template='plain'))} – 1"])


logger = logging.getLogger(__name__)

GENERATOR_VERSION = 1  # raise it when the output for the same config changes
COMMIT_FILE, FAULTS_FILE, WEB_FOLDER = "commit.json", "faults.json", "www"


def draw_upstream(config: ScenesConfig) -> bool:
    """Write the sample to `config.folder`; return False if the folder was made from the same settings before.

    An interrupted call leaves no partial folder, and the next call starts again.
    """
    folder = config.folder
    settings = {
        "generator_version": GENERATOR_VERSION,
        **{name: getattr(config, name) for name in ("num_images", "seed", "base_url", "target_language")},
        **({"fault_rates": dict(config.fault_rates)} if config.fault_rates else {}),
        **({"figures": config.figures} if config.figures else {}),
    }
    key = digest(settings)
    # The folder is made here and then renamed; it is next to `folder`, so on the same disk.
    staging = folder.parent / f".tmp-{folder.name}"
    if _committed_key(folder) == key and not staging.exists():
        logger.info("scenes: %s is complete, nothing to draw", folder)
        return False
    if folder.is_dir() and any(folder.iterdir()) and not (folder / COMMIT_FILE).is_file():
        raise SettingsError(f"scenes.folder {folder} contains something that is not a sample: name another folder")
    with writer_lock(staging):
        to_draw = _committed_key(folder) != key  # another process may have drawn it while this one waited
        if to_draw:
            with disk_errors(folder), _new_folder(folder, staging) as fresh:
                _draw(config, fresh)
                write_json(fresh / COMMIT_FILE, {"key": key, "settings": settings})
        shutil.rmtree(staging)
    return to_draw


def _committed_key(folder: Path) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(read_json(folder / COMMIT_FILE)["key"])
    return None


@contextmanager
def _new_folder(folder: Path, staging: Path) -> Iterator[Path]:
    """Yield an empty folder; when the block ends without an exception, it replaces `folder`."""
    fresh, old = staging / "new", staging / "old"
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    yield fresh
    failpoint("scenes.after_draw", folder)
    os.sync()  # one call instead of thousands for small files
    failpoint("scenes.after_sync", folder)
    if folder.exists():
        folder.rename(old)
        failpoint("scenes.after_removal", folder)
    fresh.rename(folder)
    failpoint("scenes.after_rename", folder)
    sync(folder.parent)


def _draw(config: ScenesConfig, folder: Path) -> None:
    samples = plan(config.seed, config.num_images, config.fault_rates, figures=config.figures)
    wit, coco, cc3m, flickr8k = ([sample for sample in samples if sample.source == name] for name in SOURCES)
    for name in (*SOURCES, WEB_FOLDER):
        (folder / name).mkdir()
    with Progress("draw scenes", total=len(samples), unit="images") as progress:
        images = ImageFolder(
            web=folder / WEB_FOLDER,
            local=folder / FLICKR8K / "images",
            base_url=config.base_url,
            samples=samples,
            progress=progress,
        )
        _write_wit(wit, folder, images, config.target_language)
        _write_coco(coco, folder, images)
        _write_cc3m(cc3m, folder, images)
        _write_flickr8k(flickr8k, folder, images)
    write_json(folder / WEB_FOLDER / RULES_FILE, images.rules)
    kinds = {kind: fault.meaning for kind, fault in FAULTS.items()}
    write_json(folder / FAULTS_FILE, {"kinds": kinds, "faults": images.faults})
