"""The sandbox over HTTP: the service at `/`, its controls at `/_sandbox/`."""
