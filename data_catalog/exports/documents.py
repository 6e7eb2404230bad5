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
    METHOD,
    DataFiles,
    card_text,
    example_captions,
    not_filtered,
    prose,
    upstream_paper,
)
from data_catalog.exports.counts import count_pairs
from data_catalog.exports.markdown import template
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
    card = card_text(manifest, pairs, counts, examples=example_captions(paths))
    texts = {CARD_FILE: card.encode(), CROISSANT_FILE: croissant_text(manifest, pairs).encode()}
    return [
        {"path": name, "sha256": write_bytes(folder / name, text), "bytes": len(text)} for name, text in texts.items()
    ]


def terms_text(manifest: Manifest) -> str:
    """Return the text of ATTRIBUTION.md: the terms of each source."""
    papers = {name: upstream_paper(manifest, name) for name in manifest["sources"]}
    text: str = template("attribution.md").render(sources=sorted(manifest["sources"].items()), papers=papers)
    return text


_PARQUET = {"encodingFormat": "application/x-parquet"}
_DATA_TYPES = {"int32": "sc:Integer", "int64": "sc:Integer", "float": "sc:Float", "bool": "sc:Boolean"}


def croissant_text(manifest: Manifest, pairs: DataFiles, *, published: str | None = None) -> str:
    """Return the Croissant metadata of some pair shards as JSON text, with the date of publication if there is one."""
    sources = {name: entry["license"] for name, entry in sorted(manifest["sources"].items())}
    papers = {name: upstream_paper(manifest, name) for name in sources}
    about = (
        f"Images with captions in the language {manifest['target_lang']}, made by vernaclip from {', '.join(sources)}. "
        f"README.md describes how, and what was not filtered. {' '.join(prose()['terms'].split())}"
    )
    shards = [
        {
            **_named("cr:FileObject", file["path"], Path(file["path"]).name),
            "contentUrl": file["path"],
            "contentSize": f"{file['bytes']} B",
            **_PARQUET,
            "sha256": file["sha256"],
        }
        for file in pairs.entries
    ]
    together = {
        **_named("cr:FileSet", "pairs", "pairs"),
        **_PARQUET,
        "description": "all shards of pairs",
        "includes": [pairs.pattern.format(split) for split in pairs.splits()],
    }
    pair = {
        **_named("cr:RecordSet", "pair", "pair"),
        "description": "One image with its captions.",
        "key": {"@id": "pair/sample_id"},
        "field": [_field(column) for column in pairs.schema or ()],
    }
    value = {
        "@context": dict(sorted(prose()["croissant"].items())),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": manifest["dataset"],
        "description": about,
        "version": f"1.0.0+{manifest['snapshot']}",
        **({"datePublished": published} if published else {}),
        "license": [f"{name}: {license}" for name, license in sources.items()],
        "citeAs": METHOD,
        "inLanguage": [manifest["target_lang"]],
        "keywords": ["image-text pairs", "CLIP", "captions"],
        "isLiveDataset": False,
        "prov:wasDerivedFrom": [
            {"@type": "prov:Entity", "prov:label": name, "license": license}
            | ({"citation": paper} if (paper := papers[name]) else {})
            for name, license in sources.items()
        ],
        "prov:wasGeneratedBy": {"@type": "prov:Activity", "prov:label": " ".join(prose()["making"].split())},
        "rai:dataCollection": "Upstream datasets' files were read, and images fetched from their addresses.",
        "rai:dataLimitations": not_filtered(manifest),
        "rai:dataBiases": prose()["limits"][:2],
        "distribution": [*shards, together] if shards else [],
        "recordSet": [] if pairs.schema is None else [pair],
    }
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _named(kind: str, identity: str, name: str) -> dict[str, str]:
    return {"@type": kind, "@id": identity, "name": name}


def _field(column: pa.Field) -> dict[str, Any]:
    """Return the metadata of a column; a struct is an image, a list a repeated value."""
    is_image, is_list = pa.types.is_struct(column.type), pa.types.is_list(column.type)
    kind = column.type.value_type if is_list else column.type
    source: dict[str, Any] = {"fileSet": {"@id": "pairs"}, "extract": {"column": column.name}}
    if is_image:
        source["transform"] = {"jsonPath": "bytes"}
    return {
        **_named("cr:Field", f"pair/{column.name}", column.name),
        "description": PAIR_COLUMNS.get(column.name, column.name),
        "dataType": "sc:ImageObject" if is_image else _DATA_TYPES.get(str(kind), "sc:Text"),
        "source": source,
        # `repeated` is the name before 1.1, by which mlcroissant still reads lists.
        **({"isArray": True, "arrayShape": "-1", "repeated": True} if is_list else {}),
    }
