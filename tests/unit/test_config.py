"""Rules and the settings of pipelines, from Python and from files."""

import copy
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyflow.backpressure.rules import (
    Adaptive,
    DropByPriority,
    DropNewest,
    DropOldest,
    Fail,
    Grow,
    Latest,
    Sample,
    Throttle,
    Wait,
)
from steadyflow.backpressure.rules.tables import rule_from_table, rule_to_table
from steadyflow.config import PipelineConfig, PipelinePriority
from steadyflow.errors import ConfigurationError, FileUnreadable, SeveralProblems, UnknownName

# --- rules ---


@pytest.mark.parametrize(
    ("rule", "native", "waits", "loses"),
    [
        (Wait(), (0, 0, 0), True, False),
        (Wait(5000), (0, 0, 5_000_000), True, False),
        (Wait(0.25, "drop_newest"), (0, 1, 250), True, True),
        (Wait(1, "drop_oldest"), (0, 2, 1000), True, True),
        (Wait(1e-9), (0, 0, 1), True, False),
        (DropOldest(), (1, 0, 0), False, True),
        (DropNewest(), (2, 0, 0), False, True),
        (Latest(), (3, 0, 0), False, True),
        (Fail(), (4, 0, 0), False, False),
        (Sample(3), (5, 0, 3), False, True),
        (DropByPriority(), (6, 0, 0), False, True),
        (Throttle(), (0, 0, 0), True, False),
        (Throttle(100), (0, 0, 0), True, False),
        (Grow(64), (0, 0, 0), True, False),
        (Grow(64, then="drop_newest"), (2, 0, 0), False, True),
        (Grow(64, then="fail"), (4, 0, 0), False, False),
        (Adaptive(), (0, 0, 0), True, False),
    ],
)
def test_rules_say_what_they_do(rule, native, waits, loses):
    assert rule.to_native(live=False) == native
    assert rule.to_native(live=False).waits is waits
    assert rule.to_native(live=False).loses is loses


@pytest.mark.parametrize("rule", [Grow(64), Adaptive()])
def test_some_rules_drop_the_oldest_where_the_source_cannot_wait(rule):
    assert rule.to_native(live=True) == DropOldest().to_native(live=True)


def test_rules_are_values():
    assert Wait(timeout_ms=5) == Wait(5.0)
    assert len({Wait(5), Wait(5.0), DropOldest(), DropOldest(), DropNewest()}) == 3
    with pytest.raises(AttributeError):
        Wait().timeout_ms = 1


@pytest.mark.parametrize("timeout_ms", [0, -1, math.nan, math.inf, "5", True, 1 << 40])
def test_impossible_timeouts_are_refused(timeout_ms):
    with pytest.raises(ConfigurationError, match="Wait: expected timeout_ms"):
        Wait(timeout_ms)


def test_a_misspelt_then_gets_the_near_miss():
    with pytest.raises(UnknownName, match="did you mean 'drop_oldest'"):
        Wait(5, then="drop_oldst")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Sample(1), r"Sample: expected one_of to be an integer of 2 or more, got 1\. Sample\(4\) keeps"),
        (lambda: Sample(0), "got 0"),
        (lambda: Sample(True), "got True"),
        (lambda: Sample(2.0), "got 2.0"),
        (lambda: Sample(1 << 40), "got 1099511627776"),
        (lambda: Grow(0), "Grow: expected max_blocks to be an integer from 1 to 65,536, got 0"),
        (lambda: Grow(65_537), "got 65537"),
        (lambda: Grow(8.0), "got 8.0"),
        (lambda: Grow(True), "got True"),
        (lambda: Grow(8, max_bytes=0), "Grow: expected max_bytes to be an integer from 1 to"),
        (lambda: Grow(8, max_bytes=(1 << 50) + 1), "expected max_bytes"),
        (lambda: Grow(8, max_ms=0), "Grow: expected max_ms to be a number of milliseconds above 0"),
        (lambda: Grow(8, max_ms=math.nan), "None sets no limit"),
        (lambda: Grow(8, then="drop_oldst"), "Grow: unknown value of then 'drop_oldst'; did you mean 'drop_oldest'"),
        (lambda: Grow(8, then=["wait"]), "unknown value of then"),
        (lambda: Throttle(0), "Throttle: expected blocks_per_second above 0 and up to 1e[+]09, got 0"),
        (lambda: Throttle(-1), "got -1"),
        (lambda: Throttle(math.inf), "got inf"),
        (lambda: Throttle(math.nan), "got nan"),
        (lambda: Throttle("5"), "got '5'"),
        (lambda: Throttle(True), "got True"),
        (lambda: Adaptive(drain_ms=0), "Adaptive: expected drain_ms to be a number of milliseconds above 0"),
        (lambda: Adaptive(drain_ms="5"), "None goes by max_latency_ms"),
        (lambda: Adaptive(lower_quality=1), "Adaptive: expected lower_quality to be True or False, got 1"),
    ],
)
def test_impossible_rules_are_refused(make, text):
    with pytest.raises(ConfigurationError, match=text):
        make()


