"""Drop reasons of images, and the diagnosis of a dataset's images by cause.

A reason is *retryable* if a later try may succeed. All others are final: such an image is never requested again.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from data_catalog.rows.drop_reasons import Reason

if TYPE_CHECKING:
    import pyarrow as pa

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

# Statuses that have a reason of their own, with its cause.
_STATUSES = dict.fromkeys((400, 401, 402, 403, 405, 406, 423, 425, 429, 451), "blocked")
_STATUSES |= {404: "gone", 410: "gone"} | dict.fromkeys((408, 500, 502, 503, 504), "server")

# By reason: its cause, and its meaning.
_FETCH = {
    "bad_url": ("url", "no URL, or one without a valid host"),
    "scheme": ("url", "a URL with a scheme other than http and https"),
    "userinfo": ("url", "a URL that contains a user name or password"),
    "port": ("url", "a port other than 80 and 443, except on this machine"),
    "private_address": ("url", "the host, or a redirect's, is not on the public internet"),
    "dns": ("dns", "the host has no address"),
    "connect": ("network", "no connection, or it was closed before any answer"),
    "tls": ("server", "the server's certificate or TLS handshake is invalid"),
    "timeout": ("network", "no answer, or not the whole answer, in time"),
    "not_http": ("server", "the answer is not HTTP"),
    **{f"http_{code}": (_STATUSES[code], f"HTTP {code}: {HTTPStatus(code).phrase}") for code in sorted(_STATUSES)},
    "http_2xx": ("server", "another successful status without an image, such as 204"),
    "http_3xx": ("server", "a redirect without a target, or another status from 300 to 399"),
    "http_4xx": ("blocked", "another status from 400 to 499"),
    "http_5xx": ("server", "another status from 500 to 599, such as one of a proxy"),
    "http_other": ("server", "a status outside 200 to 599"),
    "redirects": ("server", "too many redirects"),
    "robots_tag": ("opted_out", "the X-Robots-Tag or TDM-Reservation of the answer forbids the use"),
    "content_usage": ("opted_out", "the Content-Usage of the answer or of robots.txt forbids training"),
    "robots_txt": ("opted_out", "the host's robots.txt forbids fetching the file"),
    "robots_unreachable": ("server", "the host's robots.txt can't be fetched, which counts as forbidden"),
    "too_large": ("unsuitable", "more bytes than the limit"),
    "byte_budget": ("unsuitable", "the byte limit of the host or shard was reached"),
    "empty_body": ("server", "an empty answer or an empty local file"),
    "truncated_body": ("network", "the connection ended before the announced length"),
    "placeholder": ("gone", "a placeholder picture for a removed image"),
    "missing_file": ("missing", "the file is missing from the local folder or archive, or unreadable"),
    "fetch_lost": ("crash", "the answer is of a kind that vernaclip does not foresee"),
    "fetch_crash": ("crash", "the fetching process died or hung at the row, twice"),
}
_NORMALISE = {
    "not_an_image": ("not_an_image", "a web page, text or unknown bytes, not an image"),
    "format_not_allowed": ("unsuitable", "the format or the pixel mode of the image is not supported"),
    "too_many_pixels": ("unsuitable", "more pixels than a limit, by the header; not decoded"),
    "too_many_scans": ("unsuitable", "a JPEG with more than 100 scans, not decoded"),
    "too_small": ("unsuitable", "the shorter side has fewer pixels than the minimum"),
    "aspect": ("unsuitable", "the ratio of the longer to the shorter side is above the maximum"),
    "animated": ("unsuitable", "more than one frame or page"),
    "one_colour": ("unsuitable", "all pixels have the same colour"),
    "truncated": ("broken", "the file ends before the image does"),
    "decode_error": ("broken", "the decoder reports that the file is broken"),
    "forgotten": ("opted_out", "the image was taken down, by bytes, perceptual hash or URL"),
    "decode_crash": ("broken", "the decoding process died, hung or ran out of memory, twice"),
}
# The settings that decide a reason.
_SETTINGS = {
    "port": ("fetch.ports", "fetch.allow_loopback"),
    "private_address": ("fetch.allow_loopback",),
    "timeout": ("fetch.timeout_s", "fetch.deadline_s"),
    **dict.fromkeys(("http_429", "http_503"), ("fetch.max_wait_s",)),
    "redirects": ("fetch.max_redirects",),
    **dict.fromkeys(("robots_tag", "content_usage", "robots_txt", "robots_unreachable"), ("consent.ignore",)),
    "too_large": ("fetch.max_bytes",),
    "byte_budget": ("fetch.max_host_bytes", "fetch.max_shard_bytes"),
    "too_many_pixels": ("normalise.max_pixels", "normalise.encode_format"),
    "too_small": ("normalise.min_image_size",),
    "aspect": ("normalise.max_aspect_ratio",),
    "animated": ("normalise.animated",),
    "decode_crash": ("normalise.timeout_s", "normalise.memory_bytes"),
}
FETCH_REASONS, NORMALISE_REASONS = (
    {name: Reason(meaning, settings=_SETTINGS.get(name, ())) for name, (_, meaning) in table.items()}
    for table in (_FETCH, _NORMALISE)
)
RETRYABLE = {f"http_{status}" for status in (408, 425, 429, "5xx", 500, 502, 503, 504)}
RETRYABLE |= {"dns", "connect", "timeout", "robots_unreachable", "truncated_body", "fetch_lost", "fetch_crash"}


def http_reason(status: int) -> str:
    """Return the drop reason for the HTTP status of an answer without an image."""
    if status in _STATUSES:
        return f"http_{status}"
    return f"http_{status // 100}xx" if 200 <= status < 600 else "http_other"


def image_step(reason: str) -> str:
    """Return the step that rejects images for a reason: "fetch" or "normalise"."""
    return "fetch" if reason in FETCH_REASONS else "normalise"


def is_retryable(reason: str | None) -> bool:
    """Return whether a later try may succeed."""
    return reason in RETRYABLE


def cause_of(reason: str | None) -> str:
    """Return the cause of a reason: "came" for None, "other" for an unknown reason."""
    return "came" if reason is None else (_FETCH.get(reason) or _NORMALISE.get(reason) or ("other",))[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Numbers of images by key of `CAUSES`, and texts on what is unusual and what to do, most important first."""

    counts: Mapping[str, int]
    findings: tuple[str, ...]
    num_retryable: int  # images that a later try may bring

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
    """Diagnose outcomes, a table of host, drop_reason (null: good) and num_images; the notes are findings, too."""
    hosts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    retryable = 0
    for row in downloads.select(["host", "drop_reason", "num_images"]).to_pylist():
        hosts[cause_of(row["drop_reason"])][row["host"]] += row["num_images"]
        retryable += row["num_images"] if is_retryable(row["drop_reason"]) else 0
    counts = {cause: found.total() for cause, found in hosts.items()}
    findings = [*notes, *_findings(hosts, sum(counts.values()))]
    if retryable:
        findings.append(
            f"{retryable:,} of the missing images may come at a later try. Build again later with --retry-failed."
        )
    return Diagnosis(counts=counts, findings=tuple(findings), num_retryable=retryable)


