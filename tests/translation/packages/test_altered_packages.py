"""Packages that are not what they were, or cannot be loaded: none is used, and none is installed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_catalog.errors import DamagedError
from data_catalog.language_pack import LanguagePack
from flows.cli import main
from translation.config import TranslateConfig
from translation.engines.argos import open_engine
from translation.packages import package as archive
from translation.packages.package import open_package

SCENES = Path(__file__).resolve().parents[3] / "flows" / "packages" / "scenes-en_it.argosmodel"
EN, IT = LanguagePack(code="en"), LanguagePack(code="it")
Change = Callable[[Path], object]


def flip(name: str) -> Change:
    """Flip one bit in the middle of a file."""

    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return change


def write(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def say(**metadata: object) -> Change:
    """Change what the metadata say."""

    def change(folder: Path) -> None:
        path = folder / "metadata.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | metadata), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(flip("model/model.bin"), flip("model/shared_vocabulary.json"), flip("sentencepiece.model")),
        *(say(target_prefix="x"), write("README.md", "not the card"), remove("model/config.json")),
        *(write("model/source_vocabulary.json", "[]"), write("bpe.model", "another tokenizer")),
        *(flip("../files.json"), remove("../files.json"), write("../files.json", '{\n "files": {}\n}\n')),
    ],
)
def test_an_unpacked_package_that_was_altered_is_not_used(tmp_path: Path, change: Change) -> None:
    config = TranslateConfig(package=(str(SCENES),))
    open_engine(config, EN, IT, tmp_path)
    folder = open_package(SCENES, tmp_path).folder
    change(folder)
    with pytest.raises(
        DamagedError, match=f"{folder.parent}.*: remove the folder {folder.parent}, and the package is unpacked"
    ):
        open_engine(config, EN, IT, tmp_path)
    shutil.rmtree(folder.parent)
    assert open_engine(config, EN, IT, tmp_path).translate(["a red star"])[0].text


@pytest.mark.parametrize("by_folder", [True, False])
@pytest.mark.parametrize("change", [flip("model/model.bin"), say(target_prefix="x"), flip("vernaclip-source.json")])
def test_an_installed_package_that_was_altered_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, *, by_folder: bool
) -> None:
    monkeypatch.setenv("ARGOS_PACKAGES_DIR", str(tmp_path / "packages"))
    assert main(["mt", "install", str(SCENES)]) == 0
    folder = tmp_path / "packages" / "translate-en_it-1_0"
    config = TranslateConfig(package=(str(folder),)) if by_folder else TranslateConfig()
    open_engine(config, EN, IT, tmp_path / "cache")
    change(folder)
    with pytest.raises(DamagedError, match=f"{folder}.* remove the folder {folder}, and install the package again"):
        open_engine(config, EN, IT, tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("metadata.json"), r"has no metadata\.json"),
        (remove("model/model.bin"), r"model/model\.bin is missing"),
        (remove("sentencepiece.model"), r"sentencepiece\.model.* is missing"),
        (remove("model/shared_vocabulary.json"), "vocabulary"),
        (write("model/shared_vocabulary.json", '["<blank>", "<s>", "</s>", "a"]'), "Invalid token ID"),
        (write("model/model.bin", "weights"), "cannot be loaded"),
        (write("model/config.json", "["), "cannot be loaded"),
        (write("sentencepiece.model", "pieces"), "cannot be loaded"),
        *((say(from_code=code), "from_code") for code in ("../..", "", "/etc", "EN", "e\n", "en/../it", "x" * 300)),
        *((say(to_code=code), "to_code") for code in ("../..", None, "i t")),
        (say(package_version="../1"), "package_version"),
    ],
)
def test_what_cannot_be_loaded_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: Change, message: str
) -> None:
    monkeypatch.setenv("ARGOS_PACKAGES_DIR", str(tmp_path / "argos" / "packages"))
    folder = archive.extract(SCENES, tmp_path / "source")
    change(folder)
    archive.pack(folder, tmp_path / "bad.argosmodel", top=folder.name)
    assert main(["mt", "install", str(tmp_path / "bad.argosmodel")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"vernaclip: {tmp_path / 'bad.argosmodel'} contains no usable package: ")
    assert message.replace("\\", "") in error
    assert error.count("\n") == 1
    assert not (tmp_path / "argos" / "packages").exists()
    assert not list((tmp_path / "argos").rglob(".tmp-*"))
