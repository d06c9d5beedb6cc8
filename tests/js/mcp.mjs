// The official MCP SDK for JavaScript against /mcp and against `batch mcp`; prints what it saw as JSON.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const { MCP_URL, PYTHON, HOME_FOLDER } = process.env;
const transports = {
  http: new StreamableHTTPClientTransport(new URL(MCP_URL)),
  stdio: new StdioClientTransport({
    command: PYTHON,
    args: ["-m", "batch", "mcp", "--home", HOME_FOLDER],
    env: process.env,
  }),
};

const seen = {};
for (const [name, transport] of Object.entries(transports)) {
  const client = new Client({ name: "tests", version: "1" });
  await client.connect(transport);
  const tools = (await client.listTools()).tools.map((tool) => tool.name);
  const search = await client.callTool({ name: "search", arguments: { query: "tomatoes", mode: "text" } });
  const mistake = await client.callTool({ name: "caption", arguments: { path: "../x.png" } });
  seen[name] = { tools, search: search.structuredContent, isError: mistake.isError, says: mistake.content[0].text };
  await client.close();
}
console.log(JSON.stringify(seen));
