// The panel of notes: unfolded or not, edited, deleted. What is being typed outlives whatever the server renews.
const unfoldedIn = new Set(); // chats
const editors = new Map(); // by note: a form, and the text that it has sent
let focused = null; // what has the focus in the panel: a note, and what of it
let told = ""; // what the server was last told to do
const item = (note) => page.find(`#notes li[data-note="${CSS.escape(note)}"]`);
const noteOf = (element) => element.closest("[data-note]").dataset.note;

function tell(what, note = "", text = "") {
  told = what;
  page.tell("note", { do: what, note, text, chat: page.place().chat });
}
// Nothing came of it. Perhaps the note is another by now, or gone: show what there is.
page.unchanged = () => { if (told !== "show") tell("show"); };

function close(note) {
  editors.get(note).form.remove();
  editors.delete(note);
  const body = item(note)?.querySelector(".body");
  if (body) body.hidden = false;
  if (focused?.note === note) focused.what = "edit-note";
}
// A form goes into its note; where that is gone, before the others, so that what was typed can be taken from it.
function place({ form, chat }, note) {
  const here = item(note);
  if (!here && chat !== page.place().chat) return;
  form.querySelector(".gone").hidden = Boolean(here);
  form.querySelector("[type=submit]").hidden = !here;
  if (here) here.querySelector(".body").hidden = true;
  if (here) here.append(form);
  else (page.find("#notes .notes ul") ?? page.find("#notes .html-container > div").appendChild(document.createElement("p"))).before(form);
}
function edit(note) {
  const form = page.find("#note-editor").content.firstElementChild.cloneNode(true);
  const text = form.elements.text;
  form.dataset.note = note;
  text.value = item(note).querySelector(".raw").value;
  text.setAttribute("aria-label", `Text of the note of ${item(note).dataset.turns}`);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    editors.get(note).sent = text.value;
    tell("edit", note, text.value);
  });
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault(); // elsewhere it stops the answer
    if (text.value === item(note)?.querySelector(".raw").value) page.actions["cancel-note"](text);
  });
  editors.set(note, { form, chat: page.place().chat });
  place(editors.get(note), note);
  text.focus();
}

window.addEventListener("chatlab:notes", () => {
  const panel = page.find("#notes .notes");
  if (panel) panel.open = unfoldedIn.has(panel.dataset.chat);
  for (const [note, editor] of [...editors]) {
    const text = editor.form.elements.text.value;
    if (text === editor.sent && text === item(note)?.querySelector(".raw").value) {
      close(note);
      page.find("#announcer").textContent = "Note saved";
    } else place(editor, note);
  }
  const has = document.activeElement;
  if (focused && (has === document.body || has.closest("[data-note]")?.dataset.note !== focused.note)) focus();
});
// What had the focus is gone, or another note's by now: a renewed element may be an old one with another text.
function focus() {
  const part = focused.note && (editors.get(focused.note)?.form ?? item(focused.note));
  const to = part && (part.querySelector(`[data-do="${focused.what}"]`) ?? part.querySelector(focused.what || "textarea:not([hidden])"));
  (to ?? page.find("#notes summary") ?? page.field("message")).focus();
}
document.addEventListener("focusin", ({ target }) => {
  const inside = target.closest("#notes");
  focused = inside && { note: target.closest("[data-note]")?.dataset.note, what: target.dataset.do };
});

const forget = page.find("#forget-note");
forget.addEventListener("close", () => {
  if (forget.returnValue === "delete") tell("delete", forget.dataset.note);
});

Object.assign(page.actions, {
  notes(summary) {
    const { chat } = summary.parentElement.dataset;
    if (summary.parentElement.open) return unfoldedIn.delete(chat);
    unfoldedIn.add(chat);
    tell("show"); // as they are now: the model may have improved them since the answer ended
  },
  "to-turn"(button) {
    const { turn, back } = button.dataset;
    if (page.bring(turn)) return;
    page.target = turn;
    page.reopen({ turns: Math.max(page.place().turns, Number(back)) });
  },
  "edit-note": (button) => edit(noteOf(button)),
  "cancel-note"(button) {
    const note = noteOf(button);
    close(note);
    (item(note)?.querySelector("[data-do=edit-note]") ?? page.find("#notes summary") ?? page.field("message")).focus();
  },
  "delete-note"(button) {
    forget.dataset.note = noteOf(button);
    forget.querySelector(".turns").textContent = item(noteOf(button)).dataset.turns;
    forget.returnValue = "";
    forget.showModal();
  },
});
