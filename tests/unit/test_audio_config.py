"""The limits of audio: what they are in frames and blocks, and what contradicts what."""

import copy
import pickle

import pytest

from steadyflow import (
    AudioDataPipeline,
    AudioFormat,
    AudioPipelineConfig,
    BytesFormat,
    DataFlowCoordinator,
    DropOldest,
    Grow,
    Latest,
    Pipeline,
    PipelineConfig,
    Wait,
    load_flow,
)
from steadyflow.audio_config import (
    RoomLimits,
    check_audio_config,
    cycle_rules,
    intake_rules,
    regulates,
    room_limits,
    shared_limits,
    staged_blocks,
)
from steadyflow.errors import ConfigurationError, UnknownName

FORMAT = AudioFormat(48_000, 2, max_block_frames=480)  # 10 ms


def test_it_is_a_configuration_of_a_pipeline():
    config = AudioPipelineConfig(8, target_fill_ms=20)
    assert isinstance(config, PipelineConfig)
    assert (config.buffer_size, config.late, config.preroll_ms, config.max_buffer_ms) == (8, "pass", None, None)
    assert AudioPipelineConfig(8) != PipelineConfig(8)
    assert repr(config).startswith("AudioPipelineConfig(buffer_size=8, ")
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other == config
        assert hash(other) == hash(config)
    with pytest.raises(AttributeError, match="AudioPipelineConfig is frozen"):
        config.target_fill_ms = 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"late": "drop"}, 'expected max_latency_ms beside late="drop", got None'),
        ({"target_fill_ms": 0}, "expected target_fill_ms to be a number of milliseconds above 0"),
        ({"target_fill_ms": 20, "max_latency_ms": 20}, "expected target_fill_ms below max_latency_ms=20, got 20"),
        ({"target_fill_ms": 30, "max_buffer_ms": 20}, "expected target_fill_ms of at most max_buffer_ms=20, got 30"),
        ({"preroll_ms": 30, "max_buffer_ms": 20}, "expected preroll_ms of at most max_buffer_ms=20, got 30"),
        ({"preroll_ms": -1}, "expected preroll_ms to be a number of milliseconds from 0"),
        ({"preroll_ms": True}, "expected preroll_ms"),
        ({"max_buffer_ms": "5"}, "got '5'"),
        (
            {"target_fill_ms": 5, "backpressure_strategy": Latest()},
            r"another rule than Latest\(\) beside target_fill_ms=5",
        ),
        ({"late": "concael"}, "did you mean 'conceal'"),
        ({"late": "conceal", "concealment": "repaet"}, "AudioPipelineConfig: .*'repaet'.*did you mean 'repeat'"),
        ({"late": "conceal", "concealment": None}, "value of concealment"),
        (
            {"late": "drop", "max_latency_ms": 5, "concealment": "repeat"},
            'expected late="conceal" beside concealment="repeat", got late="drop": nothing .* Say late="conceal"',
        ),
        ({"target_fil_ms": 5}, "did you mean 'target_fill_ms'"),
        ({"buffer_size": 0}, "AudioPipelineConfig: expected buffer_size"),
    ],
)
def test_impossible_settings_are_refused(options, text):
    with pytest.raises(ConfigurationError, match=text):
        AudioPipelineConfig(**{"buffer_size": 8} | options)


def test_limits_in_frames_and_blocks():
    config = AudioPipelineConfig(8, 50, late="conceal", target_fill_ms=20, preroll_ms=30)
    rules = intake_rules(config, FORMAT, 50_000_000)
    assert rules is not None
    assert (rules.late, rules.max_age_ns, rules.target_frames, rules.preroll_frames) == (2, 50_000_000, 960, 1440)
    assert (rules.most_staged, rules.most_frames, rules.rate_hz, rules.made_up) == (8, 480, 48_000.0, 1)
    for number, choice in enumerate(("silence", "fade", "repeat")):
        chosen = intake_rules(AudioPipelineConfig(8, late="conceal", concealment=choice), FORMAT, 0)
        assert chosen is not None
        assert chosen.made_up == number
    dropping = intake_rules(PipelineConfig(8, 5, late="drop"), BytesFormat(), 5_000_000)
    assert dropping is not None
    assert (dropping.late, dropping.max_age_ns, dropping.most_staged) == (1, 5_000_000, 0)
    assert intake_rules(AudioPipelineConfig(8, 5), FORMAT, 5_000_000) is None
    # Where nobody waits, nothing is late.
    unpaced = intake_rules(config, FORMAT, 0)
    assert unpaced is not None
    assert unpaced.max_age_ns == 0


def test_an_input_that_keeps_nothing_can_be_held_all_the_same():
    assert staged_blocks(AudioPipelineConfig(8, preroll_ms=0)) == 8
    assert staged_blocks(AudioPipelineConfig(8)) == 0
    assert regulates(AudioPipelineConfig(8, preroll_ms=0))
    assert not regulates(AudioPipelineConfig(8, 5, max_buffer_ms=40))


def test_limits_are_counted_in_bytes_and_frames():
    config = AudioPipelineConfig(8, max_buffer_ms=25, max_buffer_bytes=100_000)
    assert room_limits(config, None, FORMAT) == (100_000, 1200)
    assert room_limits(config, Grow(64, max_bytes=50_000, max_ms=100), FORMAT) == (50_000, 1200)
    assert room_limits(config, Grow(64, max_bytes=200_000, max_ms=10), FORMAT) == (100_000, 480)
    assert room_limits(PipelineConfig(8), Wait(), FORMAT) == (0, 0)
    assert room_limits(PipelineConfig(8, max_buffer_bytes=64), None, BytesFormat(64)) == (64, 0)


