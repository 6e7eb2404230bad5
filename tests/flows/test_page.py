"""The page of `vernaclip demo`, over HTTP: right answers, nothing of strangers but text, and no upload left."""

import asyncio
import gc
import html
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data_catalog.base.errors import SettingsError
from data_catalog.catalog.duckdb_file import rebuild
from data_catalog.catalog.manifest import Snapshot, require_snapshot
from data_catalog.catalog.query import query
from data_catalog.publish.takedown import forget
from data_catalog.publish.tombstones import new_tombstone
from flows.recipe.language_packs import available_language_packs
from training.scores.encoders import open_open_clip
from training.towers.model import LoadedModel, create_model, save_weights, write_model_config
from training.towers.preprocessing import Preprocessing
from training.towers.tokenizer import copy_tokenizer
from training.towers.weights import save_encoder_config
from training.use.search import folder_gallery
from translation.memory import forget_texts

if find_spec("gradio") is None:
    pytest.skip("Gradio is not installed: the extra dev has it", allow_module_level=True)


pytestmark = pytest.mark.filterwarnings("ignore")  # Gradio's dependencies warn of one another
MAX_UPLOAD_BYTES = 20 << 20
HOSTILE = "<img src=x onerror=alert(1)> ${alert(2)} {{alert 3}} **bold** rosso"
COLOURS = {"rosso": (200, 0, 0), "verde": (0, 200, 0), "blu": (0, 0, 200), "grigio": (120, 120, 120)}
EVERY = ("", "", "", "", "", "translation_score", "", "", 1)  # the filters of the dataset, which let all pass


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
def root(built: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(built[0])


@pytest.fixture(scope="module")
def url(colours: LoadedModel, pictures: Path, root: Path) -> Iterator[str]:
    name = next(iter(query(root, "FROM builds").to_pylist()))["dataset"]
    gallery = folder_gallery(pictures, colours)
    snapshot = require_snapshot(root, name)
    with served(model=colours, language="it", gallery=gallery, dataset=(root, snapshot)) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Any:
    return reader(url, "it-IT,it;q=0.9,en;q=0.8")


# Gradio takes seconds to load: only the process that runs these tests pays them, and none that collects.
@contextmanager
def served(
    host: str = "127.0.0.1", port: int | None = None, dataset: tuple[Path, Snapshot] | None = None, **shown: Any
) -> Iterator[str]:
    from flows.page import Shown, ShownDataset, served

    of_root = None if dataset is None else ShownDataset(root=dataset[0], snapshot=dataset[1])
    with served(Shown(dataset=of_root, **shown), host=host, port=port) as address:
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
        ("de-AT,de;q=0.9,en;q=0.8", "de", "in Italienisch"),
        ("it", "it", "in italiano"),
        ("q=9.9.9,*,,de-;q=", "en", "Write to the model in Italian."),
    ],
)
def test_the_page_speaks_the_language_of_its_reader(url: str, accepted: str, language: str, intro: str) -> None:
    config = httpx.get(f"{url}config").text
    words = json.loads(config)["i18n_translations"][language]
    named = set(re.findall(r"translation_metadata\W+key\W+(\w+)", config))
    assert {"title", "find", "all", "kept"} <= named <= words.keys()
    assert intro in words["intro"]
    found = texts_of(reader(url, accepted).predict("rosso", 1, api_name="/search"))
    assert f"{words['cosine']} 1.000" in found


def test_a_search_shows_names_as_text_and_says_that_a_match_is_weak(client: Any) -> None:
    """The model takes any text without a colour's name for grey, as it takes random letters."""
    answer = client.predict("un quadrato rosso", 2, api_name="/search")
    assert answer.count("<img ") == answer.count('<img src="data:image/jpeg;base64,') == 2
    first, second = re.findall(r'<figcaption><p lang="it">(.*?)</p>', answer)
    assert (html.unescape(first), html.unescape(second)) == (f"{HOSTILE}.png", "grigio.png")
    assert "<" not in first
    assert "coseno 1.000" in texts_of(answer)
    assert "debole" not in answer
    assert texts_of(client.predict("un dinosauro", 2, api_name="/search")).strip().startswith("Risultato debole: ")
    assert "Inserisci un testo." in refusal_of(client, " ", 2, api_name="/search")


