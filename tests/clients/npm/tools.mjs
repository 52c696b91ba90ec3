// Tools and objects of Vercel's AI SDK. `node tools.mjs BASE_URL` answers each line of JSON.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";

import { serve } from "./told.mjs";

const settings = { baseURL: process.argv[2], apiKey: "none" };
const models = {
  openai: createOpenAI(settings).chat("any"),
  responses: createOpenAI(settings)("any"),
  compatible: createOpenAICompatible({ name: "strandline", supportsStructuredOutputs: true, ...settings })("any"),
};
const schema = (properties) =>
  jsonSchema({ type: "object", properties, required: Object.keys(properties), additionalProperties: false });
const weather = tool({
  description: "The weather in a city.",
  inputSchema: schema({ city: { type: "string" } }),
  execute: async ({ city }) => `sunny in ${city}`,
});

await serve(async ({ session_id, text, form, through }) => {
  const request = { model: models[through], prompt: text, headers: { "X-Session-Id": session_id } };
  if (form === "object") {
    const wanted = schema({ a: { type: "integer" }, b: { type: "array", items: { type: "string" } } });
    return JSON.stringify((await generateObject({ ...request, schema: wanted })).object);
  }
  const loop = { ...request, tools: { weather }, stopWhen: stepCountIs(5) };
  if (form === "whole") return (await generateText(loop)).text;
  return await streamText(loop).text;
});
