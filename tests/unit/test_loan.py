"""Loans: memory that is written in place, and what becomes of arrays that are kept, sliced, exported or forgotten."""

import contextlib
import ctypes
import gc
import threading
import warnings
import weakref

import numpy as np
import pytest

from steadyflow import (
    ArrayFormat,
    AudioFormat,
    BytesFormat,
    DataFlowCoordinator,
    DropNewest,
    DropOldest,
    Fail,
    FlowData,
    FlowFailed,
    Input,
    Module,
    Output,
    PipelineClosed,
    PipelineConfig,
    PipelineFull,
    SendTimeout,
    Source,
    StructFormat,
    Wait,
)
from steadyflow.audio import Level
from steadyflow.errors import BlockTooLarge, FlowNotRunning, FormatMismatch, ModuleFailed, StateError
from steadyflow.testing import Collect

LIMIT_S = 20
MONO = AudioFormat(48_000, 1)
LARGE = AudioFormat(48_000, 1, max_block_frames=2048)


@pytest.fixture
def flow():
    with DataFlowCoordinator("loans") as flow:
        yield flow


@pytest.fixture
def opened(flow):
    """Make a pipeline with two open ends."""

    def make(fmt=LARGE, rule=None, size=4, name="app"):
        return flow.pipeline(
            flow.register_pipeline(name, "reader", PipelineConfig(size, backpressure_strategy=rule), fmt)
        )

    return make


def lend(pipe, value, frames=2048):
    """Send one block through a loan that nobody keeps."""
    with pipe.loan(frames) as samples:
        samples[:] = value


def values(pipe, count):
    return [float(pipe.receive(timeout_s=0).samples.flat[0]) for _ in range(count)]


# --- what is lent -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fmt", "frames", "shape", "dtype"),
    [
        (AudioFormat(8000, 2), 5, (5, 2), "f4"),
        (AudioFormat(8000, 2, "f64", "planar"), 5, (2, 5), "f8"),
        (AudioFormat(8000, 2, "s16"), np.int32(5), (5, 2), "i2"),
        (AudioFormat(8000, 2, "s24"), 5, (5, 2, 3), "u1"),
        (AudioFormat(8000, 2, "s24", "planar"), 5, (2, 5, 3), "u1"),
        (AudioFormat(8000, 1), 4096, (4096, 1), "f4"),
        (ArrayFormat("c16", (3, 1, 5)), None, (3, 1, 5), "c16"),
        (ArrayFormat("?", (7,)), None, (7,), "?"),
        (ArrayFormat("i8", (1,) * 32), None, (1,) * 32, "i8"),
    ],
    ids=str,
)
def test_the_array_has_the_format_of_the_port(opened, fmt, frames, shape, dtype):
    pipe = opened(fmt)
    arguments = () if frames is None else (frames,)
    expected = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    with pipe.loan(*arguments) as samples:
        assert samples.shape == shape
        assert samples.dtype == np.dtype(dtype)
        assert samples.flags.writeable
        assert samples.flags.c_contiguous
        assert samples.flags.aligned
        samples[:] = expected
    received = pipe.receive(timeout_s=0)
    assert np.array_equal(received.data, expected)
    assert received.data.dtype == expected.dtype
    assert pipe.statistics().bytes == expected.nbytes
    assert pipe.statistics().loan_copies == 0


@pytest.mark.parametrize("frames", [0, -1, None, True, 1.5, "8", -(10**30)])
def test_frames_that_are_no_length(opened, frames):
    with pytest.raises(FormatMismatch, match=r"app->reader: expected frames to be an integer from 1 to 2048; got "):
        opened().loan(frames)


@pytest.mark.parametrize("frames", [2049, 10**30])
def test_more_frames_than_a_block_may_have(opened, frames):
    with pytest.raises(BlockTooLarge, match=f"expected at most 2048 frames in a block; got {frames}"):
        opened().loan(frames)


def test_an_array_format_takes_no_frames(opened):
    with pytest.raises(FormatMismatch, match=r"expected no frames.*int16 \(4,\); got 4"):
        opened(ArrayFormat("i2", (4,))).loan(4)


@pytest.mark.parametrize("fmt", [BytesFormat(), StructFormat(Level)], ids=str)
def test_what_is_no_array_cannot_be_lent(opened, fmt):
    with pytest.raises(FormatMismatch, match=r"expected a format of arrays to lend memory for, got .*; use send\(\)"):
        opened(fmt).loan(1)


