"""
What the service does and knows: its operations, one a file, and their words. No I/O.

Where a rule is checked: members, texts and quantities in `parsing`; a record's identity in `usage`;
allocations, their sum and their tags in `allocations`; a timestamp's age in `window`; product,
dimension and subscription in `entitlement`, by the `catalogue` of `agreements`; what one call may
mix, and the first record of an hour, in `batch_meter_usage`; calls a second in `quota`. `rules` are
the switches where the service's pages leave something open, and `readings` what each stands for.
"""
