"""Builds of local pictures: whose rights hold, which files cost a row; captions of real upstream rows."""

import os
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import InputError

TOO_SHORT = "A dog"  # a row that is dropped for its caption is still a row of the image
ARR, BY, BY_SA, NC = "All rights reserved", "CC BY 4.0", "CC BY-SA 4.0", "CC BY-NC 4.0"
A, B = "https://a.example/", "https://b.example/"
# What each row of an image says (license, attribution, page), and which of them is published.
RIGHTS: dict[str, tuple[list[tuple[str, str, str]], int]] = {
    "forbidden": ([("CC0", "Anna", ""), (BY, "Bea", ""), (ARR, "", "")], 2),
    "noncommercial": ([(BY, "Anna", A), (NC, "", B)], 1),
    "unknown": ([("CC0", "Anna", ""), ("mine, ask me", "Bea", "")], 1),
    "silent": ([("CC0", "Anna", ""), ("", "", B)], 1),
    "silence-does-not-lift-a-ban": ([("", "Anna", ""), (NC, "", B)], 1),
    "sharealike": ([(BY, "Anna", ""), (BY_SA, "Bea", "")], 1),
    "credited": ([(BY, "", ""), (BY, "Bea", B)], 1),
    "dropped-caption": ([("CC0", "Anna", ""), (ARR, "Bea", TOO_SHORT)], 1),
}


def test_the_strictest_row_of_an_image_tells_its_rights_also_where_a_duplicate_is_merged(own: Any) -> None:
    columns, numbers = "path caption license attribution page", iter(range(99))
    rows, expected = [], {}
    for seed, (name, (stated, chosen)) in enumerate(RIGHTS.items()):
        own.save(f"{name}.png", seed)
        for license, attribution, page in stated:
            caption = TOO_SHORT if page == TOO_SHORT else own.caption(next(numbers))
            rows.append((f"{name}.png", caption, license, attribution, page.replace(TOO_SHORT, "")))
        expected[name] = tuple(text.replace(TOO_SHORT, "") or None for text in stated[chosen])
    for seed, name in ((90, "here"), (91, "also-here"), (90, "there"), (91, "also-there")):
        own.save(f"{name}.png", seed)
    rows += [("here.png", own.caption(40), BY, "Anna", ""), ("also-here.png", own.caption(41), BY, "Bea", "")]
    others = [("there.png", own.caption(42), ARR, "Cleo", ""), ("also-there.png", own.caption(43), "", "", "")]
    expected |= {"here": (ARR, "Cleo", None), "also-here": (BY, "Bea", None)}  # silence takes nothing away
    sources = own.source("own", columns, rows) + own.source("elsewhere", columns, others)
    own.build(sources, 'duplicates.sources=["own","elsewhere"]', "duplicates.merge_captions=true")
    found = own.rows("SELECT sample_id, license, attribution, page_url FROM pairs")
    names = ("license", "attribution", "page_url")
    assert expected == {
        row["sample_id"].removeprefix("own:").removesuffix(".png"): tuple(row[name] for name in names) for row in found
    }


def test_files_that_nobody_can_read_cost_the_rows_that_want_them_and_end_no_build(own: Any) -> None:
    for number, name in enumerate(("good.jpg", "fine.jpg")):
        own.save(name, number)
    spoiled = ["dangling.jpg", "itself.jpg", "pipe.jpg", "folder.jpg"]
    (own.photos / "dangling.jpg").symlink_to(own.photos / "nowhere.jpg")
    (own.photos / "itself.jpg").symlink_to(own.photos / "itself.jpg")
    os.mkfifo(own.photos / "pipe.jpg")
    (own.photos / "folder.jpg").mkdir()
    # What no row wants: a name that is not UTF-8, and what fails only when it is read.
    Path(os.fsdecode(os.fsencode(own.photos) + b"/caff\xe8.jpg")).write_bytes(b"latin-1")
    (own.photos / "locked.jpg").write_bytes(b"locked")
    (own.photos / "locked.jpg").chmod(0)
    (own.photos / "unreadable.jpg").symlink_to("/proc/self/mem")  # a file that root cannot read either
    (own.photos / "loop").symlink_to(own.photos)
    names = ["good.jpg", *spoiled, "fine.jpg"]
    own.build(own.source("own", "path caption", [(name, own.caption(n)) for n, name in enumerate(names)]))
    found = {row["path"]: row["drop_reason"] for row in own.rows("SELECT path, drop_reason FROM captions")}
    assert found == {**dict.fromkeys(spoiled, "missing_file"), "good.jpg": None, "fine.jpg": None}


@pytest.mark.real_data
@pytest.mark.parametrize("num_rows", [30, pytest.param(8000, marks=pytest.mark.slow)], ids=["first rows", "all rows"])
def test_every_unreachable_image_of_cc3m_is_rejected_with_a_cause(
    own: Any, shared_data: Path, tmp_path: Path, num_rows: int
) -> None:
    lines = next((shared_data / "cc3m").glob("*.tsv")).read_text(encoding="utf-8").split("\n")[:num_rows]
    (tmp_path / "cc3m.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = f"""
        target_language = "en"
        [sources.cc3m]
        files = ["{tmp_path}/cc3m.tsv"]
        [fetch]
        retries = 0
        timeout_s = 3.0
        deadline_s = 5.0
        threads = 64
    """
    with pytest.raises(InputError, match="keeps none of"):
        own.build(recipe)
    assert own.rows("SELECT count(*) AS n FROM captions") == [{"n": num_rows}]
    assert own.rows("SELECT count(*) AS n FROM pairs") == [{"n": 0}]
    assert own.rows("FROM rejects WHERE drop_reason IS NULL OR step IS NULL") == []
    causes = {row["drop_reason"] for row in own.rows("SELECT drop_reason FROM rejects WHERE step = 'fetch'")}
    assert causes <= {"dns", "connect", "timeout", "bad_url"}
    assert causes
