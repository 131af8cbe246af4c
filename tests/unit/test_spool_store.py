"""The file of a spool: order, limits, restarts, kills, damage, and disks that take nothing."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from contextlib import closing

import pytest

from steadyflow import AnyFormat, AudioFormat, BytesFormat
from steadyflow.errors import (
    BlockTooLarge,
    ConfigurationError,
    FileUnreadable,
    FormatClash,
    LimitExceeded,
    SpoolUnavailable,
    StateError,
)
from steadyflow.spooling import SpooledBlock, SpoolStore
from steadyflow.spooling import store as store_module

FORMAT = BytesFormat(8192)
ROOMY = 1 << 30


@pytest.fixture
def path(tmp_path):
    return tmp_path / "blocks.spool"


@pytest.fixture
def time(monkeypatch):
    """A clock that stands still until it is put forward."""

    class Time:
        now_ns = 1_000_000_000

        def __call__(self):
            return self.now_ns

    clock = Time()
    monkeypatch.setattr(store_module, "monotonic_ns", clock)
    return clock


def opened(path, **options):
    return SpoolStore(path, **{"format": FORMAT, "max_bytes": ROOMY} | options)


def numbered(number, size=8):
    return SpooledBlock(number.to_bytes(8, "little") * (size // 8), frames=number % 7)


def drained(store):
    taken = []
    while (block := store.take()) is not None:
        taken.append(int.from_bytes(block.payload[:8], "little"))
        store.forget()
    return taken


def depth(store):
    return store.depth_blocks, store.depth_bytes, store.depth_frames


def altered(path, statement, *arguments):
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement, arguments)
        database.commit()


# --- a queue ------------------------------------------------------------------------------------------------------------


def test_what_is_appended_is_taken_in_order(path):
    with opened(path) as store:
        assert store.take() is None
        for number in range(500):
            assert store.append(numbered(number))
        assert store.take() is store.take(), "until it is forgotten"
        assert drained(store) == list(range(500))
        assert depth(store) == (0, 0, 0)


@pytest.mark.parametrize("through_disk", [False, True])
def test_nothing_of_a_block_is_lost(path, through_disk):
    block = SpooledBlock(b"payload", 128, -5, (1 << 64) - 1, 7, b"\x81\xa1a\x01")
    with opened(path) as store:
        store.append(block)
        assert depth(store) == (1, block.size_bytes, 128)
        if not through_disk:
            assert store.take() == block
    with opened(path) as store:
        assert store.take() == block
        assert depth(store) == (1, block.size_bytes, 128)


def test_what_is_left_is_there_after_a_restart_and_what_comes_goes_behind_it(path):
    with opened(path) as store:
        for number in range(300):
            store.append(numbered(number))
        for _ in range(100):
            store.take()
            store.forget()
    with opened(path) as store:
        assert store.depth_blocks == 200
        for number in range(300, 310):
            store.append(numbered(number))
        assert drained(store) == list(range(100, 310))
    with opened(path) as store:
        assert store.take() is None


def test_the_file_is_for_its_owner_only_and_alone(path):
    with opened(path) as store:
        store.append(numbered(1))
        store.flush()
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
        assert modes == {path.name: 0o600, f"{path.name}-wal": 0o600}
    assert os.listdir(path.parent) == [path.name]


def test_a_block_that_was_taken_and_not_forgotten_comes_again(path):
    with opened(path) as store:
        store.append(numbered(1))
        store.append(numbered(2))
        store.take()
        store.forget()
        store.take()
    with opened(path) as store:
        assert drained(store) == [2]


def test_limits(path):
    size = numbered(1).size_bytes
    with opened(path, max_bytes=3 * size + 1) as store:
        assert [store.append(numbered(number)) for number in range(4)] == [True, True, True, False]
        assert not store.could_hold(SpooledBlock(bytes(4096)))
        store.take()
        store.forget()
        assert store.append(numbered(4))
        assert drained(store) == [1, 2, 4]
    with opened(path, max_blocks=2) as store:
        assert [store.append(numbered(number)) for number in range(3)] == [True, True, False]
    with opened(path, max_blocks=1) as store:  # less than there is
        assert not store.append(numbered(3))
        assert drained(store) == [0, 1]


def test_the_file_is_bounded_while_a_hundred_times_its_limit_flows_through(path):
    limit = 1 << 20
    largest = 0
    with opened(path, max_bytes=limit) as store:
        fed = taken = 0
        while fed < 100 * limit // 4160:
            while store.append(numbered(fed, 4096)):
                fed += 1
            store.flush()
            largest = max(largest, path.stat().st_size)
            for _ in range(100):
                assert int.from_bytes(store.take().payload[:8], "little") == taken
                store.forget()
                taken += 1
        assert largest < 2 * limit
        log = path.with_name(f"{path.name}-wal").stat().st_size
        assert log <= 10 << 20
        assert drained(store) == list(range(taken, fed))
    assert path.stat().st_size < largest


def test_a_large_file_is_made_small_once_it_is_empty(path):
    with opened(path) as store:
        for number in range(6000):
            store.append(numbered(number, 4096))
        store.flush()
        drained(store)
        store.flush()
        assert path.stat().st_size < 1 << 17
        store.append(numbered(1))
        store.flush()
        assert drained(store) == [1]


def test_it_is_emptied_at_once(path):
    with opened(path) as store:
        for number in range(200):
            store.append(numbered(number))
        store.take()
        store.clear()
        assert (depth(store), store.take()) == ((0, 0, 0), None)
        store.append(numbered(200))
    with opened(path) as store:
        assert drained(store) == [200]


# --- commits --------------------------------------------------------------------------------------------------------------


def rows_in(path):
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT count(*) FROM block").fetchone()[0]


def copied(path):
    """What a kill would leave at this moment."""
    place = path.with_name("killed")
    shutil.copy(path, place)
    shutil.copy(f"{path}-wal", f"{place}-wal")
    return place


def test_blocks_are_committed_together(path, time):
    with opened(path) as store:
        for number in range(64):
            store.append(numbered(number))
        assert (store.unwritten_blocks, rows_in(copied(path))) == (64, 0)
        store.append(numbered(64))
        assert (store.unwritten_blocks, rows_in(copied(path))) == (1, 64)


def test_large_blocks_are_committed_sooner(path, time):
    with opened(path, format=BytesFormat(1 << 20)) as store:
        for number in range(3):
            store.append(numbered(number, 1 << 19))
        assert rows_in(copied(path)) == 2


def test_nothing_waits_longer_than_a_tenth_of_a_second(path, time):
    with opened(path) as store:
        store.append(numbered(0))
        time.now_ns += 99_999_999
        store.flush_if_due()
        assert store.is_dirty
        time.now_ns += 1
        store.flush_if_due()
        assert not store.is_dirty
        assert rows_in(copied(path)) == 1
        time.now_ns += 10**9
        store.append(numbered(1))
        time.now_ns += 10**8
        store.append(numbered(2))
        assert rows_in(copied(path)) == 2
        store.take()
        store.forget()
        time.now_ns += 10**8
        store.take()
        store.forget()
        assert rows_in(copied(path)) == 1, "block 1 is gone, and block 2 there"


def test_what_is_forgotten_before_it_is_written_is_not_written(path, time):
    with opened(path) as store:
        for number in range(10):
            store.append(numbered(number))
            store.take()
            store.forget()
        store.flush()
        assert rows_in(copied(path)) == 0


KILLED = """
    import os, sys
    from steadyflow import BytesFormat
    from steadyflow.spooling import SpooledBlock, SpoolStore

    store = SpoolStore(sys.argv[1], format=BytesFormat(8192), max_bytes=1 << 30)
    begin = int(sys.argv[2])
    for number in range(begin, 1 << 40):
        store.append(SpooledBlock(number.to_bytes(8, "little") * 64))
        if number % 3 == 0:
            oldest = store.take()
            print(number, int.from_bytes(oldest.payload[:8], "little"), flush=True)
            store.forget()
