"""Read what servers say about the use of their files: robots.txt, X-Robots-Tag, TDM-Reservation, Content-Usage.

All of it is pure: text in, answers out. Who asks for a robots.txt, and how long it is remembered, is decided elsewhere.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from types import MappingProxyType
from urllib.parse import quote

from data_catalog.errors import SettingsError

# The drafts of the IETF's working group AIPREF that this module follows, both of 19 August 2026: how a statement of
# preference is attached to a file, and which words it is made of. Read their newest versions before changing a label.
ATTACH_DRAFT = "draft-ietf-aipref-attach-05"
VOCAB_DRAFT = "draft-ietf-aipref-vocab-07"
DRAFTS = f"{ATTACH_DRAFT}, {VOCAB_DRAFT}"

ROBOTS_TXT = "robots.txt"
ROBOTS_TAG = "x-robots-tag"
TDM_RESERVATION = "tdm-reservation"
HEADER = "header"

# Labels of the vocabulary that forbid us, if their value is "n". The categories of the newest draft do not overlap: no
# other label implies one of these. (Up to vocab-04 there were broader ones: tdm, all, bots.) "search" is not ours.
# The draft means models that generate content. A model such as CLIP only tells images apart, but is a part of many
# that generate, and who says "n" to training rarely knows the difference. So we take the broader meaning.
LABELS: Mapping[str, str] = MappingProxyType({"train-ai": f"Content-Usage says train-ai=n ({VOCAB_DRAFT})"})

# All signals that are heeded unless `ConsentConfig.ignore` names them, and what each says.
SIGNALS: Mapping[str, str] = MappingProxyType(
    {
        ROBOTS_TXT: "the host's robots.txt forbids to ask for the file (RFC 9309); ignored, it is not asked for at all",
        ROBOTS_TAG: "X-Robots-Tag says noai, noimageai, noindex, noimageindex, noml or none, to all robots or to us",
        TDM_RESERVATION: "TDM-Reservation is 1 (W3C's TDM Reservation Protocol)",
        **LABELS,
    }
)

# What is longer is not parsed, and says nothing: a server may send megabytes of headers.
_LONGEST_STATEMENT = 64 * 1024
_LONGEST_RECORD = 1000
_MOST_RECORDS = 10
_LONGEST_DETAIL = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentConfig:
    """Signals of servers about the use of their files, and which of them are heeded."""

    ignore: tuple[str, ...] = ()
    """Signals that are not heeded, at your responsibility: "robots.txt", "x-robots-tag", "tdm-reservation", or
    "train-ai", which is a label of Content-Usage."""

    def __post_init__(self) -> None:
        """Raise `SettingsError` if a signal is unknown. Sort the names, so that their order changes no key."""
        for name in self.ignore:
            if name not in SIGNALS:
                raise SettingsError(f"consent.ignore names no signal {name!r}: there are {', '.join(SIGNALS)}")
        object.__setattr__(self, "ignore", tuple(sorted(set(self.ignore))))

    def heeds(self, signal: str) -> bool:
        """Tell if a signal, such as `ROBOTS_TXT`, counts."""
        return signal not in self.ignore


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One statement of preference.

    Args:
        value: as the server wrote it, at most 1000 characters.
        where: `HEADER` or `ROBOTS_TXT`.
        denied: the `LABELS` that it says "n" to.
        draft: by which it was read.
    """

    value: str
    where: str
    denied: tuple[str, ...]
    draft: str = DRAFTS