@pytest.mark.parametrize("then", ["wait", "drop_oldest", "drop_newest", "fail"])
@pytest.mark.parametrize("live", [False, True])
def test_what_is_to_happen_at_the_limit_of_a_growing_room_does_wherever_it_is(then, live):
    expected = {"wait": Wait(), "drop_oldest": DropOldest(), "drop_newest": DropNewest(), "fail": Fail()}[then]
    assert Grow(8, then=then).to_native(live) == expected.to_native(live)


@pytest.mark.parametrize(
    ("rule", "for_ever"),
    [(Wait(), True), (Wait(5), False), (Throttle(), True), (Grow(8), True), (Fail(), False), (DropOldest(), False)],
)
def test_some_rules_wait_for_ever(rule, for_ever):
    assert rule.to_native(live=False).waits_for_ever is for_ever


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ({"kind": "wait", "timeout_ms": 5000}, Wait(5000)),
        ({"kind": "wait", "timeout_ms": 1.5, "then": "drop_newest"}, Wait(1.5, "drop_newest")),
        ({"kind": "drop_oldest"}, DropOldest()),
        ("wait", Wait()),
        ("drop_oldest", DropOldest()),
        ("drop_newest", DropNewest()),
        ("latest", Latest()),
        ("fail", Fail()),
        ("drop_by_priority", DropByPriority()),
        ({"kind": "sample", "one_of": 4}, Sample(4)),
        ("throttle", Throttle()),
        ({"kind": "throttle", "blocks_per_second": 50.5}, Throttle(50.5)),
        ({"kind": "grow", "max_blocks": 64}, Grow(64)),
        (
            {"kind": "grow", "max_blocks": 64, "max_bytes": 4096, "max_ms": 100, "then": "fail"},
            Grow(64, max_bytes=4096, max_ms=100, then="fail"),
        ),
        ("adaptive", Adaptive()),
        ({"kind": "adaptive", "drain_ms": 5, "lower_quality": False}, Adaptive(5, lower_quality=False)),
    ],
)
def test_rules_from_tables(table, rule):
    assert rule_from_table(table) == rule


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("drop_oldst", "unknown rule 'drop_oldst'; did you mean 'drop_oldest'"),
        ({"kind": ["wait"]}, "unknown rule"),
        ({"kind": "wait", "timeout": 5}, "unknown option of the rule 'wait' 'timeout'; did you mean 'timeout_ms'"),
        ({"kind": "latest", "timeout_ms": 5}, "unknown option of the rule 'latest'"),
        ({"timeout_ms": 5}, "expected a rule such as"),
        ({"kind": "wait", "timeout_ms": 5, "then": ["fail"]}, "unknown value of then"),
        (5, "expected a rule such as"),
        ("sample", "expected one_of of the rule 'sample', got {'kind': 'sample'}"),
        ({"kind": "grow", "max_ms": 5}, "expected max_blocks of the rule 'grow'"),
        ({"kind": "grow", "max_block": 5}, "unknown option of the rule 'grow' 'max_block'; did you mean 'max_blocks'"),
        ({"kind": "grow", "max_blocks": "5"}, "expected max_blocks to be an integer"),
        ({"kind": "sample", "one_of": 1}, "expected one_of to be an integer of 2 or more"),
        ({"kind": "throttle", "hz": 1}, "unknown option of the rule 'throttle' 'hz'"),
        ({"kind": "drop_by_priority", "timeout_ms": 5}, "unknown option of the rule 'drop_by_priority'"),
        ({"kind": "adaptive", "lower_quality": "yes"}, "expected lower_quality to be True or False"),
    ],
)
def test_strange_tables_are_refused(table, text):
    with pytest.raises(ConfigurationError, match=text):
        rule_from_table(table)


