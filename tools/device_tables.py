"""
Print the tables of a run of `steadyflow bench device --json` as docs/performance.md has them.

    steadyflow bench device --json > device.json
    python tools/device_tables.py device.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from steadyflow.benchmarks.device import DeviceResult, Row
from steadyflow.benchmarks.device.cells import Cell
from steadyflow.benchmarks.device.tables import targets, to_markdown

(path,) = sys.argv[1:]
(record,) = [each for each in json.loads(Path(path).read_text()) if each["case"] == "device"]
result = DeviceResult(
    **{name: record[name] for name in ("seconds", "started_at", "machine", "duration_s")},
    rows=[Row(**{**row, "cell": Cell(**row["cell"])}) for row in record["rows"]],
)
print(to_markdown(result))
for target in targets(result):
    print(f"{ {True: 'Reached', False: 'Missed', None: 'Open'}[target.met] }: {target.text}: {target.measured}.")
