"""What became of images, in one verdict: what each mixture of failures is called, and what to do about it."""

import pyarrow as pa
import pytest

from data_catalog.fetch.reasons import CAUSES, FETCH_REASONS, NORMALISE_REASONS, cause_of, diagnose

Row = tuple[str, str | None, int]


def downloads(*rows: Row) -> pa.Table:
    """From (host, reason, number of images)."""
    columns = ("host", "drop_reason", "num_images")
    return pa.table({name: [row[place] for row in rows] for place, name in enumerate(columns)})


def many_hosts(reason: str, count: int, per_host: int = 1) -> list[Row]:
    return [(f"host{number}.{reason.replace('_', '-')}.example", reason, per_host) for number in range(count)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("a.example", None, 700), *many_hosts("http_404", 300)], "Link rot: 30.0%"),
        ([("a.example", None, 700), ("b.example", "http_404", 300)], "All 300 images of b.example are missing"),
        ([("a.example", None, 940), *many_hosts("dns", 60)], "6.0% of the images are on domains that no longer exist"),
        ([("a.example", None, 700), *many_hosts("dns", 300)], "30.0% of the images are on hosts without an address"),
        ([("a.example", None, 700), ("a.example", "dns", 300)], "DNS trouble: 30.0%"),
        (
            [("a.example", None, 500), ("b.example", "http_403", 400), ("c.example", "http_429", 100)],
            "400 of 500 by b.ex",
        ),
        (
            [("a.example", None, 700), *many_hosts("timeout", 300)],
            "30.0% of the images had no connection or were too slow",
        ),
        (
            [("a.example", None, 700), *many_hosts("http_500", 30, 10)],
            "30.0% of the images failed by errors of servers",
        ),
        ([("a.example", None, 700), ("b.example", "robots_txt", 300)], "opted out of datasets"),
        ([("a.example", "dns", 15), ("b.example", "timeout", 15)], "None of 30 images could be reached"),
    ],
)
def test_each_kind_of_trouble_has_its_name(rows: list[Row], words: str) -> None:
    findings = diagnose(downloads(*rows)).findings
    assert words in findings[0], findings


def test_a_good_download_needs_no_words() -> None:
    found = diagnose(downloads(("a.example", None, 999), ("a.example", "too_small", 1)))
    assert found.findings == ()
    assert found.rows() == [
        {"what": "good images", "images": 999, "share": "99.9%"},
        {"what": "too small, too large, or not supported", "images": 1, "share": "0.1%"},
    ]


def test_what_may_pass_is_counted_and_told() -> None:
    found = diagnose(downloads(("a.example", None, 90), ("a.example", "http_503", 6), ("b.example", "http_404", 4)))
    assert found.num_retryable == 6
    assert any("6 of the missing images may come at a later try" in finding for finding in found.findings)


def test_a_reason_of_another_version_is_counted_all_the_same() -> None:
    found = diagnose(downloads(("a.example", None, 1), ("a.example", "from_the_future", 3)))
    assert {"what": "another reason", "images": 3, "share": "75.0%"} in found.rows()


def test_nothing_downloaded_is_nothing_told() -> None:
    found = diagnose(
        downloads().cast(pa.schema([("host", pa.string()), ("drop_reason", pa.string()), ("num_images", pa.int64())]))
    )
    assert (found.rows(), found.findings, found.shares()) == ([], (), {})


def test_every_reason_has_a_cause_that_the_table_names() -> None:
    assert {cause_of(reason) for reason in [*FETCH_REASONS, *NORMALISE_REASONS, None, "from_the_future"]} == set(CAUSES)


def test_shares_add_up() -> None:
    rows = [("h.example", reason, number + 1) for number, reason in enumerate([*FETCH_REASONS, *NORMALISE_REASONS])]
    found = diagnose(downloads(*rows))
    assert sum(found.counts.values()) == sum(row[2] for row in rows)
    assert sum(found.shares().values()) == pytest.approx(1, abs=0.001)
