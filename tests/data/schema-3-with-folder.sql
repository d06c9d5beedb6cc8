-- A home's database as version 0.1.0 left it (schema 3, the folder's tables outside it), as sqlite3's .dump writes it.
BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'batch','0001 jobs, queue, claims','2026-11-26 14:53:25.546117+00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'batch','0002 idempotency keys','2026-11-26 14:53:25.546450+00:00');
INSERT INTO "_sqlite_migrations" VALUES(3,'batch','0003 jobs by origin','2026-11-26 14:53:25.546681+00:00');
CREATE TABLE blob (
  job text not null, sha256 text not null, role text not null, primary key (job, sha256, role)) without rowid;
CREATE TABLE checkpoint (
  job text not null, step integer not null, data text not null, primary key (job, step)) without rowid;
CREATE TABLE claim (
  job text primary key references job(id), queue text not null, data blob not null, priority real not null,
  message integer not null, taken_at real not null);
CREATE TABLE content (
  id integer primary key, key text not null unique, sha256 text not null, size integer not null, kind text not null,
  parameters text not null, state text not null, step text not null, job text not null, jobs text not null,
  models text not null default '{}', error text, owner integer, created_at real not null, finished_at real);
INSERT INTO "content" VALUES(1,'461eb6fe069d407c297912ab2ba68a695c2f6a182d02bd08c582887b906b69a5:49080af0fd5698e0','461eb6fe069d407c297912ab2ba68a695c2f6a182d02bd08c582887b906b69a5',14,'text','{}','done','embedding','01a21858dcc2f21a6819','{"embedding": "01a21858dcc2f21a6819"}','{"embedding": "weightless"}',NULL,1,1.7957048066326580047e+09,1.79570480664462661744e+09);
INSERT INTO "content" VALUES(2,'9fa0f2ae2b655c877690c6ed5649dad9f248147f7e21d0f8011636c20d627162:8860e41b0acf581e','9fa0f2ae2b655c877690c6ed5649dad9f248147f7e21d0f8011636c20d627162',75,'image','{"prompt": "Describe this image.", "max_tokens": 1024, "temperature": 0.2, "thinking": false, "embed": true}','done','embedding','01a21858dcf31edc717a','{"caption": "01a21858dce654d45379", "embedding": "01a21858dcf31edc717a"}','{"caption": "weightless", "embedding": "weightless"}',NULL,3,1.79570480663331246374e+09,1.79570480665367889407e+09);
INSERT INTO "content" VALUES(3,'f1d633d8236bc54acdfd6d3fc90b2bca0a5464c078317a840e7063372f526c6c:6a7ebeb24b2fd0d3','f1d633d8236bc54acdfd6d3fc90b2bca0a5464c078317a840e7063372f526c6c',1644,'audio','{"language": "auto", "translate": false, "embed": true}','done','embedding','01a21858dcf64b01840c','{"transcript": "01a21858dce8a81ef635", "embedding": "01a21858dcf64b01840c"}','{"transcript": "weightless", "embedding": "weightless"}',NULL,4,1.79570480663353824611e+09,1.79570480665376973157e+09);
CREATE TABLE daily (
  day text not null, kind text not null, state text not null, n integer not null, seconds real not null,
  waited real not null, primary key (day, kind, state)) without rowid;
INSERT INTO "daily" VALUES('2026-11-26','embedding','done',4,3.7448406219482421875e-03,4.28524017333984375e-02);
INSERT INTO "daily" VALUES('2026-11-26','stt','done',1,4.312038421630859375e-03,4.3261051177978515625e-03);
INSERT INTO "daily" VALUES('2026-11-26','vlm','done',3,5.217075347900390625e-03,6.169986724853515625e-01);
INSERT INTO "daily" VALUES('2026-11-26','vlm','failed',1,5.061626434326171875e-04,3.569126129150390625e-04);
CREATE TABLE file (
  id integer primary key, path blob not null unique, folder blob not null, size integer not null,
  mtime_ns integer not null, inode integer not null, ctime_ns integer not null, state text not null,
  content integer, error text, rules text not null default '{}', gone integer not null default 0,
  accepted_at real not null, finished_at real);
