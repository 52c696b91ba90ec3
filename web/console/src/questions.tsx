/** What agents ask people: in one session, and in all. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { call, sessionPath } from "./api";
import { live } from "./live";
import type { InputRequest } from "./shapes";
import { act, sessionLink, useLive } from "./ui";

export function Asked({ session, requests, onChange }: { session: string; requests: InputRequest[]; onChange: () => void }): JSX.Element {
  const [answers, setAnswers] = useState<Record<string, string>>({});
  const send = async (given: Record<string, string>): Promise<void> => {
    const responses = requests.map((each) => ({ id: each.id, response: given[each.id] ?? "" }));
    await act(() => call("POST", `${sessionPath(session)}/runs`, { input: { responses } }), "Answered");
    onChange();
  };
  const say = (id: string, answer: string): void => {
    const given = { ...answers, [id]: answer };
    setAnswers(given);
    if (requests.length === 1) void send(given);
  };
  const missing = requests.some((each) => !answers[each.id]);
  return (
    <form
      class="card asked"
      aria-label={`What ${session} asks`}
      onSubmit={(event) => {
        event.preventDefault();
        if (!missing) void send(answers);
      }}
    >
      {requests.map((each) => (
        <fieldset key={each.id}>
          <legend>
            <code>{each.name}</code>
          </legend>
          <p class="plain">{typeof each.reason === "string" ? each.reason : JSON.stringify(each.reason, null, 2)}</p>
          <div class="answers">
            <button type="button" aria-pressed={answers[each.id] === "yes"} onClick={() => say(each.id, "yes")}>
              Yes
            </button>
            <button type="button" aria-pressed={answers[each.id] === "no"} onClick={() => say(each.id, "no")}>
              No
            </button>
            <input
              aria-label={`Answer to ${each.name}`}
              placeholder="or an answer as text"
              value={answers[each.id] ?? ""}
              onInput={(event) => setAnswers({ ...answers, [each.id]: event.currentTarget.value })}
            />
          </div>
        </fieldset>
      ))}
      <button class="primary" type="submit" disabled={missing}>
        Answer
      </button>
    </form>
  );
}

/** The view *Questions*: all that are open. */
export function Questions(): JSX.Element {
  useLive();
  const asking = live.lines.asking();
  return (
    <>
      <header class="head">
        <h1>Questions</h1>
      </header>
      {!asking.length && <p class="nothing">No agent asks anything at the moment.</p>}
      {asking.map((line) => (
        <section key={line.id} aria-label={line.id}>
          <h2 class="above">
            <a href={sessionLink(line.id)}>{line.id}</a>
          </h2>
          <Asked session={line.id} requests={line.asks} onChange={() => void live.again(line.id)} />
        </section>
      ))}
    </>
  );
}
