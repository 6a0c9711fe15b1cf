// Chats into files and out of them. The server gives a ticket for each, since a link cannot say who the person is.
const formats = page.find("#export-menu");
const dialog = page.find("#transfer");
let wanted = null; // what the next ticket is for
function withTicket(use) {
  wanted = use;
  page.tell("ticket", {});
}
page.ticketed = () => {
  const ticket = page.field("ticket").value;
  const use = wanted;
  wanted = null;
  if (ticket && use) use(ticket);
};
async function download(format, chat = "") {
  withTicket(async (ticket) => {
    const query = new URLSearchParams({ ticket, format, chat });
    try {
      const answer = await fetch(`page/export?${query}`);
      if (!answer.ok) return tell("That did not work", (await answer.json()).detail);
      const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition") ?? "")?.[1] ?? "chats";
      const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(await answer.blob()), download: name });
      document.body.append(link);
      link.click();
      link.remove();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    } catch {
      tell("That did not work", "The server does not answer. Try again.");
    }
  });
}
function tell(title, said, leftOut = {}) {
  dialog.querySelector("h2").textContent = title;
  dialog.querySelector(".outcome").textContent = said;
  dialog.querySelector("progress").hidden = true;
  const kinds = Object.entries(leftOut).map(([kind, n]) => Object.assign(document.createElement("li"), { textContent: `${kind}: ${n}` }));
  if (kinds.length) dialog.querySelector(".outcome").textContent += " Left out, since a chat here has no place for it:";
  dialog.querySelector("ul").replaceChildren(...kinds);
  if (!dialog.open) dialog.showModal();
}
// fetch cannot say how much has been sent.
function send(file, ticket) {
  const request = new XMLHttpRequest();
  const bar = dialog.querySelector("progress");
  tell(`Importing ${file.name}`, "All of its chats come, or none of them does.");
  bar.hidden = false;
  bar.removeAttribute("value");
  request.upload.onprogress = (event) => {
    if (event.loaded < event.total) bar.value = event.loaded / event.total;
    else bar.removeAttribute("value"); // the server is reading it
  };
  request.onerror = () => tell("Nothing was imported", "The server does not answer, or the connection was lost. Try again.");
  request.onload = () => {
    let answer = {};
    try { answer = JSON.parse(request.responseText); } catch { /* a gateway's page */ }
    if (request.status !== 200) return tell("Nothing was imported", answer.detail ?? `The server says ${request.status}.`);
    const { chats, turns, leftOut } = answer;
    tell("Imported", `${chats === 1 ? "1 chat" : `${chats} chats`} with ${turns === 1 ? "1 turn" : `${turns} turns`}.`, leftOut);
    page.renew();
  };
  request.open("POST", `page/import?${new URLSearchParams({ ticket })}`);
  request.send(file);
}
document.addEventListener("change", (event) => {
  if (event.target.id !== "import-file" || !event.target.files.length) return;
  const [file] = event.target.files;
  withTicket((ticket) => {
    send(file, ticket);
    event.target.value = "";
  });
});
Object.assign(page.actions, {
  import: () => page.find("#import-file").click(),
  exports(button) {
    formats.showPopover();
    const at = button.getBoundingClientRect();
    const top = Math.max(8, at.top - formats.offsetHeight - 4);
    Object.assign(formats.style, { top: `${top}px`, left: `${Math.min(at.left, window.innerWidth - formats.offsetWidth - 8)}px` });
    formats.querySelector("button").focus();
  },
  export(button) {
    formats.hidePopover();
    download(button.dataset.format);
  },
  "export-chat"(button) {
    page.find("#chat-menu").hidePopover();
    download(button.dataset.format, page.chosen.chat);
  },
});
formats.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const entries = [...formats.querySelectorAll("button")];
  entries[(entries.indexOf(document.activeElement) + step + entries.length) % entries.length].focus();
});