INSERT INTO "file" VALUES(1,X'6E6F74652E747874',X'',14,1795704804631180965,2211954,1795704804631180965,'done',1,NULL,'{"formats": ["txt", "json", "srt"], "source": "keep", "done": "done"}',0,1.7957048066326580047e+09,1.79570480665296220781e+09);
INSERT INTO "file" VALUES(2,X'62726F6B656E2E706E67',X'',15,1795704804631229497,2211971,1795704804631229497,'failed',NULL,'{"code": 415, "message": "broken.png: This is no image that can be read here: JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC and AVIF are.", "type": "invalid_request_error", "param": null, "class": "UnsupportedMedia"}','{"formats": ["txt", "json", "srt"], "source": "keep", "done": "done"}',0,1.79570480663326978681e+09,1.79570480664183688163e+09);
INSERT INTO "file" VALUES(3,X'7265642E706E67',X'',75,1795704804631064512,2211939,1795704804631064512,'done',2,NULL,'{"formats": ["txt", "json", "srt"], "source": "keep", "done": "done"}',0,1.79570480663331246374e+09,1.79570480665745568272e+09);
INSERT INTO "file" VALUES(4,X'74616C6B2E776176',X'',1644,1795704804631297448,2211987,1795704804631297448,'done',3,NULL,'{"formats": ["txt", "json", "srt"], "source": "keep", "done": "done"}',0,1.79570480663353824611e+09,1.79570480665749907488e+09);
CREATE TABLE file_tally (state text primary key, n integer not null) without rowid;
INSERT INTO "file_tally" VALUES('done',3);
INSERT INTO "file_tally" VALUES('failed',1);
INSERT INTO "file_tally" VALUES('waiting',0);
INSERT INTO "file_tally" VALUES('writing',0);
CREATE TABLE idempotency (
  kind text not null, key text not null, place integer not null, fingerprint text not null, job text not null,
  primary key (kind, key, place)) without rowid;
INSERT INTO "idempotency" VALUES('vlm','once',0,'0f08146d9e9f1fe18dfdc8ed56fac1530acf010d59c04474a13de282c52a67ca','01a21858d8fd86e60116');
CREATE TABLE job (
  id text primary key, kind text not null, task text not null, state text not null, origin text not null,
  priority integer not null, request text not null, result text, error text, progress text, source text, parent text,
  attempts integer not null default 0, cancel integer not null default 0, waited integer not null default 0,
  message integer, created_at real not null, started_at real, finished_at real);
