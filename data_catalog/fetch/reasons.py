"""Drop reasons of images, and the diagnosis of a dataset's images by cause.

A reason is *retryable* if a later try may succeed. All others are final: such an image is never requested again.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_catalog.drop_reasons import Reason

if TYPE_CHECKING:
    import pyarrow as pa

HTTP_MEANINGS = {
    400: "the server does not understand the request",
    401: "the server requires a login",
    402: "the server requires payment",
    403: "the server refuses access",
    404: "the file does not exist any more",
    405: "the server does not allow GET requests for the URL",
    406: "the server has no format that we accept",
    408: "the server waited too long for the request",
    410: "the file was removed permanently",
    423: "the file is locked",
    425: "the server asks for a later request",
    429: "too many requests, even after the wait that the server asked for",
    451: "withheld for legal reasons",
    500: "internal error of the server",
    502: "the server got an invalid answer from the server behind it",
    503: "the server is overloaded or closed, even after the wait that it asked for",
    504: "the server got no answer from the server behind it",
}
RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class ImageReason(Reason):
    """A drop reason of images.

    Args:
        cause: a key of `CAUSES`, under which the diagnosis counts the reason.
        retryable: a later try may succeed.
    """

    cause: str
    retryable: bool = False


def _http_cause(status: int) -> str:
    if status in (404, 410):
        return "gone"
    return "server" if status >= 500 or status == 408 else "blocked"


FETCH_REASONS: dict[str, ImageReason] = {
    "bad_url": ImageReason("no URL, or one without a valid host", "url"),
    "scheme": ImageReason("a URL with a scheme other than http and https", "url"),
    "userinfo": ImageReason("a URL that contains a user name or password", "url"),
    "port": ImageReason(
        "a port other than 80 and 443, except on this machine",
        "url",
        settings=("fetch.ports", "fetch.allow_loopback"),
    ),
    "private_address": ImageReason(
        "the host, or a redirect's, is not on the public internet",
        "url",
        settings=("fetch.allow_loopback",),
    ),
    "dns": ImageReason("the host has no address", "dns", retryable=True),
    "connect": ImageReason("no connection, or it was closed before any answer", "network", retryable=True),
    "tls": ImageReason("the server's certificate or TLS handshake is invalid", "server"),
    "timeout": ImageReason(
        "no answer, or not the whole answer, in time",
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
    "http_2xx": ImageReason("another successful status without an image, such as 204", "server"),
    "http_3xx": ImageReason("a redirect without a target, or another status from 300 to 399", "server"),
    "http_4xx": ImageReason("another status from 400 to 499", "blocked"),
    "http_5xx": ImageReason("another status from 500 to 599, such as one of a proxy", "server", retryable=True),
    "http_other": ImageReason("a status outside 200 to 599", "server"),
    "redirects": ImageReason("too many redirects", "server", settings=("fetch.max_redirects",)),
    "robots_tag": ImageReason(
        "the X-Robots-Tag or TDM-Reservation of the answer forbids the use", "opted_out", settings=("consent.ignore",)
    ),
    "content_usage": ImageReason(
        "the Content-Usage of the answer or of robots.txt forbids training",
        "opted_out",
        settings=("consent.ignore",),
    ),
    "robots_txt": ImageReason(
        "the host's robots.txt forbids fetching the file", "opted_out", settings=("consent.ignore",)
    ),
    "robots_unreachable": ImageReason(
        "the host's robots.txt can't be fetched, which counts as forbidden",
        "server",
        retryable=True,
        settings=("consent.ignore",),
    ),
    "too_large": ImageReason("more bytes than the limit", "unsuitable", settings=("fetch.max_bytes",)),
    "byte_budget": ImageReason(
        "the byte limit of the host or shard was reached",
        "unsuitable",
        settings=("fetch.max_host_bytes", "fetch.max_shard_bytes"),
    ),
    "empty_body": ImageReason("an empty answer or an empty local file", "server"),
    "truncated_body": ImageReason("the connection ended before the announced length", "network", retryable=True),
    "placeholder": ImageReason("a placeholder picture for a removed image", "gone"),
    "missing_file": ImageReason("the file is missing from the local folder or archive, or unreadable", "missing"),
    "fetch_lost": ImageReason("the answer is of a kind that vernaclip does not foresee", "crash", retryable=True),
    "fetch_crash": ImageReason("the fetching process died or hung at the row, twice", "crash", retryable=True),
}

NORMALISE_REASONS: dict[str, ImageReason] = {
    "not_an_image": ImageReason("a web page, text or unknown bytes, not an image", "not_an_image"),
    "format_not_allowed": ImageReason("the format or the pixel mode of the image is not supported", "unsuitable"),
    "too_many_pixels": ImageReason(
        "more pixels than a limit, by the header; not decoded",
        "unsuitable",
        settings=("normalise.max_pixels", "normalise.encode_format"),
    ),
    "too_many_scans": ImageReason("a JPEG with more than 100 scans, not decoded", "unsuitable"),
    "too_small": ImageReason(
        "the shorter side has fewer pixels than the minimum", "unsuitable", settings=("normalise.min_image_size",)
    ),
    "aspect": ImageReason(
        "the ratio of the longer to the shorter side is above the maximum",
        "unsuitable",
        settings=("normalise.max_aspect_ratio",),
    ),
    "animated": ImageReason("more than one frame or page", "unsuitable", settings=("normalise.animated",)),
    "one_colour": ImageReason("all pixels have the same colour", "unsuitable"),
    "truncated": ImageReason("the file ends before the image does", "broken"),
    "decode_error": ImageReason("the decoder reports that the file is broken", "broken"),
    "forgotten": ImageReason("the image was taken down, by bytes, perceptual hash or URL", "opted_out"),
    "decode_crash": ImageReason(
        "the decoding process died, hung or ran out of memory, twice",
        "broken",
        settings=("normalise.timeout_s", "normalise.memory_bytes"),
    ),
}


def http_reason(status: int) -> str:
    """Return the drop reason for the HTTP status of an answer without an image."""
    if status in HTTP_MEANINGS:
        return f"http_{status}"
    return f"http_{status // 100}xx" if 200 <= status < 600 else "http_other"


def image_step(reason: str) -> str:
    """Return the step that rejects images for a reason: "fetch" or "normalise"."""
    return "fetch" if reason in FETCH_REASONS else "normalise"


def is_retryable(reason: str | None) -> bool:
    """Return whether a later try may succeed; False for None, which means success."""
    return reason in FETCH_REASONS and FETCH_REASONS[reason].retryable


# Shares of all images above which a cause gets a finding, or counts as unusual.
_NOTABLE = 0.01
_UNUSUAL = 0.15
_FEW_IMAGES = 20

CAUSES = {
    "came": "good images",
    "gone": "gone (404, 410, placeholders)",
    "blocked": "refused (401, 403, 429, ...)",
    "opted_out": "opted out (robots.txt, X-Robots-Tag, Content-Usage)",
    "dns": "host without an address",
    "network": "no connection, or time-out",
    "server": "server error (5xx, TLS, not HTTP)",
    "not_an_image": "no image (web page, text)",
    "broken": "broken image",
    "unsuitable": "too small, too large, or not supported",
    "url": "invalid or forbidden URL",
    "missing": "missing local file",
    "crash": "lost by a crash",
    "other": "another reason",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Counts of images by cause, and findings.

    Args:
        counts: number of images by key of `CAUSES`.
        findings: texts on what is unusual and what to do, most important first.
        num_retryable: images that a later try may bring.
    """

    counts: Mapping[str, int]
    findings: tuple[str, ...]
    num_retryable: int

    def shares(self) -> dict[str, float]:
        """Return the share of all images by cause, rounded to four digits."""
        total = sum(self.counts.values())
        return {cause: round(count / total, 4) for cause, count in self.counts.items()} if total else {}

    def rows(self) -> list[dict[str, Any]]:
        """Return the counts as rows of what, images and share, in a fixed order; causes without images are left out."""
        shares = self.shares()
        return [
            {"what": text, "images": self.counts[cause], "share": f"{shares[cause]:.1%}"}
            for cause, text in CAUSES.items()
            if self.counts.get(cause)
        ]


