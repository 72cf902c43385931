-- Quantities are millionths of a unit. A record has so few that 64 bits hold them; sums of many
-- records are kept as whole units and millionths, each added up by itself.

-- One row: whose ledger this is, where its records go, and which versions of the package may use it.
-- `claims` rises in every transaction that claims records, and is written to the folder `watermark`
-- before any of them is sent. Of a copy, usage up to `held_through` is not sent. Ids of
-- events that were added before `event_ids_since` are forgotten.
CREATE TABLE ledger (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL,
    min_compatible INTEGER NOT NULL,
    ledger_id TEXT,
    created_at INTEGER,
    region_name TEXT,
    host TEXT,
    mark TEXT,
    guarded_since INTEGER,
    moved_to TEXT,
    last_success_at INTEGER,
    last_relay_at INTEGER,
    claims INTEGER NOT NULL DEFAULT 0,
    claimed_through INTEGER NOT NULL DEFAULT 0,
    watermark TEXT,
    held_through INTEGER,
    adopted_at INTEGER,
    event_ids_since INTEGER NOT NULL DEFAULT 0
) STRICT;

INSERT INTO ledger (one, version, min_compatible) VALUES (1, 1, 1);

-- What the service counts as one, but for the hour; its name is all of it as a JSON list. Its id is
-- drawn at random, so that an id never means another key, in any copy of the ledger either.
-- '' stands for what a scheme does not have. Keys by product code and by license of one product,
-- account and dimension are `billed_as` the same; they are marked where there are both.
CREATE TABLE usage_key (
    key_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    product_code TEXT NOT NULL,
    customer_aws_account_id TEXT NOT NULL,
    customer_identifier TEXT NOT NULL,
    license_arn TEXT NOT NULL,
    dimension TEXT NOT NULL,
    license_product TEXT NOT NULL,
    closed_at INTEGER,
    billed_as TEXT,
    other_scheme INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX usage_key_billed_as ON usage_key (billed_as) WHERE billed_as IS NOT NULL;
CREATE INDEX usage_key_of_account ON usage_key (customer_aws_account_id);
CREATE INDEX usage_key_of_identifier ON usage_key (customer_identifier);
CREATE INDEX usage_key_of_license ON usage_key (license_arn);

-- Customers, and when the subscription ends, also for dimensions that come later.
CREATE TABLE customer (
    product_code TEXT NOT NULL,
    customer_aws_account_id TEXT NOT NULL,
    customer_identifier TEXT NOT NULL,
    license_arn TEXT NOT NULL,
    closed_at INTEGER,
    PRIMARY KEY (product_code, customer_aws_account_id, customer_identifier, license_arn)
) STRICT;

-- Dimensions of which a fraction is refused where it is added.
CREATE TABLE whole_dimension (
    product_code TEXT NOT NULL,
    dimension TEXT NOT NULL,
    declared_at INTEGER NOT NULL,
    PRIMARY KEY (product_code, dimension)
) STRICT, WITHOUT ROWID;

-- By the order in which they were added: an index of the time would cost each of them a third more.
CREATE TABLE event (
    number INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL,
    added_at INTEGER NOT NULL
) STRICT;

-- An hour of a key: open, then frozen permanently as one record, then metered or ended by name.
-- From the sealing on it has a deadline, the member that its quantity is sent in, and a digest.
CREATE TABLE hour (
    hour_id INTEGER PRIMARY KEY,
    key_id INTEGER NOT NULL REFERENCES usage_key,
    hour INTEGER NOT NULL,
    state TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    events INTEGER NOT NULL,
    stamp INTEGER NOT NULL,
    opened_at INTEGER NOT NULL,
    seal_at INTEGER NOT NULL,
    urgent INTEGER NOT NULL DEFAULT 0,
    sealed_at INTEGER,
    deadline INTEGER,
    region_name TEXT,
    member TEXT,
    digest BLOB,
    not_before INTEGER NOT NULL DEFAULT 0,
    leased_at REAL,
    lease_until REAL,
    fence INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    in_doubt INTEGER NOT NULL DEFAULT 0,
    settled_at INTEGER,
    metering_record_id TEXT,
    reason TEXT,
    UNIQUE (key_id, hour)
) STRICT;

CREATE INDEX hour_by_time ON hour (hour, hour_id);
CREATE INDEX hour_unsettled ON hour (hour, hour_id) WHERE state IN ('open', 'frozen');
CREATE INDEX hour_to_seal ON hour (seal_at) WHERE state = 'open';
CREATE INDEX hour_to_send ON hour (urgent DESC, deadline, hour_id) WHERE state = 'frozen';
CREATE INDEX hour_to_wait_for ON hour (not_before) WHERE state = 'frozen' AND lease_until IS NULL;
CREATE INDEX hour_claimed ON hour (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX hour_settled ON hour (settled_at)
    WHERE state IN ('metered', 'written_off', 'reopened');
CREATE INDEX hour_ended ON hour (deadline) WHERE state NOT IN ('open', 'frozen', 'metered');
CREATE INDEX hour_ended_by_time ON hour (hour, hour_id) WHERE state NOT IN ('open', 'frozen', 'metered');

-- Usage of an earlier hour that an hour carries, with where it came from.
CREATE TABLE carried (
    hour_id INTEGER NOT NULL REFERENCES hour,
    origin INTEGER NOT NULL,
    quantity INTEGER NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY (hour_id, origin)
) STRICT, WITHOUT ROWID;

-- Usage that no hour may carry, by the reason.
CREATE TABLE stranded (
    stranded_id INTEGER PRIMARY KEY,
    key_id INTEGER NOT NULL REFERENCES usage_key,
    origin INTEGER NOT NULL,
    state TEXT NOT NULL,
    units INTEGER NOT NULL,
    millionths INTEGER NOT NULL,
    events INTEGER NOT NULL,
    since INTEGER NOT NULL,
    UNIQUE (key_id, origin, state)
) STRICT;

CREATE INDEX stranded_by_time ON stranded (origin, stranded_id);
CREATE INDEX stranded_by_state ON stranded (state);

-- Each try of a frozen record, and what came of it.
CREATE TABLE attempt (
    hour_id INTEGER NOT NULL REFERENCES hour,
    fence INTEGER NOT NULL,
    at INTEGER NOT NULL,
    status TEXT NOT NULL,
    error TEXT,
    request_id TEXT,
    metering_record_id TEXT,
    PRIMARY KEY (hour_id, fence)
) STRICT, WITHOUT ROWID;

-- What a person has said of a record's fate, or of usage that no hour carries.
CREATE TABLE resolution (
    resolution_id INTEGER PRIMARY KEY,
    hour_id INTEGER REFERENCES hour,
    stranded_id INTEGER REFERENCES stranded,
    at INTEGER NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL,
    note TEXT NOT NULL,
    CHECK ((hour_id IS NULL) <> (stranded_id IS NULL))
) STRICT;

CREATE INDEX resolution_of_hour ON resolution (hour_id) WHERE hour_id IS NOT NULL;
CREATE INDEX resolution_of_stranded ON resolution (stranded_id) WHERE stranded_id IS NOT NULL;

-- All usage by what has become of it, and once more as `recorded`; of that with the latest timestamp.
CREATE TABLE kept_sum (
    product_code TEXT NOT NULL,
    dimension TEXT NOT NULL,
    state TEXT NOT NULL,
    units INTEGER NOT NULL,
    millionths INTEGER NOT NULL,
    records INTEGER NOT NULL,
    latest INTEGER NOT NULL,
    PRIMARY KEY (product_code, dimension, state)
) STRICT, WITHOUT ROWID;
