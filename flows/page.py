"""The page of `vernaclip demo`, in Gradio: find images, describe one, find a part of it, look at the dataset.

Captions, file names and uploads are hostile. Results are HTML that is made here: every text is escaped, and every image
is decoded, re-encoded and inline, so no file is served. An upload is deleted as soon as it is read. The page loads
nothing from another host: its header Content-Security-Policy forbids it.
"""

import base64
import errno
import html
import io
import json
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from string import ascii_lowercase
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import numpy as np
import starlette.formparsers
from gradio.context import LocalContext
from gradio.data_classes import ImageData
from PIL import Image
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from data_catalog.base.errors import BusyError, InputError, PipelineError, SettingsError
from data_catalog.catalog.connections import snapshot_queries
from data_catalog.catalog.manifest import Snapshot, require_datasets, require_snapshot
from data_catalog.catalog.why import find_sample_records, record_lines
from data_catalog.disk.barrier import OpenSnapshot
from flows.recipe.language_packs import language_pack
from flows.signals import interrupted_by_sigterm
from training.data.features import text_features
from training.data.images import picture_or_reason, quiet_decoders, read_picture
from training.data.pairs import Floats
from training.runs.processes import share_freed_memory
from training.towers.model import LoadedModel, open_model
from training.towers.trained_models import TrainedModel, current_model, model_of_folder, pair_hashes
from training.use.classify import SOFTMAX, classify
from training.use.localize import localize
from training.use.pictures import THUMBNAIL, fit_in_box, heat_overlay
from training.use.search import Gallery, Hit, folder_gallery, nearest, shard_gallery

logger = logging.getLogger(__name__)

PAGES = Path(__file__).parent / "pages"
FALLBACK = "en"
MARK = "\ue000"  # about the key of a text, which each reader gets in their own language
LOOPBACK = "127.0.0.1"
PORT, NUM_PORTS = 7860, 100  # the first port that is tried, and how many
MAX_UPLOAD_BYTES = 20 << 20
MAX_UPLOADS_BYTES = 500 << 20  # of all uploads that nobody has used yet
MAX_EVENT_BYTES = 4 << 20  # an image that the browser keeps is at most half as large
MAX_TEXT, MAX_LABELS = 2000, 100
MOST_WAITING = 256  # requests in the queue
MOST_HITS = 48
NUM_KNOWN = 256  # texts that show how near an image is to a text that it does not fit, and to one that it fits
SAMPLES_PER_PAGE = 12
MOST_WORDS = 8
SIDE = 1024  # pixels of an uploaded image that the browser keeps
TILE = 448  # pixels of a found image
KEPT_S = 600.0  # seconds after which an upload that nobody uses is deleted
SCORES = ("translation_score", "image_text_score")

Words = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The contents of a page.

    Args:
        model: the loaded model.
        language: code of the model's language; empty: it is not known.
        gallery: images to search; None: the page has no search.
        root: catalog with the dataset.
        snapshot: the dataset to look at; None: the page has no dataset.
    """

    model: LoadedModel
    language: str
    gallery: Gallery | None = None
    root: Path | None = None
    snapshot: Snapshot | None = None


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
        root: catalog; None if there is none.
        dataset: dataset whose newest model and images are shown. None takes that of `model`, or the only one with a
            model.
        model: folder of another model. Then the images of the dataset are not searched.
        images: folder of images to search.
        language: code of the model's language. None takes that of the dataset on which it was trained, if it is known.

    Raises:
        PipelineError: there is no such model, dataset or folder, or it is damaged.
    """
    share_freed_memory()
    if model is None and root is None:
        raise SettingsError("name a model: a root with --root, or a model's folder with --model")
    if dataset is not None and root is None:
        raise SettingsError("--dataset names a dataset of a root: name the root with --root")
    if model is not None:
        trained = model_of_folder(model, root or model)
    else:
        assert root is not None
        trained = current_model(root, dataset)
        dataset, model = trained.snapshot.dataset, trained.folder
    snapshot = None if root is None else require_snapshot(root, _dataset_of(root, dataset, trained))
    gallery = None
    if images is not None:
        gallery = folder_gallery(images, model, root=root)
    elif trained is not None and snapshot is not None and trained.snapshot.dataset == snapshot.dataset:
        hashes = pair_hashes(snapshot)
        gallery = shard_gallery(list(hashes), model, sha256=hashes.__getitem__)
    known = "" if trained is None else str(trained.snapshot.manifest["target_lang"])
    return Shown(
        model=open_model(model) if gallery is None else gallery.model,
        language=language or known,
        gallery=gallery,
        root=root,
        snapshot=snapshot,
    )


def _dataset_of(root: Path, dataset: str | None, trained: TrainedModel | None) -> str:
    """Return the dataset that a page shows: the named one, that of the model, or the only one of the root.

    Raises:
        SettingsError: the root has several, and none is named.
    """
    names = require_datasets(root, dataset)
    if dataset is None and trained is not None and trained.snapshot.dataset in names:
        return trained.snapshot.dataset
    if len(names) > 1:
        raise SettingsError(f"{root} holds several datasets: choose one of {', '.join(names)} with --dataset")
    return names[0]


