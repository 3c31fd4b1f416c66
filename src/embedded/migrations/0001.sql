-- Times are microseconds since 1970, UTC. A `due` of 0 means "at once" and stays out of the index.
CREATE TABLE runs (
    id BLOB PRIMARY KEY,
    version INTEGER NOT NULL,
    open INTEGER NOT NULL,
    state BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX runs_open ON runs (id) WHERE open = 1;

CREATE TABLE events (
    run BLOB NOT NULL,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID;

CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    body TEXT NOT NULL,
    due INTEGER NOT NULL,
    enqueued INTEGER NOT NULL,
    deliveries INTEGER NOT NULL DEFAULT 0,
    error TEXT
);
CREATE INDEX messages_due ON messages (due) WHERE due > 0;

CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    body TEXT NOT NULL,
    reason TEXT NOT NULL,
    error TEXT,
    deliveries INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL
);

CREATE TABLE timers (
    name TEXT PRIMARY KEY,
    schedule TEXT NOT NULL,
    last INTEGER,
    next INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE projects (
    no INTEGER PRIMARY KEY,
    org TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    label TEXT NOT NULL UNIQUE,
    source TEXT,
    created INTEGER NOT NULL,
    UNIQUE (org, id)
);

CREATE TABLE deployments (
    no INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    org TEXT NOT NULL,
    project TEXT NOT NULL,
    environment TEXT NOT NULL,
    status TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    started INTEGER,
    ended INTEGER,
    run BLOB,
    body BLOB NOT NULL,
    result BLOB
);
CREATE INDEX deployments_project ON deployments (project, no);
CREATE INDEX deployments_status ON deployments (status, no);
CREATE INDEX deployments_queued ON deployments (org, project, environment) WHERE status = 'queued';

CREATE TABLE requests (
    org TEXT NOT NULL,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    deployment TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (org, key)
) WITHOUT ROWID;

CREATE TABLE sources (
    org TEXT NOT NULL,
    digest TEXT NOT NULL,
    files INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (org, digest)
) WITHOUT ROWID;

CREATE TABLE artifacts (
    org TEXT NOT NULL,
    inputs TEXT NOT NULL,
    body BLOB NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (org, inputs)
) WITHOUT ROWID;

CREATE TABLE releases (
    app TEXT NOT NULL,
    number INTEGER NOT NULL,
    deployment TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    live INTEGER NOT NULL DEFAULT 0,
    body BLOB NOT NULL,
    PRIMARY KEY (app, number)
) WITHOUT ROWID;
CREATE INDEX releases_live ON releases (app) WHERE live = 1;
