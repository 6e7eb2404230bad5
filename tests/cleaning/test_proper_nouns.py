import pytest

from cleaning.proper_nouns import proper_noun_share
from data_catalog.errors import ConfigError
from flows.language_packs import load_language_packs

PACKS = load_language_packs()


@pytest.mark.parametrize(
    ("lang", "caption", "detail"),
    [
        # The paper's examples.
        ("it", "Dora Riparia", "2 of 2 words"),
        ("it", "Anna Maria Mozzoni", "3 of 3 words"),
        ("it", "Joey Ramone Place", "3 of 3 words"),
        ("it", "Kim Rhodes", "2 of 2 words"),
        ("it", "Ralph George Hawtrey", "3 of 3 words"),
        ("it", "Kim Rhodes nel 2010", "2 of 2 words"),
        ("it", "G. H. Hardy", "3 of 3 words"),
        ("it", "La Dora Riparia", "2 of 2 words"),
        ("it", "Émile Zola", "2 of 2 words"),
        ("it", "Лев Толстой", "2 of 2 words"),
        ("en", "Times Square in New York", "4 of 4 words"),
        ("el", "Ο Νίκος Παπαδόπουλος", "2 of 2 words"),
        ("el", "Μελίνα Μερκούρη", "2 of 2 words"),
        ("el", "Η Πλάκα, Αθήνα", "2 of 2 words"),
        ("el", "Γ. Σεφέρης στην Αθήνα", "3 of 3 words"),
        ("el", "Εκκλησία στη Θεσσαλονίκη", None),
        ("el", "Ένας Άντρας Και Ο Σκύλος Του", None),
        ("el", "ΑΚΡΟΠΟΛΗ ΤΗΣ ΑΘΗΝΑΣ", None),
        ("el", "Τι κάνει; Ο Νίκος τρέχει", None),
        ("it", "una chiesa a Roma", None),
        ("it", "Gatto nero", None),
        ("it", "Gatto", None),
        ("it", "Chiesa di San Marco", None),
        ("it", "Un uomo. Una donna a Roma", None),
        ("it", "VISTA DI ROMA", None),
        ("it", "A MAN HOLDING A CAKE To EAT", None),
        ("en", "A Man And His Dog", None),
        ("en", "a man and his dog", None),
        ("it", "東京タワーの夜景", None),
        ("it", "מגדל אייפל", None),
        ("it", "برج إيفل", None),
        ("it", "🙂 123", None),
        ("it", "\u0301", None),
        ("it", "A", None),
        ("it", "", None),
        ("it", "Parola " + "parola " * 1400, None),
    ],
)
def test_proper_nouns(lang: str, caption: str, detail: str | None) -> None:
    (verdict,) = proper_noun_share(function_words=PACKS[lang].function_words)([caption])
    assert (verdict.detail if verdict else None) == detail
    assert verdict is None or verdict.reason == "mostly_proper_nouns"


def test_the_share_is_an_option() -> None:
    assert proper_noun_share(function_words=(), max_share=0.5)(["una Roma"])[0] is not None
    with pytest.raises(ConfigError, match="max_proper_noun_share"):
        proper_noun_share(function_words=(), max_share=0)
