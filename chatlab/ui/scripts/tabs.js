// The address bar, Back, the window's title; and other tabs of this browser, which are told what happened here.
const others = new BroadcastChannel("chatlab");
let heard = "";

window.addEventListener("chatlab:place", ({ detail: place }) => {
  document.title = place.title ? `${place.title} – chatlab` : "chatlab";
  page.find("#title").textContent = place.title || "";
  if (place.chat !== page.inAddress()) {
    const address = new URL(location.href);
    if (place.chat) address.searchParams.set("chat", place.chat);
    else address.searchParams.delete("chat");
    history.pushState(null, "", address);
  }
  if (place.leaf === heard) return;
  requestAnimationFrame(() => {
    others.postMessage({ chat: place.chat, leaf: place.leaf, live: Boolean(page.live()) });
  });
});
window.addEventListener("popstate", () => page.open(page.inAddress()));

const tell = page.tell;
page.tell = (event, data) => {
  tell(event, data);
  if (event === "manage") setTimeout(() => others.postMessage({}), 500);
};
others.addEventListener("message", ({ data }) => {
  const place = page.place();
  if (data.live && data.chat === place.chat && data.leaf !== place.leaf) {
    heard = data.leaf;
    page.reopen({ leaf: data.leaf });
  }
  page.tell("renew", {});
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) page.tell("renew", {}); });
