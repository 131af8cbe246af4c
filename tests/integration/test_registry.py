"""The modules of a flow: found by what they can do, set up in the order of their dependencies, paused and resumed."""

import threading

import numpy as np
import pytest

from steadyflow import (
    AudioFormat,
    DataFlowCoordinator,
    DropOldest,
    Input,
    Module,
    Output,
    PipelineConfig,
    Source,
    audio,
    testing,
)
from steadyflow.errors import (
    ConfigurationError,
    CycleRefused,
    DuplicateName,
    FlowFailed,
    StateError,
    UnknownName,
)
from steadyflow.events import (
    ModuleAdded,
    ModuleEnded,
    ModulePaused,
    ModuleReady,
    ModuleResumed,
    ModuleStarted,
    ModuleStopped,
)
from steadyflow.version import __version__

FORMAT = AudioFormat(48_000, 1)
SOON_S = 20.0


class Model(Module):
    """Knows when it was set up, and says so in its order."""

    version = "2.1"
    capabilities = frozenset({"speech", "model:small"})

    audio = Input(FORMAT)

    def __init__(self, log=None, fails=False):
        self._log = log
        self._fails = fails

    def setup(self):
        if self._log is not None:
            self._log.append(("setup", self._name()))
        if self._fails:
            raise ValueError("no model")

    def process(self, audio):
        pass

    def teardown(self):
        if self._log is not None:
            self._log.append(("teardown", self._name()))

    def _name(self):
        return next(iter(self._labels), "?")

    _labels = ()


class Numbers(Source):
    """Sends numbered blocks as long as it is let."""

    out = Output(FORMAT)
    live = False

    def __init__(self, blocks=1 << 30):
        self._blocks = blocks
        self.held_ns = []

    def produce(self):
        for number in range(self._blocks):
            self.out.send(np.full((4, 1), number, np.float32))
            held = yield
            if held is not None:
                self.held_ns.append(held)


class Seen(Module):
    """Notes the numbers of the blocks."""

    audio = Input(FORMAT)

    def __init__(self):
        self.numbers = []
        self.changed = threading.Condition()

    def process(self, audio):
        with self.changed:
            self.numbers.append(int(audio.samples[0, 0]))
            self.changed.notify_all()

    def wait_for_more(self, count=20):
        with self.changed:
            wanted = len(self.numbers) + count
            assert self.changed.wait_for(lambda: len(self.numbers) >= wanted, SOON_S)


def labelled(name, log, **options):
    model = Model(log, **options)
    model._labels = (name,)
    return model


def of(events, *kinds):
    return [(type(event).__name__, event.module) for event in events if isinstance(event, kinds)]


def test_modules_are_known_by_what_they_say_of_themselves():
    with DataFlowCoordinator("known") as flow:
        source = flow.add(Numbers(3), name="numbers")
        flow.add(Model(), name="small")
        meter = flow.add(audio.LevelMeter(), name="meter")
        flow.connect(source.out, meter.audio, buffer_size=4)
        registry = flow.registry
        assert list(registry) == ["coordinator", "numbers", "small", "meter"]
        assert len(registry) == 4
        assert "small" in registry
        assert "large" not in registry
        record = registry["small"]
        assert (record.version, record.capabilities, record.state) == ("2.1", {"speech", "model:small"}, "added")
        assert record.type.endswith("test_registry:Model")
        assert registry["coordinator"].version == __version__
        assert registry["coordinator"].state == "added"

        def names(**wanted):
            return [each.name for each in registry.find(**wanted)]

        assert names(capability="speech") == ["small"]
        assert names(type=Source) == ["numbers"]
        assert names(produces=AudioFormat(48_000, 1)) == ["numbers"]
        assert names(produces=AudioFormat()) == ["numbers"]
        assert names(produces=AudioFormat(44_100)) == []
        assert names(consumes=AudioFormat(44_100, 2)) == ["meter"]
        assert names(capability="coordination") == ["coordinator"]
        assert names(state="running") == []
        assert len(names()) == 4
        with pytest.raises(ConfigurationError, match="expected produces to be a format"):
            registry.find(produces="audio")
        with pytest.raises(UnknownName, match="did you mean 'small'"):
            registry["smal"]
        flow.run()
        assert registry["numbers"].state == registry["meter"].state == "ended"
        assert registry["meter"].consumes["audio"].sample_rate_hz == 48_000
        assert registry["meter"].health == 100.0
        assert "4 modules" not in repr(registry)
    assert flow.registry["coordinator"].state == "ended"
    assert flow.state == "closed"


