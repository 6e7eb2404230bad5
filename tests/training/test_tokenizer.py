"""The tokenizer that is trained on captions."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.towers.tokenizer import END, START, TOKENIZER_FILE, load_tokenizer, save_tokenizer, train_tokenizer

CAPTIONS = [
    "Due cerchi rossi sopra un quadrato blu",
    "C'è una città, più in là; perché?",
    "une étoile à gauche d'un carré",
    "ein großer Kreis über dem Fluß",
] * 3

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(CAPTIONS, vocab_size=400), path, context_length=16)
    return path


@given(st.text(max_size=40) | st.sampled_from(CAPTIONS) | st.text(alphabet="àèéìòùçßΩдя你กा 🙂'", max_size=20))
def test_any_text_comes_back_in_lower_case(text: str) -> None:
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=400)
    lowered = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    back = tokenizer.decode(tokenizer.encode(text).ids)
    assert back.removeprefix(" ") == lowered.removeprefix(" ") or START in text or END in text


def test_the_end_token_has_the_highest_id_and_closes_every_text(folder: Path) -> None:
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=400)
    end = tokenizer.token_to_id(END)
    assert end == tokenizer.get_vocab_size() - 1 <= 399
    ids = load_tokenizer(folder, context_length=16)(["due cerchi", "", " ".join(CAPTIONS)])
    assert ids.shape == (3, 16)
    assert ids.max(dim=1).values.tolist() == [end] * 3
    assert ids[2, -1] == end  # also where the text was cut off
    assert ids[:, 0].tolist() == [tokenizer.token_to_id(START)] * 3


def test_ids_are_as_long_as_the_longest_text(folder: Path) -> None:
    tokenize = load_tokenizer(folder, context_length=16)
    alone, together = tokenize(["due cerchi"]), tokenize(["due cerchi", "un quadrato blu sopra due cerchi"])
    assert alone.shape[1] < together.shape[1] < 16
    assert together[0, : alone.shape[1]].tolist() == alone[0].tolist()
    assert set(together[0, alone.shape[1] :].tolist()) == {0}


GREEK = [
    "Ένας σκύλος τρέχει στον δρόμο; «Όχι», κάθεται\u0387",
    "ο γάτος μας, δύο άνθρωποι και ένα ρολόι",
    "ΑΚΡΟΠΟΛΗ ΤΗΣ ΑΘΗΝΑΣ",
] * 3
# What is a word's end beside a stray accent, or a dot between letters, is nobody's rule: they are left out here.
GREEK_LETTERS = [*"ΑΣςσάΆΐΪήώ «»;", "α\u0301", "Ι\u0308", "ι\u0308\u0301"]


@given(st.sampled_from(GREEK) | st.lists(st.sampled_from(GREEK_LETTERS), max_size=20).map("".join))
def test_greek_comes_back_in_lower_case_with_its_final_sigma(text: str) -> None:
    tokenizer = train_tokenizer(GREEK, vocab_size=500)
    lowered = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    assert tokenizer.decode(tokenizer.encode(text).ids).removeprefix(" ") == lowered.removeprefix(" ")


def test_greek_captions_are_spelt_in_words_whatever_their_case() -> None:
    tokenizer = train_tokenizer(GREEK, vocab_size=500)
    small, capitals = (tokenizer.encode(text).tokens for text in ("Ένας σκύλος", "ΈΝΑΣ ΣΚΎΛΟΣ"))
    assert small == capitals
    assert len(small) == 4  # two words between start and end


def test_the_same_captions_give_the_same_file(folder: Path, tmp_path: Path) -> None:
    save_tokenizer(train_tokenizer(CAPTIONS, vocab_size=400), tmp_path, context_length=16)
    assert (tmp_path / TOKENIZER_FILE).read_bytes() == (folder / TOKENIZER_FILE).read_bytes()
