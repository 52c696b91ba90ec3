// AG-UI's own client. `node agui.mjs URL` keeps an agent for each thread, and answers each line of JSON that it reads,
// `{thread_id, text, results, run_id, resume, tools, options, forget}`, by one: `{messages, state, events, customs, interrupts, error, status}`.
import { createInterface } from "node:readline";

import { HttpAgent } from "@ag-ui/client";

console.error = () => {}; // (it prints what it also throws)
process.on("unhandledRejection", () => {}); // (it also cancels a reader whose connection has broken)
const agents = new Map();

async function ask({ thread_id, text, results, run_id, resume, tools, options, forget }) {
  if (forget || !agents.has(thread_id)) {
    agents.set(thread_id, new HttpAgent({ url: process.argv[2], threadId: thread_id }));
  }
  const agent = agents.get(thread_id);
  if (text !== undefined) {
    agent.addMessage({ id: `mine-${agent.messages.length}`, role: "user", content: text });
  }
  for (const result of results ?? []) {
    agent.addMessage({ id: `mine-${agent.messages.length}`, role: "tool", ...result });
  }
  const events = [];
  const customs = [];
  let outcome = null;
  let failed = {};
  try {
    await agent.runAgent(
      { runId: run_id, resume, tools, forwardedProps: { strandline: options ?? null } },
      {
        onEvent: ({ event }) => void events.push(event.type),
        onCustomEvent: ({ event }) => void customs.push([event.name, event.value]),
        onRunFinishedEvent: (params) => void (outcome = params.event.outcome),
        onRunErrorEvent: ({ event }) => void (failed = { error: event.message, code: event.code }),
      },
    );
  } catch (error) {
    failed = { error: String(error.message), status: error.status ?? null, code: error.payload?.code ?? null };
  }
  return { messages: agent.messages, state: agent.state, events, customs, outcome, ...failed };
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await ask(JSON.parse(line))));
}