def diagnose(downloads: "pa.Table", *notes: str) -> Diagnosis:
    """Diagnose the outcomes of a dataset's images.

    Args:
        downloads: columns host, drop_reason (null: good) and num_images.
        notes: findings about how they were fetched.
    """
    rows = downloads.select(["host", "drop_reason", "num_images"]).to_pylist()
    counts: Counter[str] = Counter()
    retryable = 0
    for row in rows:
        counts[cause_of(row["drop_reason"])] += row["num_images"]
        reason = FETCH_REASONS.get(row["drop_reason"] or "")
        retryable += row["num_images"] if reason is not None and reason.retryable else 0
    findings = [*notes, *(finding for rule in _RULES if (finding := rule(counts, rows)) is not None)]
    if retryable and counts.total():
        findings.append(
            f"{retryable:,} of the missing images may come at a later try. Build again later with --retry-failed."
        )
    return Diagnosis(counts=dict(counts), findings=tuple(findings), num_retryable=retryable)


def cause_of(reason: str | None) -> str:
    """Return the cause of a reason: "came" for None, "other" for an unknown reason."""
    if reason is None:
        return "came"
    known = FETCH_REASONS.get(reason) or NORMALISE_REASONS.get(reason)
    return "other" if known is None else known.cause


Rows = Sequence[Mapping[str, Any]]


