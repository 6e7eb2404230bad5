"""Judge what became of the images of a dataset, in one verdict: links that rot, hosts that block, a network down."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_catalog.fetch.reasons import FETCH_REASONS, NORMALISE_REASONS

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
