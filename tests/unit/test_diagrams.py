"""Pictures of flows: what is to be seen of them, and that both languages say it, whatever the names are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import msgspec
import pydot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steadyflow import (
    AnyFormat,
    ArrayFormat,
    AudioFormat,
    BytesFormat,
    DataFlowCoordinator,
    DropOldest,
    Input,
    Latest,
    Module,
    Output,
    PipelineConfig,
    Source,
    StructFormat,
    Wait,
)
from steadyflow.diagrams import flow_graph
from steadyflow.diagrams.dot import to_dot
from steadyflow.diagrams.flow_graph import FlowGraph, ModuleNode, PipelineEdge, WorkerGroup
from steadyflow.diagrams.mermaid import to_mermaid
from steadyflow.errors import ConfigurationError, UnknownName

# What reads DOT here calls old names of what it reads it with.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Found(msgspec.Struct):
    what: str


class Ear(Source):
    out = Output(AudioFormat(48_000, 2, sample_type="s16", layout="planar"))
    live = True

    def produce(self):
        yield


class Analysis(Module):
    audio = Input(AudioFormat(sample_type="s16", layout="planar"))
    spectrum = Output(ArrayFormat("float32", (2, 512)))
    found = Output(StructFormat(Found))
    raw = Output(BytesFormat())
    same = Output(like="audio")

    def setup(self):
        raise AssertionError("a picture needs no setup")

    def resolve_formats(self, inputs):
        raise AssertionError("a picture needs no resolved formats")

    def process(self, audio): ...


class Eater(Module):
    one = Input(AnyFormat())
    two = Input(AnyFormat())

    def process_one(self, one): ...
    def process_two(self, two): ...


URGENT = (
    "audio, 48000 Hz, 2 channels, s16, planar",
    "1 block, ≤ 2.5 ms, critical",
    "wait, timeout_ms = 20, then = drop_oldest",
)


@pytest.fixture
def flow():
    with DataFlowCoordinator('a "flow" <of> [all] sorts; & more') as flow:
        ear = flow.add(Ear, name="ear")
        analysis = flow.add(Analysis, name="analysis", placement="process", realtime=True)
        eater = flow.add(Eater, name="eater")
        urgent = {"max_latency_ms": 2.5, "priority": "critical", "backpressure_strategy": Wait(20, "drop_oldest")}
        flow.connect(ear.out, analysis.audio, buffer_size=1, **urgent)
        flow.connect(analysis.spectrum, eater.one, buffer_size=8)
        flow.connect(analysis.same, eater.two, buffer_size=8, backpressure_strategy=Latest())
        flow.register_pipeline(analysis.raw, "app", PipelineConfig(4, priority="low"))
        flow.register_pipeline("app", eater.two, PipelineConfig(4), format=AudioFormat(48_000, 1))
        flow.register_pipeline(analysis.found, eater.one, PipelineConfig(4))
        yield flow


def graph_of(flow):
    return flow_graph(flow.name, flow._description.modules, list(flow.pipelines.values()))


# --- what is to be seen -------------------------------------------------------------------------------------------


def test_workers_hold_their_modules(flow):
    ear = ModuleNode(name="ear", class_name="Ear", inputs=(), outputs=("out",))
    eater = ModuleNode(name="eater", class_name="Eater", inputs=("one", "two"), outputs=())
    analysis = ModuleNode(
        name="analysis", class_name="Analysis", inputs=("audio",), outputs=("spectrum", "found", "raw", "same")
    )
    assert graph_of(flow).workers == (
        WorkerGroup(name="main", placement="thread", realtime=False, modules=(ear, eater)),
        WorkerGroup(name="analysis", placement="process", realtime=True, modules=(analysis,)),
    )
    assert graph_of(flow).open_ends == ("app",)


def test_pipelines_say_what_flows_and_how(flow):
    assert {each.id: each.describe() for each in graph_of(flow).pipelines} == {
        "ear.out->analysis.audio": URGENT,
        "analysis.spectrum->eater.one": ("float32 array 2×512", "8 blocks", "drop_oldest"),
        "analysis.same->eater.two": ("audio, s16, planar", "8 blocks", "latest"),
        "analysis.raw->app": ("bytes", "4 blocks, low", "drop_oldest"),
        "app->eater.two": ("audio, 48000 Hz, 1 channel", "4 blocks", "wait"),
        "analysis.found->eater.one": ("Found", "4 blocks", "drop_oldest"),
    }


def test_a_picture_changes_nothing(flow):
    flow.graph()
    assert flow.pipelines["analysis.spectrum->eater.one"].rule is None
    assert repr(flow).count("new") == 1


def test_what_nobody_declares_is_any_format():
    class Copier(Module):
        data = Input()
        out = Output(like="data")

        def process(self, data): ...

    with DataFlowCoordinator() as flow:
        one, two = flow.add(Copier), flow.add(Copier)
        flow.connect(one.out, two.data, buffer_size=3)
        (edge,) = graph_of(flow).pipelines
    assert edge.format is None
    assert edge.describe()[0] == "any format"


def test_rules_are_those_that_the_start_would_choose(flow):
    chosen = {each.id: each.rule["kind"] for each in graph_of(flow).pipelines}
    with DataFlowCoordinator() as other:
        ear = other.add(Ear, name="ear")
        eater = other.add(Eater, name="eater")
        link = other.connect(ear.out, eater.one, buffer_size=8)
        (edge,) = graph_of(other).pipelines
        other.start()
        assert edge.rule == {"kind": "drop_oldest"}
        assert link.rule == DropOldest()
        other.stop()
    assert chosen["analysis.spectrum->eater.one"] == "drop_oldest"


def test_json_is_the_same_as_data(flow):
    assert msgspec.json.decode(flow.graph("json"), type=FlowGraph) == graph_of(flow)
    assert json.loads(flow.graph("json"))["pipelines"][0]["rule"]["timeout_ms"] == 20


def test_an_unknown_format_offers_the_near_miss(flow):
    with pytest.raises(UnknownName, match="unknown format of a graph 'dott'; did you mean 'dot'"):
        flow.graph("dott")


def test_a_worker_of_two_placements_cannot_be_drawn():
    with DataFlowCoordinator() as flow:
        flow.add(Ear, name="ear", worker="w")
        flow.add(Analysis, name="analysis", worker="w", placement="process")
        with pytest.raises(ConfigurationError, match="worker 'w': expected one placement"):
            flow.graph()


def test_an_empty_flow_is_an_empty_picture():
    with DataFlowCoordinator("empty") as flow:
        assert "flowchart LR" in flow.graph()
        assert parsed(flow.graph("dot")).get_subgraphs() == []


# --- Mermaid ------------------------------------------------------------------------------------------------------


def test_mermaid(flow):
    assert flow.graph().splitlines()[:16] == [
        "---",
        r'title: "a \"flow\" <of> [all] sorts; & more"',
        "---",
        "flowchart LR",
        '    subgraph w0["main (thread)"]',
        '        m0["ear<br/>Ear"]',
        '        m1["eater<br/>Eater"]',
        "    end",
        '    subgraph w1["analysis (real-time process)"]',
        '        m2["analysis<br/>Analysis"]',
        "    end",
        '    m3(["app"])',
        f'    m0 -->|"out → audio<br/>{"<br/>".join(URGENT)}"| m2',
        '    m2 -->|"spectrum → one<br/>float32 array 2×512<br/>8 blocks<br/>drop_oldest"| m1',
        '    m2 -->|"same → two<br/>audio, s16, planar<br/>8 blocks<br/>latest"| m1',
        '    m2 -->|"raw<br/>bytes<br/>4 blocks, low<br/>drop_oldest"| m3',
    ]


LINE_OF_MERMAID = re.compile(
    r"""\s*(
        subgraph\ w\d+\["[^"]*"\]
      | m\d+\["[^"]*"\]
      | m\d+\(\["[^"]*"\]\)
      | m\d+\ -->\|"[^"]*"\|\ m\d+
      | end
      | classDef\ \w+\ [\w:,#]+
      | class\ w\d+\ \w+
    )""",
    re.VERBOSE,
)


def unescaped(label):
    return re.sub(r"#(\d+);", lambda match: chr(int(match[1])), label)


# --- DOT ----------------------------------------------------------------------------------------------------------


def parsed(dot):
    graphs = pydot.graph_from_dot_data(dot)
    assert graphs is not None, dot
    (graph,) = graphs
    return graph


def test_dot_has_every_part(flow):
    graph = parsed(flow.graph("dot"))

    clusters = graph.get_subgraphs()
    assert [[node.get_name() for node in each.get_nodes() if node.get_name() != "graph"] for each in clusters] == [
        ["m0", "m1"],
        ["m2"],
    ]
    assert [node.get_name() for node in graph.get_nodes() if node.get_name().startswith("m")] == ["m3"]
    assert [(each.get_source(), each.get_destination()) for each in graph.get_edges()] == [
        ("m0:out0:e", "m2:in0:w"),
        ("m2:out0:e", "m1:in0:w"),
        ("m2:out3:e", "m1:in1:w"),
        ("m2:out2:e", "m3:w"),
        ("m3:e", "m1:in1:w"),
        ("m2:out1:e", "m1:in0:w"),
    ]
    assert graph.get_node("graph")[0].get("rankdir") == "LR"
    assert [each.get("penwidth") for each in graph.get_edges()] == ["2.4", "1.1", "1.1", "0.7", "1.1", "1.1"]


def rendered(dot):
    """Let Graphviz draw it; the names and labels it found come back as text."""
    if shutil.which("dot") is None:
        pytest.skip("Graphviz is not installed: apt-get install graphviz")
    done = subprocess.run(["dot", "-Tsvg"], input=dot, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    return done.stdout


def test_graphviz_draws_it(flow):
    picture = rendered(flow.graph("dot"))
    for text in ("analysis", "Analysis", "real&#45;time process", "spectrum", "app", "48000 Hz", "≤ 2.5 ms"):
        assert text in picture


# --- hostile names ------------------------------------------------------------------------------------------------

texts = st.text(min_size=1, max_size=12) | st.sampled_from(
    [
        '"',
        "\\",
        '\\"',
        "]",
        "--> m1",
        "<b>",
        "&amp;",
        "#quot;",
        "`x`",
        "end",
        "%%",
        "}",
        "a\nb",
        "\0",
        " ",
        "\x85",
        "émaj 7♯",
        "\x1b[0m",
    ]
)


@st.composite
def graphs(draw):
    names = draw(st.lists(texts, min_size=3, max_size=5, unique=True))
    ports = draw(st.lists(texts, min_size=2, max_size=2))
    nodes = [
        ModuleNode(name=name, class_name=draw(texts), inputs=(ports[0],), outputs=(ports[1],)) for name in names[1:]
    ]
    workers = [
        WorkerGroup(
            name=draw(texts), placement=draw(st.sampled_from(["thread", "process"])), realtime=False, modules=each
        )
        for each in (tuple(nodes[:1]), tuple(nodes[1:]))
    ]
    edges = [
        PipelineEdge(
            id="x",
            source=(names[1], ports[1]),
            target=target,
            format=draw(texts),
            buffer_size=3,
            max_latency_ms=None,
            priority="normal",
            rule={"kind": draw(texts)},
        )
        for target in ((names[2], ports[0]), (names[0], ""))
    ]
    return FlowGraph(name=draw(texts), workers=tuple(workers), open_ends=(names[0],), pipelines=tuple(edges))


@settings(deadline=None)
@given(graphs())
def test_no_name_breaks_out_of_mermaid(graph):
    head, title, end, kind, *lines = to_mermaid(graph).rstrip("\n").split("\n")

    assert (head, end, kind) == ("---", "---", "flowchart LR")
    assert json.loads(title.removeprefix("title: ")) == graph.name
    assert [line for line in lines if not LINE_OF_MERMAID.fullmatch(line)] == []
    labels = [unescaped(each) for line in lines for each in re.findall('"([^"]*)"', line)]
    nodes = [node for worker in graph.workers for node in worker.modules]
    for node in nodes:
        shown = (" ".join(text.split()) or "\xa0" for text in (node.name, node.class_name))
        assert "<br/>".join(shown) in labels
    assert not {"<", ">", "`", "&", "\\"} & set("".join(lines).replace("<br/>", "").replace("-->", ""))


@settings(max_examples=25, deadline=None)
@given(graphs())
def test_no_name_breaks_out_of_dot(graph):
    found = parsed(to_dot(graph))
    nodes = [node for worker in graph.workers for node in worker.modules]

    assert sum(len(each.get_nodes()) - 1 for each in found.get_subgraphs()) == len(nodes)
    assert len(found.get_edges()) == len(graph.pipelines)


@settings(max_examples=15, deadline=None)
@given(graphs())
def test_graphviz_draws_any_name(graph):
    picture = rendered(to_dot(graph))
    assert picture.count('class="edge"') == len(graph.pipelines)
    assert picture.count('class="cluster"') == len(graph.workers)
