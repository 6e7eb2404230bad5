"""What servers say about use, read as the standards and drafts have it; no text is too odd to be read."""

import time
from email.message import Message

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from protego import Protego

from data_catalog.errors import SettingsError
from data_catalog.fetch.consent import (
    ATTACH_DRAFT,
    FORBIDDING,
    SIGNALS,
    VOCAB_DRAFT,
    ConsentConfig,
    OptOutSignals,
    RobotsTxt,
    opt_out_signals,
)
from data_catalog.schema import IMAGES, OUTCOMES, RAW_IMAGES

ALL = ConsentConfig()
DRAFTS = f"{ATTACH_DRAFT}, {VOCAB_DRAFT}"


def headers(*lines: tuple[str, str]) -> Message:
    message = Message()
    for name, value in lines:
        message[name] = value
    return message


def header(*values: str) -> OptOutSignals:
    """What an answer with some lines of Content-Usage says."""
    return opt_out_signals(headers(*(("Content-Usage", value) for value in values)))


def is_refused(said: OptOutSignals, config: ConsentConfig = ALL) -> bool:
    refusal = said.refusal(config, "vernaclip")
    assert refusal is None or refusal[0] == "content_usage"
    return refusal is not None


def usages(body: str, path: str = "/a.jpg", robot: str = "vernaclip") -> list[str]:
    """The values of a robots.txt for a path."""
    return [usage.value for usage in RobotsTxt(body, robot).content_usage(path)]


def test_an_unknown_signal_is_refused_with_those_there_are() -> None:
    known = "robots.txt, x-robots-tag, tdm-reservation, train-ai"
    with pytest.raises(SettingsError, match=rf"consent\.ignore .* unknown signal 'Robots\.txt'.* {known}"):
        ConsentConfig(ignore=("Robots.txt",))
    assert ", ".join(SIGNALS) == known
    assert ConsentConfig(ignore=("train-ai", "robots.txt", "train-ai")).ignore == ("robots.txt", "train-ai")
    assert not ConsentConfig(ignore=("robots.txt",)).respects("robots.txt")


@pytest.mark.parametrize(
    ("headers", "is_forbidden"),
    [
        (["all"], False),
        (["", "nofollow, nosnippet, noarchive, notranslate"], False),
        *[([directive], True) for directive in sorted(FORBIDDING)],
        (["NoAI,NoImageAI"], True),
        (["vernaclip: noai"], True),
        (["VernaClip : nofollow, none"], True),
        (["otherbot: noai"], False),
        (["otherbot: noai", "noindex"], True),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], True),
        (["max-snippet:-1, max-image-preview:large"], False),
        (["vernaclip: max-snippet:-1, noindex"], True),
        (["noaix, xnoai, no ai"], False),
        (["noai; noimageai"], True),
        (["nofollow\tnoai"], True),
        (["noai;otherbot: nofollow"], True),
        (["otherbot: noai; noimageai"], False),
        (["otherbot: noai", "vernaclip: noai"], True),
        (["otherbot: noai, vernaclip: noai"], True),
        (["vernaclip: nofollow, otherbot: noai"], False),
        (["noai: otherbot"], True),
        (["unavailable_after: Wednesday, 25-Jun-25 15:00:00 UTC"], False),
        (["max-image-preview: none"], False),
        (["max-image-preview:none noai"], True),
        (["tdm-reservation: 1"], True),
        (["tdm-reservation: 0"], False),
    ],
)
def test_robots_tag(headers: list[str], is_forbidden: bool) -> None:
    refusal = OptOutSignals(robots_tags=tuple(headers)).refusal(ConsentConfig(), "vernaclip")
    assert (refusal is not None and refusal[0] == "robots_tag") is is_forbidden


