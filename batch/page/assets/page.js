"use strict";
// Enhancements only: every page works without this file. Text goes in as text, never as markup.

const said = document.getElementById("said");
let saidAt = 0;
function say(sentence) {
  if (Date.now() - saidAt < 5000) return;
  saidAt = Date.now();
  said.textContent = sentence;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.95) return `${Math.round(1000 * seconds)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  for (const [unit, small, name, smallName] of [[86400, 3600, "d", "h"], [3600, 60, "h", "min"], [60, 1, "min", "s"]]) {
    if (whole >= unit) {
      const rest = Math.floor((whole % unit) / small);
      return rest ? `${Math.floor(whole / unit)} ${name} ${rest} ${smallName}` : `${Math.floor(whole / unit)} ${name}`;
    }
  }
  return `${whole} s`;
}

// What another's file is called may turn the text around it: such characters are shown as their codes.
function name(text) {
  return Array.from(String(text).slice(0, 80), (c) =>
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u.test(c) ? `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}` : c).join("");
}

const shapes = {
  duration,
  running: (job) => {
    if (!job) return "idle";
    const share = job.progress && job.progress.total ? ` ${Math.round((100 * job.progress.done) / job.progress.total)} %` : "";
    return name(job.source || job.task) + share;
  },
};

function show(place, value) {
  const shape = shapes[place.dataset.as];
  const text = shape ? shape(value) : String(value ?? "");
  if (place.textContent !== text) place.textContent = text;
}

// A worker that is not among the first any more keeps what was last known of it, until the page is loaded anew.
function showRow(row, values) {
  if (!values) return;
  for (const place of row.querySelectorAll("[data-part]")) show(place, values[place.dataset.part]);
  const badge = row.querySelector(".badge");
  if (badge) badge.className = `badge ${{ ready: "done", failed: "failed", silent: "failed" }[values.state] || "queued"}`;
}

function showStatus(status) {
  for (const place of document.querySelectorAll("[data-live]")) {
    show(place, place.dataset.live.split(".").reduce((part, key) => (part ? part[key] : undefined), status));
  }
  if (status.nodes) {
    const workers = new Map(status.nodes.first.map((node) => [node.id, node]));
    for (const row of document.querySelectorAll("[data-node]")) showRow(row, workers.get(row.dataset.node));
    for (const row of document.querySelectorAll("[data-queue]")) showRow(row, status.nodes.queues[row.dataset.queue]);
  }
  for (const place of document.querySelectorAll("[data-job]")) {
    const state = status.ended[place.dataset.job];
    if (state && ["done", "failed", "cancelled"].includes(state)) {
      place.textContent = state;
      place.className = `badge ${state}`;
      say(`A job is ${state}.`);
    }
  }
}

if (document.querySelector("[data-watch], [data-job]")) {
  const events = new EventSource("/page/events");
  events.addEventListener("status", (event) => showStatus(JSON.parse(event.data)));
  events.addEventListener("error", () => {
    // Too many pages watch: this one is loaded anew from time to time, unless somebody is filling in a form.
    if (events.readyState === EventSource.CLOSED && document.body.dataset.page === "status") {
      setTimeout(() => location.reload(), 10000);
    }
  });
  addEventListener("pagehide", () => events.close());
}

// -- the player and its transcript

const player = document.getElementById("player");
const segments = Array.from(document.querySelectorAll(".segments a"));
if (player && segments.length) {
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let follows = true;
  for (const kind of ["wheel", "touchmove"]) addEventListener(kind, () => { follows = false; }, { passive: true });
  addEventListener("keydown", (event) => { if (["PageUp", "PageDown", "Home", "End", "ArrowUp", "ArrowDown"].includes(event.key)) follows = false; });
  for (const link of segments) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      follows = true;
      player.currentTime = Number(link.dataset.start);
      player.play().catch(() => {});
      history.replaceState(null, "", link.href);
      mark();
    });
  }
  let current = segments.find((link) => link.hasAttribute("aria-current")) || null;
  function mark() {
    const now = player.currentTime + 0.05;
    let next = null;
    for (const link of segments) if (Number(link.dataset.start) <= now) next = link;
    if (next === current) return;
    if (current) current.removeAttribute("aria-current");
    if (next) {
      next.setAttribute("aria-current", "true");
      if (follows && !still.matches && !player.paused) next.scrollIntoView({ block: "nearest" });
    }
    current = next;
  }
  player.addEventListener("timeupdate", mark);
  player.addEventListener("seeked", mark);
}

// -- lists

for (const form of document.querySelectorAll("[data-chooser]")) {
  const boxes = Array.from(form.querySelectorAll("tbody input[type=checkbox]"));
  const head = form.querySelector("thead th");
  if (!boxes.length || !head) continue;
  const all = document.createElement("input");
  all.type = "checkbox";
  all.setAttribute("aria-label", "Choose all of this page");
  all.addEventListener("change", () => { for (const box of boxes) box.checked = all.checked; });
  head.replaceChildren(all);
}

// -- files

const drop = document.getElementById("drop");
if (drop) {
  const chosen = document.getElementById("chosen");
  const progress = document.getElementById("progress");
  const folder = document.getElementById("folder");
  chosen.multiple = true;
  async function send(files) {
    const list = Array.from(files);
    let sent = 0;
    for (const file of list) {
      progress.textContent = `Sending ${sent + 1} of ${list.length}: ${name(file.name)}`;
      const query = new URLSearchParams({ name: file.name, folder: folder.value });
      const answer = await fetch(`/page/files?${query}`, {
        method: "POST", body: file, headers: { "Content-Type": "application/octet-stream", Accept: "application/json" },
      });
      if (!answer.ok) {
        const body = await answer.json().catch(() => null);
        progress.textContent = `${name(file.name)}: ${body && body.error ? body.error.message : `status ${answer.status}`}`;
        progress.className = "problem";
        return;
      }
      sent += 1;
    }
    location.assign(`/page/files?notice=uploaded&n=${sent}`);
  }
  drop.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    send(chosen.files).catch(() => { progress.textContent = "The service does not answer."; progress.className = "problem"; });
  });
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    send(event.dataTransfer.files).catch(() => { progress.textContent = "The service does not answer."; progress.className = "problem"; });
  });
}
