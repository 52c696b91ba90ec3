// Reads requests, `{session_id, text, form: "whole" | "stream", through}` a line, and writes what came of each as
// a line: `{text}`, or `{status, error}`.
import { createInterface } from "node:readline";

export async function serve(ask) {
  for await (const line of createInterface({ input: process.stdin })) {
    let said;
    try {
      said = { text: await ask(JSON.parse(line)) };
    } catch (error) {
      const cause = error.lastError ?? error; // ("ai" wraps what it has tried too often)
      said = { status: cause.status ?? cause.statusCode ?? null, error: String(cause.message) };
    }
    console.log(JSON.stringify(said));
  }
}
