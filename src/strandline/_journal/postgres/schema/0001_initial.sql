-- The tables are those of the file (`_journal/schema`), with the same names and columns, so that the same statements read
-- them. What is different: sessions have their partition, history is found by (session, nth), and one index has all runs
-- that are not over.

-- One row for each owner that there ever was, a server from its start to its end. Every transaction that writes begins with
-- an update of its owner's row: so it renews the lease, says which batch it is, and fails once somebody has taken over.
CREATE TABLE servers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    address text NOT NULL,
    version text NOT NULL,
    alive boolean NOT NULL DEFAULT true,
    conn bigint NOT NULL DEFAULT 0,
    batch bigint NOT NULL DEFAULT 0,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    until timestamptz NOT NULL
) WITH (fillfactor = 20);
CREATE INDEX servers_alive ON servers (id) WHERE alive;

-- Who owns which sessions: those whose checksum has this remainder. Written only when ownership moves.
CREATE TABLE partitions (p smallint PRIMARY KEY, owner bigint);
INSERT INTO partitions (p) SELECT generate_series(0, 255);

CREATE TABLE meta (name text COLLATE "C" PRIMARY KEY, value bigint NOT NULL);
INSERT INTO meta VALUES ('schema', 1), ('lease_ms', 10000), ('pruned', -1);

CREATE TABLE sessions (
    no bigint PRIMARY KEY,
    p smallint NOT NULL,
    last bigint,
    principal text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    paused smallint NOT NULL DEFAULT 0,
    closed_since float8,
    rests_since float8,
    UNIQUE (principal, session_id)
) WITH (fillfactor = 50);

CREATE TABLE runs (
    seq bigint PRIMARY KEY,
    run_id text COLLATE "C" NOT NULL UNIQUE,
    session bigint NOT NULL,
    lane smallint NOT NULL,
    urgency bigint NOT NULL,
    priority bigint NOT NULL,
    status text COLLATE "C" NOT NULL,
    attempt bigint NOT NULL,
    fence bigint,
    last smallint NOT NULL,
    opaque smallint NOT NULL,
    input bytea NOT NULL,
    metadata bytea,
    created_at float8 NOT NULL,
    started_at float8,
    ended_at float8,
    outcome bytea,
    timeout_s float8,
    queue_deadline float8,
    discarded smallint NOT NULL DEFAULT 0,
    cancel_requested smallint NOT NULL DEFAULT 0,
    discard smallint NOT NULL DEFAULT 0,
    key text COLLATE "C",
    fingerprint bytea,
    if_busy text COLLATE "C",
    moved bigint,
    trace bytea
) WITH (fillfactor = 70);

-- Exclusivity: storage itself refuses a second claimed run of a session.
CREATE UNIQUE INDEX runs_claimed ON runs (session) WHERE fence IS NOT NULL;
-- No statement that changes a run by its number can be answered by walking this one, whatever the planner believes.
CREATE INDEX runs_open ON runs (session, seq) WHERE status IN ('queued', 'running') OR fence IS NOT NULL;
CREATE UNIQUE INDEX runs_keyed ON runs (session, key) WHERE key IS NOT NULL;

CREATE TABLE staged (run bigint NOT NULL, no bigint NOT NULL, fact bytea NOT NULL, PRIMARY KEY (run, no));

CREATE TABLE history (
    no bigint PRIMARY KEY,
    session bigint NOT NULL,
    nth bigint NOT NULL,
    first bigint NOT NULL,
    count bigint NOT NULL,
    previous bigint,
    run bigint NOT NULL,
    discarded smallint NOT NULL DEFAULT 0,
    messages bytea
);
CREATE UNIQUE INDEX history_of ON history (session, nth);
CREATE INDEX history_marks ON history (session, first) WHERE nth % 64 = 0;

CREATE TABLE agents (session bigint PRIMARY KEY, "window" bytea, state bytea) WITH (fillfactor = 70);

CREATE TABLE questions (
    session bigint PRIMARY KEY,
    run bigint NOT NULL,
    until float8 NOT NULL,
    answer bigint,
    question bytea NOT NULL
);

CREATE TABLE closed_requests (
    session bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    run bigint NOT NULL,
    closed text COLLATE "C" NOT NULL,
    PRIMARY KEY (session, id)
);
CREATE INDEX closed_requests_of ON closed_requests (run);

CREATE TABLE stored (principal text COLLATE "C" PRIMARY KEY, bytes bigint NOT NULL) WITH (fillfactor = 20);

CREATE FUNCTION renew(me bigint, my_conn bigint, n bigint, lease_ms bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE servers SET batch = n, until = clock_timestamp() + lease_ms * interval '1 ms'
    WHERE id = me AND conn = my_conn AND alive;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another server has taken over' USING ERRCODE = 'SL001';
    END IF;
END $$;

CREATE FUNCTION changed(rows_found bigint, wanted bigint, code text, what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF rows_found <> wanted THEN
        RAISE EXCEPTION '%', what USING ERRCODE = code;
    END IF;
END $$;

CREATE FUNCTION count_agent() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    more bigint := 0;
BEGIN
    IF TG_OP <> 'DELETE' THEN
        more := coalesce(length(NEW."window"), 0) + coalesce(length(NEW.state), 0);
    END IF;
    IF TG_OP <> 'INSERT' THEN
        more := more - coalesce(length(OLD."window"), 0) - coalesce(length(OLD.state), 0);
    END IF;
    IF more <> 0 THEN
        UPDATE stored SET bytes = bytes + more WHERE principal =
            (SELECT principal FROM sessions WHERE no = CASE TG_OP WHEN 'DELETE' THEN OLD.session ELSE NEW.session END);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER stored_agent AFTER INSERT OR UPDATE OR DELETE ON agents FOR EACH ROW EXECUTE FUNCTION count_agent();

-- What a batch adds to runs and history its owner counts, and writes once for each principal. What is deleted is counted
-- here, whoever deletes it.
CREATE FUNCTION uncount_runs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE stored SET bytes = stored.bytes - sums.bytes FROM (
        SELECT principal, sum(length(input) + coalesce(length(metadata), 0))::bigint AS bytes
        FROM gone JOIN sessions ON sessions.no = gone.session GROUP BY principal
    ) AS sums WHERE stored.principal = sums.principal;
    RETURN NULL;
END $$;
CREATE TRIGGER stored_run_gone AFTER DELETE ON runs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION uncount_runs();

CREATE FUNCTION uncount_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE stored SET bytes = stored.bytes - sums.bytes FROM (
        SELECT principal, sum(coalesce(length(messages), 0))::bigint AS bytes
        FROM gone JOIN sessions ON sessions.no = gone.session GROUP BY principal
    ) AS sums WHERE stored.principal = sums.principal;
    RETURN NULL;
END $$;
CREATE TRIGGER stored_history_gone AFTER DELETE ON history REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION uncount_history();
