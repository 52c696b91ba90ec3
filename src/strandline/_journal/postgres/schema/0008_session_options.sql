-- Default options of a session's runs, as JSON; NULL: none. They count in what is stored for its principal, whichever server
-- deletes the session. (A database of a version in development may have them already.)
ALTER TABLE sessions ADD COLUMN IF NOT EXISTS options bytea;

CREATE OR REPLACE FUNCTION count_options() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        PERFORM count_stored(NEW.principal, coalesce(length(NEW.options), 0) - coalesce(length(OLD.options), 0)::bigint);
    ELSE
        PERFORM count_stored(OLD.principal, -length(OLD.options)::bigint);
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER stored_options AFTER UPDATE OF options ON sessions FOR EACH ROW EXECUTE FUNCTION count_options();
CREATE OR REPLACE TRIGGER stored_options_gone AFTER DELETE ON sessions FOR EACH ROW WHEN (OLD.options IS NOT NULL)
    EXECUTE FUNCTION count_options();