def test_an_image_is_described_by_the_nearest_text(client: Any, pictures: Path) -> None:
    image = handle_file(pictures / "verde.png")
    found, note = client.predict(image, f"un prato verde\n{HOSTILE}\nblu", api_name="/classify")
    best = found["confidences"][0]
    assert (found["label"], best["label"]) == ("un prato verde", "un prato verde")
    assert best["confidence"] > 0.9
    assert {choice["label"] for choice in found["confidences"]} == {"un prato verde", HOSTILE, "blu"}
    assert "solo" in note
    for labels in ("uno", "\n".join(map(str, range(1000)))):
        assert "Inserisci da 2 a 100 testi" in refusal_of(client, image, labels, api_name="/classify")
    assert "Scegli prima" in refusal_of(client, None, "uno\ndue", api_name="/classify")
    assert "as the same text" in refusal_of(client, image, "blu\nblu", api_name="/classify")


def test_the_red_part_is_where_the_text_is(client: Any, flag: Path) -> None:
    heat, note = client.predict(handle_file(flag), "rosso", api_name="/localize")
    pixels = np.asarray(Image.open(heat).convert("RGB"), dtype=float)
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
        assert "L'immagine non si può leggere: scegli un altro file." in told
        assert os.sep not in told


def test_the_dataset_is_filtered_and_every_sample_has_its_story(client: Any, root: Path) -> None:
    row = query(root, "SELECT * FROM captions WHERE outcome = 'kept' ORDER BY sample_id LIMIT 1").to_pylist()[0]
    word = max(row["caption"].split(), key=len).strip(".,").lower()
    assert client.predict(*EVERY, api_name="/samples")[0].count("<article>") == 12, "the tab that is opened is full"
    sql = (
        "SELECT DISTINCT sample_id FROM captions WHERE contains(lower(concat_ws(' ', caption, source_caption)), $word)"
    )
    matching = query(root, f"{sql} ORDER BY 1", {"word": word}).to_pydict()["sample_id"]
    answer, ids = client.predict(word, *EVERY[1:], api_name="/samples")
    assert f"{len(matching):,} campioni; pagina 1" in answer
    assert [choice[0] for choice in ids["choices"]] == matching[:12]
    last = -(-len(matching) // 12)
    beyond = client.predict(word, *EVERY[1:8], 1 + last, api_name="/samples")[0]
    assert f"pagina {last} di {last}" in beyond, "the page number of other filters stays in its field"
    dropped = query(root, "SELECT any_value(drop_reason) AS r FROM rejects").to_pylist()[0]["r"]
    answer, ids = client.predict(*EVERY[:3], dropped, *EVERY[4:], api_name="/samples")
    assert dropped in answer
    assert "Nessun campione" in client.predict(*EVERY[:6], "5", "", 1, api_name="/samples")[0]
    assert "un numero" in refusal_of(client, *EVERY[:6], "cinque", "", 1, api_name="/samples")
    story = texts_of(client.predict(ids["value"], api_name="/story"))
    assert f"REJECTED, {dropped}" in story
    assert "non esiste" in refusal_of(client, "'; DROP TABLE captions", api_name="/story")


def reloaded(address: str) -> str:
    """Return all that a browser gets that opens the page and presses what needs no entry."""
    answers = [httpx.get(address).text, httpx.get(f"{address}config").text]
    events = [event for event in json.loads(answers[1])["dependencies"] if event["inputs"] == []]
    return "".join([*answers, *(answer_to(address, event, []) for event in events)])


def answer_to(address: str, event: dict[str, Any], data: list[object], session: str = "browser") -> str:
    """Return the line with the answer that a browser gets to an event of the page."""
    asked = {"data": data, "fn_index": event["id"], "session_hash": session}
    httpx.post(f"{address}gradio_api/queue/join", json=asked).raise_for_status()
    with httpx.stream("GET", f"{address}gradio_api/queue/data?session_hash={session}", timeout=60) as lines:
        return next(line for line in lines.iter_lines() if "process_completed" in line)


def test_examples_are_seen_and_chosen_until_they_are_forgotten(
    colours: LoadedModel, pictures: Path, copied: Path
) -> None:
    rebuild(copied)
    snapshot = require_snapshot(copied, "scenes")
    gallery, language = folder_gallery(pictures, colours), snapshot.manifest["target_lang"]
    with served(model=colours, language=language, gallery=gallery, dataset=(copied, snapshot)) as address:
        config = httpx.get(f"{address}config").json()
        kinds = {component["id"]: component["type"] for component in config["components"]}
        events = config["dependencies"]
        (draw,) = (one for one in events if "dataset" in [kinds[each] for each in one["outputs"]])
        answer = json.loads(answer_to(address, draw, []).removeprefix("data: "))["output"]["data"]
        choices = [
            (one, answer[place])
            for place, output in enumerate(draw["outputs"])
            for one in events
            if kinds[output] == "dataset" and one["inputs"] == [output] and "<img" in str(answer[place])
        ]
        assert len(choices) == 2, "one for each tab with an image"
        for choose, drawn in choices:
            assert [shown.count('<img src="data:image/jpeg;base64,') for (shown,) in drawn["samples"]] == [1, 1, 1]
            chosen = answer_to(address, choose, [0])
            shown = re.findall(r'"url": ?"[^"]*(/gradio_api/file=[^"]+)"', chosen)[0]
            assert httpx.get(f"{address.rstrip('/')}{shown}").status_code == 200
        caption = html.unescape(re.findall(r'alt="(.*?)">', drawn["samples"][0][0])[0])
        assert json.dumps(caption, ensure_ascii=False) in chosen
        assert caption in reloaded(address)
        named = query(copied, "SELECT sample_id FROM pairs WHERE captions[1] = $caption", {"caption": caption})
        gone = [new_tombstone("sample", one["sample_id"]) for one in named.to_pylist()]
        forget(copied, gone, forget_texts=forget_texts)
        assert caption not in reloaded(address)
        after = answer_to(address, choose, [0])
        assert "gradio_api/file=" not in after
        assert caption not in after
        assert httpx.get(f"{address.rstrip('/')}{shown}").status_code == 410, "of what was shown before"
        assert "event: error" in event_of(address, "search", ["rosso", 1]), "nothing is answered after a take-down"


def test_the_page_names_no_other_host_and_forbids_to_load_from_one(url: str) -> None:
    answer = httpx.get(url)
    assert re.findall(r"""<(?:script|link)\s[^>]*(?:src|href)=["']?(?:https?:)?//(?!127\.0\.0\.1)""", answer.text) == []
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self';")
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
    with served(model=colours, language="it", gallery=folder_gallery(pictures, colours)) as address:
        own = reader(address)
        assert "grigio.png" in own.predict("grigio", 1, api_name="/search")
        assert own.predict(handle_file(flag), "rosso", api_name="/localize")
        assert "un cane sulla spiaggia" in reloaded(address), "examples are in the model's language, not the reader's"
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
    unneeded = ("proxy=https://example.com", "file=/etc/passwd", "file=https://example.com", "vibe-edit/")
    for path in (*(f"gradio_api/{name}" for name in unneeded), "monitoring", "docs", "openapi.json"):
        assert httpx.get(f"{url}{path}").status_code in (403, 404), path
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
    monkeypatch.setattr("flows.page.MAX_UPLOADS_BYTES", 3)
    with served(model=colours, language="el") as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        files = [{"files": bytes([number])} for number in range(6)]
        codes = [httpx.post(f"{address}gradio_api/upload", files=file).status_code for file in files[:5]]
        assert codes == [200, 200, 200, 200, 503]
        deadline = time.monotonic() + 20
        while uploads() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not uploads()
        assert httpx.post(f"{address}gradio_api/upload", files=files[5]).status_code == 200
    assert not folder.exists()


def test_the_page_is_served_where_it_is_told(
    colours: LoadedModel, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    theirs = {"GRADIO_ALLOWED_PATHS": "/", "GRADIO_SERVER_PORT": "9", "GRADIO_TEMP_DIR": "/nowhere"}  # the user's own
    for name, value in (theirs | {"HTTP_PROXY": "http://127.0.0.1:9"}).items():  # where nobody listens
        monkeypatch.setenv(name, value)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with served(model=colours, language="", host="127.0.0.2", port=free_port) as address:
        assert address == f"http://127.0.0.2:{free_port}/"
        with httpx.Client(trust_env=False) as client:
            assert "captions in an unknown language" in client.get(f"{address}config").text
            assert client.get(address, headers={"host": "evil.example"}).status_code == 421
            assert client.get(f"{address}gradio_api/file=/etc/hostname").status_code == 404
        for host, port, said in (
            ("127.0.0.2", free_port, f"--port {free_port}: .*in use"),
            ("192.0.2.1", None, "cannot listen at --host 192.0.2.1"),
        ):
            taken = served(model=colours, language="it", host=host, port=port)
            with pytest.raises(SettingsError, match=said), taken:
                pass
    assert dict(os.environ) == before


BLOCKED = """
import sys
from importlib.metadata import packages_distributions, requires
import re
def closure(names):
    known = set()
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop().lower())
        if name not in known:
            known.add(name)
            try:
                names += [re.split(r"[^\\w.-]", line)[0] for line in requires(name) or () if "extra ==" not in line]
            except Exception:
                pass
    return known
wanted = closure([re.split(r"[^\\w.-]", line)[0] for line in open("requirements.txt")])
kept = {*sys.modules, *sys.stdlib_module_names}
for module, owners in packages_distributions().items():
    if not {re.sub(r"[-_.]+", "-", owner.lower()) for owner in owners} & wanted and module not in kept:
        sys.modules[module] = None
import runpy
sys.path.insert(0, "")
runpy.run_path("app.py", run_name="__main__")
"""


@pytest.mark.slow
def test_an_exported_space_runs_by_itself_with_what_it_requires(
    random_clip: Any, pictures: Path, tmp_path: Path, told: Any, free_port: int
) -> None:
    model = random_clip(["un quadrato rosso", "un cerchio verde"])
    (model / "optimizer.pt").write_bytes(b"a pickle")
    space = tmp_path / "space"
    words = ["demo", "--model", str(model), "--images", str(pictures), "--language", "de", "--export-space", str(space)]
    assert str(space) in told(words)
    assert "exists: name a new folder" in told(words, code=1)
    head = yaml.safe_load((space / "README.md").read_text("utf-8").split("---")[1])
    assert (head["sdk"], head["app_file"], head["title"]) == ("gradio", "app.py", "Bilder und Wörter")
    assert not list(space.rglob("*.pt"))
    assert sorted(path.name for path in (space / "images").iterdir()) == sorted(
        path.name for path in pictures.glob("*.png")
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"GRADIO_SERVER_PORT": str(free_port), "CUDA_VISIBLE_DEVICES": ""}
    (tmp_path / "blocked.py").write_text(BLOCKED, "utf-8")
    command = [sys.executable, "-P", str(tmp_path / "blocked.py")]
    with subprocess.Popen(command, cwd=space, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == f"The page is at http://127.0.0.1:{free_port}/"
            client = reader(f"http://127.0.0.1:{free_port}/", "de")
            assert "von 4 Bildern" in client.predict("un quadrato rosso", 2, api_name="/search")
            assert client.predict(handle_file(pictures / "blu.png"), "rosso", api_name="/localize")
        finally:
            process.send_signal(signal.SIGTERM)


def test_a_space_tells_no_paths_and_no_positions(small_bert: Any, small_model: str, tmp_path: Path, told: Any) -> None:
    bert, model, photos = small_bert("un quadrato rosso"), tmp_path / "model", tmp_path / "photos"
    text = {"hf_model_name": str(bert), "hf_tokenizer_name": str(bert), "hf_pooler_type": "mean_pooler"}
    config = {**json.loads(small_model), "text_cfg": {**text, "context_length": 24}}
    model.mkdir()
    copy_tokenizer(str(bert), model)
    save_encoder_config(config, model)
    write_model_config(model, config)
    save_weights(create_model(config, model), model / "model.safetensors")
    (model / "run.json").write_text('{"settings": {}, "learned": []}')
    exif, notes = Image.Exif(), PngInfo()
    exif[0x0112], exif[0x8825] = 6, {1: "N", 2: (52.0, 31.0, 12.0)}  # turned by a quarter, and a position
    notes.add_text("Author", "Somebody")
    wide = Image.new("RGB", (80, 40), "red")
    wide.paste("blue", (0, 0, 40, 40))
    photos.mkdir()
    names = [f"turned{suffix}" for suffix in (".jpg", ".png", ".webp", ".gif", ".bmp", ".tif", ".avif")]
    for name in names:
        more = {"exif": exif} if name.endswith((".jpg", ".webp")) else {}
        wide.save(photos / name, **more, **({"pnginfo": notes} if name.endswith(".png") else {}))
        with (photos / name).open("ab") as file:
            file.write(b"SECRET\xff\xd9")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff Exif of a secret place")
    space = tmp_path / "space"
    told(["demo", "--model", str(model), "--images", str(photos), "--language", "el", "--export-space", str(space)])
    for path in (space / "model").iterdir():
        assert str(bert).encode() not in path.read_bytes(), path
    moved = space.rename(tmp_path / "moved")
    assert open_open_clip(str(moved / "model"), "moved").text.encode(["un quadrato"]).shape == (1, 32)
    license = json.loads((moved / "model" / "run.json").read_text())["license"]
    assert license == "", "to be stated by who starts from it"
    assert "captions in Greek" in (moved / "README.md").read_text("utf-8")
    assert sorted(path.name for path in (moved / "images").iterdir()) == sorted(names)
    for name in names:
        assert b"SECRET" not in (moved / "images" / name).read_bytes(), name
        with Image.open(moved / "images" / name) as image, Image.open(photos / name) as before:
            assert image.format == before.format
            assert not {0x0112, 0x8825} & set(image.getexif()) or image.format == "TIFF"  # which has tags of its own
            assert not image.info.keys() & {"exif", "xmp", "Author"}
            if name in ("turned.jpg", "turned.webp"):
                (red, _, blue), (other, _, bluer) = (image.getpixel((20, y)) for y in (70, 10))
                assert image.size == (40, 80)
                assert red > 200 > 100 > blue
                assert bluer > 200 > 100 > other


def test_the_texts_of_all_languages_have_the_same_keys_and_places() -> None:
    from flows.page import PAGES

    texts = tomllib.loads((PAGES / "demo.toml").read_text("utf-8"))
    assert set(texts) >= {"en", "it", "de"}
    for language, words in texts.items():
        assert words.keys() == texts["en"].keys(), language
        assert words["languages"].keys() == texts["en"]["languages"].keys() >= set(available_language_packs()), language
        assert words["languages"][language] == words["language"]
        for key, value in words.items():
            places = [set(re.findall(r"{(\w+)}", str(each))) for each in (value, texts["en"][key])]
            assert places[0] == places[1], (language, key)
