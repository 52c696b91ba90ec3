import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = process.env.CONSOLE_OUT ?? fileURLToPath(new URL("../../src/strandline/_console", import.meta.url));

/** Names each file of the page with the digest of its content, so that browsers may keep it for good. */
const versions = {
  name: "versions",
  closeBundle() {
    const page = join(folder, "index.html");
    const named = readFileSync(page, "utf8")
      .replaceAll(" crossorigin", "")
      .replace(/"\.\/([\w-]+\.(?:js|css|svg))"/g, (_, name) => {
        const digest = createHash("sha256").update(readFileSync(join(folder, name))).digest("hex");
        return `"console/${name}?v=${digest.slice(0, 16)}"`;
      });
    writeFileSync(page, named);
  },
};

export default {
  base: "./",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: folder,
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    cssCodeSplit: false,
    assetsInlineLimit: 0,
    rollupOptions: {
      output: { entryFileNames: "console.js", assetFileNames: "console[extname]", codeSplitting: false },
    },
  },
  plugins: [versions],
};
