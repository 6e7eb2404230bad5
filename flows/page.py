"""The page of `vernaclip demo`, in Gradio: find images, describe one, find a part of it, look at the dataset.

Captions, file names and uploads are hostile. Gradio keeps uploads and the images that it shows in a private folder, and
deletes them after `KEPT_S` seconds; only our decoder opens them. The page loads nothing from another host: its header
Content-Security-Policy forbids it.
"""

import base64
import html
import io
import logging
import os
import re
import socket
import tempfile
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from string import ascii_lowercase
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import jinja2
import numpy as np
from gradio import processing_utils
from PIL import Image
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, PipelineError, SettingsError
from data_catalog.base.heap import share_freed_memory
from data_catalog.catalog.connections import snapshot_queries
from data_catalog.catalog.manifest import Snapshot, require_datasets, require_snapshot
from data_catalog.catalog.why import find_sample_records, record_lines
from data_catalog.disk.barrier import OpenSnapshot
from flows.recipe.language_packs import language_pack
from flows.signals import interrupted_by_sigterm
from training.data.features import text_features
from training.data.images import read_picture
from training.towers.lineage import languages_of
from training.towers.model import LoadedModel, open_model
from training.towers.trained_models import current_model, model_of_folder, pair_hashes
from training.use.classify import SOFTMAX, classify
from training.use.localize import localize
from training.use.pictures import THUMBNAIL, fit_in_box, heat_overlay, image_of
from training.use.search import Gallery, Hit, folder_gallery, shard_gallery

logger = logging.getLogger(__name__)

PAGES = Path(__file__).parent / "pages"
FALLBACK = "en"
LOOPBACK = "127.0.0.1"
MAX_UPLOAD_BYTES, MAX_EVENT_BYTES = 20 << 20, 1 << 20
MAX_UPLOADS_BYTES = 500 << 20  # of all files that Gradio keeps
KEPT_S = 600.0
MAX_TEXT, MAX_LABELS = 2000, 100
MOST_WAITING = 256  # requests in the queue
MOST_HITS = 48
NUM_KNOWN = 256  # texts that show how near an image is to a text that it does not fit, and to one that it fits
SAMPLES_PER_PAGE = 12
SIDE, TILE = 1024, 448  # pixels of an example that is chosen, and of a found image
SCORES = ("translation_score", "image_text_score")

MATCHING = """
    WITH matching AS (
        SELECT sample_id, any_value(split) AS split, any_value(image_id) AS image_id,
               list({'caption': coalesce(nullif(caption, ''), source_caption), 'origin': origin,
                     'drop_reason': drop_reason, 'score': score} ORDER BY caption_id)[:5] AS captions
        FROM (
            SELECT c.*, p.split, coalesce(c.merged_into, c.sample_id) AS image_id,
                   CASE $score WHEN 'image_text_score' THEN c.image_text_score ELSE c.translation_score END AS score
            FROM captions c LEFT JOIN (SELECT sample_id, split FROM pairs) p
            ON coalesce(c.merged_into, c.sample_id) = p.sample_id
        )
        WHERE ($source = '' OR source = $source) AND ($split = '' OR split = $split)
          AND ($outcome = '' OR coalesce(drop_reason, outcome) = $outcome) AND ($origin = '' OR origin = $origin)
          AND ($least::DOUBLE IS NULL OR score >= $least) AND ($most::DOUBLE IS NULL OR score <= $most)
          AND len([word FOR word IN $words::VARCHAR[]
                   IF NOT contains(lower(concat_ws(' ', caption, source_caption)), word)]) = 0
        GROUP BY sample_id
    )
"""
COUNT = f"{MATCHING} SELECT count(*) AS total FROM matching"
SAMPLES = f"{MATCHING} FROM matching ORDER BY sample_id LIMIT {SAMPLES_PER_PAGE} OFFSET $first"
IMAGES = "SELECT sample_id, image.bytes AS image FROM pairs WHERE list_contains($ids, sample_id)"
EXAMPLES = """
    SELECT sample_id, captions[1] AS caption FROM pairs WHERE split <> 'marked'
    ORDER BY split <> 'test', md5(sample_id) LIMIT $number
"""
KINDS = {
    "source": "SELECT DISTINCT source AS value FROM captions ORDER BY 1",
    "split": "SELECT DISTINCT split AS value FROM pairs ORDER BY 1",
    "outcome": "SELECT DISTINCT coalesce(drop_reason, outcome) AS value FROM captions ORDER BY 1",
    "origin": "SELECT DISTINCT origin AS value FROM captions WHERE origin <> '' ORDER BY 1",
}

