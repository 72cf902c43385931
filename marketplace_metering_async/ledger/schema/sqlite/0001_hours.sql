-- One row: whose ledger this is, and where its records go.
CREATE TABLE ledger (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    ledger_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    region_name TEXT,
    host TEXT,
    mark TEXT NOT NULL,
    guarded_since INTEGER,
    moved_to TEXT,
    last_success_at INTEGER
) STRICT;

-- What the service counts as one, but for the hour; its name is all of it as a JSON list.
-- '' stands for what a scheme does not have.
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
    recorded INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Customers whose subscription has ended, also for dimensions that come later.
CREATE TABLE closed_customer (
    product_code TEXT NOT NULL,
    customer_aws_account_id TEXT NOT NULL,
    customer_identifier TEXT NOT NULL,
    license_arn TEXT NOT NULL,
    closed_at INTEGER NOT NULL,
    PRIMARY KEY (product_code, customer_aws_account_id, customer_identifier, license_arn)
) STRICT;

CREATE TABLE event (
    event_id TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    added_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- An hour of a key: open, then frozen for ever as one record, then metered or ended by name.
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
    deadline INTEGER NOT NULL,
    urgent INTEGER NOT NULL DEFAULT 0,
    sealed_at INTEGER,
    region_name TEXT,
    digest BLOB,
    not_before INTEGER NOT NULL DEFAULT 0,
    lease_until REAL,
    fence INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    ambiguous INTEGER NOT NULL DEFAULT 0,
    settled_at INTEGER,
    metering_record_id TEXT,
    reason TEXT,
    UNIQUE (key_id, hour)
) STRICT;

CREATE INDEX hour_to_seal ON hour (seal_at) WHERE state = 'open';
CREATE INDEX hour_to_send ON hour (urgent DESC, deadline, hour_id) WHERE state = 'frozen';
CREATE INDEX hour_settled ON hour (settled_at) WHERE settled_at IS NOT NULL;

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
    quantity INTEGER NOT NULL,
    events INTEGER NOT NULL,
    since INTEGER NOT NULL,
    UNIQUE (key_id, origin, state)
) STRICT;

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

-- What pruned rows had come to, so that the sums still add up.
CREATE TABLE pruned (
    product_code TEXT NOT NULL,
    dimension TEXT NOT NULL,
    state TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    PRIMARY KEY (product_code, dimension, state)
) STRICT, WITHOUT ROWID;
