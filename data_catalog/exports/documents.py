"""Documents of a snapshot or an export: the card, the terms and the Croissant metadata.

Croissant (http://mlcommons.org/croissant/1.1) describes a folder of pair shards: every file and every column. The
metadata have no date, creator or address, since a snapshot does not depend on the time or the user of its build. The
publisher of a folder adds `datePublished`, `creator` and `url`.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.catalog.manifest import SPLITS, DocumentEntry, Manifest
from data_catalog.disk.files import write_bytes
from data_catalog.exports.card import (
    CARD_FILE,
    LIMITS,
    LOAD_PAIRS,
    MAKING,
    METHOD,
    TERMS,
    DataFiles,
    card_text,
    example_captions,
    not_filtered,
    upstream_paper,
)
from data_catalog.exports.counts import count_pairs
from data_catalog.exports.markdown import markdown_text, table
from data_catalog.rows.schema import PAIR_COLUMNS

CROISSANT_FILE, TERMS_FILE = "croissant.json", "ATTRIBUTION.md"


def write_documents(folder: Path, manifest: Manifest) -> list[DocumentEntry]:
    """Write the card and the metadata of a snapshot into its folder, which has all its pair shards.

    Return the "documents" of the manifest, which is written after them.
    """
    shards = manifest["files"]["pairs"]
    entries: list[dict[str, Any]] = [{**entry} for split in SPLITS for entry in shards if entry["split"] == split]
    paths = [folder / entry["path"] for entry in entries]
    schema = pq.read_schema(paths[0]) if paths else None
    pairs = DataFiles(pattern="pairs/{}-*.parquet", entries=entries, schema=schema)
    counts = count_pairs(folder / entry["path"] for entry in shards)
    card = card_text(manifest, pairs, counts, LOAD_PAIRS, examples=example_captions(paths))
    texts = {CARD_FILE: card.encode(), CROISSANT_FILE: croissant_text(manifest, pairs).encode()}
    return [
        {"path": name, "sha256": write_bytes(folder / name, text), "bytes": len(text)} for name, text in texts.items()
    ]


_TERMS_HEAD = """# Attribution

ATTRIBUTION.csv has a line for each image: its license, whom to credit, and its page, in upstream's words. The column
`pixels` is `yes` if the image itself is included; otherwise it has the reason why the image is only listed. A cell that
a spreadsheet would read as a formula starts with an apostrophe.

Terms of each source, and the paper to cite:"""


def terms_text(manifest: Manifest) -> str:
    """Return the text of ATTRIBUTION.md: the terms of each source."""
    rows = [
        [markdown_text(name), markdown_text(entry["license"]), upstream_paper(manifest, name) or ""]
        for name, entry in sorted(manifest["sources"].items())
    ]
    return f"{_TERMS_HEAD}\n\n{table(['source', 'terms', 'paper'], rows)}\n"


_CROISSANT = "http://mlcommons.org/croissant/1.1"
# Terms of Croissant's vocabulary.
_WORDS = (
    "arrayShape citeAs column containedIn dataBiases dataCollection equivalentProperty extract field fileObject "
    "fileProperty fileSet format includes isArray isLiveDataset jsonPath key md5 parentField path "
    "personalSensitiveInformation recordSet references regex repeated replace samplingRate separator source subField "
    "transform"
)
_CONTEXT = {
    **{word: f"cr:{word}" for word in _WORDS.split()},
    **{word: {"@container": "@language"} for word in ("description", "name")},
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
_PARQUET = "application/x-parquet"
_DATA_TYPES = {"int32": "sc:Integer", "int64": "sc:Integer", "float": "sc:Float", "bool": "sc:Boolean"}


def croissant_text(manifest: Manifest, pairs: DataFiles, *, published: str | None = None) -> str:
    """Return the Croissant metadata of some pair shards as JSON text, with the date of publication if there is one."""
    sources = {name: entry["license"] for name, entry in sorted(manifest["sources"].items())}
    about = (
        f"Images with captions in the language {manifest['target_lang']}, made by vernaclip from {', '.join(sources)}. "
        f"README.md describes how, and what was not filtered. {' '.join(TERMS.split())}"
    )
    value = {
        "@context": dict(sorted(_CONTEXT.items())),
        "@type": "sc:Dataset",
        "conformsTo": _CROISSANT,
        "name": manifest["dataset"],
        "description": about,
        "version": f"1.0.0+{manifest['snapshot']}",
        **({"datePublished": published} if published else {}),
        "license": [f"{name}: {license}" for name, license in sources.items()],
        "citeAs": METHOD,
        "inLanguage": [manifest["target_lang"]],
        "keywords": ["image-text pairs", "CLIP", "captions"],
        "isLiveDataset": False,
        "prov:wasDerivedFrom": [_origin(manifest, name) for name in sources],
        "prov:wasGeneratedBy": {"@type": "prov:Activity", "prov:label": " ".join(MAKING.split())},
        "rai:dataCollection": "Upstream datasets' files were read, and images fetched from their addresses.",
        "rai:dataLimitations": not_filtered(manifest),
        "rai:dataBiases": list(LIMITS[:2]),
        "distribution": _distribution(pairs),
        "recordSet": [] if pairs.schema is None else [_record_set(pairs.schema)],
    }
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _distribution(pairs: DataFiles) -> list[dict[str, Any]]:
    if not pairs.entries:
        return []
    shards = [
        {
            "@type": "cr:FileObject",
            "@id": file["path"],
            "name": file["path"].rsplit("/", 1)[-1],
            "contentUrl": file["path"],
            "contentSize": f"{file['bytes']} B",
            "encodingFormat": _PARQUET,
            "sha256": file["sha256"],
        }
        for file in pairs.entries
    ]
    together = {
        "@type": "cr:FileSet",
        "@id": "pairs",
        "name": "pairs",
        "encodingFormat": _PARQUET,
        "description": "all shards of pairs",
        "includes": [pairs.pattern.format(split) for split in pairs.splits()],
    }
    return [*shards, together]


def _record_set(schema: pa.Schema) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "pair",
        "name": "pair",
        "description": "One image with its captions.",
        "key": {"@id": "pair/sample_id"},
        "field": [_field(column) for column in schema],
    }


def _origin(manifest: Manifest, source: str) -> dict[str, Any]:
    """Return the provenance of the rows of a source: its name and terms, and the paper of its dataset."""
    paper = upstream_paper(manifest, source)
    entity = {"@type": "prov:Entity", "prov:label": source, "license": manifest["sources"][source]["license"]}
    return {**entity, "citation": paper} if paper else entity


def _field(column: pa.Field) -> dict[str, Any]:
    """Return the metadata of a column; a struct is an image, a list a repeated value."""
    is_image, is_list = pa.types.is_struct(column.type), pa.types.is_list(column.type)
    kind = column.type.value_type if is_list else column.type
    source: dict[str, Any] = {"fileSet": {"@id": "pairs"}, "extract": {"column": column.name}}
    if is_image:
        source["transform"] = {"jsonPath": "bytes"}
    return {
        "@type": "cr:Field",
        "@id": f"pair/{column.name}",
        "name": column.name,
        "description": PAIR_COLUMNS.get(column.name, column.name),
        "dataType": "sc:ImageObject" if is_image else _DATA_TYPES.get(str(kind), "sc:Text"),
        "source": source,
        # `repeated` is the name before 1.1, by which mlcroissant still reads lists.
        **({"isArray": True, "arrayShape": "-1", "repeated": True} if is_list else {}),
    }
