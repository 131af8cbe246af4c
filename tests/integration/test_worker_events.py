"""Events of modules and workers, from threads and processes, on the bus of their flow."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from steadyflow import AudioFormat, DataFlowCoordinator, Input, Module, Output, Source, testing
from steadyflow._native import AbortFlag, OutputCore, Segment
from steadyflow.errors import ConfigurationError, DataError, FlowFailed, FlowNotRunning, StateError
from steadyflow.events import (
    Delivery,
    EventsLost,
    FlowEvent,
    ModuleEnded,
    PipelineFailure,
    PipelineRegistered,
    ViewsExhausted,
)
from steadyflow.events.wire import MAX_EVENT_BYTES, decode_event, encode_event
from steadyflow.formats import BytesFormat
from steadyflow.payload import Preparer, native_spec
from steadyflow.pipeline import Lane
from steadyflow.runtime.layout import SegmentPlan
from steadyflow.runtime.news import (
    POOL_BYTES,
    RESERVED_EVENTS,
    RING_BYTES,
    WAITING_EVENTS,
    NewsEnd,
    NewsReader,
    NewsSender,
    create_news,
)
from steadyflow.runtime.wiring import NewsWiring, Place

FORMAT = AudioFormat(48_000, 1)
SOON_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Counted(FlowEvent):
    delivery: ClassVar[Delivery] = "critical"
    number: int
    tags: tuple[str, ...] = ()


class Counting(Source):
    """Publishes numbers, each before the block of that number."""

    out = Output(FORMAT)

    def __init__(self, events=20, kills_itself=False, too_long=False):
        self._events = events
        self._kills_itself = kills_itself
        self._too_long = too_long

    def setup(self):
        self.publish(Counted(number=-1))

    def produce(self):
        for number in range(self._events):
            self.publish(Counted(number=number, tags=("x" * (5000 if self._too_long else 1),)))
            self.out.send(np.zeros((16, 1), np.float32))
            yield
        if self._kills_itself:
            os.kill(os.getpid(), signal.SIGKILL)

    def finish(self):
        self.publish(Counted(number=self._events))


class Keeping(Module):
    """Keeps every view that it is given."""

    audio = Input(FORMAT)

    def __init__(self):
        self._kept = []

    def process(self, audio):
        self._kept.append(audio.samples)


class Large(Source):
    out = Output(FORMAT)
    live = False

    def produce(self):
        for _ in range(8):
            self.out.send(np.zeros((4096, 1), np.float32))
            yield


def run(placement, subscriber=None, **arguments):
    with DataFlowCoordinator("told") as flow:
        source = flow.add(Counting(**arguments), name="count", placement=placement)
        collect = flow.add(testing.Collect(), name="end")
        flow.connect(source.out, collect.data, buffer_size=8)
        if subscriber is not None:
            flow.events.subscribe(FlowEvent, subscriber, delivery="critical")
        return flow.run()


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_a_module_publishes_and_the_application_is_told_in_order(placement):
    told = []
    report = run(placement, told.append)
    events = [event for event in report.events if isinstance(event, Counted)]
    assert [event.number for event in events] == list(range(-1, 21))
    assert {event.flow for event in events} == {"told"}
    assert [event.timestamp_ns for event in events] == sorted(event.timestamp_ns for event in events)
    assert events[1].tags == ("x",)
    # The end of a module is told after what it has told itself.
    order = [event for event in report.events if isinstance(event, Counted | ModuleEnded)]
    ended = next(event for event in order if isinstance(event, ModuleEnded) and event.module == "count")
    assert order.index(ended) > order.index(events[-1])
    assert [event for event in told if isinstance(event, Counted)] == events
    assert not [event for event in report.events if isinstance(event, EventsLost)]


def test_what_a_killed_worker_has_told_is_told():
    with pytest.raises(FlowFailed) as failed:
        run("process", kills_itself=True, events=30)
    events = failed.value.report.events
    assert [event.number for event in events if isinstance(event, Counted)] == list(range(-1, 30))
    assert any(isinstance(event, PipelineFailure) for event in events)


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_what_the_runtime_notices_in_a_worker_is_told(placement):
    with DataFlowCoordinator("kept") as flow:
        source = flow.add(Large(), name="large")
        keeping = flow.add(Keeping(), name="keeps", placement=placement, worker="w")
        flow.connect(source.out, keeping.audio, buffer_size=2)
        report = flow.run()
    told = [event for event in report.events if isinstance(event, ViewsExhausted)]
    assert [(event.pipeline, event.module, event.limit, event.flow) for event in told] == [
        ("large.out->keeps.audio", "keeps", 2, "kept")
    ]


def test_an_event_that_is_too_long_for_a_process_fails_its_module():
    with pytest.raises(FlowFailed, match="expected a Counted of at most 4096 bytes from a process, got"):
        run("process", too_long=True)
    assert len([event for event in run("thread", too_long=True).events if isinstance(event, Counted)]) == 22


def test_what_can_change_is_refused_where_it_is_published():
    module = Counting()
    with pytest.raises(ConfigurationError, match=r"Counted\.tags"):
        module.publish(Counted(number=1, tags=["a"]))
    with pytest.raises(FlowNotRunning, match="publish from setup"):
        module.publish(Counted(number=1))


def test_the_application_publishes_on_the_same_bus():
    heard = threading.Event()
    flow = DataFlowCoordinator("app")
    with flow:
        flow.events.subscribe(Counted, lambda event: heard.set() if event.flow == "app" else None)
        flow.events.publish(Counted(number=1))
        assert heard.wait(SOON_S)
        assert "0 subscriptions" not in repr(flow.events)
    with pytest.raises(StateError, match="closed"):
        flow.events.publish(Counted(number=1))
    assert [type(event) for event in flow.events.history] == [Counted]


def test_a_subscriber_may_ask_the_flow_and_cannot_keep_it_from_stopping():
    forever = threading.Event()
    seen = []

    def stuck(event):
        seen.append(flow.report().name)
        forever.wait(SOON_S)

    with DataFlowCoordinator("stuck") as flow:
        flow.events.subscribe(PipelineRegistered, stuck)
        source = flow.add(Counting())
        collect = flow.add(testing.Collect())
        flow.connect(source.out, collect.data, buffer_size=8)
        report = flow.run()
    assert report.events
    assert seen == ["stuck"]
    assert not forever.is_set()
    forever.set()


def test_a_script_may_define_its_events(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            from dataclasses import dataclass
            import numpy as np
            from steadyflow import AudioFormat, DataFlowCoordinator, Output, Source, testing
            from steadyflow.events import FlowEvent

            @dataclass(frozen=True, kw_only=True)
            class Hello(FlowEvent):
                name: str

            class Greeting(Source):
                out = Output(AudioFormat(48_000, 1))
                def produce(self):
                    self.publish(Hello(name="there"))
                    self.out.send(np.zeros((4, 1), np.float32))
                    yield

            with DataFlowCoordinator("script") as flow:
                greeting = flow.add(Greeting(), placement="process")
                end = flow.add(testing.Collect())
                flow.connect(greeting.out, end.data, buffer_size=2)
                flow.events.subscribe(Hello, lambda event: print("hello", event.name, event.flow, flush=True))
                flow.run()
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hello there script\n"


# --- the way itself -------------------------------------------------------------------------------------------------------


class Way:
    """A ring of events between two ends of one process."""

    def __init__(self):
        plan = SegmentPlan()
        self._bell, self._producer_bell = plan.bell(), plan.bell()
        self._ring, self._pool = plan.reserve(RING_BYTES), plan.reserve(POOL_BYTES)
        self.segment = Segment.create(plan.bytes)
        self.segment.create_bell(self._bell)
        self.segment.create_bell(self._producer_bell)
        create_news(self.segment, self._ring, self._pool)
        self.told = []
        place = {"ring": Place(0, self._ring), "pool": Place(0, self._pool), "bell": Place(0, self._bell)}
        self.sender = NewsSender("w", NewsWiring(**place, bit=0), [self.segment])
        self.end_of_it = NewsEnd("w", Lane(self.segment, self._ring, self._pool, self.segment, self._producer_bell), 0)
        self.reader = NewsReader("f", (self.segment, self._bell), lambda worker, event: self.told.append(event))
        self.reader.add([self.end_of_it])

    def send_bytes(self, payload):
        fmt = BytesFormat(MAX_EVENT_BYTES)
        raw = OutputCore()
        raw.configure("raw", native_spec(fmt), fmt, Preparer("raw", fmt), None, AbortFlag())
        raw.set_pool(self.segment, self._pool, "raw")
        raw.add_ring("raw", self.segment, self._ring, self.segment, self._bell, 0)
        assert raw.send(payload)
        raw.detach()

    def end(self):
        self.sender.end()
        self.reader.end(SOON_S)


def test_nobody_waits_for_room_and_what_had_none_is_told_with_the_next():
    way = Way()
    room = WAITING_EVENTS - RESERVED_EVENTS
    for number in range(room + 36):
        way.sender.publish(Counted(number=number))
    way.reader.start()
    deadline = threading.Event()
    for _ in range(1000):
        if len(way.told) == room:
            break
        deadline.wait(0.01)
    way.sender.publish(Counted(number=999))
    way.end()
    assert [event.number for event in way.told[:room]] == list(range(room))
    lost, last = way.told[room:]
    assert (lost.worker, lost.lost, last.number) == ("w", 36, 999)
    assert "waited" in lost.reason
    way.sender.detach()
    way.sender.publish(Counted(number=1000))  # nobody is told, and nobody fails


@dataclass(frozen=True, kw_only=True)
class Private(FlowEvent):
    number: int


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xc1", "something else"),
        (b"", "something else"),
        (b"\x93\xa5a:B.C\x80\x00", "'a:B.C'"),
        (b"\x93\xa7os:name\x80\x00", "'os:name'"),
        (encode_event(Private(number=1), 0).replace(b"Private", b"PrivatX"), "PrivatX"),
        (encode_event(Private(number=1), 0)[:-1], "something else"),
    ],
)
def test_what_is_no_event_is_told_as_lost_and_imports_nothing(payload, reason):
    way = Way()
    loaded = set(sys.modules)
    way.send_bytes(payload)
    way.reader.start()
    way.end()
    (lost,) = way.told
    assert isinstance(lost, EventsLost)
    assert reason in lost.reason
    assert set(sys.modules) == loaded


def test_events_come_through_as_they_were():
    event = Counted(flow="f", number=3, tags=("a", "b"), timestamp_ns=7)
    assert decode_event(encode_event(event, 5)) == (event, 5)
    with pytest.raises(DataError):
        decode_event(b"nonsense")
    with pytest.raises(DataError, match="expected an event, got something else"):
        decode_event(encode_event(Private(number=1), 0).replace(b"number", b"numbex"))


@dataclass(frozen=True, kw_only=True)
class Undecodable(FlowEvent):
    value: str | bytes


class Mixed(Source):
    """Publishes what nobody could decode, beside what everybody can."""

    out = Output(FORMAT)

    def __init__(self, burst=0):
        self._burst = burst
        self.refused = 0

    def produce(self):
        for number in range(3):
            self.publish(Counted(number=number))
            try:
                self.publish(Undecodable(value="x"))
            except ConfigurationError:
                self.publish(Counted(number=100 + number))
            yield

    def finish(self):
        for number in range(self._burst):
            self.publish(Counted(number=1000 + number))


def alone(module, **options):
    with DataFlowCoordinator("alone") as flow:
        flow.add(module, name="mixed", placement="process", **options)
        return flow.run()


def test_an_event_that_nobody_could_decode_is_refused_where_it_is_published_and_the_others_come():
    report = alone(Mixed())
    assert [event.number for event in report.events if isinstance(event, Counted)] == [0, 100, 1, 101, 2, 102]
    assert report.modules["mixed"].state == "ended"


def test_the_end_of_a_module_is_told_whatever_it_tells_itself_and_every_lost_event_is_counted():
    burst = 3000
    report = alone(Mixed(burst))
    came = len([event for event in report.events if isinstance(event, Counted)])
    lost = sum(event.lost for event in report.events if isinstance(event, EventsLost))
    assert came + lost == 6 + burst
    assert [event.module for event in report.events if isinstance(event, ModuleEnded)] == ["mixed"]


def test_a_module_cannot_tell_what_only_the_runtime_knows():
    with pytest.raises(ConfigurationError, match="expected an event of your own, got a ModuleEnded"):
        Mixed().publish(ModuleEnded(module="mixed"))


def test_a_damaged_ring_silences_its_own_worker_only():
    ways = [Way(), Way()]
    told = []
    ends = [
        NewsEnd(f"w{number}", Lane(way.segment, way._ring, way._pool, way.segment, way._producer_bell), number)
        for number, way in enumerate(ways)
    ]
    reader = NewsReader("f", (ways[0].segment, ways[0]._bell), lambda worker, event: told.append((worker, event)))
    reader.add(ends)
    ways[0].sender.publish(Counted(number=1))
    # Over the header of the first ring.
    os.pwrite(ways[0].segment.descriptor, b"\xff" * 64, ways[0]._ring)
    ways[1].sender.publish(Counted(number=2))
    reader.start()
    for _ in range(1000):
        if len(told) >= 2:
            break
        threading.Event().wait(0.01)
    ways[1].sender.end()
    reader.end(SOON_S)
    assert [event.number for worker, event in told if worker == "w1"] == [2]
    assert all(isinstance(event, EventsLost) or event.number == 1 for worker, event in told if worker == "w0")


# --- causes and effects -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cause(FlowEvent):
    number: int


@dataclass(frozen=True, kw_only=True)
class Effect(FlowEvent):
    number: int
    hop: int


class Causes(Source):
    """Tells, and then sends."""

    out = Output(BytesFormat(16))
    live = False

    def __init__(self, count):
        self.count = count

    def produce(self):
        for number in range(self.count):
            self.publish(Cause(number=number))
            self.out.send(b"%d" % number)
            yield time.monotonic_ns() + 2_000_000


class Effects(Module):
    """Tells what came, and passes it on."""

    data = Input(BytesFormat(16))
    out = Output(BytesFormat(16))

    def __init__(self, hop):
        self.hop = hop

    def process(self, block):
        self.publish(Effect(number=int(block.data), hop=self.hop))
        return bytes(block.data)


@pytest.mark.parametrize("places", list(itertools.product(["thread", "process"], repeat=3)), ids="-".join)
def test_what_causes_is_told_before_what_it_causes(places):
    count = 300
    told = []
    with DataFlowCoordinator("causes") as flow:
        flow.add(Causes(count), name="causes", placement=places[0], worker="causes")
        flow.add(Effects(1), name="first", placement=places[1], worker="first")
        flow.add(Effects(2), name="second", placement=places[2], worker="second")
        flow.connect("causes.out", "first.data", buffer_size=4)
        flow.connect("first.out", "second.data", buffer_size=4)
        flow.events.subscribe(FlowEvent, told.append, queue_size=10 * count)
        flow.run()
    places_of = {
        (event.number, getattr(event, "hop", 0)): place
        for place, event in enumerate(told)
        if isinstance(event, Cause | Effect)
    }
    lost = sum(event.lost for event in told if isinstance(event, EventsLost))  # where other work takes the cores
    assert len(places_of) + lost == 3 * count
    complete = [number for number in range(count) if all((number, hop) in places_of for hop in range(3))]
    assert len(complete) >= 50
    for number in complete:
        assert places_of[number, 0] < places_of[number, 1] < places_of[number, 2], number
