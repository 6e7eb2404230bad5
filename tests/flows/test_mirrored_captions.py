"""Captions of mirrored images: left and right are exchanged, and doubtful words are left alone."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.base.errors import SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.sample.grammar import STYLES, Wording, caption, templates
from data_catalog.sample.scene import random_scene
from flows.recipe.language_packs import load_language_pack
from flows.recipe.settings import read
from training.data.mirror import mirror_by

SIDES = {code: load_language_pack(code).sides for code in ("it", "de", "en")}
MIRRORED = {code: mirror_by(words) for code, words in SIDES.items() if words}


@pytest.mark.parametrize("code", ["en", "it"])
def test_a_mirrored_scene_has_left_and_right_exchanged(code: str) -> None:
    rng, sides = Random(3), {"left": "right", "right": "left"}
    exchanged = Counter[bool]()
    for scene in (random_scene(rng) for _ in range(60)):
        mirrored = replace(scene, relation=sides.get(scene.relation, scene.relation))
        for template in templates(scene):
            wording = Wording(template=template, synonym=rng.randrange(2), style=rng.choice(STYLES))
            text = caption(scene, code, wording)
            assert MIRRORED[code](text) == caption(mirrored, code, wording)
            exchanged[text == caption(mirrored, code, wording)] += 1
    assert min(exchanged[True], exchanged[False]) > 50


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("en", "A dog, on the  left of a house", None),  # two spaces would not come back
        ("en", "Left side: a dog", "Right side: a dog"),
        ("en", "A DOG ON THE LEFT", "A DOG ON THE RIGHT"),
        ("en", "a dog in front of the Left Side", None),
        ("en", "a dog with leftovers", "a dog with leftovers"),
        ("en", "a man left the house on the left", None),
        ("en", "a boy right next to a dog", None),
        ("en", "all that is left of a cake", None),
        *(("en", f"a dog in the {corner}", None) for corner in ("top-right corner", "left-hand side", "Bottom-Left")),
        ("en", "a dog on the left, in the top-right corner", None),
        ("de", "ein Hund oben-links", None),
        ("de", "Linke Hand im rechten Winkel", None),
        ("de", "Links ein Hund, rechts eine Katze", "Rechts ein Hund, links eine Katze"),
        ("it", "un uomo guarda verso destra", None),
        ("it", "A SINIsTRA un cane", None),
        ("it", "l'uomo alla sinistra della porta", "l'uomo alla destra della porta"),
    ],
)
def test_captions_are_not_mirrored_where_left_may_not_be_left(code: str, text: str, expected: str | None) -> None:
    assert MIRRORED[code](text) == expected


@pytest.mark.parametrize("code", sorted(MIRRORED))
def test_any_text_is_mirrored_back_or_not_at_all(code: str) -> None:
    words = SIDES[code]
    assert words
    known = st.sampled_from([*words.left, *words.right, *words.left_alone, "e", "-", "  "])
    some = known | known.map(str.capitalize) | known.map(str.upper) | st.text(max_size=9)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(some, max_size=9).map(" ".join))
    def check(text: str) -> None:
        mirrored = MIRRORED[code](text)
        assert mirrored is None or MIRRORED[code](mirrored) == text

    check()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"left": ["left"], "right": ["right", "far right"]}, "equally many phrases"),
        ({"left": [], "right": []}, "equally many phrases"),
        ({"left": ["left"]}, "sides.right"),
        ({"left": ["left"], "right": [" "]}, "none that is empty"),
    ],
)
def test_sides_that_do_not_fit_are_refused(values: dict[str, list[str]], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read(LanguagePack, {"code": "xx", "sides": values}, "xx.toml")