def _usage(text: str, where: str) -> Usage:
    """Return a statement with the labels that it says "n" to; none if it can't be parsed, as the draft demands."""
    from http_sf import StructuredFieldError, Token, parse

    denied = []
    if len(text) <= _LONGEST_STATEMENT:
        with suppress(StructuredFieldError):
            dictionary = parse(text.encode("utf-8", "surrogatepass"), tltype="dictionary")
            assert isinstance(dictionary, dict)
            for name in LABELS:
                member = dictionary.get(name)
                value = member[0] if isinstance(member, tuple) else None  # behind it are parameters: they mean nothing
                if isinstance(value, Token) and str(value) == "n":  # a string in quotation marks says nothing
                    denied.append(name)
    return Usage(value=text[:_LONGEST_RECORD], where=where, denied=tuple(denied))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What came with one answer.

    Args:
        robots_tags: the values of all X-Robots-Tag headers, then what TDM-Reservation says, each as
            "tdm-reservation: VALUE".
        usages: statements of preference, those that deny first.
    """

    robots_tags: tuple[str, ...] = ()
    usages: tuple[Usage, ...] = ()

    def refusal(self, config: ConsentConfig, robot: str) -> tuple[str, str] | None:
        """Return why the file may not be used, as reason and detail; None if nothing forbids it.

        The most restrictive statement wins: whoever says "n" is heeded, whatever others say.
        """
        signals = {signal for tag in self.robots_tags for signal in _signals_of(tag.lower(), robot.lower())}
        if any(map(config.heeds, signals)):
            return "robots_tag", "; ".join(self.robots_tags)[:_LONGEST_DETAIL]
        for usage in self.usages:
            if any(map(config.heeds, usage.denied)):
                return "content_usage", f"{usage.where}: {usage.value}"[:_LONGEST_DETAIL]
        return None

    @property
    def content_usage(self) -> list[dict[str, str]] | None:
        """Return the statements as the column `content_usage` has them; None if there are none."""
        return [{"value": each.value, "where": each.where, "draft": each.draft} for each in self.usages] or None


def stated(headers: Message, robots: Iterable[Usage] = ()) -> Stated:
    """Return what the headers of an answer say, and the robots.txt of its host.

    Args:
        headers: of the answer.
        robots: `RobotsTxt.content_usage` of each path that was asked for on the way to the answer.
    """
    tags = [str(value) for value in headers.get_all("X-Robots-Tag", [])]
    reserved = ",".join(map(str, headers.get_all("TDM-Reservation", []))).split(",")
    tags += [f"{TDM_RESERVATION}: {value.strip()}" for value in reserved if value.strip()]
    # Old servers fold long lines. An empty one among several would make all of them unreadable.
    unfolded = (re.sub(r"[\r\n]+[ \t]*", " ", str(value)) for value in headers.get_all("Content-Usage", []))
    lines = [text for line in unfolded if (text := line.strip(" \t"))]
    usages = [_usage(", ".join(lines), HEADER)] if lines else []
    # What denies comes first, so that a server that says a thousand things is still heard.
    distinct = sorted(dict.fromkeys([*usages, *robots]), key=lambda usage: -len(usage.denied))
    return Stated(robots_tags=tuple(tags), usages=tuple(distinct[:_MOST_RECORDS]))


# Against indexing, against images in an index, and against use for training: what each means for a dataset is the same.
FORBIDDING = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
# Directives that hold a colon themselves, so that what stands before it is no robot's name.
_WITH_VALUE = frozenset(
    {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview", TDM_RESERVATION, *FORBIDDING}
)
# "none" is one of the values. Looking behind keeps it linear: "max-max-max-..." is one word.
_PREVIEW = re.compile(r"(?<![a-z-])max-[a-z-]+\s*:\s*\S+")


def _signals_of(tag: str, robot: str) -> set[str]:
    """Return the signals, `ROBOTS_TAG` and `TDM_RESERVATION`, that forbid the use for all robots or for that one.

    Directives are separated by commas, semicolons or blanks; a robot's name holds up to the next one.
    """
    found = set()
    is_addressed = True
    for item in re.split("[,;]", tag):
        name, colon, rest = (part.strip() for part in item.partition(":"))
        if (name, rest) == (TDM_RESERVATION, "1"):
            found.add(TDM_RESERVATION)
        directives = item
        if colon and len(name.split()) == 1 and name not in _WITH_VALUE:
            is_addressed, directives = name == robot, rest
        if is_addressed and FORBIDDING.intersection(_PREVIEW.sub(" ", directives).replace(":", " ").split()):
            found.add(ROBOTS_TAG)
    return found


class RobotsTxt:
    """A parsed robots.txt, as one robot reads it: RFC 9309, with the rule Content-Usage of the draft `ATTACH_DRAFT`.

    Args:
        body: the file's text, already cut to the length that is read.
        robot: our name.
    """

    def __init__(self, body: str, robot: str) -> None:
        from protego import Protego

        lines = _own_lines(body, robot.lower())
        # One group for all robots: a file that names thousands of them before thousands of rules, which takes each
        # rule for each robot, would otherwise fill the memory.
        self._rules = Protego.parse("\n".join(["User-agent: *", *lines]))
        self._usages = _usage_rules(lines)

    def allows(self, url: str) -> bool:
        """Tell if the URL may be asked for."""
        return self._rules.can_fetch(url, "*")

    @property
    def crawl_delay(self) -> float:
        """Return the seconds between two requests that the file asks for; 0 if it asks for none."""
        return self._rules.crawl_delay("*") or 0.0

    def content_usage(self, path: str) -> tuple[Usage, ...]:
        """Return the statements of preference about a path.

        They are those of the rule with the longest matching pattern. Rules with patterns of the same length count
        all: the draft applies each by itself, and the most restrictive wins.

        Args:
            path: with the query, as it is asked for.
        """
        if not self._usages:
            return ()
        path = _normal(path, _SAFE_IN_PATH)
        found: dict[Usage, None] = {}
        longest = 0
        for pattern, usages in self._usages.items():
            if pattern.length < longest:
                break
            if pattern.matches(path):
                longest = pattern.length
                found |= dict.fromkeys(usages)
        return tuple(found)


# A comment ends a line, and is gone before these are asked. Protego reads all these spellings, so we do.
_WORDS = r"(?!\S)([^:]*(?::\S.*)?)$"  # what may follow a key that has no colon
_AGENT_LINE = re.compile(rf"user[- ]?agent\s*:(.*)|(?:user-?agent|user\s+agent){_WORDS}", re.DOTALL)
_SITE_LINE = re.compile(rf"(?:sitemaps?|site-map|host)(?:\s*:|{_WORDS})", re.DOTALL)
_BARE_RULE = re.compile(
    r"(?:dis{1,2}all?[ao]w|diasllow|allow|crawl-delay|crawl\s+delay|request-rate|request\s+rate|visit-time|visit\s+time)"
    r"(?!\S)"
)


def _own_lines(body: str, robot: str) -> list[str]:
    """Return the rules of a robot's groups, or of those for all robots if none names it; without comments."""
    groups: dict[str, list[str]] = {}
    names: set[str] = set()  # whom the group is for, as far as they may be us
    is_heading = True  # a name that follows names belongs to the same group
    # `splitlines` also splits at characters that RFC 9309 does not name, such as form feed. Protego does, too.
    for whole in body.splitlines():
        line = whole.partition("#")[0].strip()
        lower = line.lower()
        agent = _AGENT_LINE.match(lower)
        if agent is not None:
            names = names if is_heading else set()
            is_heading = True
            name = (agent[1] or agent[2] or "").strip()
            name = name if name == "*" else name.replace("*", "")  # wildcards mean something where they stand alone
            if _match_score(name, robot):
                names.add(name)
                groups.setdefault(name, [])
        # A line that belongs to a group, known or not, ends the list of those whom the group is for.
        elif _SITE_LINE.match(lower) is None and (":" in lower or _BARE_RULE.match(lower) is not None):
            is_heading = False
            for name in names:
                groups[name].append(line)
    return groups[max(groups, key=lambda name: _match_score(name, robot))] if groups else []


