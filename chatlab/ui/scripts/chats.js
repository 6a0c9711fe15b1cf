// The list of chats: open without loading the page anew, the menu of a chat, renaming in place.
const menu = page.find("#chat-menu");
let item = null; // what the menu is about; the list may change while it is open
let focus = "";
function manage(name, more) {
  menu.hidePopover();
  focus = item.chat;
  page.tell("manage", { do: name, chat: item.chat, title: "", ...more });
}
// The chat on show is marked at once; the renewed list says the same.
window.addEventListener("chatlab:place", ({ detail: place }) => {
  for (const link of document.querySelectorAll("#chats li a")) {
    if (link.dataset.chat === place.chat) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
});
// A renewed list keeps the focus where the person was.
window.addEventListener("chatlab:chats", () => {
  if (!focus) return;
  (page.find(`#chats a[data-chat="${focus}"]`) ?? page.find("#notice button") ?? page.find(".new-chat")).focus();
  focus = "";
});
const rename = page.find("#rename");
rename.addEventListener("close", () => {
  const title = rename.querySelector("input").value;
  if (rename.returnValue === "keep" && title.trim() && title !== item.title) manage("rename", { title });
});

Object.assign(page.actions, {
  open(link, event) {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return; // a new tab or window
    event.preventDefault();
    page.open(link.dataset.chat, link.dataset.turn, link.closest("li").dataset.title);
    if (page.narrow()) page.fold("sidebar", false);
  },
  new() {
    page.open("");
    if (page.narrow()) page.fold("sidebar", false);
    page.field("message").focus();
  },
  menu(button) {
    item = page.chosen = { ...button.closest("li").dataset };
    menu.querySelector("[data-do=pin]").textContent = item.pinned === "true" ? "Unpin" : "Pin";
    menu.querySelector("[data-do=archive]").textContent = item.archived === "true" ? "Unarchive" : "Archive";
    menu.showPopover();
    const at = button.getBoundingClientRect();
    const top = Math.min(at.bottom, window.innerHeight - menu.offsetHeight - 8);
    Object.assign(menu.style, { top: `${top}px`, left: `${Math.min(at.left, window.innerWidth - menu.offsetWidth - 8)}px` });
    menu.querySelector("button").focus();
  },
  rename() {
    menu.hidePopover();
    rename.returnValue = "";
    rename.querySelector("input").value = item.title;
    rename.showModal();
    rename.querySelector("input").select();
  },
  pin: () => manage("pin"),
  archive: () => manage("archive"),
  discard: () => manage("discard"),
  undo: (button) => page.tell("manage", { do: "undo", chat: button.dataset.chat, title: "" }),
  more: () => page.tell("manage", { do: "more", chat: "", title: "" }),
  shelf: () => page.tell("manage", { do: "shelf", chat: "", title: "" }),
});
menu.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const entries = [...menu.querySelectorAll("button")];
  entries[(entries.indexOf(document.activeElement) + step + entries.length) % entries.length].focus();
});
