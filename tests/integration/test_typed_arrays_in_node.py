"""Frames for JavaScript, read and written by the module that comes with the package, in Node."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import steadyflow.transform.carriers as carriers
from steadyflow import AudioFormat, Block, CarrierFormat
from steadyflow.transform import DataTransformer, convert

MODULE = Path(carriers.__file__).parent / "typed_array.mjs"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")

ARRAYS = {"f32": "Float32Array", "f64": "Float64Array", "s16": "Int16Array", "s32": "Int32Array", "u8": "Uint8Array"}

PROGRAM = """
import { readFileSync, writeFileSync } from "node:fs";
const { decodeFrame, encodeFrame } = await import(process.argv[2]);
const [input, output] = process.argv.slice(3);
const bytes = readFileSync(input);
// Node reads small files into a part of a larger buffer; a browser gets a buffer of its own.
const own = new Uint8Array(bytes).buffer;
const block = decodeFrame(own);
const shared = block.samples.buffer === own;
const part = new Uint8Array(own.byteLength + 1);
part.set(new Uint8Array(own), 1);
const moved = decodeFrame(part.subarray(1));
const failures = [];
for (const wrong of [new ArrayBuffer(3), own.slice(0, -1), new ArrayBuffer(64)]) {
  try { decodeFrame(wrong); } catch (problem) { failures.push(`${problem.name}: ${problem.message}`); }
}
for (const [samples, options] of [
  [[1, 2], { sampleRateHz: 8000, channels: 1 }],
  [new Float32Array(3), { sampleRateHz: 8000, channels: 2 }],
  [new Float32Array(0), { sampleRateHz: 8000, channels: 2 }],
]) {
  try { encodeFrame(samples, options); } catch (problem) { failures.push(`${problem.name}: ${problem.message}`); }
}
try { block.channel(9); } catch (problem) { failures.push(`${problem.name}: ${problem.message}`); }
writeFileSync(output, new Uint8Array(encodeFrame(block.samples, block)));
console.log(JSON.stringify({
  type: block.samples.constructor.name,
  samples: Array.from(block.samples),
  last: Array.from(block.channel(block.channels - 1)),
  shared,
  copied: [block.copied, moved.copied],
  moved: Array.from(moved.samples),
  sampleType: block.sampleType, layout: block.layout, channels: block.channels, frames: block.frames,
  sampleRateHz: block.sampleRateHz, flags: block.flags, firstFrame: `${block.firstFrame}`,
  timestampNs: `${block.timestampNs}`, sequence: `${block.sequence}`,
  raw: Array.from(block.metadata.raw ?? []), name: block.metadata.name,
  failures,
}));
"""


def in_node(tmp_path, frame):
    """Return what Node read, and the frame that it wrote."""
    program, given, made = tmp_path / "read.mjs", tmp_path / "frame.bin", tmp_path / "made.bin"
    program.write_text(PROGRAM, encoding="utf-8")
    given.write_bytes(frame)
    done = subprocess.run(
        ["node", str(program), MODULE.as_uri(), str(given), str(made)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), made.read_bytes()


@pytest.mark.parametrize("layout", ["interleaved", "planar"])
@pytest.mark.parametrize("sample_type", ARRAYS)
def test_a_block_comes_out_as_it_went_in(tmp_path, sample_type, layout):
    fmt = AudioFormat(48_000, 2, sample_type, layout)
    values = np.random.default_rng(3).integers(0, 100, fmt.block_shape(7))
    samples = (values / 128 if sample_type[0] == "f" else values).astype(fmt.dtype)
    block = Block(
        samples,
        fmt,
        timestamp_ns=-(1 << 60),
        first_frame=1 << 62,
        sequence=12,
        flags=5,
        metadata={"raw": b"\0\xfe", "name": "ü"},
    )
    transformer = DataTransformer()
    (carried,) = transformer.transform(block, transformer.plan(fmt, CarrierFormat("typed_array")))
    read, made = in_node(tmp_path, carried.data)
    assert read["type"] == ARRAYS[sample_type]
    assert read["samples"] == read["moved"] == samples.ravel().tolist()
    assert read["last"] == (samples[1] if layout == "planar" else samples[:, 1]).tolist()
    assert read["shared"]
    assert read["copied"] == [False, sample_type != "u8"]
    assert (read["sampleType"], read["layout"], read["channels"], read["frames"]) == (sample_type, layout, 2, 7)
    assert (read["sampleRateHz"], read["flags"]) == (48_000, 5)
    assert (int(read["firstFrame"]), int(read["timestampNs"]), int(read["sequence"])) == (1 << 62, -(1 << 60), 12)
    assert (read["raw"], read["name"]) == ([0, 0xFE], "ü")
    # What it writes is read here, with everything that it says.
    back = DataTransformer()
    wanted = CarrierFormat("typed_array", fmt)
    (again,) = back.transform(Block(made, wanted), back.plan(wanted, fmt))
    np.testing.assert_array_equal(again.samples, samples)
    assert (again.timestamp_ns, again.first_frame, again.sequence, again.flags) == (-(1 << 60), 1 << 62, 12, 5)
    assert again.metadata == block.metadata


def test_what_is_no_frame_is_refused_with_the_reason(tmp_path):
    frame = convert(np.zeros((4, 1), np.float32), AudioFormat(48_000, 1), CarrierFormat("typed_array"))
    read, _ = in_node(tmp_path, frame)
    for failure, expected in zip(
        read["failures"],
        [
            "expected a header of 48 bytes, got 3 bytes",
            "expected 64 bytes, as the header says, got 63",
            "expected a frame of version 1, got 0x0, version 0",
            "expected samples in a typed array",
            "expected whole frames of 2 channels, got 3 samples",
            "expected whole frames of 2 channels, got 0 samples",
            "expected a channel below 1, got 9",
        ],
        strict=True,
    ):
        assert failure.startswith("RangeError: steadyflow: ")
        assert expected in failure
