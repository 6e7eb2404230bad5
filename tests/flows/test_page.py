"""The page of `vernaclip demo`, over HTTP: right answers, nothing of strangers but text, and no upload left."""

import asyncio
import base64
import gc
import html
import io
import json
import os
import re
import sys
import time
import tomllib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import numpy as np
import pytest
from PIL import Image

from data_catalog.base.errors import SettingsError
from data_catalog.catalog.duckdb_file import rebuild
from data_catalog.catalog.manifest import require_snapshot
from data_catalog.catalog.query import query
from data_catalog.disk.barrier import OpenSnapshot
from data_catalog.publish.takedown import forget
from data_catalog.publish.tombstones import new_tombstone
from training.towers.model import LoadedModel
from training.towers.preprocessing import Preprocessing
from training.use.search import folder_gallery
from translation.memory import forget_texts

if find_spec("gradio") is None:
    pytest.skip("Gradio is not installed: the extra dev has it", allow_module_level=True)


pytestmark = pytest.mark.filterwarnings("ignore")  # Gradio's dependencies warn of one another
MAX_UPLOAD_BYTES = 20 << 20
HOSTILE = "<img src=x onerror=alert(1)> ${alert(2)} {{alert 3}} **bold** rosso"
COLOURS = {"rosso": (200, 0, 0), "verde": (0, 200, 0), "blu": (0, 0, 200), "grigio": (120, 120, 120)}


