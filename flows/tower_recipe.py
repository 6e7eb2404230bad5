"""Write the recipe of a text tower that learns languages from pairs of sentences: `vernaclip tower`."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from data_catalog.base.boundary import about
from data_catalog.base.errors import SettingsError
from data_catalog.base.language_pack import require_language
from data_catalog.base.plain_text import command
from data_catalog.disk.files import write_bytes
from flows.language_doctor import find_language
from flows.models import require_makeable
from flows.recipe.recipe import Overrides, find_recipe, load_recipe
from training.packages.pairs import LANG, files_of

FILE = "tower.toml"


def write_tower_recipe(
    languages: Sequence[str], source: str, teacher: str, pairs: str, out: Path, overrides: Overrides
) -> Path:
    """Write `tower.toml` into a folder, once the teacher and all pairs that it names are found to be usable.

    `{lang}` in `pairs` is the place of a language's code. If there is a file with the code of `source` in it, each
    language has a file of one sentence a line, else a file of pairs.
    """
    codes = [require_language(find_language(name).pack.code, "LANG") for name in languages]
    has_sources = LANG in pairs and Path(pairs.replace(LANG, source)).is_file()
    named = {code: str(Path(pairs if has_sources else pairs.replace(LANG, code)).absolute()) for code in codes}
    if len(set(named.values() if not has_sources else named)) < len(codes):
        raise SettingsError(
            f"{', '.join(codes)} with --pairs {pairs}: give each language once, and {LANG} in the place of its code"
        )
    for code, name in named.items():
        for file in files_of(Path(name), (source, code)):
            with about(file, remedy=f"give the sentence pairs of {code}, or leave it out"):
                file.stat()
    place = str(Path(teacher).absolute()) if Path(teacher).is_dir() else teacher
    text = _filled({"target_language": codes[0], "source_language": source, "teacher": place}, named)
    file = out / FILE
    if file.is_file() and file.read_bytes() != text:
        run = command("distil", file, "--root", out)
        raise SettingsError(
            f"{file} is another recipe, or was edited: `{run}` runs it. For a new one, name another --out"
        )
    with TemporaryDirectory(prefix="vernaclip-") as folder:
        (Path(folder) / FILE).write_bytes(text)
        require_makeable(load_recipe(f"{folder}/{FILE}", root=out, overrides=overrides), out)
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(file, text)
    return file


def _filled(values: Mapping[str, str], pairs: Mapping[str, str]) -> bytes:
    """Return the built-in recipe with other values, and another table of pairs at its end."""
    header = "[distil.pairs]\n"
    text = find_recipe("tower").read_text(encoding="utf-8").partition(header)[0]
    for name, value in values.items():
        line = f"{name} = {_toml(value)}".replace("\\", r"\\")
        text = re.sub(rf"^{name} = .*$", line, text, flags=re.MULTILINE)
    lines = "".join(f"{code} = [{_toml(name)}]\n" for code, name in pairs.items())
    return f"{text}{header}{lines}".encode(errors="surrogateescape")


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
