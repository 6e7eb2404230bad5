import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest

from cleaning.checks.definition import Tagger
from cleaning.checks.proper_nouns import find_tagger, tagged_proper_nouns, tagged_share
from data_catalog.errors import InputError, SettingsError
from data_catalog.language_pack import LanguagePack

FRENCH = LanguagePack(code="fr", spacy="fr_core_news_sm")
ITALIAN = LanguagePack(code="it", spacy="a_model_that_is_not_installed")
AWKWARD = [
    "",
    " \t",
    "A",
    "\u0301",
    "🙂 !",
    "👩🏽\u200d🚀 Claudie Haigneré 🚀",
    "E\u0301mile Zola",
    "مارسيليا، ميناء قديم",
    "מגדל אייפל",
    "東京タワーの夜景",
    "x" * 10_000,
    "un chat " * 1_250,
]


@pytest.fixture(autouse=True)
def no_stanza_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine has of Stanza's models is not what is tested."""
    monkeypatch.setenv("STANZA_RESOURCES_DIR", str(tmp_path / "none"))


def found(pack: LanguagePack, choice: str) -> Tagger:
    tagger = find_tagger(pack, choice)
    assert tagger is not None
    return tagger


@pytest.fixture(scope="module")
def spacy_tagger() -> Tagger:
    return found(FRENCH, "spacy")


@pytest.mark.parametrize(
    ("caption", "detail"),
    [
        ("Dora Riparia", "100 % of the tokens"),
        ("Kim Rhodes", "100 % of the tokens"),
        ("Ralph George Hawtrey", "100 % of the tokens"),
        ("Émile Zola", "100 % of the tokens"),
        ("Jean-Paul Sartre.", "100 % of the tokens"),
        ("Clermont-Ferrand", "100 % of the tokens"),
        ("Émile Zola vers 1890", None),
        ("une église à Rome", None),
        ("Église de Saint-Émilion", None),
        ("Vue de Paris", None),
        ("Le maire Jean Dupont en 2010", None),
        ("VUE DE ROME", None),
        ("Un Homme Et Son Chien", None),
        ("Deux hommes jouent au football", None),
        ("مارسيليا، ميناء قديم", None),
        ("🙂 !", None),
        ("A", None),
        ("", None),
        ("un chat " * 1_250, None),
        ("Dora Riparia " * 770, "100 % of the tokens"),
    ],
)
def test_spacy_drops_names(spacy_tagger: Tagger, caption: str, detail: str | None) -> None:
    (verdict,) = tagged_proper_nouns(spacy_tagger)([caption])
    assert (verdict.detail if verdict else None) == detail


def test_spacy_tags_as_its_whole_pipeline_does(spacy_tagger: Tagger) -> None:
    import spacy

    captions = ["Marie Curie dans son laboratoire", "Le Mont-Saint-Michel, à marée basse !", "Rosa gallica", *AWKWARD]
    docs = spacy.load("fr_core_news_sm").pipe(captions)
    expected = [tagged_share((token.text, token.pos_ == "PROPN") for token in doc) for doc in docs]
    assert spacy_tagger.share(captions) == expected


def test_a_model_is_named_with_its_version_and_loaded_once(spacy_tagger: Tagger) -> None:
    assert spacy_tagger.name == f"spacy:fr_core_news_sm {metadata.version('fr_core_news_sm')}"
    assert find_tagger(FRENCH, "auto") is spacy_tagger


def check_that_neighbours_do_not_matter(tagger: Tagger, captions: list[str]) -> None:
    alone = [tagger.share([caption])[0] for caption in captions]
    assert tagger.share(captions) == alone
    assert tagger.share(captions[::-1]) == alone[::-1]
    assert tagger.share([]) == []
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tagger.share, [captions[:6]] * 8)) == [alone[:6]] * 8


def test_spacy_s_shares_are_the_same_in_any_company(spacy_tagger: Tagger) -> None:
    check_that_neighbours_do_not_matter(spacy_tagger, ["Kim Rhodes", "un chat noir", "Vue de Paris", *AWKWARD])


