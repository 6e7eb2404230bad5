"""Writes the image files of the sample, each with the fault that is planned for it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_catalog.progress import Progress
from data_catalog.sample.config import FLICKR8K
from data_catalog.sample.drawing import encode, paint
from data_catalog.sample.samples import Ledger, Sample, url_of

_HTML = """<!DOCTYPE html>
<html><head><title>Image removed</title></head>
<body><h1>This picture is no longer available</h1><p>Please visit our home page.</p></body></html>
"""
_KEPT_SHARE_OF_TRUNCATED = 0.4
IMAGE_FAULTS = (
    "dead_link",
    "missing_file",
    "html_instead_of_image",
    "truncated_image",
    "tiny_image",
    "duplicate_image",
    "redirect",
    "flaky",
)


@dataclass(slots=True)
class ImageFolder:
    """Where image files go and what is noted of them on the way.

    Args:
        web: the folder to be served.
        local: the folder of flickr8k's images.
        base_url: of the served folder.
        originals: samples by index, for what duplicates repeat.
        progress: counts the images done.
        rules: of the server, by URL path.
    """

    web: Path
    local: Path
    base_url: str
    originals: dict[int, Sample]
    ledger: Ledger
    progress: Progress
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, sample: Sample) -> tuple[int, int]:
        """Write the image of `sample`, or what its fault leaves of it; returns width and height in pixels."""
        layout = sample.layout()
        if sample.fault in IMAGE_FAULTS:
            self._record(sample)
        data = _file_bytes(sample)
        if data is not None:
            path = self._place(sample)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.progress.advance()
        return (layout.width, layout.height) if sample.fault != "tiny_image" else (1, 1)

    def _place(self, sample: Sample) -> Path:
        if sample.source == FLICKR8K:
            return self.local / sample.path
        if sample.fault == "redirect":
            moved = f"moved/{sample.path}"
            self.rules[f"/{sample.path}"] = {"location": f"/{moved}"}
            return self.web / moved
        if sample.fault == "flaky":
            self.rules[f"/{sample.path}"] = {"status": 503, "times": 1, "retry_after_s": 1}
        if sample.fault == "html_instead_of_image":
            self.rules[f"/{sample.path}"] = {"content_type": "text/html; charset=utf-8"}
        return self.web / sample.path

    def _record(self, sample: Sample) -> None:
        where = "path" if sample.source == FLICKR8K else "url"
        facts: dict[str, Any] = {where: url_of(sample, self.base_url)}
        if sample.fault == "duplicate_image":
            facts["same_as"] = url_of(self.originals[sample.original], self.base_url)
        self.ledger.record(sample.fault, sample.source, **facts)


def _file_bytes(sample: Sample) -> bytes | None:
    """The bytes of the image file; None where there is no file."""
    from PIL import Image

    match sample.fault:
        case "dead_link" | "missing_file":
            return None
        case "html_instead_of_image":
            return _HTML.encode()
        case "tiny_image":
            return encode(Image.new("RGB", (1, 1), sample.layout().rgb), sample.file_format)
    data = encode(paint(sample.layout()), sample.file_format)
    return data[: int(len(data) * _KEPT_SHARE_OF_TRUNCATED)] if sample.fault == "truncated_image" else data
