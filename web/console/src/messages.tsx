/** Messages of a conversation: text as Markdown, tools folded with what they have answered. */
import type { JSX } from "preact";
import { Markdown } from "./markdown";
import type { ApiMessage, Block } from "./shapes";
import { runLink } from "./ui";

export interface Shown extends ApiMessage {
  index?: number;
  run_id?: string | null;
  sender?: { id: string; name?: string | null } | null;
  superseded?: boolean;
  discarded?: boolean;
}

interface ToolUse {
  toolUseId: string;
  name: string;
  input: unknown;
}

interface ToolResult {
  toolUseId: string;
  status?: string;
  content?: Block[];
}

const MOST_SHOWN = 20_000; // characters of arguments and results

export function Messages({ messages, executing }: { messages: Shown[]; executing?: boolean }): JSX.Element {
  const results = new Map<string, ToolResult>();
  for (const message of messages) {
    for (const block of message.content) {
      const result = block["toolResult"] as ToolResult | undefined;
      if (result) results.set(result.toolUseId, result);
    }
  }
  return (
    <>
      {messages.map((message, place) => {
        const blocks = message.content.filter((block) => !("toolResult" in block));
        if (!blocks.length) return null;
        return (
          <article key={message.index ?? `live-${place}`} class={`message ${message.role} ${message.superseded || message.discarded ? "gone" : ""}`}>
            <header>
              <b>{message.role === "user" ? (message.sender?.name ?? message.sender?.id ?? "You") : "Agent"}</b>
              {message.run_id && <a href={runLink(message.run_id)}>run</a>}
            </header>
            {blocks.map((block, index) => (
              <BlockView key={index} block={block} results={results} executing={executing ?? false} />
            ))}
          </article>
        );
      })}
    </>
  );
}

function BlockView({ block, results, executing }: { block: Block; results: Map<string, ToolResult>; executing: boolean }): JSX.Element {
  if (typeof block["text"] === "string") return <Markdown text={block["text"]} />;
  const tool = block["toolUse"] as ToolUse | undefined;
  if (tool) {
    const result = results.get(tool.toolUseId);
    const state = result ? (result.status === "error" ? "failed" : "done") : executing ? "executes" : "no result";
    return (
      <details class={`tool ${state}`}>
        <summary>
          <code>{tool.name}</code>
          <span>{state}</span>
        </summary>
        <h4>Arguments</h4>
        <pre tabIndex={0}>{cut(JSON.stringify(tool.input, null, 2))}</pre>
        {result && <h4>Result</h4>}
        {result && <pre tabIndex={0}>{cut((result.content ?? []).map(textOf).join("\n"))}</pre>}
      </details>
    );
  }
  const [kind] = Object.keys(block);
  const reasoning = (block["reasoningContent"] as { reasoningText?: { text?: string } } | undefined)?.reasoningText?.text;
  if (reasoning) {
    return (
      <details class="tool">
        <summary>Reasoning</summary>
        <p class="plain">{reasoning}</p>
      </details>
    );
  }
  const held = block[kind!] as { format?: string; name?: string } | string | undefined;
  const about = typeof held === "string" ? held : [held?.name, held?.format].filter(Boolean).join(", ");
  return (
    <p class="held">
      {kind} {about && <code>{about}</code>}
    </p>
  );
}

function textOf(block: Block): string {
  return typeof block["text"] === "string" ? block["text"] : JSON.stringify(block["json"] ?? block, null, 2);
}

const cut = (text: string): string => (text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}\n… ${text.length - MOST_SHOWN} more characters` : text);