def test_without_a_model_auto_means_the_heuristic_and_a_choice_says_what_to_install() -> None:
    assert find_tagger(ITALIAN, "auto") is None
    assert find_tagger(LanguagePack(code="it"), "auto") is None
    assert find_tagger(FRENCH, "heuristic") is None
    with pytest.raises(InputError, match=r"spacy cannot tag 'it' here: .*-m spacy download a_model_that_is_not"):
        find_tagger(ITALIAN, "spacy")
    with pytest.raises(InputError, match="the language pack names no model in `spacy`"):
        find_tagger(LanguagePack(code="it"), "spacy")
    with pytest.raises(InputError, match=r"none has no models for it: .*stanza\.download\('it'"):
        find_tagger(ITALIAN, "stanza")
    with pytest.raises(SettingsError, match="one of auto, spacy, stanza, heuristic, got 'nltk'"):
        find_tagger(FRENCH, "nltk")


def installed_model(folder: Path, name: str) -> Path:
    """A spaCy model that splits texts and does no more, as an installed package; returns the folder of its data."""
    import spacy

    package = folder / name
    package.mkdir()
    package.joinpath("__init__.py").write_text(
        "from spacy.util import load_model_from_init_py\n"
        "def load(**overrides):\n"
        "    return load_model_from_init_py(__file__, **overrides)\n"
    )
    nlp = spacy.blank("fr", meta={"name": name.removeprefix("fr_"), "version": "1.0.0"})
    nlp.to_disk(package / f"{name}-1.0.0")
    package.joinpath("meta.json").write_text(json.dumps(nlp.meta))
    information = folder / f"{name}-1.0.0.dist-info"
    information.mkdir()
    information.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
    return package / f"{name}-1.0.0"


def test_a_model_that_tags_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_model(tmp_path, "fr_blank_test")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"fr_blank_test 1\.0\.0 tags no proper nouns: its pipeline has nothing"):
        find_tagger(LanguagePack(code="fr", spacy="fr_blank_test"), "auto")


def test_a_model_that_is_damaged_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_model(tmp_path, "fr_damaged_test").joinpath("config.cfg").unlink()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"fr_damaged_test 1\.0\.0 cannot be loaded"):
        find_tagger(LanguagePack(code="fr", spacy="fr_damaged_test"), "spacy")


NAMES = ["Anna", "Maria", "Mozzoni", "Dora", "Riparia", "Kim", "Rhodes", "Joey", "Ramone", "Roma", "Verdi", "Torino"]
NOUNS = ["chiesa", "casa", "donna", "strada", "barca", "foto", "torre", "piazza"]


def tagged_captions() -> Iterator[list[tuple[str, str]]]:
    """Captions as words and tags; few words, so that a small model learns them by heart."""
    numbers = random.Random(1)
    for _ in range(30):
        yield [(name, "PROPN") for name in numbers.sample(NAMES, numbers.choice([2, 3]))]
        noun, place = numbers.choice(NOUNS), numbers.choice(NAMES)
        words = [("una", "DET"), (noun, "NOUN"), ("a", "ADP"), (place, "PROPN"), (",", "PUNCT"), ("nera", "ADJ")]
        yield words[: numbers.choice([2, 4, 6])]


def write_treebank(folder: Path) -> None:
    """The captions as Stanza's trainers read them: text, the ends of its tokens and sentences, CoNLL-U."""
    texts, ends, trees = [], [], []
    for words in tagged_captions():
        text = " ".join(word for word, _ in words).replace(" ,", ",")
        labels = ["0"] * len(text)
        position = 0
        for word, _ in words:
            position = text.index(word, position) + len(word)
            labels[position - 1] = "1"
        labels[-1] = "2"
        lines = [
            f"{row}\t{word}\t_\t{tag}\t_\t_\t{int(row > 1)}\t{'dep' if row > 1 else 'root'}\t_\t_"
            for row, (word, tag) in enumerate(words, start=1)
        ]
        texts.append(text)
        ends.append("".join(labels))
        trees.append("\n".join([f"# text = {text}", *lines]))
    for name, parts in (("text", texts), ("ends", ends), ("conllu", trees)):
        folder.joinpath(name).write_text("\n\n".join(parts) + "\n\n")


