// The address bar, Back, the window's title; and other tabs of this browser, which are told what happened here.
const others = new BroadcastChannel("chatlab");
let heard = "";
let again;

window.addEventListener("chatlab:place", ({ detail: place }) => {
  document.title = place.title ? `${place.title} – chatlab` : "chatlab";
  page.find("#title").textContent = place.title || "";
  if (place.chat !== page.inAddress()) {
    const address = new URL(location.href);
    if (place.chat) address.searchParams.set("chat", place.chat);
    else address.searchParams.delete("chat");
    history.pushState(null, "", address);
  }
  if (place.opening || place.leaf === heard) return;
  others.postMessage({ chat: place.chat, leaf: place.leaf });
});
window.addEventListener("popstate", () => page.open(page.inAddress()));

const tell = page.tell;
page.tell = (event, data) => {
  tell(event, data);
  if (event === "manage" || (event === "note" && data.do !== "show")) setTimeout(() => others.postMessage({ chat: data.chat, managed: true }), 500);
};
others.addEventListener("message", ({ data }) => {
  const place = page.place();
  if (data.chat && data.chat === place.chat && (data.managed || data.leaf !== place.leaf)) {
    heard = data.leaf ?? place.leaf;
    page.reopen({ leaf: heard });
  }
  page.renew();
  // Once more: on a busy machine an earlier renewal may end after this one, with the list as it was.
  clearTimeout(again);
  again = setTimeout(page.renew, 1000);
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) page.renew(); });
