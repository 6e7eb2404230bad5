"""`--push-to-hub`: exports on a hub on loopback, pulled again; refusals, and a connection lost in the middle."""

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import snapshot_download
from loopback import LoopbackHandler, LoopbackServer

from data_catalog.exports.hub import push_export
from flows.cli.app import EXIT_LATER
from flows.models import train_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TOKEN, LIMITED, WRONG = "hf_writer_of_somebody", "hf_limited", "hf_wrong"
LFS = (".parquet", ".safetensors", ".tar")


class Hub(LoopbackServer):
    """The part of the hub's API that an upload and a download need.

    `files` are what each repository has, by its name, `sent` the objects that were uploaded. After `breaks_after` of
    them, each further one and all later requests end in the middle.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.lock = threading.Lock()
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.num_commits = 0
        self.breaks_after: int | None = None
        self.is_lost = False


class _Handler(LoopbackHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answered()

    do_GET = do_POST = do_PUT = do_HEAD  # noqa: N815

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def _answered(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        if self.command == "PUT":
            self._store(size)
            return
        body = self.rfile.read(size)
        if self.server.is_lost:
            self.close_connection = True
            return
        path = self.path.partition("?")[0]
        for pattern, method in _ROUTES.items():
            found = re.fullmatch(pattern, f"{self.command} {path}")
            if found is not None:
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                if token not in (TOKEN, LIMITED):
                    self._send(401, {"error": f"unknown: {token}"})
                elif self.command == "POST" and token != TOKEN:
                    self._send(403, {"error": f"no rights\x1b[31m for {token}"})
                elif found.groupdict().get("name") in (None, *self.server.files):
                    method(self, body, **found.groupdict())
                else:
                    break
                return
        self._send(404, {"error": "Not found"}, X_Error_Code="RepoNotFound")

    def _store(self, size: int) -> None:
        with self.server.lock:
            if self.server.is_lost or len(self.server.sent) == self.server.breaks_after:
                self.server.is_lost = True
                self.rfile.read(size // 2)
                self.close_connection = True
                return
            oid, content = self.path.rsplit("/", 1)[-1], self.rfile.read(size)
            assert hashlib.sha256(content).hexdigest() == oid
            self.server.objects[oid] = content
            self.server.sent.append(oid)
        self._send(200, {})

    def _who(self, _: bytes) -> None:
        self._send(200, {"name": "somebody"})

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.files:
            self._send(409, {"error": "You already created this repo", "url": f"{self.server.url()}/{name}"})
            return
        self.server.files[name] = {".gitattributes": b"*.parquet filter=lfs\n"}
        self.server.private |= {name} if asked.get("visibility") == "private" else set()
        self._send(200, {"url": f"{self.server.url()}/{name}"})

    def _about(self, _: bytes, name: str) -> None:
        found = {"id": name, "sha": self._commit(name), "private": name in self.server.private}
        self._send(200, {**found, "siblings": [{"rfilename": path} for path in self.server.files[name]]})

    def _commit(self, name: str) -> str:
        return hashlib.sha1(repr(sorted(self.server.files[name].items())).encode()).hexdigest()

    def _tree(self, _: bytes, name: str) -> None:
        self._send(200, [self._entry(path, content) for path, content in self.server.files[name].items()])

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(content), "oid": _oid(path, content)}
        lfs = {"oid": entry["oid"], "size": len(content), "pointerSize": 130}
        return {**entry, "oid": "0" * 40, "lfs": lfs} if path.endswith(LFS) else entry

    def _yaml(self, _: bytes) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def _modes(self, body: bytes, name: str) -> None:
        there = self.server.files[name]
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS) else "regular",
                "shouldIgnore": False,
                "oid": _oid(file["path"], there[file["path"]]) if file["path"] in there else None,
            }
            for file in json.loads(body)["files"]
        ]
        self._send(200, {"files": files})

    def _batch(self, body: bytes, name: str) -> None:
        objects = json.loads(body)["objects"]
        for entry in objects:
            if entry["oid"] not in self.server.objects:
                entry["actions"] = {"upload": {"href": f"{self.server.url()}/objects/{entry['oid']}"}}
        self._send(200, {"transfer": "basic", "objects": objects})

    def _write(self, body: bytes, name: str) -> None:
        files = self.server.files[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.server.num_commits += 1
        self._send(200, {"commitUrl": f"{self.server.url()}/{name}/commit/1", "commitOid": self._commit(name)})

    def _file(self, _: bytes, name: str, path: str) -> None:
        if path not in self.server.files[name]:
            self._send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return
        content = self.server.files[name][path]
        self.answer(200, content, ETag=f'"{_oid(path, content)}"', X_Repo_Commit=self._commit(name))

    def _send(self, status: int, value: Any, **headers: str) -> None:
        self.answer(status, json.dumps(value).encode(), **headers)


_KIND, _NAME = "/api/(?:models|datasets)", "(?P<name>[^/]+/[^/]+)"
_ROUTES = {
    "GET /api/whoami-v2": _Handler._who,
    "POST /api/repos/create": _Handler._create,
    "POST /api/validate-yaml": _Handler._yaml,
    f"GET {_KIND}/{_NAME}(?:/revision/[^/]+)?": _Handler._about,
    f"GET {_KIND}/{_NAME}/tree/[^/]+": _Handler._tree,
    f"POST {_KIND}/{_NAME}/preupload/main": _Handler._modes,
    f"POST {_KIND}/{_NAME}/commit/main": _Handler._write,
    f"POST (?:/datasets)?/{_NAME}[.]git/info/lfs/objects/batch": _Handler._batch,
    f"(?:HEAD|GET) (?:/datasets)?/{_NAME}/resolve/[^/]+/(?P<path>.+)": _Handler._file,
}


def _oid(path: str, content: bytes) -> str:
    """The id of a file: sha256 of a large one, git's sha1 of another."""
    if path.endswith(LFS):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that huggingface_hub takes for its own; it reads its environment at import only."""
    with Hub() as server:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for name, value in {
            "ENDPOINT": server.url(),
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url() + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_DISABLE_XET": True,
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between tries
        yield server


@pytest.fixture(scope="module")
def root(
    built: Any, english_recipe: Any, small_model: str, tmp_path_factory: pytest.TempPathFactory, quick_builds: None
) -> Path:
    """The small sample with a model of one epoch, and exports of both."""
    root = tmp_path_factory.mktemp("pushed") / "catalog"
    shutil.copytree(built[0], root)
    (root.parent / "small.json").write_text(small_model)
    more = [
        f"train.model={root.parent / 'small.json'}",
        "train.epochs=1",
        "train.vocab_size=400",
        "train.precision=fp32",
    ]
    train_model(english_recipe(root, *more), root)
    return root


@pytest.fixture
def words(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> list[str]:
    """A command that exports the dataset or the model to `tmp_path / "out"` and uploads it."""
    command = {"dataset": ["export", "--format", "huggingface"], "model": ["export-model", "--format", "open_clip"]}
    kind = getattr(request, "param", "dataset")
    name, *options = command[kind]
    where = ["--root", str(root), "--out", str(tmp_path / "out")]
    return [name, "scenes", *options, *where, "--push-to-hub", f"somebody/{kind}"]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }


def pulled(name: str, folder: Path) -> dict[str, bytes]:
    """The files of a repository as huggingface_hub downloads them, but for the one that the hub adds."""
    snapshot_download(name, repo_type=name.rpartition("/")[-1], local_dir=folder)
    files = tree(folder)
    del files[".gitattributes"]
    return files


BOTH = pytest.mark.parametrize("words", ["dataset", "model"], indirect=True)


@BOTH
def test_an_export_comes_back_from_the_hub_byte_for_byte(hub: Hub, words: list[str], tmp_path: Path, told: Any) -> None:
    output = told(words)
    name = words[-1]
    address = f"{hub.url()}/{'datasets/' if 'dataset' in name else ''}{name}"
    assert output.splitlines()[-1] == f"Uploaded: {address}"
    assert pulled(name, tmp_path / "pulled") == tree(tmp_path / "out")
    commits, sent = hub.num_commits, len(hub.sent)
    assert "up to date" in told(words).lower()
    assert (hub.num_commits, len(hub.sent)) == (commits, sent), "nothing is sent twice"
    card = tmp_path / "out" / "README.md"
    card.write_text(card.read_text() + "\nWrite to me.\n")
    assert "up to date" in told(words).lower(), "the user's own words are no reason to refuse or to overwrite them"
    assert hub.files[name]["README.md"].endswith(b"\nWrite to me.\n")
    data = next(path for path in (tmp_path / "out").rglob("*") if path.suffix in LFS)
    content = data.read_bytes()
    data.unlink()  # it may be a hard link
    data.write_bytes(content[:-1] + b"!")
    assert f"{data} is damaged" in told(words, code=1)
    assert len(hub.sent) == sent


@BOTH
def test_after_a_lost_connection_the_same_command_sends_the_rest(
    hub: Hub, words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, told: Any
) -> None:
    hub.files[words[-1]] = {".gitattributes": b""}
    hub.breaks_after = 0 if words[0] == "export-model" else 2  # a model has one large file
    error = told(words, code=EXIT_LATER)
    assert f"the connection to {hub.url()} failed" in error
    assert "run the same command again" in error
    assert TOKEN not in error + caplog.text
    assert hub.num_commits == 0, "nobody sees half an export"
    assert len(hub.sent) == hub.breaks_after
    hub.breaks_after, hub.is_lost = None, False
    assert "up to date" in told(words).lower()
    assert len(hub.sent) == len(set(hub.sent)), "what was there was not sent again"
    assert pulled(words[-1], tmp_path / "pulled") == tree(tmp_path / "out")


@pytest.mark.parametrize(
    ("token", "name", "said"),
    [
        ("", "somebody/it", "logged in to Hugging Face with `hf auth login`"),
        (WRONG, "somebody/it", "choose an OWNER that you may write to, or log in with `hf auth login`"),
        (TOKEN, "it", "a name on the hub has the form OWNER/NAME, got 'it'"),
        ("offline", "somebody/it", "unset the `HF_HUB_OFFLINE` environment variable"),
    ],
)
def test_what_the_hub_would_refuse_is_said_before_the_export(
    token: str, name: str, said: str, hub: Hub, words: list[str], tmp_path: Path, told: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", token == "offline")
    error = told([*words[:-1], name], code=1)
    assert said in error
    assert not token.startswith("hf_") or token not in error
    assert not (tmp_path / "out").exists()
    assert not hub.files


@BOTH
def test_nothing_is_uploaded_to_a_public_repository_where_a_private_one_is_asked_for(
    hub: Hub, words: list[str], told: Any
) -> None:
    hub.files[words[-1]] = {}
    assert f"{words[-1]} exists and is public: make it private" in told([*words, "--private"], code=1)
    assert (hub.files, hub.sent, hub.num_commits) == ({words[-1]: {}}, [], 0)


def test_a_failed_export_leaves_no_repository(hub: Hub, words: list[str], tmp_path: Path, told: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "exists and is not an export of vernaclip" in told(words, code=1)
    assert not hub.files


def test_a_right_that_only_the_hub_knows_is_missed_at_the_upload(
    hub: Hub, words: list[str], told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", LIMITED)
    error = told(words, code=1)
    assert rf"{words[-1]} cannot be uploaded to {hub.url()} (no rights\x1b[31m for TOKEN): choose an OWNER" in error
    assert not hub.files


def test_an_export_that_a_take_down_removed_is_not_uploaded(
    hub: Hub, words: list[str], tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def push_later(folder: Path, repository: Any) -> str:
        shutil.rmtree(folder)
        return push_export(folder, repository)

    monkeypatch.setattr("data_catalog.exports.hub.push_export", push_later)
    error = told(words, code=1)
    assert f"{tmp_path / 'out'} was removed before its upload" in error
    assert not hub.files


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "--format", "huggingface", "--pixels", "all"], "--pixels all includes images that nobody may"),
        (["export", "--format", "huggingface", "--private"], None),
        (["export-model", "--format", "all"], "--push-to-hub takes one --format"),
        (["export-model", "--format", "onnx", "--hub-name", "somebody/else"], "--hub-name and --push-to-hub differ"),
    ],
)
def test_rights_and_formats_are_checked_and_a_private_repository_is_private(
    words: list[str], said: str | None, hub: Hub, root: Path, tmp_path: Path, told: Any
) -> None:
    call = [words[0], "scenes", *words[1:], "--root", str(root), "--out", str(tmp_path / "out")]
    if said is not None:
        assert said in told([*call, "--push-to-hub", "somebody/it"], code=1)
        assert not hub.files
        return
    for _ in range(2):
        told([*call, "--push-to-hub", "friends/it"])
    assert hub.private == {"friends/it"}


def test_a_later_export_takes_the_place_of_an_earlier_one_and_leaves_other_files(
    hub: Hub, root: Path, tmp_path: Path, told: Any
) -> None:
    def push(kind: str) -> set[str]:
        told(["export", "scenes", "--root", str(root), "--format", kind, "--out", str(tmp_path / kind), *to_hub])
        return set(hub.files["somebody/dataset"])

    to_hub = ["--push-to-hub", "somebody/dataset"]
    mine = {"LICENSE", "photos.tar", "raw/photos.tar", "data/more/notes.parquet", "links/a.parquet"}
    hub.files["somebody/dataset"] = {".gitattributes": b"", **dict.fromkeys(mine, b"mine")}
    assert {"sizes.json", "train-000000.tar"} <= push("webdataset")
    for kind in ("huggingface", "webdataset", "huggingface"):
        ours = push(kind) - mine - {".gitattributes"}
        assert ours == set(tree(tmp_path / kind)), "shards of earlier exports may have images that were forgotten since"
        assert mine <= hub.files["somebody/dataset"].keys()
    assert {name: hub.files["somebody/dataset"][name] for name in tree(tmp_path / "huggingface")} == tree(
        tmp_path / "huggingface"
    )


def test_a_model_in_another_format_takes_the_place_of_an_earlier_one(
    hub: Hub, root: Path, tmp_path: Path, told: Any
) -> None:
    def push(kind: str) -> dict[str, bytes]:
        told(["export-model", "scenes", "--root", str(root), "--format", kind, "--out", str(tmp_path / kind), *to_hub])
        return {name: content for name, content in hub.files["somebody/it"].items() if name != ".gitattributes"}

    to_hub = ["--push-to-hub", "somebody/it"]
    theirs = {"LICENSE": b"mine", "model.safetensors": b"of another program", "export.json": b"[]"}
    hub.files["somebody/it"] = {**theirs, ".gitattributes": b""}
    assert push("open_clip") == theirs | tree(tmp_path / "open_clip")
    kept = {"LICENSE": b"mine"}
    assert push("transformers") == kept | tree(tmp_path / "transformers")
    assert push("open_clip") == kept | tree(tmp_path / "open_clip")
