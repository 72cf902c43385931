"""
How records become verdicts.

`batch`, `stream` and the batcher are three doors to one `Delivery`. What it decides is decided by
pure functions (`decisions`, `verdicts`, `isolation`); what it remembers stands in `backlog`,
`search` and `refusals`.
"""
