"""The site of a collection, in a browser: finds what `search` finds, alone; strangers' texts are text."""

import gzip
import json
import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from browser import Page, open_browser
from loopback import LoopbackServer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from data_catalog.catalog.manifest import require_snapshot
from data_catalog.exports.sinks import sample_key
from flows.cli import main
from flows.cli.app import EXIT_LATER
from training.towers.trained_models import current_model, pair_hashes
from training.use.search import Gallery, shard_gallery

pytestmark = [
    pytest.mark.slower,
    pytest.mark.xdist_group("site"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
RUN = "document.documentElement.dataset.owned = 1"
PAYLOADS = (
    f"<script>{RUN}</script>",
    f'"><img src=x onerror="{RUN}">',
    f"javascript:{RUN}",
    "\u202egnp.exe\u202c \u2066isolated\u2069",
    "long " * 2000,
)
# As people write, and as they do not.
WORDINGS = (
    "a red dog", "ÄPFEL Übergrößen ß", "ΣΚΥΛΟΣ Α.Σ ΑΣ.Β Σ", "İstanbul", "e\u0301cole", "😀 👨‍👩‍👧", "“it’s” ‘it’",
    "犬と猫", "x" * 1000, "a word " * 150, "  much \t space\n", "\u200bx", "<|endoftext|> x", "a & <b>", "don't 1234,5",
)  # fmt: skip
NUM_IMAGES, NUM_WITHHELD = 24, 3


class Site(NamedTuple):
    root: Path
    folder: Path
    words: list[str]  # of the command
    gallery: Gallery


@pytest.fixture(scope="module")
def site(own_folder: Any, tmp_path_factory: pytest.TempPathFactory, small_model: str) -> Site:
    """The site of a dataset with a model of one epoch, below its root; all rights are attacks or missing."""
    own = own_folder(tmp_path_factory.mktemp("site"))
    rows = []
    for number in range(NUM_IMAGES):
        own.save(f"{number}.jpg", number)
        payload, license = PAYLOADS[number % len(PAYLOADS)], "" if number < NUM_WITHHELD else "CC BY 4.0"
        rows.append((f"{number}.jpg", f"{own.caption(number)}", license, payload, payload))
    (own.folder / "small.json").write_text(small_model)
    recipe = own.folder / "photos.toml"
    recipe.write_text('target_language = "en"\n' + own.source("mine", "path caption license attribution page", rows))
    settings = [f"train.model={own.folder / 'small.json'}", "train.epochs=1", "split.val=0.2"]
    at = ["--root", str(own.root)]
    for job in ("build", "train"):
        assert main([job, str(recipe), *at, "--executor", "local", *(f"--set={each}" for each in settings)]) == 0
    folder = own.root / "exports" / "public"
    words = ["export-site", "photos", *at, "--out", str(folder), "--title", f"Images {PAYLOADS[0]}"]
    if (code := main(words)) == EXIT_LATER:
        pytest.skip("onnxruntime-web is not in the cache, and npm's registry cannot be reached")
    assert code == 0
    gallery = shard_gallery(pair_hashes(require_snapshot(own.root, "photos")), current_model(own.root, None).folder)
    return Site(own.root, folder, words, gallery)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def page(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser in front of the site, which a plain server has in a subfolder."""
    place = tmp_path_factory.mktemp("host")
    shutil.copytree(site.folder, place / "some/folder")
    handler = partial(_Quiet, directory=str(place))
    with LoopbackServer(handler) as server, open_browser(tmp_path_factory.mktemp("browser")) as page:
        page.open(server.url("/some/folder/"))
        page.wait("document.querySelector('#tiles li')")
        page.url = server.url("/some/folder/")
        yield page


def search(page: Page, text: str) -> dict[str, float]:
    """Return the images that the page shows for a text, in order, by key, with their cosines."""
    page.ask("(location.hash = '', document.getElementById('tiles').replaceChildren())")
    page.ask(f"location.hash = 'q=' + encodeURIComponent({json.dumps(text)})")
    page.wait("document.querySelector('#tiles li[data-cosine]')")
    tiles = page.ask("[...document.querySelectorAll('#tiles li')].map((li) => [li.firstChild.hash, li.dataset.cosine])")
    return {link.partition("image=")[2]: float(cosine) for link, cosine in tiles}


def test_the_page_finds_what_the_command_finds(page: Page, site: Site) -> None:
    """Only images that may be passed on, by the same cosines; of random weights many are near each other."""
    for text in (*WORDINGS, "x\ufeff\x07y"):
        hits = site.gallery.search(text, NUM_IMAGES).hits
        wanted = {sample_key(hit.name): hit.cosine for hit in hits if hit.license}
        found = search(page, text)
        assert found.keys() == wanted.keys()
        assert len(found) == NUM_IMAGES - NUM_WITHHELD
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert max(abs(found[key] - wanted[key]) for key in found) < 2e-3, text
    assert page.problems == []
    assert [url for url in page.requests if not url.startswith(page.url)] == []


def test_an_image_is_found_by_another_and_by_its_address(page: Page, site: Site) -> None:
    features = {sample_key(hit.name): site.gallery.features[place] for place, hit in enumerate(_all_hits(site))}
    key = next(iter(search(page, "a dog")))
    page.ask(f"(scrollTo(0, 1e6), location.hash = 'like={key}')")
    page.wait(f"!document.querySelector('#tiles a[href*=\"image={key}\"]')")
    first = page.ask("document.querySelector('#tiles a').hash.split('image=')[1]")
    assert page.ask("document.getElementById('bar').getBoundingClientRect().top >= 0"), "the best match is in sight"
    others = {other: float(features[key] @ features[other]) for other in search(page, "a dog") if other != key}
    assert max(others.values()) - others[first] < 2e-3
    page.open(f"{page.url}?again#q=dog&image={key}")
    page.wait("document.querySelector('dialog')?.open")
    assert page.ask("document.getElementById('query').value") == "dog"


def _all_hits(site: Site) -> Any:
    number = len(site.gallery.features)
    return site.gallery.hits(np.arange(number), np.zeros(number))


def test_texts_of_strangers_are_text_and_no_foreign_code_runs(page: Page, site: Site) -> None:
    shown = set()
    for key in search(page, "a dog"):
        page.ask(f"location.hash = 'image={key}'")
        page.wait(f"document.querySelector('dialog').open && document.getElementById('picture').src.includes('{key}')")
        assert page.ask("document.getElementById('page').hidden"), "none of these is an address of the web"
        shown.add(page.ask("document.getElementById('by').textContent"))
    assert {text.strip() for text in shown} == {payload.strip() for payload in PAYLOADS}
    assert page.ask("document.title") == f"Images {PAYLOADS[0]}"
    assert page.ask("document.documentElement.scrollWidth <= innerWidth")
    page.ask(f"document.body.append(Object.assign(document.createElement('script'), {{textContent: `{RUN}`}}))")
    assert page.ask("fetch('http://127.0.0.1:1/').then(() => 'asked', (error) => error.name)") == "TypeError"
    assert page.ask("document.documentElement.dataset.owned ?? ''") == ""
    assert sum("Content Security Policy" in problem for problem in page.problems) >= 2
    page.problems.clear()


def test_it_is_used_by_keyboard_alone(page: Page) -> None:
    page.open(f"{page.url}?keys")
    page.wait("document.querySelector('#tiles li')")
    page.press("/", 191, "/")
    assert page.ask("document.activeElement.id") == "query"
    page.send("Input.insertText", text="a red dog")
    page.press("Enter", 13, "\r")
    page.wait("document.querySelector('#tiles li[data-cosine]')")
    assert page.ask("location.hash") == "#q=a+red+dog"
    assert (
        page.ask("document.getElementById('count').textContent")
        == f"{NUM_IMAGES - NUM_WITHHELD} images, the best match first"
    )
    while page.ask("document.activeElement.parentElement.parentElement?.id") != "tiles":
        page.press("Tab", 9)
    page.press("Enter", 13, "\r")
    page.wait("document.querySelector('dialog')?.open")
    first = page.ask("location.hash")
    page.press("ArrowRight", 39)
    page.wait(f"location.hash !== {json.dumps(first)}")
    page.press("Escape", 27)
    page.wait("!document.querySelector('dialog').open")
    assert page.ask("location.hash") == "#q=a+red+dog"


def test_token_ids_are_those_of_the_library(page: Page, site: Site) -> None:
    """Of our tokenizers, and of the two other kinds that encoders have."""
    (parts,) = site.folder.glob("parts-*")
    ours = gzip.decompress((parts / "tokenizer.json.bin").read_bytes()).decode()
    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    words.train_from_iterator(WORDINGS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    words.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    pieces = Tokenizer(models.Unigram())
    pieces.normalizer, pieces.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    pieces.train_from_iterator(
        WORDINGS, trainers.UnigramTrainer(vocab_size=90, special_tokens=["<unk>"], unk_token="<unk>")
    )
    for text in (ours, words.to_str(), pieces.to_str()):
        wanted = Tokenizer.from_str(text)
        wanted.no_padding()
        if text != ours:
            wanted.no_truncation()
        script = f"""import("./{parts.name}/engine.js").then(({{ tokenizerOf }}) => {{
            const encode = tokenizerOf({text}, {{}}, {24 if text == ours else 10**6});
            return {json.dumps(WORDINGS)}.map(encode);
        }})"""
        assert page.ask(script) == [wanted.encode(wording).ids for wording in WORDINGS]


def test_a_folder_is_shown_by_its_names_and_what_cannot_be_meant_is_refused(
    page: Page, site: Site, told: Any, tmp_path: Path
) -> None:
    root, model = str(site.root), str(current_model(site.root, None).folder)
    (tmp_path / "photos").mkdir()
    assert "a dataset, or a folder with --images" in told(
        ["export-site", "--root", root, "--out", str(tmp_path / "x")], 1
    )
    name = f'"><img src=x onerror="{RUN}">\u202egnp.jpg'
    shutil.copy(site.root.parent / "photos" / "1.jpg", tmp_path / "photos" / name)
    images = ["export-site", "--images", str(tmp_path / "photos"), "--root", root, "--model", model]
    for place in (site.root / "exports" / "own", tmp_path / "photos" / "public"):
        assert "`vernaclip forget` would remove it, or the next site" in told([*images, "--out", str(place)], 1)
    told(["export", "photos", "--format", "huggingface", "--root", root, "--out", str(tmp_path / "hub")])
    assert "contains another export" in told([*images, "--out", str(tmp_path / "hub")], 1)
    (tmp_path / "photos" / "empty.jpg").touch()
    said = told([*images, "--language", "it, en", "--out", str(tmp_path / "site")])
    assert "an empty file" in said
    assert "1 image\n" in said
    assert str(tmp_path) not in (tmp_path / "site" / "export.json").read_text(), "the record is public"
    with LoopbackServer(partial(_Quiet, directory=str(tmp_path / "site"))) as server:
        page.open(server.url("/"))
        page.wait("document.querySelector('#tiles li img')?.complete")
        assert page.ask("document.querySelector('#tiles span').textContent") == name.removesuffix(".jpg")
        assert page.ask("document.getElementById('write').textContent") == "Write in it, en"
        assert page.ask("document.documentElement.dataset.owned ?? ''") == ""
        assert page.problems == []
    page.open((tmp_path / "site" / "index.html").as_uri())
    page.wait("document.getElementById('still')?.checkVisibility({visibilityProperty: true})")
    page.problems.clear()


def test_a_site_is_whole_stays_until_something_changes_and_goes_with_a_forgotten_image(site: Site, told: Any) -> None:
    assert "no license is stated" in told(site.words)
    assert f"Up to date: {site.folder}, {NUM_IMAGES - NUM_WITHHELD} images" in told(site.words)
    assert main(["verify", "--root", str(site.root)]) == 0
    (site.folder / "CNAME").write_text("example.org")
    assert "was added to the export" in told([*site.words, "--credits", "us"], 1)
    (site.folder / "CNAME").unlink()
    before = {path.name for path in site.folder.glob("parts-*")}
    told([*site.words, "--credits", "us", "--allow", "mine"])
    assert len(list((site.folder / "thumbs").iterdir())) == NUM_IMAGES
    assert {path.name for path in site.folder.glob("parts-*")}.isdisjoint(before), "no cache mixes two exports"
    name = _all_hits(site)[0].name
    assert str(site.folder) in told(["forget", "--root", str(site.root), "--sample", name])
    assert not site.folder.exists()
