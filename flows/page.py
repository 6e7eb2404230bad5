"""The page of `vernaclip demo`, in Gradio: text to image, image to text, and localization."""

import base64
import io
import os
import socket
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, PipelineError, SettingsError
from training.data.images import read_picture
from training.towers.model import LoadedModel
from training.use.classify import classify
from training.use.localize import localize
from training.use.pictures import fit_in_box, heat_overlay, image_of
from training.use.search import Gallery
from translation.engines.services import is_loopback

PAGES = Path(__file__).parent / "pages"
MAX_UPLOAD_BYTES, MAX_EVENT_BYTES, MAX_UPLOADS_BYTES, KEPT_S = 20 << 20, 1 << 20, 500 << 20, 600.0
MAX_TEXT, MAX_LABELS, MOST_HITS, SIDE = 2000, 100, 48, 448
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; script-src-attr 'none'; base-uri 'self'; form-action 'none'"
)
Words = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the page shows; `require_present` raises an error once images of the gallery were taken down."""

    model: LoadedModel
    gallery: Gallery | None = None
    require_present: Callable[[], object] = bool

    def _search(self, gallery: Gallery, words: Words, text: Any, count: Any) -> str:
        found = gallery.search(_text(words, text), min(max(1, int(count or 1)), MOST_HITS))
        tiles = [
            f"<figure>{_html(image_of(hit, SIDE))}<figcaption>{escape((hit.captions or (hit.name,))[0])}<br>"
            f"{words['cosine']} {hit.cosine:.3f} {escape(hit.license or '')}</figcaption></figure>"
            for hit in found.hits
        ]
        head = words["found"].format(shown=len(tiles), total=f"{found.num_images:,}")
        return f'<p role="status">{head}</p><div class="cards">{"".join(tiles)}</div>'

    def _classify(self, words: Words, picture: Any, texts: Any) -> tuple[dict[str, float], str]:
        lines = [line.strip()[:MAX_TEXT] for line in str(texts or "").splitlines() if line.strip()]
        if not 2 <= len(lines) <= MAX_LABELS:
            raise InputError(words["need"])
        found, cut = classify(_picture(words, picture), lines, self.model), f" ({words['cut']})"
        return {each.label + cut * each.is_cut: each.probability for each in found.choices}, words[found.method]

    def _localize(self, words: Words, picture: Any, text: Any) -> tuple[str, str]:
        path = _picture(words, picture)
        found = localize(path, _text(words, text), self.model)
        image = heat_overlay(fit_in_box(read_picture(path, SIDE).image, SIDE), found)
        note = f"{words['cosine']} {found.cosine:.3f}. {words['hot' if found.hottest else 'cold']}"
        return _html(image), note + f" ({words['cut']})" * found.is_cut

    def blocks(self, texts: Mapping[str, Words], t: gr.I18n) -> gr.Blocks:
        """Return the page, for Gradio; `texts` are those of `t`, by language."""
        lock = threading.Lock()  # tokenizers are not safe in threads, and images take memory

        def on(name: str, events: list[Any], function: Callable[..., Any], inputs: list[Any], outputs: Any) -> None:
            def answer(request: gr.Request, *values: Any) -> Any:
                words = texts.get(request.headers.get("accept-language", "")[:2].lower(), texts["en"])
                try:
                    with lock:
                        found = function(words, *values)
                        self.require_present()
                        return found
                except PipelineError as error:
                    reason = escape(str(error).rpartition(os.sep)[2], quote=False)  # no paths of this machine
                    raise gr.Error(f"{words['failed']} {reason}", print_exception=False) from error

            gr.on(events, answer, inputs, outputs, api_name=name, preprocess=False)

        with gr.Blocks(title="vernaclip", analytics_enabled=False, delete_cache=(KEPT_S / 10, KEPT_S)) as page:
            gr.Markdown(t("intro"))
            if self.gallery is not None:
                with gr.Tab(t("search")):
                    text = gr.Textbox(label=t("text"))
                    count = gr.Slider(1, MOST_HITS, 12, step=1, label=t("num_images"), buttons=[])
                    button, tiles = gr.Button(t("search"), variant="primary"), gr.HTML()
                on("search", [button.click, text.submit], partial(self._search, self.gallery), [text, count], tiles)
            for name, label, function in (("classify", "texts", self._classify), ("localize", "text", self._localize)):
                with gr.Tab(t(name)), gr.Row():
                    with gr.Column():
                        picture = gr.Image(label=t("picture"), sources=["upload"], buttons=[], height=320)
                        text = gr.Textbox(label=t(label), lines=5 if label == "texts" else 1)
                        button = gr.Button(t(name), variant="primary")
                    with gr.Column():
                        result = [gr.Label(show_label=False) if label == "texts" else gr.HTML(), gr.HTML()]
                on(name, [button.click], function, [picture, text], result)
        return page.queue(max_size=256, api_open=False)


def _text(words: Words, given: Any) -> str:
    if not str(given or "").strip():
        raise InputError(words["need"])
    return str(given).strip()[:MAX_TEXT]


def _picture(words: Words, given: Any) -> Path:
    """Return an upload, for a request may name any path; Gradio does not decode it, but only our decoder."""
    path = Path(str(given["path"])).resolve() if isinstance(given, dict) and given.get("path") else Path()
    if not path.is_relative_to(os.environ["GRADIO_TEMP_DIR"]) or not path.is_file():
        raise InputError(words["need_picture"])
    return path


def _html(image: Any) -> str:
    """Return an image within HTML; Gradio would keep it in a file, also after a take-down."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode("ascii")}" alt="">'


