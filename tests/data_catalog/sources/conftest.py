"""Reading a source as a build does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.sources.rows import SourceRow


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[SourceRow]]:
    """`read(kind, *contents, name="file", **settings)`: write files (bytes, texts or JSON), check and read them."""

    def act(kind: str, *contents: Any, name: str = "file", **settings: Any) -> list[SourceRow]:
        paths = [tmp_path / (name if len(contents) == 1 else f"{number}-{name}") for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            if not isinstance(content, bytes):
                content = (content if isinstance(content, str) else json.dumps(content)).encode()
            path.write_bytes(content)
        if kind.startswith("flickr"):
            settings.setdefault("images", str(tmp_path))
        source = SOURCE_KINDS[kind]
        config = source.config_type(files=tuple(map(str, paths)), **settings)
        source.check(config)
        return list(source.read(config))

    return act