@pytest.fixture(scope="module", autouse=True)
def _open_loops_are_collected_here() -> Iterator[None]:
    """Gradio and its client leave event loops open, whose warnings would end a later test of another module."""
    yield
    asyncio.set_event_loop(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            gc.collect()


@pytest.fixture(scope="module")
def colours() -> LoadedModel:
    """A model that sees the mean colour of an image, and reads the names of colours."""
    import torch

    class Colours(torch.nn.Module):
        logit_scale, logit_bias = torch.tensor(3.0), None

        def encode_image(self, images: torch.Tensor) -> torch.Tensor:
            mean, std = (torch.tensor(getattr(Preprocessing(size=64), name)) for name in ("mean", "std"))
            return images.mean(dim=(2, 3)) * std + mean + 1e-6

        def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.tensor(list(COLOURS.values())).float()[ids[:, 0]]

    class Tokenizer:
        context_length = 99

        def __call__(self, texts: Sequence[str]) -> torch.Tensor:
            named = [[name for name in COLOURS if name in text] for text in texts]
            return torch.tensor([[list(COLOURS).index(names[0]) if names else 3] for names in named])

        def too_long(self, texts: Sequence[str]) -> list[str]:
            return []

    tokenizer: Any = Tokenizer()
    return LoadedModel(module=Colours(), tokenizer=tokenizer, preprocessing=Preprocessing(size=64), sha256="0" * 64)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of each colour; the red one has a name that is HTML."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in COLOURS.items():
        Image.new("RGB", (80, 60), colour).save(folder / f"{name}.png")
    (folder / "rosso.png").rename(folder / f"{HOSTILE}.png")
    return folder


@pytest.fixture(scope="module")
def flag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey, with a red square at the right below."""
    image = Image.new("RGB", (256, 128), COLOURS["grigio"])
    image.paste(COLOURS["rosso"], (192, 80, 232, 108))
    path = tmp_path_factory.mktemp("flag") / "flag.png"
    image.save(path)
    return path


@pytest.fixture(scope="module")
def url(colours: LoadedModel, pictures: Path) -> Iterator[str]:
    with served(model=colours, gallery=folder_gallery(pictures, colours)) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Any:
    return reader(url, "it-IT,it;q=0.9,en;q=0.8")


# Gradio takes seconds to load: only the process that runs these tests pays them, and none that collects.
@contextmanager
def served(language: str = "it", host: str = "127.0.0.1", port: int | None = None, **shown: Any) -> Iterator[str]:
    from flows.page import Page, served

    with mock.patch.dict(os.environ), served(Page(**shown), language, host=host, port=port) as address:
        yield address


def handle_file(path: Path) -> Any:
    from gradio_client import handle_file

    return handle_file(path)


def reader(url: str, accepted: str = "") -> Any:
    """Return a program that asks as a browser does whose reader prefers these languages."""
    from gradio_client import Client

    return Client(url, verbose=False, analytics_enabled=False, headers={"Accept-Language": accepted})


def refusal_of(client: Any, *values: Any, api_name: str) -> str:
    """Return the sentence in which a browser is told that there is no answer."""
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as told:
        client.predict(*values, api_name=api_name)
    return html.unescape(str(told.value))


def texts_of(answer: str) -> str:
    """Return what a browser shows of HTML."""
    return html.unescape(re.sub(r"<[^>]*>", " ", answer))


def uploads() -> list[Path]:
    return [path for path in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("accepted", "language", "intro"),
    [
        ("de-AT,de;q=0.9,en;q=0.8", "de", "Sprache des Modells: it."),
        ("it", "it", "Lingua del modello: it."),
        ("q=9.9.9,*,,de-;q=", "en", "Language of the model: it."),
    ],
)
def test_the_page_speaks_the_language_of_its_reader(url: str, accepted: str, language: str, intro: str) -> None:
    config = httpx.get(f"{url}config").text
    words = json.loads(config)["i18n_translations"][language]
    named = set(re.findall(r"translation_metadata\W+key\W+(\w+)", config))
    assert {"intro", "search", "classify", "localize"} <= named <= words.keys()
    assert intro in words["intro"]
    assert f"{words['cosine']} 1.000" in texts_of(reader(url, accepted).predict("rosso", 1, api_name="/search"))


def test_a_search_shows_names_as_text(client: Any) -> None:
    answer = client.predict("un quadrato rosso", 2, api_name="/search")
    assert answer.count("<img ") == answer.count('<img src="data:image/jpeg;base64,') == 2
    names = re.findall(r"<figcaption>(.*?)<br>", answer)
    assert [html.unescape(name) for name in names] == [f"{HOSTILE}.png", "grigio.png"]
    assert "<" not in names[0]
    assert "Inserisci un testo" in refusal_of(client, " ", 2, api_name="/search")


def test_an_image_is_described_by_the_nearest_text(client: Any, pictures: Path) -> None:
    image = handle_file(pictures / "verde.png")
    found, note = client.predict(image, f"un prato verde\n{HOSTILE}\nblu", api_name="/classify")
    best = found["confidences"][0]
    assert (found["label"], best["label"]) == ("un prato verde", "un prato verde")
    assert best["confidence"] > 0.9
    assert {choice["label"] for choice in found["confidences"]} == {"un prato verde", HOSTILE, "blu"}
    assert "solo" in note
    for labels in ("uno", "\n".join(map(str, range(1000)))):
        assert "da 2 a 100 testi" in refusal_of(client, image, labels, api_name="/classify")
    assert "Scegli un'immagine" in refusal_of(client, None, "uno\ndue", api_name="/classify")
    assert "as the same text" in refusal_of(client, image, "blu\nblu", api_name="/classify")


def test_the_red_part_is_where_the_text_is(client: Any, flag: Path) -> None:
    heat, note = client.predict(handle_file(flag), "rosso", api_name="/localize")
    shown = base64.b64decode(heat.partition("base64,")[2].partition('"')[0])
    pixels = np.asarray(Image.open(io.BytesIO(shown)).convert("RGB"), dtype=float)
    redness = pixels[..., 0] - pixels[..., 2]
    row, column = np.argwhere(redness > 0.9 * redness.max()).mean(axis=0)
    height, width = redness.shape
    assert 192 / 256 <= column / width <= 232 / 256
    assert 80 / 128 <= row / height <= 108 / 128
    assert "coseno" in note


def test_a_damaged_image_gets_a_sentence(client: Any, tmp_path: Path) -> None:
    for content in (b"", b"\x89PNG\r\n\x1a\n" + b"0" * 50, b"<svg onload=alert(1)></svg>", b"%!PS-Adobe EPSF"):
        (tmp_path / "image.png").write_bytes(content)
        told = refusal_of(client, handle_file(tmp_path / "image.png"), "rosso\nblu", api_name="/classify")
        assert "Non c'è risposta: image.png cannot be read as an image: " in told
        assert os.sep not in told


def test_the_page_names_no_other_host_and_forbids_to_load_from_one(url: str) -> None:
    answer = httpx.get(url)
    assert re.findall(r"""<(?:script|link)\s[^>]*(?:src|href)=["']?(?:https?:)?//(?!127\.0\.0\.1)""", answer.text) == []
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "http" not in policy
    assert "*" not in policy
    assert httpx.get(f"{url}config").headers["content-security-policy"] == policy
    assert "fonts.googleapis" not in httpx.get(f"{url}theme.css").text


def test_the_server_asks_no_other_host(colours: LoadedModel, pictures: Path, flag: Path) -> None:
    reached: list[object] = []
    listens = True

    def listen(event: str, given: tuple[Any, ...]) -> None:
        if listens and event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
            address = given[0] if event == "socket.getaddrinfo" else given[1]
            reached.append(address[0] if isinstance(address, tuple) else address)

    sys.addaudithook(listen)
    with served(model=colours, gallery=folder_gallery(pictures, colours)) as address:
        own = reader(address)
        assert "grigio.png" in own.predict("grigio", 1, api_name="/search")
        assert own.predict(handle_file(flag), "rosso", api_name="/localize")
        for name in ("search", "localize"):
            file = {"path": "http://example.com/x.png", "meta": {"_type": "gradio.FileData"}}
            assert "event: error" in event_of(address, name, [file, 1 if name == "search" else "rosso"])
    listens = False
    assert set(reached) == {"127.0.0.1"}


def event_of(address: str, name: str, data: list[object]) -> str:
    """Return what a program gets that asks with any data."""
    begun = httpx.post(f"{address}gradio_api/call/{name}", json={"data": data}).json()
    return httpx.get(f"{address}gradio_api/call/{name}/{begun['event_id']}", timeout=60).text


def test_nothing_is_served_that_the_page_does_not_need(url: str) -> None:
    for path in ("proxy=https://example.com", "file=/etc/passwd", "file=https://example.com"):
        assert httpx.get(f"{url}gradio_api/{path}").status_code in (400, 403, 404), path
    assert httpx.get(url, headers={"host": "evil.example"}).status_code == 421
    before, own = uploads(), url.rstrip("/")
    file = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n%b\r\n--x--\r\n'
    large = file % (b"0" * (MAX_UPLOAD_BYTES + 1))
    form = {"content-type": "multipart/form-data; boundary=x"}
    both = {**form, "content-length": "9", "transfer-encoding": "chunked"}
    for path, content, headers in (
        ("upload", large, form),
        ("upload", iter([large]), both),
        ("call/search", iter([b"{}"]), {}),  # its length is not said
        ("call/search", json.dumps({"data": ["rosso" * 1_000_000, 1]}).encode(), {}),
    ):
        assert httpx.post(f"{url}gradio_api/{path}", content=content, headers=headers).status_code == 413
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):  # another site, in this machine's browser
        answer = httpx.post(f"{url}gradio_api/upload", files={"files": b"0"}, headers={"origin": origin})
        assert answer.status_code == 403, origin
    assert uploads() == before
    answer = httpx.post(f"{url}gradio_api/upload", files={"files": b"0"}, headers={"origin": own})
    assert [path for path in uploads() if path not in before] == [Path(answer.json()[0])]


