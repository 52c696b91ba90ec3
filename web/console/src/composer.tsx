/** Where people write to a session. */
import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import { call, sessionPath, upload } from "./api";
import type { ApiRun } from "./shapes";
import { Icon, act } from "./ui";

const AT_ONCE = 5;
const IF_BUSY: [string, string][] = [
  ["", "wait its turn"],
  ["steer", "join the run that executes"],
  ["collect", "join the next turn"],
  ["interrupt", "end the run that executes"],
  ["rollback", "undo the run that executes"],
  ["reject", "be refused"],
];

/** What this page has sent, by run: lists of runs have no inputs. */
export const sent = new Map<string, string>();

export function Composer({ session, onSent }: { session: string; onSent: () => void }): JSX.Element {
  const [text, setText] = useState("");
  const [ifBusy, setIfBusy] = useState("");
  const [priority, setPriority] = useState("");
  const [files, setFiles] = useState<File[]>([]);
  const [isSending, setSending] = useState(false);
  const picker = useRef<HTMLInputElement>(null);

  const post = async (said: string): Promise<void> => {
    const held = await Promise.all(
      files.map((file) => upload<{ file_id: string }>(`${sessionPath(session)}/files?name=${encodeURIComponent(file.name)}`, file)),
    );
    const input = held.length ? [{ text: said }, ...held.map((each) => ({ file: each.file_id }))] : said;
    const options = { ...(ifBusy && { if_busy: ifBusy }), ...(priority && { priority: Number(priority) }) };
    const headers = { "Idempotency-Key": crypto.getRandomValues(new Uint32Array(4)).join("-") };
    const run = await call<ApiRun>("POST", `${sessionPath(session)}/runs`, { input, ...options }, { headers });
    sent.set(run.run_id, said);
  };
  const send = async (texts: string[]): Promise<void> => {
    if (!text.trim() || isSending) return;
    setSending(true);
    if (await act(() => Promise.all(texts.map(post)))) {
      setText("");
      setFiles([]);
    }
    setSending(false);
    onSent();
  };
  const five = (): string[] => Array.from({ length: AT_ONCE }, (_, number) => `${text} (${number + 1} of ${AT_ONCE})`);
  return (
    <form
      class="composer card"
      aria-label="Write to the session"
      onSubmit={(event) => {
        event.preventDefault();
        void send([text]);
      }}
    >
      <textarea
        rows={2}
        aria-label="Message"
        placeholder="Message"
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          void send([text]);
        }}
      />
      {files.length > 0 && <p class="held">{files.map((file) => file.name).join(", ")}</p>}
      <div class="options">
        <label>
          If the session is busy
          <select value={ifBusy} onChange={(event) => setIfBusy(event.currentTarget.value)}>
            {IF_BUSY.map(([value, name]) => (
              <option key={value} value={value}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <label>
          Priority
          <select value={priority} onChange={(event) => setPriority(event.currentTarget.value)}>
            <option value="">usual</option>
            {[1, 2, 3, 4, 5].map((each) => (
              <option key={each} value={each}>
                {each}
              </option>
            ))}
          </select>
        </label>
        <input ref={picker} type="file" multiple hidden onChange={(event) => setFiles([...(event.currentTarget.files ?? [])])} />
        <button class="quiet" type="button" onClick={() => picker.current?.click()}>
          Files
        </button>
        <button type="button" disabled={!text.trim() || isSending} onClick={() => void send(five())}>
          Send {AT_ONCE} at once
        </button>
        <button class="primary" type="submit" disabled={!text.trim() || isSending}>
          <Icon name="send" /> Send
        </button>
      </div>
    </form>
  );
}
