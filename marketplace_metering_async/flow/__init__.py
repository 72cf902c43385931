"""How fast: pacing, permits to start calls, retries, and the event loop's share."""
