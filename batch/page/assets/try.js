"use strict";
// The playground with scripts: the answer comes word by word from the public routes, and nothing is kept.

const form = document.getElementById("try");
const output = document.getElementById("output");
const line = document.getElementById("line");
let running = null;

function quoted(text) { return `'${text.replaceAll("'", "'\\''")}'`; }

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(file);
  });
}

async function request() {
  const trial = form.elements.trial.value;
  const prompt = form.elements.prompt.value;
  const file = form.elements.file.files[0];
  if (trial === "transcribe") {
    if (!file) throw new Error("No recording was chosen.");
    const body = new FormData();
    body.append("file", file);
    body.append("stream", "true");
    return { path: "/v1/audio/transcriptions", body, headers: {} };
  }
  if (!prompt.trim()) throw new Error("There is no text to send.");
  const headers = { "Content-Type": "application/json" };
  if (trial === "embed") return { path: "/v1/embeddings", body: JSON.stringify({ input: prompt }), headers };
  const content = [{ type: "text", text: prompt }];
  if (file) content.unshift({ type: "image_url", image_url: { url: await dataUrl(file) } });
  const body = { messages: [{ role: "user", content }], stream: true, max_tokens: 1000 };
  return { path: "/v1/chat/completions", body: JSON.stringify(body), headers };
}

function showLine() {
  const trial = form.elements.trial.value;
  const prompt = form.elements.prompt.value || "Hello";
  const file = form.elements.file.files[0];
  const base = location.origin;
  const json = `-H 'Content-Type: application/json'`;
  if (trial === "transcribe") {
    line.textContent = `curl ${base}/v1/audio/transcriptions -F ${quoted(`file=@${file ? file.name : "recording.wav"}`)}`;
  } else if (trial === "embed") {
    line.textContent = `curl ${base}/v1/embeddings ${json} \\\n  -d ${quoted(JSON.stringify({ input: prompt }))}`;
  } else if (file) {
    const body = JSON.stringify({ messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "data:;base64,@" } }, { type: "text", text: prompt }] }] });
    const [before, after] = body.split("@");
    line.textContent = `(printf '%s' ${quoted(before)}; base64 -w0 ${quoted(file.name)}; printf '%s' ${quoted(after)}) | \\\n  curl ${base}/v1/chat/completions ${json} -d @-`;
  } else {
    line.textContent = `curl ${base}/v1/chat/completions ${json} \\\n  -d ${quoted(JSON.stringify({ messages: [{ role: "user", content: prompt }] }))}`;
  }
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const one of lines) {
      if (one.startsWith("data: ") && one !== "data: [DONE]") yield JSON.parse(one.slice(6));
    }
  }
}

function piece(event) {
  if (event.error) throw new Error(event.error.message || String(event.error));
  if (event.choices) return event.choices[0]?.delta?.content || "";
  return event.type === "transcript.text.delta" ? event.delta : "";
}

form.addEventListener("input", showLine);
form.addEventListener("submit", async (submission) => {
  submission.preventDefault();
  if (running) running.abort();
  const mine = running = new AbortController();
  output.className = "text";
  output.textContent = "";
  output.setAttribute("aria-busy", "true");
  try {
    const { path, body, headers } = await request();
    const answer = await fetch(path, { method: "POST", body, headers, signal: mine.signal });
    if (!answer.ok) {
      const problem = await answer.json().catch(() => null);
      throw new Error(problem?.error?.message || problem?.error || `status ${answer.status}`);
    }
    if ((answer.headers.get("content-type") || "").startsWith("text/event-stream")) {
      for await (const event of events(answer)) output.append(piece(event));
    } else {
      const result = await answer.json();
      const vector = result.data?.[0]?.embedding;
      output.textContent = vector
        ? `${vector.length} dimensions: ${vector.slice(0, 8).map((n) => n.toFixed(4)).join(", ")} …`
        : result.text ?? JSON.stringify(result);
    }
    document.getElementById("said").textContent = "The answer is there.";
  } catch (error) {
    if (error.name === "AbortError") return;
    output.className = "problem";
    output.textContent = error.message;
    document.getElementById("said").textContent = `It failed: ${error.message}`;
  } finally {
    if (running === mine) { running = null; output.removeAttribute("aria-busy"); }
  }
});
showLine();
