"""
How records become verdicts.

`batch`, `stream` and the batcher (by `feed`) are three doors to one `Delivery`. A record that was
let in (`admission`, `duplicates`) waits in the `backlog`, whose lanes (`lane_queue`) cut it into
chunks of at most 25. The `dispatcher` starts a call for each, and what follows from its response
or error is decided by pure functions: `decisions`, `verdicts`. What was refused is searched
(`isolation`, `searches`), and `refusals` and `stops` remember what is not to be sent.
"""
