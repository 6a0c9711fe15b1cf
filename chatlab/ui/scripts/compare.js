// A vote, or a look at which side is which.
const events = { vote: "vote", reveal: "reveal" };
element.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-do]");
  if (button) trigger(events[button.dataset.do], { do: button.dataset.do, winner: button.dataset.winner ?? "" });
});