def test_a_port_whose_format_is_not_known_yet():
    class Sends(Source):
        out = Output(AudioFormat(channels=1))

        def produce(self):
            yield

    with pytest.raises(FlowNotRunning, match="expected a port whose format is known"):
        Sends().out.loan(4)


# --- what is sent -----------------------------------------------------------------------------------------------------------


def test_the_block_is_sent_in_place_and_the_array_emptied(opened):
    pipe = opened()
    with pipe.loan(2048) as samples:
        samples[:] = 7
        address = samples.ctypes.data
    received = pipe.receive(timeout_s=0).samples
    assert received.ctypes.data == address, "no copy anywhere"
    assert (received == 7).all()
    assert samples.shape == (0, 0)
    assert samples.ctypes.data != address
    assert samples.base is None
    assert not samples.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        samples.flags.writeable = True
    assert samples.sum() == 0
    assert pipe.statistics().loan_copies == 0


def test_no_loan_is_refused_room_that_send_would_have(opened):
    pipe = opened(size=3)
    for number in range(50):
        for each in range(3):
            lend(pipe, number + each)
        assert pipe._rings[0].counters()["fill"] == 3
        assert values(pipe, 3) == [number, number + 1, number + 2]
    assert pipe.statistics().loan_copies == 0


@pytest.mark.parametrize("kept", [None, [1, 2, 3]])
def test_an_exception_sends_nothing(opened, kept):
    pipe = opened()
    with pytest.raises(ZeroDivisionError), pipe.loan(2048) as samples:
        if kept is not None:
            samples[:3, 0] = kept
            kept = samples[:3]
        raise ZeroDivisionError
    assert pipe.statistics().sent == 0
    if kept is None:
        assert samples.shape == (0, 0)
    else:
        assert kept[:, 0].tolist() == [1, 2, 3]
    del kept
    lend(pipe, 5)
    assert values(pipe, 1) == [5]


def test_stamps_are_those_of_a_plain_send(flow):
    seen = []

    class Passes(Module):
        audio = Input(MONO)
        out = Output(like="audio")
        other = Output(MONO)

        def process(self, audio):
            with self.out.loan(audio.frames) as samples:
                samples[:] = audio.samples
            with self.other.loan(2) as samples:
                samples[:] = 0

    class Takes(Module):
        audio = Input(MONO)

        def process(self, audio):
            seen.append((audio.timestamp_ns, audio.first_frame, audio.frames, audio.sequence, audio.flags))

    passes = flow.add(Passes(), name="passes")
    pipe = flow.pipeline(flow.register_pipeline("app", "passes.audio", PipelineConfig(8), MONO))
    flow.connect(passes.out, flow.add(Takes(), worker="other").audio, buffer_size=8)
    flow.connect(passes.other, "app-2", buffer_size=8)
    flow.start()
    for number in range(3):
        pipe.send(
            FlowData(np.zeros((5, 1), np.float32), timestamp_ns=100 + number, first_frame=1000 + 10 * number, flags=1)
        )
    pipe.end()
    assert flow.wait(LIMIT_S)
    assert seen == [(100 + number, 1000 + 10 * number, 5, number, 1) for number in range(3)]
    others = [flow.pipeline("passes.other->app-2").receive(timeout_s=0) for _ in range(3)]
    assert [(each.timestamp_ns, each.first_frame) for each in others] == [(100, 0), (101, 2), (102, 4)]


def test_fan_out_to_rings_and_fused_modules(flow):
    class Sends(Source):
        out = Output(LARGE)

        def produce(self):
            for number in range(6):
                with self.out.loan(2048) as samples:
                    samples[:] = number
                assert samples.shape == (0, 0)
                yield

    sends, fused = flow.add(Sends()), flow.add(Collect())
    flow.connect(sends.out, fused.data, buffer_size=1)
    links = [flow.connect(sends.out, name, buffer_size=6) for name in ("a", "b")]
    report = flow.run()
    assert [float(each.min()) for each in fused.values] == [float(each.max()) for each in fused.values] == [*range(6)]
    received = [[link.receive(timeout_s=0).samples for _ in range(6)] for link in links]
    assert [[float(each[7, 0]) for each in one] for one in received] == [[*range(6)]] * 2
    for one, other in zip(*received, strict=True):
        assert np.shares_memory(one, other)
    assert sum(metrics.loan_copies for metrics in report.pipelines.values()) == 0


