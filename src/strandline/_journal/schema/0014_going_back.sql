-- A run may have history continue from an earlier place, once it starts (`back`, as JSON; NULL: from its end).
ALTER TABLE runs ADD COLUMN back BLOB;
-- The run that began a branch, by its sequence; NULL: a person did, or it is of an older version.
ALTER TABLE branches ADD COLUMN run INTEGER;

-- What a session's agent was rebuilt from after each run that changed it; gone with the run. A row of history has the run
-- that changed it last by then: -1 if none had, NULL if that is not known (from an older version).
CREATE TABLE agents_after (
    session INTEGER NOT NULL,
    run INTEGER NOT NULL,
    window BLOB,
    state BLOB,
    PRIMARY KEY (session, run)
) STRICT;
ALTER TABLE history ADD COLUMN agent INTEGER;

CREATE TRIGGER agent_of_run_gone AFTER DELETE ON runs BEGIN
    DELETE FROM agents_after WHERE session = OLD.session AND run = OLD.seq;
END;
CREATE TRIGGER stored_agent_after AFTER INSERT ON agents_after BEGIN
    UPDATE stored SET bytes = bytes + coalesce(length(NEW.window), 0) + coalesce(length(NEW.state), 0)
    WHERE principal = (SELECT principal FROM sessions WHERE no = NEW.session);
END;
CREATE TRIGGER stored_agent_after_gone AFTER DELETE ON agents_after BEGIN
    UPDATE stored SET bytes = bytes - coalesce(length(OLD.window), 0) - coalesce(length(OLD.state), 0)
    WHERE principal = (SELECT principal FROM sessions WHERE no = OLD.session);
END;
