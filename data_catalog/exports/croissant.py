"""Croissant metadata (http://mlcommons.org/croissant/1.0) of a folder of pair shards: every file, every column.

It has no date, no creator and no address: nothing in a snapshot depends on when or by whom it was made. Whoever
publishes the folder adds `datePublished`, `creator` and `url`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from data_catalog.exports.card import COLUMNS, LIMITS, METHOD, NOT_FILTERED, TERMS
from data_catalog.storage.manifest import Manifest

FILE = "croissant.json"
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_PARQUET = "application/x-parquet"
_DATA_TYPES = {
    "string": "sc:Text",
    "int32": "sc:Integer",
    "int64": "sc:Integer",
    "float": "sc:Float",
    "bool": "sc:Boolean",
}


def croissant_text(
    manifest: Manifest,
    *,
    files: Sequence[Mapping[str, Any]],
    patterns: Sequence[str],
    schema: pa.Schema | None,
    published: str | None = None,
) -> str:
    """The metadata as JSON text.

    Args:
        manifest: of the snapshot.
        files: all shards of pairs, with "path" relative to the metadata, "sha256" and "bytes".
        patterns: globs of those paths.
        schema: of their rows; None where there are no files.
        published: the date of publication, as ISO 8601 has it, where somebody publishes it.
    """
    sources = {name: entry["license"] for name, entry in sorted(manifest["sources"].items())}
    value = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest["dataset"],
        "description": _description(manifest),
        "version": f"1.0.0+{manifest['snapshot']}",
        **({"datePublished": published} if published else {}),
        "license": [f"{name}: {license}" for name, license in sources.items()],
        "citeAs": METHOD,
        "inLanguage": [manifest["target_lang"]],
        "keywords": ["image-text pairs", "CLIP", "captions"],
        "isLiveDataset": False,
        "rai:dataCollection": "Upstream datasets' files were read, and images fetched from their addresses.",
        "rai:dataLimitations": list(NOT_FILTERED),
        "rai:dataBiases": list(LIMITS[:2]),
        "distribution": _distribution(files, patterns),
        "recordSet": [] if schema is None else [_record_set(schema)],
    }
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _description(manifest: Manifest) -> str:
    return (
        f"Images with captions in the language {manifest['target_lang']}, made by vernaclip from "
        f"{', '.join(sorted(manifest['sources']))}. README.md says how, and what was not filtered. "
        f"{' '.join(TERMS.split())}"
    )


def _distribution(files: Sequence[Mapping[str, Any]], patterns: Sequence[str]) -> list[dict[str, Any]]:
    objects = [
        {
            "@type": "cr:FileObject",
            "@id": file["path"],
            "name": file["path"].rsplit("/", 1)[-1],
            "contentUrl": file["path"],
            "contentSize": f"{file['bytes']} B",
            "encodingFormat": _PARQUET,
            "sha256": file["sha256"],
        }
        for file in files
    ]
    if not files:
        return []
    shards = {"@type": "cr:FileSet", "@id": "pairs", "name": "pairs", "encodingFormat": _PARQUET}
    return [*objects, {**shards, "description": "all shards of pairs", "includes": list(patterns)}]


def _record_set(schema: pa.Schema) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "pair",
        "name": "pair",
        "description": "One image with its captions.",
        "key": {"@id": "pair/sample_id"},
        "field": [_field(column) for column in schema],
    }


def _field(column: pa.Field) -> dict[str, Any]:
    is_image, is_list = pa.types.is_struct(column.type), pa.types.is_list(column.type)
    kind = column.type.value_type if is_list else column.type
    source: dict[str, Any] = {"fileSet": {"@id": "pairs"}, "extract": {"column": column.name}}
    if is_image:
        source["transform"] = {"jsonPath": "bytes"}
    return {
        "@type": "cr:Field",
        "@id": f"pair/{column.name}",
        "name": column.name,
        "description": COLUMNS.get(column.name, column.name),
        "dataType": "sc:ImageObject" if is_image else _DATA_TYPES.get(str(kind), "sc:Text"),
        "source": source,
        **({"repeated": True} if is_list else {}),
    }