def test_a_port_with_fused_modules_only(flow):
    class Sends(Source):
        out = Output(LARGE)

        def produce(self):
            for number in range(3):
                with self.out.loan(100 + number) as samples:
                    samples[:] = number
                assert samples.shape == (0, 0)
                yield

    sends, collects = flow.add(Sends()), flow.add(Collect())
    flow.connect(sends.out, collects.data, buffer_size=1)
    flow.run()
    assert [(len(each), each.max()) for each in collects.values] == [(100, 0), (101, 1), (102, 2)]


def test_an_output_that_nobody_listens_to(flow):
    arrays = []

    class Sends(Source):
        out = Output(LARGE)

        def produce(self):
            loan = self.out.loan(8)
            with loan as samples:
                samples[:] = 1
            assert loan.queued is True
            assert samples.shape == (0, 0)
            with self.out.loan(8) as samples:
                samples[:] = 2
                arrays.append(samples)
            yield

    flow.add(Sends())
    flow.run()
    assert arrays[0].ravel().tolist() == [2] * 8


def test_a_module_in_a_process(flow):
    from tests.unit.test_loan import SendsLoans

    sends = flow.add(SendsLoans(), placement="process")
    link = flow.connect(sends.out, "app", buffer_size=8)
    flow.run()
    received = [link.receive(timeout_s=0).samples for _ in range(6)]
    assert [float(each.min()) for each in received] == [float(each.max()) for each in received] == [*range(6)]
    assert link.statistics().loan_copies == 0


class SendsLoans(Source):
    out = Output(LARGE)

    def produce(self):
        for number in range(6):
            with self.out.loan(2048) as samples:
                samples[:] = number
            yield


# --- the rules of a full pipeline ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "queued", "left"), [(DropNewest(), False, [0, 1]), (DropOldest(), True, [1, 2])], ids=str
)
def test_a_rule_that_drops(opened, rule, queued, left):
    pipe = opened(rule=rule, size=2)
    lend(pipe, 0)
    lend(pipe, 1)
    loan = pipe.loan(2048)
    assert loan.queued is None
    with loan as samples:
        samples[:] = 2
    assert loan.queued is queued
    assert samples.shape == (0, 0)
    assert values(pipe, 2) == left
    for number in range(10):  # whatever was dropped, its buffer came back
        lend(pipe, number)
        assert values(pipe, 1) == [number]
    assert pipe.statistics().loan_copies == 0
    assert pipe.statistics().dropped_total == 1


@pytest.mark.parametrize(("rule", "error"), [(Fail(), PipelineFull), (Wait(timeout_ms=1), SendTimeout)], ids=str)
def test_a_rule_that_raises(opened, rule, error):
    pipe = opened(rule=rule, size=1)
    lend(pipe, 1)
    with pytest.raises(error), pipe.loan(2048) as samples:
        samples[:] = 2
    assert samples.shape == (0, 0)
    assert values(pipe, 1) == [1]
    lend(pipe, 3)
    assert values(pipe, 1) == [3]


def test_a_rule_that_waits(opened):
    pipe = opened(rule=Wait(), size=1)
    lend(pipe, 0)
    kept = []

    def send():
        for number in range(1, 5):
            with pipe.loan(2048) as samples:
                samples[:] = number
            kept.append(samples.shape)

    sender = threading.Thread(target=send)
    sender.start()
    assert [value_after_wait(pipe) for _ in range(5)] == [0, 1, 2, 3, 4]
    sender.join(LIMIT_S)
    assert kept == [(0, 0)] * 4
    assert pipe.statistics().loan_copies == 0


def value_after_wait(pipe):
    return float(pipe.receive(timeout_s=LIMIT_S).samples[-1, 0])


def test_a_reference_that_comes_while_the_loan_waits_for_room(opened):
    """What is kept is looked at when the block goes, not before."""
    pipe = opened(rule=Wait(), size=1)
    lend(pipe, 0)
    given, kept = [], []
    entered = threading.Event()

    def send():
        with pipe.loan(2048) as samples:
            samples[:] = 1
            given.append(weakref.ref(samples))
            entered.set()

    sender = threading.Thread(target=send)
    sender.start()
    assert entered.wait(LIMIT_S)
    while pipe._rings[0].counters()["full_events"] == 0:
        pass
    kept.append(given[0]())
    assert value_after_wait(pipe) == 0
    assert value_after_wait(pipe) == 1
    sender.join(LIMIT_S)
    assert pipe.statistics().loan_copies == 1
    assert (kept[0] == 1).all()


