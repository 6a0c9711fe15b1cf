// The conversation follows a growing answer while its end is in view, and leaves a reader elsewhere in peace.
const view = page.find("#conversation");
const near = 60; // pixels from the end that still count as the end
let following = true;
let fromEnd = 0;
const toEnd = () => { view.scrollTop = view.scrollHeight; };
const distance = () => view.scrollHeight - view.scrollTop - view.clientHeight;
page.follow = () => { following = true; toEnd(); };
page.stay = () => { following = false; }; // what unfolds below is read from its beginning
page.actions["to-end"] = page.follow;

view.addEventListener("scroll", () => {
  following = distance() < near;
  fromEnd = view.scrollHeight - view.scrollTop;
  page.find(".to-end").hidden = following;
}, { passive: true });
const grown = new ResizeObserver(() => { if (following) toEnd(); });
for (const part of ["#earlier", "#latest"]) grown.observe(page.find(part));
grown.observe(view);
// Earlier turns come in above: what is being read stays where it is.
window.addEventListener("chatlab:earlier", () => { if (!following) view.scrollTop = view.scrollHeight - fromEnd; });
let shown = {};
window.addEventListener("chatlab:place", ({ detail: place }) => {
  if (place.chat !== shown.chat || (place.leaf !== shown.leaf && place.turns === shown.turns)) page.follow();
  shown = place;
});
// What a search found, or a note stands for, is brought into view.
page.bring = (turn) => {
  const found = turn && page.find(`#conversation article[data-turn="${CSS.escape(turn)}"]`);
  if (!found) return false;
  page.target = "";
  following = false;
  found.classList.add("found");
  found.addEventListener("animationend", () => found.classList.remove("found"), { once: true });
  found.scrollIntoView({ block: "start" });
  if (page.find("#notes").contains(document.activeElement)) found.querySelector(".answer").focus({ preventScroll: true });
  return true;
};
for (const part of ["earlier", "latest"]) {
  window.addEventListener(`chatlab:${part}`, () => requestAnimationFrame(() => page.bring(page.target)));
}
