-- What servers tell each other. Only additions: servers of the schema before may be alive meanwhile, and tell nothing.

-- How many runs wait at a server, in all and by principal, as JSON.
ALTER TABLE servers ADD COLUMN queued text NOT NULL DEFAULT '';