# --- what is kept -------------------------------------------------------------------------------------------------------------


class Holder:
    """Refers to an array as other libraries do: through its interface, with the array as the owner."""

    def __init__(self, array):
        self.__array_interface__ = array.__array_interface__
        self.array = array


def cycle(value):
    around = [value]
    around.append(around)
    return around


KEEPERS = {
    "a second name": lambda samples: samples,
    "a list": lambda samples: [samples],
    "a slice": lambda samples: samples[3:9],
    "an element's view": lambda samples: samples[3, 0, ...],
    "a transposition": lambda samples: samples.T,
    "another type": lambda samples: samples.view(np.int32),
    "a subclass": lambda samples: samples.view(np.recarray),
    "a memoryview": memoryview,
    "a slice of a memoryview": lambda samples: memoryview(samples)[4:],
    "frombuffer": lambda samples: np.frombuffer(samples, np.float32),
    "ctypes": lambda samples: samples.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
    "dlpack": np.from_dlpack,
    "array interface": lambda samples: np.asarray(Holder(samples)),
    "strides": lambda samples: np.lib.stride_tricks.as_strided(samples, (4, 4), (4, 4)),
    "an iterator": lambda samples: np.nditer(samples, op_flags=["readwrite"]),
    "a flat iterator": lambda samples: samples.flat,
    "a closure": lambda samples: lambda: samples,
    "a bound method": lambda samples: samples.fill,
    "a cycle": cycle,
}


@pytest.mark.parametrize("keeper", KEEPERS.values(), ids=KEEPERS)
def test_what_is_kept_stays_valid_and_is_copied(opened, keeper):
    pipe = opened(size=2)
    with pipe.loan(2048) as samples:
        samples[:] = 1
        kept = keeper(samples)
    assert samples.shape == (2048, 1)
    samples[:] = 5  # the sender's own again: nobody else sees it
    assert values(pipe, 1) == [1]
    for number in range(20):
        lend(pipe, number)
        pipe.send(np.full((2048, 1), -number, np.float32))
        assert values(pipe, 2) == [number, -number]
        assert (samples == 5).all()
    # One buffer is tied up by what was kept, and there is one for loans.
    assert pipe.statistics().loan_copies == 21
    del samples, kept
    gc.collect()
    lend(pipe, 3)
    assert values(pipe, 1) == [3]
    assert pipe.statistics().loan_copies == 21


@pytest.mark.parametrize("part", ["a slice", "an element's view", "a transposition", "another type"])
def test_a_part_that_outlives_the_name(opened, part):
    """References are counted by what they are of: a part is no name, though the count of the array is the same."""
    pipe = opened(size=2)
    with pipe.loan(2048) as samples:
        samples[:] = 1
        kept = KEEPERS[part](samples)
        del samples
    before = np.array(kept)
    for number in range(10):
        lend(pipe, number)
        assert values(pipe, 2 if number == 0 else 1)[-1] == number
    assert np.array_equal(kept, before)
    assert pipe.statistics().loan_copies == 11


def test_a_memoryview_that_was_released_keeps_nothing(opened):
    pipe = opened()
    with pipe.loan(2048) as samples, memoryview(samples) as view:
        view.cast("B")[:4] = np.float32(3).tobytes()
    assert pipe.statistics().loan_copies == 0
    assert values(pipe, 1) == [3]


@pytest.mark.parametrize("where", ["a buffer", "private memory"])
def test_a_name_that_was_given_to_another_array_sends_nothing(opened, where):
    """What was computed is not what would be sent: that is what somebody sent before."""
    pipe = opened()
    lend(pipe, 4)
    with contextlib.ExitStack() as stack:
        if where == "private memory":
            samples = stack.enter_context(pipe.loan(2048))  # has the buffer
            samples[:] = 5
        message = r"expected the array of the loan to have its name .*samples\[:\] = "
        with pytest.raises(StateError, match=message), pipe.loan(2048) as other:
            other = np.zeros((2048, 1), np.float32)
        with pytest.raises(StateError, match="so nothing was sent"), pipe.loan(2048):
            pass
    assert other.shape == (2048, 1)
    assert values(pipe, pipe.statistics().sent) == [4, 5][: pipe.statistics().sent]
    lend(pipe, 6)
    assert values(pipe, 1) == [6], "and the port can lend as before"


