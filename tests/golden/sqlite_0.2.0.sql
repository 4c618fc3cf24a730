BEGIN TRANSACTION;
CREATE TABLE conversation (
    number        integer primary key autoincrement, -- never reused: entries hang on it, not on the key
    tenant        text    not null,
    id            text    not null,
    revision      text    not null,
    born          text    not null,
    head          integer not null,
    body          blob    not null,
    owner         text    not null,
    updated_at    real    not null,
    recent        integer not null, -- updated_at in coarse steps, so that a turn leaves its index alone
    due_at        real,
    claim         text,
    claimed_until real    not null,
    wake          real    generated always as (max(due_at, claimed_until)) virtual, -- null when due_at is
    unique (tenant, id)
);
INSERT INTO "conversation" VALUES(1,'','ada','LNuMf5bdU3mj','Mv_MLvA6YlPY',5,X'012096650200B3840D3B1EE75101DBD607196BBFC59AF7A4132B9DAEC63A2185A92111FED605DDE82F6E3DC29635ECAD0BBAD8560E5D6D2B2CAA528CA2880606FCCA46E6C54D74E05F1A33DC9AFA1A244102','',1.79592789570324039456e+09,29932131,1.79592789570324039456e+09,NULL,0.0);
INSERT INTO "conversation" VALUES(2,'salon','eve','QCnG-DV53XyN','Wm8czL0bnm6t',2,X'012078A50100B3C2073B1EE75101DBD607196BBFC59A289D58E97435D6E9282C53D44F4C5219210C06FCAD4672E566AEFC68CC5057F5DB75D607','',1.79592789567177391054e+09,29932131,NULL,NULL,0.0);
CREATE TABLE entry (
    conversation integer not null,
    number       integer not null,
    id           text    not null, -- '' for what nobody will ever send again
    role         text    not null,
    body         blob    not null
);
INSERT INTO "entry" VALUES(1,1,'m0','u',X'5B226432666434613231222C313739353932373839353539392C226261736963206D616E6963757265225D');
INSERT INTO "entry" VALUES(1,2,'','a',X'5B223665343861393638222C313739353932373839353632342C223120696E20796F75722063617274222C315D');
INSERT INTO "entry" VALUES(1,3,'m1','u',X'5B223464646237613631222C313739353932373839353633332C22616E64206120706564696375726520C3A4225D');
INSERT INTO "entry" VALUES(1,4,'','a',X'5B226131643037323438222C313739353932373839353633342C223220696E20796F75722063617274222C335D');
INSERT INTO "entry" VALUES(2,1,'s0','u',X'5B223437303833623434222C313739353932373839353635302C2268656C6C6F225D');
INSERT INTO "entry" VALUES(2,2,'','a',X'5B226637623936306361222C313739353932373839353637322C223120696E20796F75722063617274222C315D');
INSERT INTO "entry" VALUES(1,5,'m2','u',X'5B223366663538353433222C313739353932373839353730332C226120706F6C697368225D');
CREATE TABLE meta (name text primary key, value text not null) without rowid;
INSERT INTO "meta" VALUES('epoch','2a3f889f963fe0bd');
CREATE TABLE tombstone (key blob primary key, mark real not null) without rowid;
CREATE INDEX conversation_wake   on conversation (wake) where wake is not null;
CREATE INDEX conversation_owner  on conversation (tenant, owner, id) where owner <> '';
CREATE INDEX conversation_recent on conversation (tenant, recent);
CREATE UNIQUE INDEX entry_number on entry (conversation, number);
CREATE UNIQUE INDEX entry_id     on entry (conversation, id) where id <> '';
CREATE INDEX tombstone_mark on tombstone (mark);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('conversation',2);
COMMIT;
