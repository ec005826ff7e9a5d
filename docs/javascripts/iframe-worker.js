// Search runs in a web worker, which browsers refuse to pages that are opened as files. For these,
// a hidden frame does the work, so that the site needs neither a server nor a network.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      this.work = this.frame.contentWindow;
      this.listen = (event) => {
        if (event.source !== this.work) return;
        const message = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(message);
        if (this.onmessage) this.onmessage(message);
      };
      addEventListener("message", this.listen);
      const page = this.work.document;
      page.open();
      page.write(
        `<script>postMessage = (data) => parent.postMessage(data, "*");
        importScripts = (...urls) => urls.reduce((done, url) => done.then(() => new Promise(
          (loaded, failed) => { const script = document.createElement("script");
            script.src = url; script.onload = loaded; script.onerror = failed;
            document.body.appendChild(script); })), Promise.resolve());<\/script>
        <body><script src="${url}"><\/script>`
      );
      page.close();
      this.loaded = new Promise((done) => { this.frame.onload = done; });
    }
    postMessage(data) {
      this.loaded.then(() => this.work.dispatchEvent(new MessageEvent("message", { data, source: window })));
    }
    terminate() {
      removeEventListener("message", this.listen);
      this.frame.remove();
    }
  };
}