@pytest.mark.parametrize(
    ("ignore", "are_forbidden"),
    [
        ((), (True, True, True)),
        (("x-robots-tag",), (False, True, True)),
        (("tdm-reservation",), (True, False, True)),
        (("tdm-reservation", "x-robots-tag"), (False, False, False)),
        (("robots.txt", "train-ai"), (True, True, True)),
    ],
)
def test_each_of_the_two_headers_is_ignored_by_itself(ignore: tuple[str, ...], are_forbidden: tuple[bool, ...]) -> None:
    tag, reserved = ("X-Robots-Tag", "noai"), ("TDM-Reservation", "1")
    for lines, is_forbidden in zip(([tag], [reserved], [tag, reserved]), are_forbidden, strict=True):
        refusal = opt_out_signals(headers(*lines)).refusal(ConsentConfig(ignore=ignore), "vernaclip")
        assert (refusal is not None) is is_forbidden


def test_headers_are_listed_as_they_came() -> None:
    lines = [
        ("X-Robots-Tag", "all"),
        ("TDM-Reservation", "0, 1"),
        ("x-robots-tag", "otherbot: noai"),
        ("X-Other", "noai"),
    ]
    said = opt_out_signals(headers(*lines, ("tdm-reservation", " ")))
    assert said.robots_tags == ("all", "otherbot: noai", "tdm-reservation: 0", "tdm-reservation: 1")
    assert said.refusal(ALL, "vernaclip") == ("robots_tag", "; ".join(said.robots_tags))
    assert said.content_usage is None
    assert opt_out_signals(Message()) == OptOutSignals()


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        (["train-ai=n"], True),
        (["train-ai=y"], False),
        (["search=n"], False),
        (["train-ai=(n)"], False),
        (['train-ai="n"'], False),
        (["train-ai=N"], False),
        (["train-ai=n;why=law"], True),
        (["train-ai;allow=n, train-ai=y"], False),
        (["train-ai=y, train-ai=n"], True),
        (["train-ai=n, train-ai=y"], False),
        (["train-ai=n,"], False),
        (["train-ai=n, ???"], False),
        (["new-label=n;x, train-ai=n"], True),
        (["train-genai=n, bots=n, ai=n, tdm=n"], False),
        (["train-ai=n", "search=y"], True),
        (["", "train-ai=n", " "], True),
        (["search=y,\r\n\ttrain-ai=n"], True),
        (["train-ai=n\xa0"], False),
        (["train-ai=n" + ", a" * 30_000], False),
    ],
)
def test_the_header_is_a_dictionary_of_structured_fields(values: list[str], refused: bool) -> None:
    said = header(*values)
    assert is_refused(said) is refused
    assert not is_refused(said, ConsentConfig(ignore=("train-ai",)))
    assert is_refused(said, ConsentConfig(ignore=("robots.txt", "tdm-reservation", "x-robots-tag"))) is refused
    assert said.content_usage is not None, "also what says nothing is recorded"


def test_what_was_said_is_recorded_raw_with_its_place_and_drafts() -> None:
    said = header("train-ai=y", "broken=")
    assert said.content_usage == [{"value": "train-ai=y, broken=", "where": "header", "draft": DRAFTS}]
    assert len(header("a" * 5000).content_usage[0]["value"]) == 1000  # type: ignore[index]
    assert header("", " ").content_usage is None
    robots = RobotsTxt("User-agent: *\nContent-Usage: /a train-ai=n", "vernaclip").content_usage("/a.jpg")
    both = opt_out_signals(headers(("Content-Usage", "train-ai=y")), robots)
    assert [(row["value"], row["where"]) for row in both.content_usage or []] == [
        ("train-ai=n", "robots.txt"),
        ("train-ai=y", "header"),
    ]
    for schema in (RAW_IMAGES, IMAGES, OUTCOMES):
        assert schema.field("content_usage") == RAW_IMAGES.field("content_usage")
    column = pa.array([both.content_usage, None], RAW_IMAGES.field("content_usage").type)
    assert column.to_pylist() == [both.content_usage, None]


