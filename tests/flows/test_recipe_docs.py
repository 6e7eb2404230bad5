"""`docs/recipes.md` lists every setting as the code has it, with an example that is read; run this file to write it."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from data_catalog.exports.rights import SourceRights
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.test_sets.registry import TEST_SET_KINDS
from flows.recipe.recipe import SECTIONS, Dataset
from flows.recipe.settings import read, schema, section_fields
from flows.recipe.sources import StatedCaptions

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
BEGIN, END = "<!-- settings: written from the code by `make docs` -->", "<!-- end of settings -->"

# Of settings whose default says too little of what they may be.
EXAMPLES: Mapping[str, str] = {
    "name": '"photos"',
    "target_language": '"uk"',
    "language_pack": '"uk.toml"',
    "language_packs": '["fr.toml"]',
}
# What a table cannot do without, for examples of its other settings.
REQUIRED: Mapping[str, Mapping[str, Any]] = {}


def tables() -> Iterator[tuple[str, str, type, str]]:
    """Yield heading, path, config dataclass and docs path of every table that a recipe may have."""
    yield "The recipe itself", "", Dataset, ""
    for name, kind in SECTIONS.items():
        yield f"[{name}]", name, kind, name
    yield "[sources.NAME], every kind", "sources.NAME", SourceRights, "sources.*"
    for name, source in SOURCE_KINDS.items():
        yield f'[sources.NAME] with kind = "{name}"', "sources.NAME", source.config_type, f"sources.{name}"
    yield "[test_sets.NAME], every kind", "test_sets.NAME", StatedCaptions, "test_sets.*"
    for name, test_set in TEST_SET_KINDS.items():
        yield f'[test_sets.NAME] with kind = "{name}"', "test_sets.NAME", test_set.config_type, f"test_sets.{name}"


def type_of(field: Mapping[str, Any]) -> str:
    """Return a JSON schema's type in the words of errors."""
    options = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
    kind = options[0].get("type")
    if kind == "array":
        return f"list of {type_of(options[0]['items'])}s"
    names = {"integer": "whole number", "boolean": "true or false", "string": "text", "object": "table"}
    return names.get(kind, str(kind))


def example_of(path: str, name: str, field: Mapping[str, Any]) -> str:
    given = EXAMPLES.get(f"{path}.{name}".removeprefix("."), EXAMPLES.get(f"*.{name}"))
    return given or json.dumps(field.get("default"), ensure_ascii=False)


def rewritten(page: str) -> str:
    lines = [BEGIN]
    for heading, _, kind, path in tables():
        described = schema(kind)
        lines += ["", f"### {heading}", "", described["description"].partition("\n\n")[0].replace("\n", " "), ""]
        lines += ["| setting | type | default | meaning | example |", "|---|---|---|---|---|"]
        fields = section_fields(kind)
        for name, field in described["properties"].items():
            default = f"`{json.dumps(field['default'], ensure_ascii=False)}`" if "default" in field else "required"
            mark = " †" if fields[name].metadata.get("how") else ""
            cells = [
                f"`{name}`{mark}",
                type_of(field),
                {"`null`": "none", '`""`': "none", "`[]`": "none", "`{}`": "none"}.get(default, default),
                field["description"],
                f"`{name} = {example_of(path, name, field)}`",
            ]
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return re.sub(
        f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: "\n".join([*lines, "", END]), page, flags=re.DOTALL
    )


def test_the_page_lists_every_setting_as_the_code_has_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert BEGIN in page
    assert rewritten(page) == page


@pytest.mark.parametrize(("heading", "kind", "path"), [(heading, kind, path) for heading, _, kind, path in tables()])
def test_every_setting_has_a_meaning_and_an_example_that_is_read(heading: str, kind: type, path: str) -> None:
    required = REQUIRED.get(path, {})
    for name, field in schema(kind)["properties"].items():
        assert field["description"], f"{heading} {name}: no docstring below the field"
        example = tomllib.loads(f"value = {example_of(path, name, field)}")["value"]
        assert read(kind, {**required, name: example}, path)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
