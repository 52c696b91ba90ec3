/** The page: its frame, the key, and which view is open. */
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Refused, hasKey, health, read, setKey, whenKeyIsRefused } from "./api";
import { live } from "./live";
import { Now } from "./now";
import { Operations } from "./operations";
import { Questions } from "./questions";
import { RunView } from "./run";
import { SessionView } from "./session";
import type { Health } from "./shapes";
import { Icon, Told, useLive } from "./ui";

type Gate = "opening" | "key" | "open" | "unreachable";

export function App(): JSX.Element {
  const [gate, setGate] = useState<Gate>("opening");
  const [problem, setProblem] = useState("");

  const ask = (why: string): void => {
    live.stop();
    setKey(null);
    setProblem(why);
    setGate("key");
  };
  const open = (): void => {
    setGate("open");
    live.start();
  };
  const begin = async (): Promise<void> => {
    try {
      const { state } = await health<Health>();
      live.health = state;
      if (state.auth === "keys" && !hasKey()) setGate("key");
      else open();
    } catch {
      setGate("unreachable");
      setTimeout(() => void begin(), 1_000);
    }
  };
  useEffect(() => {
    whenKeyIsRefused(() => ask("This key is not valid any more."));
    void begin();
  }, []);

  const tried = async (key: string): Promise<void> => {
    setKey(key);
    whenKeyIsRefused(() => {});
    try {
      await read("v1/sessions?limit=1");
      whenKeyIsRefused(() => ask("This key is not valid any more."));
      open();
    } catch (error) {
      ask(error instanceof Refused ? error.message : "No connection to the server.");
    }
  };

  if (gate === "key") return <KeyForm problem={problem} onKey={tried} />;
  if (gate === "open") return <Frame onForget={() => ask("")} />;
  return <p class="opening">{gate === "opening" ? "" : "The server does not answer. Trying again…"}</p>;
}

function KeyForm({ problem, onKey }: { problem: string; onKey: (key: string) => Promise<void> }): JSX.Element {
  const [isTrying, setTrying] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  const send = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault();
    const key = field.current!.value.trim();
    if (!key) return;
    setTrying(true);
    await onKey(key);
    setTrying(false);
    field.current?.select();
  };
  useEffect(() => field.current?.focus(), []);
  return (
    <main class="gate">
      <form onSubmit={(event) => void send(event)}>
        <Mark />
        <h1>Strandline</h1>
        <p>This server requires an API key. The page keeps it for this tab, and sends it to this server only.</p>
        <label for="key">API key</label>
        <input id="key" ref={field} type="password" autocomplete="off" spellcheck={false} aria-describedby="problem" />
        <p id="problem" class="problem" role="alert">
          {problem}
        </p>
        <button class="primary" type="submit" disabled={isTrying}>
          Open the console
        </button>
      </form>
    </main>
  );
}

const Mark = (): JSX.Element => (
  <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
    <path d="M4 8h12M16 16h12M8 24h14" />
    <path class="thin" d="M4 16h7" />
  </svg>
);

/** The part of the address behind `#`, decoded. */
function opened(): string[] {
  return location.hash
    .replace(/^#\/?/, "")
    .split("/")
    .map((each) => {
      try {
        return decodeURIComponent(each);
      } catch {
        return each;
      }
    });
}

function Frame({ onForget }: { onForget: () => void }): JSX.Element {
  useLive();
  const [path, setPath] = useState(opened);
  useEffect(() => {
    const moved = (): void => {
      setPath(opened());
      scrollTo(0, 0);
    };
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  const [view, id] = path;
  const asks = live.lines.asking().length;
  const name = live.health?.agent_id ?? "Strandline";
  useEffect(() => {
    document.title = id ? `${id} – ${name}` : name;
  }, [id, name]);
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.getElementById("main")?.focus())}>
        To the content
      </a>
      <header class="bar">
        <a class="brand" href="#/" aria-label="Strandline">
          <Mark />
          <b>{name}</b>
        </a>
        <nav aria-label="Views">
          <a href="#/" aria-current={!view ? "page" : undefined}>
            Now
          </a>
          <a href="#/questions" aria-current={view === "questions" ? "page" : undefined}>
            Questions
            {asks > 0 && <sup>{asks}</sup>}
          </a>
          <a href="#/operations" aria-current={view === "operations" ? "page" : undefined}>
            Operations
          </a>
        </nav>
        <Link />
        {hasKey() && (
          <button class="quiet" type="button" onClick={onForget} title="Forget the key of this tab">
            <Icon name="key" />
            <span>{live.isOperator ? "operator" : "key"}</span>
          </button>
        )}
      </header>
      {live.connection === "lost" && (
        <p class="lost" role="alert">
          The connection to the server is lost. What you see is how it was; it is tried again.
        </p>
      )}
      <main id="main" tabIndex={-1} class={live.connection === "lost" ? "stale" : ""}>
        <View view={view} id={id} />
      </main>
      <Told />
    </>
  );
}

function View({ view, id }: { view: string | undefined; id: string | undefined }): JSX.Element {
  if (view === "sessions" && id) return <SessionView key={id} id={id} />;
  if (view === "runs" && id) return <RunView key={id} id={id} />;
  if (view === "questions") return <Questions />;
  if (view === "operations") return <Operations />;
  return <Now />;
}

function Link(): JSX.Element {
  const { connection, health: state } = live;
  const text = { opening: "connecting", open: state?.ready === false ? "not ready" : "live", lost: "no connection" }[connection];
  return (
    <span class={`link ${connection} ${state?.ready === false ? "unready" : ""}`}>
      <i />
      {text}
    </span>
  );
}
