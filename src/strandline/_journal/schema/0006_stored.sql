-- How many bytes are kept for each principal: of its runs what they were asked with, of its sessions history and what
-- their agents are rebuilt from. Triggers keep it, in the transaction of whatever changes one of them, so that no way to
-- write or forget a row can leave it behind. A principal's row stays when it has nothing any more.
CREATE TABLE stored (
    principal TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO stored (principal, bytes)
SELECT sessions.principal, coalesce(sum(parts.bytes), 0)
FROM sessions LEFT JOIN (
    SELECT session, length(input) + coalesce(length(metadata), 0) AS bytes FROM runs
    UNION ALL SELECT session, coalesce(length(messages), 0) FROM history
    UNION ALL SELECT session, coalesce(length(window), 0) + coalesce(length(state), 0) FROM agents
) AS parts ON parts.session = sessions.no
GROUP BY sessions.principal;

CREATE TRIGGER stored_session AFTER INSERT ON sessions BEGIN
    INSERT INTO stored (principal, bytes) VALUES (NEW.principal, 0) ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER stored_run AFTER INSERT ON runs BEGIN
    UPDATE stored SET bytes = bytes + length(NEW.input) + coalesce(length(NEW.metadata), 0)
    WHERE principal = (SELECT principal FROM sessions WHERE no = NEW.session);
END;

CREATE TRIGGER stored_run_gone AFTER DELETE ON runs BEGIN
    UPDATE stored SET bytes = bytes - length(OLD.input) - coalesce(length(OLD.metadata), 0)
    WHERE principal = (SELECT principal FROM sessions WHERE no = OLD.session);
END;

CREATE TRIGGER stored_history AFTER INSERT ON history WHEN NEW.messages IS NOT NULL BEGIN
    UPDATE stored SET bytes = bytes + length(NEW.messages)
    WHERE principal = (SELECT principal FROM sessions WHERE no = NEW.session);
END;

CREATE TRIGGER stored_history_gone AFTER DELETE ON history WHEN OLD.messages IS NOT NULL BEGIN
    UPDATE stored SET bytes = bytes - length(OLD.messages)
    WHERE principal = (SELECT principal FROM sessions WHERE no = OLD.session);
END;

CREATE TRIGGER stored_agent AFTER INSERT ON agents BEGIN
    UPDATE stored SET bytes = bytes + coalesce(length(NEW.window), 0) + coalesce(length(NEW.state), 0)
    WHERE principal = (SELECT principal FROM sessions WHERE no = NEW.session);
END;

CREATE TRIGGER stored_agent_changed AFTER UPDATE ON agents BEGIN
    UPDATE stored SET bytes = bytes + coalesce(length(NEW.window), 0) + coalesce(length(NEW.state), 0)
        - coalesce(length(OLD.window), 0) - coalesce(length(OLD.state), 0)
    WHERE principal = (SELECT principal FROM sessions WHERE no = NEW.session);
END;

CREATE TRIGGER stored_agent_gone AFTER DELETE ON agents BEGIN
    UPDATE stored SET bytes = bytes - coalesce(length(OLD.window), 0) - coalesce(length(OLD.state), 0)
    WHERE principal = (SELECT principal FROM sessions WHERE no = OLD.session);
END;
