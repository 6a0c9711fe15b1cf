// The message box: drafts kept a chat, text files put in, editing an earlier message.
const draftOf = (chat) => `chatlab-draft:${chat || "new"}`;
const box = () => page.field("message");
let chat = null; // until the page has a place

document.addEventListener("input", (event) => {
  if (event.target !== box() || page.field("editing").value) return;
  const draft = draftOf(chat);
  if (event.target.value) localStorage.setItem(draft, event.target.value);
  else localStorage.removeItem(draft);
});
window.addEventListener("chatlab:place", ({ detail: place }) => {
  const banner = page.find(".banner.read-only");
  banner.hidden = !place.archived;
  page.find("#compose").inert = place.archived;
  document.documentElement.dataset.archived = String(place.archived);
  if (place.chat === chat) return;
  const sent = !place.opening && chat === "" && place.chat && !box().value; // a new chat's first message
  if (sent) localStorage.removeItem(draftOf(""));
  chat = place.chat;
  if (!page.field("editing").value && !sent) page.write("message", localStorage.getItem(draftOf(chat)) || "");
  if (!page.narrow()) box().focus();
});
// The server empties the box when it has the message. Before the page has loaded, the box is closed.
let entered = false;
window.addEventListener("chatlab:latest", () => {
  requestAnimationFrame(() => {
    if (entered || box().disabled) return;
    entered = true;
    if (!page.narrow()) box().focus();
  });
  if (!box().value) localStorage.removeItem(draftOf(chat));
  page.find(".banner.editing").hidden = !page.field("editing").value;
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