def test_the_most_restrictive_of_header_and_robots_txt_wins() -> None:
    for in_header, in_robots, refused in [("y", "n", True), ("n", "y", True), ("y", "y", False), ("n", "n", True)]:
        robots = RobotsTxt(f"User-agent: *\nContent-Usage: train-ai={in_robots}", "vernaclip").content_usage("/a")
        said = opt_out_signals(headers(("Content-Usage", f"train-ai={in_header}")), robots)
        assert is_refused(said) is refused
    assert is_refused(opt_out_signals(Message(), robots))
    assert said.refusal(ALL, "vernaclip") == ("content_usage", "header: train-ai=n")


def test_a_header_that_forbids_is_named_before_content_usage() -> None:
    said = opt_out_signals(headers(("Content-Usage", "train-ai=n"), ("X-Robots-Tag", "noai")))
    assert said.refusal(ALL, "vernaclip") == ("robots_tag", "noai")
    assert said.refusal(ConsentConfig(ignore=("x-robots-tag",)), "vernaclip") == ("content_usage", "header: train-ai=n")


# The example of the draft.
EXAMPLE = """
User-Agent: *
Allow: /
Disallow: /never/
Content-Usage: train-ai=n
Content-Usage: /ai-ok/ train-ai=y

User-Agent: ExampleBot
Allow: /
Content-Usage: train-ai=y
"""


@pytest.mark.parametrize(
    ("robot", "path", "allowed", "usage"),
    [
        ("vernaclip", "/never/test", False, "train-ai=n"),  # never asked for
        ("vernaclip", "/ai-ok/test", True, "train-ai=y"),
        ("ExampleBot", "/never/test", True, "train-ai=y"),
    ],
)
def test_the_drafts_example(robot: str, path: str, allowed: bool, usage: str) -> None:
    assert RobotsTxt(EXAMPLE, robot).allows(f"http://example.org{path}") is allowed
    assert usages(EXAMPLE, path, robot) == [usage]


