-- Histories that continue from an earlier place at a caller's wish, and what agents were rebuilt from by then. Only
-- additions: servers of the schema before may be alive meanwhile. They have such a run continue from the end of history,
-- and leave `agent` empty, which says that it is not known.
ALTER TABLE runs ADD COLUMN IF NOT EXISTS back bytea;        -- the place, as JSON; NULL: the end of history
ALTER TABLE branches ADD COLUMN IF NOT EXISTS run bigint;    -- the run that began it; NULL: a person did, or unknown
ALTER TABLE branches
    ADD COLUMN IF NOT EXISTS was_parent bigint,   -- what the branch without a message had continued that it replaced
    ADD COLUMN IF NOT EXISTS was_upto bigint,
    ADD COLUMN IF NOT EXISTS forgotten smallint NOT NULL DEFAULT 0;  -- 1: window and state of its place were not kept
ALTER TABLE history ADD COLUMN IF NOT EXISTS agent bigint;   -- the run that changed the agent last by then; -1: none had

CREATE TABLE agents_after (
    session bigint NOT NULL,
    run bigint NOT NULL,
    "window" bytea,
    state bytea,
    PRIMARY KEY (session, run)
);

CREATE TRIGGER stored_agent_after AFTER INSERT OR UPDATE OR DELETE ON agents_after FOR EACH ROW
    EXECUTE FUNCTION count_agent();

CREATE FUNCTION drop_agents_after() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM agents_after USING gone WHERE agents_after.session = gone.session AND agents_after.run = gone.seq;
    RETURN NULL;
END $$;
CREATE TRIGGER agent_of_run_gone AFTER DELETE ON runs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION drop_agents_after();
