// What is inside an answer comes when it is unfolded, one question to the server at a time; and the context meter.
const open = new Map(); // by turn: the parts that have come, while the inspector is unfolded
const wanted = []; // what is still to be asked for: [turn, part]
let asked = null;
const inspectorOf = (turn) => page.find(`#conversation .inspector[data-turn="${CSS.escape(turn)}"]`);
const spots = { inside: ".inside", exact: ".exact-prompt", mattered: ".mattered-parts" };
const MEASURING = '<p class="waiting"><span class="dots" aria-hidden="true"><i></i><i></i><i></i></span> The answer is scored again without each part …</p>';

function want(turn, part) {
  if (wanted.concat([asked]).some((each) => each && each[0] === turn && each[1] === part)) return;
  wanted.push([turn, part]);
  if (!asked) next();
}
function next() {
  asked = wanted.shift() ?? null;
  if (asked) page.tell("inspect", { turn: asked[0], part: asked[1] });
}
page.uninspected = () => {
  if (asked) inspectorOf(asked[0])?.removeAttribute("open");
  next();
};
function fill(inspector, part, html) {
  const spot = inspector.querySelector(spots[part]);
  if (!spot) return;
  const unfolded = spot.querySelector(".exact")?.open; // renewed while it is being read
  spot.innerHTML = html;
  const { mattered } = open.get(inspector.dataset.turn) ?? {};
  if (part === "inside" && mattered && spot.querySelector(".mattered")) {
    spot.querySelector(".mattered").open = true;
    fill(inspector, "mattered", mattered);
  }
  if (!unfolded) return;
  spot.querySelector(".exact").open = true;
  fill(inspector, "exact", open.get(inspector.dataset.turn)?.exact ?? "");
}
function arrived(came) {
  const { turn, part } = came.dataset;
  const inspector = inspectorOf(turn);
  if (!inspector || !open.has(turn)) return;
  open.get(turn)[part] = came.innerHTML;
  fill(inspector, part, came.innerHTML);
}
window.addEventListener("chatlab:inspected", () => {
  const came = page.find("#inspected [data-part]");
  if (!came) return;
  arrived(came);
  next();
});
// What mattered takes a while: it is asked for beside the rest, one answer at a time.
let measuring = "";
window.addEventListener("chatlab:attributed", () => {
  const came = page.find("#attributed [data-part]");
  if (!came) return;
  measuring = "";
  arrived(came);
});
page.unattributed = () => {
  const parts = open.get(measuring);
  if (parts) delete parts.mattered;
  inspectorOf(measuring)?.querySelector(".mattered")?.removeAttribute("open");
  measuring = "";
};
function attribute(fold) {
  const { turn } = fold.dataset;
  if (open.get(turn).mattered) return;
  if (measuring) {
    fold.open = false;
    page.say("Another answer is being measured: wait for it.");
    return;
  }
  measuring = turn;
  open.get(turn).mattered = MEASURING;
  fold.querySelector(".mattered-parts").innerHTML = MEASURING;
  page.tell("attribute", { turn });
}
// `toggle` does not bubble; it comes however the inspector was unfolded.
document.addEventListener("toggle", ({ target }) => {
  const inspector = target.closest?.("#conversation .inspector");
  if (!inspector) return;
  const { turn } = inspector.dataset;
  if (target.matches(".exact") && target.open && !open.get(turn)?.exact) want(turn, "exact");
  if (target.matches(".mattered") && target.open && open.has(turn)) attribute(target);
  if (target !== inspector) return;
  if (!inspector.open) {
    if (inspector.isConnected) open.delete(turn);
  } else if (!open.has(turn)) {
    page.stay();
    open.set(turn, {});
    want(turn, "inside");
  }
}, true);
// An update takes what was unfolded away: give it back, and ask what has changed.
function restore() {
  for (const [turn, parts] of open) {
    const inspector = inspectorOf(turn);
    if (!inspector || inspector.querySelector(".inside").innerHTML) continue;
    inspector.open = true;
    for (const part in parts) fill(inspector, part, parts[part]);
    want(turn, "inside");
  }
}
window.addEventListener("chatlab:earlier", restore);
window.addEventListener("chatlab:latest", restore);
page.actions.wrong = (button) => page.tell("again", { ...button.dataset });

// The meter: exact after each turn; what is being typed is estimated.
const CHARS_PER_TOKEN = 4;
let measured = "";
function measure() {
  const place = page.place();
  const state = JSON.stringify([place.chat, place.leaf, place.archived, Boolean(page.live())]);
  if (state === measured) return;
  measured = state;
  if (!place.chat) return draw();
  if (!page.live()) page.tell("measure", {});
}
window.addEventListener("chatlab:place", measure);
window.addEventListener("chatlab:latest", measure);
function draw() {
  const meter = page.find("#meter .meter");
  if (!meter) return;
  meter.hidden = !page.place().chat;
  const gauge = meter.querySelector(".gauge");
  if (!gauge) return;
  const { tokens, budget, begins, near, words, ifMore } = meter.dataset;
  const typed = Math.ceil(page.field("message").value.length / CHARS_PER_TOKEN);
  const share = (Number(tokens) + typed) / budget;
  const percent = Math.round(100 * share);
  gauge.querySelector("i").style.width = `${Math.min(100, percent)}%`;
  gauge.setAttribute("aria-valuenow", Math.min(budget, Number(tokens) + typed));
  meter.querySelector("b").textContent = `Context ${typed ? "about " : ""}${percent}%`;
  meter.querySelector(".words").textContent = share >= near ? ifMore : words;
  meter.dataset.level = share >= near ? "near" : share >= begins ? "begins" : "calm";
}
window.addEventListener("chatlab:meter", draw);
document.addEventListener("input", (event) => { if (event.target === page.field("message")) draw(); });
