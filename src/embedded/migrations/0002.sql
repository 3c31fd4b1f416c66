-- What the cleanup looks for; and sources that somebody is about to use, with nothing else to know of them.
DROP TABLE sources;
CREATE TABLE sources (
    org TEXT NOT NULL,
    digest TEXT NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (org, digest)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deployments_ended ON deployments (ended) WHERE ended IS NOT NULL;
CREATE INDEX deployments_run ON deployments (run);
CREATE INDEX deployments_like ON deployments (project, environment, status, no);