INSERT INTO "job" VALUES('01a21858d8fd86e60116','vlm','chat','done','http',20,'{"messages":[{"role":"system","content":"Be kind."},{"role":"user","content":[{"type":"text","text":"hello there"}]},{"role":"assistant","content":null,"tool_calls":[{"type":"function","function":{"name":"look","arguments":"{}"},"id":"c1"}]},{"role":"tool","tool_call_id":"c1","content":"seen"}],"generation":{"temperature":0.5,"max_tokens":3,"stop":["END"],"logit_bias":[[15,-100.0],["no",false]],"samplers":["top_k","temperature"]},"tools":[{"type":"function","function":{"name":"look","description":"Looks.","parameters":{"type":"object","properties":{"at":{"type":"string"}}}}}],"tool_choice":{"type":"function","function":{"name":"look"}},"stream":false}','{"choices":[{"index":0,"message":{"role":"assistant","content":"seen "},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2,"prompt_tokens_details":{"cached_tokens":0}},"timings":{"cache_n":0,"prompt_n":1,"prompt_ms":0.0,"predicted_n":1,"predicted_ms":0.01127700033975998}}',NULL,NULL,NULL,NULL,1,0,1,NULL,1.79570480562996101382e+09,1.79570480624423432346e+09,1.79570480624501752856e+09);
INSERT INTO "job" VALUES('01a21858db6ed82296fc','vlm','completion','done','http',20,'{"prompt":[1,"two"],"generation":{"max_tokens":2},"stream":false,"describe":true}','{"choices":[{"index":0,"message":{"role":"assistant","content":"1 two "},"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4,"prompt_tokens_details":{"cached_tokens":0}},"timings":{"cache_n":0,"prompt_n":2,"prompt_ms":0.0,"predicted_n":2,"predicted_ms":0.2678479995665839}}',NULL,NULL,NULL,NULL,1,0,1,NULL,1.79570480625508427626e+09,1.79570480625609898571e+09,1.79570480625971031192e+09);
INSERT INTO "job" VALUES('01a21858db76f2cc9d05','vlm','chat','failed','http',20,'{"messages":[{"role":"user","content":"refuse"}],"generation":{},"stream":false}',NULL,'{"code":400,"message":"The message asks to be refused.","type":"invalid_request_error","param":null,"class":"BadRequest"}',NULL,NULL,NULL,1,0,1,NULL,1.79570480626376748089e+09,1.79570480626412439344e+09,1.79570480626463055613e+09);
INSERT INTO "job" VALUES('01a21858db7ee1896b7d','embedding','embed','done','http',20,'{"inputs":["a",[1,2,"x"]]}','{"count":2,"dimensions":8,"vectors":"eA/oPo54rT5vMpQ+4W0lPXgP6D7SJHg9OCDZPngP6D5HMLo+kXWBPgmNFj90uwg+W6SbPh5Idz5Apfs+FQJgPg==","tokens":[1,3],"ms":0.0}',NULL,NULL,NULL,NULL,1,0,1,NULL,1.79570480627587938308e+09,1.79570480630504965779e+09,1.79570480630595254896e+09);
INSERT INTO "job" VALUES('01a21858dcc2f21a6819','embedding','embed','done','inbox',0,'{"inputs":["A short note.\n"],"windows":true}','{"count":1,"dimensions":8,"vectors":"1pM6Pm7snz39jPI+n0ApP7Dgfzy7O9E+y5UqPh1BpT4=","tokens":[3],"ms":0.0}',NULL,NULL,'note.txt',NULL,1,0,0,NULL,1.79570480663284063336e+09,1.79570480663880586622e+09,1.79570480663954401014e+09);
INSERT INTO "job" VALUES('01a21858dce654d45379','vlm','chat','done','inbox',0,'{"messages":[{"role":"user","content":[{"type":"image","blob":"9fa0f2ae2b655c877690c6ed5649dad9f248147f7e21d0f8011636c20d627162"},{"type":"text","text":"Describe this image."}]}],"generation":{"max_tokens":1024,"temperature":0.2},"enable_thinking":false}','{"choices":[{"index":0,"message":{"role":"assistant","content":"a picture Describe this image. "},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":5,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":0}},"timings":{"cache_n":0,"prompt_n":5,"prompt_ms":0.0,"predicted_n":5,"predicted_ms":0.08415499996772269}}',NULL,NULL,'red.png',NULL,1,0,0,NULL,1.79570480663336730009e+09,1.79570480663507795341e+09,1.79570480663590049744e+09);
INSERT INTO "job" VALUES('01a21858dce8a81ef635','stt','transcribe','done','inbox',0,'{"blob":"f1d633d8236bc54acdfd6d3fc90b2bca0a5464c078317a840e7063372f526c6c","filename":"talk.wav","options":{"language":"auto","translate":false},"words":true}','{"text":" a file of 1644 bytes\n","language":"en","language_name":"english","duration":1.0,"segments":[{"id":0,"seek":0,"start":0.0,"end":1.0,"text":" a file of 1644 bytes\n","tokens":[],"temperature":0.0,"avg_logprob":0.0,"compression_ratio":1.0,"no_speech_prob":0.0,"words":[]}],"ms":0.0}',NULL,NULL,'talk.wav',NULL,1,0,0,NULL,1.79570480663356971734e+09,1.79570480663789582248e+09,1.79570480664220786092e+09);
INSERT INTO "job" VALUES('01a21858dcf31edc717a','embedding','embed','done','inbox',0,'{"inputs":["a picture Describe this image."],"windows":true}','{"count":1,"dimensions":8,"vectors":"e5LUPV6EIz3TBdo9bAs8Pl6EIz8GER4/f82RPnqgiT4=","tokens":[5],"ms":0.0}',NULL,NULL,'red.png','01a21858dce654d45379',1,0,0,NULL,1.79570480664441180229e+09,1.7957048066478440762e+09,1.79570480664953494075e+09);
INSERT INTO "job" VALUES('01a21858dcf64b01840c','embedding','embed','done','inbox',0,'{"inputs":["a file of 1644 bytes"],"windows":true}','{"count":1,"dimensions":8,"vectors":"4jUDPwiPwT13uQk+J12pPuI1Az+bOas+Ida9PhWdmD4=","tokens":[5],"ms":0.0}',NULL,NULL,'talk.wav','01a21858dce8a81ef635',1,0,0,NULL,1.79570480664627742765e+09,1.79570480665056204797e+09,1.79570480665097498892e+09);
INSERT INTO "job" VALUES('01a21858e2412f15b614','embedding','embed','queued','cli',10,'{"inputs":["Later.\n"],"windows":true}',NULL,NULL,NULL,'/home/someone/batch/later.txt',NULL,0,0,0,10,1.79570480800202631954e+09,NULL,NULL);
CREATE TABLE orphan (sha256 text primary key) without rowid;
INSERT INTO "orphan" VALUES('9fa0f2ae2b655c877690c6ed5649dad9f248147f7e21d0f8011636c20d627162');
INSERT INTO "orphan" VALUES('f1d633d8236bc54acdfd6d3fc90b2bca0a5464c078317a840e7063372f526c6c');
CREATE TABLE service (name text primary key, value text not null) without rowid;
INSERT INTO "service" VALUES('model:embedding','{"status":"loading","progress":0.0,"error":null,"pid":null,"facts":{"model":"weightless","n_ctx":4096,"n_embd":8}}');
INSERT INTO "service" VALUES('model:stt','{"status":"loading","progress":0.0,"error":null,"pid":null,"facts":{"model":"weightless","n_ctx":4096,"n_embd":8}}');
INSERT INTO "service" VALUES('model:vlm','{"status":"loading","progress":0.0,"error":null,"pid":null,"facts":{"model":"weightless","n_ctx":4096,"n_embd":8}}');
INSERT INTO "service" VALUES('service','null');
INSERT INTO "service" VALUES('stopping','true');
CREATE TABLE tally (
  kind text not null, origin text not null, priority integer not null, state text not null, n integer not null,
  primary key (kind, origin, priority, state)) without rowid;
