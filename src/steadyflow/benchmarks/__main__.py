"""`python -m steadyflow.benchmarks [NAME ...] [--quick] [--json]`: what `steadyflow bench` does, without its extra."""

from __future__ import annotations

import argparse
import json
import sys

from steadyflow.benchmarks import CASES, run_case


def main() -> int:
    """Run the named cases, or all; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m steadyflow.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(CASES)}; all, if none is named")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and blocks: less than three minutes in all")
    parser.add_argument("--json", action="store_true", help="print records instead of tables")
    arguments = parser.parse_args()

    results = []
    try:
        for name in arguments.names or CASES:
            result = run_case(name, quick=arguments.quick, say=lambda line: print(line, file=sys.stderr))  # noqa: T201
            results.append(result)
            if not arguments.json:
                from steadyflow.benchmarks.tables import print_result

                print_result(result)
    except KeyboardInterrupt:
        return 130
    finally:
        if arguments.json:
            sys.stdout.write(json.dumps([result.to_json_value() for result in results], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