def train(folder: Path, trainer: str, arguments: str) -> None:
    common = "--mode train --lang it --shorthand it_tiny --save_name tiny.pt"
    command = [sys.executable, "-m", f"stanza.models.{trainer}", *f"{common} {arguments}".split()]
    # Models this small are slower to train on several threads.
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def stanza_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resources folder with small Italian models, made by Stanza's own trainers."""
    folder = tmp_path_factory.mktemp("stanza")
    write_treebank(folder)
    train(
        folder,
        "tokenizer",
        "--txt_file text --label_file ends --dev_txt_file text --dev_label_file ends --dev_conll_gold conllu "
        "--conll_file found --steps 60 --eval_steps 60 --no_use_mwt --hidden_dim 32 --lr0 0.01 --save_dir it/tokenize",
    )
    train(
        folder,
        "tagger",
        "--train_file conllu --eval_file conllu --output_file found --no_pretrain --no_char --cpu --max_steps 40 "
        "--eval_interval 40 --fix_eval_interval --hidden_dim 16 --deep_biaff_hidden_dim 16 --transformed_dim 16 "
        "--word_cutoff 1 --word_emb_dim 16 --lr 0.02 --word_dropout 0.1 --dropout 0 --batch_size 100 --save_dir it/pos",
    )
    models = {"tokenize": "tiny", "pos": "tiny"}
    language = {"lang_name": "Italian", **{name: {"tiny": {}} for name in models}, "packages": {"default": models}}
    folder.joinpath("resources.json").write_text(
        json.dumps({"it": language, "de": {**language, "lang_name": "German"}})
    )
    return folder


@pytest.fixture
def stanza_tagger(stanza_models: Path, monkeypatch: pytest.MonkeyPatch) -> Tagger:
    monkeypatch.setenv("STANZA_RESOURCES_DIR", str(stanza_models))
    return found(ITALIAN, "auto")


def test_stanza_tags_where_its_models_are_on_disk(stanza_tagger: Tagger) -> None:
    captions = ["Anna Maria Mozzoni", "una chiesa a Roma", "Dora Riparia", "una torre a Roma, nera", "una casa"]
    assert stanza_tagger.share(captions) == [1.0, 0.25, 1.0, 0.2, 0.0]
    drops = [verdict is not None for verdict in tagged_proper_nouns(stanza_tagger)([*captions, "una casa " * 1_112])]
    assert drops == [True, False, True, False, False, False]


def test_stanza_s_shares_are_the_same_in_any_company(stanza_tagger: Tagger) -> None:
    check_that_neighbours_do_not_matter(
        stanza_tagger, ["Kim Rhodes", "una donna", "una piazza a Torino", *AWKWARD[:-2]]
    )
    assert stanza_tagger.share(["", " \t", "\u0301", "🙂 !"]) == [None] * 4


def test_stanza_s_models_are_named_with_what_is_in_their_files(
    stanza_tagger: Tagger, stanza_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stanza_tagger.name.startswith("stanza:it tiny ")
    assert find_tagger(ITALIAN, "stanza") is stanza_tagger
    same, other = tmp_path / "same", tmp_path / "other"
    for copy in (same, other):
        subprocess.run(["cp", "-r", stanza_models, copy], check=True)
    with other.joinpath("it/pos/tiny.pt").open("ab") as file:
        file.write(b"\0" * 4)
    for copy, alike in ((same, True), (other, False)):
        monkeypatch.setenv("STANZA_RESOURCES_DIR", str(copy))
        assert (found(ITALIAN, "stanza").name == stanza_tagger.name) == alike


def test_a_language_that_stanza_knows_and_has_no_files_of_is_absent(
    stanza_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANZA_RESOURCES_DIR", str(stanza_models))
    for code in ("de", "fi"):
        assert find_tagger(LanguagePack(code=code), "auto") is None
        with pytest.raises(InputError, match=f"stanza cannot tag '{code}' here"):
            find_tagger(LanguagePack(code=code), "stanza")


@pytest.mark.parametrize("damaged", ["it/pos/tiny.pt", "resources.json"])
def test_damaged_files_of_stanza_are_refused(
    damaged: str, stanza_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", stanza_models, copy], check=True)
    copy.joinpath(damaged).write_bytes(b"not what it was")
    monkeypatch.setenv("STANZA_RESOURCES_DIR", str(copy))
    with pytest.raises(InputError, match=r"cannot be loaded|not the list of models"):
        find_tagger(ITALIAN, "auto")
