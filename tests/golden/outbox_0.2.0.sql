BEGIN TRANSACTION;
CREATE TABLE outbox (
    number integer primary key autoincrement,
    server text not null,
    owner text not null,
    conversation text not null,
    id text not null,
    message blob not null,
    posted_at real not null,
    reason text not null default ''
) strict;
INSERT INTO "outbox" VALUES(1,'http://127.0.0.1:9','credential:e6a9808e12709cc2bbd82750ca9bed364a3d79ea23efce8050e79a6e3b35785a','ada','p1',X'7B22636F6E74656E74223A22616E642061207065646963757265227D',1.79592794431301140786e+09,'');
INSERT INTO "outbox" VALUES(2,'http://127.0.0.1:9','credential:e6a9808e12709cc2bbd82750ca9bed364a3d79ea23efce8050e79a6e3b35785a','ada','p2',X'7B22636F6E74656E74223A226120706F6C69736820C3A4227D',1.79592794432679033278e+09,'');
CREATE TABLE subjects (credential text primary key, subject text not null) strict;
CREATE INDEX waiting on outbox (conversation, number) where reason = '';
CREATE INDEX refused on outbox (number) where reason <> '';
CREATE INDEX ids on outbox (conversation, id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('outbox',2);
COMMIT;
