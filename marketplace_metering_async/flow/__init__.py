"""
How fast: permits to start calls, pacing, retries, and the event loop's share.

A call starts with one of the `permits`: a place on the wire, and the consent of the pacer. `pacing`
keeps the quota, and finds it where it is not known; a throttle makes it rest and measure, so that
all calls of a client slow down. `retries` backs off where an attempt failed, but not for a
throttle. `work_stretch` lets others have the event loop in the midst of long work.
"""
