import { render } from "preact";
import { App } from "./app";
import "./style.css";

const place = document.getElementById("app")!;
place.replaceChildren();
render(<App />, place);
