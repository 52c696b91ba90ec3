-- Who sent the input of a run, if the request says so, as JSON; NULL: its principal did.
ALTER TABLE runs ADD COLUMN sender bytea;