def test_a_loan_whose_shape_was_changed(opened):
    pipe = opened()
    with pipe.loan(2048) as samples, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples.shape = (2, 1024)  # its own shape is the user's to change, in versions of numpy that let it
        samples[:] = 6
    block = pipe.receive(timeout_s=0)
    assert block.samples.shape == (2048, 1)
    assert (block.samples == 6).all()
    assert pipe.statistics().loan_copies == 0


def test_a_weak_reference_keeps_nothing(opened):
    pipe = opened()
    with pipe.loan(2048) as samples:
        reference = weakref.ref(samples)
        samples[:] = 1
    assert pipe.statistics().loan_copies == 0
    assert reference() is samples
    del samples
    assert reference() is None


def test_kept_loans_outlive_the_flow():
    with DataFlowCoordinator() as flow:
        pipe = flow.pipeline(flow.register_pipeline("app", "reader", PipelineConfig(2), LARGE))
        with pipe.loan(2048) as samples:
            samples[:] = 1
            part = samples[5:8]
        received = pipe.receive(timeout_s=0).samples
    del flow, pipe, samples
    gc.collect()
    part += 1
    assert part.ravel().tolist() == [2, 2, 2]
    assert (received == 1).all()


def test_an_array_that_was_emptied_keeps_no_mapping():
    def mappings():
        gc.collect()
        with open("/proc/self/maps") as maps:  # noqa: PTH123 - not a file of anybody's
            return sum("memfd:" in line for line in maps)

    before = mappings()
    with DataFlowCoordinator() as flow:
        pipe = flow.pipeline(flow.register_pipeline("app", "reader", PipelineConfig(2), LARGE))
        with pipe.loan(2048) as samples:
            samples[:] = 1
    assert mappings() == before
    assert samples.size == 0


# --- loans beside each other -----------------------------------------------------------------------------------------------------


def test_loans_inside_of_loans(opened):
    pipe = opened(size=8)
    with pipe.loan(2048) as first:
        first[:] = 1
        with pipe.loan(2048) as second:
            second[:] = 2
            with pipe.loan(2048) as third:
                third[:] = 3
            assert third.shape == (0, 0)
        pipe.send(np.full((2048, 1), 4, np.float32))
    assert first.shape == second.shape == (0, 0)
    assert values(pipe, 4) == [3, 2, 4, 1]
    assert pipe.statistics().loan_copies == 2


