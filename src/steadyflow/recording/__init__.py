"""
Recordings: what went through a pipeline, in a file, with its stamps; and again through a flow.

- `Recorder` writes; ``flow.record(pipeline, path)`` adds one
- `replay` sends a recording into a flow; it makes a `Replay`
- `Recording` reads one without a flow; `RecordingInfo` is what it says about itself

The files are MCAP, an open container; docs/recordings.md describes what stands in them. Needs the extra ``recording``
(mcap), which is imported when the first of these is made.
"""

from steadyflow.recording.reading import Recording as Recording
from steadyflow.recording.reading import RecordingInfo as RecordingInfo
from steadyflow.recording.recorder import Recorder as Recorder
from steadyflow.recording.replaying import Replay as Replay
from steadyflow.recording.replaying import replay as replay

__all__ = ["Recorder", "Recording", "RecordingInfo", "Replay", "replay"]
