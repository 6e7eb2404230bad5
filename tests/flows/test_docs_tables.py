"""Tables of docs/ that are generated from the code; run this file to write them."""

import dataclasses
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from cleaning.checks import CHECK_REASONS, CLEAN_REASONS, CheckConfig, CleanConfig
from cleaning.checks.definition import TEXT, Section
from data_catalog.base.language_pack import LanguagePack, Sides
from data_catalog.base.settings import FILE
from data_catalog.catalog.views import COLUMNS, VIEWS
from data_catalog.exports.rights import SourceRights
from data_catalog.fetch.config import HostLimits
from data_catalog.rows.drop_reasons import Reason
from data_catalog.rows.fetch_reasons import FETCH_REASONS, NORMALISE_REASONS, is_retryable
from data_catalog.sample.datasets import draw_upstream
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.sources.rows import RowLimit
from data_catalog.sources.test_sets import TEST_SET_KINDS
from flows.build.engine import Lane, Scope
from flows.build.inputs import open_inputs
from flows.build.steps import STEPS
from flows.recipe.recipe import SECTIONS, Dataset, load_recipe
from flows.recipe.settings import read, schema, section_fields
from flows.recipe.sources import StatedCaptions
from training.packages.config import TrainPackageConfig
from translation.config import ENGINES
from translation.engines.registry import OPENERS

described = cache(schema)
DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "recipes.md"


def sections() -> Iterator[tuple[str, type, str]]:
    """Yield the heading, config dataclass and path of every section of a recipe that has one form."""
    yield "Before all tables", Dataset, ""
    for name, kind in SECTIONS.items():
        yield f"`[{name}]`", kind, name
        if name == "fetch":
            yield '`[fetch.hosts."NAME"]`', HostLimits, "fetch.hosts.*"


def kinds_of(section: str) -> dict[str, tuple[type, list[str]]]:
    """Return, by path, the config dataclasses of sources or test sets with the kinds that have them."""
    kinds = SOURCE_KINDS if section == "sources" else TEST_SET_KINDS
    found: dict[type, list[str]] = {}
    for name, kind in kinds.items():
        found.setdefault(kind.config_type, []).append(name)
    return {f"{section}.{names[0]}": (config_type, names) for config_type, names in found.items()}


# Settings that every kind of source or test set has.
COMMON: Mapping[str, tuple[type, ...]] = {"sources": (SourceRights, RowLimit), "test_sets": (StatedCaptions,)}


SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def type_of(field: Mapping[str, Any], place: str | None) -> str:
    """Return the name of a JSON schema's type with its bounds; that of a list is a plural."""
    option = next(option for option in field.get("anyOf", [field]) if option.get("type") != "null")
    is_list = option["type"] == "array"
    item = option["items"] if is_list else option
    kind = {"string": "text", "object": "table"}.get(item["type"], item["type"])
    if item["type"] == "string" and place:
        kind = "path" if place == FILE else "name or path"
    plural = f"{kind}s".replace("name or", "names or") if is_list else kind
    return plural + ",".join(f"{sign}{limit_of(item[name])}" for name, sign in SIGNS.items() if name in item)


def limit_of(limit: float) -> str:
    """Return a bound as a reader knows it: large ones as powers."""
    whole = int(limit)
    is_power = whole == limit and whole > 1 << 20 and whole & (whole - 1) == 0
    return f"2^{whole.bit_length() - 1}" if is_power else f"{whole if whole == limit else limit}"


def default_of(kind: type, name: str) -> str:
    """Return the cell of a setting's default."""
    field = described(kind)["properties"][name]
    default = field.get("default")
    if name in described(kind).get("required", ()):
        return "required"
    if default in (None, "", [], {}):
        return "none"
    if isinstance(default, list) and default == field["items"].get("enum"):
        return "all"
    return f"`{json.dumps(default, ensure_ascii=False)}`"


