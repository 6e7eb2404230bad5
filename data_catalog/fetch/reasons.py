"""Why an image could not be had or is not wanted: the closed set of reasons, and what they say of a whole dataset.

A reason is *retryable* if a later try may end better; all others are final, and never tried again.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_catalog.stages import Reason

HTTP_MEANINGS = {
    400: "the server does not understand the request",
    401: "the server wants a login",
    402: "the server wants to be paid",
    403: "the server refuses",
    404: "there is no such file any more",
    405: "the server does not answer GET there",
    406: "the server has no format that we accept",
    408: "the server waited too long for the request",
    410: "the file is gone for good",
    423: "the file is locked",
    425: "the server asks to come back later",
    429: "too many requests, also after waiting as long as the server asked",
    451: "withheld for legal reasons",
    500: "the server has an error",
    502: "the server behind the server does not answer properly",
    503: "the server is overloaded or closed, also after waiting as long as it asked",
    504: "the server behind the server does not answer",
}
RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class ImageReason(Reason):
    """Besides: the cause that the diagnosis counts it under, and whether a later try may end better."""

    cause: str
    retryable: bool = False


def _http_cause(status: int) -> str:
    if status in (404, 410):
        return "gone"
    return "server" if status >= 500 or status == 408 else "blocked"


FETCH_REASONS: dict[str, ImageReason] = {
    "bad_url": ImageReason("no URL, or one without a usable host", "url"),
    "scheme": ImageReason("a URL of another scheme than http and https", "url"),
    "userinfo": ImageReason("a URL with a user name or password in it", "url"),
    "port": ImageReason(
        "a port other than 80 and 443, on a host that is not this machine",
        "url",
        settings=("fetch.ports", "fetch.allow_loopback"),
    ),
    "private_address": ImageReason(
        "the host, or one that it redirects to, is not on the public internet",
        "url",
        settings=("fetch.allow_loopback",),
    ),
    "dns": ImageReason("the host has no address", "dns", retryable=True),
    "connect": ImageReason("no connection, or one that was closed before any answer", "network", retryable=True),
    "tls": ImageReason("the server's certificate or its TLS is not valid", "server"),
    "timeout": ImageReason(
        "no answer, or not all of it, in time",
        "network",
        retryable=True,
        settings=("fetch.timeout_s", "fetch.deadline_s"),
    ),
    "not_http": ImageReason("the answer is not HTTP", "server"),
    **{
        f"http_{status}": ImageReason(
            f"HTTP {status}: {meaning}",
            _http_cause(status),
            retryable=status in RETRYABLE_STATUSES,
            settings=("fetch.max_wait_s",) if status in (429, 503) else (),
        )
        for status, meaning in HTTP_MEANINGS.items()
    },
    "http_2xx": ImageReason("another answer of success, but without an image, such as HTTP 204", "server"),
    "http_3xx": ImageReason("a redirect that leads nowhere, or another answer between 300 and 399", "server"),
    "http_4xx": ImageReason("another answer between 400 and 499", "blocked"),
    "http_5xx": ImageReason("another answer between 500 and 599, such as a proxy's own", "server", retryable=True),
    "http_other": ImageReason("an answer outside 200 to 599", "server"),
    "redirects": ImageReason("too many redirects", "server", settings=("fetch.max_redirects",)),
    "robots_tag": ImageReason(
        "the X-Robots-Tag or TDM-Reservation of the answer forbids the use", "opted_out", settings=("consent.ignore",)
    ),
    "content_usage": ImageReason(
        "the Content-Usage of the answer or of robots.txt says no to training",
        "opted_out",
        settings=("consent.ignore",),
    ),
    "robots_txt": ImageReason(
        "the host's robots.txt forbids us to ask for the file", "opted_out", settings=("consent.ignore",)
    ),
    "robots_unreachable": ImageReason(
        "the host's robots.txt can't be had, which counts as forbidden",
        "server",
        retryable=True,
        settings=("consent.ignore",),
    ),
    "too_large": ImageReason("more bytes than the cap", "unsuitable", settings=("fetch.max_bytes",)),
    "byte_budget": ImageReason(
        "the host, or all hosts together, had sent as much for the shard as they may",
        "unsuitable",
        settings=("fetch.max_host_bytes", "fetch.max_shard_bytes"),
    ),
    "empty_body": ImageReason("an answer, or a local file, without a single byte", "server"),
    "truncated_body": ImageReason("the connection broke off before the announced end", "network", retryable=True),
    "placeholder": ImageReason("a picture that stands for one that is gone", "gone"),
    "missing_file": ImageReason("the local folder or archive has no such file, or it can't be read", "missing"),
    "fetch_lost": ImageReason("img2dataset returned no outcome for the row", "crash", retryable=True),
    "fetch_crash": ImageReason(
        "the fetching process died or hung, twice, before the row was done", "crash", retryable=True
    ),
}

NORMALISE_REASONS: dict[str, ImageReason] = {
    "not_an_image": ImageReason("the bytes are no image: a web page, text, noise", "not_an_image"),
    "format_not_allowed": ImageReason(
        "an image of a format, or of a kind of pixels, that is not on the list", "unsuitable"
    ),
    "too_many_pixels": ImageReason(
        "the header announces more pixels than the cap; nothing was decoded",
        "unsuitable",
        settings=("normalise.max_pixels",),
    ),
    "too_many_scans": ImageReason(
        "a JPEG of more than 100 scans, each over all pixels; nothing was decoded", "unsuitable"
    ),
    "too_small": ImageReason(
        "the shorter side has fewer pixels than the minimum", "unsuitable", settings=("normalise.min_image_size",)
    ),
    "aspect": ImageReason(
        "the longer side is too many times the shorter one", "unsuitable", settings=("normalise.max_aspect_ratio",)
    ),
    "animated": ImageReason("more than one frame or page", "unsuitable", settings=("normalise.animated",)),
    "one_colour": ImageReason("every pixel has the same colour", "unsuitable"),
    "truncated": ImageReason("the file ends before the image does", "broken"),
    "decode_error": ImageReason("the decoder says that the file is broken", "broken"),
    "forgotten": ImageReason(
        "the image was to be forgotten: by its bytes, its look or where it was found", "opted_out"
    ),
    "decode_crash": ImageReason(
        "the decoder died, hung or ran out of memory, twice, in its own process",
        "broken",
        settings=("normalise.timeout_s", "normalise.memory_bytes"),
    ),
}


def http_reason(status: int) -> str:
    """Return the reason of an answer that brings no image."""
    if status in HTTP_MEANINGS:
        return f"http_{status}"
    return f"http_{status // 100}xx" if 200 <= status < 600 else "http_other"


def image_step(reason: str) -> str:
    """Return the step that loses images for a reason: "fetch" or "normalise"."""
    return "fetch" if reason in FETCH_REASONS else "normalise"


def is_retryable(reason: str | None) -> bool:
    """Tell whether a later try may end better; None stands for success."""
    return reason in FETCH_REASONS and FETCH_REASONS[reason].retryable


# Shares of all images from which a cause is worth a sentence, and is out of the ordinary.
_NOTABLE = 0.01
_UNUSUAL = 0.15
_FEW_IMAGES = 20

CAUSES = {
    "came": "good images",
    "gone": "gone (404, 410, stand-ins)",
    "blocked": "refused (401, 403, 429, ...)",
    "opted_out": "opted out (robots.txt, X-Robots-Tag, Content-Usage)",
    "dns": "host without an address",
    "network": "no connection, or not in time",
    "server": "server in trouble (5xx, TLS, not HTTP)",
    "not_an_image": "no image (web page, text)",
    "broken": "broken image",
    "unsuitable": "too small, too large, of a wrong kind",
    "url": "URL that may not be asked",
    "missing": "local file that is missing",
    "crash": "lost by a crash",
    "other": "another reason",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Counts of images by cause, and what they mean.

    Args:
        counts: number of images by the names in `CAUSES`.
        findings: one sentence each, most important first: what is out of the ordinary, and what to do.
        num_retryable: images that another try may bring.
    """

    counts: Mapping[str, int]
    findings: tuple[str, ...]
    num_retryable: int

    def shares(self) -> dict[str, float]:
        """Return the share of all images by cause, four digits."""
        total = sum(self.counts.values())
        return {cause: round(count / total, 4) for cause, count in self.counts.items()} if total else {}

    def rows(self) -> list[dict[str, Any]]:
        """Return the counts as a table of what, images and share, in a fixed order; without what did not occur."""
        shares = self.shares()
        return [
            {"what": text, "images": self.counts[cause], "share": f"{shares[cause]:.1%}"}
            for cause, text in CAUSES.items()
            if self.counts.get(cause)
        ]