# Shares of all images from which a cause gets a finding, or counts as unusual.
_NOTABLE, _UNUSUAL = 0.01, 0.15
_FEW_IMAGES = 20


def _findings(hosts: defaultdict[str, Counter[str]], total: int) -> Iterator[str]:
    """Yield the findings on numbers of images by cause and host, most important first."""

    def part(cause: str, least: float = _NOTABLE) -> str:
        count = hosts[cause].total()
        return f"{count / total:.1%} of the images" if count and count >= least * total else ""

    def worst(cause: str) -> str:
        host, count = hosts[cause].most_common(1)[0]
        return f", {count:,} of {hosts[cause].total():,} by {host}" if count >= 0.2 * hosts[cause].total() else ""

    if hosts["dns"].total() + hosts["network"].total() < total:
        if lost := part("dns"):
            # If a host answers one request and has no address for another, the resolver is overloaded.
            others = {host for cause in CAUSES if cause != "dns" for host in hosts[cause]}
            flaky = sum(count for host, count in hosts["dns"].items() if host in others)
            if flaky >= 0.1 * hosts["dns"].total():
                yield (
                    f"DNS trouble: {lost} failed because their host had no address, {flaky:,} of them on hosts that "
                    "had one at other times. The resolver is overloaded. Run a caching resolver on this machine, such "
                    "as unbound or systemd-resolved, or lower fetch.threads. Then build again with --retry-failed."
                )
            elif part("dns", _UNUSUAL):
                yield (
                    f"{lost} are on hosts without an address. That is unusually many. Look up some of them with "
                    "another resolver. If they have addresses, build again with --retry-failed."
                )
            else:
                yield f"{lost} are on domains that no longer exist. That is usual for old lists of links."
        if lost := part("network", _UNUSUAL):
            yield (
                f"{lost} had no connection or were too slow. The network may be overloaded. Lower fetch.threads, or "
                "raise fetch.timeout_s. Then build again with --retry-failed."
            )
    elif total >= _FEW_IMAGES:
        yield (
            f"None of {total:,} images could be reached. This machine seems to have no connection to the web. Build "
            "again with --retry-failed when it has one."
        )
    if lost := part("blocked"):
        yield (
            f"{lost} were refused, by {len(hosts['blocked']):,} hosts{worst('blocked')}. Refusals other than 429 are "
            "final. For the next dataset, set fetch.contact, lower the rate of such hosts in fetch.hosts, and check "
            "what they allow. Do not pretend to be a browser."
        )
    if lost := part("server", _UNUSUAL):
        yield f"{lost} failed by errors of servers{worst('server')}."
    if lost := part("gone"):
        text = f"Link rot: {lost} no longer exist. Another try does not help."
        host, count = next((found for found in hosts["gone"].most_common() if not hosts["came"][found[0]]), ("", 0))
        if count >= _FEW_IMAGES:
            text += f" All {count:,} images of {host} are missing. Open one in a browser: addresses may have changed."
        yield text
    if lost := part("opted_out"):
        signals = "robots.txt, X-Robots-Tag, Content-Usage"
        yield f"{lost} are on hosts that opted out of datasets ({signals}). They were not used."