def test_each_step_of_a_life_is_told():
    with DataFlowCoordinator("told") as flow:
        source = flow.add(Numbers(3), name="a")
        seen = flow.add(Seen(), name="b", worker="other")
        flow.connect(source.out, seen.audio, buffer_size=4)
        report = flow.run()
    for name in ("a", "b"):
        steps = [type(event).__name__ for event in report.events if getattr(event, "module", None) == name]
        assert steps == ["ModuleAdded", "ModuleReady", "ModuleStarted", "ModuleEnded"]
    assert of(report.events, ModuleAdded) == [("ModuleAdded", "a"), ("ModuleAdded", "b")]
    assert len(of(report.events, ModuleReady, ModuleStarted, ModuleEnded)) == 6


def test_what_was_stopped_is_told_to_have_been():
    with DataFlowCoordinator("stopped") as flow:
        source = flow.add(Numbers(), name="a")
        seen = flow.add(Seen(), name="b", placement="thread", worker="w")
        flow.connect(source.out, seen.audio, buffer_size=4)
        flow.start()
        seen.wait_for_more()
        assert flow.state == "running"
        report = flow.stop()
    # The source was stopped before its end; what comes after it saw the end of its input.
    assert ("ModuleStopped", "b") not in of(report.events, ModuleStopped)
    assert flow.registry["a"].state in ("stopped", "ended")
    assert flow.registry["b"].state == "ended"


def test_a_module_that_fails_is_known_to_have():
    with DataFlowCoordinator("failed") as flow:
        flow.add(Model(fails=True), name="bad")
        with pytest.raises(FlowFailed):
            flow.start()
        assert flow.registry["bad"].state == "failed"
        assert flow.registry["bad"].health == 0.0
        assert flow.registry["coordinator"].state == "failed"


@pytest.mark.parametrize("workers", [(None, None, None), ("a", "b", "c"), ("a", "b", "a")])
def test_what_others_depend_on_is_set_up_first_and_torn_down_last(workers):
    log = []
    with DataFlowCoordinator("ordered") as flow:
        flow.add(labelled("first", log), name="first", worker=workers[0], depends_on=["second"])
        flow.add(labelled("second", log), name="second", worker=workers[1], depends_on=("third",))
        flow.add(labelled("third", log), name="third", worker=workers[2] if workers[2] != "a" else "c")
        assert flow.registry.start_order() == ("third", "second", "first")
        assert flow.registry["first"].depends_on == ("second",)
        flow.run(0.05)
    assert [name for what, name in log if what == "setup"] == ["third", "second", "first"]
    assert [name for what, name in log if what == "teardown"] == ["first", "second", "third"]


def test_a_process_waits_for_what_it_depends_on():
    log = []
    with DataFlowCoordinator("processes") as flow:
        tone = flow.add(
            audio.Tone(440, duration_s=0.05, realtime_pace=False),
            name="tone",
            placement="process",
            depends_on=["model"],
        )
        model = flow.add(labelled("model", log), name="model")
        flow.connect(tone.out, model.audio, buffer_size=4)
        report = flow.run()
    ready = of(report.events, ModuleReady)
    assert ready == [("ModuleReady", "model"), ("ModuleReady", "tone")]


def test_dependencies_that_cannot_be_are_refused():
    with DataFlowCoordinator("refused") as flow:
        flow.add(Model(), name="a", depends_on=["b"])
        with pytest.raises(CycleRefused, match=r"b -> a -> b|a -> b -> a"):
            flow.add(Model(), name="b", depends_on=["a"])
        with pytest.raises(CycleRefused, match="c -> c"):
            flow.add(Model(), name="c", depends_on=["c"])
        with pytest.raises(ConfigurationError, match="expected depends_on to be modules or their names"):
            flow.add(Model(), depends_on="a")
        with pytest.raises(ConfigurationError, match="expected depends_on to name modules"):
            flow.add(Model(), depends_on=[3])
        with pytest.raises(UnknownName, match="Model"):
            flow.add(Model(), depends_on=[Model()])
        with pytest.raises(DuplicateName, match="coordinator"):
            flow.add(Model(), name="coordinator")
        with pytest.raises(UnknownName, match="module 'a', depends_on"):
            flow.start()


