// CopilotKit's runtime with a page. `node server.mjs FOLDER` prints its port; `FOLDER/runtime.mjs` has its handler, and
// `FOLDER/dist` the page, built by esbuild of `page.jsx`.
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";

const folder = process.argv[2];
const { handler } = await import(`${folder}/runtime.mjs`);
const TYPES = { html: "text/html", css: "text/css", js: "text/javascript" };
const INDEX = '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="page.css"><div id="root"></div><script type="module" src="page.js"></script>';

async function answer(request, response) {
  const { pathname } = new URL(request.url, "http://here");
  if (!pathname.startsWith("/api/copilotkit")) {
    const file = `${folder}/dist${pathname}`;
    if (pathname !== "/" && !existsSync(file)) return response.writeHead(404).end();
    response.writeHead(200, { "content-type": TYPES[pathname.split(".").pop()] ?? "text/html" });
    return response.end(pathname === "/" ? INDEX : readFileSync(file));
  }
  const sent = [];
  for await (const chunk of request) sent.push(chunk);
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  const answered = await handler(
    new Request(`http://${request.headers.host}${request.url}`, {
      method: request.method,
      headers: request.headers,
      body: sent.length ? Buffer.concat(sent) : undefined,
      signal: gone.signal,
    }),
  );
  response.writeHead(answered.status, Object.fromEntries(answered.headers));
  if (answered.body) for await (const chunk of answered.body) response.write(chunk);
  response.end();
}

const server = createServer((request, response) => answer(request, response).catch(() => response.destroy()));
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
