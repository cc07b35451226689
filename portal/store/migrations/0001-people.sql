-- In PostgreSQL's words. For SQLite, BIGINT becomes INTEGER, BYTEA becomes BLOB, and COLLATE "C"
-- falls away, which is how SQLite compares anyway (migrations.rs). Names that lists are sorted by
-- have it: any other order would be one of the database server's.
-- Times are microseconds since 1970 UTC; truth is 0 or 1; hashes are SHA-256 in hexadecimal.
CREATE TABLE users (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    display_name TEXT NOT NULL,
    email TEXT,
    state TEXT NOT NULL,
    password_hash TEXT,
    totp_secret BYTEA,
    totp_pending BYTEA,
    totp_step BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    last_login_at BIGINT,
    version BIGINT NOT NULL
);

-- Who gave a role: 'hand', or the identity provider's identifier.
CREATE TABLE user_roles (
    user_id TEXT NOT NULL REFERENCES users (id),
    role TEXT NOT NULL,
    origin TEXT NOT NULL,
    PRIMARY KEY (user_id, role, origin)
);

CREATE TABLE sessions (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    secret_hash TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    proved_at BIGINT NOT NULL,
    address TEXT NOT NULL,
    agent TEXT NOT NULL
);
CREATE INDEX sessions_of_user ON sessions (user_id);
CREATE INDEX sessions_by_end ON sessions (expires_at);

CREATE TABLE tokens (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    secret_hash TEXT NOT NULL UNIQUE,
    prefix TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    last_used_at BIGINT,
    last_used_address TEXT
);
CREATE INDEX tokens_of_user ON tokens (user_id);

CREATE TABLE recovery_codes (
    user_id TEXT NOT NULL REFERENCES users (id),
    code_hash TEXT NOT NULL,
    PRIMARY KEY (user_id, code_hash)
);

CREATE TABLE invitations (
    id TEXT NOT NULL PRIMARY KEY,
    secret_hash TEXT NOT NULL UNIQUE,
    roles TEXT NOT NULL,
    email TEXT,
    created_by TEXT NOT NULL REFERENCES users (id),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,
    used_by TEXT REFERENCES users (id)
);

