-- How a run that waits collects further ones into its turn, as JSON; NULL: it does not. Only additions: a server of the
-- schema before cannot read a run that does.
ALTER TABLE runs ADD COLUMN IF NOT EXISTS collect bytea;
