// The stream helpers of several packages against one live address, BASE_URL; SOUND is a wav file.
// Prints one JSON object that the test looks at; any error ends it with a stack and status 1.
import { createReadStream } from "node:fs";
import Anthropic from "@anthropic-ai/sdk";
import { createOpenAI } from "@ai-sdk/openai";
import { embedMany, generateText, jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";

const base = process.env.BASE_URL;
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: "not-needed", maxRetries: 0 });
const claude = new Anthropic({ baseURL: base, apiKey: "not-needed", maxRetries: 0 });
const provider = createOpenAI({ baseURL: `${base}/v1`, apiKey: "not-needed" });
const found = {};

const schema = {
  type: "object", properties: { deep: { type: "boolean" } }, required: ["deep"], additionalProperties: false,
};
const asked = { model: "gemma-4-e4b", input: "Hello", temperature: 0 };

// openai-node's helper puts the events together and throws where their order is not OpenAI's.
async function streamed(more) {
  const events = [];
  const stream = client.responses.stream({ ...asked, ...more });
  stream.on("event", (event) => events.push(event.type));
  const response = await stream.finalResponse();
  return {
    events, text: response.output_text, status: response.status,
    items: response.output.map((item) => [item.type, item.status]),
    thought: response.output.find((item) => item.type === "reasoning")?.content?.[0]?.text,
    summary: response.output.find((item) => item.type === "reasoning")?.summary?.[0]?.text,
    call: response.output.find((item) => item.type === "function_call")?.arguments,
    input: response.output.find((item) => item.type === "custom_tool_call")?.input,
  };
}
found.plain = await streamed({ reasoning: { effort: "none" } });
found.thinking = await streamed({ enable_thinking: true });
found.summarized = await streamed({ enable_thinking: true, reasoning: { summary: "auto" } });
found.cut = await streamed({ enable_thinking: true, max_output_tokens: 3 });
found.called = await streamed({
  tools: [{ type: "function", name: "look", strict: true, parameters: schema }], tool_choice: "required",
});

const format = { type: "grammar", syntax: "lark", definition: 'start: "go " /[a-z]{2,4}/' };
found.custom = await streamed({ tools: [{ type: "custom", name: "run", format }], tool_choice: "required" });

// The Vercel AI SDK, over both of OpenAI's APIs.
const prompt = "Hello";
for (const [name, model] of [["responses", provider.responses("gemma-4-e4b")], ["chat", provider.chat("gemma-4-e4b")]]) {
  const whole = await generateText({ model, prompt, temperature: 0 });
  const parts = [];
  let text = "";
  const result = streamText({ model, prompt, temperature: 0, onError: ({ error }) => { throw error; } });
  for await (const part of result.fullStream) {
    parts.push(part.type);
    if (part.type === "text-delta") text += part.text;
  }
  const tools = { look: tool({ description: "Looks.", inputSchema: jsonSchema(schema) }) };
  const called = await generateText({ model, prompt, tools, toolChoice: "required", temperature: 0 });
  found[`ai-${name}`] = {
    whole: whole.text, text, parts, finish: whole.finishReason, tokens: whole.usage.outputTokens,
    calls: called.toolCalls.map((call) => [call.toolName, call.input]),
  };
}
const thoughtful = streamText({
  model: provider.responses("gpt-5"), prompt,
  providerOptions: { openai: { reasoningSummary: "auto", reasoningEffort: "high", forceReasoning: true } },
});
found["ai-reasoning"] = { text: await thoughtful.text, reasoning: await thoughtful.reasoningText };

// Anthropic's package: no thinking unless it is asked for.
const turns = [{ role: "user", content: "Hello" }];
const message = await claude.messages.create({ model: "m", max_tokens: 200, messages: turns });
const thought = await claude.messages
  .stream({ model: "m", max_tokens: 2000, messages: turns, thinking: { type: "enabled", budget_tokens: 1024 } })
  .finalMessage();
found.claude = { first: message.content[0].text, kinds: thought.content.map((block) => block.type) };

// One address for everything.
const vectors = await client.embeddings.create({ model: "bge-base-zh", input: ["Text 1", "Text 2"] });
const many = await embedMany({ model: provider.textEmbeddingModel("bge-base-zh"), values: ["Text 1", "Text 2"] });
const sound = createReadStream(process.env.SOUND);
const said = await client.audio.transcriptions.create({ model: "whisper-1", file: sound, language: "en" });
const models = [];
for await (const model of client.models.list()) models.push(model.id);
found.everything = {
  lengths: vectors.data.map((item) => item.embedding.length), many: many.embeddings.map((vector) => vector.length),
  said: said.text, models, any: (await client.models.retrieve("gpt-4o")).id,
};

console.log(JSON.stringify(found));