def diagnose(downloads: pa.Table) -> Diagnosis:
    """Judge what became of images.

    Args:
        downloads: columns host, drop_reason (null: good) and num_images, as `catalog.download_counts` gives them.
    """
    rows = downloads.select(["host", "drop_reason", "num_images"]).to_pylist()
    counts: Counter[str] = Counter()
    retryable = 0
    for row in rows:
        counts[cause_of(row["drop_reason"])] += row["num_images"]
        reason = FETCH_REASONS.get(row["drop_reason"] or "")
        retryable += row["num_images"] if reason is not None and reason.retryable else 0
    findings = [finding for judge in _JUDGES if (finding := judge(counts, rows)) is not None]
    if retryable and counts.total():
        findings.append(
            f"{retryable:,} of the missing images may come at another try: build again, later, with --retry-failed."
        )
    return Diagnosis(counts=dict(counts), findings=tuple(findings), num_retryable=retryable)


def cause_of(reason: str | None) -> str:
    """Return the cause that a reason is counted under: "came" for None, "other" for one that is not known."""
    if reason is None:
        return "came"
    known = FETCH_REASONS.get(reason) or NORMALISE_REASONS.get(reason)
    return "other" if known is None else known.cause


Rows = Sequence[Mapping[str, Any]]


def _offline(counts: Counter[str], rows: Rows) -> str | None:
    if counts.total() < _FEW_IMAGES or counts["dns"] + counts["network"] < counts.total():
        return None
    return (
        f"Not one of {counts.total():,} images could be reached: this machine seems to have no way to the web. "
        "Once it has, build again with --retry-failed."
    )


