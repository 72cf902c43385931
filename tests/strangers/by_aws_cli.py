"""The aws CLI's part of run.py: a process a call."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

PROGRAM = sys.argv[1]
COMMANDS = {
    "BatchMeterUsage": "batch-meter-usage",
    "MeterUsage": "meter-usage",
    "RegisterUsage": "register-usage",
    "ResolveCustomer": "resolve-customer",
}


def timed(value: Any) -> Any:
    """Write times as the CLI reads them."""
    if isinstance(value, list):
        return [timed(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        name: datetime.fromtimestamp(part, UTC).isoformat() if name == "Timestamp" else timed(part)
        for name, part in value.items()
    }


def answer(call: dict[str, Any]) -> dict[str, Any]:
    command = [PROGRAM, "meteringmarketplace", COMMANDS[call["operation"]]]
    command += ["--region", call["region"], "--cli-input-json", json.dumps(timed(call["request"]))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return {"reply": json.loads(done.stdout or "{}")}
    if found := re.search(r"An error occurred \((\w+)\)", done.stderr):
        return {"code": found[1]}
    if "Unknown parameter" in done.stderr:
        return {"cannot": "a member that this SDK does not know"}
    return {"code": done.stderr.strip().partition("\n")[0][:200]}


version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True)
print(json.dumps({"version": version.stdout.split()[0].replace("/", " ")}), flush=True)
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