def test_workers_that_would_wait_for_each_other_are_refused():
    with DataFlowCoordinator("workers") as flow:
        flow.add(Model(), name="a", worker="one", depends_on=["b"])
        flow.add(Model(), name="b", worker="two")
        flow.add(Model(), name="c", worker="two", depends_on=["d"])
        flow.add(Model(), name="d", worker="one")
        with pytest.raises(ConfigurationError, match=r"one -> two -> one|two -> one -> two"):
            flow.start()


class Odd(Model):
    version = 3


class Listed(Model):
    capabilities = {"speech"}  # noqa: RUF012


class Spaced(Model):
    capabilities = frozenset({"two words"})


@pytest.mark.parametrize(
    ("module", "said"),
    [(Odd, "expected version"), (Listed, "expected capabilities"), (Spaced, "expected capabilities")],
)
def test_what_a_class_says_of_itself_has_to_be_possible(module, said):
    with DataFlowCoordinator("odd") as flow, pytest.raises(ConfigurationError, match=said):
        flow.add(module())


# --- pausing --------------------------------------------------------------------------------------------------------------


def linked(flow, placement="thread", **options):
    source = flow.add(Numbers(), name="numbers", placement=placement, worker="source")
    seen = flow.add(Seen(), name="seen", worker="sink")
    flow.connect(source.out, seen.audio, buffer_size=4, **options)
    return source, seen


def wait_until_still(pipe):
    """Wait until what was sent has come, and nothing more does: the source is at its next yield."""
    for _ in range(400):
        sent = pipe.statistics().sent
        threading.Event().wait(0.05)
        metrics = pipe.statistics()
        if metrics.sent == sent and metrics.in_flight == 0:
            return
    raise AssertionError(metrics)


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_a_source_is_paused_and_goes_on_where_it_was(placement):
    with DataFlowCoordinator("paused") as flow:
        source, seen = linked(flow, placement)
        flow.start()
        seen.wait_for_more()
        flow.pause("numbers")
        flow.pause(source)
        assert flow.registry["numbers"].state == "paused"
        assert flow.state == "running"
        pipe = flow.pipeline("numbers.out->seen.audio")
        wait_until_still(pipe)
        count = len(seen.numbers)
        threading.Event().wait(0.05)
        assert len(seen.numbers) == count
        flow.resume("numbers")
        flow.resume()
        assert flow.state == "running"
        seen.wait_for_more()
        report = flow.stop()
    assert seen.numbers == list(range(len(seen.numbers)))
    assert of(report.events, ModulePaused, ModuleResumed) == [("ModulePaused", "numbers"), ("ModuleResumed", "numbers")]
    if placement == "thread":
        assert len(source.held_ns) == 1
        assert source.held_ns[0] >= 50_000_000


def test_a_module_is_paused_and_what_waits_for_it_stays():
    with DataFlowCoordinator("paused") as flow:
        _, seen = linked(flow, backpressure_strategy=DropOldest())
        flow.start()
        seen.wait_for_more()
        flow.pause(seen)
        assert flow.state == "running"
        assert flow.pipeline("numbers.out->seen.audio").paused
        flow.resume(seen)
        seen.wait_for_more()
        report = flow.stop()
    assert seen.numbers == sorted(set(seen.numbers))
    assert report.pipelines["numbers.out->seen.audio"].dropped_total >= 0


def test_a_paused_flow_can_be_stopped():
    with DataFlowCoordinator("paused") as flow:
        _, seen = linked(flow)
        flow.start()
        seen.wait_for_more()
        flow.pause()
        assert flow.state == "paused"
        flow.pause(seen)
        report = flow.stop()
    metrics = report.pipelines["numbers.out->seen.audio"]
    assert metrics.sent == metrics.delivered == len(seen.numbers)
    with pytest.raises(StateError, match="expected a running flow"):
        flow.resume()


def test_a_paced_source_goes_on_at_its_pace():
    with DataFlowCoordinator("paced") as flow:
        tone = flow.add(audio.Tone(440, block_frames=480, duration_s=3600.0), name="tone")
        collect = flow.add(testing.Collect())
        flow.connect(tone.out, collect.data, buffer_size=64)
        flow.start(freewheel=True)
        pipe = flow.pipeline("tone.out->collect.data")
        flow.clock.sleep(0.1)
        flow.pause(tone)
        before = pipe.statistics().sent
        flow.clock.sleep(0.5)
        assert pipe.statistics().sent == before
        flow.resume(tone)
        flow.clock.sleep(0.1)
        after = pipe.statistics().sent
        flow.stop()
    # 10 ms each: what the half second would have been is not made up for.
    assert before > 0
    assert 8 <= after - before <= 12