INSERT INTO "tally" VALUES('embedding','cli',10,'queued',1);
INSERT INTO "tally" VALUES('embedding','http',20,'done',1);
INSERT INTO "tally" VALUES('embedding','http',20,'queued',0);
INSERT INTO "tally" VALUES('embedding','http',20,'running',0);
INSERT INTO "tally" VALUES('embedding','inbox',0,'done',3);
INSERT INTO "tally" VALUES('embedding','inbox',0,'queued',0);
INSERT INTO "tally" VALUES('embedding','inbox',0,'running',0);
INSERT INTO "tally" VALUES('stt','inbox',0,'done',1);
INSERT INTO "tally" VALUES('stt','inbox',0,'queued',0);
INSERT INTO "tally" VALUES('stt','inbox',0,'running',0);
INSERT INTO "tally" VALUES('vlm','http',20,'done',2);
INSERT INTO "tally" VALUES('vlm','http',20,'failed',1);
INSERT INTO "tally" VALUES('vlm','http',20,'queued',0);
INSERT INTO "tally" VALUES('vlm','http',20,'running',0);
INSERT INTO "tally" VALUES('vlm','inbox',0,'done',1);
INSERT INTO "tally" VALUES('vlm','inbox',0,'queued',0);
INSERT INTO "tally" VALUES('vlm','inbox',0,'running',0);
CREATE TABLE task (
  id integer not null primary key autoincrement, queue text not null, data blob not null,
  priority real not null default 0.0);
INSERT INTO "task" VALUES(10,'embedding',X'7B226964223A223031613231383538653234313266313562363134222C226E616D65223A2262617463682E72756E222C2261726773223A5B223031613231383538653234313266313562363134225D7D',10.0);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE INDEX task_queue_priority_id on task (queue, priority desc, id);
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
CREATE INDEX idempotency_job on idempotency (job);
CREATE TRIGGER job_delete_key after delete on job begin
  delete from idempotency where job = old.id;
end;
CREATE INDEX job_kind_state_origin on job (kind, state, origin, id);
CREATE INDEX content_job on content (job);
CREATE INDEX content_state on content (state, id) where state <> 'done';
CREATE INDEX file_folder on file (folder) where gone = 0;
CREATE INDEX file_content on file (content);
CREATE INDEX file_writing on file (id) where state = 'writing';
CREATE TRIGGER file_insert after insert on file begin
  insert into file_tally values (new.state, 1) on conflict do update set n = n + 1;
end;
CREATE TRIGGER file_state after update of state on file when old.state <> new.state begin
  update file_tally set n = n - 1 where state = old.state;
  insert into file_tally values (new.state, 1) on conflict do update set n = n + 1;
end;
CREATE TRIGGER file_delete after delete on file begin
  update file_tally set n = n - 1 where state = old.state;
end;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('task',10);
COMMIT;
PRAGMA user_version=3;
