-- One row: whose ledger this is, and where its records go.
CREATE TABLE marketplace_metering.ledger (
    one integer PRIMARY KEY CHECK (one = 1),
    ledger_id text NOT NULL,
    created_at bigint NOT NULL,
    region_name text,
    host text,
    mark text NOT NULL,
    guarded_since bigint,
    last_success_at bigint
);

-- What the service counts as one, but for the hour; its name is all of it as a JSON list.
-- '' stands for what a scheme does not have.
CREATE TABLE marketplace_metering.usage_key (
    key_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    product_code text NOT NULL,
    customer_aws_account_id text NOT NULL,
    customer_identifier text NOT NULL,
    license_arn text NOT NULL,
    dimension text NOT NULL,
    license_product text NOT NULL,
    closed_at bigint,
    recorded bigint NOT NULL DEFAULT 0
);

-- Customers whose subscription has ended, also for dimensions that come later.
CREATE TABLE marketplace_metering.closed_customer (
    product_code text NOT NULL,
    customer_aws_account_id text NOT NULL,
    customer_identifier text NOT NULL,
    license_arn text NOT NULL,
    closed_at bigint NOT NULL,
    PRIMARY KEY (product_code, customer_aws_account_id, customer_identifier, license_arn)
);

CREATE TABLE marketplace_metering.event (
    event_id text PRIMARY KEY,
    digest bytea NOT NULL,
    added_at bigint NOT NULL
);

-- An hour of a key: open, then frozen for ever as one record, then metered or ended by name.
CREATE TABLE marketplace_metering.hour (
    hour_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key_id bigint NOT NULL REFERENCES marketplace_metering.usage_key,
    hour bigint NOT NULL,
    state text NOT NULL,
    quantity bigint NOT NULL,
    events bigint NOT NULL,
    stamp bigint NOT NULL,
    opened_at bigint NOT NULL,
    seal_at bigint NOT NULL,
    deadline bigint NOT NULL,
    urgent bigint NOT NULL DEFAULT 0,
    sealed_at bigint,
    region_name text,
    digest bytea,
    not_before bigint NOT NULL DEFAULT 0,
    lease_until double precision,
    fence bigint NOT NULL DEFAULT 0,
    attempts bigint NOT NULL DEFAULT 0,
    crashes bigint NOT NULL DEFAULT 0,
    ambiguous bigint NOT NULL DEFAULT 0,
    settled_at bigint,
    metering_record_id text,
    reason text,
    UNIQUE (key_id, hour)
);

CREATE INDEX hour_to_seal ON marketplace_metering.hour (seal_at) WHERE state = 'open';
CREATE INDEX hour_to_send ON marketplace_metering.hour (urgent DESC, deadline, hour_id) WHERE state = 'frozen';
CREATE INDEX hour_settled ON marketplace_metering.hour (settled_at) WHERE settled_at IS NOT NULL;

-- Usage of an earlier hour that an hour carries, with where it came from.
CREATE TABLE marketplace_metering.carried (
    hour_id bigint NOT NULL REFERENCES marketplace_metering.hour,
    origin bigint NOT NULL,
    quantity bigint NOT NULL,
    events bigint NOT NULL,
    PRIMARY KEY (hour_id, origin)
);

-- Usage that no hour may carry, by the reason.
CREATE TABLE marketplace_metering.stranded (
    stranded_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key_id bigint NOT NULL REFERENCES marketplace_metering.usage_key,
    origin bigint NOT NULL,
    state text NOT NULL,
    quantity bigint NOT NULL,
    events bigint NOT NULL,
    since bigint NOT NULL,
    UNIQUE (key_id, origin, state)
);

-- Each try of a frozen record, and what came of it.
CREATE TABLE marketplace_metering.attempt (
    hour_id bigint NOT NULL REFERENCES marketplace_metering.hour,
    fence bigint NOT NULL,
    at bigint NOT NULL,
    status text NOT NULL,
    error text,
    request_id text,
    metering_record_id text,
    PRIMARY KEY (hour_id, fence)
);

-- What pruned rows had come to, so that the sums still add up.
CREATE TABLE marketplace_metering.pruned (
    product_code text NOT NULL,
    dimension text NOT NULL,
    state text NOT NULL,
    quantity bigint NOT NULL,
    PRIMARY KEY (product_code, dimension, state)
);

-- Which groups of usage are committed, for a writer that lost its connection at the commit.
CREATE TABLE marketplace_metering.posting (
    posting_id text PRIMARY KEY,
    posted_at timestamptz NOT NULL DEFAULT now()
);

-- When the next call to the service may start, whichever relay makes it.
CREATE TABLE marketplace_metering.quota (
    operation text PRIMARY KEY,
    next_at timestamptz NOT NULL
);
