"""
Compare two builds of steadyflow in paired runs of its own benchmarks.

    python tools/compare_builds.py OLD_PYTHON NEW_PYTHON [--rounds 9] hop processes

Each interpreter has one of the builds installed. The builds take turns, and who begins changes from round to round; each
measurement is a fresh run. Printed is, for every row of steadyflow's own, the median over the rounds of new / old: below
1, the new build is faster. Exits with 1 if a benchmark fails.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict

Key = tuple[str, str]
STATISTICS = ("mean", "p50", "p99", "p999")


def measure(python: str, cases: list[str]) -> dict[Key, dict[str, float]]:
    """Run the cases once; return the figures of steadyflow's own rows in ns, by (title, row)."""
    done = subprocess.run(
        [python, "-m", "steadyflow.benchmarks", *cases, "--quick", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{python}: the benchmark failed:\n{done.stderr}")
    return {
        (figure["title"], row["name"]): row["values_ns"]
        for case in json.loads(done.stdout)
        for figure in case["figures"]
        for row in figure["rows"]
        if row["name"].startswith("steadyflow") and row["state"] == "measured"
    }


def main() -> None:
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="the interpreter of the build to compare with")
    parser.add_argument("new", help="the interpreter of the build to judge")
    parser.add_argument("cases", nargs="+", help="benchmarks, as `steadyflow bench` knows them")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    ratios: dict[Key, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        builds = [options.old, options.new] if number % 2 == 0 else [options.new, options.old]
        figures = {python: measure(python, options.cases) for python in builds}
        for key, new in figures[options.new].items():
            old = figures[options.old].get(key)
            for name in STATISTICS if old is not None else ():
                ratios[key][name].append(new[name] / old[name])
    print(f"{'new / old':<60}" + "".join(f"{name:>18}" for name in STATISTICS))
    for (title, row), by_statistic in ratios.items():
        cells = []
        for name in STATISTICS:
            values = sorted(by_statistic[name])
            cells.append(f"{statistics.median(values):.2f} ({values[0]:.2f}-{values[-1]:.2f})")
        print(f"{title + ': ' + row:<60}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()