def interface_texts() -> dict[str, dict[str, Any]]:
    """Return the texts of the page by language."""
    return tomllib.loads((PAGES / "demo.toml").read_text(encoding="utf-8"))


def text(value: object) -> str:
    """Return a text of strangers as HTML that shows it and does nothing."""
    return html.escape(str(value))


def said(sentence: str, reason: object = "") -> str:
    """Return HTML of an error's sentence, and of its reason, which is in English."""
    return f'<p class="error" role="alert">{text(sentence)} <span lang="en">{text(reason)}</span></p>'


def inline(image: Image.Image, *, quality: int = 85) -> str:
    """Return an image as a data URL, re-encoded."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def picture_input(label: str, hint: str) -> Any:
    """Return an input for an image. It gives the path of a file that its user deletes, and takes a data URL.

    By itself, Gradio would decode the file, keep a copy, and fetch an address that is given in place of a file. The
    methods are replaced in the instance, because for a subclass Gradio writes a stub file beside this one.
    """
    picture = gr.Image(label=label, placeholder=hint, sources=["upload"], buttons=[], height=320)

    def preprocess(payload: ImageData | None) -> Path | None:
        if payload is None or not (payload.path or payload.url):
            return None
        if payload.url and payload.url.startswith("data:"):
            return new_file(base64.b64decode(payload.url.partition(",")[2]))
        # The folder of the file will be deleted, and a request may name any. Gradio itself checks some paths only.
        path = Path(payload.path or "")
        if path.parent.parent != Path(os.environ["GRADIO_TEMP_DIR"]) or ".." in path.parts:
            raise gr.Error("upload the image", print_exception=False)
        return path

    async def untouched(path: str) -> str:
        return path

    picture.preprocess = preprocess
    picture.postprocess = lambda value: None if value is None else ImageData(url=value, meta={})
    picture.async_move_resource_to_block_cache = untouched
    picture.example_payload = picture.example_value = lambda: None  # an address, by itself
    return picture


def new_file(content: bytes) -> Path:
    """Write an uploaded image into a folder of its own, and return its path."""
    folder = Path(os.environ["GRADIO_TEMP_DIR"]) / secrets.token_hex(16)
    folder.mkdir(mode=0o700)
    path = folder / "image"
    path.write_bytes(content)
    return path


class Page:
    """The functions that answer the page, and the page itself."""

    def __init__(self, shown: Shown) -> None:
        self.shown = shown
        self.texts: dict[str, Words] = dict(interface_texts())
        self.own: Words = self.texts.get(shown.language, {})  # texts in the model's language
        pack_name = language_pack(shown.language).name if shown.language else ""
        for reader, words in self.texts.items():
            name = words["languages"].get(shown.language, pack_name)
            intro = words["intro"].format(language=name or words["unknown_language"])
            if name and reader != shown.language:
                intro += f" {words['write']}".format(language=name)
            self.texts[reader] = {**words, "intro": text(intro)}
        # A match is weak if the best image stands out from the mean one no more than for the median of random letters
        # or for the weakest twentieth of the dataset's captions. What resembles a present thing is missed.
        if shown.gallery is not None:
            self.mean = shown.gallery.features.mean(axis=0)
            letters = np.random.default_rng(0).choice(list(ascii_lowercase), (NUM_KNOWN, 8))
            weak = [np.median(self._lifts(["".join(word) for word in letters]))]
            if captions := [row["caption"] for row in self._examples(NUM_KNOWN)]:
                weak.append(np.quantile(self._lifts(captions), 0.05))
            self.weak = float(max(weak)) + 1e-6  # rounding

    @property
    def words(self) -> Words:
        """Return the texts of the language that the reader's browser asks for; of the page itself, their marks."""
        request = LocalContext.request.get(None)
        if request is None:
            return {key: f"{MARK}{key}{MARK}" for key in self.texts[FALLBACK]}
        return self.texts[preferred_language(request.headers.get("accept-language", ""), self.texts)]

    def _examples(self, number: int = 3) -> list[dict[str, str]]:
        """Return samples whose captions the model can read, as they are now: one may be taken down while it is shown.

        None if the dataset is in another language, or cannot be read.
        """
        if self.shown.snapshot is None or self.shown.snapshot.manifest["target_lang"] != self.shown.language:
            return []
        try:
            with self._present():
                return self._rows(
                    "SELECT sample_id, captions[1] AS caption FROM pairs WHERE split <> 'marked' "
                    "ORDER BY split <> 'test', md5(sample_id) LIMIT $number",
                    {"number": number},
                )
        except PipelineError as error:
            logger.warning("%s", error)
            return []

    def _texts(self) -> list[str]:
        """Return examples of texts in the model's language: captions of the dataset, if it has some."""
        return [row["caption"] for row in self._examples()] or list(self.own.get("examples", ()))

    def _lifts(self, texts: list[str]) -> Floats:
        """Return by how much the best image of each text has a higher cosine than the mean image."""
        assert self.shown.gallery is not None, "there are images"
        queries = text_features(self.shown.model, texts)
        lifts: Floats = nearest(self.shown.gallery.features, queries, 1).cosines[:, 0] - queries @ self.mean
        return lifts

    def search(self, query_text: str, num_images: float) -> str:
        """Return the images that are most similar to a text."""
        query_text = (query_text or "").strip()[:MAX_TEXT]
        if not query_text:
            return said(self.words["need_text"])
        assert self.shown.gallery is not None, "a page without images has no search"
        num_hits = min(max(1, int(num_images or 1)), MOST_HITS)
        with self._present():
            found = self.shown.gallery.search(query_text, num_hits)
            cards = []
            for hit in found.hits:
                caption = hit.captions[0] if hit.captions else hit.name
                facts = " · ".join([f"{self.words['cosine']} {hit.cosine:.3f}", *filter(None, [hit.license])])
                cards.append(
                    f'<figure><img src="{_tile(hit)}" alt="{text(caption)}"><figcaption>'
                    f'<p lang="{text(self.shown.language)}">{text(caption)}</p>'
                    f'<div class="quiet">{hit.rank} · {text(facts)}</div></figcaption></figure>'
                )
        head = self.words["found"].format(shown=len(found.hits), total=f"{found.num_images:,}")
        is_weak = found.num_images > 1 and self._lifts([query_text])[0] <= self.weak
        note = f"<p><strong>{text(self.words['weak'])}</strong></p>" if is_weak else ""
        return (
            f'<div role="status">{note}<p class="quiet">{text(head)}</p></div><div class="cards">{"".join(cards)}</div>'
        )

    def classify(self, picture: Path | None, labels: str) -> str:
        """Return the probabilities of texts for an image, as bars."""
        lines = [line.strip()[:MAX_TEXT] for line in (labels or "").splitlines() if line.strip()]
        with self._used(picture) as path:
            if not 2 <= len(lines) <= MAX_LABELS:
                return said(self.words["need_labels"])
            found = classify(path, lines, self.shown.model)
        rows = [
            f"<div><p><span><bdi>{text(choice.label)}</bdi>"
            f"{' <span class=quiet>(' + text(self.words['cut']) + ')</span>' if choice.is_cut else ''}</span>"
            f'<span>{choice.probability:.1%}</span></p><div class="bar" role="img" '
            f'aria-label="{choice.probability:.1%}"><span style="width:{choice.probability:.2%}"></span></div></div>'
            for choice in found.choices
        ]
        note = self.words["softmax" if found.method == SOFTMAX else "sigmoid"]
        return f'<div class="bars">{"".join(rows)}</div><p class="quiet" role="status">{text(note)}</p>'

    def localize(self, picture: Path | None, wanted: str) -> str:
        """Return an image with the part in red that a text describes."""
        wanted = (wanted or "").strip()[:MAX_TEXT]
        with self._used(picture) as path:
            if not wanted:
                return said(self.words["need_text"])
            found = localize(path, wanted, self.shown.model)
            image = fit_in_box(read_picture(path, SIDE // 2).image, SIDE // 2, SIDE // 2)
        note = f"{self.words['cosine']} {found.cosine:.3f}. {self.words['hot' if found.hottest else 'cold']}"
        if found.is_cut:
            note += f" ({self.words['cut']})"
        return (
            f'<div class="heat"><img src="{inline(heat_overlay(image, found))}" alt="{text(wanted)}">'
            f'<p class="quiet" role="status">{text(note)}</p></div>'
        )

    def samples(
        self,
        words: str,
        source: str,
        split: str,
        outcome: str,
        origin: str,
        score: str,
        at_least: str,
        at_most: str,
        page_number: float,
    ) -> tuple[str, Any]:
        """Return the samples that match, as cards, and their ids to choose from."""
        values: dict[str, Any] = {"source": source, "split": split, "origin": origin}
        conditions = [f"{name} = ${name}" for name, value in values.items() if value]
        if outcome:
            conditions.append("coalesce(drop_reason, outcome) = $outcome")
        for number, word in enumerate((words or "")[:MAX_TEXT].split()[:MOST_WORDS]):
            values[f"word{number}"] = word.lower()
            conditions.append(f"contains(lower(concat_ws(' ', caption, source_caption)), $word{number})")
        if score in SCORES:
            for name, sign, limit in (("least", ">=", at_least), ("most", "<=", at_most)):
                if (limit or "").strip():
                    values[name] = self._number(limit)
                    conditions.append(f"score {sign} ${name}")
        sql = SAMPLES.replace("CONDITIONS", " AND ".join(conditions) or "true").replace(
            "SCORE", score if score in SCORES else SCORES[0]
        )
        number = max(1, int(page_number or 1))
        values |= {"outcome": outcome, "first": (number - 1) * SAMPLES_PER_PAGE}
        with self._present():
            rows = self._rows(sql, values)
            if not rows and number > 1:  # other filters have fewer pages
                first = self._rows(sql, {**values, "first": 0})
                number = -(-first[0]["total"] // SAMPLES_PER_PAGE) if first else 1
                rows = self._rows(sql, {**values, "first": (number - 1) * SAMPLES_PER_PAGE})
            if not rows:
                return said(self.words["no_samples"]), gr.Dropdown(choices=[], value=None)
            wanted = {"ids": [row["image_id"] for row in rows]}
            images = {row["sample_id"]: row["image"] for row in self._rows(IMAGES, wanted)}
        total = rows[0]["total"]
        head = self.words["samples"].format(total=f"{total:,}", page=number, pages=f"{-(-total // SAMPLES_PER_PAGE):,}")
        cards = "".join(self._card(row, images.get(row["image_id"])) for row in rows)
        ids = [row["sample_id"] for row in rows]
        return f'<p class="quiet" role="status">{text(head)}</p><div class="cards">{cards}</div>', gr.Dropdown(
            choices=ids, value=ids[0]
        )

    def _number(self, written: str) -> float:
        try:
            return float(written.replace(",", ".").replace("−", "-"))
        except ValueError as error:
            raise _SaidError(self.words["need_number"]) from error

    def story(self, sample: str | None) -> str:
        """Return what happened to a sample, as `vernaclip why` says it."""
        sample = (sample or "").strip()[:MAX_TEXT]
        if not sample:
            return said(self.words["no_story"])
        assert self.shown.snapshot is not None, "a page without a dataset has no stories"
        with self._present():
            records = find_sample_records(self.shown.snapshot, sample)[:SAMPLES_PER_PAGE]
        if not records:
            return said(self.words["no_story"])
        stories = ["\n".join(record_lines(record, identity=sample)) for record in records]
        return "".join(f'<pre class="story" lang="en">{text(story)}</pre>' for story in stories)

    def keep(self, picture: Path | None) -> str | None:
        """Return an upload as a data URL, which the browser keeps, so that the file can be deleted.

        Raises:
            gr.Error: it cannot be read as an image.
        """
        if picture is None:
            return None
        try:
            return shrunk(picture.read_bytes(), SIDE, quality=95)
        except FileNotFoundError as error:
            raise gr.Error(self.words["gone"], print_exception=False) from error
        except InputError as error:
            reason = f"{self.words['unreadable']} {error}"
            raise gr.Error(text(reason), title=self.words["picture"], print_exception=False) from error
        finally:
            shutil.rmtree(picture.parent, ignore_errors=True)

    @contextmanager
    def _used(self, picture: Path | None) -> Iterator[Path]:
        """Yield the file of an image that a person chose, and delete it.

        Raises:
            _SaidError: there is none, or it cannot be read.
        """
        if picture is None:
            raise _SaidError(self.words["need_picture"])
        try:
            with quiet_decoders():
                read = picture_or_reason(picture.read_bytes(), THUMBNAIL)
            if isinstance(read, str):
                raise _SaidError(self.words["unreadable"], read)
            yield picture
        except FileNotFoundError as error:
            raise _SaidError(self.words["gone"]) from error
        finally:
            shutil.rmtree(picture.parent, ignore_errors=True)

    @contextmanager
    def _present(self) -> Iterator[None]:
        """Refuse an answer from a snapshot that was taken down, before or while the answer was made."""
        if self.shown.snapshot is None or self.shown.root is None:
            yield
            return
        opened = OpenSnapshot(self.shown.root, self.shown.snapshot.folder)
        yield
        opened.require_present()

    def _rows(self, sql: str, values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the rows of a query on the newest snapshot; the parameters that it does not name are left out."""
        assert self.shown.root is not None
        assert self.shown.snapshot is not None
        used = {name: value for name, value in (values or {}).items() if re.search(rf"\${name}\b", sql)}
        with snapshot_queries(require_snapshot(self.shown.root, self.shown.snapshot.dataset)) as ask:
            found: list[dict[str, Any]] = ask(sql, **used).to_pylist()
        return found

    def _card(self, row: Mapping[str, Any], image: bytes | None) -> str:
        parts = [f'<div class="no-image">{text(self.words["no_image"])}</div>']
        if image is not None:
            parts = [f'<img src="{shrunk(image, THUMBNAIL)}" alt="">']
        parts.append(
            f'<p><strong>{text(row["sample_id"])}</strong> <span class="quiet">{text(row["split"] or "")}</span></p>'
        )
        for caption in row["captions"]:
            facts = [caption["drop_reason"] or self.words["kept"], caption["origin"]]
            facts += [] if caption["score"] is None else [f"{caption['score']:.2f}"]
            shown = caption["caption"] or caption["source_caption"]
            parts.append(f'<p>{text(shown)}</p><div class="quiet">{text(" · ".join(filter(None, facts)))}</div>')
        return f"<article>{''.join(parts)}</article>"

    def _safe(self, answer: Callable[..., Any], num_outputs: int = 1) -> Callable[..., Any]:
        """Return a function that answers with a sentence where another raises an error that a person can mend."""

        def answered(*values: Any) -> Any:
            try:
                return answer(*values)
            except _SaidError as error:
                sentence = said(*error.args)
            except PipelineError as error:
                logger.warning("%s", error)
                # Paths of this machine are for its log alone.
                sentence = said(self.words["failed"], "" if os.sep in str(error) else error)
            return sentence if num_outputs == 1 else (sentence, *[gr.skip()] * (num_outputs - 1))

        return answered

    def blocks(self) -> Any:
        """Return the page, for Gradio."""
        words = self.words
        with gr.Blocks(title=words["title"], analytics_enabled=False, fill_width=False) as blocks:
            gr.HTML(f"<h1>{words['title']}</h1><p>{words['intro']}</p>")
            with gr.Tabs():
                if self.shown.gallery is not None:
                    with gr.Tab(words["find"]):
                        self._search_tab(blocks)
                with gr.Tab(words["compare"]):
                    self._picture_tab(blocks, "classify", self.classify, words["texts"], words["labels_hint"])
                with gr.Tab(words["locate"]):
                    self._picture_tab(blocks, "localize", self.localize, words["text"], words["query_hint"])
                if self.shown.snapshot is not None:
                    with gr.Tab(words["browse"]) as tab:
                        self._dataset_tab(tab)
        # One answer at a time: tokenizers are not safe in several threads, torch uses all cores for each, and a decoded
        # image may take much memory.
        blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=1, api_open=False)
        return blocks

    def _search_tab(self, page: Any) -> None:
        words = self.words
        wanted = gr.Textbox(label=words["text"], placeholder=words["query_hint"], max_length=MAX_TEXT, submit_btn=False)
        count = gr.Slider(1, MOST_HITS, value=12, step=1, label=words["num_images"], buttons=[])
        button = gr.Button(words["search"], variant="primary")
        self._text_examples(page, wanted)
        result = gr.HTML()
        gr.on([button.click, wanted.submit], self._safe(self.search), [wanted, count], result, **_lane("search"))

    def _picture_tab(self, page: Any, name: str, answer: Callable[..., str], label: str, hint: str) -> None:
        words = self.words
        with gr.Row():
            with gr.Column():
                picture = picture_input(words["picture"], words["picture_hint"])
                lines = 5 if name == "classify" else 1
                wanted = gr.Textbox(label=label, info=hint, lines=lines, max_length=20_000)
                if lines > 1:
                    page.load(self._labels, None, wanted, **_PRIVATE)
                button = gr.Button(words["compute" if lines > 1 else "show"], variant="primary")
                examples = gr.Dataset(components=["html"], samples=[], label=words["examples_of_texts"], visible=False)
            with gr.Column():
                result = gr.HTML()
        page.load(self._thumbnails, None, examples, **_PRIVATE)
        chosen = [picture] if lines > 1 else [picture, wanted]
        examples.click(partial(self._chosen, len(chosen)), examples, chosen, **_PRIVATE)
        picture.upload(self.keep, picture, picture, show_progress="hidden", **_PRIVATE)
        triggers = [button.click] if lines > 1 else [button.click, wanted.submit]
        gr.on(triggers, self._safe(answer), [picture, wanted], result, **_lane(name))

    def _thumbnails(self) -> Any:
        """Return images to choose from, each followed by what stays here: its sample's id and caption."""
        rows = [(row["sample_id"], row["caption"]) for row in self._examples()]
        images = self._images([sample for sample, _ in rows], THUMBNAIL)
        samples = [
            [f'<img src="{images[sample]}" alt="{text(caption)}">', sample, caption]
            for sample, caption in rows
            if sample in images
        ]
        return gr.Dataset(samples=samples, visible=bool(samples))

    def _chosen(self, num_outputs: int, example: list[str]) -> Any:
        """Return the image of an example, and its caption if there is a field for it; none if it was taken down."""
        _, sample, caption = example
        image = self._images([sample], SIDE).get(sample)
        return image if num_outputs == 1 else (image, caption if image else "")

    def _images(self, samples: list[str], side: int) -> dict[str, str]:
        """Return the images of samples as data URLs, without those that were taken down."""
        try:
            with self._present():
                rows = self._rows(IMAGES, {"ids": samples})
            return {row["sample_id"]: shrunk(row["image"], side, quality=95) for row in rows}
        except PipelineError as error:
            logger.warning("%s", error)
            return {}

    def _labels(self) -> str:
        """Return texts to compare an image with."""
        return "\n".join(self._texts() or self.own.get("labels", ()))

    def _text_examples(self, page: Any, target: Any) -> None:
        """Add texts to choose from, which every load of the page draws anew, and the first of which it enters."""
        examples = gr.Dataset(components=[target], samples=[], label=self.words["examples_of_texts"], visible=False)

        def drawn() -> tuple[str, Any]:
            texts = self._texts()
            return texts[0] if texts else "", gr.Dataset(samples=[[one] for one in texts], visible=bool(texts))

        page.load(drawn, None, [target, examples], **_PRIVATE)
        examples.click(lambda sample: sample[0], examples, target, show_progress="hidden", **_PRIVATE)

    def _dataset_tab(self, tab: Any) -> None:
        words = self.words
        kinds = {name: [row["value"] for row in self._rows(sql)] for name, sql in KINDS.items()}
        shown = {
            name: [(words["all"], ""), *((words["kept"] if value == "kept" else value, value) for value in values)]
            for name, values in kinds.items()
        }
        wanted = gr.Textbox(label=words["words"], max_length=500)
        with gr.Row():
            chosen = [
                gr.Dropdown(shown[name], value="", label=words[name], min_width=150, filterable=False)
                for name in ("source", "split", "outcome", "origin")
            ]
        with gr.Row():
            score = gr.Dropdown(["", *SCORES], value="", label=words["score"], min_width=150, filterable=False)
            least = gr.Textbox(label=words["at_least"], min_width=120, max_length=20)
            most = gr.Textbox(label=words["at_most"], min_width=120, max_length=20)
            number = gr.Number(1, label=words["page_number"], minimum=1, precision=0, min_width=120)
        button = gr.Button(words["show"], variant="primary")
        result = gr.HTML()
        sample = gr.Dropdown([], label=words["sample"], allow_custom_value=True)
        why = gr.Button(words["story"])
        story = gr.HTML()
        inputs = [wanted, *chosen, score, least, most, number]
        gr.on(
            [tab.select, button.click, wanted.submit, number.submit],
            self._safe(self.samples, 2),
            inputs,
            [result, sample],
            **_lane("samples"),
        )
        why.click(self._safe(self.story), sample, story, **_lane("story"))


SAMPLES = f"""
    SELECT sample_id, any_value(split) AS split, any_value(image_id) AS image_id, count(*) OVER () AS total,
           list({{'caption': caption, 'source_caption': source_caption, 'origin': origin, 'drop_reason': drop_reason,
                 'score': score}} ORDER BY caption_id)[:5] AS captions
    FROM (
        SELECT c.*, c.SCORE AS score, p.split, coalesce(c.merged_into, c.sample_id) AS image_id
        FROM captions c LEFT JOIN (SELECT sample_id, split FROM pairs) p
        ON coalesce(c.merged_into, c.sample_id) = p.sample_id
    ) WHERE CONDITIONS GROUP BY sample_id ORDER BY sample_id LIMIT {SAMPLES_PER_PAGE} OFFSET $first
"""
IMAGES = "SELECT sample_id, image.bytes AS image FROM pairs WHERE list_contains($ids, sample_id)"
KINDS = {
    "source": "SELECT DISTINCT source AS value FROM captions ORDER BY 1",
    "split": "SELECT DISTINCT split AS value FROM pairs ORDER BY 1",
    "outcome": "SELECT DISTINCT coalesce(drop_reason, outcome) AS value FROM captions ORDER BY 1",
    "origin": "SELECT DISTINCT origin AS value FROM captions WHERE origin <> '' ORDER BY 1",
}


class _SaidError(Exception):
    """An error whose sentence, the first argument, is in the language of the interface; its reason is in English."""


# The queue that all events share.
_QUEUE: Mapping[str, Any] = {"concurrency_id": "page", "concurrency_limit": 1}
_PRIVATE: Mapping[str, Any] = {**_QUEUE, "api_visibility": "private"}


def _lane(name: str) -> dict[str, Any]:
    """Return the settings of an event that programs may also ask for, by this name."""
    return {**_QUEUE, "api_name": name, "trigger_mode": "once"}


def shrunk(encoded: bytes, side: int, *, quality: int = 85) -> str:
    """Return an encoded image as a data URL, in a square of `side` pixels at most.

    Raises:
        InputError: it cannot be read. The message says why, in a few words.
    """
    with quiet_decoders():
        read = picture_or_reason(encoded, side // 2)
    if isinstance(read, str):
        raise InputError(read)
    image = read.image
    return inline(fit_in_box(image, side, side) if max(image.size) > side else image, quality=quality)


def _tile(hit: Hit) -> str:
    """Return the image of a hit as a data URL."""
    if hit.path is None:
        return shrunk(hit.image, TILE)
    return inline(fit_in_box(read_picture(hit.path, TILE // 2).image, TILE, TILE))


def preferred_language(accepted: str, languages: Collection[str]) -> str:
    """Return the language that a browser asks for with Accept-Language, or English if it asks for none of them."""
    asked = re.findall(r"\b([a-z]{2,3})\b[\w-]*\s*(?:;\s*q=([01](?:\.\d+)?))?", accepted.lower())
    best_first = sorted(asked, key=lambda each: -float(each[1] or 1))
    return next((code for code, _ in best_first if code in languages), FALLBACK)


def theme() -> Any:
    """Return the looks of the page: fonts of the browser's machine, and every text at a contrast of 4.5 or more."""
    fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
    return gr.themes.Default(primary_hue="blue", **fonts).set(
        body_text_color_subdued="*neutral_500",
        input_placeholder_color="*neutral_500",
        block_info_text_color="*neutral_500",
        color_accent="*primary_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


# What the page and its client ask for. Gradio has more, such as a proxy and a monitor.
_PATHS = re.compile(
    r"/(config/?|assets/.+|static/.+|theme\.css|favicon\.ico|manifest\.json|robots\.txt)?"
    r"|/gradio_api/(info/?|upload|upload_progress|startup-events|theme\.css|cancel|reset/?|heartbeat/\w+"
    r"|queue/(join|data)/?|call/.+|run/\w+|app_id/?)"
)
_UPLOAD = "/gradio_api/upload"
_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; media-src 'none'; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; script-src-attr 'none'; "
    "manifest-src 'self'; worker-src 'self' blob:; base-uri 'self'; form-action 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Language",
}


class _Guard:
    """Middleware: refuse what the page does not need, take uploads, and forbid browsers to load from elsewhere.

    It writes the texts of the reader's language into the page.
    """

    def __init__(self, app: Any, *, uploads: Path, texts: Mapping[str, Words], is_loopback: bool) -> None:
        self._app, self._uploads, self._texts, self._is_loopback = app, uploads, texts, is_loopback

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None and (scope["method"], scope["path"]) == ("POST", _UPLOAD):
            refusal = await self._upload(Request(scope, receive))
        await (refusal or self._app)(scope, receive, self._guarded(send, Headers(scope=scope)))

    def _refusal(self, scope: Any) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        # A site whose name resolves to 127.0.0.1 could otherwise read the page (DNS rebinding).
        if self._is_loopback and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return PlainTextResponse("this page is for this machine only\n", status_code=421)
        if not _PATHS.fullmatch(scope["path"]):
            return PlainTextResponse("there is no such page\n", status_code=404)
        if scope["method"] != "POST":
            return None
        # Any site may tell the browser of this machine to send something here, though it cannot read the answer.
        origin = headers.get("origin")
        if self._is_loopback and origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("another site may not use this page\n", status_code=403)
        limit = MAX_UPLOAD_BYTES if scope["path"] == _UPLOAD else MAX_EVENT_BYTES
        length = headers.get("content-length", "")
        # With a transfer coding, the body may have another length than the header says.
        if "transfer-encoding" in headers or not length.isdigit() or int(length) > limit:
            return PlainTextResponse(f"the limit is {limit >> 20} MiB\n", status_code=413)
        return None

    async def _upload(self, request: Request) -> Response:
        """Write one uploaded file into a folder of its own, so that whoever deletes it deletes nobody else's."""
        if sum(size for _, size in _uploads_in(self._uploads)) > MAX_UPLOADS_BYTES:
            return PlainTextResponse("too many uploads: try again later\n", status_code=503)
        try:
            form = await request.form(max_files=1, max_fields=1)
        except (starlette.formparsers.MultiPartException, HTTPException):
            return PlainTextResponse("one file, as a form\n", status_code=400)
        file = form.get("files")
        if not isinstance(file, UploadFile):
            return PlainTextResponse("one file, as a form\n", status_code=400)
        return JSONResponse([str(new_file(await file.read()))])

    def _guarded(self, send: Any, asked: Headers) -> Any:
        """Return a `send` that adds headers and texts, and takes addresses of other hosts out of the page."""
        held: list[Any] = []
        language = preferred_language(asked.get("accept-language", ""), self._texts)

        def written(mark: re.Match[str]) -> str:
            words = str(self._texts[language].get(mark[1], ""))  # none for a mark of strangers
            return json.dumps(words, ensure_ascii=False)[1:-1]

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if headers.get("content-type", "").startswith(("text/html", "application/json")):
                    held.append(message)
                    held.append(b"")
                    return
            elif held:
                held[1] += message.get("body", b"")
                if message.get("more_body"):
                    return
                start, body = held
                headers = MutableHeaders(scope=start)
                page = body.decode("utf-8")
                if headers["content-type"].startswith("text/html"):
                    page = re.sub(r"<meta\s[^>]*(?:og:|twitter:|https?://)[^>]*>", "", page)
                    # Gradio's script sets the language of <html> to that of the browser.
                    page = re.sub(r'<(html|body)\b(\s+lang="en")?', rf'<\1 lang="{language}"', page)
                page = re.sub(f"{MARK}(\\w+){MARK}", written, page)
                message = {"type": "http.response.body", "body": page.encode("utf-8")}
                if int(headers.get("content-length", "0")):  # none for HEAD
                    headers["content-length"] = str(len(message["body"]))
                held.clear()
                await send(start)
            await send(message)

        return guarded


def is_loopback(host: str) -> bool:
    """Return whether an address or name is one of this machine's own, which others do not reach."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _uploads_in(folder: Path) -> list[tuple[float, int]]:
    """Return the time and the bytes of each upload that is still there."""
    found = []
    for path in folder.glob("*/image"):
        with suppress(FileNotFoundError):  # it has just been used
            about = path.stat()
            found.append((about.st_mtime, about.st_size))
    return found


@contextmanager
def _deleting_old_uploads(folder: Path) -> Iterator[None]:
    """Delete uploads that nobody uses, in a thread, `KEPT_S` seconds after they came."""
    is_over = threading.Event()

    def delete() -> None:
        while not is_over.wait(KEPT_S / 20):
            for upload in folder.iterdir():
                with suppress(FileNotFoundError):  # it has just been used
                    if upload.stat().st_mtime < time.time() - KEPT_S:
                        shutil.rmtree(upload, ignore_errors=True)

    thread = threading.Thread(target=delete, name="old uploads", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def free_port(host: str, port: int | None) -> int:
    """Return the port, or by default the first free one from `PORT` on.

    Raises:
        SettingsError: nothing on this machine can listen at the address.
        BusyError: the port, or all that are tried, are taken.
    """
    tried = range(PORT, PORT + NUM_PORTS) if port is None else [port]
    for each in tried:
        try:
            family = socket.getaddrinfo(host, each, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, each))
            return each
        except (socket.gaierror, UnicodeError) as error:
            raise SettingsError(f"--host {host} is no address that this machine knows") from error
        except PermissionError as error:
            raise SettingsError(f"port {each} is for administrators: choose one above 1023 with --port") from error
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise SettingsError(f"--host {host} is not an address of this machine ({error.strerror})") from error
    raise BusyError(f"port {tried[0]} of {host} is taken: choose another one with --port")


@contextmanager
def served(shown: Shown, *, host: str = LOOPBACK, port: int | None = None) -> Iterator[str]:
    """Serve a page, and yield its address. Uploads are in a private folder that is removed at the end.

    Args:
        shown: what the page shows.
        host: address to listen on. Loopback addresses answer this machine only.
        port: port to listen on. None takes 7860 or the next free one.

    Raises:
        SettingsError: nothing can listen at this address.
        BusyError: the port is taken.
    """
    host = host.strip("[]")
    chosen = free_port(host, port)
    # Gradio asks its own server at the start; a proxy of the environment must not hear of it.
    direct = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "", LOOPBACK, "localhost", "::1", host]
    changed = {"GRADIO_ANALYTICS_ENABLED": "False", "no_proxy": ",".join(filter(None, direct))}
    with tempfile.TemporaryDirectory(prefix="vernaclip-demo-") as folder, _environment(changed, folder) as uploads:
        page = Page(shown)
        guard = Middleware(_Guard, uploads=uploads, texts=page.texts, is_loopback=is_loopback(host))
        blocks = page.blocks()
        try:
            _, url, _ = blocks.launch(
                server_name=f"[{host}]" if ":" in host else host,
                server_port=chosen,
                share=False,
                inline=False,
                quiet=True,
                prevent_thread_lock=True,
                show_error=False,
                max_file_size=MAX_UPLOAD_BYTES,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                num_workers=0,
                app_kwargs={"middleware": [guard], "docs_url": None, "redoc_url": None},
                theme=theme(),
                css=(PAGES / "demo.css").read_text(encoding="utf-8"),
            )
        except OSError as error:  # somebody was faster
            raise BusyError(f"port {chosen} of {host} is taken: choose another one with --port") from error
        try:
            with _deleting_old_uploads(uploads):
                yield url
        finally:
            blocks.close(verbose=False)


@contextmanager
def _environment(changed: Mapping[str, str], folder: str) -> Iterator[Path]:
    """Set variables, with the folder of uploads, which is yielded, and without the user's own ones of Gradio."""
    before = {name: os.environ[name] for name in os.environ if name.startswith("GRADIO_") or name in changed}
    own = {**changed, "GRADIO_TEMP_DIR": os.path.realpath(folder)}
    for name in before:
        del os.environ[name]
    os.environ |= own
    try:
        yield Path(own["GRADIO_TEMP_DIR"])
    finally:
        for name in own:
            os.environ.pop(name, None)
        os.environ |= before


def serve(shown: Shown, say: Callable[[str], object], *, host: str = LOOPBACK, port: int | None = None) -> None:
    """Serve a page until Ctrl-C or SIGTERM. Arguments and errors are those of `served`; `say` gets one line."""
    with interrupted_by_sigterm(), suppress(KeyboardInterrupt), served(shown, host=host, port=port) as url:
        say(f"The page is at {url}")
        threading.Event().wait()
