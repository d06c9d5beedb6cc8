// Files, batches, stored and background responses, conversations, through openai-node and the Vercel AI SDK at its defaults,
// against one live address, BASE_URL. FOLDER is an empty folder.
// Prints one JSON object that the test looks at; any error ends it with a stack and status 1.
import { createReadStream, writeFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText } from "ai";
import OpenAI from "openai";

const base = process.env.BASE_URL;
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: "not-needed", maxRetries: 0 });
const found = {};

async function until(look) {
  for (let turn = 0; turn < 600; turn += 1) {
    const seen = await look();
    if (seen) return seen;
    await pause(50);
  }
  throw new Error("not within 30 seconds");
}

// Files, batches, content: the stream is sent before its purpose, in chunks, without a length.
const url = "/v1/chat/completions";
const lines = Array.from({ length: 30 }, (_, n) => ({
  custom_id: `n${n}`, method: "POST", url, body: { messages: [{ role: "user", content: `word ${n}` }] },
}));
const path = `${process.env.FOLDER}/requests.jsonl`;
writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
const file = await client.files.create({ file: createReadStream(path), purpose: "batch" });
const created = await client.batches.create({ input_file_id: file.id, endpoint: url, completion_window: "24h" });
const batch = await until(async () => {
  const now = await client.batches.retrieve(created.id);
  return now.status === "completed" ? now : null;
});
const content = await (await client.files.content(batch.output_file_id)).text();
found.batch = {
  counts: batch.request_counts,
  ids: content.trim().split("\n").map((line) => JSON.parse(line).custom_id).sort(),
  listed: (await client.batches.list({ limit: 1 })).data[0].id === created.id,
};
found.deleted = (await client.files.delete(file.id)).deleted;

// An upload in parts, which arrive side by side and out of order.
const whole = Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
const upload = await client.uploads.create({
  bytes: whole.length, filename: "parts.jsonl", mime_type: "application/jsonl", purpose: "batch",
});
const halves = [whole.subarray(0, 1000), whole.subarray(1000)];
const parts = await Promise.all([1, 0].map((at) => client.uploads.parts.create(upload.id, {
  data: new File([halves[at]], `part${at}`),
})));
const joined = await client.uploads.complete(upload.id, { part_ids: [parts[1].id, parts[0].id] });
found.upload = {
  status: joined.status,
  isWhole: (await (await client.files.content(joined.file.id)).text()) === whole.toString(),
};

// Background: its stream is left, taken up again at a number, and the work is cancelled.
const slow = { model: "any", input: "one two three four five six seven eight ".repeat(8), seed: 100, background: true };
const numbers = [];
let id;
for await (const event of await client.responses.create({ ...slow, stream: true })) {
  id ??= event.response?.id;
  numbers.push(event.sequence_number);
  if (event.type === "response.output_text.delta") break;
}
const last = numbers.at(-1);
const resumed = await client.responses.retrieve(id, { stream: true, starting_after: last });
for await (const event of resumed) {
  numbers.push(event.sequence_number);
  if (numbers.length > last + 3) break;
}
const cancelled = await client.responses.cancel(id);
found.background = { numbers, status: cancelled.status, after: (await client.responses.retrieve(id)).status };

const helper = client.responses.stream({ response_id: (await client.responses.create({ ...slow, seed: 1 })).id });
found.helper = (await helper.finalResponse()).status;

// Conversations.
const conversation = await client.conversations.create({ items: [], metadata: { who: "js" } });
await client.responses.create({ model: "any", input: "remember this", conversation: conversation.id });
await client.responses.create({ model: "any", input: "and this", conversation: { id: conversation.id } });
const said = [];
for await (const item of client.conversations.items.list(conversation.id, { order: "asc", limit: 1 })) {
  said.push([item.role, item.content[0].text.trim()]);
}
found.conversation = { said, deleted: (await client.conversations.delete(conversation.id)).deleted };

// The Vercel AI SDK at its defaults stores, and refers to its own items by id in the next turn.
const model = createOpenAI({ baseURL: `${base}/v1`, apiKey: "not-needed" })("any");
const messages = [{ role: "user", content: "first turn" }];
const first = await generateText({ model, messages });
messages.push(...first.response.messages, { role: "user", content: "second turn" });
const second = await generateText({ model, messages });
found.ai = [first.text.trim(), second.text.trim()];

console.log(JSON.stringify(found));
