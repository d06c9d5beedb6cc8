-- The first schema with a few jobs, as sqlite3's .dump writes it; migrations are tested from it.
BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'batch','0001 jobs, queue, claims','2026-11-23 16:18:24.618226+00:00');
CREATE TABLE blob (
  job text not null, sha256 text not null, role text not null, primary key (job, sha256, role)) without rowid;
INSERT INTO "blob" VALUES('01a209339331cffc0b61','abababababababababababababababababababababababababababababababab','request');
CREATE TABLE checkpoint (
  job text not null, step integer not null, data text not null, primary key (job, step)) without rowid;
INSERT INTO "checkpoint" VALUES('01a209339331cffc0b61',1,'{"at":30.0}');
CREATE TABLE claim (
  job text primary key references job(id), queue text not null, data blob not null, priority real not null,
  message integer not null, taken_at real not null);
INSERT INTO "claim" VALUES('01a209339331cffc0b61','stt',X'7B226964223A223031613230393333393333316366666330623631222C226E616D65223A2262617463682E72756E222C2261726773223A5B223031613230393333393333316366666330623631225D7D',0.0,2,1.79545070468986821179e+09);
CREATE TABLE daily (
  day text not null, kind text not null, state text not null, n integer not null, seconds real not null,
  waited real not null, primary key (day, kind, state)) without rowid;
INSERT INTO "daily" VALUES('2026-11-23','vlm','cancelled',1,0.0,0.0);
INSERT INTO "daily" VALUES('2026-11-23','vlm','done',1,6.19411468505859375e-04,7.254123687744140625e-03);
INSERT INTO "daily" VALUES('2026-11-23','vlm','failed',1,0.000209808349609375,1.430511474609375e-04);
CREATE TABLE job (
  id text primary key, kind text not null, task text not null, state text not null, origin text not null,
  priority integer not null, request text not null, result text, error text, progress text, source text, parent text,
  attempts integer not null default 0, cancel integer not null default 0, waited integer not null default 0,
  message integer, created_at real not null, started_at real, finished_at real);
INSERT INTO "job" VALUES('01a209339329af6d6466','vlm','chat','done','http',20,'{"messages":[{"role":"user","content":"first"}]}','{"choices":[]}',NULL,NULL,NULL,NULL,1,0,1,NULL,1.79545070468131351469e+09,1.79545070468856763842e+09,1.79545070468918704985e+09);
INSERT INTO "job" VALUES('01a209339331cffc0b61','stt','transcribe','running','inbox',0,'{"blob":"abababababababababababababababababababababababababababababababab"}',NULL,NULL,NULL,'talk/one.wav',NULL,1,0,0,2,1.79545070468968343737e+09,1.79545070468986821179e+09,NULL);
INSERT INTO "job" VALUES('01a20933933c8f26006d','embedding','embed','queued','cli',10,'{"inputs":["x"]}',NULL,NULL,NULL,NULL,NULL,0,0,0,3,1.79545070470038580891e+09,NULL,NULL);
INSERT INTO "job" VALUES('01a20933933cc278b0c0','vlm','chat','failed','inbox',0,'{"messages":[{"role":"user","content":"crash"}]}',NULL,'{"message":"no","class":"BadRequest","code":400,"type":"x"}',NULL,'p.png',NULL,1,0,0,NULL,1.79545070470060348514e+09,1.79545070470074653629e+09,1.79545070470095634459e+09);
INSERT INTO "job" VALUES('01a20933933d5949b336','vlm','chat','cancelled','http',20,'{"messages":[]}',NULL,NULL,NULL,NULL,NULL,0,1,1,NULL,1.79545070470111703874e+09,NULL,1.79545070470127415655e+09);
CREATE TABLE orphan (sha256 text primary key) without rowid;
CREATE TABLE service (name text primary key, value text not null) without rowid;
INSERT INTO "service" VALUES('service','null');
CREATE TABLE tally (
  kind text not null, origin text not null, priority integer not null, state text not null, n integer not null,
  primary key (kind, origin, priority, state)) without rowid;
INSERT INTO "tally" VALUES('embedding','cli',10,'queued',1);
INSERT INTO "tally" VALUES('stt','inbox',0,'queued',0);
INSERT INTO "tally" VALUES('stt','inbox',0,'running',1);
INSERT INTO "tally" VALUES('vlm','http',20,'cancelled',1);
INSERT INTO "tally" VALUES('vlm','http',20,'done',1);
INSERT INTO "tally" VALUES('vlm','http',20,'queued',0);
INSERT INTO "tally" VALUES('vlm','http',20,'running',0);
INSERT INTO "tally" VALUES('vlm','inbox',0,'failed',1);
INSERT INTO "tally" VALUES('vlm','inbox',0,'queued',0);
INSERT INTO "tally" VALUES('vlm','inbox',0,'running',0);
CREATE TABLE task (
  id integer not null primary key autoincrement, queue text not null, data blob not null,
  priority real not null default 0.0);
INSERT INTO "task" VALUES(3,'embedding',X'7B226964223A223031613230393333393333633866323630303664222C226E616D65223A2262617463682E72756E222C2261726773223A5B223031613230393333393333633866323630303664225D7D',10.0);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE INDEX task_queue_priority_id on task (queue, priority desc, id);
CREATE INDEX job_kind_state on job (kind, state, id);
CREATE INDEX job_parent on job (parent) where parent is not null;
CREATE INDEX blob_sha256 on blob (sha256);
CREATE TRIGGER job_insert after insert on job begin
  insert into tally values (new.kind, new.origin, new.priority, new.state, 1)
    on conflict do update set n = n + 1;
end;
CREATE TRIGGER job_state after update of state on job when old.state <> new.state begin
  update tally set n = n - 1
    where kind = old.kind and origin = old.origin and priority = old.priority and state = old.state;
  insert into tally values (new.kind, new.origin, new.priority, new.state, 1)
    on conflict do update set n = n + 1;
end;
CREATE TRIGGER job_ended after update of state on job
  when old.state <> new.state and new.state in ('done', 'failed', 'cancelled') begin
  insert into daily values (date(new.finished_at, 'unixepoch', 'localtime'), new.kind, new.state, 1,
      coalesce(new.finished_at - new.started_at, 0), coalesce(new.started_at - new.created_at, 0))
    on conflict do update set n = n + 1, seconds = seconds + excluded.seconds, waited = waited + excluded.waited;
end;
CREATE TRIGGER job_delete after delete on job begin
  update tally set n = n - 1
    where kind = old.kind and origin = old.origin and priority = old.priority and state = old.state;
  delete from blob where job = old.id;
  delete from checkpoint where job = old.id;
end;
CREATE TRIGGER blob_delete after delete on blob begin
  insert or ignore into orphan values (old.sha256);
end;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('task',5);
COMMIT;
pragma user_version=1;
