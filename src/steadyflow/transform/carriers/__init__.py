"""
Carriers: what audio comes in and goes out as, besides arrays of numpy. One file for each kind.

    carrier        what a carrier is, and the converter that uses them all
    dlpack         torch, jax and others, without importing them
    memory         the buffer protocol, `array.array`
    pcm            bytes without a header
    sound_file     the bytes of a WAV or FLAC file
    arrow          record batches, a column for each channel
    typed_array    bytes that JavaScript maps to a typed array; typed_array.mjs reads and writes them there
"""