def cells(kind: type) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, type, default and meaning of each setting; a dagger marks a how-setting."""
    fields = section_fields(kind)
    for name, field in described(kind)["properties"].items():
        metadata = fields[name].metadata
        label = f"`{name}`{'†' if metadata.get('how') else ''}"
        yield label, type_of(field, metadata.get("path")), default_of(kind, name), field["description"]


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return [f"|{'|'.join(cell.replace('|', chr(92) + '|') for cell in line)}|" for line in lines]


def kind_rows(section: str) -> Iterator[tuple[str, ...]]:
    """Yield the rows of all kinds of sources or test sets; a setting with one meaning has one row."""
    for config_type in COMMON[section]:
        for label, type_name, default, meaning in cells(config_type):
            yield label, "all", type_name, default, meaning
    kinds = kinds_of(section).values()
    found: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for config_type, names in kinds:
        for label, type_name, default, meaning in cells(config_type):
            found.setdefault((label, type_name, meaning), {}).setdefault(default, []).extend(names)
    for (label, type_name, meaning), defaults in found.items():
        names = [name for some in defaults.values() for name in some]
        where = "all" if len(names) == sum(len(each) for _, each in kinds) else ", ".join(f"`{name}`" for name in names)
        (usual, _), *others = defaults.items()
        special = "; ".join(f"{', '.join(some)}: {default}" for default, some in others)
        yield label, where, type_name, f"{usual}; {special}" if special else usual, meaning


def settings_of_recipes(page: str) -> list[str]:
    """Return the generated lines of docs/recipes.md; the examples below its tables stay as they are."""
    written = page.partition("<!-- settings: written from")[2].partition("<!-- end of settings -->")[0]
    parts = [part.partition("\n") for part in written.split("\n### ")]
    examples = {heading: re.findall(r"\n```toml\n.*?\n```", part, re.DOTALL) for heading, _, part in parts}
    lines: list[str] = []
    clean = set(cells(SECTIONS["clean"]))
    for heading, kind, path in sections():
        switches = {f"`{check.switch()}`" for check in kind.check_types()} if issubclass(kind, Section) else set()
        same = [row[0] for row in cells(kind) if path == "check" and row in clean and row[0] not in switches]
        shown = [row for row in cells(kind) if row[0] not in switches and row[0] not in same]
        lines += ["", f"### {heading}", "", *table(("setting", "type", "default", "meaning"), shown)]
        if switches:
            assert all(row[2] == "`true`" for row in cells(kind) if row[0] in switches)
            names = ", ".join(row[0] for row in cells(kind) if row[0] in switches)
            lines += ["", f"Switches of [checks](captions.md#checks-of-{path}), `true` by default: {names}."]
        if same:
            lines += ["", f"As in `[clean]`: {', '.join(same)}."]
        lines += examples.get(heading, [])
    for section in COMMON:
        lines += ["", f"### `[{section}.NAME]`", ""]
        lines += table(("setting", "kinds", "type", "default", "meaning"), kind_rows(section))
        lines += examples[f"`[{section}.NAME]`"]
    return lines[1:]


def settings_of_packages(_: str) -> list[str]:
    """Return the generated lines of docs/translation.md."""
    return table(("setting", "type", "default", "meaning"), cells(TrainPackageConfig))


REASONS: Mapping[str, Mapping[str, Reason]] = {name: row.reasons for step in STEPS for name, row in step.rows.items()}
SEES = {Scope.MAKES_SHARDS: "all sources", Scope.WHOLE: "all shards"}
COMMON_COLUMNS = ("dataset", "snapshot")  # of every view


def steps(_: str) -> list[str]:
    """Return the table of steps."""
    rows = []
    for step in STEPS:
        lane = step.lane.name if isinstance(step.lane, Lane) else f"`{step.name}` or `{step.name}-HOST`"
        reads = ", ".join(f"`{name}`" for name in step.after) or "upstream files"
        rows.append((f"`{step.name}`", step.meaning, SEES.get(step.scope, step.scope.value), reads, lane))
    return table(("step", "what it does", "it sees", "it reads", "lane"), rows)


def views(_: str) -> list[str]:
    """Return the table of views; DuckDB itself explains each column, by comments."""
    rows = []
    for view, text in VIEWS.items():
        names = ", ".join(f"`{name}`" for name in COLUMNS[view] if name not in COMMON_COLUMNS)
        rows.append((f"`{view}`", text, "those of `captions`" if view == "rejects" else names))
    return table(("view", "rows", "columns"), rows)


def reasons_of_images(_: str) -> list[str]:
    """Return the table of reasons for which images are dropped."""
    duplicates = [getattr(step.rows.get("deduplicate"), "reasons", {}) for step in STEPS]
    of_looks = {name: why for some in duplicates for name, why in some.items() if name != "duplicate_caption"}
    rows: list[tuple[str, ...]] = []
    for step, reasons in {"fetch": FETCH_REASONS, "normalise": NORMALISE_REASONS, "deduplicate": of_looks}.items():
        assert reasons
        http: dict[str, list[str]] = {}  # reasons that are an HTTP status and nothing else, by whether they are retried
        for name, reason in reasons.items():
            retried = "yes" if is_retryable(name) else ""
            if re.fullmatch(r"http_\d{3}", name):
                http.setdefault(retried, []).append(f"`{name}`")
            else:
                rows.append((f"`{name}`", step, retried, reason.meaning))
        rows += [(", ".join(http[kind]), step, kind, "the answer has this HTTP status") for kind in http]
    return table(("reason", "step", "retried", "meaning"), rows)


def settings_of(paths: Iterable[str], config: str = "") -> str:
    """Return setting paths as code; those of the section itself without its name."""
    return ", ".join(f"`{path.removeprefix(f'{config}.') if config else path}`" for path in paths)


def checks_of(config: type[Section], _: str) -> list[str]:
    """Return the table of a section's checks, with the settings that decide their reasons."""
    rows = []
    for check in config.check_types():
        found = [REASONS[config.section][name] for name in check.reasons]
        settings = {f"{config.section}.{check.switch()}": None} | {path: None for why in found for path in why.settings}
        drops = check.drops().removeprefix("Drop ").removesuffix(".")
        reads = ", ".join("caption" if name == TEXT else f"`{name}`" for name in check.reads)
        reasons = ", ".join(f"`{name}`" for name in check.reasons)
        rows.append((f"`{check.name}`", drops, reads, reasons, settings_of(settings, config.section)))
    return table(("check", "drops", "reads", "reasons", "settings"), rows)


