// What can be done with a turn: copy, edit, regenerate, continue, switch versions, rate, judge what is similar; and what is said aloud of it.
const turnOf = (element) => element.closest("article");

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no permission, in a frame say: the old way
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.dataset.done = "true";
  page.find("#announcer").textContent = "Copied";
  setTimeout(() => delete button.dataset.done, 1500);
}

Object.assign(page.actions, {
  copy(button) {
    const asked = button.closest(".question");
    copy(asked ? asked.querySelector(".said").textContent : turnOf(button).querySelector(".raw").textContent, button);
  },
  "copy-code": (button) => copy(button.closest(".code").querySelector("code").textContent, button),
  regenerate: (button) => page.tell("again", { ...button.dataset }),
  continue: (button) => page.tell("again", { ...button.dataset }),
  branch: (button) => page.reopen({ leaf: button.dataset.turn }),
  earlier: () => page.reopen({ turns: page.place().turns + 40 }),
  rate: (button) => page.tell("rate", { ...button.dataset }),
  similar(button) {
    page.tell("similar", { ...button.dataset });
    button.closest(".similar").remove();
  },
  "pin-turn": (button) => page.tell("pin_turn", { turn: button.dataset.turn, pinned: String(button.ariaPressed !== "true") }),
  example(button) {
    page.write("message", button.dataset.text);
    page.field("message").focus();
  },
});
document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-do=rate]");
  if (!form) return;
  event.preventDefault();
  page.tell("rate", { ...form.dataset, reason: new FormData(form).get("reason") });
});

// A growing answer is not read out piece by piece: its beginning is announced, and then the whole.
let live = "";
window.addEventListener("chatlab:latest", () => {
  const turn = page.find("#latest article");
  if (!turn) return;
  if (turn.dataset.live === "true" && live !== turn.dataset.turn) {
    live = turn.dataset.turn;
    page.find("#announcer").textContent = "Answering";
  } else if (turn.dataset.live === "false" && live === turn.dataset.turn) {
    live = "";
    page.find("#announcer").textContent = "Answer: " + turn.querySelector(".text").textContent;
  }
  // An update takes the state of folded reasoning away: give it back.
  for (const fold of turn.querySelectorAll("details")) fold.open = unfolded.has(nameOf(fold, turn));
});
const nameOf = (fold, turn) => `${turn.dataset.turn} ${fold.className}`;
const unfolded = new Set();
document.addEventListener("click", (event) => {
  const fold = event.target.closest("summary")?.parentElement;
  const turn = fold?.closest("#latest article");
  if (turn) unfolded[fold.open ? "delete" : "add"](nameOf(fold, turn));
});
