"""What tests of changing a flow share: a source of numbers, what passes them on, and how one waits for something to come."""

from __future__ import annotations

import threading
import time

from steadyflow import BytesFormat, Input, Module, Output, Source

FORMAT = BytesFormat(max_bytes=64)


class Ticks(Source):
    """Sends numbers for as long as it may."""

    out = Output(FORMAT)
    live = False

    def __init__(self, last=None, first=0, period_ns=300_000):
        self.last = last
        self.first = first
        self.period_ns = period_ns

    def produce(self):
        number = self.first
        while self.last is None or number < self.last:
            self.out.send(b"%d" % number)
            number += 1
            yield time.monotonic_ns() + self.period_ns


class Pass(Module):
    """Passes on what comes, after a while."""

    data = Input(FORMAT)
    out = Output(FORMAT)

    def __init__(self, delay_s=0.0):
        self.delay_s = delay_s

    def process(self, block):
        time.sleep(self.delay_s)
        return bytes(block.data)


class Gate(Module):
    """Takes nothing until it is opened; then everything at once."""

    data = Input()

    def __init__(self):
        self.opened = threading.Event()
        self.values = []

    def process(self, block):
        self.values.append(bytes(block.data))
        assert self.opened.wait(90)


def wait_until(condition, seconds=30):
    """Wait for something to come; fails where it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


def numbers(values):
    """Return the numbers that were collected."""
    return [int(value) for value in values]


def is_gapless(values):
    """Tell whether each number is one more than the one before."""
    return bool(values) and values == list(range(values[0], values[0] + len(values)))