# --- pipelines ---


def test_defaults():
    config = PipelineConfig(64)
    assert config.buffer_size == 64
    assert config.max_latency_ms is None
    assert config.priority is PipelinePriority.NORMAL
    assert config.backpressure_strategy is None
    assert config.transformation_required is False
    assert config.late == "pass"
    assert config.max_buffer_bytes is None


def test_priorities_rank_from_critical_to_low():
    assert [PipelinePriority(name).rank for name in ("critical", "high", "normal", "low")] == [0, 1, 2, 3]
    assert PipelineConfig(1, priority="critical").priority is PipelinePriority.CRITICAL


configs = st.builds(
    PipelineConfig,
    st.integers(1, 65_536),
    st.none() | st.floats(0.001, 1e6),
    st.sampled_from(list(PipelinePriority)),
    st.sampled_from([None, Wait(5), DropOldest(), Fail()]),
)


@given(configs)
def test_configurations_are_values(config):
    assert copy.deepcopy(config) == config
    assert f"buffer_size={config.buffer_size}" in repr(config)
    assert hash(copy.copy(config)) == hash(config)
    assert config != PipelineConfig(1, max_latency_ms=1e7)
    assert config != "a configuration"


def test_a_limit_of_bytes_is_part_of_the_value():
    assert PipelineConfig(8, max_buffer_bytes=4096) == PipelineConfig(8, max_buffer_bytes=4096)
    assert PipelineConfig(8, max_buffer_bytes=4096) != PipelineConfig(8)
    assert "max_buffer_bytes=4096" in repr(PipelineConfig(8, max_buffer_bytes=4096))
    assert PipelineConfig(8, max_buffer_bytes=1 << 50).max_buffer_bytes == 1 << 50


def test_a_limit_of_bytes_from_a_file(tmp_path):
    path = tmp_path / "flow.toml"
    path.write_text("buffer_size = 8\nmax_buffer_bytes = 4096")
    assert PipelineConfig.from_toml(path) == PipelineConfig(8, max_buffer_bytes=4096)
    path.write_text("buffer_size = 8\nmax_buffer_bytes = 0")
    with pytest.raises(ConfigurationError, match=r"flow\.toml, line 2, max_buffer_bytes: .*expected max_buffer_bytes"):
        PipelineConfig.from_toml(path)


def test_configurations_are_frozen():
    config = PipelineConfig(1)
    with pytest.raises(AttributeError, match="frozen"):
        config.buffer_size = 2
    with pytest.raises(AttributeError, match="frozen"):
        del config.buffer_size
    with pytest.raises(AttributeError):
        config.other = 2


def test_the_buffer_size_has_no_default():
    with pytest.raises(TypeError, match="buffer_size"):
        PipelineConfig()


def test_a_misspelt_option_gets_all_that_there_are():
    with pytest.raises(UnknownName, match="did you mean 'transformation_required'") as caught:
        PipelineConfig(buffer_size=2, transformation_requird=True)
    assert caught.value.known == PipelineConfig.OPTIONS


