"""Captions that differ from a caption in exactly one thing, by the rules of a language pack.

The rules know no grammar beyond their tables: a word is changed only where its form in the new caption is certain, and
left alone otherwise. So they find few changes rather than wrong ones.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

from data_catalog.base.errors import SettingsError
from data_catalog.base.language_pack import ChangeWords, LanguagePack

KINDS = ("position", "colour", "count", "noun", "negation", "roles", "exchanged")

_WORD = re.compile(r"\w+(?:-\w+)*['’]?")
_VOWELS = frozenset("aeiou")
_MOST_PLACES = 8  # of a kind that are changed, from the left: hostile captions have thousands
_MOST_BEFORE_VERB = 2
_STEM = 4  # letters from which "Stern" and "Sternen" are one noun

Phrase = tuple[str, ...]  # words without case
Edit = tuple[int, int, str]  # characters from, to, and what replaces them


@dataclass(frozen=True, slots=True)
class Change:
    """A caption that differs from another in one thing."""

    kind: str  # one of `KINDS`
    caption: str  # the changed caption
    old: str = ""  # name of the thing that was changed, as `ChangeRules.says` has it; "" for "roles" and "exchanged"
    new: str = ""  # name of the thing that it was changed into

    def is_confirmed_by(self, others: Iterable[frozenset[tuple[str, str]]]) -> bool:
        """Return whether another caption names the new thing and not the old one; captions are as `says` has them."""
        new, old = (self.kind, self.new), (self.kind, self.old)
        return bool(self.new) and any(new in things and old not in things for things in others)

    def is_about(self, things: frozenset[tuple[str, str]]) -> bool:
        """Return whether a caption, as `says` has it, names the old or the new thing."""
        return bool(self.new) and not things.isdisjoint({(self.kind, self.old), (self.kind, self.new)})


@dataclass(frozen=True, kw_only=True)
class ChangeRules:
    """Rules of one language that change one thing in a caption, from its pack."""

    words: ChangeWords
    function_words: tuple[str, ...] = ()

    @classmethod
    def of(cls, pack: LanguagePack) -> "ChangeRules":
        """Return the rules of a language pack."""
        if pack.changes is None:
            raise SettingsError(
                f"the language pack {pack.code} has no [changes]: add the words by which one thing in a caption "
                "changes, as docs/languages.md says"
            )
        return cls(words=pack.changes, function_words=pack.function_words)

    def changes(self, caption: str, kinds: Collection[str] = KINDS) -> tuple[Change, ...]:
        """Return all captions that differ from `caption` in exactly one thing, by kind, place and word.

        Changed are at most `_MOST_PLACES` places of a kind. No caption is returned twice, and never `caption` itself.
        """
        text = self._read(caption)
        rules: dict[str, Callable[[_Text], Iterator[Change]]] = {
            "position": partial(self._reversible, "position"),
            "colour": self._colours,
            "count": self._numbers,
            "noun": self._nouns,
            "negation": partial(self._reversible, "negation"),
            "roles": self._roles,
            "exchanged": self._exchanges,
        }
        found: dict[str, Change] = {}
        for change in (change for kind in KINDS if kind in kinds for change in rules[kind](text)):
            found.setdefault(change.caption, change)
        found.pop(caption, None)
        return tuple(found.values())

    def says(self, caption: str) -> frozenset[tuple[str, str]]:
        """Return kind and name of all things in a caption that rules know, also where they are left alone."""
        text = _words_of(caption)
        return frozenset(
            (kind, place.thing.name)
            for kind, table in self._tables.things.items()
            for place in _places(text, table, most=len(text.words))
        )

    def mirrored(self, caption: str) -> str | None:
        """Return a caption with left and right exchanged, as a mirrored image shows them, or None if that is uncertain.

        It is uncertain if a word of `sides` is outside the phrases of `positions` ("a man left", "its left-hand side"),
        or if the new caption would not change back.
        """
        if not any(map(self._names_side, _words_of(caption).words)):
            return caption
        found = self._exchanged_sides(caption)
        return found if found is not None and self._exchanged_sides(found) == caption else None

    def _exchanged_sides(self, caption: str) -> str | None:
        text = self._read(caption)
        at_sides = {number for number, word in enumerate(text.words) if self._names_side(word)}
        places = [
            place
            for place in _places(text, self._tables.things["position"], most=len(text.words))
            if not at_sides.isdisjoint(range(place.first, place.end))
        ]
        found = [_edits(text, place, place.thing.opposite, self._tables.articles) for place in places]
        if at_sides.difference(*(range(place.first, place.end) for place in places)) or not all(found):
            return None
        return _edited(text, [edit for edits in found for edit in edits])

    def _names_side(self, word: str) -> bool:
        return not self._tables.sides.isdisjoint(word.split("-"))

    def within(self, captions: Iterable[str]) -> "ChangeRules":
        """Return rules that change only into colours, numbers and nouns that some of `captions` say.

        So a model cannot tell changed captions by words that no true caption has.
        """
        said = frozenset(thing for caption in captions for thing in self.says(caption))
        words = self.words
        colours = tuple(forms for forms in words.colours if ("colour", forms[0]) in said)
        kept = replace(
            words,
            colours=colours,
            alike=tuple(tuple(name for name in names if ("colour", name) in said) for names in words.alike),
            numbers=tuple(number for number in words.numbers if ("count", number) in said),
            nouns=tuple(
                tuple(forms for forms in group if ("noun", forms[0]) in said)
                for group in words.nouns
                if any(("noun", forms[0]) in said for forms in group)
            ),
        )
        return replace(self, words=kept)

    def _reversible(self, kind: str, text: "_Text") -> Iterator[Change]:
        """Yield changes of a phrase into its opposite, if the same rule changes the new caption back."""
        for change, place in self._opposites(kind, text):
            back = self._opposites(kind, self._read(change.caption))
            if any(other.caption == text.caption and there.first == place.first for other, there in back):
                yield change

    def _opposites(self, kind: str, text: "_Text") -> "Iterator[tuple[Change, _Place]]":
        for place in _places(text, self._tables.things[kind]):
            thing = place.thing
            for change in self._replaced(kind, text, place, thing.opposite, thing.opposite_name):
                yield change, place

    def _replaced(self, kind: str, text: "_Text", place: "_Place", new: str, name: str) -> Iterator[Change]:
        """Yield the change of a thing into another of that name, unless it is unsafe."""
        if edit := _edits(text, place, new, self._tables.articles):
            yield Change(kind, _edited(text, edit), place.thing.name, name)

    def _colours(self, text: "_Text") -> Iterator[Change]:
        places = _places(text, self._tables.things["colour"])
        for place in places:
            forms = self._forms(text, place)
            # "Black and white" never becomes "white and white".
            joined = {two.thing.name for two in places if two is not place and self._are_joined(text, place, two)}
            for other in place.thing.rows:
                is_other = not any(self._are_alike(name, other[0]) for name in {place.thing.name} | joined)
                if is_other and (new := _form(other, forms)):
                    yield from self._replaced("colour", text, place, new, other[0])

    def _numbers(self, text: "_Text") -> Iterator[Change]:
        table = self._tables.things["count"]
        for place in _places(text, table):
            before, after = text.before(place.first), text.after(place.end - 1)
            # "two of them", "two two-year-olds": what is counted must follow.
            if after is None or after in self._tables.closed or _is_in(after, table) or _is_in(before, table):
                continue
            for number in self.words.numbers:
                if number != place.thing.name:
                    yield from self._replaced("count", text, place, number, number)

    def _nouns(self, text: "_Text") -> Iterator[Change]:
        starts = {place.first for place in _places(text, self._tables.things["position"], most=len(text.words))}
        for place in _places(text, self._tables.things["noun"]):
            before, after = text.before(place.first), text.after(place.end - 1)
            stands_alone = after is None or place.end in starts or after in self._tables.function_words
            if before not in self._tables.known or not (stands_alone or after in self._tables.known):
                continue
            which = [cell for cell, form in enumerate(place.thing.forms) if _phrase(form) == place.thing.phrase]
            for other in place.thing.rows:
                if other != place.thing.forms and (new := _form(other, which)):
                    yield from self._replaced("noun", text, place, new, other[0])

    def _exchanges(self, text: "_Text") -> Iterator[Change]:
        places = _places(text, self._tables.things["colour"])
        positions = [place.first for place in _places(text, self._tables.things["position"], most=len(text.words))]
        for number, one in enumerate(places):
            for two in places[number + 1 :]:
                is_same = self._are_alike(one.thing.name, two.thing.name)
                if is_same or not self._are_apart(text, one, two, positions):
                    continue
                first = _form(two.thing.forms, self._forms(text, one))
                second = _form(one.thing.forms, self._forms(text, two))
                edit = _edits(text, one, first, self._tables.articles) if first and second else []
                other = _edits(text, two, second, self._tables.articles) if first and second else []
                if edit and other:
                    yield Change("exchanged", _edited(text, [*edit, *other]))

    def _are_alike(self, one: str, two: str) -> bool:
        return one == two or any(one in names and two in names for names in self.words.alike)

    def _are_joined(self, text: "_Text", one: "_Place", two: "_Place") -> bool:
        """Return whether only colours and function words are between two colours."""
        first, second = sorted((one, two), key=lambda place: place.first)
        return self._tables.joining.issuperset(text.words[first.end : second.first])

    def _are_apart(self, text: "_Text", one: "_Place", two: "_Place", positions: Sequence[int]) -> bool:
        """Return whether a caption means another thing if two colours are exchanged."""
        # "Black and white" means the same, and so does "a red and a blue star", unless the one is above the other.
        if self._are_joined(text, one, two):
            return False
        if any(one.end <= place < two.first for place in positions):
            return True
        nouns = [
            {text.before(place.first), text.after(place.end - 1)} - self._tables.function_words for place in (one, two)
        ]
        return not any(
            first == second
            or (min(len(first), len(second)) >= _STEM and (first.startswith(second) or second.startswith(first)))
            for first in nouns[0]
            for second in nouns[1]
            if first and second
        )

    def _roles(self, text: "_Text") -> Iterator[Change]:
        roles, tables = self.words.roles, self._tables
        verb_endings, before_verbs = tuple(roles.verb_endings), set(roles.before_verbs)
        for start in [place for place in range(len(text.words)) if text.before(place) is None][:_MOST_PLACES]:
            agent_end = self._noun_phrase(text, start, tables.agents)
            if agent_end is None:
                continue
            verb = agent_end
            while verb < len(text.words) and verb - agent_end < _MOST_BEFORE_VERB and text.words[verb] in before_verbs:
                verb += 1
            if verb + 1 >= len(text.words) or any(text.breaks(place) for place in range(start, verb + 1)):
                continue
            word = text.words[verb]
            is_verb = word not in tables.known | tables.function_words and text.raw(verb) in (word, word.upper())
            if not is_verb or (verb_endings and not word.endswith(verb_endings)):
                continue
            patient_end = self._noun_phrase(text, verb + 1, tables.patients)
            if patient_end is None or not text.masked.isdisjoint(range(start, patient_end)):
                continue
            after = text.after(patient_end - 1)
            if after is not None and (after not in tables.function_words or after in roles.continues):
                continue
            agent, patient = text.span(start, agent_end), text.span(verb + 1, patient_end)
            names = text.caption[slice(*agent)], text.caption[slice(*patient)]
            if start == 0 and not text.is_capital and names[0][0] != names[0][0].lower():
                names = names[0][0].lower() + names[0][1:], names[1][0].upper() + names[1][1:]
            yield Change("roles", _edited(text, [(*agent, names[1]), (*patient, names[0])]))

    def _noun_phrase(self, text: "_Text", start: int, articles: Collection[str]) -> int | None:
        """Return the end of an article with a noun and known adjectives around it, or None."""
        tables = self._tables
        if start >= len(text.words) or text.words[start] not in articles:
            return None

        def skip_known(place: int) -> int:
            while place < len(text.words) and not text.breaks(place - 1) and text.words[place] in tables.adjectives:
                place += 1
            return place

        place = skip_known(start + 1)
        is_noun = place < len(text.words) and not text.breaks(place - 1)
        if is_noun and text.words[place] not in tables.function_words:
            return skip_known(place + 1)
        return place if place > start + 1 else None

    def _forms(self, text: "_Text", place: "_Place") -> list[int]:
        """Return the forms that a colour may have here: those that it shows, less what words before it exclude.

        Words are read up to the article of the phrase, over at most one unknown word, the noun.
        """
        forms = {
            number
            for number in range(self._tables.num_forms)
            if _phrase(_of(place.thing.forms, number)) == place.thing.phrase
        }
        num_unknown, before = 0, place.first - 1
        while before >= 0 and not text.breaks(before) and num_unknown < 2:
            word = text.words[before]
            shown = self._tables.shown.get(word)
            if shown is not None:
                forms &= shown
            if word in self._tables.function_words:
                break
            num_unknown += shown is None
            before -= 1
        return sorted(forms)

    def _read(self, caption: str) -> "_Text":
        text = _words_of(caption)
        masked = {
            number
            for place, word in enumerate(text.words)
            for phrase in self._tables.left_alone.get(word, ())
            if phrase.is_at(text, place - phrase.offset, self._tables.function_words)
            for number in range(place - phrase.offset, place - phrase.offset + len(phrase.words))
        }
        return replace(text, masked=frozenset(masked)) if masked else text

    @cached_property
    def _tables(self) -> "_Tables":
        return _Tables(self.words, self.function_words)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Thing:
    """A phrase of the rules, with the thing that it names."""

    phrase: Phrase  # its words without case
    words: tuple[str, ...]  # its words as the language writes them
    name: str
    needs_word: bool = False  # a word must follow
    opposite: str = ""  # what replaces it, for positions and negations
    opposite_name: str = ""
    forms: tuple[str, ...] = ()  # all forms of the thing, for colours and nouns
    rows: tuple[tuple[str, ...], ...] = ()  # forms of all things that can replace it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A thing in a text, from word `first` to before word `end`."""

    first: int
    end: int
    thing: _Thing


