// The message box: drafts kept a chat, text files put in, editing an earlier message.
const draftOf = (chat) => `chatlab-draft:${chat || "new"}`;
const box = () => page.field("message");
let chat = null; // until the page has a place
let sent = null; // the message on its way
let unnamed = false; // a first message has arrived, and the name of its chat has not

function keep() {
  try {
    if (box().value) localStorage.setItem(draftOf(chat), box().value);
    else localStorage.removeItem(draftOf(chat));
  } catch { /* storage is full: this draft lasts as long as the page */ }
}
document.addEventListener("input", (event) => { if (event.target === box() && !page.field("editing").value) keep(); });
window.addEventListener("chatlab:place", ({ detail: place }) => {
  const banner = page.find(".banner.read-only");
  banner.hidden = !place.archived;
  page.find("#compose").inert = place.archived;
  document.documentElement.dataset.archived = String(place.archived);
  if (place.chat === chat) return;
  const begun = chat === "" && !place.opening && (sent || unnamed); // a new chat got its name with its first message
  const typed = chat === null && box().value; // by somebody quicker than this script
  unnamed = false;
  if (begun && !sent) localStorage.removeItem(draftOf("")); // what is being typed by now goes with the chat
  chat = place.chat;
  if (begun && !sent) keep();
  if (begun || typed) return;
  page.write("editing", "");
  page.find(".banner.editing").hidden = true;
  page.write("message", localStorage.getItem(draftOf(chat)) || "");
  if (!page.narrow()) box().focus();
});
// What is sent is on the screen at once, and in its place when the server has it; then the box is emptied.
const pending = Object.assign(document.createElement("div"), { id: "pending" });
page.find("#conversation").append(pending);
function submit(event) {
  const text = box().value;
  if (page.live() || sent) { // one message at a time; Gradio would send it
    event.preventDefault();
    event.stopImmediatePropagation();
    if (text.trim() && !sent) page.say("This chat is still answering: stop it (Esc), or wait for its end.");
    return;
  }
  if (!text.trim()) return;
  const last = page.find("#latest article");
  sent = { text, chat, before: last?.dataset.turn, last: last?.cloneNode(true), editing: page.field("editing").value };
  pending.innerHTML = '<article class="turn"><div class="question"><div class="said"></div><div class="tools"></div></div>'
    + '<div class="answer"><div class="text"><p class="waiting"><span class="dots"><i></i><i></i><i></i></span></p></div></div></article>';
  pending.querySelector(".said").textContent = text;
  page.follow();
}
// The server has the message, or refused it.
page.settled = () => {
  sent = null;
  pending.replaceChildren();
};
// A message that led to nothing does not stay on the screen; one sent since then is another.
page.ended = () => {
  const mine = sent;
  setTimeout(() => { if (mine && sent === mine && !page.live()) page.settled(); }, 1_000);
};
document.addEventListener("keydown", (event) => {
  if (event.target === box() && event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
}, true);
document.addEventListener("click", (event) => { if (event.target.closest("#send")) submit(event); }, true);

// The turn that was the last one joins the earlier ones; the server does not send them all again.
function moveUp(article) {
  if (page.find(`#earlier article[data-turn="${article.dataset.turn}"]`)) return;
  article.querySelector("[data-do=continue]")?.remove();
  page.find("#earlier .html-container > div").append(article);
}

let entered = false;
window.addEventListener("chatlab:latest", () => {
  requestAnimationFrame(() => { // before the page has loaded, the box is closed
    if (entered || box().disabled) return;
    entered = true;
    if (!page.narrow()) box().focus();
  });
  const latest = page.find("#latest article");
  if (!sent || !latest || latest.dataset.turn === sent.before) return;
  if (latest.querySelector(".said").textContent !== sent.text) return; // another chat's
  if (latest.dataset.parent === sent.before) moveUp(sent.last);
  if (!sent.editing) localStorage.removeItem(draftOf(sent.chat));
  unnamed = sent.chat === "" && chat === "";
  page.write("editing", "");
  page.find(".banner.editing").hidden = true;
  if (box().value === sent.text) page.write("message", sent.editing ? localStorage.getItem(draftOf(sent.chat)) || "" : "");
  else keep(); // the next message has been begun
  page.settled();
});

Object.assign(page.actions, {
  edit(button) {
    const turn = button.closest("article");
    page.write("editing", turn.dataset.turn);
    page.write("message", turn.querySelector(".said").textContent);
    page.find(".banner.editing").hidden = false;
    box().focus();
  },
  "stop-editing"() {
    page.write("editing", "");
    page.write("message", localStorage.getItem(draftOf(chat)) || "");
    page.find(".banner.editing").hidden = true;
    box().focus();
  },
  unarchive: () => page.tell("manage", { do: "archive", chat }),
  attach: () => page.find("#attached").click(),
});

async function put(files) {
  for (const file of files) {
    const text = file.size > 1_000_000 ? "\0" : await file.text();
    if (/[\0\uFFFD]/.test(text)) {
      page.say(`“${file.name}” was left out: only text files up to 1 MB can go into a message.`);
      continue;
    }
    const fence = "`".repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map((run) => run[0].length + 1)));
    const before = box().value ? box().value.trimEnd() + "\n\n" : "";
    page.write("message", `${before}${file.name}:\n${fence}\n${text.trimEnd()}\n${fence}\n`);
  }
  box().focus();
}
document.addEventListener("change", (event) => {
  if (event.target.id !== "attached") return;
  put([...event.target.files]).then(() => { event.target.value = ""; });
});
const area = page.find("#main");
area.addEventListener("dragover", (event) => event.preventDefault());
area.addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  put([...event.dataTransfer.files]);
});
