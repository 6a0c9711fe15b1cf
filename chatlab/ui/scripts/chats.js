// The list of chats: open without loading the page anew, the menu of a chat, renaming in place.
const menu = page.find("#chat-menu");
let item = null;
const manage = (name, more) => page.tell("manage", { do: name, chat: item.dataset.chat, title: "", ...more });

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
    item = button.closest("li");
    menu.querySelector("[data-do=pin]").textContent = item.dataset.pinned === "true" ? "Unpin" : "Pin";
    menu.querySelector("[data-do=archive]").textContent = item.dataset.archived === "true" ? "Unarchive" : "Archive";
    menu.showPopover();
    const at = button.getBoundingClientRect();
    const top = Math.min(at.bottom, window.innerHeight - menu.offsetHeight - 8);
    Object.assign(menu.style, { top: `${top}px`, left: `${Math.min(at.left, window.innerWidth - menu.offsetWidth - 8)}px` });
    menu.querySelector("button").focus();
  },
  rename() {
    menu.hidePopover();
    const link = item.querySelector("a");
    const input = Object.assign(document.createElement("input"), { value: item.dataset.title, className: "rename", maxLength: 120 });
    input.setAttribute("aria-label", "Title of the chat");
    let over = false;
    const done = (store) => {
      if (over) return; // leaving the field for good is a blur, too
      over = true;
      input.replaceWith(link);
      link.focus();
      if (store && input.value.trim() && input.value !== item.dataset.title) manage("rename", { title: input.value });
    };
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") done(true);
      if (event.key === "Escape") done(false);
    });
    input.addEventListener("blur", () => done(true));
    link.replaceWith(input);
    input.select();
  },
  pin: () => { menu.hidePopover(); manage("pin"); },
  archive: () => { menu.hidePopover(); manage("archive"); },
  discard: () => { menu.hidePopover(); manage("discard"); },
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