_Table = Mapping[str, Sequence[_Thing]]  # things by their first word, the longest phrases first


@dataclass(frozen=True)
class _Text:
    """A caption as words without case; `masked` are numbers of words that are left alone."""

    caption: str
    matches: tuple[re.Match[str], ...]
    words: tuple[str, ...]
    masked: frozenset[int] = frozenset()

    @cached_property
    def is_capital(self) -> bool:
        """Return whether the caption has capitals only."""
        return self.caption == self.caption.upper()

    def raw(self, word: int) -> str:
        return self.matches[word][0]

    def span(self, first: int, end: int) -> tuple[int, int]:
        return self.matches[first].start(), self.matches[end - 1].end()

    def gap(self, word: int) -> str:
        """Return what is between a word and the next one."""
        return self.caption[self.matches[word].end() : self.matches[word + 1].start()]

    def breaks(self, word: int) -> bool:
        """Return whether a phrase ends after a word: with the text, or with a character that is not a space."""
        return word + 1 >= len(self.words) or bool(self.gap(word).strip())

    def before(self, word: int) -> str | None:
        """Return the word before a word in the same phrase."""
        return None if word == 0 or self.breaks(word - 1) else self.words[word - 1]

    def after(self, word: int) -> str | None:
        """Return the word after a word in the same phrase."""
        return None if self.breaks(word) else self.words[word + 1]

    def has(self, start: int, phrase: Phrase) -> bool:
        """Return whether a phrase, in which "*" is any word, starts with a word."""
        end = start + len(phrase)
        there = self.words[start:end]
        if there != phrase:
            if len(there) < len(phrase) or "*" not in phrase:
                return False
            if any(wanted not in ("*", word) for wanted, word in zip(phrase, there, strict=True)):
                return False
        return not any(self.breaks(word) for word in range(start, end - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class _LeftAlone:
    """A phrase in which nothing is changed."""

    words: Phrase  # "*" is any word
    offset: int  # place of the first other word
    needs_end: bool  # the phrase that it is in must end with it

    def is_at(self, text: _Text, start: int, function_words: frozenset[str]) -> bool:
        if start < 0 or not text.has(start, self.words):
            return False
        after = text.after(start + len(self.words) - 1)
        return not self.needs_end or after is None or after in function_words


class _Tables:
    """The words of `ChangeRules`, for look-up; words are without case."""

    def __init__(self, words: ChangeWords, function_words: Iterable[str]) -> None:
        phrases = {
            "position": dict(pair for sides in words.positions for pair in _opposites(sides)),
            "negation": dict(_opposites(words.negations)) if words.negations else {},
            "colour": _rows(words.colours),
            "count": _rows(tuple((number,) for number in words.numbers)),
            "noun": {phrase: thing for rows in words.nouns for phrase, thing in _rows(rows).items()},
        }
        # For each kind with words of its own, its phrases.
        self.things = {kind: _by_first_word(found.values()) for kind, found in phrases.items()}
        self.num_forms = max([1, len(words.agreement), *map(len, words.colours)])  # of a colour
        self.shown: dict[str, frozenset[int]] = {}  # numbers of the forms that a word before a colour shows
        for number, forms in enumerate(words.agreement):
            for word in forms:
                self.shown[_folded(word)] = self.shown.get(_folded(word), frozenset()) | {number}
        self.left_alone: dict[str, list[_LeftAlone]] = {}  # by their first word that is not "*"
        for text in words.left_alone:
            parts = [("*",) if word == "*" else _phrase(word) for word in text.removesuffix("|").split()]
            phrase = tuple(part for some in parts for part in some)
            offset = next(place for place, word in enumerate(phrase) if word != "*")
            found = _LeftAlone(words=phrase, offset=offset, needs_end=text.endswith("|"))
            self.left_alone.setdefault(phrase[offset], []).append(found)
        colours = {word for phrase in phrases["colour"] for word in phrase}
        numbers = {word for phrase in phrases["count"] for word in phrase}
        # Packs write elided words without their apostrophe.
        self.function_words = frozenset(form for word in map(_folded, function_words) for form in (word, f"{word}'"))
        self.adjectives = frozenset(colours | self.shown.keys()) - self.function_words  # colours, and words that agree
        self.known = frozenset(colours | numbers | self.shown.keys())  # words that may stand before a noun
        self.closed = self.function_words - self.shown.keys()  # words that cannot follow a number
        self.joining = self.function_words | colours  # between two colours of one thing ("black and white")
        # Articles that depend on the next letter, with their pair.
        self.articles = {_folded(word): pair for pair in words.before_vowels for word in pair if word}
        self.agents = frozenset(map(_folded, words.roles.agents))
        self.patients = frozenset(map(_folded, words.roles.patients))
        self.sides = frozenset(map(_folded, words.sides))  # all forms of "left" and "right"


def _folded(word: str) -> str:
    return word.casefold().replace("’", "'")


@cache  # of a pack's phrases, of which there are some hundreds
def _phrase(text: str) -> Phrase:
    """Return the words of a phrase without case."""
    return _words_of(text).words


def _words_of(text: str) -> _Text:
    matches = tuple(_WORD.finditer(text))
    return _Text(text, matches, tuple(_folded(match[0]) for match in matches))


def _thing(written: str, **more: Any) -> _Thing:
    words = tuple(match[0] for match in _WORD.finditer(written))
    return _Thing(phrase=_phrase(written), words=words, **more)


def _by_first_word(things: Iterable[_Thing]) -> _Table:
    found: dict[str, list[_Thing]] = {}
    for thing in sorted(things, key=lambda thing: -len(thing.phrase)):
        found.setdefault(thing.phrase[0], []).append(thing)
    return found


def _is_in(word: str | None, table: _Table) -> bool:
    return word is not None and any(thing.phrase == (word,) for thing in table.get(word, ()))


def _rows(rows: tuple[tuple[str, ...], ...]) -> dict[Phrase, _Thing]:
    """Return a table of things with several forms each; a thing has the name of its first form."""
    return {_phrase(form): _thing(form, name=forms[0], forms=forms, rows=rows) for forms in rows for form in forms}


def _opposites(sides: Sequence[Sequence[str]]) -> Iterator[tuple[Phrase, _Thing]]:
    """Yield the phrases of two lists with their opposites; a side has the name of its first phrase."""
    names = [side[0].removesuffix(" *") for side in sides]
    for one, other in ((0, 1), (1, 0)):
        for text, opposite in zip(sides[one], sides[other], strict=True):
            written = text.removesuffix(" *")
            yield (
                _phrase(written),
                _thing(
                    written,
                    needs_word=written != text,
                    name=names[one],
                    opposite=opposite.removesuffix(" *"),
                    opposite_name=names[other],
                ),
            )


def _of(forms: Sequence[str], number: int) -> str:
    """Return a form of a colour; some have one form for all."""
    return forms[number] if len(forms) > 1 else forms[0]


def _form(forms: Sequence[str], numbers: Sequence[int]) -> str | None:
    """Return the form of a word that replaces another, or None if the other leaves it open."""
    found = {_of(forms, number) for number in numbers}
    return found.pop() if len(found) == 1 else None


def _places(text: _Text, table: _Table, most: int = _MOST_PLACES) -> list[_Place]:
    """Return where things of a table are in a text, the longest phrases first, at most `most`."""
    places: list[_Place] = []
    free = 0  # first word that is in no phrase yet
    for start, word in enumerate(text.words):
        things = table.get(word, ()) if start >= free and len(places) < most else ()
        for thing in things:
            end = start + len(thing.phrase)
            if text.has(start, thing.phrase) and not (thing.needs_word and text.breaks(end - 1)):
                if text.masked.isdisjoint(range(start, end)):
                    places.append(_Place(first=start, end=end, thing=thing))
                free = end
                break
    return places


def _edits(text: _Text, place: _Place, new: str, articles: Mapping[str, tuple[str, ...]]) -> list[Edit]:
    """Return the edits that replace a thing, with its article where that depends on the next letter; [] if unsafe."""
    if (written := _written(text, place, new)) is None:
        return []
    edits: list[Edit] = [(*text.span(place.first, place.end), written)]
    is_vowel = unicodedata.normalize("NFD", new)[:1].casefold() in _VOWELS
    before = text.before(place.first)
    if before is not None:
        if before.endswith("'") and not text.gap(place.first - 1) and not is_vowel:
            return []
        pair = articles.get(before)
        if pair is not None:
            article = pair[is_vowel]
            if not article:
                return []
            if _folded(article) != before:
                span = text.span(place.first - 1, place.first)
                is_upper = text.raw(place.first - 1)[0].isupper()
                article = article.upper() if text.is_capital else article
                edits.insert(0, (*span, article[0].upper() + article[1:] if is_upper else article))
    return edits


def _written(text: _Text, place: _Place, new: str) -> str | None:
    """Return the new words in the capitals of the old ones; None if those are not as expected, as in a name."""
    old = [text.raw(word).replace("’", "'") for word in range(place.first, place.end)]
    expected = [*place.thing.words]
    if old == expected:
        return new
    # At the start of the text only: a full stop may be an abbreviation's.
    if place.first == 0 and old == [expected[0][0].upper() + expected[0][1:], *expected[1:]]:
        return new[0].upper() + new[1:]
    if text.is_capital and old == [word.upper() for word in expected]:
        return new.upper()
    return None


def _edited(text: _Text, edits: Iterable[Edit]) -> str:
    """Return the caption after edits of different places."""
    caption = text.caption
    for start, end, new in sorted(edits, reverse=True):
        caption = caption[:start] + new + caption[end:]
    return caption
