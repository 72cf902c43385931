"""boto3's part of run.py; in an environment of its own."""

import json
import sys
from datetime import UTC, datetime
from typing import Any

import boto3
from botocore.exceptions import ClientError, ParamValidationError

CALLS = {
    "BatchMeterUsage": "batch_meter_usage",
    "MeterUsage": "meter_usage",
    "RegisterUsage": "register_usage",
    "ResolveCustomer": "resolve_customer",
}
clients: dict[str, Any] = {}


def client(region: str) -> Any:
    if region not in clients:
        clients[region] = boto3.client("meteringmarketplace", region_name=region)
    return clients[region]


def timed(value: Any) -> Any:
    """Give times as boto3 wants them."""
    if isinstance(value, list):
        return [timed(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        name: datetime.fromtimestamp(part, UTC) if name == "Timestamp" else timed(part)
        for name, part in value.items()
    }


def answer(call: dict[str, Any]) -> dict[str, Any]:
    service = client(call["region"])
    try:
        reply = getattr(service, CALLS[call["operation"]])(**timed(call["request"]))
    except ParamValidationError as error:
        if "Unknown parameter" in str(error):
            return {"cannot": "a member that this SDK does not know"}
        return {"code": "ParamValidationError", "modelled": True}
    except ClientError as error:
        code = error.response["Error"]["Code"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return {"code": code, "status": status, "modelled": type(error) is not ClientError}
    return {"reply": reply, "status": reply.pop("ResponseMetadata")["HTTPStatusCode"]}


print(json.dumps({"version": f"boto3 {boto3.__version__}"}), flush=True)
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line)), default=str), flush=True)