def test_what_cannot_be_paused_says_why():
    with DataFlowCoordinator("refused") as flow:
        source = flow.add(Numbers(50), name="numbers")
        seen = flow.add(Seen(), name="seen")
        flow.connect(source.out, seen.audio, buffer_size=4)
        with pytest.raises(StateError, match="expected a running flow, to pause"):
            flow.pause()
        flow.start()
        with pytest.raises(UnknownName):
            flow.pause("nobody")
        with pytest.raises(StateError, match="coordinator"):
            flow.pause("coordinator")
        try:
            with pytest.raises(StateError, match=r"in one worker|it is 'ended'"):
                flow.pause(seen)
        finally:
            flow.wait(SOON_S)
        with pytest.raises(StateError, match=r"cannot pause: it is 'ended'|running flow"):
            flow.pause("numbers")


class AsyncNumbers(Source):
    out = Output(FORMAT)

    async def produce(self):
        number = 0
        while True:
            await self.out.send_async(np.full((4, 1), number, np.float32))
            number += 1
            yield None


def test_an_asynchronous_source_is_paused():
    with DataFlowCoordinator("async") as flow:
        source = flow.add(AsyncNumbers(), name="numbers")
        seen = flow.add(Seen(), name="seen")
        flow.connect(source.out, seen.audio, buffer_size=4)
        flow.start()
        seen.wait_for_more()
        flow.pause(source)
        pipe = flow.pipeline("numbers.out->seen.audio")
        wait_until_still(pipe)
        count = len(seen.numbers)
        threading.Event().wait(0.05)
        assert len(seen.numbers) == count
        flow.resume(source)
        seen.wait_for_more()
        flow.stop()
    assert seen.numbers == list(range(len(seen.numbers)))


class Service(Module):
    """Has no ports: others use it in their own way."""

    def __init__(self, log):
        self._log = log

    def setup(self):
        self._log.append("service set up")

    def teardown(self):
        self._log.append("service torn down")


class User(Source):
    out = Output(FORMAT)
    live = False

    def __init__(self, log):
        self._log = log

    def produce(self):
        for _ in range(3):
            self._log.append("at work")
            self.out.send(np.zeros((4, 1), np.float32))
            yield

    def teardown(self):
        self._log.append("user torn down")


@pytest.mark.parametrize("worker", [None, "other"])
def test_a_service_is_there_as_long_as_somebody_needs_it(worker):
    log = []
    with DataFlowCoordinator("service") as flow:
        flow.add(Service(log), name="service", worker=worker)
        user = flow.add(User(log), name="user", depends_on=["service"])
        end = flow.add(testing.Collect())
        flow.connect(user.out, end.data, buffer_size=4)
        flow.run()
    assert log == ["service set up", "at work", "at work", "at work", "user torn down", "service torn down"]


def test_what_is_paused_as_soon_as_it_starts_goes_on_when_it_is_resumed():
    with DataFlowCoordinator("early") as flow:
        _source, seen = linked(flow, "process")
        paused = threading.Event()

        def pause(event):
            if event.module == "numbers":
                flow.pause("numbers")
                paused.set()

        flow.events.subscribe(ModuleStarted, pause)
        flow.start()
        assert paused.wait(SOON_S)
        flow.resume("numbers")
        seen.wait_for_more()
        flow.stop()
    assert seen.numbers == list(range(len(seen.numbers)))


def test_a_pipeline_that_the_user_has_paused_stays_paused():
    with DataFlowCoordinator("both") as flow:
        _, seen = linked(flow, backpressure_strategy=DropOldest())
        flow.start()
        seen.wait_for_more()
        pipe = flow.pipeline("numbers.out->seen.audio")
        pipe.pause()
        flow.pause(seen)
        flow.resume(seen)
        assert pipe.paused
        pipe.resume()
        seen.wait_for_more()
        flow.stop()


def test_what_the_application_sends_is_paused_with_the_flow():
    with DataFlowCoordinator("open") as flow:
        seen = flow.add(Seen(), name="seen")
        pipe = flow.pipeline(flow.register_pipeline("app", seen.audio, PipelineConfig(buffer_size=4), format=FORMAT))
        flow.start()
        flow.pause()
        assert flow.state == "paused"
        pipe.send(np.zeros((4, 1), np.float32))
        threading.Event().wait(0.05)
        assert seen.numbers == []
        flow.resume()
        seen.wait_for_more(1)
        assert flow.state == "running"
        flow.stop()