def test_a_misspelt_buffer_size_is_not_a_missing_one():
    with pytest.raises(UnknownName, match="did you mean 'buffer_size'"):
        PipelineConfig(bufer_size=5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"buffer_size": 0}, "expected buffer_size to be an integer from 1 to 65,536, got 0"),
        ({"buffer_size": 65_537}, "got 65537"),
        ({"buffer_size": 8.0}, "got 8.0"),
        ({"buffer_size": True}, "got True"),
        ({"max_latency_ms": 0}, "expected max_latency_ms to be a number of milliseconds above 0"),
        ({"max_latency_ms": "2"}, "got '2'"),
        ({"priority": "hihg"}, "unknown priority 'hihg'; did you mean 'high'"),
        ({"priority": 3}, "unknown priority 3"),
        ({"backpressure_strategy": "drop_oldest"}, r"a rule such as DropOldest\(\)"),
        ({"backpressure_strategy": DropOldest}, r"a rule such as DropOldest\(\)"),
        ({"transformation_required": 1}, "expected transformation_required to be True or False, got 1"),
        ({"conversion": {"quality": "HQ"}}, r"expected conversion to be ConversionOptions\(quality="),
        ({"validation": "full"}, r"expected validation to be Validation\(mode="),
        ({"late": "drop"}, 'expected max_latency_ms beside late="drop", got None'),
        ({"late": "conceal", "max_latency_ms": 2}, r"write AudioPipelineConfig\(late=\"conceal\""),
        ({"target_fill_ms": 5}, r"a limit of audio; write AudioPipelineConfig\(target_fill_ms=5"),
        ({"late": "dorp"}, "did you mean 'drop'"),
        ({"bufer_size": 5}, "unknown option 'bufer_size'; did you mean 'buffer_size'"),
        ({"max_buffer_bytes": 0}, "expected max_buffer_bytes to be an integer from 1 to 1,125,899,906,842,624, got 0"),
        ({"max_buffer_bytes": (1 << 50) + 1}, "got 1125899906842625"),
        ({"max_buffer_bytes": 4096.0}, "got 4096.0"),
        ({"max_buffer_bytes": True}, "got True"),
        ({"max_buffer_byte": 4096}, "did you mean 'max_buffer_bytes'"),
    ],
)
def test_impossible_settings_are_refused(options, text):
    with pytest.raises(ConfigurationError, match=text):
        PipelineConfig(**{"buffer_size": 8, **options})


# --- files ---

FIELDS = """
buffer_size = 32
max_latency_ms = 2.0
priority = "critical"
backpressure_strategy = { kind = "wait", timeout_ms = 5000 }
"""
EXPECTED = PipelineConfig(32, 2.0, "critical", Wait(5000))


@pytest.mark.parametrize(
    ("text", "pipeline"),
    [
        (FIELDS, None),
        ("[pipeline]" + FIELDS, None),
        ("[dsp]" + FIELDS, "dsp"),
        ("[pipelines.dsp]" + FIELDS, "dsp"),
        ('[[pipelines]]\nname = "dsp"' + FIELDS, "dsp"),
        ('[[pipelines]]\nfrom = "take.out"\nto = "pitch.audio"' + FIELDS, "take.out->pitch.audio"),
    ],
)
def test_settings_from_a_file(tmp_path, text, pipeline):
    path = tmp_path / "flow.toml"
    path.write_text(text)
    assert PipelineConfig.from_toml(path, pipeline) == EXPECTED
    assert PipelineConfig.from_toml(str(path), pipeline) == EXPECTED


