"""The conversation between coordinator and worker process, over a real socket pair."""

import os
import socket
import struct
import threading
from contextlib import suppress

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from steadyflow.conversion import StepReport
from steadyflow.runtime.channel import (
    Abort,
    Channel,
    ChannelBroken,
    Done,
    Failed,
    Lost,
    Ready,
    Revoked,
    Setup,
    Start,
    Stop,
)
from steadyflow.runtime.scheduling import Refusal, Scheduling

# What one example takes depends on what else this machine does.
unhurried = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])

SETUP = Setup(
    flow="flow",
    segments=[0],
    bells=[(0, 64)],
    wiring={"name": "w", "modules": [b"\x00\xff"]},
    sys_path=["/a", "b"],
    argv=["script.py", "--gain", "2"],
    main_path="/main.py",
    main_package=None,
)
MESSAGES = [
    SETUP,
    Start(),
    Stop(),
    Abort(),
    Ready(Scheduling()),
    Ready(
        Scheduling(
            policy="rr", priority=4, granted_by="rtkit", refusals=(Refusal("SCHED_FIFO", "no"),), runaway_limit_us=1
        )
    ),
    Revoked("pitch", "it computed for 500 ms without a blocking call"),
    Revoked(None, ""),
    Failed("pitch", "ValueError: no peak", "Traceback ...\n", 7),
    Failed(None, "ImportError: µ", "", None),
    Lost("mic", "it was unplugged"),
    Done(
        {
            "pitch": (
                3,
                10**12,
                "ended",
                {},
                {"a->pitch": (StepReport(step="rate", calls=1, frames=2, copied_bytes=3, busy_ns=4),)},
            )
        }
    ),
]


