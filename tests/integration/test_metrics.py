"""What a flow says about itself: counts that always add up, times that mean what they say, a report to read and parse."""

import json
import math
import threading
import time

import msgspec
import numpy as np
import pytest

from steadyflow import (
    AudioFormat,
    DataFlowCoordinator,
    DropNewest,
    DropOldest,
    Fail,
    FlowFailed,
    FlowMetrics,
    Input,
    Latest,
    Module,
    Output,
    PipelineConfig,
    PipelineFull,
    Source,
    Wait,
)
from steadyflow._native import bucket_bounds
from steadyflow.metrics.health import health_of, health_score, lost_blocks
from steadyflow.metrics.histogram import Histogram
from steadyflow.testing import Collect, ScriptedSource

LIMIT_S = 20
MONO = AudioFormat(48_000, 1)
BLOCK = np.zeros((16, 1), np.float32)
BOUNDS = bucket_bounds()
NOTHING_MS = 1e-6  # no block is that fast: where lateness is counted at all, every block is late
WIDTH = 0.032  # of a bucket of the histograms
COUNTS = ("sent", "delivered", "dropped_total", "late", "repeated", "corrupted", "bytes", "backpressure_events")


class Sink(Module):
    audio = Input(MONO)

    def process(self, audio):
        pass


class Pass(Module):
    audio = Input(MONO)
    out = Output(MONO)

    def process(self, audio):
        return audio.samples


class Many(Source):
    out = Output(MONO)

    def __init__(self, blocks, *, paced=False):
        self.blocks = blocks
        self.paced = paced

    def produce(self):
        for _ in range(self.blocks):
            self.out.send(BLOCK)
            yield


@pytest.fixture
def flow():
    with DataFlowCoordinator("measured") as flow:
        yield flow


def opened(flow, size=8, rule=None, *, fmt=MONO, name="app", max_latency_ms=None):
    config = PipelineConfig(size, max_latency_ms=max_latency_ms, backpressure_strategy=rule)
    return flow.pipeline(flow.register_pipeline(name, "reader", config, fmt))


def check_identity(metrics):
    assert metrics.dropped_total == sum(metrics.dropped.values())
    assert metrics.sent == metrics.delivered + metrics.dropped_total + metrics.in_flight
    assert metrics.in_flight >= metrics.fill >= 0


# --- counts -----------------------------------------------------------------------------------------------------------