def other_reasons(_: str) -> list[str]:
    """Return the table of the reasons of captions that no check gives."""
    of_steps = {name: REASONS[name] for name in ("clean", "screen", "translate", "check", "fit", "deduplicate")}
    of_checks = {"clean": CLEAN_REASONS.keys(), "check": CHECK_REASONS.keys()}
    rows = [
        (f"`{name}`", step, reason.meaning, settings_of(reason.settings))
        for step, found in (of_steps | {"clean": CLEAN_REASONS}).items()
        for name, reason in found.items()
        if name not in of_checks.get(step, ()) and not (step == "deduplicate" and name != "duplicate_caption")
    ]
    return table(("reason", "step", "meaning", "settings"), rows)


# By page and table: a function from the page to the lines between its comments "NAME: written ..." and "end of NAME".
TABLES: Mapping[Path, Mapping[str, Callable[[str], list[str]]]] = {
    DOCS / "architecture.md": {"steps": steps},
    DOCS / "captions.md": {
        "checks of [clean]": partial(checks_of, CleanConfig),
        "checks of [check]": partial(checks_of, CheckConfig),
        "other reasons": other_reasons,
    },
    DOCS / "catalog.md": {"views": views},
    DOCS / "images.md": {"reasons": reasons_of_images},
    PAGE: {"settings": settings_of_recipes},
    DOCS / "translation.md": {"settings": settings_of_packages},
}


def rewritten(path: Path) -> str:
    """Return a page with its tables as the code has them."""
    page = path.read_text(encoding="utf-8")
    for name, lines_of in TABLES[path].items():
        (found,) = re.finditer(
            f"(<!-- {re.escape(name)}: written from .*? -->\n).*(\n<!-- end of {re.escape(name)} -->)", page, re.DOTALL
        )
        text = "\n".join(["", *lines_of(page), ""])
        page = f"{page[: found.start()]}{found.group(1)}{text}{found.group(2)}{page[found.end() :]}"
    return page


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.name)
def test_the_page_has_its_tables_as_the_code_has_them(path: Path) -> None:
    assert rewritten(path) == path.read_text(encoding="utf-8")


