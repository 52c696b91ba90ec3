// OpenAI's own client. `node openai.mjs BASE_URL` answers each line of JSON that it reads, see told.mjs.
import OpenAI from "openai";

import { serve } from "./told.mjs";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none" });

async function completion({ session_id, text, form }) {
  const request = { model: "any", messages: [{ role: "user", content: text }] };
  const options = { headers: { "X-Session-Id": session_id } };
  if (form === "whole") {
    return (await client.chat.completions.create(request, options)).choices[0].message.content;
  }
  let content = "";
  for await (const chunk of await client.chat.completions.create({ ...request, stream: true }, options)) {
    content += chunk.choices[0]?.delta.content ?? "";
  }
  return content;
}

async function response({ session_id, text, form }) {
  const request = { model: "any", input: text, conversation: session_id };
  if (form === "whole") {
    const said = await client.responses.create(request);
    if (said.error) throw said.error;
    return said.output_text;
  }
  let content = "";
  for await (const event of client.responses.stream(request)) {
    if (event.type === "response.output_text.delta") content += event.delta;
    if (event.type === "response.failed") throw event.response.error;
  }
  return content;
}

await serve((request) => (request.through === "responses" ? response(request) : completion(request)));