-- Links that are spent by their use: 'reset' of a password, 'email' to confirm an address,
-- 'setup' of the first administrator (without a user).
CREATE TABLE links (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    secret_hash TEXT NOT NULL UNIQUE,
    user_id TEXT REFERENCES users (id),
    detail TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX links_of_user ON links (user_id);

-- Devices without a browser that wait for somebody to let them in: 'waiting', 'approved' (by
-- user_id, for a token of so many days), or 'denied'.
CREATE TABLE device_grants (
    id TEXT NOT NULL PRIMARY KEY,
    device_hash TEXT NOT NULL UNIQUE,
    user_code TEXT NOT NULL UNIQUE,
    client TEXT NOT NULL,
    scopes TEXT NOT NULL,
    state TEXT NOT NULL,
    user_id TEXT REFERENCES users (id),
    days BIGINT NOT NULL,
    address TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    polled_at BIGINT NOT NULL,
    poll_seconds BIGINT NOT NULL
);
CREATE INDEX device_grants_by_end ON device_grants (expires_at);
CREATE INDEX device_grants_of_user ON device_grants (user_id);

-- Exchanges with a browser of several steps: what the portal must remember of the first.
CREATE TABLE ceremonies (
    secret_hash TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    user_id TEXT REFERENCES users (id),
    body TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX ceremonies_of_user ON ceremonies (user_id);
CREATE INDEX ceremonies_by_end ON ceremonies (expires_at);

CREATE TABLE passkeys (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    credential_id TEXT NOT NULL UNIQUE,
    public_key BYTEA NOT NULL,
    counter BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT
);
CREATE INDEX passkeys_of_user ON passkeys (user_id);

-- 'scopes' has words with spaces between; 'roles_by_group' is JSON; 'accounts' says who gets one.
CREATE TABLE providers (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    title TEXT NOT NULL,
    issuer TEXT NOT NULL UNIQUE,
    client_id TEXT NOT NULL,
    client_secret BYTEA,
    scopes TEXT NOT NULL,
    groups_claim TEXT,
    roles_by_group TEXT NOT NULL,
    accounts TEXT NOT NULL,
    inside BIGINT NOT NULL,
    enabled BIGINT NOT NULL,
    version BIGINT NOT NULL
);

CREATE TABLE identities (
    id TEXT NOT NULL UNIQUE,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES users (id),
    provider_id TEXT NOT NULL REFERENCES providers (id),
    email TEXT,
    linked_at BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL,
    PRIMARY KEY (issuer, subject)
);
CREATE INDEX identities_of_user ON identities (user_id);
CREATE INDEX identities_of_provider ON identities (provider_id);

CREATE TABLE user_groups (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    description TEXT NOT NULL,
    version BIGINT NOT NULL
);

CREATE TABLE group_members (
    group_id TEXT NOT NULL REFERENCES user_groups (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    PRIMARY KEY (group_id, user_id)
);
CREATE INDEX groups_of_user ON group_members (user_id);

CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL,
    version BIGINT NOT NULL
);

-- Keys of the portal, sealed under the sealing key, which is in no database.
CREATE TABLE keys (
    name TEXT NOT NULL PRIMARY KEY,
    sealed BYTEA NOT NULL,
    created_at BIGINT NOT NULL
);

-- Rate limits: when the bucket of a key is empty again (generic cell rate algorithm).
CREATE TABLE limits (
    name TEXT NOT NULL PRIMARY KEY,
    empty_at BIGINT NOT NULL
);
CREATE INDEX limits_by_time ON limits (empty_at);

CREATE TABLE idempotency (
    caller TEXT NOT NULL,
    name TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    status BIGINT,
    headers TEXT,
    body BYTEA,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (caller, name)
);
CREATE INDEX idempotency_by_time ON idempotency (created_at);

-- What a transaction says of its change, until the sequencer has given it a number. Numbers are
-- given in the order of commits, so that nobody who reads on from a number misses an earlier one.
-- By its mark the portal knows that it has written a row itself: what it numbers it also signs.
CREATE TABLE outbox (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    owner TEXT,
    body TEXT NOT NULL,
    at BIGINT NOT NULL,
    mark TEXT NOT NULL
);

CREATE TABLE audit (
    number BIGINT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    action TEXT NOT NULL,
    object_id TEXT,
    body TEXT NOT NULL,
    hash TEXT NOT NULL
);
CREATE INDEX audit_by_object ON audit (object_id);

CREATE TABLE events (
    number BIGINT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    owner TEXT,
    body TEXT NOT NULL
);
CREATE INDEX events_by_time ON events (at);

-- The ends of 'audit' and 'events'. Whoever gives numbers holds the row.
CREATE TABLE heads (
    name TEXT NOT NULL PRIMARY KEY,
    number BIGINT NOT NULL,
    hash TEXT NOT NULL,
    signature TEXT NOT NULL
);
INSERT INTO heads (name, number, hash, signature) VALUES ('audit', 0, '', '');
INSERT INTO heads (name, number, hash, signature) VALUES ('events', 0, '', '');

-- What of the outbox could not be read, for people to look at: the rest goes on without it.
CREATE TABLE outbox_set_aside (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    owner TEXT,
    body TEXT NOT NULL,
    at BIGINT NOT NULL,
    reason TEXT NOT NULL,
    set_aside_at BIGINT NOT NULL
);

-- 'secret' signs; 'former_secret' signs as well until 'former_until', after the secret was changed.
CREATE TABLE webhooks (
    id TEXT NOT NULL PRIMARY KEY,
    owner_id TEXT NOT NULL REFERENCES users (id),
    url TEXT NOT NULL,
    description TEXT NOT NULL,
    events TEXT NOT NULL,
    secret BYTEA NOT NULL,
    former_secret BYTEA,
    former_until BIGINT,
    enabled BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    version BIGINT NOT NULL
);
CREATE INDEX webhooks_of_owner ON webhooks (owner_id);

-- 'next_at' is by a portal's clock; 'leased_until' by the database's, so that portals whose clocks
-- differ do not take one another's work.
CREATE TABLE deliveries (
    id TEXT NOT NULL PRIMARY KEY,
    webhook_id TEXT NOT NULL REFERENCES webhooks (id),
    event TEXT NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    next_at BIGINT,
    leased_until BIGINT NOT NULL,
    tried_at BIGINT,
    status BIGINT,
    fault TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE state = 'waiting';
CREATE INDEX deliveries_of_webhook ON deliveries (webhook_id, id);
CREATE INDEX deliveries_by_time ON deliveries (created_at);