@pytest.fixture
def pair():
    """Return a channel, and the bare socket at its other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    channel = Channel(ours)
    with theirs:
        yield channel, theirs
    channel.close()


@pytest.fixture
def channels():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ends = Channel(ours), Channel(theirs)
    yield ends
    for end in ends:
        end.close()


def framed(payload):
    return struct.pack("!I", len(payload)) + payload


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_arrive_as_they_were(channels, message):
    here, there = channels
    here.send(message)
    received = there.receive()
    assert received == message
    assert type(received) is type(message)


def test_messages_arrive_in_order_both_ways(channels):
    here, there = channels
    for message in MESSAGES:
        here.send(message)
        there.send(message)
    assert [there.receive() for _ in MESSAGES] == MESSAGES
    assert [here.receive() for _ in MESSAGES] == MESSAGES


def test_a_message_larger_than_the_socket_holds(channels):
    here, there = channels
    large = Failed("m", "x" * 5_000_000, "", None)
    sender = threading.Thread(target=here.send, args=(large,))
    sender.start()
    assert there.receive() == large
    sender.join(10)


def test_senders_in_several_threads_do_not_mix(channels):
    here, there = channels
    large = [Lost(name * 300_000, "") for name in "abc"]
    senders = [threading.Thread(target=lambda each=each: [here.send(each) for _ in range(5)]) for each in large]
    for sender in senders:
        sender.start()
    received = [there.receive() for _ in range(15)]
    for sender in senders:
        sender.join(10)
    assert sorted(received, key=lambda message: message.module) == sorted(large * 5, key=lambda message: message.module)


def test_a_message_may_arrive_byte_by_byte(pair):
    channel, other = pair

    def drip():
        for byte in framed(msgspec.msgpack.encode(SETUP)):
            other.sendall(bytes([byte]))

    sender = threading.Thread(target=drip)
    sender.start()
    assert channel.receive() == SETUP
    sender.join(10)


# --- descriptors ------------------------------------------------------------------------------------------------------


def test_descriptors_come_with_their_message(channels, tmp_path):
    here, there = channels
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        file.write_text(file.name)
    opened = [os.open(file, os.O_RDONLY) for file in files]
    here.send(SETUP, opened)
    for descriptor in opened:
        os.close(descriptor)  # the other side has its own
    assert there.receive() == SETUP
    received = there.take_descriptors()
    try:
        assert [os.read(descriptor, 10) for descriptor in received] == [b"one", b"two"]
        assert there.take_descriptors() == [], "they are the caller's now"
    finally:
        for descriptor in received:
            os.close(descriptor)


def test_as_many_descriptors_as_a_message_can_carry(channels):
    here, there = channels
    null = os.open(os.devnull, os.O_RDONLY)
    here.send(Start(), [null] * 250)
    os.close(null)
    assert there.receive() == Start()
    received = there.take_descriptors()
    assert len(set(received)) == 250
    for descriptor in received:
        os.close(descriptor)


class Watched(socket.socket):
    """Looks at descriptors in the moment in which they come."""

    def recvmsg(self, *arguments):
        message = super().recvmsg(*arguments)
        self.came = [os.get_inheritable(each) for _, _, data in message[1] for each in memoryview(data).cast("i")]
        return message


def test_no_process_can_inherit_descriptors_not_even_for_a_moment():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    watched = Watched(fileno=theirs.detach())
    here, there = Channel(ours), Channel(watched)
    reader, writer = os.pipe()
    here.send(Start(), [reader, writer, reader])
    assert there.receive() == Start()
    received = there.take_descriptors()
    for end in (here, there):
        end.close()

    assert watched.came == [False] * 3
    assert len(received) == 3
    for descriptor in (reader, writer, *received):
        os.close(descriptor)


def test_descriptors_that_nobody_took_are_closed_with_the_channel(channels):
    here, there = channels
    reader, writer = os.pipe()
    here.send(Start(), [writer])
    os.close(writer)
    there.receive()
    there.close()
    assert os.read(reader, 1) == b"", "no writing end is left"
    os.close(reader)


# --- what goes wrong ----------------------------------------------------------------------------------------------------


def test_the_other_side_closes(pair):
    channel, other = pair
    other.close()
    with pytest.raises(ChannelBroken, match="has closed the conversation"):
        channel.receive()
    with pytest.raises(ChannelBroken, match="the other side is gone"):
        channel.send(Start())


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_a_message_that_breaks_off(pair, count):
    channel, other = pair
    other.sendall(framed(msgspec.msgpack.encode(SETUP))[:count])
    other.close()
    with pytest.raises(ChannelBroken, match="has closed the conversation"):
        channel.receive()


def test_a_message_that_claims_to_be_too_large(pair):
    channel, other = pair
    other.sendall(struct.pack("!I", (1 << 30) + 1))
    with pytest.raises(ChannelBroken, match="at most 1073741824 bytes, got one of 1073741825"):
        channel.receive()


def test_a_large_claim_takes_no_memory_before_the_bytes_have_come(pair):
    channel, other = pair
    other.sendall(struct.pack("!I", 1 << 30) + b"only this")
    other.close()
    with pytest.raises(ChannelBroken, match="has closed the conversation"):
        channel.receive()


def test_a_message_that_does_not_come_in_time(pair):
    channel, other = pair
    with pytest.raises(ChannelBroken, match="did not finish in time"):
        channel.receive(timeout_s=0.0)
    other.sendall(framed(msgspec.msgpack.encode(SETUP)))
    assert channel.receive(timeout_s=1e9) == SETUP


def test_a_message_that_comes_and_comes(pair):
    """The time is that of the whole message, not of each piece."""
    channel, other = pair

    def drip():
        with suppress(OSError):  # the other side has closed
            while True:
                other.sendall(b"x")

    other.sendall(struct.pack("!I", 1 << 30))
    sender = threading.Thread(target=drip)
    sender.start()
    with pytest.raises(ChannelBroken, match="did not finish in time"):
        channel.receive(timeout_s=0.05)
    channel.close()
    sender.join(10)
    assert not sender.is_alive()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"not a message",
        msgspec.msgpack.encode({}),
        msgspec.msgpack.encode({"type": "launch"}),
        msgspec.msgpack.encode({"type": "ended"}),
        msgspec.msgpack.encode({"type": "ended", "module": 5}),
        msgspec.msgpack.encode({"type": "done", "modules": {"m": [1, 2]}}),
        msgspec.msgpack.encode({"type": "start"}) + b"\x00",
        msgspec.msgpack.encode([1, 2, 3]),
    ],
)
def test_what_is_no_message(pair, payload):
    channel, other = pair
    other.sendall(framed(payload))
    with pytest.raises(ChannelBroken, match="expected a message, got something else"):
        channel.receive()


@unhurried
@given(st.binary(max_size=64))
def test_garbage_is_refused_and_never_anything_else(data):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    channel = Channel(ours)
    try:
        theirs.sendall(data)
        theirs.close()
        with suppress(ChannelBroken):
            while True:
                channel.receive()
    finally:
        channel.close()


@pytest.mark.parametrize("payload", [b"\x81\xa4type\xa2\xff\xfe", b"\x82\xa4type\xa5ended\xa6module\xa1\xff"])
def test_text_that_is_not_utf8(pair, payload):
    channel, other = pair
    other.sendall(framed(payload))
    with pytest.raises(ChannelBroken):
        channel.receive()


def test_after_close_nothing_works_and_nothing_hangs(channels):
    here, _ = channels
    here.close()
    with pytest.raises(ChannelBroken):
        here.send(Start())
    with pytest.raises(ChannelBroken):
        here.receive()
