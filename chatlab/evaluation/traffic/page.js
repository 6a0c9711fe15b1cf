// What a person ticks and types: kept in this browser, and what follows from it. Nothing leaves the page.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("figures").textContent);
  const key = "chatlab-verdict:" + data.key;
  const Z = 1.96, ENOUGH = data.enough, AT_ONCE = 10;
  const all = (query, within = document) => [...within.querySelectorAll(query)];
  const of = (id) => document.getElementById(id);
  document.documentElement.classList.add("scripted");

  let said = {};
  try { said = JSON.parse(localStorage.getItem(key) || "{}") || {}; } catch { said = {}; }
  const keep = () => { try { localStorage.setItem(key, JSON.stringify(said)); } catch { /* kept until the page goes */ } };

  const percent = (share) => {
    const value = 100 * share;
    if (value === 0 || value >= 9.95) return value.toFixed(0) + "\u00a0%";
    return value >= 0.1 ? value.toFixed(1) + "\u00a0%" : "under 0.1\u00a0%";
  };
  const wilson = (k, n) => {
    const p = k / n, middle = p + Z * Z / (2 * n), spread = Z * Math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n));
    return [Math.max(0, (middle - spread) / (1 + Z * Z / n)), Math.min(1, (middle + spread) / (1 + Z * Z / n))];
  };
  const money = (value) => data.currency + value.toLocaleString("en", {
    minimumFractionDigits: value < 1000 ? 2 : 0, maximumFractionDigits: value < 1000 ? 2 : 0 });
  const time = (seconds) => {
    const size = Math.abs(seconds);
    if (size < 120) return seconds.toFixed(0) + " s";
    return size < 7200 ? (seconds / 60).toFixed(0) + " min" : (seconds / 3600).toFixed(1) + " h";
  };

  // Judging

  const showJudged = () => {
    data.cells.forEach((cell, number) => {
      const judged = data.pairs.filter((pair) => pair.cells.includes(number) && said[pair.id]);
      const wrong = judged.filter((pair) => said[pair.id] === "other").length;
      const place = of(`yours-${number}`), verdict = of(`verdict-${number}`);
      let answer = cell.answer, words = cell.words;
      if (!judged.length) {
        place.textContent = "–";
      } else {
        const share = cell.hits ? cell.semantic / cell.hits : 0;
        const [low, high] = wilson(wrong, judged.length).map((end) => end * share);
        place.textContent = `${percent(wrong / judged.length * share)}`;
        const small = document.createElement("small");
        small.textContent = `${percent(low)} to ${percent(high)}, ${judged.length} judged`;
        place.append(small);
        if (judged.length >= ENOUGH) {
          if (low > cell.max_error) { answer = "no"; words = "No: too many wrong"; }
          else if (!cell.saves) { answer = cell.answer === "no" ? "no" : "open"; }
          else { answer = "yes"; words = high <= cell.max_error ? "Yes, promise kept" : "Yes, nothing against it"; }
        }
      }
      verdict.className = "chip " + answer;
      verdict.textContent = words;
    });
    const n = Object.keys(said).length;
    of("judged").textContent = n ? `${n} of ${data.pairs.length} pairs judged` : "No pair judged yet";
    of("download").disabled = !n;
  };

  all(".pair").forEach((article) => {
    const id = article.dataset.pair;
    const mark = () => { article.dataset.said = said[id] || ""; };
    all("input", article).forEach((input) => {
      input.checked = said[id] === input.value;
      input.addEventListener("change", () => { said[id] = input.value; keep(); mark(); showJudged(); });
    });
    mark();
  });

  all("[data-list]").forEach((list) => {
    const pairs = all(".pair", list), more = of(list.dataset.list);
    let shown = AT_ONCE;
    const show = () => {
      pairs.forEach((pair, i) => { pair.hidden = i >= shown; });
      more.hidden = shown >= pairs.length;
      more.textContent = `Show ${Math.min(AT_ONCE, pairs.length - shown)} more of ${pairs.length}`;
    };
    more.addEventListener("click", () => {
      const next = pairs[shown];
      shown += AT_ONCE;
      show();
      if (next) next.querySelector("input").focus();
    });
    show();
  });

  of("download").addEventListener("click", () => {
    const lines = data.pairs.filter((pair) => said[pair.id] && pair.whole).map((pair) => JSON.stringify({
      id: pair.id, a: pair.earlier, b: pair.question, label: said[pair.id] === "same" ? 1 : 0,
      category: pair.cells.length ? "served" : "refused" }));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "application/jsonl" }));
    link.download = data.name + ".pairs.jsonl";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  of("forget").addEventListener("click", () => {
    said = {};
    keep();
    all(".pair").forEach((article) => {
      article.dataset.said = "";
      all("input", article).forEach((input) => { input.checked = false; });
    });
    showJudged();
  });
  showJudged();

  // Money

  const fields = all("[data-price]");
  const cost = () => {
    const price = Object.fromEntries(fields.map((field) => [field.dataset.price, Math.max(0, Number(field.value) || 0)]));
    const spent = (prompts, answers) => (prompts * price.input + answers * price.output) / 1e6;
    const took = (prompts, answers) =>
      prompts / Math.max(1e-9, price.reading) + answers / Math.max(1e-9, price.writing);
    all("[data-cost]").forEach((row) => {
      const [prompts, answers, lookups] = JSON.parse(row.dataset.cost);
      row.querySelector(".money").textContent = money(spent(prompts, answers));
      row.querySelector(".time").textContent = time(took(prompts, answers) - lookups * data.lookup_seconds);
    });
  };
  fields.forEach((field) => field.addEventListener("input", cost));
  of("row").addEventListener("change", (event) => {
    const row = data.rows[event.target.value];
    fields.forEach((field) => { field.value = row[field.dataset.price]; });
    cost();
  });
  cost();
})();