def test_limits_are_shared_by_rings_and_each_has_room_for_a_block():
    longest_bytes, longest = FORMAT.max_payload_bytes, FORMAT.max_block_frames
    limits = RoomLimits(5 * longest_bytes, 5 * longest)
    assert shared_limits(limits, FORMAT, 1) == limits
    assert shared_limits(limits, FORMAT, 3) == (-(-5 * longest_bytes // 3), -(-5 * longest // 3))
    assert shared_limits(limits, FORMAT, 8) == (longest_bytes, longest)
    assert shared_limits(RoomLimits(), FORMAT, 8) == RoomLimits()
    assert shared_limits(RoomLimits(200), BytesFormat(64), 4) == (64, 0)


@pytest.mark.parametrize(
    ("config", "deadline_ns"),
    [
        (AudioPipelineConfig(8, 25), 25_000_000),
        (AudioPipelineConfig(8), 0),
        (AudioPipelineConfig(8, target_fill_ms=20), 30_000_000),
    ],
)
def test_deadlines(config, deadline_ns):
    limit = 0 if config.max_latency_ms is None else 25_000_000
    rules = cycle_rules(config, FORMAT, limit)
    assert rules is not None
    assert rules.deadline_ns == deadline_ns
    assert rules.ns_per_frame == pytest.approx(1e9 / 48_000)
    assert cycle_rules(PipelineConfig(8), BytesFormat(), 0) is None


@pytest.mark.parametrize(
    ("config", "fmt", "text"),
    [
        (AudioPipelineConfig(8), BytesFormat(), "expected audio, because the pipeline has an AudioPipelineConfig"),
        (AudioPipelineConfig(8, max_buffer_ms=5), FORMAT, "at least one block, which may last 10 ms; got 5"),
        (
            AudioPipelineConfig(2, target_fill_ms=25),
            FORMAT,
            "of at most 20, which is what 2 blocks of 480 .* Raise buffer_size to 3",
        ),
        (
            AudioPipelineConfig(2, preroll_ms=1000),
            FORMAT,
            "expected preroll_ms of at most 20, .* Raise buffer_size to 100",
        ),
    ],
)
def test_limits_that_do_not_go_with_what_flows(config, fmt, text):
    with pytest.raises(ConfigurationError, match=f"a->b: .*{text}"):
        check_audio_config("a->b", config, fmt)
    with (
        DataFlowCoordinator("refused") as flow,
        pytest.raises(ConfigurationError, match=f"app->reader: .*{text}"),
    ):
        flow.register_pipeline("app", "reader", config, fmt)


def test_connect_and_files_make_one_where_an_option_of_audio_is_given(tmp_path):
    path = tmp_path / "flow.toml"
    path.write_text(
        """
[modules.tone]
use = "steadyflow.audio:Tone"
arguments = { frequency_hz = 440, duration_s = 0.1 }
[modules.level]
use = "steadyflow.audio:LevelMeter"
[[pipelines]]
from = "tone.out"
to = "level.audio"
buffer_size = 16
max_latency_ms = 100
late = "conceal"
target_fill_ms = 40
concealment = "repeat"
"""
    )
    with load_flow(path) as flow:
        link = flow.pipeline("tone.out->level.audio")
        assert isinstance(link, AudioDataPipeline)
        assert link.audio == AudioPipelineConfig(16, 100, late="conceal", target_fill_ms=40, concealment="repeat")
        assert link.config == PipelineConfig.from_toml(path, "tone.out->level.audio")
    with load_flow(path, overrides={"pipelines.0.preroll_ms": 20}) as flow:
        assert flow.pipeline("tone.out->level.audio").config.preroll_ms == 20
    with pytest.raises(ConfigurationError, match=r"line 7.*expected target_fill_ms below max_latency_ms=40, got 40"):
        load_flow(path, overrides={"pipelines.0.max_latency_ms": 40})
    with pytest.raises(
        ConfigurationError, match=r'line 7.*expected late="conceal" beside concealment="repeat", got late="pass"'
    ):
        load_flow(path, overrides={"pipelines.0.late": "pass"})
    with pytest.raises(UnknownName, match=r"override pipelines\.0\.concealment: .*'loop'"):
        load_flow(path, overrides={"pipelines.0.concealment": "loop"})
    with pytest.raises(UnknownName, match="did you mean 'target_fill_ms'"):
        load_flow(path, overrides={"pipelines.0.target_fil_ms": 40})


def test_the_pipeline_knows_how_much_audio_may_wait():
    with DataFlowCoordinator("audio") as flow:
        config = AudioPipelineConfig(8, max_buffer_ms=45, backpressure_strategy=DropOldest())
        pipe = flow.pipeline(flow.register_pipeline("app", "reader", config, FORMAT))
        assert isinstance(pipe, AudioDataPipeline)
        assert (pipe.buffer_size, pipe.buffer_ms) == (8, 45.0)
        plain = flow.pipeline(flow.register_pipeline("app", "other", PipelineConfig(8), FORMAT))
        assert type(plain) is Pipeline