@pytest.mark.parametrize(
    ("rules", "path", "expected"),
    [
        ("content-USAGE\t:\ttrain-ai=n \t", "/a", ["train-ai=n"]),
        ("Content-Usage: train-ai=n # not us", "/a", ["train-ai=n"]),
        ("Content-Usage: /a\ttrain-ai=n, search=y", "/ab", ["train-ai=n, search=y"]),
        ("Content-Usage: /a train-ai=n", "/b", []),
        ("Content-Usage: train-ai=n\nContent-Usage: / train-ai=y", "/b", ["train-ai=y"]),
        ("Content-Usage: /a train-ai=n\nContent-Usage: /a/b train-ai=y", "/a/b/c", ["train-ai=y"]),
        ("Content-Usage: /a train-ai=n\nContent-Usage: /a/b", "/a/b/c", []),
        ("Content-Usage: train-ai=n\nContent-Usage:", "/a", ["train-ai=n"]),
        ("Content-Usage: /a train-ai=y\nContent-Usage: /a train-ai=n", "/a", ["train-ai=y", "train-ai=n"]),
        ("Content-Usage: /a train-ai=n\nContent-Usage: /a train-ai=n", "/a", ["train-ai=n"]),
        ("Content-Usage: /*.jpg$ train-ai=n", "/a/b.jpg?x", []),
        ("Content-Usage: /*a*b train-ai=n", "/xaxbx", ["train-ai=n"]),
        ("Content-Usage: /*ab*b$ train-ai=n", "/xab", []),
        ("Content-Usage: /a$ train-ai=n", "/ab", []),
        ("Content-Usage: /a*$ train-ai=n", "/ab", ["train-ai=n"]),
        ("Content-Usage: /caff%C3%A8 train-ai=n", "/caffè.jpg", ["train-ai=n"]),
        ("Content-Usage: /caffè train-ai=n", "/caff%c3%a8.jpg", ["train-ai=n"]),
        ("Content-Usage: /a%2fb train-ai=n", "/a%2Fb", ["train-ai=n"]),
        ("Content-Usage: /a%2Fb train-ai=n", "/a/b", []),
        ("Content-Usage: /a%2Ab train-ai=n", "/a*b", ["train-ai=n"]),
        ("Content-Usage: /a%2Ab train-ai=n", "/axb", []),
        ("Content-Usage: /a%24 train-ai=n", "/a$b", ["train-ai=n"]),
        # The length is that of the encoded pattern.
        (
            "Content-Usage: /%C3%A8* train-ai=n\nContent-Usage: /*123456 train-ai=y",
            "/è123456",
            ["train-ai=n", "train-ai=y"],
        ),
        ("Content-Usage: a.jpg train-ai=n", "/a.jpg", ["a.jpg train-ai=n"]),  # no path, and no dictionary
        ("Content Usage: train-ai=n", "/a", []),
        ("Content-U\u017fage: train-ai=n", "/a", []),
        ("Content-Usage: train-ai=n\rDisallow: /", "/a", ["train-ai=n"]),
    ],
)
def test_the_rule_with_the_longest_matching_path_counts(rules: str, path: str, expected: list[str]) -> None:
    assert usages(f"User-agent: *\n{rules}", path) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("User-agent: otherbot\nContent-Usage: train-ai=n", []),
        ("User-agent: otherbot\nUser-agent: VernaClip\nContent-Usage: train-ai=n", ["train-ai=n"]),
        ("User-agent: *\nContent-Usage: train-ai=n\n\nUser-agent: vernaclip", []),
        (
            "User-agent: vernaclip\nContent-Usage: /a train-ai=n\nUser-agent: x\nContent-Usage: /a search=n\n"
            "User-agent: vernaclip\nDisallow: /b\nContent-Usage: /a.jpg train-ai=y",
            ["train-ai=y"],
        ),
        ("User-agent: vernaclip\nSitemap: /s\nUser-agent: x\n\n# comment\nContent-Usage: train-ai=n", ["train-ai=n"]),
        ("User-agent: vernaclip\nContent-Usage: train-ai=y\nUser-agent: x\nContent-Usage: train-ai=n", ["train-ai=y"]),
        ("User-agent: *\nUser-agent:\nContent-Usage: train-ai=n", ["train-ai=n"]),
        ("User-agent: *\nAllow: /\nUser-agent:\nContent-Usage: train-ai=n", []),
    ],
)
def test_the_rules_of_our_groups_count_or_else_those_of_all(body: str, expected: list[str]) -> None:
    assert usages(body) == expected


def test_crawl_delay_is_a_number_or_nothing() -> None:
    delays = {"3": 3.0, "0.5": 0.5, "nan": 0.0, "inf": 0.0, "-1": 0.0, "soon": 0.0}
    for text, seconds in delays.items():
        assert RobotsTxt(f"User-agent: *\nCrawl-delay: {text}", "vernaclip").crawl_delay == seconds
    assert RobotsTxt("", "vernaclip").crawl_delay == 0.0


LINES = [
    *("User-agent: *", "User-agent: vernaclip", "user agent otherbot", "Useragent : ver*", "USER-AGENT: clip # us"),
    *("User-agent: v", "User-agent:", "user-agent", "user agent foo: bar", "User-agent: **", "foo: bar", "foo bar"),
    *("Disallow: /", "Disallow: /a", "dissalow /b", "Allow: /a", "Disallow:", "Crawl-delay: 3", "crawl  delay 4"),
    *("Sitemap: /x", "sitemap http://x", "Host x", "hostile: x", "Content-Usage: train-ai=n", ""),
    "User-agent: vernaclip\x0cDisallow: /",
]


@given(
    st.one_of(
        st.lists(st.sampled_from(LINES), max_size=12).map("\n".join),
        st.lists(st.one_of(st.sampled_from([*LINES, "\n", ":", "#", " "]), st.text(max_size=3))).map("".join),
    )
)
def test_our_group_taken_out_says_what_the_whole_file_says(body: str) -> None:
    whole, ours = Protego.parse(body), RobotsTxt(body, "vernaclip")
    for url in ("http://example.org/a.jpg", "http://example.org/b.jpg"):
        assert ours.allows(url) is whole.can_fetch(url, "vernaclip")
    assert ours.crawl_delay == (whole.crawl_delay("vernaclip") or 0.0)


