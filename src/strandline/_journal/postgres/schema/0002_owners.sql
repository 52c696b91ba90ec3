-- Several servers, each the owner of some partitions. Only additions: servers of the schema before may be alive meanwhile.

ALTER TABLE servers
    ADD COLUMN name text NOT NULL DEFAULT '',            -- for people; address is for other servers
    ADD COLUMN leaving boolean NOT NULL DEFAULT false,   -- it stops: it takes no more partitions
    ADD COLUMN top bigint NOT NULL DEFAULT 0;            -- the largest count that its numbers may have (`_journal/numbers.py`)

-- How many owners a partition has had. Fences, and the numbers of events, begin with it.
ALTER TABLE partitions ADD COLUMN epoch bigint NOT NULL DEFAULT 0;
UPDATE partitions SET epoch = (SELECT coalesce(max(id), 0) FROM servers);

-- What all servers of this database know and nobody else. The first one makes it.
CREATE TABLE cluster (only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one), secret bytea NOT NULL);

-- What each server has added to `stored` since it came: one row that all of them write to would make them wait for each
-- other, and two such rows wait for ever. When a server ends it is added up.
CREATE TABLE stored_by (
    principal text COLLATE "C" NOT NULL,
    server bigint NOT NULL,
    bytes bigint NOT NULL,
    PRIMARY KEY (principal, server)
) WITH (fillfactor = 20);

CREATE FUNCTION count_stored(its_principal text, more bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO stored_by (principal, server, bytes)
    VALUES (its_principal, coalesce(nullif(current_setting('strandline.server', true), ''), '0')::bigint, more)
    ON CONFLICT (principal, server) DO UPDATE SET bytes = stored_by.bytes + excluded.bytes
$$;

-- Of servers that are over. Under the lock under which servers come and end.
CREATE FUNCTION add_up_stored() RETURNS void LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM stored_by WHERE NOT EXISTS (SELECT 1 FROM servers WHERE id = server AND alive)
        RETURNING principal, bytes
    )
    INSERT INTO stored (principal, bytes)
    SELECT principal, sum(bytes)::bigint FROM gone GROUP BY principal ORDER BY principal
    ON CONFLICT (principal) DO UPDATE SET bytes = stored.bytes + excluded.bytes
$$;

CREATE OR REPLACE FUNCTION count_agent() RETURNS trigger LANGUAGE plpgsql AS $$
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
        PERFORM count_stored(principal, more) FROM sessions
        WHERE no = CASE TG_OP WHEN 'DELETE' THEN OLD.session ELSE NEW.session END;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION uncount_runs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM count_stored(principal, -bytes) FROM (
        SELECT principal, sum(length(input) + coalesce(length(metadata), 0))::bigint AS bytes
        FROM gone JOIN sessions ON sessions.no = gone.session GROUP BY principal
    ) AS sums;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION uncount_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM count_stored(principal, -bytes) FROM (
        SELECT principal, sum(coalesce(length(messages), 0))::bigint AS bytes
        FROM gone JOIN sessions ON sessions.no = gone.session GROUP BY principal
    ) AS sums;
    RETURN NULL;
END $$;

CREATE FUNCTION renew(me bigint, my_conn bigint, n bigint, lease_ms bigint, my_top bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE servers SET batch = n, until = clock_timestamp() + lease_ms * interval '1 ms', top = greatest(top, my_top)
    WHERE id = me AND conn = my_conn AND alive;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another server has taken over' USING ERRCODE = 'SL001';
    END IF;
    PERFORM set_config('strandline.server', me::text, true);
END $$;

-- Renew a lease without a batch, and see who is there: the servers that are alive, with what they own. With the id 0 the
-- partitions that nobody owns, with -1 those of servers that are over.
CREATE FUNCTION look(me bigint, my_conn bigint, lease_ms bigint, my_top bigint)
RETURNS TABLE (
    server bigint, its_address text, its_name text, its_version text, is_leaving boolean, left_s float8, owned text
)
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE servers SET until = clock_timestamp() + lease_ms * interval '1 ms', top = greatest(top, my_top)
    WHERE id = me AND conn = my_conn AND alive;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another server has taken over' USING ERRCODE = 'SL001';
    END IF;
    RETURN QUERY
    SELECT id, address, name, version, leaving, extract(epoch FROM until - clock_timestamp())::float8,
        (SELECT string_agg(p::text, ',') FROM partitions WHERE owner = id)
    FROM servers WHERE alive
    UNION ALL
    SELECT gone.id, '', '', '', true, 0.0::float8, string_agg(p::text, ',')
    FROM partitions, LATERAL (SELECT CASE WHEN owner IS NULL THEN 0 ELSE -1 END::bigint AS id) AS gone
    WHERE owner IS NULL OR NOT EXISTS (SELECT 1 FROM servers WHERE id = owner AND alive) GROUP BY gone.id;
END $$;
