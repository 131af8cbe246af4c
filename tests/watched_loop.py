"""Event loops under watch: whatever runs in one of these must not have waited in native code in the loop's thread."""

from __future__ import annotations

import asyncio

import uvloop

from steadyflow import _native

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def run_watched(main, loop="asyncio"):
    """Run a coroutine as asyncio.run does, and return its result."""
    before = _native.waits_of_this_thread()
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        result = runner.run(main)
    assert _native.waits_of_this_thread() == before, "the thread of the loop waited in native code"
    return result


async def turns(count=20):
    """Let the loop turn, so that everything that can go on has gone on."""
    for _ in range(count):
        await asyncio.sleep(0)


async def turns_until(condition):
    """Let the loop turn until something outside of it has happened; the test's own time limit ends it."""
    while not condition():  # noqa: ASYNC110 - what is waited for knows no event loop
        await asyncio.sleep(0)