PIECES = [
    *("User-agent: ", "Content-Usage:", "*", "x", " /", "%", "%2", "$", "#", "\n", "\r", "train-ai", "=n", "\x00", ","),
    "@9e9",
]


@given(
    st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=30).map("".join)),
    st.text(),
    st.sampled_from(["vernaclip", "my-bot", "x"]),
)
def test_any_text_is_a_robots_txt(body: str, path: str, robot: str) -> None:
    robots = RobotsTxt(body, robot)
    assert robots.allows("http://example.org/a.jpg") in (True, False)
    assert robots.crawl_delay >= 0
    refusal = opt_out_signals(Message(), robots.content_usage(f"/{path}")).refusal(ALL, robot)
    assert refusal is None or ("train-ai" in body and refusal[0] == "content_usage")


# Every kind of value that structured fields have, whole and broken.
FIELDS = [
    *("train-ai", "search", "=", "n", "y", ",", ";", " ", '"', "\\", "(", ")", "?1", "?", ":", "AA==", "@", "-"),
    *("9" * 15, ".", '%"', "%c3", "é"),
]


@given(st.lists(st.one_of(st.sampled_from(FIELDS), st.characters(max_codepoint=255)), max_size=20).map("".join))
@example('a=%"%ff"')
@example("a=@999999999999999")
def test_any_text_is_a_header(value: str) -> None:
    lines = [
        (name, value.replace("\r", "").replace("\n", ""))
        for name in ("Content-Usage", "X-Robots-Tag", "TDM-Reservation")
    ]
    said = opt_out_signals(headers(*lines))
    assert sum(len(row["value"]) for row in said.content_usage or []) <= 1000
    refusal = said.refusal(ALL, "vernaclip")
    assert refusal is None or (refusal[0] in ("robots_tag", "content_usage") and len(refusal[1]) <= 200)


ROOM = 512 * 1024
HOSTILE = {
    "many rules": "User-agent: *\n" + "Content-Usage: /a train-ai=n\n" * (ROOM // 29),
    "one of wildcards": "User-agent: *\nContent-Usage: /" + "*a" * (ROOM // 2) + "b train-ai=n",
    "many values": "User-agent: *\n" + "".join(f"Content-Usage: a{n}=n\n" for n in range(ROOM // 23)),
    "a long value": "User-agent: *\nContent-Usage: " + "a," * (ROOM // 2),
    "many robots, many rules": "User-agent: v\nUser-agent: verna\n" * (ROOM // 70) + "Disallow: /a\n" * (ROOM // 26),
    "blanks": "User-agent" + " " * ROOM + "x: x",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_robots_txt_is_read_in_bounded_time(name: str) -> None:
    began = time.process_time()
    robots = RobotsTxt(HOSTILE[name] + "\nContent-Usage: train-ai=n\n", "vernaclip")
    said = opt_out_signals(Message(), robots.content_usage("/" + "a" * 2000))
    assert len(said.usages) <= 10
    if name == "many values":  # who says much is heard all the same
        assert said.refusal(ALL, "vernaclip") == ("content_usage", "robots.txt: train-ai=n")
    assert time.process_time() - began < 5, "it takes a tenth of that"


@pytest.mark.parametrize("value", ["max-" * 16_000, "," * 64_000, "max-a" + " " * 64_000, "a=(" * 20_000])
def test_a_hostile_header_is_read_in_bounded_time(value: str) -> None:
    began = time.process_time()
    lines = [(name, value) for name in ("Content-Usage", "X-Robots-Tag", "TDM-Reservation")]
    assert opt_out_signals(headers(*lines)).refusal(ALL, "vernaclip") is None
    assert time.process_time() - began < 5
