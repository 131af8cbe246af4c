"""What flow control tells, in words."""

import dataclasses

import pytest

from steadyflow import events
from steadyflow.events.sentences import TOLD, sentence, story

PIPE = "mic.out->model.audio"
NUMBERS = (("fill_share", 0.9),)
STARTED = events.DataFlowStarted(flow="talk", workers=("main",), timestamp_ns=10**9)
DETECTED = events.BackpressureDetected(
    flow="talk", pipeline=PIPE, detector="watermarks", reason="92% of its room is taken", numbers=NUMBERS, culprit="model", stalled=("mic.out->rec.data",),
    timestamp_ns=10**9 + 50_000_000,
)  # fmt: skip
RELIEVED = events.BackpressureRelieved(
    flow="talk",
    pipeline=PIPE,
    reason="no block waits",
    lasted_s=1.5,
    dropped=12,
    dropped_ms=120.0,
    waiting=380,
    timestamp_ns=3 * 10**9,
)
CHANGED = events.StrategyChanged(
    flow="talk", pipeline=PIPE, before="normal", after="less room", reason="blocks wait", numbers=NUMBERS, expected="that they wait less"
)  # fmt: skip
ASSESSED = events.StrategyAssessed(
    flow="talk", pipeline=PIPE, strategy="less room", helped=False, reason="they wait as long", numbers=NUMBERS
)
QUALITY = events.QualityChanged(
    flow="talk", module="model", pipeline=PIPE, before="exact", after="fast", reason="blocks wait"
)
STANDSTILL = events.StandstillDetected(
    flow="talk", modules=("a", "b"), pipelines=("a->b", "b->a"), reason="a -> b -> a wait"
)
SPILLED = [
    events.SpillFailed(flow="talk", module="spool", path="x", reason="no room", then="drop_oldest"),
    events.SpillFull(flow="talk", module="spool", path="x", blocks=4, then="wait"),
    events.SpillRestored(flow="talk", module="spool", path="x", lasted_s=2.0, dropped=3),
    events.SpillLeft(flow="talk", module="spool", path="x", blocks=7, frames=0, lost=0),
]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            DETECTED,
            f"{PIPE} is under pressure: 92% of its room is taken; 'model' cannot keep up; mic.out->rec.data wait with it",
        ),
        (RELIEVED, f"{PIPE} is relieved after 1.50 s: 12 blocks (120 ms) were dropped; 380 blocks still wait"),
        (CHANGED, f"{PIPE}: normal -> less room, because blocks wait; expected: that they wait less"),
        (ASSESSED, f"{PIPE}: 'less room' has not helped: they wait as long"),
        (QUALITY, f"model works at quality 'fast' instead of 'exact', because of {PIPE}"),
        (STANDSTILL, "standstill: a -> b -> a wait"),
    ],
)
def test_each_event_is_a_sentence(event, text):
    assert sentence(event) == text


def test_there_is_a_sentence_of_all_that_is_told_and_of_nothing_else():
    told = [DETECTED, RELIEVED, CHANGED, ASSESSED, QUALITY, STANDSTILL, *SPILLED]
    assert {type(event) for event in told} == set(TOLD)
    assert all(sentence(event) for event in told)
    assert sentence(STARTED) is None
    left = SPILLED[-1]
    assert sentence(left) == "spool has left 7 blocks in x for the next run"
    lost = events.SpillLeft(flow="talk", module="spool", path="x", blocks=7, frames=0, lost=3)
    assert sentence(lost) == "spool has left 7 blocks in x for the next run; 3 more could not be written, and are lost"


def test_a_story_has_times_since_the_start():
    lines = story([STARTED, DETECTED, RELIEVED], [PIPE])
    assert [line.split()[0] for line in lines] == ["0.050", "2.000"]


def test_that_a_source_waits_which_can_is_no_story():
    assert story([STARTED, DETECTED, RELIEVED], []) == []
    assert len(story([STARTED, DETECTED, CHANGED, RELIEVED], [])) == 3
    assert len(story([STARTED, STANDSTILL], [])) == 1


@pytest.mark.parametrize("ends", [False, True])
def test_nor_is_that_it_is_paced(ends):
    before, after = ("paced by credits", "Wait()") if ends else ("Wait()", "paced by credits")
    paced = dataclasses.replace(CHANGED, before=before, after=after)
    assert sentence(paced)
    assert story([STARTED, DETECTED, paced, RELIEVED], []) == []
    assert len(story([STARTED, DETECTED, paced, RELIEVED], [PIPE])) == 3
    assert len(story([STARTED, DETECTED, paced, CHANGED, RELIEVED], [])) == 4


def test_a_long_story_has_its_beginning_and_its_end():
    lines = story([STARTED, *[DETECTED, RELIEVED] * 50], [PIPE])
    assert len(lines) == 25
    assert lines[12].split() == ["...", "76", "more", "..."]
