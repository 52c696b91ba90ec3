-- Only an addition: servers of the schema before may be alive meanwhile. They take no file, and a trigger deletes those of
-- sessions that they delete.

-- Files that callers have uploaded into their sessions: their records, with how many bytes of each are kept in a folder. A
-- file that a run names (`named`) is kept as long as its session. A session that was copied has those that its
-- source's runs name under the same ids. The principal is that of the session.
CREATE TABLE files (
    session bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    principal text COLLATE "C" NOT NULL,
    size bigint NOT NULL,
    at float8 NOT NULL,
    named smallint NOT NULL DEFAULT 0,
    record bytea NOT NULL,
    PRIMARY KEY (session, id)
);
CREATE INDEX files_unnamed ON files (at) WHERE named = 0;

CREATE FUNCTION count_file() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM count_stored(NEW.principal, NEW.size + length(NEW.record));
    ELSE
        PERFORM count_stored(OLD.principal, -OLD.size - length(OLD.record));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER stored_file AFTER INSERT OR DELETE ON files FOR EACH ROW EXECUTE FUNCTION count_file();

CREATE FUNCTION drop_files() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM files USING gone WHERE files.session = gone.no;
    RETURN NULL;
END $$;
CREATE TRIGGER files_of_session_gone AFTER DELETE ON sessions REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION drop_files();
