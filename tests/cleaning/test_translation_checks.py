import pytest

from cleaning.translation_checks import copied_through, length_ratio, numbers_lost, repeated_ngrams
from data_catalog.errors import ConfigError
from data_catalog.stages import Drop, PairCheck


def verdict_of(check: PairCheck, source: str, target: str) -> Drop | None:
    (verdict,) = check([source], [target])
    return verdict


@pytest.mark.parametrize(
    ("source", "target", "dropped"),
    [
        ("a dog on the grass", "A dog on the grass.", True),
        ("a dog on the grass", "un cane sull'erba", False),
        ("hot dog", "hot dog", False),
        ("東京の夜景と人々", "東京の夜景と人々", True),
        ("שלום לכל העולם", "שלום לכל העולם", True),
        ("🙂", "🙂", False),
        ("", "", False),
    ],
)
def test_copied_through(source: str, target: str, dropped: bool) -> None:
    assert verdict_of(copied_through(), source, target) == (Drop("copied_through") if dropped else None)


@pytest.mark.parametrize(
    ("source", "target", "detail"),
    [
        ("a dog", "un cane cane cane cane", "'cane' 4 times"),
        ("a dog", "un cane di un cane di un cane di", "'un cane di' 3 times"),
        ("a dog", "sul tavolo, sul tavolo, sul tavolo, sul tavolo", "'sul tavolo' 4 times"),
        ("a dog", "un cane molto molto molto grande", None),
        ("ha ha ha ha ha", "ah ah ah ah ah", None),
        ("a dog", "狗狗狗狗", "'狗' 4 times"),
        ("a dog", "un cane e un cane e un gatto", None),
        ("a dog", "a" * 10_000, None),
        ("a dog", "🙂🙂🙂🙂🙂", None),
        ("", "", None),
    ],
)
def test_repeated_ngrams(source: str, target: str, detail: str | None) -> None:
    assert verdict_of(repeated_ngrams(), source, target) == (Drop("repeated_ngrams", detail) if detail else None)


@pytest.mark.parametrize(
    ("source", "target", "detail"),
    [
        ("a small brown dog runs over the green grass", "un cane", "ratio 0.17"),
        ("a dog runs", "un piccolo cane marrone corre sull'erba verde del parco", "ratio 5.75"),
        ("a dog", "un cagnolino", None),
        ("a small brown dog runs over the green grass", "一只棕色的小狗在绿草地上奔跑", None),
        ("a small brown dog runs", "@@", "ratio 0.00"),
        ("", "un cane", None),
        ("12", "", None),
    ],
)
def test_length_ratio(source: str, target: str, detail: str | None) -> None:
    assert verdict_of(length_ratio(), source, target) == (Drop("length_ratio", detail) if detail else None)


def test_length_ratio_refuses_bounds_that_nothing_meets() -> None:
    with pytest.raises(ConfigError, match="length ratios"):
        length_ratio(min_ratio=1.5)


@pytest.mark.parametrize(
    ("source", "target", "detail"),
    [
        ("bus number 345 in 1999", "autobus in strada", "345, 1999"),
        ("bus number 345", "autobus numero 345", None),
        ("2 dogs", "due cani", None),
        ("1,000 people", "1.000 persone", None),
        ("1000 people", "1 000 persone", None),
        ("a car of the 1980s", "un'auto degli anni '80", None),
        ("a man in his 30's", "un uomo sulla trentina", None),
        ("a train at 11:45 pm", "un treno alle 23:45", None),
        ("bus 42", "حافلة ٤٢", None),
        ("bus 42", "一輛公車", "42"),
        ("x² and ½", "x² e ½", None),
        ("", "", None),
        ("9" * 10_000, "9" * 10_000, None),
    ],
)
def test_numbers_lost(source: str, target: str, detail: str | None) -> None:
    assert verdict_of(numbers_lost(), source, target) == (Drop("numbers_lost", detail) if detail else None)
