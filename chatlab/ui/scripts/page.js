// What the other scripts share: finding parts of the page, telling the server, and one listener for every [data-do].
const page = window.chatlab = {
  find: (selector) => document.querySelector(selector),
  field: (id) => document.querySelector(`#${id} textarea, #${id} input`),
  // Gradio hears of a new value by the input event.
  write(id, text) {
    const field = page.field(id);
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  },
  live: () => page.find('#latest article[data-live="true"]'),
  place: () => JSON.parse(page.field("place").value || "{}"),
  inAddress: () => new URLSearchParams(location.search).get("chat") || "",
  tell: (event, data) => trigger(event, data),
  // Turn to a chat, or to a new one: at once here, so that what is typed now goes there, and then at the server.
  wanted: { n: 0 },
  target: "", // a turn to be brought into view, from a search
  open(chat, leaf = "", title = "") {
    page.target = leaf;
    const place = { chat, leaf, title, turns: 0, archived: false, n: page.wanted.n + 1 };
    page.wanted = place;
    page.write("place", JSON.stringify(place));
    page.announce({ ...place, opening: true });
    page.tell("open_chat", { place: JSON.stringify(place) });
  },
  // The same chat again: another branch, more turns, or what came meanwhile.
  reopen: (more) => page.tell("open_chat", { place: JSON.stringify({ ...page.place(), ...more }) }),
  // The server has set the place. It may be the answer to a wish that a quick person no longer has.
  placed() {
    const place = page.place();
    if (place.n < page.wanted.n) page.write("place", JSON.stringify(page.wanted));
    else page.announce(place);
    // The list follows a moment later, out of the way of the first token.
    clearTimeout(page.renewal);
    page.renewal = setTimeout(page.renew, 200);
  },
  // Until the page has loaded, its box is closed: the server does not know yet whose list it is, and brings it then.
  renew() {
    if (!page.field("message").disabled) page.tell("renew", {});
  },
  announce: (place) => window.dispatchEvent(new CustomEvent("chatlab:place", { detail: place })),
  // Two columns can be folded away; on narrow windows they lie over the conversation.
  fold(part, open) {
    const root = document.documentElement;
    const now = open ?? root.dataset[part] !== "open";
    const inside = page.find(`#${part}`).contains(document.activeElement);
    root.dataset[part] = now ? "open" : "closed";
    const button = page.find(`#header [data-do=${part}]`);
    button.setAttribute("aria-expanded", String(now));
    if (!now && inside) button.focus(); // what had the focus is gone
    if (now && page.narrow() && open === undefined) page.find(`#${part} button`).focus(); // it lies over the rest
  },
  narrow: () => window.matchMedia("(max-width: 800px)").matches,
  // A word to the person, for a while.
  say(text) {
    const note = page.find(".banner.note");
    note.textContent = text;
    note.hidden = false;
    setTimeout(() => { note.hidden = true; }, 8_000);
  },
  // Scripts add what they do here, by the name in data-do.
  actions: {},
};
page.fold("sidebar", !page.narrow());
page.fold("panel", false);
page.actions.sidebar = () => page.fold("sidebar");
page.actions.panel = () => page.fold("panel");
page.actions.help = () => page.find("#help").showModal();
document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-do]:not(form)");
  const action = target && page.actions[target.dataset.do];
  if (action) action(target, event);
});
// Used as events of the bridge: "open_chat", "again", "rate", "pin_turn", "note", "manage", "renew", "inspect", "measure".
