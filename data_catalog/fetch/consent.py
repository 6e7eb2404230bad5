"""Opt-out signals of servers: robots.txt, X-Robots-Tag, TDM-Reservation and Content-Usage.

Everything here is pure parsing; `visits.py` fetches the robots.txt files.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from data_catalog.base.settings import OneOf

# The drafts of the IETF's working group AIPREF that this module implements, both of 19 August 2026: how a statement of
# preference is attached to a file, and its vocabulary. Read their newest versions before you change a label.
ATTACH_DRAFT = "draft-ietf-aipref-attach-05"
VOCAB_DRAFT = "draft-ietf-aipref-vocab-07"
DRAFTS = f"{ATTACH_DRAFT}, {VOCAB_DRAFT}"

ROBOTS_TXT, ROBOTS_TAG, TDM_RESERVATION, HEADER = "robots.txt", "x-robots-tag", "tdm-reservation", "header"

# The label of the vocabulary that forbids our use if its value is "n". The categories of the newest draft do not
# overlap, so no other label implies it. (Drafts up to vocab-04 had broader ones: tdm, all, bots.) "search" does not
# concern us. The draft is about models that generate content. CLIP does not, but is a part of many models that do, and
# an operator who says "n" to training rarely makes the distinction. So the broader meaning is applied.
TRAIN_AI = "train-ai"

# All signals, which are respected unless `ConsentConfig.ignore` names them. docs/images.md says what each means.
SIGNALS = (ROBOTS_TXT, ROBOTS_TAG, TDM_RESERVATION, TRAIN_AI)

# Longer statements are ignored: a server may send megabytes of headers.
_LONGEST_STATEMENT = 64 * 1024
_LONGEST_RECORD, _MOST_RECORDS, _LONGEST_DETAIL = 1000, 10, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentConfig:
    """Settings of opt-out signals: all of them are respected unless they are named here."""

    ignore: tuple[Annotated[str, OneOf(SIGNALS)], ...] = ()
    """Signals to ignore, at your own responsibility: "robots.txt", "x-robots-tag", "tdm-reservation", "train-ai" (a
    label of Content-Usage)."""

    def __post_init__(self) -> None:
        """Sort the names, so that their order changes no key."""
        object.__setattr__(self, "ignore", tuple(sorted(set(self.ignore))))

    def respects(self, signal: str) -> bool:
        """Return whether a signal is respected."""
        return signal not in self.ignore


class Usage(NamedTuple):
    """A Content-Usage statement."""

    value: str  # as sent by the server, at most 1000 characters
    where: str  # `HEADER` or `ROBOTS_TXT`
    denied: bool  # training: `TRAIN_AI` is "n"


def _usage(text: str, where: str) -> Usage:
    """Return a statement; it denies nothing if it can't be parsed, as the draft requires."""
    from http_sf import StructuredFieldError, Token, parse

    value: object = None
    if len(text) <= _LONGEST_STATEMENT:
        with suppress(StructuredFieldError):
            members: Any = parse(text.encode("utf-8", "surrogatepass"), tltype="dictionary")
            value, _ = members.get(TRAIN_AI, (None, None))  # parameters have no meaning
    return Usage(text[:_LONGEST_RECORD], where, isinstance(value, Token) and value == "n")  # nor has a quoted string


@dataclass(frozen=True, slots=True, kw_only=True)
class OptOutSignals:
    """The opt-out signals of one answer."""

    # The values of all X-Robots-Tag headers, then those of TDM-Reservation, each as "tdm-reservation: VALUE".
    robots_tags: tuple[str, ...] = ()
    usages: tuple[Usage, ...] = ()  # denials come first

    def refusal(self, config: ConsentConfig, robot: str) -> tuple[str, str] | None:
        """Return the drop reason and detail if a signal forbids the use of the file, else None.

        The most restrictive statement wins: one "n" is enough.
        """
        signals = {signal for tag in self.robots_tags for signal in _signals_of(tag.lower(), robot.lower())}
        if any(map(config.respects, signals)):
            return "robots_tag", "; ".join(self.robots_tags)[:_LONGEST_DETAIL]
        if config.respects(TRAIN_AI) and any(usage.denied for usage in self.usages):
            return "content_usage", f"{self.usages[0].where}: {self.usages[0].value}"[:_LONGEST_DETAIL]
        return None

    @property
    def content_usage(self) -> list[dict[str, str]] | None:
        """Return the value of the column `content_usage`; None if there are no statements."""
        return [{"value": each.value, "where": each.where, "draft": DRAFTS} for each in self.usages] or None


def opt_out_signals(headers: Message, robots: Iterable[Usage] = ()) -> OptOutSignals:
    """Return the opt-out signals in the headers of an answer, and those that robots.txt files have for its requests."""
    tags = [str(value) for value in headers.get_all("X-Robots-Tag", [])]
    reserved = ",".join(map(str, headers.get_all("TDM-Reservation", []))).split(",")
    tags += [f"{TDM_RESERVATION}: {value.strip()}" for value in reserved if value.strip()]
    # Old servers fold long lines. An empty line among several would make all of them invalid.
    unfolded = (re.sub(r"[\r\n]+[ \t]*", " ", str(value)) for value in headers.get_all("Content-Usage", []))
    lines = [text for line in unfolded if (text := line.strip(" \t"))]
    usages = [_usage(", ".join(lines), HEADER)] if lines else []
    # Denials come first, so that the limit on the number of statements does not cut them off.
    distinct = sorted(dict.fromkeys([*usages, *robots]), key=lambda usage: not usage.denied)
    return OptOutSignals(robots_tags=tuple(tags), usages=tuple(distinct[:_MOST_RECORDS]))


