"""What servers say about use, read as the standards and drafts have it; no text is too odd to be read."""

from email.message import Message

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from protego import Protego

from data_catalog.fetch.config import FetchConfig
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
from data_catalog.rows.schema import IMAGES, OUTCOMES, RAW_IMAGES

ALL = ConsentConfig()
DRAFTS = f"{ATTACH_DRAFT}, {VOCAB_DRAFT}"
CONTENT_USAGE = RAW_IMAGES.field("content_usage")


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


def test_signals_to_ignore_are_sorted_and_the_others_respected() -> None:
    assert SIGNALS == ("robots.txt", "x-robots-tag", "tdm-reservation", "train-ai")
    assert ConsentConfig(ignore=("train-ai", "robots.txt", "train-ai")).ignore == ("robots.txt", "train-ai")
    assert not ConsentConfig(ignore=("robots.txt",)).respects("robots.txt")


REFUSED = [
    *([directive] for directive in sorted(FORBIDDING)),
    *(["NoAI,NoImageAI"], ["noai; noimageai"], ["nofollow\tnoai"], ["noai: otherbot"], ["noai;otherbot: nofollow"]),
    *(["vernaclip: noai"], ["VernaClip : nofollow, none"], ["vernaclip: max-snippet:-1, noindex"]),
    *(["otherbot: noai", "noindex"], ["otherbot: noai", "vernaclip: noai"], ["otherbot: noai, vernaclip: noai"]),
    *(["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], ["max-image-preview:none noai"], ["tdm-reservation: 1"]),
]
ALLOWED = [
    *(["all"], ["", "nofollow, nosnippet, noarchive, notranslate"], ["noaix, xnoai, no ai"], ["tdm-reservation: 0"]),
    *(["otherbot: noai"], ["otherbot: noai; noimageai"], ["vernaclip: nofollow, otherbot: noai"]),
    *(["unavailable_after: Wednesday, 25-Jun-25 15:00:00 UTC"], ["max-image-preview: none"]),
    ["max-snippet:-1, max-image-preview:large"],
]


@pytest.mark.parametrize("values", [*REFUSED, *ALLOWED], ids=str)
def test_robots_tags_forbid_all_robots_or_ours(values: list[str]) -> None:
    refusal = OptOutSignals(robots_tags=tuple(values)).refusal(ALL, "vernaclip")
    assert refusal == (("robots_tag", "; ".join(values)) if values in REFUSED else None)


def test_headers_are_listed_as_they_came_and_each_is_ignored_by_itself() -> None:
    tag, reservation = ("X-Robots-Tag", "noai"), ("TDM-Reservation", "1")
    for ignore, sent, is_heard in (
        (("x-robots-tag",), [tag], False),
        (("x-robots-tag",), [tag, reservation], True),
        (("tdm-reservation",), [reservation], False),
        (("tdm-reservation",), [tag, reservation], True),
        (("x-robots-tag", "tdm-reservation"), [tag, reservation], False),
        (("robots.txt", "train-ai"), [tag], True),
        (("robots.txt", "train-ai"), [reservation], True),
    ):
        refusal = opt_out_signals(headers(*sent)).refusal(ConsentConfig(ignore=ignore), "vernaclip")
        assert (refusal is not None) is is_heard, (ignore, sent)
    lines = [("X-Robots-Tag", "all"), ("TDM-Reservation", "0, 1"), ("x-robots-tag", "otherbot: noai")]
    said = opt_out_signals(headers(*lines, ("X-Other", "noai"), ("tdm-reservation", " ")))
    assert said.robots_tags == ("all", "otherbot: noai", "tdm-reservation: 0", "tdm-reservation: 1")
    assert said.refusal(ALL, "vernaclip") == ("robots_tag", "; ".join(said.robots_tags))
    assert said.content_usage is None
    assert opt_out_signals(Message()) == OptOutSignals()


DENIED = [
    *(["train-ai=n"], ["train-ai=n;why=law"], ["train-ai=y, train-ai=n"], ["new-label=n;x, train-ai=n"]),
    *(["train-ai=n", "search=y"], ["", "train-ai=n", " "], ["search=y,\r\n\ttrain-ai=n"]),
]
NOT_DENIED = [
    *(["train-ai=y"], ["search=n"], ["train-ai=(n)"], ['train-ai="n"'], ["train-ai=N"], ["train-ai=n, train-ai=y"]),
    *(["train-ai;allow=n, train-ai=y"], ["train-genai=n, bots=n, ai=n, tdm=n"]),
    *(["train-ai=n,"], ["train-ai=n, ???"], ["train-ai=n\xa0"], ["train-ai=n" + ", a" * 30_000]),  # no dictionary
]


@pytest.mark.parametrize("values", [*DENIED, *NOT_DENIED], ids=range(len(DENIED + NOT_DENIED)))
def test_the_header_is_a_dictionary_of_structured_fields(values: list[str]) -> None:
    said = header(*values)
    assert is_refused(said) is (values in DENIED)
    assert not is_refused(said, ConsentConfig(ignore=("train-ai",)))
    others = ConsentConfig(ignore=("robots.txt", "tdm-reservation", "x-robots-tag"))
    assert is_refused(said, others) is (values in DENIED)
    assert said.content_usage is not None, "also what says nothing is recorded"


def test_what_was_said_is_recorded_raw_with_its_place_and_drafts() -> None:
    said = header("train-ai=y", "broken=")
    assert said.content_usage == [{"value": "train-ai=y, broken=", "where": "header", "draft": DRAFTS}]
    assert len(header("a" * 5000).content_usage[0]["value"]) == 1000  # type: ignore[index]
    assert header("", " ").content_usage is None
    robots = RobotsTxt("User-agent: *\nContent-Usage: /a train-ai=n", "vernaclip").content_usage("/a.jpg")
    both = opt_out_signals(headers(("Content-Usage", "train-ai=y")), robots)
    places = [(row["value"], row["where"]) for row in both.content_usage or []]
    assert places == [("train-ai=n", "robots.txt"), ("train-ai=y", "header")]
    assert {schema.field("content_usage") for schema in (RAW_IMAGES, IMAGES, OUTCOMES)} == {CONTENT_USAGE}
    column = pa.array([both.content_usage, None], CONTENT_USAGE.type)
    assert column.to_pylist() == [both.content_usage, None]


def test_the_most_restrictive_of_header_and_robots_txt_wins() -> None:
    for in_header, in_robots in ("yn", "ny", "yy", "nn"):
        robots = RobotsTxt(f"User-agent: *\nContent-Usage: train-ai={in_robots}", "vernaclip").content_usage("/a")
        said = opt_out_signals(headers(("Content-Usage", f"train-ai={in_header}")), robots)
        assert is_refused(said) is ("n" in in_header + in_robots)
    assert is_refused(opt_out_signals(Message(), robots))
    assert said.refusal(ALL, "vernaclip") == ("content_usage", "header: train-ai=n")
    said = opt_out_signals(headers(("Content-Usage", "train-ai=n"), ("X-Robots-Tag", "noai")))
    assert said.refusal(ALL, "vernaclip") == ("robots_tag", "noai")
    assert said.refusal(ConsentConfig(ignore=("x-robots-tag",)), "vernaclip") == ("content_usage", "header: train-ai=n")


def test_the_rule_with_the_longest_matching_path_counts() -> None:
    for rules, path, expected in (
        ("/a\ttrain-ai=n, search=y", "/ab", ["train-ai=n, search=y"]),
        ("/a train-ai=n", "/b", []),
        ("train-ai=n|/ train-ai=y", "/b", ["train-ai=y"]),
        ("/a train-ai=n|/a/b train-ai=y", "/a/b/c", ["train-ai=y"]),
        ("/a train-ai=n|/a/b", "/a/b/c", []),
        ("train-ai=n|", "/a", ["train-ai=n"]),
        ("/a train-ai=y|/a train-ai=n|/a train-ai=n", "/a", ["train-ai=y", "train-ai=n"]),
        ("/*.jpg$ train-ai=n", "/a/b.jpg?x", []),
        ("/*a*b train-ai=n", "/xaxbx", ["train-ai=n"]),
        ("/*ab*b$ train-ai=n", "/xab", []),
        ("/a$ train-ai=n", "/ab", []),
        ("/a*$ train-ai=n", "/ab", ["train-ai=n"]),
        ("/caff%C3%A8 train-ai=n|/caffè search=n", "/caffè.jpg", ["train-ai=n", "search=n"]),
        ("/caffè train-ai=n", "/caff%c3%a8.jpg", ["train-ai=n"]),
        ("/a%2fb train-ai=n", "/a%2Fb", ["train-ai=n"]),
        ("/a%2Fb train-ai=n", "/a/b", []),
        ("/a%2Ab train-ai=n", "/a*b", ["train-ai=n"]),
        ("/a%2Ab train-ai=n", "/axb", []),
        ("/a%24 train-ai=n", "/a$b", ["train-ai=n"]),
        ("/%C3%A8* train-ai=n|/*123456 a=y", "/è123456", ["train-ai=n", "a=y"]),  # as long, where it is encoded
        ("a.jpg train-ai=n", "/a.jpg", ["a.jpg train-ai=n"]),  # no path, and no dictionary
    ):
        lines = [f"Content-Usage: {rule}" for rule in rules.split("|")]
        assert usages("\n".join(["User-agent: *", *lines]), path) == expected


def test_the_rules_of_our_groups_count_or_else_those_of_all() -> None:
    for body, expected in (
        ("User-agent: *\ncontent-USAGE\t:\ttrain-ai=n \t# not us\rDisallow: /", ["train-ai=n"]),
        ("User-agent: *\nContent Usage: train-ai=n\nContent-U\u017fage: train-ai=n", []),
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
        # Product tokens are compared, whatever follows them.
        ("User-agent: *\nAllow: /\nUser-agent: VernaClip/0.1\nContent-Usage: train-ai=n", ["train-ai=n"]),
        ("User-agent: vernaclip 0.1 (any)\nContent-Usage: train-ai=n", ["train-ai=n"]),
        ("User-agent: vernaclip/9\nAllow: /\n\nUser-agent: Vernaclip\nContent-Usage: train-ai=n", ["train-ai=n"]),
        ("User-agent: vernaclipper/1\nUser-agent: verna\nContent-Usage: train-ai=n", []),
    ):
        assert usages(body) == expected, body
    assert not RobotsTxt("User-agent: vernaclip/0.1\nDisallow: /", FetchConfig().robot).allows("http://example.org/a")
    for robot, name in (("my_bot2", "My_Bot2/1"), ("2bot", "2bot")):
        assert not RobotsTxt(f"User-agent: {name}\nDisallow: /", robot).allows("http://example.org/a")


def test_crawl_delay_is_a_number_or_nothing() -> None:
    for text, seconds in {"3": 3.0, "0.5": 0.5, "nan": 0.0, "inf": 0.0, "-1": 0.0, "soon": 0.0, "": 0.0}.items():
        assert RobotsTxt(f"User-agent: *\nCrawl-delay: {text}", "vernaclip").crawl_delay == seconds


LINES = [
    *("User-agent: *", "User-agent: vernaclip", "user agent otherbot", "Useragent : vernaclip*"),
    *("User-agent: vernaclipper", "USER-AGENT: clip # us", "User-agent:", "user-agent", "user agent foo: bar"),
    *("User-agent: **", "foo: bar", "foo bar"),
    *("Disallow: /", "Disallow: /a", "dissalow /b", "Allow: /a", "Disallow:", "Crawl-delay: 3", "crawl  delay 4"),
    *("Sitemap: /x", "sitemap http://x", "Host x", "hostile: x", "Content-Usage: train-ai=n", ""),
    "User-agent: vernaclip\x0cDisallow: /",
]


# Of names that begin with ours, or that ours begins with, Protego has another opinion: there are none.
@given(st.lists(st.sampled_from(LINES), max_size=12).map("\n".join))
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


# The last ones are long: what takes time that grows with their square never ends.
@given(st.lists(st.one_of(st.sampled_from(FIELDS), st.characters(max_codepoint=255)), max_size=20).map("".join))
@example("a=@999999999999999")
@example("max-a" + " " * 64_000)
@example("a=(" * 20_000)
def test_any_text_is_a_header(value: str) -> None:
    value = value.replace("\r", "").replace("\n", "")
    lines = [(name, value) for name in ("Content-Usage", "X-Robots-Tag", "TDM-Reservation")]
    said = opt_out_signals(headers(*lines))
    assert sum(len(row["value"]) for row in said.content_usage or []) <= 1000
    refusal = said.refusal(ALL, "vernaclip")
    assert refusal is None or (refusal[0] in ("robots_tag", "content_usage") and len(refusal[1]) <= 200)


ROOM = 512 * 1024
HOSTILE = [
    "User-agent: *\n" + "Content-Usage: /a train-ai=n\n" * (ROOM // 29),
    "User-agent: *\nContent-Usage: /" + "*a" * (ROOM // 2) + "b train-ai=n",
    "User-agent: *\n" + "".join(f"Content-Usage: a{n}=n\n" for n in range(ROOM // 23)),
    "User-agent: *\nContent-Usage: " + "a," * (ROOM // 2),
    "User-agent: v\nUser-agent: vernaclip\n" * (ROOM // 70) + "Disallow: /a\n" * (ROOM // 26),
    "User-agent" + " " * ROOM + "x: x\nUser-agent: *",
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_who_says_much_in_a_robots_txt_is_heard_to_the_end(body: str) -> None:
    robots = RobotsTxt(body + "\nContent-Usage: train-ai=n\n", "vernaclip")
    said = opt_out_signals(Message(), robots.content_usage("/b" + "a" * 2000))
    assert len(said.usages) <= 10
    assert said.refusal(ALL, "vernaclip") == ("content_usage", "robots.txt: train-ai=n")