async def _guard(request: Request, call_next: Callable[[Request], Any], *, host: str) -> Response:
    """Refuse what is too long or of another site, if `host` is of this machine; let browsers load nothing foreign."""
    headers, status, is_upload = request.headers, 0, request.url.path == "/gradio_api/upload"
    asked, origin, length = (headers.get(name, "") for name in ("host", "origin", "content-length"))
    # A site whose name resolves to this machine could read the page (DNS rebinding).
    if host and not is_loopback(f"http://{asked}") and asked.rpartition(":")[0] != host:
        status = 421
    elif request.method == "POST":
        limit, kept = MAX_UPLOAD_BYTES if is_upload else MAX_EVENT_BYTES, Path(os.environ["GRADIO_TEMP_DIR"])
        if is_upload and sum(each.lstat().st_size for each in kept.rglob("*")) > MAX_UPLOADS_BYTES:
            status = 503
        if "transfer-encoding" in headers or not length.isdigit() or int(length) > limit:  # the body may be longer
            status = 413
        if host and origin and origin.partition("//")[2] != asked:
            status = 403
    response = PlainTextResponse("refused\n", status) if status else await call_next(request)
    response.headers.update({"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"})
    return response


@contextmanager
def served(page: Page, language: str, *, host: str, port: int | None) -> Iterator[str]:
    """Serve a page, and yield its address; without a port that is 7860 or the next free one."""
    texts = tomllib.loads((PAGES / "demo.toml").read_text(encoding="utf-8").replace("LANGUAGE", language or "?"))
    by_reader = {code: {key: text[code] for key, text in texts.items()} for code in texts["search"]}
    host, family = (f"[{host.strip('[]')}]", socket.AF_INET6) if ":" in host else (host, socket.AF_INET)
    with about(f"this machine cannot listen at --host {host}, --port {port}", kind=SettingsError):
        socket.create_server((host.strip("[]"), port or 0), family=family).close()  # Gradio would try for minutes
    own = host if host.startswith("127.") or is_loopback(f"http://{host}") else ""
    guard = Middleware(BaseHTTPMiddleware, dispatch=partial(_guard, host=own))
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:  # they could open folders to everybody
        del os.environ[name]
    gr.processing_utils.async_ssrf_protected_download = None  # a request may name an address in place of a file
    with TemporaryDirectory(prefix="vernaclip-demo-") as folder:
        # Gradio asks its own server at the start; a proxy of the environment must not hear of it.
        os.environ |= {"GRADIO_TEMP_DIR": os.path.realpath(folder), "GRADIO_ANALYTICS_ENABLED": "0", "no_proxy": "*"}
        i18n = gr.I18n(**by_reader)
        blocks = page.blocks(by_reader, i18n)
        options = {"server_name": host, "server_port": port, "i18n": i18n, "app_kwargs": {"middleware": [guard]}}
        options |= {"css_paths": PAGES / "demo.css", "run_history": False, "footer_links": [], "quiet": True}
        try:
            _, url, _ = blocks.launch(prevent_thread_lock=True, max_file_size=MAX_UPLOAD_BYTES, **options)
            yield url
        finally:
            blocks.close(verbose=False)
