"""A machine without AWS: no variable, no file, no metadata service, until a test says so."""

import os
from pathlib import Path

import pytest
from attrs import frozen
from botocore.loaders import create_loader

LOADER = create_loader()
"""Reads what botocore knows of services and endpoints once for all sessions."""


@frozen
class Machine:
    """
    What AWS SDKs would look at.

    Attributes:
        home: The home directory, empty at first.
        monkeypatch: Sets variables for the time of the test.
    """

    home: Path
    monkeypatch: pytest.MonkeyPatch

    def set(self, **variables: str) -> None:
        """Set environment variables."""
        for name, value in variables.items():
            self.monkeypatch.setenv(name, value)

    def write(self, name: str, text: str) -> Path:
        """Write a file of `~/.aws`."""
        path = self.home / ".aws" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path


def bare_machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Take away everything of this machine that an AWS SDK would find."""
    for name in os.environ:
        if name.startswith("AWS_") or name.lower().endswith(("_proxy", "_ca_bundle")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return Machine(home, monkeypatch)
