"""One number and one line for a whole run."""

from flows.orchestration.prefect_executor import RunProgress


def test_each_phase_is_an_equal_part_of_the_whole() -> None:
    progress = RunProgress(["clean", "fetch", "normalise", "publish"])
    assert (progress.percent, progress.text) == (0, "begun")
    progress.note("clean", done=2, total=2)
    assert (progress.percent, progress.text) == (25, "clean: done")
    progress.note("fetch", done=1, total=2)
    progress.note("normalise", done=0, total=2000)
    assert (progress.percent, progress.text) == (37.5, "fetch: 1 of 2, normalise: 0 of 2,000")


def test_what_was_not_foreseen_is_named_and_counts_for_nothing() -> None:
    progress = RunProgress(["clean"])
    progress.note("recall", done=1, total=4)
    assert (progress.percent, progress.text) == (0, "recall: 1 of 4")


def test_it_never_goes_back_and_nothing_to_do_is_done() -> None:
    progress = RunProgress()
    progress.note("clean", done=0, total=0)
    assert (progress.percent, progress.text) == (100, "clean: done")
    progress.note("fetch", done=0, total=3)
    assert progress.percent == 100
