// The embedding and speech ports through the openai package and through fetch. Prints what it saw as one JSON object.
import { createReadStream, readFileSync } from "node:fs";
import OpenAI from "openai";

const { EMBEDDING_URL, STT_URL, SOUND } = process.env;
const client = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "not-needed", maxRetries: 0 });
const vectors = client(EMBEDDING_URL);
const speech = client(STT_URL);
const seen = {};

const several = await vectors.embeddings.create({ model: "bge-base-zh", input: ["Text 1", "Text 2", "Text 3"] });
seen.lengths = several.data.map((item) => item.embedding.length);
seen.norm = Math.hypot(...several.data[0].embedding);

try {
  await vectors.embeddings.create({ model: "m", input: "word ".repeat(600) });
} catch (error) {
  seen.tooLong = [error.constructor.name, error.status, error.message];
}

const file = () => createReadStream(SOUND);
seen.text = (await speech.audio.transcriptions.create({ model: "whisper-1", file: file(), language: "en" })).text;

seen.streamed = "";
for await (const event of await speech.audio.transcriptions.create({ model: "whisper-1", file: file(), stream: true })) {
  if (event.type === "transcript.text.delta") seen.streamed += event.delta;
  else seen.last = event.type;
}

const form = new FormData();
form.append("file", new Blob([readFileSync(SOUND)]), "audio.wav");
form.append("response_format", "json");
seen.fetched = (await (await fetch(`${STT_URL}/inference`, { method: "POST", body: form })).json()).text;

console.log(JSON.stringify(seen));
