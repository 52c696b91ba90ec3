-- Default options of a session's runs, as JSON; NULL: none. They count in what is stored for its principal.
ALTER TABLE sessions ADD COLUMN options BLOB;

CREATE TRIGGER stored_options AFTER UPDATE OF options ON sessions BEGIN
    UPDATE stored SET bytes = bytes + coalesce(length(NEW.options), 0) - coalesce(length(OLD.options), 0)
    WHERE principal = NEW.principal;
END;

CREATE TRIGGER stored_options_copied AFTER INSERT ON sessions WHEN NEW.options IS NOT NULL BEGIN
    INSERT INTO stored (principal, bytes) VALUES (NEW.principal, length(NEW.options))
    ON CONFLICT (principal) DO UPDATE SET bytes = bytes + excluded.bytes;
END;

CREATE TRIGGER stored_options_gone AFTER DELETE ON sessions WHEN OLD.options IS NOT NULL BEGIN
    UPDATE stored SET bytes = bytes - length(OLD.options) WHERE principal = OLD.principal;
END;