def test_every_step_of_a_pipeline_adds_up(flow):
    pipe = opened(flow, 3, DropOldest())
    check_identity(pipe.statistics())
    rules = [DropOldest(), DropNewest(), Latest(), Wait(timeout_ms=0.01, then="drop_newest"), Fail()]
    sent = 0
    for step in range(60):
        flow.handle_backpressure(pipe, rules[step // 3 % len(rules)])
        try:
            pipe.send(BLOCK)
            sent += 1
        except PipelineFull:
            pass
        if step % 4 == 3:
            pipe.receive(timeout_s=0)
        if step % 20 == 19:
            pipe.flush()
        metrics = pipe.statistics()
        check_identity(metrics)
        assert metrics.sent == sent
        assert metrics.in_flight == metrics.fill <= 3
    assert set(metrics.dropped) == {"oldest", "newest", "superseded", "flushed"}
    assert metrics.bytes == sent * BLOCK.nbytes


@pytest.mark.parametrize("rule", [Wait(), DropOldest(), DropNewest(), Latest()], ids=repr)
@pytest.mark.parametrize("worker", [None, "own"], ids=["fused", "apart"])
def test_counts_add_up_at_every_look_at_a_running_flow(flow, rule, worker):
    source, work, seen = flow.add(Many(3000)), flow.add(Pass(), worker=worker), flow.add(Sink(), worker=worker)
    links = [
        flow.connect(source.out, work.audio, buffer_size=4, backpressure_strategy=rule),
        flow.connect(work.out, seen.audio, buffer_size=4, backpressure_strategy=rule),
    ]
    flow.start()
    before = [link.statistics() for link in links]
    ended = False
    while not ended:
        ended = flow.wait(0.001)
        now = [link.statistics() for link in links]
        for earlier, metrics in zip(before, now, strict=True):
            check_identity(metrics)
            assert metrics.in_flight <= 5  # buffer_size, and the one that is being worked on
            assert metrics.peak_fill <= 4
            assert all(getattr(earlier, name) <= getattr(metrics, name) for name in COUNTS)
        before = now
    for metrics in flow.stop().pipelines.values():
        assert metrics.in_flight == metrics.fill == 0
    assert now[0].sent == 3000
    assert now[1].sent == now[0].delivered
    if rule == Wait():
        assert now[1].delivered == 3000


def test_counts_of_a_process_add_up(flow):
    source, work, seen = flow.add(Many(500)), flow.add(Pass(), placement="process"), flow.add(Collect())
    links = [
        flow.connect(source.out, work.audio, buffer_size=4),
        flow.connect(work.out, seen.data, buffer_size=4),
    ]
    flow.start()
    while not flow.wait(0.001):
        for link in links:
            check_identity(link.statistics())
    for metrics in flow.stop().pipelines.values():
        assert (metrics.sent, metrics.delivered, metrics.in_flight, metrics.dropped) == (500, 500, 0, {})
    assert flow.report().modules["pass"].calls == 500


def test_counts_add_up_after_a_failure(flow):
    class Fails(Module):
        audio = Input(MONO)

        def process(self, audio):
            if audio.sequence == 3:
                raise ValueError("on purpose")

    flow.connect(flow.add(Many(10), name="many").out, flow.add(Fails(), worker="own").audio, buffer_size=4)
    with pytest.raises(FlowFailed) as caught:
        flow.run()
    metrics = caught.value.report.pipelines["many.out->fails.audio"]
    check_identity(metrics)
    assert (metrics.delivered, metrics.in_flight) == (3, 0)
    assert metrics.dropped == {"failed": metrics.sent - 3}
    assert metrics.error_rate_percentage == pytest.approx(100 * (metrics.sent - 3) / metrics.sent)


def test_bytes_and_peaks_are_counted(flow):
    pipe = opened(flow, 6)
    for number in range(5):
        pipe.send(BLOCK[: number + 1])
    pipe.receive(timeout_s=0)
    metrics = pipe.statistics()
    assert metrics.bytes == 4 * (1 + 2 + 3 + 4 + 5)
    assert (metrics.fill, metrics.peak_fill, metrics.in_flight) == (4, 5, 4)


def test_backpressure_is_counted_once_for_each_time_it_begins(flow):
    pipe = opened(flow, 2, DropNewest())
    for _ in range(3):
        for _ in range(5):
            pipe.send(BLOCK)
        for _ in range(2):
            pipe.receive(timeout_s=0)
    assert pipe.statistics().backpressure_events == 3
    assert pipe.statistics().blocked_ms == 0


# --- late -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paced", [False, True])
@pytest.mark.parametrize("worker", [None, "own"], ids=["fused", "apart"])
def test_only_below_a_paced_source_is_a_block_late(flow, paced, worker):
    source, work, sink = flow.add(Many(20, paced=paced)), flow.add(Pass()), flow.add(Sink(), worker=worker)
    flow.connect(source.out, work.audio, buffer_size=4, max_latency_ms=NOTHING_MS)
    flow.connect(work.out, sink.audio, buffer_size=4, max_latency_ms=NOTHING_MS)
    flow.connect(source.out, "reader", buffer_size=20, max_latency_ms=NOTHING_MS)
    flow.start()
    for _ in range(20):
        flow.pipeline("many.out->reader").receive(timeout_s=LIMIT_S)
    flow.wait()
    for metrics in flow.stop().pipelines.values():
        assert (metrics.delivered, metrics.late) == (20, 20 if paced else 0)


def test_a_live_source_is_paced(flow):
    source = flow.add(ScriptedSource([BLOCK] * 5, MONO, live=True))
    link = flow.connect(source.out, flow.add(Sink()).audio, buffer_size=5, max_latency_ms=NOTHING_MS)
    assert flow.run().pipelines[link.id].late == 5


def test_what_the_application_sends_may_be_late(flow):
    pipe = opened(flow, max_latency_ms=NOTHING_MS)
    work = flow.add(Pass())
    into = flow.pipeline(flow.register_pipeline("app", work.audio, PipelineConfig(8, max_latency_ms=NOTHING_MS)))
    beyond = flow.connect(work.out, flow.add(Sink()).audio, buffer_size=8, max_latency_ms=NOTHING_MS)
    flow.start()
    for _ in range(3):
        pipe.send(BLOCK)
        pipe.receive(timeout_s=0)
        into.send(BLOCK)
    into.end()
    assert flow.wait(LIMIT_S)
    assert [link.statistics().late for link in (pipe, into, beyond)] == [3, 3, 3]


def test_without_a_limit_and_below_a_generous_one_nothing_is_late(flow):
    for limit, name in ((None, "none"), (60_000, "generous")):
        pipe = opened(flow, max_latency_ms=limit, name=name)
        pipe.send(BLOCK)
        pipe.receive(timeout_s=0)
        assert pipe.statistics().late == 0


# --- times ------------------------------------------------------------------------------------------------------------

WORK_S = 0.01


class Slow(Module):
    audio = Input(MONO)

    def process(self, audio):
        threading.Event().wait(WORK_S)  # works, as far as anybody can see


def test_waiting_behind_slow_work_is_latency_but_no_overhead(flow):
    source, slow = flow.add(Many(8)), flow.add(Slow(), worker="own")
    link = flow.connect(source.out, slow.audio, buffer_size=8)
    metrics = flow.run().pipelines[link.id]
    work_ms = 1000 * WORK_S
    # The last of eight blocks waited for the seven before it.
    assert metrics.latency_max_ms >= 6 * work_ms
    assert metrics.latency_p50_ms >= 2 * work_ms
    assert metrics.busy_p50_ms >= work_ms * (1 - WIDTH)
    assert metrics.overhead_p50_ms < work_ms
    assert metrics.overhead_p50_ms < metrics.latency_p50_ms / 2
    assert metrics.latency_p50_ms <= metrics.latency_p95_ms <= metrics.latency_p99_ms <= metrics.latency_p999_ms
    assert metrics.latency_p999_ms <= metrics.latency_max_ms
    assert metrics.overhead_max_ms <= metrics.latency_max_ms
    assert metrics.latency_max_ms / 8 <= metrics.average_latency_ms <= metrics.latency_max_ms


def test_work_of_a_module_is_its_own(flow):
    """In one worker a module is called by the one before it; the time of the second is not that of the first."""
    work, slow = flow.add(Pass(), name="work"), flow.add(Slow(), name="slow")
    flow.connect(flow.add(Many(5)).out, work.audio, buffer_size=2)
    flow.connect(work.out, slow.audio, buffer_size=2)
    report = flow.run()
    assert report.modules["slow"].busy_ms >= 5 * 1000 * WORK_S
    assert report.modules["work"].busy_ms < report.modules["slow"].busy_ms / 2
    assert report.pipelines["many.out->work.audio"].busy_p50_ms < 1000 * WORK_S / 2


def test_latencies_lie_between_what_the_receiver_sees_before_and_after(flow):
    pipe = opened(flow, 256)
    least, most = [], []
    for size in (1, 3, 10, 30, 100, 200) * 3:  # a burst of many waits longer than a burst of few
        for _ in range(size):
            pipe.send(BLOCK)
        for _ in range(size):
            entered = time.monotonic_ns()
            received = pipe.receive(timeout_s=0)
            left = time.monotonic_ns()
            least.append((entered - received.sent_ns) / 1e6)
            most.append((left - received.sent_ns) / 1e6)
    metrics = pipe.statistics()
    assert min(least) <= metrics.average_latency_ms <= max(most)
    assert np.mean(least) <= metrics.average_latency_ms <= np.mean(most)
    assert max(least) <= metrics.latency_max_ms <= max(most)
    for name, percent in (("p50", 50), ("p95", 95), ("p99", 99), ("p999", 99.9)):
        measured = getattr(metrics, f"latency_{name}_ms")
        low, high = (np.percentile(values, percent, method="inverted_cdf") for values in (least, most))
        assert low * (1 - WIDTH) <= measured <= high * (1 + WIDTH)
        assert getattr(metrics, f"overhead_{name}_ms") <= measured


def test_throughput_is_what_was_delivered_in_the_time(flow):
    before = time.monotonic()
    pipe = opened(flow, 64)
    after = time.monotonic()
    for _ in range(50):
        pipe.send(BLOCK)
    for _ in range(40):
        pipe.receive(timeout_s=0)
    before_reading = time.monotonic()
    throughput = pipe.statistics().throughput_ops_per_second
    after_reading = time.monotonic()
    assert 40 / (after_reading - before) <= throughput <= 40 / (before_reading - after)


def test_the_throughput_of_a_flow_that_ended_stands_still(flow):
    link = flow.connect(flow.add(Many(100)).out, flow.add(Sink()).audio, buffer_size=4)
    report = flow.run()
    first = report.pipelines[link.id].throughput_ops_per_second
    assert first > 0
    # From the start of the sources to the end of the workers, which the flow's own time outlasts a little.
    assert first >= 100 / report.duration_s * 0.999999
    assert link.statistics().throughput_ops_per_second == first
    assert flow.report().duration_s == report.duration_s


def test_a_pipeline_without_blocks_has_no_times(flow):
    metrics = opened(flow).statistics()
    assert metrics.pipeline_health == "idle"
    for name in FlowMetrics.__struct_fields__:
        value = getattr(metrics, name)
        assert value in (0, 100, "idle", {}, None), name


def test_the_last_reading_stays_after_the_flow_closed():
    with DataFlowCoordinator() as flow:
        pipe = opened(flow)
        pipe.send(BLOCK)
        pipe.receive(timeout_s=0)
        pipe.send(BLOCK)
    metrics = pipe.statistics()
    assert (metrics.sent, metrics.delivered, metrics.in_flight) == (2, 1, 1)
    assert flow.get_flow_metrics(pipe) is metrics


# --- percentiles ------------------------------------------------------------------------------------------------------


def histogram_of(values):
    """Count as the data plane does."""
    buckets = np.searchsorted(BOUNDS, values, side="right") - 1
    counts = np.bincount(buckets, minlength=len(BOUNDS) - 1).astype(np.uint64)
    return Histogram(counts, int(values.sum()), int(values.max()))


@pytest.mark.parametrize(
    "draw",
    [
        lambda random: random.lognormal(11, 2, 20_000),
        lambda random: random.uniform(0, 200, 5_000),
        lambda random: random.exponential(1e6, 3),
        lambda random: np.concatenate([random.normal(1e5, 1e3, 9_990), random.normal(1e9, 1e7, 10)]),
        lambda random: np.full(100, 123_456_789.0),
        lambda random: 2.0 ** random.integers(0, 41, 2_000),
        lambda random: np.zeros(10),
    ],
    ids=["lognormal", "small", "few", "spikes", "constant", "powers", "zeros"],
)
def test_percentiles_are_within_a_bucket_of_the_truth(draw):
    values = np.abs(draw(np.random.default_rng(5))).astype(np.int64)
    histogram = histogram_of(values)
    for percent in (0, 1, 25, 50, 75, 95, 99, 99.9, 99.99, 100):
        # numpy rounds its ranks; where that takes it past a rank, the ones on both sides are right.
        around = np.clip([percent - 1e-9, percent + 1e-9], 0, 100)
        low, high = np.percentile(values, around, method="inverted_cdf") / 1e6
        assert low * (1 - WIDTH / 2) - 1e-9 <= histogram.percentile_ms(percent) <= high * (1 + WIDTH / 2) + 1e-9
    assert histogram.count == len(values)
    assert histogram.mean_ms == pytest.approx(values.mean() / 1e6)
    assert histogram.max_ms == values.max() / 1e6
    assert histogram.percentile_ms(100) <= histogram.max_ms


def test_an_empty_histogram_is_zero():
    histogram = Histogram(np.zeros(len(BOUNDS) - 1, np.uint64), 0, 0)
    assert (histogram.count, histogram.mean_ms, histogram.max_ms, histogram.percentile_ms(99)) == (0, 0, 0, 0)


def test_buckets_are_at_most_as_wide_as_promised():
    bounds = BOUNDS.astype(np.float64)
    assert (np.diff(bounds) >= 1).all()
    wide = np.diff(bounds) > 1
    assert (np.diff(bounds)[wide] / bounds[:-1][wide]).max() <= WIDTH
    assert bounds[-1] > 3600e9


def test_what_is_longer_than_the_last_bucket_counts_there():
    counts = np.zeros(len(BOUNDS) - 1, np.uint64)
    counts[-1] = 1
    ten_hours = 36_000 * 10**9
    histogram = Histogram(counts, ten_hours, ten_hours)
    assert histogram.max_ms == 36e6
    assert BOUNDS[-2] / 1e6 <= histogram.percentile_ms(50) <= histogram.max_ms


# --- health -----------------------------------------------------------------------------------------------------------


def send_with_losses(pipe, sent, lost):
    """Send so many blocks that so many of them are dropped (newest)."""
    for _ in range(sent - lost):
        pipe.send(BLOCK)
        for _ in range(lost):
            pipe.send(BLOCK)
        lost = 0
        pipe.receive(timeout_s=0)


@pytest.mark.parametrize(
    ("lost", "score", "word"),
    [
        (0, 100, "healthy"),
        (1, 85, "healthy"),
        (2, 70, "degraded"),
        (3, 55, "degraded"),
        (4, 40, "failing"),
        (40, 40, "failing"),
    ],
)
def test_lost_blocks_are_bad_for_the_health(flow, lost, score, word):
    pipe = opened(flow, 1, DropNewest())
    send_with_losses(pipe, 400, lost)
    metrics = pipe.statistics()
    assert (metrics.sent, metrics.dropped_total, metrics.fill) == (400, lost, 0)
    assert metrics.health_score == pytest.approx(score)
    assert metrics.pipeline_health == word
    assert metrics.error_rate_percentage == pytest.approx(lost / 4)


def test_late_blocks_are_bad_for_the_health(flow):
    pipe = opened(flow, 1, DropNewest(), max_latency_ms=NOTHING_MS)
    send_with_losses(pipe, 400, 0)
    assert (pipe.statistics().health_score, pipe.statistics().pipeline_health) == (70, "degraded")
    assert pipe.statistics().error_rate_percentage == 0


def test_a_full_pipeline_is_a_warning(flow):
    pipe = opened(flow, 10)
    scores = []
    for _ in range(10):
        pipe.send(BLOCK)
        scores.append(pipe.statistics().health_score)
    assert scores == pytest.approx([100] * 8 + [95, 90])
    assert pipe.statistics().pipeline_health == "healthy"


def test_what_was_wanted_is_no_loss(flow):
    pipe = opened(flow, 4, Latest())
    for _ in range(10):
        pipe.send(BLOCK)
    pipe.flush()
    metrics = pipe.statistics()
    assert metrics.dropped == {"superseded": 9, "flushed": 1}
    assert (metrics.health_score, metrics.error_rate_percentage, metrics.pipeline_health) == (100, 0, "healthy")
    assert lost_blocks(metrics.dropped) == 0


@pytest.mark.parametrize(
    ("score", "sent", "word"),
    [
        (100, 0, "idle"),
        (0, 0, "idle"),
        (80, 1, "healthy"),
        (79.9, 1, "degraded"),
        (50, 1, "degraded"),
        (49.9, 1, "failing"),
    ],
)
def test_the_words(score, sent, word):
    assert health_of(score, sent) == word


def test_a_score_never_leaves_its_range():
    worst = health_score(sent=1, delivered=1, lost=1, late=1, corrupted=1, fill=1.0)
    assert worst == 0
    assert health_score(sent=0, delivered=0, lost=0, late=0, corrupted=0, fill=0) == 100
    assert health_score(sent=1000, delivered=1000, lost=0, late=0, corrupted=1, fill=0) == pytest.approx(40)


# --- the report -------------------------------------------------------------------------------------------------------


@pytest.fixture
def report(flow):
    source = flow.add(Many(50), name="take")
    flow.connect(source.out, flow.add(Sink(), name="sink", worker="own").audio, buffer_size=4)
    for name, rule in (("newest", DropNewest()), ("latest", Latest()), ("oldest", DropOldest())):
        flow.connect(source.out, name, buffer_size=2, backpressure_strategy=rule)
    return flow.run()


def test_the_text_says_what_happened(report):
    text = str(report)
    assert text.startswith(f"flow 'measured': {report.duration_s:.3f} s\n")
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert list(lines)[1] == "pipeline"
    for name in ("take.out->sink.audio", "take.out->newest", "take.out->latest", "take.out->oldest"):
        assert name in lines
    assert lines["take.out->sink.audio"].split()[1:4] == ["50", "50", "0"]
    assert "48 newest" in lines["take.out->newest"]
    assert "49 superseded" in lines["take.out->latest"]
    assert "48 oldest" in lines["take.out->oldest"]
    assert "100 healthy" in lines["take.out->sink.audio"]
    assert "failing" in lines["take.out->newest"]
    assert lines["sink"].split()[:3] == ["sink", "own", "50"]
    assert lines["take"].split()[-1] == "ended"
    assert len({len(line) for line in text.splitlines() if set(line) == {"-", " "}}) == 2


def test_the_table_says_the_same(report):
    console = pytest.importorskip("rich.console").Console(width=200)
    with console.capture() as captured:
        console.print(report)
    for text in ("take.out->sink.audio", "48 newest", "49 superseded", "100 healthy"):
        assert text in captured.get()


def test_the_report_survives_json(report):
    text = json.dumps(report.to_dict(), allow_nan=False)
    again = json.loads(text)
    assert json.dumps(again) == text
    assert again["name"] == "measured"
    assert again["pipelines"]["take.out->newest"]["dropped"] == {"newest": 48}
    assert again["modules"]["sink"] == {
        "worker": "own",
        "calls": 50,
        "busy_ms": report.modules["sink"].busy_ms,
        "state": "ended",
        "aligned": {},
    }
    for name, metrics in report.pipelines.items():
        assert msgspec.convert(again["pipelines"][name], FlowMetrics) == metrics
        numbers = [value for value in again["pipelines"][name].values() if isinstance(value, (int, float))]
        assert all(math.isfinite(number) and number >= 0 for number in numbers)
    told = [event["event"] for event in again["events"]]
    assert told[-1] == "DataFlowStopped"
    kinds = [kind for kind in told if kind not in ("ModuleAdded", "ModuleReady", "ModuleStarted")]
    assert kinds[:4] == ["PipelineRegistered"] * 4
    assert kinds[4] == "DataFlowStarted"
    # A source that sends as fast as it can fills what it sends into.
    assert sorted(kind for kind in kinds[5:-1] if not kind.startswith("Backpressure")) == ["ModuleEnded"] * 2
    assert kinds[-1] == "DataFlowStopped"
    stamps = [event["timestamp_ns"] for event in again["events"]]
    assert stamps == sorted(stamps)


def test_metrics_are_frozen(report):
    metrics = report.pipelines["take.out->newest"]
    with pytest.raises(AttributeError):
        metrics.sent = 0
    with pytest.raises(AttributeError):
        report.name = "other"


def test_a_report_of_a_flow_that_was_never_started(flow):
    pipe = opened(flow)
    pipe.send(BLOCK)
    flow.connect(flow.add(Many(1)).out, flow.add(Sink()).audio, buffer_size=1)
    report = flow.report()
    assert list(report.pipelines) == ["app->reader"]
    assert (report.duration_s, report.modules) == (0, {})
    assert "app->reader" in str(report)
    json.dumps(report.to_dict())


def test_a_report_while_the_flow_runs(flow):
    work = flow.add(Sink(), name="sink")
    into = flow.pipeline(flow.register_pipeline("app", work.audio, PipelineConfig(2)))
    flow.start()
    into.send(BLOCK)
    report = flow.report()
    assert report.modules["sink"].state == "running"
    assert report.pipelines[into.id].sent == 1
    assert 0 < report.duration_s < flow.report().duration_s
