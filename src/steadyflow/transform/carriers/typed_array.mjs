// Frames of steadyflow in JavaScript: what typed_array.py writes, and what it reads. Little-endian throughout.
//
//     import { decodeFrame } from "./typed_array.mjs";
//     socket.binaryType = "arraybuffer";
//     socket.onmessage = ({ data }) => { const block = decodeFrame(data); draw(block.channel(0)); };
//
// Runs in browsers, in their workers and in Node; needs nothing.

const HEADER_BYTES = 48;
const MAGIC = 0x31414653; // "SFA1"
const VERSION = 1;
const TYPES = [
  ["f32", Float32Array],
  ["f64", Float64Array],
  ["s16", Int16Array],
  ["s32", Int32Array],
  ["u8", Uint8Array],
];
const LAYOUTS = ["interleaved", "planar"];
const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

export const DISCONTINUITY = 1;
export const GAP = 2;
export const CORRUPTED = 4;
export const REPEATED = 8;
export const END_OF_STREAM = 16;

/**
 * Reads a frame. `samples` is a view of the data, nothing is copied, unless the data begins where no typed array may
 * begin (a part of a larger buffer); then `copied` says so.
 *
 * @param {ArrayBuffer | ArrayBufferView} data The whole frame.
 * @returns What it holds; `firstFrame`, `timestampNs` and `sequence` are BigInt, because they may be larger than 2^53.
 * @throws {RangeError} It is no frame, or was cut off; says what was expected, and what came.
 */
