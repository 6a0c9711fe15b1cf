// Whether the server answers. When it is back, the page shows its place again, and an answer under way goes on.
const calm = 15_000, anxious = 2_000;
let lost = false;
async function check() {
  let ok = navigator.onLine;
  try {
    ok = ok && (await fetch("healthz", { cache: "no-store", signal: AbortSignal.timeout(5_000) })).ok;
  } catch {
    ok = false;
  }
  page.find(".banner.lost").hidden = ok;
  if (ok && lost) {
    if (page.place().chat) page.reopen({});
    page.renew();
  }
  lost = !ok;
}
let timer;
async function keepWatch() {
  clearTimeout(timer);
  if (!document.hidden || lost) await check();
  timer = setTimeout(keepWatch, lost ? anxious : calm);
}
window.addEventListener("offline", keepWatch);
window.addEventListener("online", keepWatch);
timer = setTimeout(keepWatch, calm);
page.find(".banner.denied").hidden = document.documentElement.dataset.storage !== "denied";
