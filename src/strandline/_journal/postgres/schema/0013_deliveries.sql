-- Events of runs that are sent to webhooks. Only additions: a server of the schema before may be alive meanwhile. It sends
-- nothing, and reports nothing of what its runs do: so no run with a webhook of its own is accepted until it has ended.
ALTER TABLE runs ADD COLUMN IF NOT EXISTS webhook bytea;   -- where, as JSON; NULL: none

-- Each is written in the transaction of what it reports, and gone once it was received. `next_at` is when it is sent (again)
-- at the earliest, in seconds since the epoch; NULL: it is dead. `host` is its receiver.
CREATE TABLE deliveries (
    id text COLLATE "C" PRIMARY KEY,
    session bigint NOT NULL,
    principal text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    host text COLLATE "C" NOT NULL,
    created_at float8 NOT NULL,
    next_at float8,
    attempts bigint NOT NULL,
    error text,
    body bytea NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX deliveries_of_session ON deliveries (session);
CREATE INDEX deliveries_of_principal ON deliveries (principal, id);