def test_reasons_are_of_steps_and_rejects_have_the_columns_of_captions() -> None:
    assert set(CHECK_REASONS) < set(REASONS["check"])
    assert COLUMNS["rejects"] == COLUMNS["captions"]


def test_what_decides_a_reason_is_a_setting_of_recipes() -> None:
    sections = {name: {field.name for field in dataclasses.fields(config)} for name, config in SECTIONS.items()}
    named = {path for found in REASONS.values() for reason in found.values() for path in reason.settings}
    kinds = {field.name for kind in SOURCE_KINDS.values() for field in dataclasses.fields(kind.config_type)}
    paths = {f"{section}.{name}" for section, names in sections.items() for name in names}
    assert named - paths - {f"sources.*.{name}" for name in kinds} == {"target_language", "source_language"}


def test_the_page_about_languages_lists_every_field_of_a_pack() -> None:
    fields = re.findall(r"^\|`(\w+)`\|", (DOCS / "languages.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(fields) == sorted(section_fields(LanguagePack))


def test_every_engine_opens_and_has_its_row_in_the_page_about_translation() -> None:
    page = (DOCS / "translation.md").read_text(encoding="utf-8")
    table = page.partition("|`engine`|")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"^\|\[?`(\w+)`", table, re.MULTILINE)) == ENGINES == tuple(OPENERS)


def test_the_example_of_words_for_left_and_right_has_every_list() -> None:
    (text,) = re.findall(r"^```toml\n(code = .*?)^```$", (DOCS / "languages.md").read_text("utf-8"), re.M | re.DOTALL)
    written = tomllib.loads(text)
    assert read(LanguagePack, written, "").sides
    assert set(written["sides"]) == set(section_fields(Sides))


def test_every_setting_has_a_meaning_and_sections_have_examples() -> None:
    kinds = {kind for _, kind, _ in sections()} | {TrainPackageConfig, LanguagePack}
    for section, common in COMMON.items():
        kinds |= {*common, *(kind for kind, _ in kinds_of(section).values())}
    for kind in kinds:
        assert all(field["description"] for field in described(kind)["properties"].values()), kind
    text = PAGE.read_text(encoding="utf-8")
    head = re.search(r"^### Before all tables$.*?^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert head
    assert read(Dataset, tomllib.loads(head.group(1)), "")
    # tests/flows/test_documentation.py reads the examples of the sections.
    named = set(re.findall(r"^\[(\w+)[].]", text, re.MULTILINE))
    assert {"build", "clean", "check", "fetch", "consent", "split", "evaluate", "sources", "test_sets"} <= named


def test_the_smallest_recipe_is_read_with_paths_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"^```toml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    (tmp_path / "photos.toml").write_text(found.group(1), encoding="utf-8")
    monkeypatch.chdir(tmp_path.parent)
    recipe = load_recipe(str(tmp_path / "photos.toml"), root=Path("catalog"))
    (source,) = recipe.sources
    assert recipe.name == "photos"
    assert source.config.files == (str(tmp_path / "photos.csv"),)
    assert source.config.images == str(tmp_path / "photos")


def test_the_recipe_over_the_sample_reads_what_it_draws(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n([^`]*?^\[scenes\]$.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "sample.toml").write_text(text, encoding="utf-8")
    engine = ["translate.engine=command", "translate.command=cat", "translate.package=[]"]
    settings = ["scenes.num_images=40", *engine]
    recipe = load_recipe(str(tmp_path / "sample.toml"), root=tmp_path / "root", overrides=settings)
    assert recipe.scenes
    assert recipe.serve
    draw_upstream(recipe.scenes)
    inputs = open_inputs(recipe, tmp_path / "root", {})
    assert len(inputs.sources) == 4
    assert recipe.serve.folder == recipe.scenes.folder / "www"
    assert recipe.scenes.base_url.endswith(f":{recipe.serve.port}")


if __name__ == "__main__":
    for path in TABLES:
        path.write_text(rewritten(path), encoding="utf-8")
