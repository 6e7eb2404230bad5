"""Real captions as sources of recipes, for the benchmark of what the rules drop of them."""

import gzip
import json
import tempfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.dry_run import DryRun, dry_run
from flows.recipe.recipe import load_recipe

HERE = Path(__file__).resolve().parent
# Languages that no pack ships for.
PACKS = {"fr": HERE / "data" / "french.toml"}
LANGUAGES = ("it", "en", "de", "fr")
NUM_EXAMPLES = 10
Settings = dict[str, Any]


def native_sources(data: Path, language: str, folder: Path) -> dict[str, Settings]:
    """Settings of the sources in files of their own formats, those that are there."""
    (images := folder / "images").mkdir(exist_ok=True)
    found: dict[str, dict[str, Settings]] = {
        "it": {
            "mscoco_it": {"kind": "mscoco_it", "files": "mscoco_it/*.json.gz"},
            "wit": {"kind": "wit", "files": "wit/*.tsv"},
        },
        "en": {
            "cc3m": {"kind": "cc3m", "files": "cc3m/*.tsv"},
            "flickr8k": {"kind": "flickr8k", "files": "flickr8k/Flickr8k.token*.txt", "images": str(images)},
            "mscoco": {"kind": "mscoco", "files": "coco/captions_*.json"},
        },
        "de": {"wit_de": {"kind": "wit", "files": "wit/train-*.tsv"}},
    }
    sources = {
        name: settings for name, settings in found.get(language, {}).items() if any(data.glob(settings["files"]))
    }
    for settings in sources.values():
        settings["files"] = [str(data / settings["files"])]
        if settings["kind"] == "wit":
            settings["caption_kinds"] = ["reference", "attribution", "alt_text"]
    return sources


def multi30k(data: Path, language: str) -> list[str]:
    """The captions in one language; none where they are not at hand."""
    paths = [data / "multi30k" / f"{part}.{language}.gz" for part in ("train", "val")]
    return [
        line
        for path in paths
        if path.is_file()
        for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    ]


def stamps(folder: Path | None, language: str) -> list[str]:
    """Tux Paint's captions in one language: a file's first line is English, the others are `xx.utf8=caption`."""
    found = []
    for path in sorted(folder.rglob("*.txt")) if folder else ():
        if any(path.with_suffix(suffix).exists() for suffix in (".png", ".svg")):
            first, *others = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
            by_code = dict(line.split(".utf8=", 1) for line in others if ".utf8=" in line)
            found.append(first if language == "en" else by_code.get(language, ""))
    return [caption for caption in found if caption]


def sources_of(data: Path, stamps_folder: Path | None, language: str, folder: Path) -> dict[str, Settings]:
    """Settings of all sources in a language; those without a format of their own are written as pairs."""
    sources = native_sources(data, language, folder)
    for name, captions in (("multi30k", multi30k(data, language)), ("tuxpaint", stamps(stamps_folder, language))):
        if captions:
            path = folder / f"{name}.{language}.jsonl"
            rows = ({"url": f"https://{name}.example/{at}.jpg", "caption": text} for at, text in enumerate(captions))
            path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
            columns = {"url_column": "url", "caption_column": "caption", "lang": language}
            sources[f"{name}_{language}"] = {"kind": "pairs", "files": [str(path)], **columns}
    return sources


def recipe_text(language: str, sources: Mapping[str, Settings]) -> str:
    """A recipe in TOML, every rule as it is by default; texts and lists of texts are JSON's."""
    lines = [f'target_language = "{language}"', f'source_language = "{language}"', 'split.by = "hash"']
    if language in PACKS:
        lines.append(f"language_pack = {json.dumps(str(PACKS[language]))}")
    for name, settings in sources.items():
        lines += [f"[sources.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    return "\n".join(lines)


def judge(data: Path, stamps_folder: Path | None, num_rows: int) -> DryRun | None:
    """What became of the rows of all sources in all languages, 0 rows: all; None where there is no source."""
    runs = []
    with tempfile.TemporaryDirectory(prefix="real-drops-") as temporary:
        for language in LANGUAGES:
            folder = Path(temporary)
            if sources := sources_of(data, stamps_folder, language, folder):
                recipe = folder / f"real-{language}.toml"
                recipe.write_text(recipe_text(language, sources), "utf-8")
                loaded = load_recipe(str(recipe), root=folder)
                runs.append(dry_run(loaded, root=folder, num_rows=num_rows, num_examples=NUM_EXAMPLES))
    return merged(runs) if runs else None


def merged(runs: Sequence[DryRun]) -> DryRun:
    """Several runs over different sources as one."""
    return DryRun(
        num_rows={name: count for run in runs for name, count in run.num_rows.items()},
        dropped=list(chain.from_iterable(run.dropped for run in runs)),
        num_unjudged={name: count for run in runs for name, count in run.num_unjudged.items()},
        captions=pa.concat_tables([run.captions for run in runs]),
    )
