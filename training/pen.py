"""What writes on our pictures, and in which colours: lines of text that fit into a width, in any language's letters."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from training.fonts import Lettering

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

PAPER, CARD, BORDER = (243, 244, 246), (255, 255, 255), (214, 217, 222)
INK, GREY = (24, 28, 36), (110, 116, 128)
BAR = (46, 111, 187)


@dataclass(frozen=True, slots=True)
class Pen:
    """What writes on a picture."""

    draw: "ImageDraw"
    lettering: Lettering

    def write(
        self, x: int, y: int, text: str, size: int, *, grey: bool = False, anchor: Literal["la", "ra", "lm"] = "la"
    ) -> None:
        """Write one line; `anchor` is Pillow's: left ("l") or right ("r"), and top ("a") or middle ("m")."""
        left = x - self.width(text, size) if anchor == "ra" else x
        ascent, descent = self.lettering.font(size).getmetrics()
        baseline = y + (ascent if anchor.endswith("a") else (ascent - descent) / 2)
        for part, font in self.lettering.runs(text, size):
            self.draw.text((left, baseline), part, font=font, fill=GREY if grey else INK, anchor="ls")
            left += self.draw.textlength(part, font=font)

    def width(self, text: str, size: int) -> float:
        """Pixels that a line takes."""
        return sum(self.draw.textlength(part, font=font) for part, font in self.lettering.runs(text, size))

    def fitted(self, text: str, size: int, width: int) -> str:
        """The text, or as much of its start as fits into `width` pixels with an ellipsis."""
        text = " ".join(text.split())  # on one line
        if len(text) <= width and self.width(text, size) <= width:
            return text
        return text[: self._longest(text, size, width, "…")].rstrip() + "…"

    def wrapped(self, text: str, size: int, width: int, num_lines: int) -> list[str]:
        """The text in at most `num_lines` lines of at most `width` pixels, and an ellipsis for what is left."""
        lines: list[str] = []
        words = text.split()
        while words and len(lines) < num_lines - 1:
            if self.width(words[0], size) > width:
                words[:1] = self._broken(words[0], size, width)
            count = 1
            while count < len(words) and self.width(" ".join(words[: count + 1]), size) <= width:
                count += 1
            lines.append(" ".join(words[:count]))
            words = words[count:]
        return [*lines, self.fitted(" ".join(words), size, width)] if words else lines

    def _broken(self, word: str, size: int, width: int) -> list[str]:
        """As much of the start of a word, such as a path, as fits into a line, and the rest."""
        end = max(1, self._longest(word, size, width, ""))
        return [word[:end], word[end:]]

    def _longest(self, text: str, size: int, width: int, end: str) -> int:
        """How many letters of a text fit with what stands at their end: by halves, since a text may be a book."""
        fits, beyond = 0, min(len(text), width) + 1  # no letter that is seen is narrower than a pixel
        while beyond - fits > 1:
            middle = (fits + beyond) // 2
            if self.width(text[:middle] + end, size) <= width:
                fits = middle
            else:
                beyond = middle
        return fits


def contained(image: "Image", width: int, height: int) -> "Image":
    """An image inside a box, as large as it can be with its own proportions; no side has less than one pixel."""
    from PIL import Image

    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)