Words = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDataset:
    """A dataset that a page shows. Its samples may be taken down while the page is open."""

    root: Path
    snapshot: Snapshot

    @contextmanager
    def present(self) -> Iterator[None]:
        """Refuse an answer from a snapshot that was taken down, before or while the answer was made."""
        opened = OpenSnapshot(self.root, self.snapshot.folder)
        yield
        opened.require_present()

    def rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        """Return the rows of a query on the newest snapshot."""
        with snapshot_queries(require_snapshot(self.root, self.snapshot.dataset)) as ask:
            return list(ask(sql, **values).to_pylist())

    def images(self, samples: list[str], side: int) -> dict[str, Image.Image]:
        """Return the images of those samples that are there."""
        rows = self.rows(IMAGES, ids=samples)
        hits = {row["sample_id"]: Hit(cosine=0.0, name=row["sample_id"], image=row["image"]) for row in rows}
        return {name: _shrunk(hit, side) for name, hit in hits.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The contents of a page; `language` is the code of the model's language, or "" if that is not known."""

    model: LoadedModel
    language: str
    gallery: Gallery | None = None
    dataset: ShownDataset | None = None


def open_shown(
    root: Path | None,
    *,
    dataset: str | None = None,
    model: Path | None = None,
    images: Path | None = None,
    language: str | None = None,
) -> Shown:
    """Open what a page shows: a root with its newest model, or a model; and images to search.

    Args:
        dataset: dataset to show. None takes that of `model`, or the only one with a model.
        model: folder of another model than the dataset's newest. Images of another dataset are not searched.
        images: folder of images to search.
        language: code of the model's language. None takes that of the dataset on which it was trained, or the first of
            those that it was distilled for, if it is known.
    """
    share_freed_memory(1)
    own = None
    if model is not None:
        own = model_of_folder(model, root or model)
    elif root is not None:
        own = current_model(root, dataset)
        model, dataset = own.folder, own.snapshot.dataset
    if model is None or (root is None and dataset is not None):
        raise SettingsError("name a model: a root with --root, or a model's folder with --model, without --dataset")
    learnt = None if own is None else own.snapshot
    shown = None if root is None else _shown_dataset(root, dataset, learnt)
    gallery = None
    if images is not None:
        gallery = folder_gallery(images, model, root=root)
    elif learnt is not None and shown is not None and learnt.dataset == shown.snapshot.dataset:
        gallery = shard_gallery(pair_hashes(shown.snapshot), model)
    read = [str(learnt.manifest["target_lang"])] if learnt is not None else languages_of(model)
    return Shown(
        model=open_model(model) if gallery is None else gallery.model,
        language=language or next(iter(read), ""),
        gallery=gallery,
        dataset=shown,
    )


def _shown_dataset(root: Path, dataset: str | None, learnt: Snapshot | None) -> ShownDataset:
    names = require_datasets(root, dataset)
    if dataset is None and learnt is not None and learnt.dataset in names:
        names = [learnt.dataset]
    if len(names) > 1:
        raise SettingsError(f"{root} holds several datasets: choose one of {', '.join(names)} with --dataset")
    return ShownDataset(root=root, snapshot=require_snapshot(root, names[0]))


def interface_texts(language: str) -> dict[str, dict[str, Any]]:
    """Return the texts of a page of a model in this language, by the language of the page's reader."""
    texts = tomllib.loads((PAGES / "demo.toml").read_text(encoding="utf-8"))
    pack_name = language_pack(language).name if language else ""
    for reader, words in texts.items():
        name = words["languages"].get(language, pack_name)
        words["intro"] = words["intro"].format(language=name or words["unknown_language"])
        if name and reader != language:
            words["intro"] += f" {words['write']}".format(language=name)
    return texts


class Page:
    """The functions that answer the page, and the page itself."""

    def __init__(self, shown: Shown, uploads: Path) -> None:
        self.shown, self._uploads = shown, uploads
        self.texts = interface_texts(shown.language)
        self.i18n = gr.I18n(
            **{
                reader: {key: value for key, value in words.items() if isinstance(value, str)}
                for reader, words in self.texts.items()
            }
        )
        pages = jinja2.Environment(loader=jinja2.FileSystemLoader(PAGES), autoescape=True)
        self._html: Any = pages.get_template("demo.html").module
        # Tokenizers are not safe in several threads, torch uses all cores for each answer, and images take memory.
        self._one_at_a_time = threading.Lock()
        self.present: Callable[[], AbstractContextManager[None]]
        self.present = nullcontext if shown.dataset is None else shown.dataset.present
        self._weak = 0.0 if shown.gallery is None else self._weak_lift(shown.gallery)

    def _weak_lift(self, gallery: Gallery) -> float:
        """Return how far the best image stands out from the mean one (`_lifts`) in a weak match.

        It is no more than for the median of random letters, or for the weakest twentieth of the dataset's captions.
        What resembles a present thing is missed.
        """
        letters = np.random.default_rng(0).choice(list(ascii_lowercase), (NUM_KNOWN, 8))
        weak = [np.median(self._lifts(gallery, ["".join(word) for word in letters]))]
        if captions := [row["caption"] for row in self._examples(NUM_KNOWN)]:
            weak.append(np.quantile(self._lifts(gallery, captions), 0.05))
        return float(max(weak)) + 1e-6  # rounding

    def _lifts(self, gallery: Gallery, texts: list[str]) -> list[float]:
        """Return by how much the best image of each text has a higher cosine than the mean image."""
        mean = gallery.features.mean(axis=0)
        queries = text_features(self.shown.model, texts)
        return [float((gallery.features @ query).max() - mean @ query) for query in queries]

    def _search(self, gallery: Gallery, words: Words, query: str, count: float) -> str:
        query = self._text(words, query)
        found = gallery.search(query, min(max(1, int(count or 1)), MOST_HITS))
        tiles = [(hit, _data_url(_shrunk(hit, TILE))) for hit in found.hits]
        head = words["found"].format(shown=len(found.hits), total=f"{found.num_images:,}")
        is_weak = found.num_images > 1 and self._lifts(gallery, [query])[0] <= self._weak
        return str(self._html.found(words, head, is_weak, tiles, self.shown.language))

    def _classify(self, words: Words, picture: Any, labels: str) -> tuple[dict[str, float], str]:
        path = self._picture(words, picture)
        lines = [line.strip()[:MAX_TEXT] for line in (labels or "").splitlines() if line.strip()]
        if not 2 <= len(lines) <= MAX_LABELS:
            raise _refusal(words["need_labels"])
        found = classify(path, lines, self.shown.model)
        note = words["softmax" if found.method == SOFTMAX else "sigmoid"]
        cut = f" ({words['cut']})"
        bars = {choice.label + cut * choice.is_cut: choice.probability for choice in found.choices}
        return bars, str(self._html.note(note))

    def _localize(self, words: Words, picture: Any, wanted: str) -> tuple[Image.Image, str]:
        path, wanted = self._picture(words, picture), self._text(words, wanted)
        found = localize(path, wanted, self.shown.model)
        image = heat_overlay(fit_in_box(read_picture(path, SIDE // 2).image, SIDE // 2), found)
        note = f"{words['cosine']} {found.cosine:.3f}. {words['hot' if found.hottest else 'cold']}"
        return image, str(self._html.note(note + f" ({words['cut']})" * found.is_cut))

    def _samples(self, dataset: ShownDataset, words: Words, wanted: str, *given: Any) -> tuple[str, Any]:
        *filters, at_least, at_most, number = given
        values: dict[str, Any] = {name: value or "" for name, value in zip((*KINDS, "score"), filters, strict=True)}
        try:
            for name, limit in (("least", at_least), ("most", at_most)):
                values[name] = float(limit.replace(",", ".")) if (limit or "").strip() else None
        except ValueError as error:
            raise _refusal(words["need_number"]) from error
        values["words"] = (wanted or "")[:MAX_TEXT].lower().split()
        total = dataset.rows(COUNT, **values)[0]["total"]
        pages = max(1, -(-total // SAMPLES_PER_PAGE))
        number = min(max(1, int(number or 1)), pages)
        rows = dataset.rows(SAMPLES, **values, first=(number - 1) * SAMPLES_PER_PAGE)
        images = dataset.images([row["image_id"] for row in rows], THUMBNAIL)
        head = words["samples"].format(total=f"{total:,}", page=number, pages=f"{pages:,}")
        cards = [(row, _data_url(images[row["image_id"]]) if row["image_id"] in images else "") for row in rows]
        ids = [row["sample_id"] for row in rows]
        shown = self._html.samples(words, head if ids else words["no_samples"], cards)
        return str(shown), gr.Dropdown(choices=ids, value=ids[0] if ids else None)

    def _story(self, dataset: ShownDataset, words: Words, sample: str | None) -> str:
        sample = (sample or "").strip()[:MAX_TEXT]
        records = find_sample_records(dataset.snapshot, sample)[:SAMPLES_PER_PAGE] if sample else []
        if not records:
            raise _refusal(words["no_story"])
        return str(self._html.stories(["\n".join(record_lines(record, identity=sample)) for record in records]))

    def _text(self, words: Words, given: str) -> str:
        if not (given or "").strip():
            raise _refusal(words["need_text"])
        return given.strip()[:MAX_TEXT]

    def _picture(self, words: Words, given: Mapping[str, Any] | None) -> Path:
        """Return the file of an image: an upload, for a request may name any path, that our decoder can read.

        Gradio's own step would decode it in any format that Pillow knows, and EPS runs Ghostscript.
        """
        if not given or not given.get("path"):
            raise _refusal(words["need_picture"])
        path = Path(given["path"]).resolve()
        if not path.is_relative_to(self._uploads) or not path.is_file():
            raise _refusal(words["gone"])
        try:
            read_picture(path, THUMBNAIL)
        except InputError as error:
            reason = str(error).removeprefix(f"{path} cannot be read as an image: ")
            raise _refusal(f"{words['unreadable']} {reason}") from error
        return path

    def _examples(self, number: int = 3) -> list[dict[str, str]]:
        """Return samples of the dataset whose captions the model can read, if any."""
        dataset = self.shown.dataset
        if dataset is None or dataset.snapshot.manifest["target_lang"] != self.shown.language:
            return []
        return dataset.rows(EXAMPLES, number=number)

    def _drawn(self, words: Words) -> list[Any]:
        """Return what the reader may begin with: captions, or our own texts in the model's language, and images.

        Each image is followed by what stays here: its sample's id and caption.
        """
        rows, dataset = self._examples(), self.shown.dataset
        own, captions = self.texts.get(self.shown.language, {}), [row["caption"] for row in rows]
        texts, labels = captions or own.get("examples", []), captions or own.get("labels", [])
        images = dataset.images([row["sample_id"] for row in rows], THUMBNAIL) if dataset and rows else {}
        samples = [
            [str(self._html.thumbnail(_data_url(images[row["sample_id"]]), row["caption"])), *row.values()]
            for row in rows
            if row["sample_id"] in images
        ]
        pictures = [gr.Dataset(samples=samples, visible=bool(samples)) for _ in ("compare", "locate")]
        search = [texts[0] if texts else "", gr.Dataset(samples=[[one] for one in texts], visible=bool(texts))]
        return [*(search if self.shown.gallery is not None else []), "\n".join(labels), *pictures]

    def _chosen(self, words: Words, example: list[str]) -> tuple[Image.Image | None, str]:
        """Return image and caption of an example."""
        _, sample, caption = example
        image = self.shown.dataset.images([sample], SIDE).get(sample) if self.shown.dataset else None
        return image, caption if image else ""

    def _on(self, events: list[Any], function: Callable[..., Any], inputs: Any, outputs: Any, **options: Any) -> None:
        """Answer events with a function of the reader's words and the inputs. An error is shown as a sentence."""

        def answer(request: gr.Request, *values: Any) -> Any:
            # Gradio's script takes the first language of the browser, too.
            words = self.texts.get(request.headers.get("accept-language", "")[:2].lower(), self.texts[FALLBACK])
            try:
                with self._one_at_a_time, self.present():
                    return function(words, *values)
            except PipelineError as error:
                logger.warning("%s", error)
                # Paths of this machine are for its log alone.
                reason = "" if os.sep in str(error) else str(error)
                raise _refusal(f"{words['failed']} {reason}") from error

        options.setdefault("api_visibility", "public" if "api_name" in options else "private")
        gr.on(events, answer, inputs, outputs, **options)

    def blocks(self) -> gr.Blocks:
        """Return the page, for Gradio."""
        t, title = self.i18n, self.texts[FALLBACK]["title"]
        with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT_S / 10, KEPT_S)) as page:
            gr.Markdown(t("title"), elem_classes="title")
            gr.Markdown(t("intro"))
            drawn = [] if self.shown.gallery is None else self._search_tab(self.shown.gallery)
            text = gr.Textbox(label=t("texts"), info=t("labels_hint"), lines=5, render=False)
            bars = gr.Label(num_top_classes=MAX_LABELS, show_label=False, render=False)
            picture, button, examples, note = self._picture_tab("compare", text, "compute", bars)
            drawn += [text, examples]
            self._on([examples.click], lambda *given: self._chosen(*given)[0], examples, picture)
            self._on(
                [button.click], self._classify, [picture, text], [bars, note], api_name="classify", preprocess=False
            )
            text = gr.Textbox(label=t("text"), placeholder=t("query_hint"), render=False)
            heat = gr.Image(show_label=False, interactive=False, buttons=[], render=False)
            picture, button, examples, note = self._picture_tab("locate", text, "show", heat)
            drawn.append(examples)
            self._on([examples.click], self._chosen, examples, [picture, text])
            events, inputs = [button.click, text.submit], [picture, text]
            self._on(events, self._localize, inputs, [heat, note], api_name="localize", preprocess=False)
            if self.shown.dataset is not None:
                self._dataset_tab(self.shown.dataset)
            self._on([page.load], self._drawn, None, drawn)
        page.queue(max_size=MOST_WAITING, api_open=False)
        return page

    def _picture_tab(self, name: str, text: gr.Textbox, submit: str, output: Any) -> tuple[Any, Any, Any, Any]:
        """Add a tab that compares an image with a text; return its image, its button, example images, and a note."""
        t = self.i18n
        with gr.Tab(t(name)), gr.Row():
            with gr.Column():
                picture = gr.Image(label=t("picture"), sources=["upload"], buttons=[], height=320)
                label = t("examples_of_texts")
                examples = gr.Dataset(components=["html"], samples=[], label=label, visible=False)
                text.render()
                button = gr.Button(t(submit), variant="primary")
            with gr.Column():
                output.render()
                return picture, button, examples, gr.HTML()

    def _search_tab(self, gallery: Gallery) -> list[Any]:
        """Add the tab, and return the text and the examples of texts."""
        t = self.i18n
        with gr.Tab(t("find")):
            wanted = gr.Textbox(label=t("text"), placeholder=t("query_hint"), max_length=MAX_TEXT)
            count = gr.Slider(1, MOST_HITS, value=12, step=1, label=t("num_images"), buttons=[])
            button = gr.Button(t("search"), variant="primary")
            examples = gr.Dataset(components=[wanted], samples=[], label=t("examples_of_texts"), visible=False)
            result = gr.HTML()
        examples.click(lambda sample: sample[0], examples, wanted, api_visibility="private")
        search, events = partial(self._search, gallery), [button.click, wanted.submit]
        self._on(events, search, [wanted, count], result, api_name="search")
        return [wanted, examples]

    def _dataset_tab(self, dataset: ShownDataset) -> None:
        t = self.i18n
        with gr.Tab(t("browse")) as tab:
            wanted = gr.Textbox(label=t("words"), max_length=MAX_TEXT)
            inputs: list[Any] = [wanted]
            with gr.Row():
                for name, sql in KINDS.items():
                    values = [row["value"] for row in dataset.rows(sql)]
                    choices = [(t("all"), ""), *((t("kept") if value == "kept" else value, value) for value in values)]
                    inputs.append(gr.Dropdown(choices, value="", label=t(name), min_width=150, filterable=False))
            with gr.Row():
                inputs.append(
                    gr.Dropdown([*SCORES], value=SCORES[0], label=t("score"), min_width=150, filterable=False)
                )
                inputs += [gr.Textbox(label=t(name), min_width=120, max_length=20) for name in ("at_least", "at_most")]
                number = gr.Number(1, label=t("page_number"), minimum=1, precision=0, min_width=120)
            button = gr.Button(t("show"), variant="primary")
            result = gr.HTML()
            sample = gr.Dropdown([], label=t("sample"), allow_custom_value=True)
            why = gr.Button(t("story"))
            story = gr.HTML()
        events = [tab.select, button.click, wanted.submit, number.submit]
        samples = partial(self._samples, dataset)
        self._on(events, samples, [*inputs, number], [result, sample], api_name="samples")
        self._on([why.click], partial(self._story, dataset), sample, story, api_name="story")


def _refusal(text: str) -> gr.Error:
    """Return an error that the page shows as text, and that is not in the log."""
    return gr.Error(html.escape(text, quote=False), print_exception=False)


def _shrunk(hit: Hit, side: int) -> Image.Image:
    image = image_of(hit, side)
    image.thumbnail((side, side))
    return image


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


# What the page and its client ask for. Gradio has more, such as a proxy, a monitor, and ffmpeg for recordings.
PATHS = re.compile(
    r"/(config/?|assets/.+|static/.+|theme\.css|favicon\.ico|manifest\.json|robots\.txt)?"
    r"|/gradio_api/(info/?|upload|upload_progress|file=/.+|startup-events|theme\.css|cancel|reset/?|heartbeat/\w+"
    r"|queue/(join|data)/?|call/.+|run/\w+|app_id/?)"
)
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; connect-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; "
        "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; script-src-attr 'none'; "
        "manifest-src 'self'; worker-src 'self' blob:; base-uri 'self'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def _guard(uploads: Path, host: str, present: Callable[[], AbstractContextManager[None]]) -> Middleware:
    """Return a middleware that refuses what the page does not need, and forbids browsers to load from elsewhere."""

    def refusal(request: Request) -> tuple[int, str] | None:
        """Return the status and the sentence with which a request is refused."""
        asked, origin, path = request.headers.get("host", ""), request.headers.get("origin"), request.url.path
        # A site whose name resolves to 127.0.0.1 could otherwise read the page (DNS rebinding).
        if is_loopback(host) and not is_loopback(urlsplit(f"//{asked}").hostname or ""):
            return 421, "this page is for this machine only"
        if not PATHS.fullmatch(path):
            return 404, "there is no such page"
        if path.startswith("/gradio_api/file="):
            if not Path(path.partition("=")[2]).resolve().is_relative_to(uploads):
                return 404, "there is no such page"
            try:
                with present():  # Gradio keeps the pictures that it has shown for a while
                    return None
            except PipelineError:
                return 410, "this picture is gone"
        if request.method != "POST":
            return None
        # Any site may tell the browser of this machine to send something here, though it cannot read the answer.
        if is_loopback(host) and origin is not None and urlsplit(origin).netloc != asked:
            return 403, "another site may not use this page"
        is_upload, length = path == "/gradio_api/upload", request.headers.get("content-length", "")
        limit = MAX_UPLOAD_BYTES if is_upload else MAX_EVENT_BYTES
        # With a transfer coding, the body may have another length than the header says.
        if "transfer-encoding" in request.headers or not length.isdigit() or int(length) > limit:
            return 413, f"the limit is {limit >> 20} MiB"
        if is_upload and sum(map(_size, uploads.rglob("*"))) > MAX_UPLOADS_BYTES:
            return 503, "too many uploads: try again later"
        return None

    async def guarded(request: Request, call_next: Callable[[Request], Any]) -> Response:
        refused = refusal(request)
        if refused is None:
            response: Response = await call_next(request)
        else:
            response = PlainTextResponse(f"{refused[1]}\n", refused[0])
        response.headers.update(HEADERS)
        return response

    return Middleware(BaseHTTPMiddleware, dispatch=guarded)


def _size(path: Path) -> int:
    """Return the size of a file, which Gradio may delete at any time."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


@contextmanager
def _only_ours(**variables: str) -> Iterator[None]:
    """Set variables of the environment for Gradio, which otherwise may also fetch an address in place of a file."""

    async def refuse(url: str, cache_dir: str) -> str:
        raise gr.Error("upload the image", print_exception=False)

    before, fetch = dict(os.environ), processing_utils.async_ssrf_protected_download
    for name in [name for name in before if name.startswith("GRADIO_")]:  # they could open folders to everybody
        del os.environ[name]
    os.environ |= variables
    processing_utils.async_ssrf_protected_download = refuse
    try:
        yield
    finally:
        processing_utils.async_ssrf_protected_download = fetch
        for name in variables:
            del os.environ[name]
        os.environ |= before


def is_loopback(host: str) -> bool:
    """Return whether an address or name is one of this machine's own, which others do not reach."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def served(shown: Shown, *, host: str = LOOPBACK, port: int | None = None) -> Iterator[str]:
    """Serve a page, and yield its address; without a port that is 7860 or the next free one.

    A loopback address answers this machine only.
    """
    host = host.strip("[]")
    with about(f"this machine cannot listen at --host {host}, --port {port}", kind=SettingsError):
        socket.create_server((host, port or 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    # Gradio asks its own server at the start; a proxy of the environment must not hear of it.
    direct = ",".join(filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), LOOPBACK, host]))
    with (
        tempfile.TemporaryDirectory(prefix="vernaclip-demo-") as folder,
        _only_ours(GRADIO_TEMP_DIR=os.path.realpath(folder), GRADIO_ANALYTICS_ENABLED="False", no_proxy=direct),
    ):
        uploads = Path(folder).resolve()
        page = Page(shown, uploads)
        blocks = page.blocks()
        _, url, _ = blocks.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MAX_UPLOAD_BYTES,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            pwa=False,
            app_kwargs={"middleware": [_guard(uploads, host, page.present)], "docs_url": None, "redoc_url": None},
            theme=gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=(PAGES / "demo.css").read_text(encoding="utf-8"),
            i18n=page.i18n,
        )
        try:
            yield url
        finally:
            blocks.close(verbose=False)


def serve(shown: Shown, say: Callable[[str], object], *, host: str = LOOPBACK, port: int | None = None) -> None:
    """Serve a page until Ctrl-C or SIGTERM. `say` gets one line with its address."""
    with interrupted_by_sigterm(), suppress(KeyboardInterrupt), served(shown, host=host, port=port) as url:
        say(f"The page is at {url}")
        threading.Event().wait()
