"""``scalebound-verify C.json [--json] [--replay M [--seed S]]``: exit status 0 holds, 1 does not, 2 usage, 3 a malformed file."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from scalebound_verify.check import verify
from scalebound_verify.strict import Refused


def lines(record: dict[str, Any]) -> list[str]:
    """What people read: one line a check, and a last one."""
    marks = [f"{'ok ' if check['ok'] else 'NOT'}  {check['name']:<11} {check['detail']}" for check in record["checks"]]
    return [*marks, f"{'holds' if record['holds'] else 'does NOT hold'}: {record['claim']}"]

def main(argv: Sequence[str] | None = None) -> int:
    """Check one certificate or record; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scalebound-verify", description="Check a certificate or a record against the files it names.")
    parser.add_argument("certificate", help="the .json file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--replay", type=int, default=0, metavar="M", help="score M random blocks again (needs torch and transformers)")
    parser.add_argument("--seed", type=int, help="draws the blocks; default: a fresh one")
    asked = parser.parse_args(argv)
    if asked.replay < 0 or (asked.seed or 0) < 0:
        parser.error("--replay and --seed cannot be negative")
    try:
        record = verify(asked.certificate, asked.replay, asked.seed)
    except (Refused, OSError) as caught:
        error = caught if isinstance(caught, Refused) else Refused(str(caught), status=5)
        if asked.json:
            print(json.dumps({"error": {x: getattr(error, x) for x in ("what", "where", "expected", "hint")}, "status": error.status}))
        print(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.status
    print(json.dumps(record) if asked.json else "\n".join(lines(record)))
    return 0 if record["holds"] else 1

if __name__ == "__main__":
    sys.exit(main())