def _match_score(name: str, robot: str) -> int:
    """Return how well a name in a robots.txt fits a robot: 0, not at all; 1, as all do; else the name's length."""
    if name == "*":
        return 1
    is_part = name in robot and re.search(rf"(?<![\w-]){re.escape(name)}", robot) is not None
    return len(name) if is_part else 0


_USAGE_RULE = re.compile(r"content-usage[ \t]*:[ \t]*(?:(/[^ \t]*)[ \t]*)?(.*)", re.IGNORECASE | re.ASCII)


def _usage_rules(lines: Iterable[str]) -> dict["_Pattern", list[Usage]]:
    """Return the rules Content-Usage of a group, longest pattern first."""
    rules: dict[_Pattern, list[Usage]] = {}
    for line in lines:
        found = _USAGE_RULE.fullmatch(line)
        if found is None:
            continue
        usages = rules.setdefault(_pattern(found[1] or ""), [])
        if found[2]:  # a pattern without a statement takes back what a shorter one says
            usages.append(_usage(found[2], ROBOTS_TXT))
    return dict(sorted(rules.items(), key=lambda rule: -rule[0].length))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pattern:
    """A path pattern by RFC 9309: a prefix, in which "*" stands for any characters; "$" behind it ends the path.

    Args:
        parts: what stands between the wildcards, in normal form.
        is_whole: the path ends where the pattern does.
        length: of the pattern in normal form.
    """

    parts: tuple[str, ...]
    is_whole: bool
    length: int

    def matches(self, path: str) -> bool:
        """Tell if a path in normal form matches. No regular expression: a hostile one takes for ever."""
        first, *others = self.parts
        if not path.startswith(first):
            return False
        if not others:
            return not self.is_whole or path == first
        place = len(first)
        *middle, last = others
        for part in middle:
            place = path.find(part, place)
            if place < 0:
                return False
            place += len(part)
        if self.is_whole:
            return len(path) - place >= len(last) and path.endswith(last)
        return path.find(last, place) >= 0


def _pattern(text: str) -> _Pattern:
    is_whole = text.endswith("$")
    normal = re.sub(r"\*+", "*", _normal(text.removesuffix("$"), _SAFE_IN_PATTERN))
    return _Pattern(parts=tuple(normal.split("*")), is_whole=is_whole, length=len(normal) + is_whole)


_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
# An escape of these is something else than the character: a separator, a wildcard, the begin of an escape.
_SPECIAL = b"/*%"
_SAFE_IN_PATH = "/%"
_SAFE_IN_PATTERN = "/%*"


def _normal(path: str, safe: str) -> str:
    """Return a path with one spelling of its percent-encoding, so that spellings of the same path compare equal."""
    return quote(_ESCAPE.sub(_octet, path.encode("utf-8", "surrogatepass")), safe=safe)


def _octet(escape: re.Match[bytes]) -> bytes:
    octet = bytes.fromhex(escape[0][1:].decode())
    return escape[0].upper() if octet in _SPECIAL else octet
