"""
The scenario of test_decimals.py for the newest boto3: what it says of each step, as lines of JSON.

Run by an interpreter that has boto3 and nothing of ours.
"""

import json
import sys
from datetime import datetime
from typing import Any

import boto3
import botocore.exceptions
from botocore.config import Config

order = json.loads(sys.argv[1])
client = boto3.Session().client(
    "meteringmarketplace",
    endpoint_url=order["endpoint"],
    region_name="us-east-1",
    config=Config(retries={"total_max_attempts": 1}),
)
for step, operation, members in order["steps"]:
    for one in members.get("UsageRecords", [members]):
        one["Timestamp"] = datetime.fromisoformat(one["Timestamp"])
    said: dict[str, Any]
    try:
        answer = getattr(client, operation)(**members)
        said = {"answer": {n: v for n, v in answer.items() if n != "ResponseMetadata"}}
    except botocore.exceptions.ClientError as error:
        code = error.response["Error"]["Code"]
        own = getattr(client.exceptions, code, None) if code in dir(client.exceptions) else None
        said = {"code": code, "own": own is not None and isinstance(error, own)}
    print(json.dumps({"step": step, **said}, default=str))  # noqa: T201 - a line for the test
