// Vercel's AI SDK, with both of its providers. `node vercel.mjs BASE_URL` answers each line of JSON, see told.mjs.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

import { serve } from "./told.mjs";

const settings = { baseURL: process.argv[2], apiKey: "none" };
const models = {
  openai: createOpenAI(settings).chat("any"),
  responses: createOpenAI(settings).responses("any"),
  compatible: createOpenAICompatible({ name: "strandline", ...settings })("any"),
};

await serve(async ({ session_id, text, form, through }) => {
  const request = { model: models[through], prompt: text, headers: { "X-Session-Id": session_id } };
  if (form === "whole") {
    return (await generateText(request)).text;
  }
  let content = "";
  for await (const part of streamText({ ...request, onError: () => {} }).fullStream) {
    if (part.type === "text-delta") content += part.text;
    if (part.type === "error") throw part.error;
  }
  return content;
});