def _resolver(counts: Counter[str], rows: Rows) -> str | None:
    """A host that answers one request and has no address for the next has a resolver that cannot keep up."""
    if _share(counts, "dns") < _NOTABLE or counts["dns"] + counts["network"] == counts.total():
        return None
    causes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        causes[row["host"]][cause_of(row["drop_reason"])] += row["num_images"]
    flaky = sum(found["dns"] for found in causes.values() if found["dns"] and found.total() > found["dns"])
    if flaky >= 0.1 * counts["dns"]:
        return (
            f"DNS trouble: {_percent(counts, 'dns')} of the images failed for want of an address, {flaky:,} of them on "
            "hosts that had one at other times. The resolver does not keep up: run a caching one on this machine, such "
            "as unbound or systemd-resolved, or lower fetch.threads and build.fetch_workers; then --retry-failed."
        )
    if _share(counts, "dns") >= _UNUSUAL:
        return (
            f"{_percent(counts, 'dns')} of the images are on hosts without an address. That many domains seldom die: "
            "ask another resolver for some of them before you believe it, then --retry-failed."
        )
    return (
        f"{_percent(counts, 'dns')} of the images are on domains that have died: that is usual for old lists of links."
    )


def _blocked(counts: Counter[str], rows: Rows) -> str | None:
    if _share(counts, "blocked") < _NOTABLE:
        return None
    hosts = _hosts_of("blocked", rows)
    (worst, count), *_ = hosts.most_common(1)
    text = f"{_percent(counts, 'blocked')} of the images were refused, by {len(hosts):,} hosts"
    if count >= 0.2 * counts["blocked"]:
        text += f", {count:,} of {counts['blocked']:,} by {worst}"
    return (
        text
        + ". Refusals other than 429 are final: for the next dataset name yourself with fetch.contact, ask such hosts "
        "more slowly (fetch.hosts), and see what they allow; pretending to be a browser is no remedy."
    )


def _network(counts: Counter[str], rows: Rows) -> str | None:
    if _share(counts, "network") < _UNUSUAL or counts["dns"] + counts["network"] == counts.total():
        return None
    return (
        f"{_percent(counts, 'network')} of the images failed on the way (no connection, or too slow). The line may be "
        "full: lower fetch.threads or build.fetch_workers, or raise fetch.timeout_s; then --retry-failed."
    )


def _gone(counts: Counter[str], rows: Rows) -> str | None:
    if _share(counts, "gone") < _NOTABLE:
        return None
    text = f"Link rot: {_percent(counts, 'gone')} of the images are gone for good; nothing brings them back."
    lost, came = _hosts_of("gone", rows), _hosts_of("came", rows)
    moved = [(host, count) for host, count in lost.most_common() if count >= _FEW_IMAGES and not came[host]]
    if moved:
        host, count = moved[0]
        text += f" All {count:,} of {host} are: look at one by hand, since that host, or its addresses, may have moved."
    return text


def _opted_out(counts: Counter[str], rows: Rows) -> str | None:
    if _share(counts, "opted_out") < _NOTABLE:
        return None
    return (
        f"{_percent(counts, 'opted_out')} of the images belong to hosts that do not want them in a dataset "
        "(robots.txt, X-Robots-Tag, Content-Usage): that is respected."
    )


def _servers(counts: Counter[str], rows: Rows) -> str | None:
    if _share(counts, "server") < _UNUSUAL:
        return None
    (worst, count), *_ = _hosts_of("server", rows).most_common(1)
    return f"{_percent(counts, 'server')} of the images met servers in trouble, {count:,} of them {worst}."


_Judge = Callable[[Counter[str], Rows], str | None]
_JUDGES: tuple[_Judge, ...] = (_offline, _resolver, _network, _blocked, _servers, _gone, _opted_out)


def _hosts_of(cause: str, rows: Rows) -> Counter[str]:
    hosts: Counter[str] = Counter()
    for row in rows:
        if cause_of(row["drop_reason"]) == cause:
            hosts[row["host"]] += row["num_images"]
    return hosts


def _share(counts: Counter[str], cause: str) -> float:
    return counts[cause] / counts.total() if counts.total() else 0.0


def _percent(counts: Counter[str], cause: str) -> str:
    return f"{_share(counts, cause):.1%}"
