"""Drop reasons of images, and the diagnosis of a dataset's images by cause.

A reason is *retryable* if a later try may succeed. All others are final: such an image is never requested again.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from data_catalog.drop_reasons import Reason

if TYPE_CHECKING:
    import pyarrow as pa

# Statuses that have a reason of their own.
_STATUSES = (400, 401, 402, 403, 404, 405, 406, 408, 410, 423, 425, 429, 451, 500, 502, 503, 504)
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
        "a port other than 80 and 443, except on this machine", "url", settings=("fetch.ports", "fetch.allow_loopback")
    ),
    "private_address": ImageReason(
        "the host, or a redirect's, is not on the public internet", "url", settings=("fetch.allow_loopback",)
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
            f"HTTP {status}: {HTTPStatus(status).phrase}",
            _http_cause(status),
            retryable=status in RETRYABLE_STATUSES,
            settings=("fetch.max_wait_s",) if status in (429, 503) else (),
        )
        for status in _STATUSES
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
        "the Content-Usage of the answer or of robots.txt forbids training", "opted_out", settings=("consent.ignore",)
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
    if status in _STATUSES:
        return f"http_{status}"
    return f"http_{status // 100}xx" if 200 <= status < 600 else "http_other"


def image_step(reason: str) -> str:
    """Return the step that rejects images for a reason: "fetch" or "normalise"."""
    return "fetch" if reason in FETCH_REASONS else "normalise"


def is_retryable(reason: str | None) -> bool:
    """Return whether a later try may succeed; False for None, which means success."""
    return reason in FETCH_REASONS and FETCH_REASONS[reason].retryable


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
    hosts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    retryable = 0
    for row in downloads.select(["host", "drop_reason", "num_images"]).to_pylist():
        hosts[cause_of(row["drop_reason"])][row["host"]] += row["num_images"]
        retryable += row["num_images"] if is_retryable(row["drop_reason"]) else 0
    counts = {cause: found.total() for cause, found in hosts.items()}
    findings = [*notes, *_findings(hosts)]
    if retryable:
        findings.append(
            f"{retryable:,} of the missing images may come at a later try. Build again later with --retry-failed."
        )
    return Diagnosis(counts=counts, findings=tuple(findings), num_retryable=retryable)


def cause_of(reason: str | None) -> str:
    """Return the cause of a reason: "came" for None, "other" for an unknown reason."""
    if reason is None:
        return "came"
    known = FETCH_REASONS.get(reason) or NORMALISE_REASONS.get(reason)
    return "other" if known is None else known.cause


# Shares of all images from which a cause gets a finding, or counts as unusual.
_NOTABLE = 0.01
_UNUSUAL = 0.15
_FEW_IMAGES = 20


def _findings(hosts: defaultdict[str, Counter[str]]) -> Iterator[str]:
    """Yield the findings on numbers of images by cause and host, most important first."""
    counts = {cause: hosts[cause].total() for cause in CAUSES}
    total = sum(counts.values())
    notable, unusual = (
        {cause for cause, count in counts.items() if count and count >= share * total} for share in (_NOTABLE, _UNUSUAL)
    )
    percent = {cause: f"{count / max(total, 1):.1%} of the images" for cause, count in counts.items()}
    if counts["dns"] + counts["network"] < total:
        if "dns" in notable:
            yield _names_finding(hosts, percent["dns"], is_unusual="dns" in unusual)
        if "network" in unusual:
            yield (
                f"{percent['network']} had no connection or were too slow. The network may be overloaded. Lower "
                "fetch.threads, or raise fetch.timeout_s. Then build again with --retry-failed."
            )
    elif total >= _FEW_IMAGES:
        yield (
            f"None of {total:,} images could be reached. This machine seems to have no connection to the web. Build "
            "again with --retry-failed when it has one."
        )
    if "blocked" in notable:
        (worst, count), *_ = hosts["blocked"].most_common(1)
        is_most = count >= 0.2 * counts["blocked"]
        yield (
            f"{percent['blocked']} were refused, by {len(hosts['blocked']):,} hosts"
            + (f", {count:,} of {counts['blocked']:,} by {worst}" if is_most else "")
            + ". Refusals other than 429 are final. For the next dataset, set fetch.contact, lower the rate of such "
            "hosts in fetch.hosts, and check what they allow. Do not pretend to be a browser."
        )
    if "server" in unusual:
        (worst, count), *_ = hosts["server"].most_common(1)
        yield f"{percent['server']} failed by errors of servers, {count:,} of them on {worst}."
    if "gone" in notable:
        text = f"Link rot: {percent['gone']} no longer exist. Another try does not help."
        lost = (found for found in hosts["gone"].most_common() if not hosts["came"][found[0]])
        host, count = next(lost, ("", 0))
        if count >= _FEW_IMAGES:
            text += (
                f" All {count:,} images of {host} are missing. Open one in a browser: its addresses may have changed."
            )
        yield text
    if "opted_out" in notable:
        yield (
            f"{percent['opted_out']} are on hosts that opted out of datasets (robots.txt, X-Robots-Tag, "
            "Content-Usage). They were not used."
        )


def _names_finding(hosts: Mapping[str, Counter[str]], percent: str, *, is_unusual: bool) -> str:
    # If a host answers one request and has no address for another, the resolver is overloaded.
    others = {host for cause, found in hosts.items() if cause != "dns" for host in found}
    flaky = sum(count for host, count in hosts["dns"].items() if host in others)
    if flaky >= 0.1 * hosts["dns"].total():
        return (
            f"DNS trouble: {percent} failed because their host had no address, {flaky:,} of them on hosts that had one "
            "at other times. The resolver is overloaded. Run a caching resolver on this machine, such as unbound or "
            "systemd-resolved, or lower fetch.threads. Then build again with --retry-failed."
        )
    if is_unusual:
        return (
            f"{percent} are on hosts without an address. That is unusually many. Look up some of them with another "
            "resolver. If they have addresses, build again with --retry-failed."
        )
    return f"{percent} are on domains that no longer exist. That is usual for old lists of links."