export function decodeFrame(data) {
  if (!LITTLE_ENDIAN) throw new RangeError("steadyflow: expected a little-endian machine");
  const bytes = ArrayBuffer.isView(data)
    ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    : new Uint8Array(data);
  if (bytes.byteLength < HEADER_BYTES) {
    throw new RangeError(`steadyflow: expected a header of ${HEADER_BYTES} bytes, got ${bytes.byteLength} bytes`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const magic = view.getUint32(0, true);
  const version = view.getUint8(4);
  if (magic !== MAGIC || version !== VERSION) {
    throw new RangeError(`steadyflow: expected a frame of version ${VERSION}, got 0x${magic.toString(16)}, version ${version}`);
  }
  const type = TYPES[view.getUint8(5)];
  const layout = LAYOUTS[view.getUint8(6)];
  if (type === undefined || layout === undefined) {
    throw new RangeError(`steadyflow: expected a known sample type and layout, got ${view.getUint8(5)} and ${view.getUint8(6)}`);
  }
  const [sampleType, Samples] = type;
  const channels = view.getUint16(12, true);
  const frames = view.getUint32(16, true);
  const fieldBytes = view.getUint32(20, true);
  const count = frames * channels;
  const end = HEADER_BYTES + count * Samples.BYTES_PER_ELEMENT;
  if (bytes.byteLength !== end + fieldBytes) {
    throw new RangeError(`steadyflow: expected ${end + fieldBytes} bytes, as the header says, got ${bytes.byteLength}`);
  }
  const begin = bytes.byteOffset + HEADER_BYTES;
  const copied = begin % Samples.BYTES_PER_ELEMENT !== 0;
  const samples = copied
    ? new Samples(bytes.slice(HEADER_BYTES, end).buffer)
    : new Samples(bytes.buffer, begin, count);
  return {
    samples,
    sampleType,
    layout,
    channels,
    frames,
    sampleRateHz: view.getUint32(8, true),
    flags: view.getUint16(14, true),
    firstFrame: view.getBigUint64(24, true),
    timestampNs: view.getBigInt64(32, true),
    sequence: view.getBigUint64(40, true),
    metadata: fieldBytes === 0 ? {} : readFields(bytes.subarray(end)),
    copied,
    channel: (number) => channelOf(samples, layout, channels, frames, number),
  };
}

/**
 * Writes a frame.
 *
 * @param {Float32Array | Float64Array | Int16Array | Int32Array | Uint8Array} samples All channels.
 * @param options `sampleRateHz` and `channels` are needed; `layout`, `flags`, `firstFrame`, `timestampNs`, `sequence` and
 *   `metadata` may be left out. Give `firstFrame`, the number of the first frame in its stream, where one frame follows another.
 * @returns {ArrayBuffer} The frame.
 * @throws {RangeError} The samples are no whole frames, or of another type.
 */
export function encodeFrame(samples, options) {
  if (!LITTLE_ENDIAN) throw new RangeError("steadyflow: expected a little-endian machine");
  const { sampleRateHz, channels, layout = "interleaved", flags = 0, metadata = {} } = options;
  const { firstFrame = 0n, timestampNs = 0n, sequence = 0n } = options;
  if (!(sampleRateHz > 0)) throw new RangeError(`steadyflow: expected sampleRateHz above 0, got ${sampleRateHz}`);
  const type = TYPES.findIndex(([, Samples]) => samples instanceof Samples);
  const place = LAYOUTS.indexOf(layout);
  if (type < 0 || place < 0) {
    throw new RangeError(`steadyflow: expected samples in a typed array, interleaved or planar, got ${samples} and ${layout}`);
  }
  if (!(channels > 0) || samples.length === 0 || samples.length % channels !== 0) {
    throw new RangeError(`steadyflow: expected whole frames of ${channels} channels, got ${samples.length} samples`);
  }
  const names = Object.keys(metadata);
  const fields = names.length === 0 ? new Uint8Array(0) : new TextEncoder().encode(writeFields(metadata));
  const frame = new Uint8Array(HEADER_BYTES + samples.byteLength + fields.byteLength);
  const view = new DataView(frame.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint8(4, VERSION);
  view.setUint8(5, type);
  view.setUint8(6, place);
  view.setUint32(8, sampleRateHz, true);
  view.setUint16(12, channels, true);
  view.setUint16(14, flags, true);
  view.setUint32(16, samples.length / channels, true);
  view.setUint32(20, fields.byteLength, true);
  view.setBigUint64(24, BigInt(firstFrame), true);
  view.setBigInt64(32, BigInt(timestampNs), true);
  view.setBigUint64(40, BigInt(sequence), true);
  frame.set(new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength), HEADER_BYTES);
  frame.set(fields, HEADER_BYTES + samples.byteLength);
  return frame.buffer;
}

// One channel: a view where it lies in one piece, else a copy.
function channelOf(samples, layout, channels, frames, number) {
  if (!(number >= 0 && number < channels)) {
    throw new RangeError(`steadyflow: expected a channel below ${channels}, got ${number}`);
  }
  if (layout === "planar") return samples.subarray(number * frames, (number + 1) * frames);
  if (channels === 1) return samples;
  const channel = new samples.constructor(frames);
  for (let frame = 0; frame < frames; ++frame) channel[frame] = samples[frame * channels + number];
  return channel;
}

// Bytes travel as {"base64": text}, and numbers that JSON has no word for as {"float": text}.
function readFields(bytes) {
  let fields;
  try {
    fields = JSON.parse(new TextDecoder().decode(bytes));
  } catch (problem) {
    throw new RangeError(`steadyflow: expected fields as JSON: ${problem.message}`);
  }
  return Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, readField(value)]));
}

function readField(value) {
  if (value === null || typeof value !== "object") return value;
  if (typeof value.base64 === "string") return Uint8Array.from(atob(value.base64), (letter) => letter.charCodeAt(0));
  return typeof value.float === "string" ? Number(value.float.replace("inf", "Infinity")) : value;
}

function writeFields(fields) {
  return JSON.stringify(Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, writeField(value)])));
}

function writeField(value) {
  if (value instanceof Uint8Array) return { base64: btoa(String.fromCharCode(...value)) };
  if (typeof value === "number" && !Number.isFinite(value)) return { float: String(value).replace("Infinity", "inf") };
  return value;
}
