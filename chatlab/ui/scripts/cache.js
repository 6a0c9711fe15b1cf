// The stored answers: evict one, all after asking, show more. A renewed list says what was done and keeps the focus near.
const events = { evict: "evict", "evict-all": "evict_all", more: "more" };
const shown = () => String(element.querySelectorAll(".entries > li").length);
const tell = (name, entry = "") => trigger(events[name], { do: name, entry, shown: shown() });
element.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-do]");
  if (!button) return;
  if (button.dataset.do !== "ask-all") return tell(button.dataset.do, button.dataset.entry);
  const dialog = element.querySelector("#evict-everything");
  dialog.returnValue = "";
  dialog.onclose = () => { if (dialog.returnValue === "evict") tell("evict-all"); };
  dialog.showModal();
});
let place = -1;
element.addEventListener("click", ({ target }) => {
  place = [...element.querySelectorAll("[data-do=evict]")].indexOf(target.closest("[data-do=evict]"));
});
watch("value", () => {
  if (place < 0) return;
  const left = element.querySelectorAll("[data-do=evict]");
  (left[Math.min(place, left.length - 1)] ?? document.querySelector("#find textarea, #find input"))?.focus();
  place = -1;
});