def test_a_rule_may_be_a_bare_word(tmp_path):
    path = tmp_path / "flow.toml"
    path.write_text('buffer_size = 1\nbackpressure_strategy = "latest"')
    assert PipelineConfig.from_toml(path).backpressure_strategy == Latest()


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("bufer_size = 3", UnknownName, "unknown option 'bufer_size'; did you mean 'buffer_size'"),
        ("max_latency_ms = 3", ConfigurationError, "buffer_size is missing"),
        ("buffer_size = 0", ConfigurationError, "expected buffer_size to be an integer from 1 to 65,536, got 0"),
        ('buffer_size = 1\npriority = "hihg"', UnknownName, "unknown priority 'hihg'; did you mean 'high'"),
        ('buffer_size = 1\nbackpressure_strategy = "wiat"', UnknownName, "unknown rule 'wiat'; did you mean 'wait'"),
        ("buffer_size = 1\nbackpressure_strategy = 3", ConfigurationError, "expected a rule such as"),
        ("buffer_size =", ConfigurationError, "expected TOML"),
        ("pipeline = 3", ConfigurationError, "expected a table, got 3"),
    ],
)
def test_errors_name_file_option_and_value(tmp_path, text, kind, message):
    path = tmp_path / "flow.toml"
    path.write_text(text)
    with pytest.raises(kind) as caught:
        PipelineConfig.from_toml(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_an_unknown_pipeline_gets_the_near_miss(tmp_path):
    path = tmp_path / "flow.toml"
    path.write_text("[pipelines.dsp]\nbuffer_size = 1")
    with pytest.raises(UnknownName, match="unknown pipeline 'dps'; did you mean 'dsp'"):
        PipelineConfig.from_toml(path, "dps")


def test_errors_name_the_table(tmp_path):
    path = tmp_path / "flow.toml"
    path.write_text("[dsp]\nbuffer_size = 0")
    with pytest.raises(ConfigurationError, match=r"flow\.toml, line 2, dsp\.buffer_size: "):
        PipelineConfig.from_toml(path, "dsp")


def test_all_wrong_options_are_named_at_once(tmp_path):
    path = tmp_path / "flow.toml"
    path.write_text('[dsp]\nbuffer_size = 0\npriority = "hihg"\nlate = "pass"')
    with pytest.raises(SeveralProblems) as caught:
        PipelineConfig.from_toml(path, "dsp")
    assert [str(each).removeprefix(f"{path}, ").partition(": ")[0] for each in caught.value.problems] == [
        "line 2, dsp.buffer_size",
        "line 3, dsp.priority",
    ]


def test_pipelines_that_are_no_tables_are_passed_over(tmp_path):
    path = tmp_path / "flow.toml"
    path.write_text("pipelines = [3]\n[dsp]\nbuffer_size = 1")
    assert PipelineConfig.from_toml(path, "dsp").buffer_size == 1
    with pytest.raises(UnknownName, match="Known: dsp"):
        PipelineConfig.from_toml(path, "3")


@pytest.mark.parametrize(
    "rule",
    [
        Wait(),
        Wait(5),
        Wait(5, "drop_newest"),
        DropOldest(),
        DropNewest(),
        DropByPriority(),
        Latest(),
        Sample(2),
        Fail(),
        Throttle(),
        Throttle(0.5),
        Grow(64),
        Grow(64, max_bytes=1 << 20, max_ms=100.0, then="drop_newest"),
        Adaptive(),
        Adaptive(5, lower_quality=True),
    ],
    ids=repr,
)
def test_a_rule_can_be_written_and_read_again(rule):
    assert rule_from_table(rule_to_table(rule)) == rule


def test_a_rule_is_written_without_its_defaults():
    assert rule_to_table(Wait(5)) == {"kind": "wait", "timeout_ms": 5}
    assert rule_to_table(Latest()) == {"kind": "latest"}


def test_unreadable_files(tmp_path):
    with pytest.raises(FileUnreadable, match=r"missing\.toml: cannot be read: No such file") as caught:
        PipelineConfig.from_toml(tmp_path / "missing.toml")
    assert isinstance(caught.value, OSError)
    (tmp_path / "latin.toml").write_bytes(b'a = "\xff"')
    with pytest.raises(ConfigurationError, match="expected TOML"):
        PipelineConfig.from_toml(tmp_path / "latin.toml")
