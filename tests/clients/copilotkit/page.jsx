// A page with CopilotKit's chat, which shows tools and asks what an agent asks a person.
import { CopilotChat, CopilotKit, useDefaultRenderTool, useInterrupt } from "@copilotkit/react-core/v2";
import "@copilotkit/react-core/v2/styles.css";
import { createRoot } from "react-dom/client";

function Chat() {
  useDefaultRenderTool();
  useInterrupt({
    render: ({ interrupt, resolve, cancel }) => (
      <p>
        <span id="asked">{interrupt.message}</span>
        <button id="yes" onClick={() => resolve("yes")}>Yes</button>
        <button id="cancel" onClick={() => cancel()}>Cancel</button>
      </p>
    ),
  });
  return (
    <div style={{ height: "100vh" }}>
      <CopilotChat threadId="ada" />
    </div>
  );
}

createRoot(document.getElementById("root")).render(
  <CopilotKit runtimeUrl="/api/copilotkit" useSingleEndpoint={false}>
    <Chat />
  </CopilotKit>,
);
