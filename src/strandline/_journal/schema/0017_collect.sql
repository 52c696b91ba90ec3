-- How a run that waits collects further ones into its turn (as JSON; NULL: it does not).
ALTER TABLE runs ADD COLUMN collect BLOB;
