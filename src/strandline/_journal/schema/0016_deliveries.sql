-- A run may have events of it sent to a webhook (as JSON; NULL: none).
ALTER TABLE runs ADD COLUMN webhook BLOB;
-- Events that are to be sent, each written in the transaction of what it reports, and gone once it was received. `next_at`
-- is when it is sent (again) at the earliest, in seconds since the epoch; NULL: it is dead. `host` is its receiver.
CREATE TABLE deliveries (
    id TEXT PRIMARY KEY,
    session INTEGER NOT NULL,
    principal TEXT NOT NULL,
    session_id TEXT NOT NULL,
    host TEXT NOT NULL,
    created_at REAL NOT NULL,
    next_at REAL,
    attempts INTEGER NOT NULL,
    error TEXT,
    body BLOB NOT NULL
) STRICT;

CREATE INDEX deliveries_due ON deliveries (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX deliveries_of_session ON deliveries (session);
CREATE INDEX deliveries_of_principal ON deliveries (principal, id);
