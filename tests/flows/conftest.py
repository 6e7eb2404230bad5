"""A small sample, built once, for tests that ask questions of a catalog."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.build import BuildReport, build_dataset
from flows.execution import LocalExecutor
from flows.recipe import Recipe, load_recipe

NUM_IMAGES = 80


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nobody listens on."""
    return _unused_port()


@pytest.fixture(scope="module")
def unused_port() -> int:
    """Such a port for all tests of a module."""
    return _unused_port()


@pytest.fixture(scope="session")
def english_overrides() -> list[str]:
    """The scenes recipe made small and English: every step but translating."""
    port = _unused_port()
    return [
        'target_language="en"',
        'scenes.target_language="en"',
        f"scenes.num_images={NUM_IMAGES}",
        f'scenes.base_url="http://127.0.0.1:{port}"',
        f"serve.port={port}",
        "build.shard_size=40",
        "split.val=0.2",
    ]


EnglishRecipe = Callable[..., Recipe]


@pytest.fixture(scope="session")
def english_recipe(english_overrides: list[str]) -> EnglishRecipe:
    """Called with a root, and more overrides, gives the small English recipe."""

    def recipe(root: Path, *more: str) -> Recipe:
        return load_recipe("scenes", root=root, overrides=[*english_overrides, *more])

    return recipe


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, english_recipe: EnglishRecipe) -> tuple[Path, BuildReport]:
    """A root with the small English sample, and the report of its build."""
    root = tmp_path_factory.mktemp("built") / "catalog"
    with LocalExecutor(2) as executor:
        return root, build_dataset(english_recipe(root), root=root, executor=executor)
