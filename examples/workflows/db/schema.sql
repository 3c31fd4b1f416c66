-- The backend's tables; changes nothing where they are already there. Comes as db/schema.sql into the repository.
create table if not exists capsules (
    id bigint generated always as identity primary key,
    name text not null unique,
    body jsonb not null default '{}',
    created_at timestamptz not null default now()
);

create table if not exists signals (
    id bigint generated always as identity primary key,
    capsule_id bigint not null references capsules on delete cascade,
    kind text not null,
    body jsonb not null default '{}',
    created_at timestamptz not null default now()
);

create table if not exists replays (
    id bigint generated always as identity primary key,
    capsule_id bigint not null references capsules on delete cascade,
    status text not null default 'queued',
    started_at timestamptz,
    finished_at timestamptz
);

create index if not exists signals_by_capsule on signals (capsule_id, created_at);
create index if not exists signals_by_kind on signals (kind);
create index if not exists replays_by_capsule on replays (capsule_id, started_at);
create index if not exists replays_by_status on replays (status);
