"""Why an image could not be had or is not wanted: the closed set of reasons, and which of them may pass.

A reason is *retryable* if a later try may end better; all others are final, and never tried again.
"""

from dataclasses import dataclass

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
