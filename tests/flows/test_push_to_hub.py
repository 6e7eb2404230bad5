"""`--push-to-hub`: exports on a hub on loopback, pulled again; refusals, and a connection lost in the middle."""

import base64
import hashlib
import json
import re
import shutil
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


class Hub(LoopbackServer):
    """The part of the hub's API that an upload and a download need; no file is large enough for LFS.

    `files` are what each repository has, by its name. While it `breaks`, it ends connections instead of committing.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.num_commits, self.breaks = 0, False


class _Handler(LoopbackHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked, token = f"{self.command} {self.path.partition('?')[0]}", self.headers.get("Authorization", "")[7:]
        for pattern, method in _ROUTES.items():
            found = re.fullmatch(pattern, asked)
            if found is None:
                continue
            if token not in (TOKEN, LIMITED):
                self._send({"error": f"unknown: {token}"}, 401)
            elif self.command == "POST" and token != TOKEN:
                self._send({"error": f"no rights\x1b[31m for {token}"}, 403)
            elif found.groupdict().get("name") in (None, *self.server.files):
                method(self, body, **found.groupdict())
            else:
                break
            return
        self._send({"error": "Not found"}, 404, X_Error_Code="RepoNotFound")

    do_GET = do_POST = do_HEAD  # noqa: N815

    def _who(self, _: bytes) -> None:
        self._send({"name": "somebody"})

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.files:
            self._send({"error": "You already created this repo", "url": f"{self.server.url()}/{name}"}, 409)
            return
        self.server.files[name] = {".gitattributes": b""}
        self.server.private |= {name} if asked.get("visibility") == "private" else set()
        self._send({"url": f"{self.server.url()}/{name}"})

    def _about(self, _: bytes, name: str) -> None:
        found = {"id": name, "sha": self._commit(name), "private": name in self.server.private}
        self._send({**found, "siblings": [{"rfilename": path} for path in self.server.files[name]]})

    def _commit(self, name: str) -> str:
        return hashlib.sha1(repr(sorted(self.server.files[name].items())).encode()).hexdigest()

    def _tree(self, _: bytes, name: str) -> None:
        files = self.server.files[name].items()
        self._send([{"type": "file", "path": path, "size": len(of), "oid": _oid(of)} for path, of in files])

    def _yaml(self, _: bytes) -> None:
        self._send({"errors": [], "warnings": []})

    def _modes(self, body: bytes, name: str) -> None:
        there, paths = self.server.files[name], [file["path"] for file in json.loads(body)["files"]]
        modes = {"uploadMode": "regular", "shouldIgnore": False}
        self._send({"files": [{"path": path, "oid": path in there and _oid(there[path]), **modes} for path in paths]})

    def _write(self, body: bytes, name: str) -> None:
        if self.server.breaks:
            self.close_connection = True
            return
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.server.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del self.server.files[name][value["path"]]
        self.server.num_commits += 1
        self._send({"commitUrl": f"{self.server.url()}/{name}/commit/1", "commitOid": self._commit(name)})

    def _file(self, _: bytes, name: str, path: str) -> None:
        content = self.server.files[name].get(path)
        if content is None:
            self._send({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        else:
            self.answer(200, content, ETag=f'"{_oid(content)}"', X_Repo_Commit=self._commit(name))

    def _send(self, value: Any, status: int = 200, **headers: str) -> None:
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
    f"(?:HEAD|GET) (?:/datasets)?/{_NAME}/resolve/[^/]+/(?P<path>.+)": _Handler._file,
}


def _oid(content: bytes) -> str:
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
    """The small sample with a model of one epoch."""
    root = tmp_path_factory.mktemp("pushed") / "catalog"
    shutil.copytree(built[0], root)
    (root.parent / "small.json").write_text(small_model)
    more = [f"train.model={root.parent / 'small.json'}", "train.epochs=1", "train.vocab_size=400"]
    train_model(english_recipe(root, *more, "train.precision=fp32"), root)
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
    files = [path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


BOTH = pytest.mark.parametrize("words", ["dataset", "model"], indirect=True)


@BOTH
def test_an_export_comes_back_byte_for_byte_also_after_a_lost_connection(
    hub: Hub, words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, told: Any
) -> None:
    name, out = words[-1], tmp_path / "out"
    hub.files[name], hub.breaks = {".gitattributes": b""}, True
    error = told(words, code=EXIT_LATER)
    assert f"the connection to {hub.url()} failed" in error
    assert "run the same command again" in error
    assert TOKEN not in error + caplog.text
    assert hub.files[name] == {".gitattributes": b""}, "nobody sees half an export"
    hub.breaks = False
    address = f"{hub.url()}/{'datasets/' if 'dataset' in name else ''}{name}"
    output = told(words)
    assert "up to date" in output.lower()
    assert output.splitlines()[-1] == f"Uploaded: {address}"
    snapshot_download(name, repo_type=name.rpartition("/")[-1], local_dir=tmp_path / "pulled")
    assert tree(tmp_path / "pulled") == tree(out) | {".gitattributes": b""}
    commits = hub.num_commits
    told(words)
    assert hub.num_commits == commits, "nothing is sent twice"
    with (out / "README.md").open("a") as card:
        card.write("\nWrite to me.\n")
    assert "up to date" in told(words).lower(), "the user's own words are no reason to refuse or to overwrite them"
    assert hub.files[name]["README.md"].endswith(b"\nWrite to me.\n")
    data = next(path for path in out.rglob("*") if path.suffix in (".parquet", ".safetensors"))
    content, commits = data.read_bytes(), hub.num_commits
    data.unlink()  # it may be a hard link
    data.write_bytes(content[:-1] + b"!")
    assert f"{data} is damaged" in told(words, code=1)
    assert hub.num_commits == commits


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


def test_what_fails_later_leaves_no_repository(
    hub: Hub, words: list[str], tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def push_later(folder: Path, repository: Any) -> str:
        shutil.rmtree(folder)  # as a take-down does
        return push_export(folder, repository)

    with monkeypatch.context() as patch:
        patch.setattr("data_catalog.exports.hub.push_export", push_later)
        assert f"{tmp_path / 'out'} was removed before its upload" in told(words, code=1)
        patch.setenv("HF_TOKEN", LIMITED)
        patch.setattr("data_catalog.exports.hub.push_export", push_export)
        error = told(words, code=1)
        assert rf"{words[-1]} cannot be uploaded to {hub.url()} (no rights\x1b[31m for TOKEN): choose an OWNER" in error
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "exists and is not an export of vernaclip" in told(words, code=1)
    assert not hub.files


@BOTH
def test_a_private_repository_is_private_and_a_public_one_is_refused(hub: Hub, words: list[str], told: Any) -> None:
    hub.files[words[-1]] = {}
    assert f"{words[-1]} exists and is public: make it private" in told([*words, "--private"], code=1)
    assert (hub.files, hub.num_commits) == ({words[-1]: {}}, 0)
    hub.files.clear()
    for _ in range(2):
        told([*words, "--private"])
    assert hub.private == {words[-1]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "--format", "huggingface", "--pixels", "all"], "--pixels all includes images that nobody may"),
        (["export-model", "--format", "all"], "--push-to-hub takes one --format"),
        (["export-model", "--format", "onnx", "--hub-name", "somebody/else"], "--hub-name and --push-to-hub differ"),
    ],
)
def test_rights_and_formats_are_checked(
    words: list[str], said: str, hub: Hub, root: Path, tmp_path: Path, told: Any
) -> None:
    call = [words[0], "scenes", *words[1:], "--root", str(root), "--out", str(tmp_path / "out")]
    assert said in told([*call, "--push-to-hub", "somebody/it"], code=1)
    assert not hub.files


def test_an_option_out_of_the_bounds_of_its_setting_is_refused(root: Path, child: Any) -> None:
    words = ["export", "scenes", "--root", str(root), "--format", "webdataset", "--samples-per-shard", "0"]
    with child(words) as process:  # cyclopts itself looks at bounds once pydantic is imported
        assert "--samples-per-shard must be at least 1, got 0" in process.communicate()[1]
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("command", "kinds"),
    [("export", ("webdataset", "huggingface", "webdataset")), ("export-model", ("open_clip", "transformers"))],
)
def test_a_later_export_takes_the_place_of_an_earlier_one_and_leaves_other_files(
    command: str, kinds: tuple[str, ...], hub: Hub, root: Path, tmp_path: Path, told: Any
) -> None:
    """Shards of earlier exports may have images that were forgotten since."""
    mine = {"LICENSE": b"mine", "raw/photos.tar": b"mine", "data/more/notes.parquet": b"mine"}
    hub.files["somebody/it"] = {**mine, "export.json": b"[]"}  # of another program
    for kind in kinds:
        out = tmp_path / kind
        words = [command, "scenes", "--root", str(root), "--format", kind, "--out", str(out)]
        told([*words, "--push-to-hub", "somebody/it"])
        assert hub.files["somebody/it"] == mine | tree(out)
