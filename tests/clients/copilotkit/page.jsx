// A page with CopilotKit's chat, which shows tools, asks what an agent asks a person, and has a tool of its own.
import { CopilotChat, CopilotKit, useDefaultRenderTool, useFrontendTool, useInterrupt } from "@copilotkit/react-core/v2";
import "@copilotkit/react-core/v2/styles.css";
import { createRoot } from "react-dom/client";
import { z } from "zod";

function Chat() {
  useDefaultRenderTool();
  useFrontendTool({
    name: "paint",
    description: "Paint the page.",
    parameters: z.object({ color: z.string() }),
    handler: async ({ color }) => {
      document.title = `painted ${color}`;
      return document.title;
    },
  });
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