def _offline(counts: Counter[str], rows: Rows) -> str | None:
    if counts.total() < _FEW_IMAGES or counts["dns"] + counts["network"] < counts.total():
        return None
    return (
        f"None of {counts.total():,} images could be reached. This machine seems to have no connection to the web. "
        "Build again with --retry-failed when it has one."
    )


def _resolver(counts: Counter[str], rows: Rows) -> str | None:
    """Return a finding on hosts without an address.

    If a host answers one request and has no address for another, the resolver is overloaded.
    """
    if _share(counts, "dns") < _NOTABLE or counts["dns"] + counts["network"] == counts.total():
        return None
    causes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        causes[row["host"]][cause_of(row["drop_reason"])] += row["num_images"]
    flaky = sum(found["dns"] for found in causes.values() if found["dns"] and found.total() > found["dns"])
    if flaky >= 0.1 * counts["dns"]:
        return (
            f"DNS trouble: {_percent(counts, 'dns')} of the images failed because their host had no address, {flaky:,} "
            "of them on hosts that had one at other times. The resolver is overloaded. Run a caching resolver on this "
            "machine, such as unbound or systemd-resolved, or lower fetch.threads. Then build "
            "again with --retry-failed."
        )
    if _share(counts, "dns") >= _UNUSUAL:
        return (
            f"{_percent(counts, 'dns')} of the images are on hosts without an address. That is unusually many. Look up "
            "some of them with another resolver. If they have addresses, build again with --retry-failed."
        )
    return (
        f"{_percent(counts, 'dns')} of the images are on domains that no longer exist. That is usual for old lists of "
        "links."
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
        + ". Refusals other than 429 are final. For the next dataset, set fetch.contact, lower the rate of such hosts "
        "in fetch.hosts, and check what they allow. Do not pretend to be a browser."
    )


def _network(counts: Counter[str], rows: Rows) -> str | None:
    if _share(counts, "network") < _UNUSUAL or counts["dns"] + counts["network"] == counts.total():
        return None
    return (
        f"{_percent(counts, 'network')} of the images had no connection or were too slow. The network may be "
        "overloaded. Lower fetch.threads, or raise fetch.timeout_s. Then build again with "
        "--retry-failed."
    )


def _gone(counts: Counter[str], rows: Rows) -> str | None:
    if _share(counts, "gone") < _NOTABLE:
        return None
    text = f"Link rot: {_percent(counts, 'gone')} of the images no longer exist. Another try does not help."
    lost, came = _hosts_of("gone", rows), _hosts_of("came", rows)
    moved = [(host, count) for host, count in lost.most_common() if count >= _FEW_IMAGES and not came[host]]
    if moved:
        host, count = moved[0]
        text += f" All {count:,} images of {host} are missing. Open one in a browser: its addresses may have changed."
    return text


def _opted_out(counts: Counter[str], rows: Rows) -> str | None:
    if _share(counts, "opted_out") < _NOTABLE:
        return None
    return (
        f"{_percent(counts, 'opted_out')} of the images are on hosts that opted out of datasets (robots.txt, "
        "X-Robots-Tag, Content-Usage). They were not used."
    )


def _servers(counts: Counter[str], rows: Rows) -> str | None:
    if _share(counts, "server") < _UNUSUAL:
        return None
    (worst, count), *_ = _hosts_of("server", rows).most_common(1)
    return f"{_percent(counts, 'server')} of the images failed by errors of servers, {count:,} of them on {worst}."


_Rule = Callable[[Counter[str], Rows], str | None]
_RULES: tuple[_Rule, ...] = (_offline, _resolver, _network, _blocked, _servers, _gone, _opted_out)


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