@pytest.mark.parametrize("path", ["{photo}", "{photo}/../gone.jpg", "http://127.0.0.1:1/x.png"])
@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {}])
def test_only_an_upload_is_taken_for_an_image(url: str, path: str, meta: dict[str, object], tmp_path: Path) -> None:
    """Gradio looks only at paths that are marked as files."""
    photo, before = tmp_path / "photo.jpg", uploads()
    Image.new("RGB", (9, 9)).save(photo)
    given = {"path": path.format(photo=photo), **meta}
    assert "event: error" in event_of(url, "localize", [given, "rosso"])
    event_of(url, "search", [given, 1])
    assert uploads() == before, "a text field takes no file"


def test_uploads_go_after_a_while_and_with_the_page_and_their_number_is_limited(
    colours: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.page.KEPT_S", 2.0)
    monkeypatch.setattr("flows.page.MAX_UPLOADS_BYTES", 350_000)
    with served(model=colours, language="el") as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        files = [{"files": bytes([number]) * 100_000} for number in range(6)]
        codes = [httpx.post(f"{address}gradio_api/upload", files=file).status_code for file in files[:5]]
        assert codes == [200, 200, 200, 200, 503]
        deadline = time.monotonic() + 20
        while uploads() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not uploads()
        assert httpx.post(f"{address}gradio_api/upload", files=files[5]).status_code == 200
    assert not folder.exists()


def test_the_page_is_served_where_it_is_told(
    colours: LoadedModel, monkeypatch: pytest.MonkeyPatch, free_port: int, tmp_path: Path
) -> None:
    theirs = {"GRADIO_ALLOWED_PATHS": "/", "GRADIO_SERVER_PORT": "9", "GRADIO_TEMP_DIR": f"{tmp_path}/theirs"}
    for name, value in (theirs | {"HTTP_PROXY": "http://127.0.0.1:9"}).items():  # where nobody listens
        monkeypatch.setenv(name, value)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with served(model=colours, language="", host="127.0.0.2", port=free_port) as address:
        assert address == f"http://127.0.0.2:{free_port}/"
        with httpx.Client(trust_env=False) as client:
            assert "Language of the model: ?" in client.get(f"{address}config").text
            assert client.get(address, headers={"host": "evil.example"}).status_code == 421
            assert client.get(f"{address}gradio_api/file=/etc/hostname").status_code == 403
        for host, port, said in (
            ("127.0.0.2", free_port, f"--port {free_port}: .*in use"),
            ("192.0.2.1", None, "cannot listen at --host 192.0.2.1"),
        ):
            taken = served(model=colours, language="it", host=host, port=port)
            with pytest.raises(SettingsError, match=said), taken:
                pass


def test_the_texts_of_all_languages_are_there_and_have_the_same_places() -> None:
    from flows.page import PAGES

    for key, texts in tomllib.loads((PAGES / "demo.toml").read_text("utf-8")).items():
        assert texts.keys() == {"en", "it", "de"}, key
        assert len({tuple(sorted(re.findall(r"{(\w+)}|(LANGUAGE)", text))) for text in texts.values()}) == 1, key


def test_nothing_is_answered_after_a_take_down(colours: LoadedModel, pictures: Path, copied: Path) -> None:
    rebuild(copied)
    opened = OpenSnapshot(copied, require_snapshot(copied, "scenes").folder)
    gallery = folder_gallery(pictures, colours)
    with served(model=colours, gallery=gallery, require_present=opened.require_present) as address:
        assert "event: complete" in event_of(address, "search", ["rosso", 1])
        assert not uploads(), "Gradio keeps no picture that it has shown"
        (sample,) = query(copied, "SELECT min(sample_id) AS id FROM pairs").to_pylist()
        forget(copied, [new_tombstone("sample", sample["id"])], forget_texts=forget_texts)
        assert "event: error" in event_of(address, "search", ["rosso", 1])