def test_loans_of_several_threads(opened):
    pipe = opened(rule=Wait(), size=4)
    threads, blocks = 4, 100

    def send(thread):
        for number in range(blocks):
            with pipe.loan(2048) as samples:
                samples[:] = thread * blocks + number
            if number % 3 == 0:
                pipe.send(np.full((1, 1), -1, np.float32))

    senders = [threading.Thread(target=send, args=(thread,)) for thread in range(threads)]
    for sender in senders:
        sender.start()
    received = [[] for _ in range(threads)]
    for _ in range(threads * (blocks + (blocks + 2) // 3)):
        samples = pipe.receive(timeout_s=LIMIT_S).samples
        assert (samples == samples[0]).all()
        if samples[0, 0] >= 0:
            received[int(samples[0, 0]) // blocks].append(int(samples[0, 0]) % blocks)
    for sender in senders:
        sender.join(LIMIT_S)
    assert received == [[*range(blocks)]] * threads


def test_a_loan_that_is_entered_here_and_left_there(opened):
    pipe = opened()
    loan = pipe.loan(2048)
    samples = loan.__enter__()
    samples[:] = 9
    leaver = threading.Thread(target=loan.__exit__, args=(None, None, None))
    leaver.start()
    leaver.join(LIMIT_S)
    assert values(pipe, 1) == [9]
    assert pipe.statistics().loan_copies == 0


def test_a_stack_of_loans(opened):
    pipe = opened()
    with contextlib.ExitStack() as stack:
        samples = stack.enter_context(pipe.loan(2048))
        samples[:] = 6
    assert samples.shape == (0, 0)
    assert values(pipe, 1) == [6]


# --- the right call at the wrong time ----------------------------------------------------------------------------------------------


def test_a_loan_is_used_once(opened):
    pipe = opened()
    loan = pipe.loan(4)
    with pytest.raises(StateError, match="has not been entered"):
        loan.__exit__(None, None, None)
    with loan as samples:
        samples[:] = 0
        with pytest.raises(StateError, match="has been entered before"), loan:
            pass
    for _ in range(2):
        with pytest.raises(StateError, match="entered before; ask for a new one"), loan:
            pass
    with pytest.raises(StateError, match="or is over"):
        loan.__exit__(None, None, None)
    assert pipe.statistics().sent == 1


def test_a_loan_that_is_never_left_gives_its_buffer_back(opened):
    pipe = opened()
    abandoned = pipe.loan(2048)
    abandoned.__enter__()
    lend(pipe, 1)
    assert pipe.statistics().loan_copies == 1
    del abandoned
    lend(pipe, 2)
    assert pipe.statistics().loan_copies == 1
    assert values(pipe, 2) == [1, 2]


def test_a_loan_in_a_cycle_gives_its_buffer_back(opened):
    pipe = opened()

    class Owner:
        pass

    owner = Owner()
    owner.loan = pipe.loan(2048)
    owner.samples = owner.loan.__enter__()
    owner.itself = owner
    gc.collect()
    lend(pipe, 1)
    assert pipe.statistics().loan_copies == 1
    del owner
    gc.collect()
    lend(pipe, 2)
    assert pipe.statistics().loan_copies == 1


def test_a_loan_cannot_be_made_by_hand():
    from steadyflow._native import Loan

    with pytest.raises(TypeError):
        Loan()


def test_after_the_end_of_the_stream(opened):
    pipe = opened()
    entered = pipe.loan(4)
    samples = entered.__enter__()
    pipe.end()
    with pytest.raises(PipelineClosed, match="the stream was ended"):
        pipe.loan(4)
    with pytest.raises(PipelineClosed, match="the stream was ended"):
        entered.__exit__(None, None, None)
    assert samples.shape == (0, 0)


def test_after_the_flow_was_closed():
    with DataFlowCoordinator("gone") as flow:
        pipe = flow.pipeline(flow.register_pipeline("app", "reader", PipelineConfig(2), LARGE))
        port_loan = pipe.loan
        waiting = pipe.loan(4)
        entered = pipe.loan(4)
        samples = entered.__enter__()
        samples[:] = 1
    for refused in (pipe.loan, port_loan):
        with pytest.raises(PipelineClosed, match="flow 'gone' has been closed"):
            refused(4)
    with pytest.raises(PipelineClosed, match="flow 'gone' has been closed"):
        waiting.__enter__()
    with pytest.raises(PipelineClosed, match="flow 'gone' has been closed"):
        entered.__exit__(None, None, None)
    assert samples.shape == (0, 0)


def test_pipelines_that_a_module_feeds_lend_nothing(flow):
    class Sends(Source):
        out = Output(MONO)

        def produce(self):
            yield

    link = flow.connect(flow.add(Sends()).out, "app", buffer_size=2)
    with pytest.raises(StateError, match="expected an open source; this pipeline is fed by module"):
        link.loan(4)


def test_a_fused_port_from_another_thread(flow):
    failed = []

    class Sends(Source):
        out = Output(MONO)

        def produce(self):
            thread = threading.Thread(target=self.elsewhere)
            thread.start()
            thread.join(LIMIT_S)
            yield

        def elsewhere(self):
            try:
                with self.out.loan(4) as samples:
                    samples[:] = 0
            except StateError as error:
                failed.append(str(error))

    sends, collects = flow.add(Sends()), flow.add(Collect())
    flow.connect(sends.out, collects.data, buffer_size=2)
    flow.run()
    assert "expected to be sent from its worker's thread" in failed[0]
    assert collects.values == []


def test_a_module_that_raises_inside_of_a_loan(flow):
    class Breaks(Source):
        out = Output(MONO)

        def produce(self):
            with self.out.loan(4) as samples:
                samples[:] = 1
                raise ValueError("broken")
            yield

    link = flow.connect(flow.add(Breaks(), name="breaks").out, "app", buffer_size=2)
    with pytest.raises(FlowFailed) as caught:
        flow.run()
    assert isinstance(caught.value.exceptions[0], ModuleFailed)
    assert link.statistics().sent == 0
