/** Markdown as elements. HTML in it is text, and images are links, so that nothing is loaded or run. */
import { type Token, type Tokens, lexer } from "marked";
import { Fragment, type ComponentChildren, type JSX } from "preact";
import { useMemo } from "preact/hooks";

const MOST = 20_000; // longer texts are shown as they are
const DEEPEST = 16;
const SAFE = /^(https?:|mailto:)/i;

export function Markdown({ text }: { text: string }): JSX.Element {
  const content = useMemo(() => parsed(text), [text]);
  return content === null ? <p class="plain">{text}</p> : <div class="markdown">{content}</div>;
}

function parsed(text: string): ComponentChildren {
  if (text.length > MOST) return null;
  try {
    return blocks(lexer(text, { gfm: true, breaks: true }), 0);
  } catch {
    return null; // nested too deeply
  }
}

const blocks = (tokens: Token[], depth: number): ComponentChildren => tokens.map((token, index) => <Fragment key={index}>{shown(token, depth)}</Fragment>);

function shown(token: Token, depth: number): ComponentChildren {
  if (depth > DEEPEST) return token.raw;
  const inside = (): ComponentChildren => ("tokens" in token && token.tokens ? blocks(token.tokens, depth + 1) : "text" in token ? token.text : token.raw);
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "paragraph":
      return <p>{inside()}</p>;
    case "heading":
      return <p class={`heading h${token["depth"]}`}>{inside()}</p>;
    case "code":
      return (
        <pre tabIndex={0}>
          <code>{token["text"]}</code>
        </pre>
      );
    case "codespan":
      return <code>{token["text"]}</code>;
    case "strong":
      return <strong>{inside()}</strong>;
    case "em":
      return <em>{inside()}</em>;
    case "del":
      return <del>{inside()}</del>;
    case "br":
      return <br />;
    case "hr":
      return <hr />;
    case "blockquote":
      return <blockquote>{inside()}</blockquote>;
    case "list": {
      const list = token as Tokens.List;
      const items = list.items.map((item, index) => (
        <li key={index}>
          {item.task && (item.checked ? "☑ " : "☐ ")}
          {blocks(item.tokens, depth + 1)}
        </li>
      ));
      return list.ordered ? <ol start={Number(list.start) || 1}>{items}</ol> : <ul>{items}</ul>;
    }
    case "table": {
      const table = token as Tokens.Table;
      const cells = (row: Tokens.TableCell[], Cell: "td" | "th"): JSX.Element[] => row.map((cell, index) => <Cell key={index}>{blocks(cell.tokens, depth + 1)}</Cell>);
      return (
        <div class="scrolls" tabIndex={0}>
          <table>
            <thead>
              <tr>{cells(table.header, "th")}</tr>
            </thead>
            <tbody>
              {table.rows.map((row, index) => (
                <tr key={index}>{cells(row, "td")}</tr>
              ))}
            </tbody>
          </table>
        </div>
      );
    }
    case "link":
    case "image": {
      const { href } = token as Tokens.Link;
      if (!SAFE.test(href)) return token.raw;
      return (
        <a href={href} target="_blank" rel="noopener noreferrer nofollow">
          {token.type === "image" ? `image: ${token["text"] || href}` : inside()}
        </a>
      );
    }
    case "text":
    case "escape":
      return inside();
    default:
      return token.raw; // HTML, as it was written
  }
}
