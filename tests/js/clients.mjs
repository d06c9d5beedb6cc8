// The openai package and plain fetch against a live chat port: BASE_URL is its address, IMAGE a png file.
// Prints one JSON object that the test looks at; any error ends it with a stack and status 1.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const base = process.env.BASE_URL;
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: "not-needed", maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];
const found = {};

// The product's own example, word for word but for the address.
const resp = await fetch(`${base}/v1/chat/completions`, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({
    model: "gemma-4-e4b",
    messages: [{ role: "user", content: "Hello" }],
    max_tokens: 256,
  }),
});
found.fetch = await resp.json();

found.chat = await client.chat.completions.create({ model: "gemma-4-e4b", messages, max_tokens: 256 });

const url = `data:image/png;base64,${readFileSync(process.env.IMAGE).toString("base64")}`;
const parts = [{ type: "text", text: "Describe this image." }, { type: "image_url", image_url: { url } }];
found.image = await client.chat.completions.create({
  model: "gemma-4-e4b", messages: [{ role: "user", content: parts }], max_tokens: 256,
});

found.stream = "";
const stream = await client.chat.completions.create({
  model: "gemma-4-e4b", messages, max_tokens: 256, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  found.stream += chunk.choices[0]?.delta?.content ?? "";
  found.streamUsage = chunk.usage ?? found.streamUsage;
}

const helper = client.chat.completions.stream({ model: "gemma-4-e4b", messages, max_tokens: 256 });
found.helper = await helper.finalContent();

const tools = [{
  type: "function",
  function: {
    name: "look", strict: true,
    parameters: {
      type: "object", properties: { deep: { type: "boolean" } }, required: ["deep"], additionalProperties: false,
    },
  },
}];
found.tool = await client.chat.completions.create({
  model: "gemma-4-e4b", messages, tools, tool_choice: "required", max_tokens: 256,
});

found.response = await client.responses.create({ model: "gemma-4-e4b", input: "Hello", max_output_tokens: 256 });
found.events = [];
const events = await client.responses.create({
  model: "gemma-4-e4b", input: "Hello", max_output_tokens: 256, stream: true,
});
for await (const event of events) found.events.push(event.type);

try {
  await client.chat.completions.create({ model: "gemma-4-e4b", messages, temperature: -1 });
} catch (error) {
  found.error = { status: error.status, type: error.type, message: error.message };
}

console.log(JSON.stringify(found));