"""


def test_a_kill_loses_and_repeats_no_more_than_was_not_committed(path):
    begin, expected = 0, 0
    for lines in (400, 37, 1):
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED), path, str(begin)], stdout=subprocess.PIPE, text=True
        )
        with child:
            for _ in range(lines):
                appended, taken = map(int, child.stdout.readline().split())
            child.send_signal(signal.SIGKILL)
            for line in child.stdout:  # what it did until it was gone
                if len(numbers := line.split()) == 2 and line.endswith("\n"):
                    appended, taken = map(int, numbers)
        with opened(path) as store:
            left = drained(store)
            assert left == list(range(left[0], left[-1] + 1)) if left else True
            if left:
                assert taken - 65 <= left[0] <= taken + 1
                assert left[0] >= expected
                assert left[-1] >= appended - 66
            else:
                assert appended - taken <= 66
            for number in left:
                store.append(numbered(number, 512))
            begin, expected = (left[-1] + 1 if left else appended + 1), (left[0] if left else 0)


# --- what is refused --------------------------------------------------------------------------------------------------------


def test_a_file_has_one_user(path):
    with opened(path):
        with pytest.raises(SpoolUnavailable, match="locked") as refused:
            opened(path)
        assert refused.value.reason == "locked"
        program = f"from tests.unit.test_spool_store import opened; opened({str(path)!r})"
        child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert "SpoolUnavailable" in child.stderr
        assert "End the other flow, or choose another file." in child.stderr
    opened(path).close()


@pytest.mark.parametrize("content", [b"x", b"hello, world\n" * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_something_else_is_left_alone(path, content):
    path.write_bytes(content)
    with pytest.raises(FileUnreadable, match="expected the file of a spool, got"):
        opened(path)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


def test_another_database_is_left_alone(path):
    altered(path, "CREATE TABLE mine (x)")
    content = path.read_bytes()
    with pytest.raises(FileUnreadable, match=r"got another database\. Choose another name"):
        opened(path)
    assert path.read_bytes() == content


def test_another_version_is_refused(path):
    opened(path).close()
    altered(path, "PRAGMA user_version=2")
    with pytest.raises(FileUnreadable, match="expected a spool of version 1, got version 2"):
        opened(path)


def test_another_format_is_refused(path):
    opened(path, format=AudioFormat(48_000, 1)).close()
    with pytest.raises(FormatClash, match=r"expected blocks of .*44100.*got a spool of .*48000"):
        opened(path, format=AudioFormat(44_100, 1))
    opened(path, format=AudioFormat(48_000, 1)).close()


def test_an_empty_file_becomes_a_spool(path):
    path.touch()
    with opened(path) as store:
        store.append(numbered(1))
    with opened(path) as store:
        assert drained(store) == [1]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON block BEGIN DELETE FROM block; END",
        "CREATE VIEW v AS SELECT 1",
        "ALTER TABLE block ADD COLUMN more",
        "DELETE FROM spool",
        "INSERT INTO spool VALUES ('{}')",
        "UPDATE spool SET format = x'00'",
        "UPDATE block SET position = -1",
        "UPDATE block SET position = 9223372036854775807",
    ],
)
def test_what_else_stands_in_the_file_is_refused_and_not_run(path, statement):
    with opened(path) as store:
        store.append(numbered(1))
    altered(path, statement)
    with pytest.raises(SpoolUnavailable) as refused:
        opened(path)
    assert refused.value.reason == "damaged"
    assert "Move the file away" in str(refused.value)


def test_a_damaged_file_is_refused(path):
    with opened(path) as store:
        for number in range(2000):
            store.append(numbered(number, 512))
    content = bytearray(path.read_bytes())
    content[8192:65536] = os.urandom(65536 - 8192)
    path.write_bytes(content)
    with pytest.raises(SpoolUnavailable) as refused:
        opened(path)
    assert refused.value.reason == "damaged"


def test_a_file_that_was_cut_off_is_refused(path):
    with opened(path) as store:
        for number in range(2000):
            store.append(numbered(number, 512))
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(SpoolUnavailable) as refused:
        opened(path)
    assert refused.value.reason == "damaged"


def test_damage_that_is_met_only_when_it_is_read(path, monkeypatch):
    monkeypatch.setattr("steadyflow.spooling.database._CHECKED_WHOLE_BYTES", 0)
    with opened(path) as store:
        for number in range(2000):
            store.append(numbered(number, 4096))
    content = bytearray(path.read_bytes())
    content[100_000:200_000] = bytes(100_000)
    path.write_bytes(content)
    with pytest.raises(SpoolUnavailable) as refused, opened(path) as store:
        drained(store)
    assert refused.value.reason == "damaged"


@pytest.mark.parametrize(
    "change",
    [
        "payload = x'00'",
        "payload = zeroblob(8193)",
        "payload = zeroblob(8000)",
        "payload = 'text'",
        "metadata = zeroblob(257)",
        "metadata = 7",
        "frames = -1",
        "frames = 'many'",
        "flags = 65536",
        "timestamp_ns = 1.5",
        "first_frame = 1",
        "checksum = 0",
    ],
)
@pytest.mark.parametrize("positions", ["= 3", "> 0", "= 5"])
def test_a_block_that_is_not_what_was_written_is_passed_over_and_counted(path, change, positions):
    with opened(path) as store:
        for number in range(5):
            store.append(numbered(number))
    altered(path, f"UPDATE block SET {change} WHERE position {positions}")
    with opened(path) as store:
        whole = {"= 3": [0, 1, 3, 4], "> 0": [], "= 5": [0, 1, 2, 3]}[positions]
        assert drained(store) == whole
        assert (store.damaged_blocks, depth(store)) == (5 - len(whole), (0, 0, 0))
    with opened(path) as store:
        assert (store.take(), store.depth_blocks) == (None, 0)


def test_a_row_that_is_too_long_is_not_read_into_memory(path):
    with opened(path) as store:
        store.append(numbered(0))
    altered(path, "UPDATE block SET payload = zeroblob(100000000)")
    with opened(path) as store, pytest.raises(SpoolUnavailable) as refused:
        store.take()
    assert refused.value.reason == "damaged"


def test_rows_that_are_missing_are_counted(path):
    with opened(path) as store:
        for number in range(300):
            store.append(numbered(number, 4096))
        store.flush()
        store._database.execute("DELETE FROM block WHERE position > 250")
        assert drained(store) == list(range(250))
        assert (store.damaged_blocks, depth(store)) == (50, (0, 0, 0))


def test_arguments(path, tmp_path):
    for options in (
        {"max_bytes": 0},
        {"max_bytes": 1.5},
        {"max_blocks": 0},
        {"format": AnyFormat()},
        {"format": AudioFormat()},
    ):
        with pytest.raises(ConfigurationError):
            opened(path, **options)
    with pytest.raises(ConfigurationError):
        opened("")
    with pytest.raises(LimitExceeded, match="a spool takes up to"):
        opened(path, format=BytesFormat(1 << 30))
    with pytest.raises(FileUnreadable, match="something else than a file"):
        opened(tmp_path)
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    with pytest.raises(FileUnreadable, match="something else than a file"):
        opened(fifo)
    with opened(path) as store:
        with pytest.raises(BlockTooLarge, match="expected a payload of up to 8192 bytes"):
            store.append(SpooledBlock(bytes(8193)))
        with pytest.raises(StateError, match="take"):
            store.forget()
    for call in (
        store.take,
        store.forget,
        store.flush,
        store.flush_if_due,
        store.clear,
        lambda: store.append(numbered(1)),
    ):
        with pytest.raises(StateError, match="this one was closed"):
            call()
    store.close()


def test_a_name_that_means_memory_to_sqlite_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with opened(":memory:") as store:
        store.append(numbered(1))
    assert (tmp_path / ":memory:").is_file()


# --- disks that take nothing --------------------------------------------------------------------------------------------------


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(SpoolUnavailable, match="Make the folder") as refused:
        opened(tmp_path / "missing" / "blocks.spool")
    assert refused.value.reason == "directory"
    (tmp_path / "file").touch()
    with pytest.raises(SpoolUnavailable) as refused:
        opened(tmp_path / "file" / "blocks.spool")
    assert refused.value.reason == "directory"


def test_a_folder_that_cannot_be_written(small_disk):
    path = small_disk / "blocks.spool"
    with opened(path) as store:
        store.append(numbered(1))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for place in (path, small_disk / "other.spool"):
        with pytest.raises(SpoolUnavailable) as refused:
            opened(place)
        assert refused.value.reason == "permission"


@pytest.mark.skipif(os.getuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SpoolUnavailable) as refused:
        opened(tmp_path / "blocks.spool")
    tmp_path.chmod(0o700)
    assert refused.value.reason == "permission"


def assert_readable_while_full(store, time, free, reasons=("full",)):
    """Fill the disk, take everything, and go on once there is room again."""
    number = 0
    with pytest.raises(SpoolUnavailable) as refused:
        while True:
            store.append(numbered(number, 4096))
            number += 1
    assert refused.value.reason in reasons
    assert store.problem is refused.value
    with pytest.raises(SpoolUnavailable):
        store.append(numbered(number, 4096))  # not tried again at once
    assert store.depth_blocks == number
    first = [int.from_bytes(store.take().payload[:8], "little") for _ in (1, 2)]
    assert first == [0, 0]
    for expected in range(number // 2):
        assert int.from_bytes(store.take().payload[:8], "little") == expected
        store.forget()
    free()
    time.now_ns += 10**9
    store.flush_if_due()
    assert store.problem is None
    assert store.append(numbered(number, 4096))
    assert drained(store) == list(range(number // 2, number + 1))


def test_a_full_disk_can_be_read_and_filled_again(small_disk, time):
    filler = small_disk / "filler"
    filler.write_bytes(bytes(600_000))
    with opened(small_disk / "blocks.spool") as store:
        assert_readable_while_full(store, time, filler.unlink)


def test_a_disk_that_stays_full_is_read_to_the_end_and_then_filled_again(small_disk, time):
    with opened(small_disk / "blocks.spool") as store:
        for _ in range(3):
            number = 0
            with pytest.raises(SpoolUnavailable):
                while True:
                    store.append(numbered(number, 4096))
                    number += 1
            assert number > 64
            assert drained(store) == list(range(number))
            time.now_ns += 10**9
            store.flush_if_due()
            assert store.problem is None


def test_a_disk_that_is_full_from_the_beginning(small_disk):
    with pytest.raises(OSError):
        (small_disk / "filler").write_bytes(bytes(2 << 20))
    with pytest.raises(SpoolUnavailable) as refused:
        opened(small_disk / "blocks.spool")
    assert refused.value.reason == "full"


def test_a_file_that_may_not_grow(path, time):
    with opened(path) as store:
        (pages,) = store._database.execute("PRAGMA max_page_count=100").fetchone()
        assert pages == 100
        assert_readable_while_full(store, time, lambda: store._database.execute("PRAGMA max_page_count=100000"))


def test_a_process_that_may_write_no_longer_files(path, time):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(path) as store:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
            assert_readable_while_full(
                store, time, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)), ("full", "io")
            )
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_cannot_be_written_at_the_end_is_said(path):
    store = opened(path)
    store._database.execute("PRAGMA max_page_count=6")
    for number in range(10):
        store.append(numbered(number, 4096))
    with pytest.raises(SpoolUnavailable, match=r"database or disk is full.* 10 blocks are lost\."):
        store.close()
    store.close()
    opened(path).close()


def test_a_file_that_was_removed_takes_nothing_but_can_be_read(path, time):
    store = opened(path)
    for number in range(300):
        store.append(numbered(number))
    store.flush()
    away = path.with_name("away")
    path.rename(away)
    store.append(numbered(300))
    with pytest.raises(SpoolUnavailable, match="Do not move or remove") as refused:
        store.flush()
    assert refused.value.reason == "removed"
    assert int.from_bytes(store.take().payload[:8], "little") == 0
    path.write_bytes(b"another")
    time.now_ns += 10**9
    with pytest.raises(SpoolUnavailable, match="another file"):
        store.append(numbered(301))
    path.unlink()
    away.rename(path)
    time.now_ns += 10**9
    assert store.append(numbered(301))
    assert drained(store) == list(range(302))
    store.close()


def test_a_flush_that_fails_keeps_nobody_from_taking(path, time):
    store = opened(path)
    for number in range(200):
        store.append(numbered(number))
    store.flush()
    shutil.rmtree(path.parent)
    assert drained(store) == list(range(200))
    time.now_ns += 10**9
    with pytest.raises(SpoolUnavailable, match="Make the folder"):
        store.append(numbered(200))
    path.parent.mkdir()
    time.now_ns += 10**9
    assert store.append(numbered(201))
    store.close()
    with opened(path) as store:
        assert drained(store) == [201]


def test_a_file_that_is_gone_at_the_end_was_lost(path):
    store = opened(path)
    for number in range(10):
        store.append(numbered(number))
    store.flush()
    path.unlink()
    with pytest.raises(SpoolUnavailable, match=r"10 blocks are lost\."):
        store.close()
    assert store.lost_blocks == 10


def test_a_spool_of_others_that_took_the_place_is_left_alone(path, time):
    other = path.with_name("other")
    with opened(other) as store:
        store.append(numbered(7))
    store = opened(path)
    store.append(numbered(1))
    other.replace(path)
    assert drained(store) == [1]
    for _ in range(2):
        with pytest.raises(SpoolUnavailable):
            store.flush()
        assert store.take() is None
        time.now_ns += 10**9
    assert "one with blocks" in str(store.problem)
    store.close()
    with opened(path) as store:
        assert drained(store) == [7]


def test_it_shows_what_it_holds(path):
    with opened(path, max_bytes=1000) as store:
        store.append(numbered(1))
        assert repr(store) == f"<SpoolStore {str(path)!r} of bytes, up to 8192: 1 blocks, 72 of 1000 bytes>"
