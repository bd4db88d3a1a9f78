// The annotator's keyboard, the time an item took, and a word when the server cannot be reached.
// It presses the page's own buttons and holds nothing that the server believes.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const SCALE_STEPS = 7, BOTH_BAD = 7, MIDDLE = 3; // places among the scale's radios

  // ---- which item is on the page, and for how long it has been looked at
  let item = "", seconds = 0, marked = 0, last = performance.now();

  function tick() {
    const now = performance.now();
    if (document.visibilityState === "visible") seconds += (now - last) / 1000;
    last = now;
    for (const group of document.querySelectorAll("fieldset")) {
      const name = group.querySelector("[data-testid=block-info]")?.textContent.trim();
      if (name && group.ariaLabel !== name) group.ariaLabel = name; // Gradio names them for eyes only
    }
    const token = field("token")?.value ?? "";
    if (token !== item) {
      if (item) window.scrollTo({ top: 0 });
      [item, seconds] = [token, 0];
      mark(0);
    }
    if (!document.querySelector("#answers .marked")) mark(marked);
  }
  setInterval(tick, 200);

  function field(id) {
    return byId(id)?.querySelector("textarea, input");
  }

  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#submit") || !field("seconds")) return;
    tick();
    const box = field("seconds");
    Object.getOwnPropertyDescriptor(Object.getPrototypeOf(box), "value").set.call(box, seconds.toFixed(1));
    box.dispatchEvent(new Event("input", { bubbles: true }));
  }, true);

  // ---- answering
  const radiosIn = (root) => [...(root?.querySelectorAll("input[type=radio]") ?? [])];
  const scale = () => radiosIn(byId("scale"));
  const cards = () => [...document.querySelectorAll("#answers .card")].filter((card) => card.offsetParent);

  function mark(place) {
    const ranked = cards().filter((card) => radiosIn(card).length);
    marked = Math.max(0, Math.min(place, ranked.length - 1));
    for (const card of document.querySelectorAll("#answers .card")) card.classList.remove("marked");
    ranked[marked]?.classList.add("marked");
    return ranked[marked];
  }

  function press(digit) {
    if (scale().length) return digit <= SCALE_STEPS && scale()[digit - 1].click();
    const card = mark(marked);
    if (!radiosIn(card)[digit - 1]) return;
    radiosIn(card)[digit - 1].click();
    mark(marked + 1)?.scrollIntoView({ block: "nearest" });
  }

  function move(by) {
    const steps = scale().slice(0, SCALE_STEPS);
    if (!steps.length) return mark(marked + by)?.scrollIntoView({ block: "nearest" });
    const at = steps.findIndex((step) => step.checked);
    const to = at < 0 ? MIDDLE + by : at + by;
    steps[Math.max(0, Math.min(to, SCALE_STEPS - 1))].click();
  }

  function bothBad() {
    (scale()[BOTH_BAD] ?? byId("all-bad")?.querySelector("input"))?.click();
  }

  // ---- drawers
  function toggle(id) {
    const drawer = byId(id);
    drawer?.querySelector("button")?.click();
    enter(drawer, 20);
  }

  function enter(drawer, tries) {
    const first = drawer?.querySelector("input, textarea");
    if (!first?.offsetParent) return tries > 0 && setTimeout(() => enter(drawer, tries - 1), 25);
    nextFrame(() => nextFrame(() => { // when a drawer opens Gradio sets its fields once more, in the next frame
      drawer.scrollIntoView({ block: "nearest" });
      first.focus();
    }));
  }

  const nextFrame = (draw) => window.requestAnimationFrame(draw);

  const KEYS = {
    ArrowLeft: () => move(-1),
    ArrowRight: () => move(1),
    Enter: () => byId("submit")?.click(),
    b: bothBad,
    u: () => byId("undo")?.click(),
    s: () => toggle("skip"),
    f: () => toggle("flag"),
    g: () => toggle("guidelines"),
    w: () => field("rationale")?.focus(),
    "?": () => toggle("keys"),
  };

  const isText = (element) =>
    element.isContentEditable ||
    element.matches("textarea, select, input:not([type=radio]):not([type=checkbox])");

  document.addEventListener("keydown", (event) => {
    const at = event.target;
    if (!byId("work") && !byId("undo")) return; // not the annotator's page
    if (event.isComposing || !(at instanceof Element)) return;
    const panel = at.closest("#skip, #flag");
    if (event.key === "Escape") return at.blur();
    if (event.key === "Enter" && panel && !event.shiftKey && !at.matches("button")) {
      event.preventDefault();
      return panel.querySelector("button.confirm, .confirm button")?.click();
    }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return byId("submit")?.click();
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || isText(at)) return;
    if (event.key === "Enter" && at.closest("button, a, summary")) return; // it presses that itself
    if (event.key.startsWith("Arrow") && at.matches("input[type=radio]") && !at.closest("#scale, .rank")) return;
    tick();
    const act = /^[1-9]$/.test(event.key) ? () => press(Number(event.key)) : KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  });

  // ---- the server
  const frame = byId("frame").dataset, banner = byId("banner");

  const speak = () => { if (root.lang !== frame.lang) root.lang = frame.lang; };
  const root = document.documentElement;
  new MutationObserver(speak).observe(root, { attributeFilter: ["lang"] }); // Gradio sets its own
  speak();

  function warn(words) {
    banner.textContent = words;
    banner.hidden = !words;
  }

  // What a button does is asked again until the server answers: nothing is done twice (submitting carries a key),
  // and Gradio never learns of the gap, after which it would reload the page and what was typed would be gone.
  const fetchOnce = window.fetch.bind(window);
  const GONE = [502, 503, 504], PAUSE = 1500; // statuses of a proxy that waits for the server; milliseconds
  window.fetch = async (...request) => {
    const again = String(request[0]?.url ?? request[0]).endsWith("/run/predict");
    for (;;) {
      const answer = await fetchOnce(...request).catch((error) => {
        if (!again || error.name === "AbortError") throw error;
      });
      if (answer && !(again && GONE.includes(answer.status))) {
        warn(answer.status === 401 ? frame.signedOut : "");
        return answer;
      }
      warn(frame.unreachable);
      await new Promise((done) => setTimeout(done, PAUSE));
    }
  };
})();
