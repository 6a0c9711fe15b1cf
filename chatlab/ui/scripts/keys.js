// The keyboard: every shortcut stands in the help sheet (html/dialogs.html).
const answers = () => [...document.querySelectorAll("#conversation .answer")];
function step(by) {
  const all = answers();
  const at = all.findIndex((answer) => answer.contains(document.activeElement));
  const next = all[at < 0 ? all.length - 1 : Math.max(0, Math.min(all.length - 1, at + by))];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView({ block: "start" });
}
const keys = {
  "ctrl+shift+o": () => page.actions.new(),
  "shift+escape": () => page.field("message").focus(),
  "ctrl+k"() {
    page.fold("sidebar", true);
    page.field("search").focus();
  },
  "alt+arrowup": () => step(-1),
  "alt+arrowdown": () => step(1),
  "alt+e": () => { const all = document.querySelectorAll("[data-do=edit]"); all[all.length - 1]?.click(); },
  "ctrl+b": () => page.fold("sidebar"),
  "ctrl+,": () => page.fold("panel"),
  "ctrl+/": () => page.find("#help").showModal(),
};
document.addEventListener("keydown", (event) => {
  if (event.isComposing || event.defaultPrevented) return;
  if (event.key === "Escape" && !event.shiftKey) return leave(event);
  const name = [
    (event.ctrlKey || event.metaKey) && "ctrl", event.altKey && "alt",
    event.shiftKey && event.key !== "/" && "shift", event.altKey && event.code === "KeyE" ? "e" : event.key.toLowerCase(),
  ].filter(Boolean).join("+");
  if (!keys[name]) return;
  event.preventDefault();
  keys[name]();
});
// What lies on top goes first; then the answer under way.
function leave(event) {
  if (document.querySelector("dialog[open], :popover-open")) return;
  if (page.field("editing").value) page.actions["stop-editing"]();
  else if (document.documentElement.dataset.panel === "open") page.fold("panel", false);
  else if (page.narrow() && document.documentElement.dataset.sidebar === "open") page.fold("sidebar", false);
  else if (page.live()) page.find("#stop").click();
}
