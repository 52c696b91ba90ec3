// Browsers start no workers from files. Where this site is opened as one, search runs in a hidden frame instead.
// The theme looks for the name IFrameWorker, and talks to it as to a Worker.
if (location.protocol === "file:") {
  class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = null;
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;
      const page = frame.contentDocument;
      page.open();
      page.write("<!doctype html><html><head></head><body></body></html>");
      page.close();
      this.inside.postMessage = (data) => this.deliver(this, data);
      this.inside.importScripts = (...urls) =>
        urls.reduce((before, each) => before.then(() => this.load(page, each)), Promise.resolve());
      this.load(page, url).then(() => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.postMessage(data));
      });
    }
    load(page, url) {
      return new Promise((loaded, failed) => {
        const script = page.createElement("script");
        script.src = new URL(url, location.href).href;
        script.onload = loaded;
        script.onerror = failed;
        page.body.append(script);
      });
    }
    deliver(target, data) {
      setTimeout(() => {
        const event = new MessageEvent("message", { data: data });
        if (target.onmessage) target.onmessage(event);
        target.dispatchEvent(event);
      });
    }
    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.deliver(this.inside, data);
    }
    terminate() {}
  }
  window.IFrameWorker = IFrameWorker;
  window.Worker = IFrameWorker;
}
