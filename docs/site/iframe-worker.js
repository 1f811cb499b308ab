// The search of the site computes in a worker, which browsers refuse to pages that are opened from
// disk. There this class stands in for it: the worker's script runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      const inside = (this.inside = frame.contentWindow);
      this.frame = frame;
      addEventListener("message", (event) => {
        if (event.source !== inside) return;
        const message = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(message);
        if (this.onmessage) this.onmessage(message);
      });
      inside.document.open();
      inside.document.write("<html><body></body></html>");
      inside.document.close();
      inside.postMessage = (data) => {
        inside.parent.dispatchEvent(new MessageEvent("message", { data, source: inside }));
      };
      inside.importScripts = (...urls) =>
        urls.reduce((before, each) => before.then(() => load(inside, each)), Promise.resolve());
      this.loaded = load(inside, url);
    }
    postMessage(data) {
      this.loaded.then(() => {
        this.inside.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) }));
      });
    }
    terminate() {
      this.frame.remove();
    }
  };
}

function load(frame, url) {
  return new Promise((resolve, reject) => {
    const script = frame.document.createElement("script");
    script.onload = resolve;
    script.onerror = reject;
    script.src = url;
    frame.document.body.appendChild(script);
  });
}