# Directives against indexing, against images in an index, and against training: each forbids use in a dataset.
FORBIDDING = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
# Directives that contain a colon themselves, so that the word before it is no robot's name.
_WITH_VALUE = frozenset(
    {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview", TDM_RESERVATION, *FORBIDDING}
)
# Removed before the search, since "none" is one of its values. The look-behind keeps the search linear: "max-max-..."
# is one word.
_PREVIEW = re.compile(r"(?<![a-z-])max-[a-z-]+\s*:\s*\S+")


def _signals_of(tag: str, robot: str) -> set[str]:
    """Return the signals, `ROBOTS_TAG` and `TDM_RESERVATION`, that forbid the use for all robots or for `robot`.

    Directives are separated by commas, semicolons or blanks. The name of a robot holds until the next name.
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
    """The rules of a robots.txt for one robot: RFC 9309, and the Content-Usage rule of `ATTACH_DRAFT`."""

    def __init__(self, body: str, robot: str) -> None:
        from protego import Protego

        lines = _own_lines(body, robot.lower())
        # Only our own group is parsed. Protego stores each rule for each robot: a file with thousands of both would
        # fill the memory.
        rules = Protego.parse("\n".join(["User-agent: *", *lines]))
        self._can_fetch = rules.can_fetch
        self.crawl_delay = rules.crawl_delay("*") or 0.0  # in seconds; 0 if there is none
        # Statements by pattern in normal form: a prefix in which "*" matches anything, and a final "$" the end.
        self._usages: dict[str, list[Usage]] = {}
        for found in filter(None, map(_USAGE_RULE.fullmatch, lines)):
            path, end, statement = found.groups(default="")
            pattern = re.sub(r"\*+", "*", _normal(path, "/%*")) + end
            usages = self._usages.setdefault(pattern, [])
            if statement:  # a pattern without one cancels those of shorter patterns
                usages.append(_usage(statement, ROBOTS_TXT))

    def allows(self, url: str) -> bool:
        """Return whether the URL may be fetched."""
        return self._can_fetch(url, "*")

    def content_usage(self, path: str) -> tuple[Usage, ...]:
        """Return the Content-Usage statements for a path with its query, as it is requested.

        They come from the rules with the longest matching patterns: the draft applies each of them.
        """
        path = _normal(path, "/%")
        matching = [pattern for pattern in self._usages if _matches(pattern, path)]
        longest = max(map(len, matching), default=0)
        found = [usage for pattern in matching if len(pattern) == longest for usage in self._usages[pattern]]
        return tuple(dict.fromkeys(found))


_USAGE_RULE = re.compile(r"content-usage[ \t]*:[ \t]*(?:(/[^ \t]*?)(\$?)(?:[ \t]+|$))?(.*)", re.IGNORECASE | re.ASCII)
# Protego accepts all these spellings, so we do, too. Comments are removed before.
_WORDS = r"(?!\S)([^:]*(?::\S.*)?)$"  # the rest of a line whose key has no colon
_AGENT_LINE = re.compile(rf"user[- ]?agent\s*:(.*)|(?:user-?agent|user\s+agent){_WORDS}", re.DOTALL)
_SITE_LINE = re.compile(rf"(?:sitemaps?|site-map|host)(?:\s*:|{_WORDS})", re.DOTALL)
_BARE_RULE = re.compile(
    r"(?:dis{1,2}all?[ao]w|diasllow|allow|crawl-delay|crawl\s+delay|request-rate|request\s+rate|visit-time|visit\s+time)"
    r"(?!\S)"
)


def _own_lines(body: str, robot: str) -> list[str]:
    """Return the lines of a robot's groups, or of the groups for all robots if none names it; without comments."""
    own = _product_token(robot)
    groups: dict[str, list[str]] = {}
    names: set[str] = set()  # the names of the current group that match the robot
    is_heading = True  # a name that follows another name belongs to the same group
    # `splitlines` also splits at characters that RFC 9309 does not name, such as form feed, as Protego does.
    for whole in body.splitlines():
        line = whole.partition("#")[0].strip()
        lower = line.lower()
        agent = _AGENT_LINE.match(lower)
        if agent is not None:
            names = names if is_heading else set()
            is_heading = True
            name = _product_token((agent[1] or agent[2] or "").strip())
            if name in ("*", own):
                names.add(name)
                groups.setdefault(name, [])
        # Any line that belongs to a group, known or not, ends the names of the group.
        elif _SITE_LINE.match(lower) is None and (":" in lower or _BARE_RULE.match(lower) is not None):
            is_heading = False
            for name in names:
                groups[name].append(line)
    return groups.get(own, groups.get("*", []))


def _product_token(name: str) -> str:
    """Return the start of a name that RFC 9309 compares, "vernaclip" of "vernaclip/0.1"; the name, if it has none."""
    found = re.match("[a-z_-]+", name)
    return found[0] if found else name


def _matches(pattern: str, path: str) -> bool:
    """Return whether a pattern in normal form matches a path. A regular expression could take exponential time."""
    first, *others = (pattern.removesuffix("$") if pattern.endswith("$") else f"{pattern}*").split("*")
    if not others:
        return path == first
    if not path.startswith(first):
        return False
    *middle, last = others
    place = len(first)
    for part in middle:
        place = path.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return len(path) - place >= len(last) and path.endswith(last)


# Escapes of characters with another meaning: a separator, a wildcard, the start of an escape.
_SPECIAL = re.compile(rb"%(2[5AF])", re.IGNORECASE)


def _normal(path: str, safe: str) -> str:
    """Return a path in canonical percent-encoding, so that all spellings of a path compare equal."""
    escaped = _SPECIAL.sub(lambda found: b"%25" + found[1].upper(), path.encode("utf-8", "surrogatepass"))
    return quote(unquote_to_bytes(escaped), safe=safe)
