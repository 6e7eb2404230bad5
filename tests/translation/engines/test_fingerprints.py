"""Fingerprints of engines never change: under them lie translations that were paid for or took days."""

from pathlib import Path
from shutil import copy, copytree
from typing import Any

import pytest

from data_catalog.base.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines import ctranslate2_model
from translation.engines.registry import open_translator
from translation.packages.package import open_package

EN, IT, DE = (LanguagePack(code=code) for code in ("en", "it", "de"))
SCENES = Path(__file__).resolve().parents[3] / "flows" / "packages" / "scenes-en_it.argosmodel"


def test_fingerprints_are_those_of_earlier_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deepl")
    monkeypatch.setattr(ctranslate2_model, "version", lambda name: "1.2.3")
    monkeypatch.setenv("DEEPL_AUTH_KEY", "x:fx")

    def of(engine: str, source: LanguagePack = EN, target: LanguagePack = IT, **settings: Any) -> str:
        config = TranslateConfig(engine=engine, **settings)
        return open_translator(config, [source, target], cache_dir=tmp_path).fingerprint

    argos: dict[str, Any] = {"package": (str(SCENES),), "device": "cpu"}
    opened = open_package(SCENES, tmp_path / "cache").folder
    folder = copytree(opened / "model", tmp_path / "converted")
    copy(opened / "sentencepiece.model", folder)
    program = tmp_path / "mine"
    program.write_text("#!/bin/sh\ncat\n")
    program.chmod(0o755)
    command: dict[str, Any] = {"command": (str(program), str(program), "--to={to}")}
    assert [
        of("argos", **argos),
        of("argos", **argos, beam_size=4, patience=1, compute_type="float32"),
        of("ctranslate2", model=(str(folder),), device="cpu"),
        of("deepl"),
        of("deepl", DE, EN, max_characters=7),
        of("command", **command),
        of("command", **command, version="2", timeout_s=7.0, max_chunk_size=7),
    ] == [
        "argos:en-it:e83bbde1ba69",
        "argos:en-it:331b50457d19",
        "ctranslate2:en-it:126697fae71a",
        "deepl:en-it:068336da0695",
        "deepl:de-en:90e786a584ad",
        "command:en-it:2775e8189a4d",
        "command:en-it:0947c1fa1a56",
    ]
